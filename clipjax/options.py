"""Options of a run: metadata of the fields that hold their values.

    @dataclass(frozen=True)
    class Request:
        limit: int | None = option(None, "Evaluate a sample of this many images.", kind=int, minimum=1)

The options of `clipjax eval`, the keywords of `clipjax.evaluate` and the keys of a suite are made from the
fields of `Request` and `Compute`. Loads neither typer nor NumPy.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from clipjax.errors import UsageError, unknown_name

AUTO = "auto"
_FLAG = re.compile(r"--([a-z][a-z-]*)")
_WIDTH = 110  # columns of a docstring


@dataclass(frozen=True, kw_only=True)
class Option:
    """Name, description and bounds of an option: metadata of its field.

    Attributes:
        help: sentences for the command line and, with keywords in place of flags, for `clipjax.evaluate`.
        python: further sentences, for `clipjax.evaluate` alone.
        accepts: the type that `clipjax.evaluate` takes, if not the field's.
        kind: the type of a value on the command line and in a suite: str, int, bool or Path; None: the option
            exists in Python alone.
        name: its name on the command line and in a suite; "": the field's.
        short: a letter for the command line, as "-d".
        panel: the panel of the help that lists it.
        completes: the function of `commands/shared/completion` that completes a value.
        in_suites: whether it is a key of a suite.
        of_model: whether it has an effect only where a model runs, not on files of predictions.
        of_card: whether the cards decide it where a folder of data sets is evaluated.
        minimum: the least number that is allowed.
        written_minimum: the least number on the command line and in suites, if it is higher.
        maximum: the greatest number that is allowed.
        bound: how the refusal of another value begins: "the seed must be at least 0".
        auto: whether a number may also be "auto".
        of: what is counted, for the command line's refusal of a text that is neither: "images".
        choices: the values of a text.
        called: what such a value is called where the refusal names the nearest choice: "precision".
    """

    help: str
    python: str = ""
    accepts: str | None = None
    kind: type[Any] | None = None
    name: str = ""
    short: str | None = None
    panel: str | None = None
    completes: str | None = None
    in_suites: bool = True
    of_model: bool = True
    of_card: bool = False
    minimum: int | None = None
    written_minimum: int | None = None
    maximum: int | None = None
    bound: str = ""
    auto: bool = False
    of: str = ""
    choices: tuple[str, ...] = ()
    called: str = ""

    @property
    def flag(self) -> str:
        return f"--{self.name.replace('_', '-')}"

    @property
    def least(self) -> int | None:
        """The minimum on the command line and in suites."""
        return self.minimum if self.written_minimum is None else self.written_minimum

    def check(self, value: object) -> None:
        """Raises UsageError for a value that is not one of the choices, or outside the limits."""
        if self._fits(value):
            return
        if self.called:
            raise unknown_name(self.called, str(value), list(self.choices))
        raise UsageError(f"{self.bound}, not {value!r}")

    def _fits(self, value: object) -> bool:
        if self.choices:
            return value in self.choices
        if (self.minimum is None and self.maximum is None) or (self.auto and value == AUTO):
            return True
        least = -math.inf if self.minimum is None else self.minimum
        most = math.inf if self.maximum is None else self.maximum
        return isinstance(value, Integral) and least <= int(value) <= most


def option(default: Any, help: str, **about: Any) -> Any:
    """A dataclass's field with its `Option`; `about` are the fields of that."""
    return dataclasses.field(default=default, metadata={"option": Option(help=help, **about)})


@functools.cache
def options_of(record: type[Any]) -> dict[str, Option]:
    """Name of the field -> its option."""
    return {
        each.name: dataclasses.replace(about, name=about.name or each.name)
        for each in dataclasses.fields(record)
        if (about := each.metadata.get("option")) is not None
    }


def check_fields(record: Any) -> None:
    """Check the values of a record. None passes where it is the default. Raises as `Option.check`."""
    check_values(type(record), **{name: getattr(record, name) for name in options_of(type(record))})


def check_values(record: type[Any], **values: Any) -> None:
    """Check values for some fields of a record. Raises as `check_fields`."""
    for name, about in options_of(record).items():
        if name in values and not (values[name] is None and getattr(record, name) is None):
            about.check(values[name])


def by_field(record: type[Any], written: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a record's fields among options by the names that a user writes."""
    return {name: written[each.name] for name, each in options_of(record).items() if each.name in written}


def keywords_of(function: Callable[..., Any], keywords: Mapping[str, Any], *records: type[Any]) -> list[Any]:
    """The records that keywords of a function make. Raises TypeError for a keyword of none of them."""
    known = {name for record in records for name in options_of(record)}
    for name in keywords:
        if name not in known:
            raise TypeError(f"{function.__name__}() got an unexpected keyword argument {name!r}")
    return [
        record(**{name: keywords[name] for name in options_of(record) if name in keywords})
        for record in records
    ]


def with_keywords(*records: type[Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Write the fields of records into the signature and the docstring of a function with `**options`."""

    def written_out(function: Callable[..., Any]) -> Callable[..., Any]:
        own = inspect.signature(function)
        parameters = list(own.parameters.values())[:-1]
        parameters += [each for record in records for each in _parameters(record)]
        function.__signature__ = own.replace(parameters=parameters)  # pyright: ignore[reportFunctionMemberAccess]
        lines = [line for record in records for line in _described(record)]
        function.__doc__ = "\n".join([inspect.getdoc(function) or "", "", "Options:", *lines])
        return function

    return written_out


def _parameters(record: type[Any]) -> Iterator[inspect.Parameter]:
    options = options_of(record)
    for each in dataclasses.fields(record):
        yield inspect.Parameter(
            each.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=each.default,
            annotation=options[each.name].accepts or each.type,
        )


def _described(record: type[Any]) -> Iterator[str]:
    options = options_of(record)
    keyword = {each.flag: name for name, each in options.items()}

    def as_keyword(flag: re.Match[str]) -> str:
        return f"`{keyword.get(flag[0], flag[1].replace('-', '_'))}`"

    for name, about in options.items():
        text = f"{name}: {_FLAG.sub(as_keyword, about.help)} {about.python}".rstrip()
        yield from textwrap.wrap(
            text, _WIDTH - 4, initial_indent="    ", subsequent_indent=" " * 8, break_on_hyphens=False
        )
