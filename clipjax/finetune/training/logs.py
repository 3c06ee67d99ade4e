"""A run's logs: a line on stderr, metrics.csv, TensorBoard and other trackers, from the first process.

A resumed run first cuts them to the step it resumes from, where a tracker can.
"""

from __future__ import annotations

import contextlib
import csv
import logging
import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import jax

from clipjax.devices.agreement import first_writes
from clipjax.errors import DataError
from clipjax.progress import progress_bar
from clipjax.results.tracking.tracker import TrackedRun
from clipjax.results.tracking.tracking import TrackedBy, Tracking
from clipjax.storage.digests import sha256_json
from clipjax.storage.remote.bucket_files import BucketFiles
from clipjax.storage.remote.buckets import BucketPath
from clipjax.storage.remote.publishing import naming, working_copy
from clipjax.storage.writing import whole_file

METRICS = "metrics.csv"
_LOG = logging.getLogger(__name__)
_FIRST = ("step", "epoch", "loss", "accuracy", "grad_norm", "learning_rate", "images_per_s")
# The rate is a mean over this many steps.
_WINDOW = 20
# Steps between the points of trackers: writing one takes longer than a small step.
_POINTS_EVERY = 10


class Logs:
    """The logs of one run.

    Args:
        batch_size: images in the global batch.
        images: in an epoch; None: no epochs are logged.
        folder: perhaps on a bucket; None: no files and no trackers.
        description: on stderr.
        name: in trackers; "": the description.
        config: what decides the run, for trackers.
        track: trackers besides TensorBoard.
    """

    def __init__(
        self,
        steps: int,
        *,
        batch_size: int,
        images: int | None = None,
        folder: Path | None = None,
        description: str = "train",
        progress: bool = True,
        name: str = "",
        config: Mapping[str, str] | None = None,
        track: Sequence[str] = (),
    ) -> None:
        self._batch_size, self._images = batch_size, images
        self._steps, self._description = steps, description
        self._first = jax.process_index() == 0
        self._place = folder if self._first else None
        self._folder = None if self._place is None else working_copy(self._place)
        self._progress = progress and self._first
        self._bar: Any = None
        self._table: _Table | None = None
        self._name, self._config = name or description, dict(config or {})
        self._tracking = Tracking(("tensorboard", *track))
        self._tracked: TrackedBy | None = None
        self._times: deque[tuple[int, float]] = deque(maxlen=_WINDOW)

    def start(self, done: int) -> None:
        self._bar = progress_bar(self._steps, self._description, "step", shown=self._progress, initial=done)
        self._times.append((done, time.perf_counter()))

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Steps come in order. Raises DataError if the folder cannot be written."""
        if not self._first:
            return
        epoch = {} if self._images is None else {"epoch": step * self._batch_size / self._images}
        row = {**epoch, **metrics, "images_per_s": self._rate(step)}
        if self._progress:
            names = [name for name in ("loss", "accuracy") if name in metrics]
            shown = [
                *(f"{name} {metrics[name]:.3g}" for name in names),
                f"{row['images_per_s']:.3g} images/s",
            ]
            self._bar.set_postfix_str(", ".join(shown), refresh=step == self._steps)
            self._bar.update()
        if self._folder is not None:
            try:
                self._write(self._folder, step, row)
            except OSError as error:
                reason = error.strerror or error
                raise DataError(f"no logs can be written to {self._folder}: {reason}") from error

    def _rate(self, step: int) -> float:
        now = time.perf_counter()
        before, then = self._times[0]
        self._times.append((step, now))
        return (step - before) * self._batch_size / max(now - then, 1e-9)

    def _write(self, folder: Path, step: int, row: Mapping[str, float]) -> None:
        if self._table is None or self._tracked is None:
            folder.mkdir(parents=True, exist_ok=True)
            self._fetch(folder / METRICS)
            self._table = _Table(folder / METRICS, step, row)
            self._tracked = self._tracking.start(self._run(folder, step - 1))
        self._table.add(step, row)
        if step % _POINTS_EVERY == 0 or step == self._steps:
            self._tracked.log(step, {name: value for name, value in row.items() if math.isfinite(value)})

    def _run(self, folder: Path, done: int) -> TrackedRun:
        identity = sha256_json([str(self._place), self._config])[:16]
        return TrackedRun(identity, self._name, "fine-tuning", self._config, folder, done=done)

    def _fetch(self, table: Path) -> None:
        assert self._place is not None
        if isinstance(self._place, BucketPath) and not table.exists():
            with contextlib.suppress(FileNotFoundError):  # another machine may have written one
                table.write_bytes((self._place / METRICS).read_bytes())

    def publish(self) -> None:
        """Upload to the bucket, if any. Raises DataError on every process if that fails."""
        first_writes(self._upload, "the logs")

    def _upload(self) -> None:
        if self._table is None or self._folder is None or not isinstance(self._place, BucketPath):
            return
        with naming(self._folder):
            for file in self._folder.iterdir():
                if file.is_file():
                    BucketFiles().upload(file, self._place / file.name)

    def close(self) -> None:
        """A full disk only warns: the run may be ending with a more useful error."""
        if self._bar is not None:
            self._bar.close()
        try:
            if self._table is not None:
                self._table.close()
            if self._tracked is not None:
                self._tracked.finish()
                self._upload()
        except DataError as error:
            _LOG.warning("the logs on the bucket are not whole, those in %s are: %s", self._folder, error)
        except OSError as error:
            _LOG.warning("the logs in %s are not whole: %s", self._folder, error.strerror or error)


class _Table:
    def __init__(self, file: Path, step: int, row: Mapping[str, float]) -> None:
        rest = sorted(name for name in row if name not in _FIRST)
        self._columns = [*(name for name in _FIRST if name == "step" or name in row), *rest]
        # A stopped run may have logged later steps, which this run repeats.
        before = [old for old in read_metrics(file) if old["step"] < step]
        with whole_file(file) as draft, draft.open("w", newline="") as out:
            writer = csv.DictWriter(out, self._columns, restval="", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(_written(old) for old in before)
        self._out: IO[str] = file.open("a", newline="", buffering=1)  # 1: flush after each line
        self._writer = csv.DictWriter(self._out, self._columns, restval="", extrasaction="ignore")

    def add(self, step: int, row: Mapping[str, float]) -> None:
        self._writer.writerow(_written({"step": step, **row}))

    def close(self) -> None:
        self._out.close()


def _written(row: Mapping[str, float]) -> dict[str, str]:
    # Nine digits identify a float32 exactly.
    return {name: f"{value:.9g}" if isinstance(value, float) else str(value) for name, value in row.items()}


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """Rows ("step" int, the rest float) without damaged lines; [] without a file.

    A killed run may have cut the last line, and a crashed machine left other bytes.
    """
    if not file.is_file():
        return []
    rows: list[dict[str, Any]] = []
    # csv.Error: a field longer than its limit, such as a block of zeros.
    with file.open(newline="", errors="replace") as lines, contextlib.suppress(csv.Error):
        for row in csv.DictReader(lines):
            with contextlib.suppress(TypeError, ValueError, KeyError):
                values = {name: float(value) for name, value in row.items() if value != ""}
                rows.append({**values, "step": int(row["step"])})
    return rows
