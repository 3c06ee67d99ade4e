"""Parts of the demo at a time: all are done, any may fail, and none is left behind."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios
import time
from functools import partial
from pathlib import Path

import pytest

from clipjax.demo.beside import side_by_side
from clipjax.errors import ClipjaxError
from tests.demo._parts import die, meet, refuse


def test_both_run_at_the_same_time(tmp_path: Path) -> None:
    side_by_side(partial(meet, tmp_path, "second", "first"), partial(meet, tmp_path, "first", "second"))
    pids = {int((tmp_path / name).read_text()) for name in ("first", "second")}
    assert len(pids | {os.getpid()}) == 3


def test_one_after_the_other_in_this_process(tmp_path: Path) -> None:
    (tmp_path / "first").touch()
    side_by_side(partial(meet, tmp_path, "second", "first"), apart=False)
    assert int((tmp_path / "second").read_text()) == os.getpid()


def test_the_failure_of_a_part_is_this_ones(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ClipjaxError, match="see its message above") as failure:
        side_by_side(refuse)
    assert failure.value.exit_code == 2
    assert "error: no such thing" in capfd.readouterr().err
    with pytest.raises(ClipjaxError, match="killed by signal 9"):
        side_by_side(die)


def test_a_failure_ends_the_other_part_at_once(tmp_path: Path) -> None:
    """`meet` would wait for a minute."""
    start = time.monotonic()
    with pytest.raises(ClipjaxError, match="see its message above"):
        side_by_side(partial(meet, tmp_path, "first", "never"), partial(refuse, tmp_path / "first"))
    assert time.monotonic() - start < 50
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "first").read_text()), 0)


def test_bars_of_two_processes_have_a_line_each() -> None:
    """On a terminal, the second process draws its bar below the first one's."""
    terminal, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    command = "from tests.demo._parts import two_bars; two_bars()"
    subprocess.run([sys.executable, "-c", command], stderr=theirs, check=True, cwd=Path(__file__).parents[2])
    os.close(theirs)
    shown = b""
    while part := _read(terminal):
        shown += part
    assert b"first: " in shown
    assert b"\n\rsecond: " in shown
    assert b"\x1b[A" in shown, "and the cursor goes up again"


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # Linux: the other side is closed
        return b""
