"""Help texts that the terminal wraps, words for options' values in place of typer's types.

And paths that are not empty: an empty one would be taken for the current folder.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import typer
from typer.models import OptionInfo, ParameterInfo

from clipjax.commands.shared.records import empty

# The word for an option's value; a flag has none.
_VALUES: dict[object, str] = {bool: "", int: "N", float: "X", Path: "PATH", str: "TEXT"}


def shape_help(app: typer.Typer) -> None:
    """Shape the docstrings and options of all commands of an app and of its groups."""
    if app.registered_callback is not None and app.registered_callback.callback is not None:
        _shape_values(app.registered_callback.callback)
    for command in app.registered_commands:
        if command.callback is None:
            continue
        _shape_values(command.callback)
        if command.help is None:
            command.help = shaped(inspect.getdoc(command.callback) or "")
    for group in app.registered_groups:
        if group.typer_instance is not None:
            shape_help(group.typer_instance)


def _shape_values(callback: Callable[..., Any]) -> None:
    """Set the metavar of each option without one, and what reads a path."""
    hints = get_type_hints(callback, include_extras=True)
    callback.__annotations__ = hints  # else typer evaluates texts again, to other options
    for name, hint in hints.items():
        kind, *about = get_args(hint) or (hint,)
        for option in (each for each in about if isinstance(each, ParameterInfo)):
            if isinstance(option, OptionInfo) and option.metavar is None:
                option.metavar = _value(_single(kind))
            if _single(kind) is Path:
                option.parser = _reader_of_paths(name, hint)


def _reader_of_paths(name: str, hint: Any) -> Callable[[str | Path], Path]:
    def path(text: str | Path) -> Path:
        if text == "":
            raise empty(name, hint)
        return Path(text)

    return path


def _value(kind: Any) -> str | None:
    return "|".join(get_args(kind)) if get_origin(kind) is Literal else _VALUES.get(kind)


def _single(kind: Any) -> Any:
    """list[str] | None -> str."""
    kinds = [each for each in get_args(kind) if each is not NoneType]
    return _single(kinds[0]) if len(kinds) == 1 and get_origin(kind) is not Literal else kind


def shaped(text: str) -> str:
    """Paragraphs become one line each, which the terminal wraps; examples (indented) stay as they are."""
    paragraphs = text.split("\n\n")
    return "\n\n".join(each if each.startswith(" ") else " ".join(each.split()) for each in paragraphs)
