"""The number of threads or worker processes that decodes fastest, measured on images of the data set.

The user's cache keeps the fastest by machine, pixel recipe, and the images' rough size and format.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL
from etils import epath

from clipjax.config import cache_dir
from clipjax.data.manifest import Manifest
from clipjax.data.pixels.loader import batches
from clipjax.data.pixels.preprocess import PixelRecipe
from clipjax.errors import DataError, counted
from clipjax.metrics.cores import usable_cores
from clipjax.progress import progress_bar
from clipjax.storage.digests import sha256_json
from clipjax.storage.image_formats import image_header
from clipjax.storage.local_files import LocalFiles
from clipjax.storage.reading import read_json

AUTO = "auto"
Workers = int | Literal["auto"]

SAMPLE = 96  # images decoded with each setting
WORTH = 1000  # for fewer images a measurement costs more than it saves
_BATCH = 8  # small: timing starts after the first batch
_NEARLY = 0.95  # take the simplest setting within this share of the fastest rate
_PAST = 0.9  # below this share of the previous rate, more threads or workers no longer help


@dataclasses.dataclass(frozen=True)
class Decoders:
    """`workers` processes (0: this one) of `threads` each; None: one per core, or one in a worker."""

    workers: int = 0
    threads: int | None = None

    def __str__(self) -> str:
        if self.workers:
            return counted(self.workers, "worker process", "worker processes")
        return "one thread a core" if self.threads is None else counted(self.threads, "thread")


Rate = Callable[[Manifest, PixelRecipe, Sequence[int], Decoders], float]


def choose(
    manifest: Manifest,
    recipe: PixelRecipe,
    rows: np.ndarray,
    *,
    progress: bool = False,
    rate: Rate | None = None,
) -> Decoders:
    """The fastest setting for these images here, measured now or in an earlier run.

    Args:
        rows: -1 is padding. Fewer than WORTH are not measured.
        rate: replaces the measurement (images per second).
    """
    rows = rows[rows >= 0]
    sample = rows[:SAMPLE].tolist()
    seen = _look(manifest, sample)
    if seen is None:
        return Decoders()
    key = {
        "machine": platform.node(),
        "cores": usable_cores(),
        "pillow": PIL.__version__,
        "pixels": recipe.key(),
    }
    path = cache_dir() / "decoders" / f"{sha256_json(key | seen)[:32]}.json"
    known = _remembered(path)
    if known is not None or len(rows) < WORTH:
        return known or Decoders()
    rates = _measure(manifest, recipe, sample, progress, rate or images_per_second)
    # Workers cost memory and seconds to start, so they come last: take the first that is nearly fastest.
    best = next(each for each, value in rates.items() if value >= _NEARLY * max(rates.values()))
    _remember(path, best, {**key, **seen, "images a second": {str(k): round(v, 1) for k, v in rates.items()}})
    return best


def images_per_second(
    manifest: Manifest, recipe: PixelRecipe, rows: Sequence[int], decoders: Decoders
) -> float:
    """Speed after the first batch."""
    with batches(
        manifest,
        recipe,
        batch_size=_BATCH,
        rows=rows,
        workers=decoders.workers,
        threads=decoders.threads,
        on_error="skip",
    ) as source:
        next(source)
        start = time.perf_counter()
        for _ in source:
            pass
        return (len(rows) - _BATCH) / (time.perf_counter() - start)


def _measure(
    manifest: Manifest, recipe: PixelRecipe, sample: Sequence[int], progress: bool, rate: Rate
) -> dict[Decoders, float]:
    """1, 2, 4, ... threads, then 2, 4, ... workers, each until more does not help."""
    rates: dict[Decoders, float] = {}
    series = [[Decoders(0, n) for n in _counts(1)], [Decoders(n) for n in _counts(2)]]
    with progress_bar(sum(map(len, series)), "measuring how to decode", "setting", shown=progress) as bar:
        for settings in series:
            before = 0.0
            for setting in settings:
                rates[setting] = rate(manifest, recipe, sample, setting)
                bar.update()
                if rates[setting] < _PAST * before:
                    break
                before = rates[setting]
    return rates


def _counts(first: int) -> Iterator[int]:
    count = first
    while count < usable_cores():
        yield count
        count *= 2
    if first <= usable_cores():
        yield usable_cores()


def _look(manifest: Manifest, sample: Sequence[int]) -> dict[str, Any] | None:
    """The commonest format, and mean megapixels as a power of two; None if fewer than SAMPLE / 2 images open.

    Reading warms the disk cache for the first setting measured.
    """
    formats, pixels = Counter(), []
    for row in sample:
        with contextlib.suppress(Exception):  # PIL raises nearly anything on damaged input
            image = image_header(manifest.open(row))
            formats[image.format] += 1
            pixels.append(image.width * image.height)
    if len(pixels) < SAMPLE // 2:
        return None
    [(kind, _)] = formats.most_common(1)
    return {"format": kind, "megapixels": 2.0 ** round(float(np.log2(np.mean(pixels) / 1e6)))}


def _remembered(path: Path) -> Decoders | None:
    try:
        record = read_json(path)
        return Decoders(int(record["workers"]), record["threads"] and int(record["threads"]))
    except (DataError, ValueError, KeyError, TypeError):
        return None


def _remember(path: Path, best: Decoders, why: dict[str, Any]) -> None:
    """Errors only cost the next run time."""
    record = json.dumps({**dataclasses.asdict(best), "measured": why}, indent=1)
    with contextlib.suppress(DataError):
        LocalFiles().create(epath.Path(path), record.encode(), replace=True)
