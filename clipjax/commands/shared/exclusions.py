"""Options that exclude or need each other."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import typer

from clipjax.errors import UsageError


def refuse_beside(main: str, others: Mapping[str, object]) -> None:
    """Refuse options that have no use beside `main`.

    Args:
        main: as the user wrote it.
        others: option -> value; None, False and [] count as not given.

    Raises:
        UsageError: one was given.
    """
    if given := _given(others):
        raise UsageError(f"{main} and {', '.join(given)} do not go together: leave one of them out")


def refuse_without(main: str, others: Mapping[str, object]) -> None:
    """Refuse options that have no use without `main`, which was not given.

    Args:
        others: as in `refuse_beside`.

    Raises:
        UsageError: one was given.
    """
    if given := _given(others):
        verb = "has" if len(given) == 1 else "have"
        raise UsageError(f"{', '.join(given)} {verb} no effect without {main}: give both or neither")


def on_command_line(context: typer.Context, names: Iterable[str]) -> dict[str, bool]:
    """Option -> whether the user wrote it, even with its default value."""
    return {
        f"--{name.replace('_', '-')}": getattr(context.get_parameter_source(name), "name", "")
        == "COMMANDLINE"
        for name in names
    }


def as_written(context: typer.Context, but: Collection[str]) -> list[str]:
    """The arguments and options that the user wrote, for another process.

    Args:
        but: names of parameters that are left out.
    """
    from clipjax.storage.remote.buckets import as_path

    arguments: list[str] = []
    for each in context.command.params:
        name = str(each.name)
        is_written = getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
        values = (
            context.params[name] if isinstance(context.params[name], list | tuple) else [context.params[name]]
        )
        for value in values if is_written and name not in but else ():
            flag = [max(each.opts, key=len)] if each.param_type_name == "option" else []
            text = str(as_path(value) if isinstance(value, Path) else value)  # gs://, which Path makes gs:/
            arguments += flag if isinstance(value, bool) else [*flag, text]
    return arguments


def _given(others: Mapping[str, object]) -> list[str]:
    return [name for name, value in others.items() if not (value is None or value is False or value == [])]
