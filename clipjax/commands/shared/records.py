"""A command line as a frozen record: its options are fields, and travel together.

    @dataclass(frozen=True, kw_only=True)
    class Options:
        model: ModelOption = None
        request: Request             # an option for each field of `Request` that a command line can set
        how: Annotated[dict[str, Any], FieldsOf(Compute, "workers", workers="auto")]  # as keywords
        stores: StoreOptions         # a record whose options several commands have

    app.command("eval")(with_options(Options, evaluate))     # calls evaluate(Options(...))

A record with many options names the panels of its help: `PANELS`, title -> names of its own fields. Options
of `Request` or `Compute` that it does not name come before these, in the panel that their field states; a
field of the same name takes an option's place. A record's `check` raises UsageError for options that exclude
or need each other.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import typer
from typer.models import ArgumentInfo

from clipjax.commands.shared import completion
from clipjax.errors import UsageError
from clipjax.options import AUTO, Option, by_field, options_of

R = TypeVar("R")


class FieldsOf:
    """Fields of `Request` or `Compute` as options of a command.

    Args:
        record: the class.
        names: only these fields; none: all that a command line can set.
        defaults: field -> the command's own default.
    """

    def __init__(self, record: type[Any], *names: str, **defaults: object) -> None:
        self.record = record
        own = {each.name: each.default for each in dataclasses.fields(record)} | defaults
        options = options_of(record)
        self.defaults = {options[name].name: own[name] for name in names or options if options[name].kind}
        self.options = {each.name: each for each in options.values() if each.name in self.defaults}

    def parameters(self, panels: Mapping[str, str]) -> Iterator[inspect.Parameter]:
        for name, about in self.options.items():
            default = str(self.defaults[name]) if about.auto else self.defaults[name]
            panel = panels.get(name, about.panel) if panels else None
            yield _parameter(name, option_of(about, default, panel), default)

    def read(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Field -> value. Raises UsageError for a text that is neither a number nor "auto"."""
        written = {name: values[name] for name in self.options if name in values}
        for name in written:
            about = self.options[name]
            if written[name] == "":
                raise empty(name, option_of(about, None))
            if about.auto:
                written[name] = number_or_auto(written[name], about)
        return by_field(self.record, written)


def field_option(record: type[Any], field: str, more: str = "") -> Any:
    """typer's option of a field of `Request` or `Compute`, for a command that declares it by itself.

    more: a sentence after the field's help.
    """
    about = options_of(record)[field]
    return get_args(option_of(replace(about, help=f"{about.help} {more}".rstrip()), None))[1]


def option_of(about: Option, default: object, panel: str | None = None) -> Any:
    """The annotation of typer's parameter."""
    kind = str if about.auto else about.kind
    info = typer.Option(
        *(about.flag, *([about.short] if about.short else [])),
        help=about.help,
        min=None if about.auto else about.least,
        autocompletion=getattr(completion, about.completes) if about.completes else None,
        rich_help_panel=panel,
    )
    return Annotated[kind | None if default is None else kind, info]  # pyright: ignore[reportOptionalOperand]


def number_or_auto(text: str, about: Option) -> int | Literal["auto"]:
    """Raises UsageError if `text` is neither."""
    if text == AUTO:
        return text
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"{about.flag}: a number of {about.of}, or auto, not {text!r}") from None


def with_options(record: type[R], run: Callable[[R], None]) -> Callable[..., None]:
    """`run` as typer takes a command: a parameter for each option of `record`, in the order of its panels."""
    titles = getattr(record, "PANELS", {})
    panels = {name: title for title, names in titles.items() for name in names}
    order, places = [*titles], [*panels]  # arguments, in no panel, come first

    def place(each: inspect.Parameter) -> tuple[int, int]:
        panel = _panel(each)
        return (
            order.index(panel) if panel in order else -1,
            places.index(each.name) if each.name in places else -1,
        )

    parameters = sorted(_parameters(record, panels), key=place)

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
    """One for each option; those of a record inside stand in its place, but for the record's own."""
    own = {field.name: (field, hint) for field, hint, _ in _fields(record)}
    written: set[str] = set()
    for field, hint, source in _fields(record):
        name = field.name
        if source is not None:
            for each in source.parameters(panels):
                replaced = each.name in own
                yield _own_parameter(*own[each.name], _panel(each)) if replaced else each
                written.add(each.name)
        elif dataclasses.is_dataclass(hint):
            yield from _parameters(hint, panels)  # pyright: ignore[reportArgumentType]
        elif name not in written:
            yield _own_parameter(field, hint, panels.get(name))


def _own_parameter(field: dataclasses.Field[Any], hint: Any, panel: str | None) -> inspect.Parameter:
    default = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
    return _parameter(field.name, hint if panel is None else _in_panel(hint, panel), default)


def _parameter(name: str, hint: Any, default: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)


def _in_panel(hint: Any, panel: str) -> Any:
    kind, option = get_args(hint)
    option = copy.copy(option)
    option.rich_help_panel = panel
    return Annotated[kind, option]


def _panel(parameter: inspect.Parameter) -> str | None:
    return next((each.rich_help_panel for each in get_args(parameter.annotation)[1:]), None)


def _source(hint: Any) -> FieldsOf | None:
    """The record of a field's options; None if it is one option, or a record of typer's."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and options_of(hint):
        return FieldsOf(hint)
    return next((each for each in get_args(hint)[1:] if isinstance(each, FieldsOf)), None)


def _filled(record: type[R], values: Mapping[str, object]) -> R:
    """Raises UsageError for an empty text, as of a shell's variable without a value."""
    found: dict[str, Any] = {}
    fields = _fields(record)
    own = {field.name for field, _, _ in fields}
    for field, hint, source in fields:
        if source is not None:
            read = source.read({name: value for name, value in values.items() if name not in own})
            as_keywords = get_origin(next(iter(get_args(hint)), None)) is dict
            found[field.name] = read if as_keywords else source.record(**read)
        elif dataclasses.is_dataclass(hint):
            found[field.name] = _filled(hint, values)  # pyright: ignore[reportArgumentType]
        else:
            value = found[field.name] = values[field.name]
            if value == "" or (isinstance(value, list) and "" in value):
                raise empty(field.name, hint)
    return record(**found)


def empty(name: str, hint: Any) -> UsageError:
    return UsageError(f"{_as_written(name, hint)} is empty: give a value, or leave it out")


def _as_written(name: str, hint: Any) -> str:
    """The option or argument as a user writes it."""
    info = get_args(hint)[1]
    if isinstance(info, ArgumentInfo):
        return info.metavar or name.upper()
    names = [each for each in info.param_decls or () if each.startswith("--")]
    return names[0] if names else f"--{name.replace('_', '-')}"


@functools.cache
def _fields(record: type) -> list[tuple[dataclasses.Field[Any], Any, FieldsOf | None]]:
    """Each field with its annotation, and the source of its options if it stands for several."""
    hints = get_type_hints(record, include_extras=True)
    return [(field, hints[field.name], _source(hints[field.name])) for field in dataclasses.fields(record)]
