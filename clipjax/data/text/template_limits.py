"""Limits of a chat template: a foreign program that must end, fit in memory and always write the same.

Jinja's sandbox guards Python's internals only: `'a' * 10**10`, nested loops over `range` and `|center(10**9)`
pass it. A `Meter` counts what one rendering does and stops it at a fixed count. A clock would make the answer
depend on the machine. Work is charged before it is done.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


STEPS = 1_000_000
"""Nodes of the template that run, and items of lists that are read or made: a few seconds at most."""
CHARACTERS = 20_000_000
"""Characters that are read or made: Python takes up to 4 bytes for each."""
SOURCE = 100_000
"""Characters of a template; the longest of known models have 30,000."""
_WIDTH = 1000  # of one field of a format
_PART = 8  # characters whose parts, each a text of its own, take as much memory as one step may
_BITS = 64  # of a whole number in arithmetic

OPERATORS: Mapping[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "**": operator.pow,
    "%": operator.mod,
}
# Jinja's filters that a conversation needs. Without: random ones, and those whose result may be of any size.
FILTERS = _words(
    """abs capitalize count d default dictsort e escape first float format indent int items join
    last length list lower map max min reject rejectattr replace reverse safe select selectattr
    sort string title tojson trim unique upper"""
)
# These look at a value or at its items, not into them.
_FLAT_FILTERS = _words(
    """count d default first items last length list map reject rejectattr reverse select
    selectattr"""
)
_FLAT_TESTS = _words(
    """boolean callable defined escaped false filter float integer iterable mapping none number
    sameas sequence string test true undefined"""
)
_KEEPS = _words("count d default first length safe string")  # filters that use up no iterator
GLOBALS = _words("range cycler joiner")
_METHODS: Mapping[type, frozenset[str]] = {
    str: _words(
        """capitalize casefold center count endswith find index isalnum isalpha isascii
        isdecimal isdigit islower isnumeric isspace istitle isupper join ljust lower lstrip
        partition removeprefix removesuffix replace rfind rindex rjust rpartition rsplit
        rstrip split splitlines startswith strip swapcase title upper zfill"""
    ),
    dict: frozenset(("copy", "get", "items", "keys", "values")),
    list: frozenset(("copy", "count", "index")),
    tuple: frozenset(("count", "index")),
}
_NUMBERS = (int, float)
_SEQUENCES = (str, list, tuple)
_VIEWS = (type({}.keys()), type({}.values()), type({}.items()))
_SIZED = (list, tuple, range, Mapping, *_VIEWS)
# A field of `%`: bounded, so that finding it takes time linear in the text.
_FIELD = re.compile(r"%(?:\(\w{1,40}\))?[-+ #]{0,5}0?\d{0,3}(?:\.\d{0,3})?[a-zA-Z%]")


class LimitError(Exception):
    """A template does more than a chat template may."""


class Meter:
    """Counts the work of one rendering.

    Args:
        opaque: types of Jinja whose text does not depend on what they hold.
    """

    def __init__(self, opaque: tuple[type, ...]) -> None:
        self.steps, self.characters = STEPS, CHARACTERS
        self._opaque = (*opaque, range)

    def step(self, steps: int, characters: int = 0) -> bool:
        """Charge work. Raises LimitError where too little is left; returns True, for use in a condition."""
        self.steps -= steps
        self.characters -= characters
        if self.steps < 0:
            raise LimitError(f"it takes more than {STEPS:,} steps")
        if self.characters < 0:
            raise LimitError(f"it handles more than {CHARACTERS:,} characters")
        return True

    def look(self, value: Any) -> Any:
        """Charge a text's characters, a list's items; returns the value."""
        if isinstance(value, str):
            self.step(1, len(value))
        else:
            self.step(1 + (len(value) if isinstance(value, _SIZED) else 0))
        return value

    def read(self, value: Any, *, written: bool = False) -> Any:
        """Charge all that a value holds, a part that occurs twice twice; returns the value.

        Args:
            written: the value becomes text. Raises LimitError then if that text would hold an address in
                memory, as of a function or a generator.
        """
        rest = [value]
        while rest:
            part = rest.pop()
            self.look(part)
            if isinstance(part, Mapping):
                rest += [*part.keys(), *part.values()]
            elif isinstance(part, (list, tuple, *_VIEWS)):
                rest += part
            elif written and not isinstance(part, (str, *_NUMBERS, type(None), *self._opaque)):
                raise LimitError(f"it writes a {type(part).__name__} as text")
        return value

    def write(self, value: Any) -> Any:
        return self.read(value, written=True)

    def operate(self, name: str, left: Any, right: Any) -> Any:
        """An operator of arithmetic, charged with the size of its result."""
        fills = name == "%" and isinstance(left, str)  # "%s" % x writes any x
        for each in (left, right):
            if isinstance(each, int) and each.bit_length() > _BITS:
                raise LimitError(f"it counts with numbers of more than {_BITS} bits")
            plain = isinstance(each, (*_NUMBERS, *_SEQUENCES, type(None), *self._opaque))
            if not plain and not fills:
                raise LimitError(f"it uses {name} on a {type(each).__name__}")
            if isinstance(each, tuple):
                self.read(each)
        if fills:
            return self.percent(left, right)
        # 9 ** 9 ** 9 has 370 million digits.
        if name == "**" and isinstance(right, int) and abs(right) > _BITS:
            raise LimitError(f"it raises a number to the power {right}")
        if name == "*":  # of a sequence and a number, in either order
            self._repeat(left, right)
            self._repeat(right, left)
        if name == "+":
            self.look(left)
            self.look(right)
        return OPERATORS[name](left, right)

    def _repeat(self, sequence: Any, times: Any) -> None:
        if isinstance(sequence, _SEQUENCES) and isinstance(times, int):
            self._make(sequence, len(sequence) * max(0, times))

    def _make(self, like: Any, count: int) -> None:
        """Charge a text or a list of `count` characters or items."""
        self.step(1, count) if isinstance(like, str) else self.step(1 + count)

    def percent(self, text: str, value: Any) -> str:
        """`text % value`; LimitError for a field whose width is not stated or above 999."""
        self.look(text)
        fields = len(_FIELD.findall(text))
        if "%" in _FIELD.sub("", text):
            raise LimitError("it formats with % in a way that is not bounded")
        before = self.characters
        self.write(value)
        self.step(fields, fields * (before - self.characters + _WIDTH))
        return text % value

    def field(self, value: Any, width: str) -> None:
        """Charge a field of `str.format`, whose width is the text after the colon."""
        if re.search(r"\d{4}", width):
            raise LimitError(f"it writes a field as wide as {width[:20]}")
        self.write(value)
        self.step(1, _WIDTH)

    def method(self, owner: Any, name: str, arguments: tuple[Any, ...]) -> None:
        """Charge a method of Python's own types. Raises LimitError if templates do not need it."""
        kind = next((kind for kind in _METHODS if isinstance(owner, kind)), None)
        if kind is None or name not in _METHODS[kind]:
            raise LimitError(f"it calls {name} of a {type(owner).__name__}")
        self.read(owner) if kind is not dict else self.look(owner)
        if name == "replace":
            self.replaced(owner, *arguments[:2])
        if name == "join" and arguments:
            self.joined(owner, arguments[0])
        if name in ("split", "rsplit", "splitlines"):
            self.step(len(owner) // _PART)
        if name in ("center", "ljust", "rjust", "zfill") and arguments:
            self._repeat(" ", arguments[0])

    def replaced(self, text: Any, old: Any = None, new: Any = None) -> None:
        if all(isinstance(each, str) for each in (text, old, new)):
            self.step(1, len(text) + text.count(old) * len(new))

    def joined(self, separator: Any, items: Any) -> None:
        if isinstance(separator, str) and isinstance(items, (str, *_SIZED)):
            self.step(1, len(separator) * len(items))

    def filter(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter of Jinja that charges its work first."""

        @functools.wraps(function)
        def run(*arguments: Any, **named: Any) -> Any:
            own, (value, *options) = _split(function, arguments)
            value = value if name in _KEEPS else _listed(value)
            self._charge(value, [*options, *named.values()], flat=name in _FLAT_FILTERS)
            self._result(name, value, options, named)
            result = function(*own, value, *options, **named)
            # An iterator stays one: even an empty one is true. Its items are made here and counted.
            return iter(self.look(list(result))) if isinstance(result, Iterator) else self.look(result)

        return run

    def test(self, name: str, function: Callable[..., bool]) -> Callable[..., bool]:
        """A test of Jinja that charges its work first."""

        @functools.wraps(function)
        def run(*arguments: Any) -> bool:
            own, (value, *options) = _split(function, arguments)
            self._charge(value, options, flat=name in _FLAT_TESTS)
            if name in ("odd", "even", "divisibleby") and not isinstance(value, _NUMBERS):
                raise LimitError(f"it asks whether a {type(value).__name__} is {name}")
            return function(*own, value, *options)

        return run

    def _charge(self, value: Any, options: list[Any], *, flat: bool) -> None:
        if not flat:
            self.write([value, *options])
            return
        for each in (value, *options):
            self.look(each)
        if isinstance(value, _SIZED):  # an attribute of each item: a.b.c
            dots = sum(each.count(".") for each in options if isinstance(each, str))
            self.step(len(value) * dots)

    def _result(self, name: str, value: Any, options: list[Any], named: Mapping[str, Any]) -> None:
        """Charge a result that may be larger than all it is made of."""
        if name == "replace":
            self.replaced(value, *[*options, *(named[key] for key in ("old", "new") if key in named)][:2])
        if name == "join":
            self.joined([*options, named.get("d", "")][0], value)
        if name == "list" and isinstance(value, str):
            self.step(len(value) // _PART)
        every = [*options, *named.values()]
        width = max([1, *(each if isinstance(each, int) else len(str(each)) for each in every)])
        if name == "indent":
            self.step(1, (str(value).count("\n") + 1) * width)
        if name == "tojson":
            parts, deep = _extent(value)
            self.step(1, parts * deep * width)


def _extent(value: Any) -> tuple[int, int]:
    """The number of values in a nested value, and its depth."""
    parts, deep, layer = 0, 0, [value]
    while layer:
        parts, deep = parts + len(layer), deep + 1
        below = [each.values() if isinstance(each, Mapping) else each for each in layer]
        layer = [part for each in below if isinstance(each, (list, tuple, *_VIEWS)) for part in each]
    return parts, deep


def _split(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[list[Any], list[Any]]:
    """Split off the argument that Jinja adds, if the function takes one, from the template's arguments."""
    own = 1 if hasattr(function, "jinja_pass_arg") else 0
    return list(arguments[:own]), list(arguments[own:])


def _listed(value: Any) -> Any:
    """The items that an iterator has left, so that they can be counted; any other value as it is."""
    return list(value) if isinstance(value, Iterator) else value
