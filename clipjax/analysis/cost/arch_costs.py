"""What the architectures of configs/archs cost, as `make records` counted it. Imports no JAX.

cost = recorded_cost("ViT-B-32")
cost.operations, cost.params["vision"], cost.rates[0].images_per_second
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from clipjax.config import ConfigFolder, config_dir, config_files
from clipjax.entry_points import cached
from clipjax.models.version import FORWARD_VERSION
from clipjax.storage.digests import sha256_json
from clipjax.storage.reading import read_csv, read_json, read_toml


class EstimatedRate(NamedTuple):
    """Images a second that a chip is estimated to embed; `basis` as in `clipjax.estimates.hours.share_of`."""

    chip: str
    precision: str
    images_per_second: float
    basis: str


@dataclass(frozen=True)
class ArchCost:
    """What an architecture costs.

    Attributes:
        image_size: pixels along a side of the images that are counted.
        operations: of the image tower for one image, two per multiply-add of dots and convolutions; None for
            a model that answers with a language model, since they depend on the question.
        params: numbers of params by part: "vision", "text", "head", ...
        rates: estimates of the registered architectures.
    """

    name: str
    image_size: int
    operations: int | None
    params: Mapping[str, int]
    rates: tuple[EstimatedRate, ...]

    @property
    def image_params(self) -> int:
        """Params of the image tower, with the linear head of a classifier."""
        return self.params["vision"] + self.params.get("head", 0)

    @property
    def model_params(self) -> int:
        return sum(self.params.values())


@cached
def recorded_cost(name: str) -> ArchCost | None:
    """The cost of an architecture by its name; None if there is no record, or one of another architecture."""
    entry, file = recorded().get(name), config_files(ConfigFolder.ARCHS).get(name)
    if entry is None or file is None:
        return None
    record = {"name": name, **read_toml(file)}
    if entry["record"] != record_digest(record):
        return None
    operations = None if "language" in record else entry["towers"]["vision"]
    rates = _rates().get(name, ())
    return ArchCost(name, record["vision"]["image_size"], operations, entry["params"], tuple(rates))


def record_digest(record: Mapping[str, Any]) -> str:
    """SHA-256 of an architecture's file, of `models.arch.arch_records`, and of the forward passes."""
    return sha256_json([record, FORWARD_VERSION])


@functools.cache
def recorded() -> dict[str, Any]:
    """configs/flops.json: operations and params of the architectures, since tracing takes time."""
    return read_json(config_dir() / "flops.json")


@functools.cache
def _rates() -> dict[str, list[EstimatedRate]]:
    """configs/estimated_rates.csv, by architecture."""
    rates: dict[str, list[EstimatedRate]] = {}
    for row in read_csv(config_dir() / "estimated_rates.csv"):
        one = EstimatedRate(row["chip"], row["precision"], float(row["images_per_second"]), row["basis"])
        rates.setdefault(row["arch"], []).append(one)
    return rates
