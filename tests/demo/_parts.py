"""What the jobs of `work_through` call in their processes."""

from __future__ import annotations

import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

from clipjax.demo.beside import work_through
from clipjax.demo.jobs import DemoJob
from clipjax.devices import signals
from clipjax.errors import UsageError
from clipjax.progress import progress_bar


def meet(folder: Path, mine: str, other: str) -> None:
    """Say who is here, and wait for the other."""
    note(folder / mine)
    wait_for(folder / other)


def note(file: Path, after: Path | None = None) -> None:
    """Write the number of this process, where the job before has written its own."""
    if after is not None and not after.exists():
        raise UsageError("begun too early")
    file.write_text(str(os.getpid()))


def refuse(after: Path | None = None) -> None:
    if after is not None:
        wait_for(after)
    raise UsageError("no such thing")


def die(number: int = signal.SIGKILL) -> None:
    os.kill(os.getpid(), number)
    time.sleep(60)


def alone(folder: Path) -> bool:
    """A `prepare` of a machine whose device one process has."""
    (folder / f"prepared-{os.getpid()}").touch()
    return False


def together(folder: Path) -> bool:
    return not alone(folder)


def two_bars() -> None:
    work_through([DemoJob(name, partial(bar, name), device=False) for name in ("first", "second")])


def bar(name: str) -> None:
    with progress_bar(3, name, "step") as shown:
        for _ in range(3):
            shown.update()
            shown.refresh()  # type: ignore[union-attr]


def wait_for(file: Path) -> None:
    """Wait until a process has written its number there: a file is empty for a moment."""
    for _ in range(600):
        if file.exists() and file.stat().st_size:
            return
        time.sleep(0.1)
    raise TimeoutError(file)


def main(folder: Path) -> None:
    """A program of two jobs that never end."""
    jobs = [DemoJob(name, partial(meet, folder, name, "never"), device=False) for name in ("first", "second")]
    with signals.handled():
        work_through(jobs)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
