"""The batch of a device: measured once per kind of model and device, and remembered in the user's cache.

The last bits of an embedding depend on the batch, so a stored entry keeps its first one.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from clipjax.checkpoints.encoder import Encoder
from clipjax.config import cache_dir
from clipjax.embeddings.forward import Forward, OutOfMemoryError, image_forward, watched
from clipjax.embeddings.placements import device_memory
from clipjax.errors import DataError
from clipjax.models.precision import Precision, forward_fields
from clipjax.progress import progress_bar
from clipjax.storage.digests import sha256_json
from clipjax.storage.local_files import LocalFiles
from clipjax.storage.reading import read_json

IMAGE_BATCH = 64  # the default
SIZES = tuple(8 << i for i in range(10))  # 8 to 4096
WORTH = 1000  # fewer images are not worth a measurement
_MORE = 1.05  # stop doubling below this times the best rate so far
_NEARLY = 0.95  # take the smallest batch that reaches this share of the best rate
_SECONDS = 1.0  # least duration of a measurement

Rate = Callable[[int], float]


class BatchChoice(NamedTuple):
    """A batch for one device, and the reason in words ("": not measured)."""

    batch: int
    why: str = ""


def choose(
    model: Encoder,
    precision: Precision,
    output: str,
    placement: str,
    images: int,
    *,
    progress: bool = False,
    rate: Rate | None = None,
) -> BatchChoice:
    """The batch that embeds fastest on this process's devices: remembered, or else measured.

    IMAGE_BATCH for a user's own model, and for fewer than WORTH images if none is remembered.

    Args:
        placement: of params, "replicated" or "sharded".
        rate: batch -> images per second; raises OutOfMemoryError. Default: a measurement.

    Raises:
        DataError: not even the smallest batch fits.
    """
    if model.network is None:
        return BatchChoice(IMAGE_BATCH)
    arch = model.network.arch
    device = jax.local_devices()[0]
    path = cache_dir() / "batch_sizes" / f"{_file_name(device.device_kind)}.json"
    about = {
        "arch": arch.name,
        "image_size": arch.vision.image_size,
        "precision": precision,
        "params": placement,
        "output": output,
        "devices": jax.local_device_count(),
        "versions": {"jax": jax.__version__, **forward_fields(precision)},
        "record": sha256_json(repr(arch))[:16],
    }
    name = sha256_json(about)[:32]
    if (known := _remembered(path, name)) is not None:
        return BatchChoice(known, f"the fastest here, as measured before: {path}")
    if images < WORTH:
        return BatchChoice(IMAGE_BATCH)

    def measured(batch: int) -> float:
        with watched(batch):
            forward = image_forward(model, precision, output, batch, placement)
            return images_per_second(forward, batch, arch.vision.image_size)

    rates = _measure(rate or measured, progress)
    best = next(batch for batch, value in rates.items() if value >= _NEARLY * max(rates.values()))
    record = {**about, "images a second": {str(batch): round(value, 1) for batch, value in rates.items()}}
    kept = _remember(path, name, device.device_kind, {"batch": best, "measured": record})
    return BatchChoice(best, f"the fastest here{f'; remembered in {path}' if kept else ''}")


def images_per_second(forward: Forward, per_device_batch: int, side: int) -> float:
    """Images per second on all devices of this process; `side` in pixels.

    Raises:
        OutOfMemoryError: the program needs more memory than a device has.
    """
    limit = device_memory()
    if limit is not None and (forward.memory() or 0) > limit:
        raise OutOfMemoryError(per_device_batch)
    pixels = np.zeros((forward.batch_size, side, side, 3), np.uint8)
    np.asarray(forward.run(pixels))
    start, runs = time.perf_counter(), 0
    while runs < 2 or time.perf_counter() - start < _SECONDS:
        np.asarray(forward.run(pixels))
        runs += 1
    return runs * forward.batch_size / (time.perf_counter() - start)


def _measure(rate: Rate, progress: bool) -> dict[int, float]:
    rates: dict[int, float] = {}
    with progress_bar(len(SIZES), "measuring the batch", "batch", shown=progress) as bar:
        for batch in SIZES:
            try:
                value = rate(batch)
            except OutOfMemoryError:
                break
            before = max(rates.values(), default=0.0)
            rates[batch] = value
            bar.update()
            if value < _MORE * before:
                break
    if not rates:
        raise DataError(
            f"not even {SIZES[0]} images fit a device's memory: give a smaller --batch-size, or cut the "
            "params over several devices (--params sharded)"
        )
    return rates


def _file_name(kind: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in kind.lower())


def _read(path: Path) -> dict[str, Any]:
    with contextlib.suppress(DataError):
        record = read_json(path)
        if isinstance(record.get("batches"), dict):
            return record
    return {}


def _remembered(path: Path, name: str) -> int | None:
    try:
        batch = int(_read(path)["batches"][name]["batch"])
    except (KeyError, TypeError, ValueError):
        return None
    return batch if batch in SIZES else None


def _remember(path: Path, name: str, kind: str, choice: dict[str, Any]) -> bool:
    # Two concurrent writes may lose one, which only costs time.
    batches = _read(path).get("batches", {})
    record = json.dumps({"device": kind, "batches": {**batches, name: choice}}, indent=1)
    try:
        return LocalFiles().create(epath.Path(path), record.encode(), replace=True)
    except DataError:
        return False
