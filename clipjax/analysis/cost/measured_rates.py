"""Images a second that were measured where the models run, from the records of `--batch-size auto`.

    measured_rates(["~/.cache/clipjax/batch_sizes"])

Rows of results have none: their `wall_time` counts decoding, and little where embeddings were stored.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from clipjax.errors import DataError
from clipjax.storage.reading import is_dir, read_json


class MeasuredRate(NamedTuple):
    """Images a second that one device embeds with its fastest batch, without decoding."""

    arch: str
    image_size: int
    device: str
    precision: str
    images_per_second: float

    @property
    def where(self) -> str:
        return f"{self.device} {self.precision}"


def measured_rates(paths: Sequence[str | Path]) -> list[MeasuredRate]:
    """The measurements in these files, or in the .json files of these folders; the fastest of each kind.

    Raises:
        DataError: a file is absent or is not a record of `--batch-size auto`, or a folder has none.
    """
    found: dict[tuple[str, int, str, str], MeasuredRate] = {}
    for file in (file for path in paths for file in _files(Path(path).expanduser())):
        for each in _rates_in(file):
            key = each[:4]
            found[key] = max(each, found.get(key, each), key=lambda one: one.images_per_second)
    return sorted(found.values())


def _files(path: Path) -> Iterable[Path]:
    if not is_dir(path):
        return [path]
    if not (files := sorted(path.glob("*.json"))):
        raise DataError(f"{path} has no .json file of measured rates: `--batch-size auto` writes them")
    return files


def _rates_in(file: Path) -> Iterator[MeasuredRate]:
    record = read_json(file)
    try:
        for batch in record["batches"].values():
            yield _rate(str(record["device"]), batch["measured"])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DataError(
            f"{file} is not a record of measured rates: give one that `--batch-size auto` wrote"
        ) from None


def _rate(device: str, about: Mapping[str, Any]) -> MeasuredRate:
    rates = [float(rate) for rate in about["images a second"].values()]
    size, devices = int(about["image_size"]), int(about["devices"])
    if not (all(0 < rate < math.inf for rate in rates) and devices > 0):
        raise ValueError("rates and devices are above 0")
    return MeasuredRate(str(about["arch"]), size, device, str(about["precision"]), max(rates) / devices)
