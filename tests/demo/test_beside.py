"""Jobs of the demo in two processes: all are done, any may fail, and none is left behind."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from clipjax.demo.beside import work_through
from clipjax.demo.jobs import DemoJob
from clipjax.errors import ClipjaxError, Interrupted
from tests.demo._parts import alone, die, meet, note, refuse, together, wait_for

ROOT = Path(__file__).parents[2]


def job(name: str, work: Callable[[], object], *needs: str) -> DemoJob:
    return DemoJob(name, work, needs, device=False)


def test_both_processes_work_at_the_same_time_and_in_order(tmp_path: Path) -> None:
    one, two, after = (tmp_path / name for name in ("first", "second", "after"))
    work_through(
        [
            job("after", partial(note, after, one), "first"),
            job("first", partial(meet, tmp_path, "first", "second")),
            job("second", partial(meet, tmp_path, "second", "first")),
        ]
    )
    pids = [int(file.read_text()) for file in (one, two, after)]
    assert len({*pids[:2], os.getpid()}) == 3
    assert pids[2] in pids[:2]


def test_one_after_the_other_in_this_process(tmp_path: Path) -> None:
    first, after = tmp_path / "first", tmp_path / "after"
    work_through(
        [job("after", partial(note, after, first), "first"), job("first", partial(note, first))], apart=False
    )
    assert {int(file.read_text()) for file in (first, after)} == {os.getpid()}


@pytest.mark.parametrize(("prepare", "processes"), [(alone, 1), (together, 2)])
def test_a_device_of_one_process_has_all_of_its_jobs(
    prepare: Callable[[Path], bool], processes: int, tmp_path: Path
) -> None:
    files = [tmp_path / str(i) for i in range(6)]
    first, *others = (DemoJob(file.name, partial(note, file)) for file in files)
    held = DemoJob("held", partial(meet, tmp_path, "held", "5"), (first.name,))
    jobs = [first, *others] if processes == 1 else [first, held, *others]
    work_through(jobs, partial(prepare, tmp_path))
    assert len(list(tmp_path.glob("prepared-*"))) == processes
    assert len({file.read_text() for file in tmp_path.glob("?")}) <= processes


def test_the_failure_of_a_job_is_this_ones(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ClipjaxError, match="see its message above") as failure:
        work_through([job("refused", refuse)])
    assert failure.value.exit_code == 2
    assert "error: no such thing" in capfd.readouterr().err
    with pytest.raises(ClipjaxError, match="killed by signal 9"):
        work_through([job("killed", die)])


def test_a_failure_ends_the_other_process_at_once(tmp_path: Path) -> None:
    """`meet` would wait for a minute."""
    start = time.monotonic()
    jobs = [
        job("waiting", partial(meet, tmp_path, "first", "never")),
        job("refused", partial(refuse, tmp_path / "first")),
        job("later", partial(note, tmp_path / "later"), "refused"),
    ]
    with pytest.raises(ClipjaxError, match="see its message above"):
        work_through(jobs)
    assert time.monotonic() - start < 50
    assert gone(tmp_path / "first")
    assert not (tmp_path / "later").exists()


def test_a_signal_to_one_process_interrupts_both(tmp_path: Path) -> None:
    jobs = [
        job("waiting", partial(meet, tmp_path, "first", "never")),
        job("ended", partial(die, signal.SIGTERM)),
    ]
    with pytest.raises(Interrupted) as interrupted:
        work_through(jobs)
    assert interrupted.value.exit_code == 75


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_to_the_demo_ends_both_processes(number: int, code: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.demo._parts", str(tmp_path)]
    demo = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    files = [tmp_path / name for name in ("first", "second")]
    for file in files:
        wait_for(file)
    demo.send_signal(number)
    assert demo.wait(50) == code
    assert all(gone(file) for file in files)


def gone(file: Path) -> bool:
    """Whether the process whose number the file holds has ended."""
    try:
        os.kill(int(file.read_text()), 0)
    except ProcessLookupError:
        return True
    return False


def test_bars_of_two_processes_have_a_line_each() -> None:
    """On a terminal, the second process draws its bar below the first one's."""
    terminal, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    command = "from tests.demo._parts import two_bars; two_bars()"
    subprocess.run([sys.executable, "-c", command], stderr=theirs, check=True, cwd=ROOT)
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
