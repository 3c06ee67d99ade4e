"""The demo's work as jobs, and which of them comes next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from clipjax.errors import ClipjaxError


@dataclass(frozen=True)
class DemoJob:
    """A part of the demo.

    Attributes:
        name: no other job of the list has it.
        work: a function of a module, or `functools.partial` of one, which another process can call.
        needs: names of the jobs whose work must be done before.
        makes: files. A job whose files all exist is left out. A job without files is always called.
        again: whether it is called even where its files exist, as one that also reads them.
        device: whether it computes with JAX.
    """

    name: str
    work: Callable[[], object]
    needs: tuple[str, ...] = ()
    makes: tuple[Path, ...] = ()
    again: bool = False
    device: bool = True

    @property
    def is_made(self) -> bool:
        return all(file.is_file() for file in self.makes)

    @property
    def is_left_out(self) -> bool:
        return bool(self.makes) and not self.again and self.is_made


class Queue:
    """The jobs that have not begun. The first of the list that can begin is next.

    Raises:
        ClipjaxError: two jobs have one name, or a job can never begin.
    """

    def __init__(self, jobs: Sequence[DemoJob]) -> None:
        if len({job.name for job in jobs}) < len(jobs):
            raise ClipjaxError("two jobs of the demo have one name")
        self._done = {job.name for job in jobs if job.is_left_out}
        self._waiting = [job for job in jobs if job.name not in self._done]
        self._check()

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self, *, device: bool = True) -> DemoJob | None:
        """The next job; None: none can begin yet. `device` False: one that does not compute with JAX."""
        for job in self._waiting:
            if self._done.issuperset(job.needs) and (device or not job.device):
                self._waiting.remove(job)
                return job
        return None

    def end(self, job: DemoJob) -> None:
        self._done.add(job.name)

    def _check(self) -> None:
        done, blocked = set(self._done), list(self._waiting)
        while ready := [job for job in blocked if done.issuperset(job.needs)]:
            done |= {job.name for job in ready}
            blocked = [job for job in blocked if job.name not in done]
        if blocked:
            first = blocked[0]
            missing = next(name for name in first.needs if name not in done)
            raise ClipjaxError(f"the demo's job {first.name} can never begin: it waits for {missing}")
