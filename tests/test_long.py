"""The mark `long`: each has a guard in `make test`; and the times of tests."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import _long
import _times
import pytest

from tests import _forks

GUARD = "test_long.py::test_mostly_long_keeps_what_it_is_told_to"


def test_mostly_long_keeps_what_it_is_told_to() -> None:
    params = _long.mostly_long([("a", 1), ("b", 2), ("c", 3)], keep=["b"], guard=GUARD)
    assert [bool(param.marks) for param in params] == [True, False, True]
    assert [param.values for param in params] == [("a", 1), ("b", 2), ("c", 3)]
    with pytest.raises(ValueError, match="'d' is not among"):
        _long.mostly_long(["a"], keep=["d"], guard=GUARD)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ((GUARD,), None),
        ((), "takes its guard"),
        (("heads",), "takes its guard"),
        (("nowhere.py::test_a",), "does not exist"),
        (("test_long.py::test_gone",), "does not exist"),
        (("test_long.py::test_left_out",), "leaves its guard"),
    ],
)
def test_what_is_wrong_with_a_guard(arguments: tuple[Any, ...], fault: str | None) -> None:
    said = _long.problem(arguments, kept=set(), collected=set())
    assert said is None if fault is None else fault in (said or "")


def test_a_guard_whose_every_value_is_left_out_guards_nothing() -> None:
    assert "leaves its guard" in (_long.problem((GUARD,), kept=set(), collected={GUARD}) or "")


@pytest.mark.parametrize(("keep", "fault"), [(["b"], None), ([], "leaves its guard")])
def test_kept_values_guard_the_others(keep: list[str], fault: str | None) -> None:
    items: list[Any] = [item_of(param) for param in _long.mostly_long(["a", "b"], keep)]
    if fault is None:
        return _long.check_guards(items)
    with pytest.raises(pytest.UsageError, match=fault):
        _long.check_guards(items)


def item_of(param: Any) -> SimpleNamespace:
    """What `check_guards` reads of a test with this value."""
    marks = {mark.name: mark for mark in param.marks}
    name = f"{test_kept_values_guard_the_others.__name__}[{param.values[0]}]"
    return SimpleNamespace(path=Path(__file__), name=name, nodeid=name, get_closest_marker=marks.get)


@pytest.mark.long(GUARD)
def test_left_out() -> None:
    """A long test, which the test above names as a guard."""


def test_what_grew_is_measured_at_this_machines_speed() -> None:
    before = {"a": 10.0, "b": 20.0, "c": 5.0}
    now = {"a": 20.0, "b": 40.0, "c": 30.0, "new": 9.0, "short": 4.0}
    assert _times.grown(now, before) == {"c": (10.0, 30.0), "new": (0.0, 9.0)}


def test_a_slow_run_names_what_grew_and_a_quick_one_nothing() -> None:
    before, files = {"a": 10.0, "b": 10.0}, {"a": 400.0, "b": 10.0, "c": 10.0}
    assert _times.too_slow(700, files, before) == []
    said = _times.too_slow(900, {"a": 10.0, "b": 10.0, "c": 400.0}, before)
    assert "15.0 minutes" in said[0]
    assert said[1].startswith("c grew from 0.0 to 400.0 s")
    assert "slower" in _times.too_slow(900, before, before)[1]


def test_seconds_are_those_of_the_processor_forks_included(tmp_path: Path) -> None:
    script = tmp_path / "work.py"
    script.write_text("import time\nwhile time.process_time() < 0.4: pass\n")
    start = _forks.processor_s()
    before = _times.processor_s()
    assert _forks.start(script, [], dict(os.environ)).wait(60) == 0
    assert _times.processor_s() - before >= 0.3
    assert _forks.processor_s() > start


def test_files_run_in_the_order_of_their_record() -> None:
    seconds = list(_times.recorded().values())
    assert seconds == sorted(seconds, reverse=True)
    assert all((Path(__file__).parent / file).is_file() for file in _times.recorded())
