"""A result row as a type, which a test holds against configs/result_row.schema.json. Imports no JAX.

`Row` was checked (`clipjax.results.rows`), `Fields` not; `AnyRow` is for readers of both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NotRequired, TypedDict

Fields = dict[str, Any]
AnyRow = Mapping[str, Any]

COMPARISON = "fast against parity"  # the `precision` of a row that compares both


class Limits(TypedDict):
    lo: float
    hi: float
    level: float
    method: str


class Sample(TypedDict):
    """The random images of `--limit`; `unit` "pairs" if they are pairs of images."""

    limit: int
    seed: int
    of: int
    unit: NotRequired[Literal["pairs"]]


class Held(TypedDict):
    """The images that the data had, of those of the data set's card; `unit` as in `Sample`."""

    images: int
    of: int
    foreign: NotRequired[int]
    unit: NotRequired[Literal["pairs"]]


class Reference(TypedDict):
    """A published number, and ours minus it."""

    value: float
    source: str
    difference: float
    note: str | None


class Followed(TypedDict):
    name: str
    sha256: str
    departures: list[str]


class MadeBy(TypedDict):
    """A plug-in of another package."""

    kind: str
    name: str
    package: str
    version: str


class ConfigFile(TypedDict):
    """A file of the user's config folders."""

    kind: str
    name: str
    file: str
    sha256: str


class Device(TypedDict):
    platform: str
    kind: str
    count: int
    processes: int


class Row(TypedDict):
    """One number with its provenance; the schema describes each field."""

    schema_version: Literal[1]
    run_id: str
    recipe_hash: str
    recipe: dict[str, Any]
    origin: Literal["measured", "published"]
    task: str
    task_version: int | None
    dataset: str
    slice: str | None
    model: str
    model_facts: dict[str, Any]
    metric: str
    value: float | None
    interval: Limits | None
    n: int | None
    aggregates: str | None
    note: str | None
    convention: dict[str, Any]
    sample: Sample | None
    part: NotRequired[Held | None]
    id_part: NotRequired[Held | None]
    folder: NotRequired[str | None]
    skipped: int | None
    reference: list[Reference] | None
    protocol: NotRequired[Followed | None]
    framework: NotRequired[str | None]
    precision: str | None
    per_device_batch: int | None
    versions: dict[str, str] | None
    xla_flags: str | None
    device: Device | None
    git_revision: str | None
    plug_ins: NotRequired[list[MadeBy]]
    configs: NotRequired[list[ConfigFile]]
    wall_time: float | None
    compile_count: int | None


def metric_name(metric: str, slice: str | None) -> str:
    """E.g. "auroc score:msp"."""
    return metric if slice is None else f"{metric} {slice}"
