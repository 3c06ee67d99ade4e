"""Two parts of the demo at a time: both are done, either may fail, and none is left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from clipjax.demo.beside import beside
from clipjax.errors import ClipjaxError, DataError
from tests.demo._parts import die, meet, refuse


def test_both_run_at_the_same_time(tmp_path: Path) -> None:
    with beside(meet, tmp_path, "second", "first"):
        meet(tmp_path, "first", "second")
    assert int((tmp_path / "second").read_text()) != os.getpid()


def test_one_after_the_other_in_this_process(tmp_path: Path) -> None:
    (tmp_path / "first").touch()
    with beside(meet, tmp_path, "second", "first", apart=False):
        assert int((tmp_path / "second").read_text()) == os.getpid()


def test_the_failure_of_the_second_is_this_ones(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ClipjaxError, match="see its message above") as failure, beside(refuse):
        pass
    assert failure.value.exit_code == 2
    assert "error: no such thing" in capfd.readouterr().err
    with pytest.raises(ClipjaxError, match="killed by signal 9"), beside(die):
        pass


def test_a_failure_of_this_one_ends_the_second(tmp_path: Path) -> None:
    others: list[Any] = []

    def fail() -> None:
        with beside(meet, tmp_path, "second", "never"):
            meet(tmp_path, "first", "second")
            others.extend(multiprocessing.active_children())
            raise DataError("the disk is full")

    with pytest.raises(DataError, match="full"):
        fail()
    [other] = others
    other.join(30)
    assert other.exitcode in (75, -signal.SIGTERM)
