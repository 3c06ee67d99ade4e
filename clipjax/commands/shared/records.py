"""A command line as a frozen record: its options are fields, and travel together.

    @dataclass(frozen=True, kw_only=True)
    class Options:
        model: ModelOption = None
        stores: StoreOptions         # a record whose options several commands have

    app.command("eval")(taking(Options, evaluate))     # calls evaluate(Options(...))

A record with many options names the panels of its help: `PANELS`, title -> names of fields. A record's
`check` raises UsageError for options that exclude or need each other.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

from typer.models import ArgumentInfo

from clipjax.errors import UsageError

R = TypeVar("R")


def taking(record: type[R], run: Callable[[R], None]) -> Callable[..., None]:
    """`run` as typer takes a command: a parameter for each option of `record`, in the order of its panels."""
    panels = getattr(record, "PANELS", {})
    panel_of = {name: panel for panel in panels for name in panels[panel]}
    places = {name: place for place, name in enumerate(panel_of)}  # arguments, in no panel, come first
    parameters = sorted(_parameters(record, panel_of), key=lambda each: places.get(each.name, -1))

    def command(**values: object) -> None:
        run(_filled(record, values))

    command.__doc__ = run.__doc__
    command.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command


def fields_of(record: type[R], options: object, **others: object) -> R:
    """A record from the options with its fields' names; `others` are fields of other names."""
    names = [field.name for field in dataclasses.fields(record)]  # pyright: ignore[reportArgumentType]
    return record(**{name: getattr(options, name) for name in names if hasattr(options, name)} | others)


def _parameters(record: type, panels: Mapping[str, str]) -> Iterator[inspect.Parameter]:
    """One for each option; those of a record inside stand in its place."""
    for field, hint in _fields(record):
        if _is_record(hint):
            yield from _parameters(hint, panels)
        else:
            default = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
            shown = _in_panel(hint, panels[field.name]) if field.name in panels else hint
            yield inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=shown
            )


def _in_panel(hint: Any, panel: str) -> Any:
    kind, option = get_args(hint)
    option = copy.copy(option)
    option.rich_help_panel = panel
    return Annotated[kind, option]


def _filled(record: type[R], values: Mapping[str, object]) -> R:
    """Raises UsageError for an empty text, as of a shell's variable without a value."""
    found = {
        field.name: _filled(hint, values) if _is_record(hint) else values[field.name]
        for field, hint in _fields(record)
    }
    for field, hint in _fields(record):
        value = found[field.name]
        if value == "" or (isinstance(value, list) and "" in value):
            raise empty(field.name, hint)
    return record(**found)


def empty(name: str, hint: Any) -> UsageError:
    return UsageError(f"{_as_written(name, hint)} is empty: give a value, or leave it out")


def _as_written(name: str, hint: Any) -> str:
    """How a user writes the option or argument."""
    info = get_args(hint)[1]
    if isinstance(info, ArgumentInfo):
        return info.metavar or name.upper()
    names = [each for each in info.param_decls or () if each.startswith("--")]
    return names[0] if names else f"--{name.replace('_', '-')}"


def _is_record(hint: Any) -> bool:
    return dataclasses.is_dataclass(hint)


def _fields(record: type) -> list[tuple[dataclasses.Field[Any], Any]]:
    hints = get_type_hints(record, include_extras=True)
    return [(field, hints[field.name]) for field in dataclasses.fields(record)]
