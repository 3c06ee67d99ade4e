"""One injured file read under limits, and what came of it."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import resource
import signal
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _mutate import mutate
from _subject import Subject

from clipjax.errors import ClipjaxError

SECONDS = 10  # for one input; whole files take milliseconds
MEGABYTES = 2000  # that the process may grow by for one input: an image of `MAX_PIXELS`, twice
OURS = re.compile(rf"{re.escape(str(Path(__file__).parents[2]))}/(clipjax|converters)/")
OUTCOMES = ("refused", "unchanged", "other answer", "FAILED")


class Hang(BaseException):
    """No `Exception`: a reader that catches everything must not catch this."""


class Trial:
    """A subject's files in a folder of its own, injured and read over and over."""

    def __init__(self, subject: Subject, folder: Path) -> None:
        self.subject, self.work = subject, folder / "work"
        self.work.mkdir(parents=True)
        subject.make(self.work)
        self.data = (self.work / subject.file).read_bytes()
        self.answer = self.read(self.data)

    def run(self, seed: str) -> tuple[str, str]:
        """(outcome, why): one of `OUTCOMES`, and for a failure what went wrong."""
        before = _peak()
        outcome, why = self._outcome(self.injured(seed))
        if (grown := _peak() - before) > MEGABYTES:
            why = f"took {grown:.0f} MB"
        return ("FAILED" if why else outcome), why

    def injured(self, seed: str) -> bytes:
        return mutate(seed, self.data, self.subject.kind)

    def _outcome(self, data: bytes) -> tuple[str, str]:
        try:
            with _alarm(), warnings.catch_warnings(action="ignore"):
                answer = self.read(data)
        except ClipjaxError as error:
            text = str(error)
            return "refused", f"not one line: {text!r}" if "\n" in text or "\r" in text else ""
        except Hang:
            return "FAILED", f"took more than {SECONDS} s"
        except Exception as error:
            return "FAILED", f"{type(error).__name__}: {str(error)[:150]} ({_place(error)})"
        if repr(answer) == repr(self.answer):
            return "unchanged", ""
        accepted = "another answer than the whole file's, of which there is a digest"
        return "other answer", accepted if self.subject.digest else ""

    def read(self, data: bytes) -> Any:
        path = self.work / self.subject.file
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        return self.subject.read(self.work)


def _place(error: Exception) -> str:
    """The last line of ours that an error passed."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if OURS.match(frame.filename)]
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "no line of ours"


def _peak() -> float:
    """The most memory that this process has had, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextlib.contextmanager
def _alarm() -> Iterator[None]:
    def hang(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, hang)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run_many(subject: Subject, folder: Path, seeds: Iterator[str]) -> tuple[Counter[str], list[str]]:
    """Counts of outcomes, and a line for each failure, with the seed that makes it again."""
    logging.disable(logging.WARNING)
    trial = Trial(subject, folder)
    counts: Counter[str] = Counter()
    failures = []
    for seed in seeds:
        (folder / "seed").write_text(seed)  # for whoever finds this process dead
        outcome, why = trial.run(seed)
        counts[outcome] += 1
        if why:
            failures.append(f"{subject.name}: seed {seed!r}: {why}")
    os.unlink(folder / "seed")
    logging.disable(logging.NOTSET)
    return counts, failures
