"""How many images a device takes at once: measured once for such a model on such a device, and remembered.

More images fill a device better, until they do not: then they only take memory, and padding. So `--batch-size
auto` doubles the batch until that brings nothing more, or the next one does not fit the device's memory. What
was fastest is remembered in the user's cache, a file for each kind of device.

The last bits of an embedding depend on the batch: an entry of the store keeps the one it was begun with.
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
from clipjax.data.pixels.decoders import AUTO
from clipjax.embeddings.forward import Forward, OutOfMemoryError, image_forward, watched
from clipjax.embeddings.params import device_memory
from clipjax.errors import DataError
from clipjax.models import FORWARD_VERSION
from clipjax.models.network import Precision
from clipjax.progress import progress_bar
from clipjax.storage.digests import sha256_json
from clipjax.storage.local_files import LocalFiles
from clipjax.storage.reading import read_json

__all__ = ["AUTO", "IMAGE_BATCH", "Choice", "choose"]

IMAGE_BATCH = 64  # unless the caller says otherwise, or measures
SIZES = tuple(8 << i for i in range(10))  # 8 to 4096
WORTH = 1000  # images to embed, at least, for a measurement to be worth its time
_MORE = 1.05  # of the best rate before: a batch twice as large has to bring that, or it is the last
_NEARLY = 0.95  # of the best rate of all: the smallest batch that reaches it is taken
_SECONDS = 1.0  # that a rate is measured for, at least

Rate = Callable[[int], float]


class Choice(NamedTuple):
    """A batch for one device, and why, in words ("": nothing was measured)."""

    batch: int
    why: str = ""


def choose(
    model: Encoder,
    precision: Precision,
    output: str,
    params: str,
    images: int,
    *,
    progress: bool = False,
    rate: Rate | None = None,
) -> Choice:
    """The batch that embeds fastest on the devices of this process; one that no run has measured is measured.

    Args:
        params: how they lie, "replicated" or "sharded".
        images: to embed. With few nothing is measured: without an earlier measurement, IMAGE_BATCH. Nor is a
            user's own model.
        progress: show a bar on stderr.
        rate: images a second of a batch, in place of a measurement; raises OutOfMemoryError.

    Raises DataError where not even the smallest batch fits.
    """
    if model.network is None:
        return Choice(IMAGE_BATCH)
    arch = model.network.arch
    device = jax.local_devices()[0]
    path = cache_dir() / "batch_sizes" / f"{_file_name(device.device_kind)}.json"
    about = {
        "arch": arch.name,
        "image_size": arch.vision.image_size,
        "precision": precision,
        "params": params,
        "output": output,
        "devices": jax.local_device_count(),
        "versions": {"jax": jax.__version__, "forward": FORWARD_VERSION},
        "record": sha256_json(repr(arch))[:16],
    }
    name = sha256_json(about)[:32]
    if (known := _remembered(path, name)) is not None:
        return Choice(known, f"the fastest here, as measured before: {path}")
    if images < WORTH:
        return Choice(IMAGE_BATCH)

    def measured(batch: int) -> float:
        with watched(batch):
            forward = image_forward(model, precision, output, batch, params)
            return images_per_second(forward, batch, arch.vision.image_size)

    rates = _measure(rate or measured, progress)
    best = next(batch for batch, value in rates.items() if value >= _NEARLY * max(rates.values()))
    record = {**about, "images a second": {str(batch): round(value, 1) for batch, value in rates.items()}}
    kept = _remember(path, name, device.device_kind, {"batch": best, "measured": record})
    return Choice(best, f"the fastest here{f'; remembered in {path}' if kept else ''}")


def images_per_second(forward: Forward, per_device_batch: int, side: int) -> float:
    """How fast the forward pass runs on all devices of this process, once it is compiled.

    `side` is that of the images, in pixels. Raises OutOfMemoryError where the program, compiled, says that it
    takes more than a device has.
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
    """Images a second of each batch, up to the last that was worth trying."""
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
    """The record of a kind of device; empty where there is none that can be read."""
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


def _remember(path: Path, name: str, kind: str, found: dict[str, Any]) -> bool:
    """For the next run; of two that write at once one may be lost, which only costs time."""
    batches = _read(path).get("batches", {})
    record = json.dumps({"device": kind, "batches": {**batches, name: found}}, indent=1)
    try:
        return LocalFiles().create(epath.Path(path), record.encode(), replace=True)
    except DataError:
        return False
