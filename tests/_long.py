"""The mark `long(guard)`: tests of seconds that `make test` leaves out and `make test-long` runs.

    @pytest.mark.long("heads/test_heads.py::test_logits")

names the guard: a test of `make test` that fails when the same thing is broken. pytest stops with one
sentence where the guard does not exist, or is left out too. The mark `slow` is for minutes at full size.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parent
LEFT_OUT = ("long", "slow")  # by `make test`
ITSELF = "the same test with other values"


def mostly_long(
    values: Iterable[Any],
    keep: Collection[Any],
    guard: str = ITSELF,
    ids: Callable[[Any], str] | None = None,
) -> list[Any]:
    """Values for `parametrize`: those that are not in `keep` are marked `long(guard)`.

    Args:
        values: one for each test; a tuple is one test's several arguments.
        keep: values that stay in `make test`, or the first argument of each.
        guard: the test, "FILE::NAME" below tests/, that fails when the same thing is broken; by default this
            test with the values of `keep`.
        ids: names a value, where pytest's own name of it is not wanted.

    Raises:
        ValueError: a value of `keep` is not among `values`.
    """
    values = list(values)
    firsts = [value[0] if isinstance(value, tuple) else value for value in values]
    if unknown := [kept for kept in keep if kept not in values and kept not in firsts]:
        raise ValueError(f"keep: {unknown[0]!r} is not among the values")
    params = []
    for value, first in zip(values, firsts):
        marks = () if value in keep or first in keep else (pytest.mark.long(guard),)
        arguments = value if isinstance(value, tuple) else (value,)
        params.append(pytest.param(*arguments, marks=marks, id=ids(value) if ids else None))
    return params


def check_guards(items: Sequence[pytest.Item]) -> None:
    """Every `long` test among those collected has a guard that `make test` runs.

    Raises:
        pytest.UsageError: one sentence about the first test without one.
    """
    collected = {_name(item) for item in items}
    kept = {_name(item) for item in items if not any(item.get_closest_marker(name) for name in LEFT_OUT)}
    for item in items:
        mark = item.get_closest_marker("long")
        if mark is None:
            continue
        guards = (_name(item),) if mark.args == (ITSELF,) else mark.args
        if fault := problem(guards, kept, collected):
            raise pytest.UsageError(f"{item.nodeid}: {fault}")


def problem(arguments: Sequence[Any], kept: Collection[str], collected: Collection[str]) -> str | None:
    """What is wrong with the arguments of a mark `long`; None where nothing is.

    Args:
        kept: the collected tests that `make test` runs, "FILE::NAME" each.
        collected: all collected tests, named likewise. The guard need not be among them.
    """
    if len(arguments) != 1 or "::" not in str(arguments[0]):
        return "long(...) takes its guard, FILE::NAME below tests/"
    guard = str(arguments[0])
    if guard in kept:
        return None
    file, name = guard.split("::")
    marks = _functions(TESTS / file).get(name)
    if marks is None:
        return f"its guard {guard} does not exist"
    if guard in collected or marks & set(LEFT_OUT):
        return f"`make test` leaves its guard {guard} out as well"
    return None


def _name(item: pytest.Item) -> str:
    return f"{item.path.relative_to(TESTS).as_posix()}::{item.name.partition('[')[0]}"


@cache
def _functions(path: Path) -> dict[str, set[str]]:
    """The test functions of a file, each with the marks that decorate it."""
    if not path.is_file():
        return {}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        node.name: {
            part.attr
            for line in node.decorator_list
            for part in ast.walk(line.func if isinstance(line, ast.Call) else line)
            if isinstance(part, ast.Attribute)
        }
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
    }
