"""Published evaluation protocols, and how a result departs from them. Imports no JAX.

    nearest(row)   # -> Match("clip_80", "3f0c...", (Departure("templates", "openai_80", "single"),))

The protocols are configs/protocols.toml: for a task and its data sets, what a result row must have. A
protocol is known by its name and by the SHA-256 of what it asks, so that a result says which version of it
was meant.
"""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clipjax.checkpoints.registry_rows import registry
from clipjax.config import config_dir
from clipjax.data.labels import load_labels
from clipjax.errors import DataError
from clipjax.results.completeness import id_part_of, part_of, share
from clipjax.results.store import Row
from clipjax.storage.digests import sha256_json
from clipjax.storage.reading import read_toml

NONE = "none"  # in a protocol: what a row has as null
_NEEDED = {"title", "source", "task", "datasets", "asks"}
_KEYS = _NEEDED | {"kind", "left_open"}

# What a reader calls the fields that protocols ask of.
_WORDS = {
    "convention.prompts": "templates",
    "convention.label_space": "classes",
    "convention.projection": "projection",
    "convention.id": "in-distribution set",
    "recipe.pixels.pre_crop": "border cut",
    "recipe.pixels.interpolation": "interpolation",
}

# Field of a pixel recipe -> what a reader calls it, and where configs/models.csv has the model's own.
_TRANSFORM = {
    "image_size": ("crop", "crop_size"),
    "resize_size": ("resize", "resize_size"),
    "resize_mode": ("resize mode", "resize_mode"),
    "interpolation": ("interpolation", "interpolation"),
}


@dataclass(frozen=True)
class Protocol:
    """One published way to evaluate.

    Attributes:
        name: its key in configs/protocols.toml.
        title, source: what it is, and where it is written.
        task, datasets: what it is of; data sets may hold `*`.
        asks: dotted name of a field of a result row -> the values that it may have.
        kind: of the models that it is for, "zero_shot" or "classifier"; "" for both.
        left_open: what the source does not say, and what clipjax does; "" for nothing.
    """

    name: str
    title: str
    source: str
    task: str
    datasets: tuple[str, ...]
    asks: Mapping[str, tuple[Any, ...]]
    kind: str = ""
    left_open: str = ""

    @functools.cached_property
    def sha256(self) -> str:
        """Over task, data sets, kind and what is asked; the words may change."""
        whole = {"task": self.task, "datasets": self.datasets, "kind": self.kind, "asks": dict(self.asks)}
        return sha256_json(whole)

    def covers(self, row: Row) -> bool:
        """Whether the row is of its task, of one of its data sets, and of a model of its kind."""
        return (
            row["task"] == self.task
            and any(fnmatch.fnmatchcase(row["dataset"], pattern) for pattern in self.datasets)
            and self.kind in ("", row["model_facts"].get("kind"))
        )


@dataclass(frozen=True)
class Departure:
    """What a result does otherwise: `aspect`, what the protocol has, and what the result has."""

    aspect: str
    published: str
    ours: str


@dataclass(frozen=True)
class Match:
    """A protocol and the departures from it; none means that the result follows it."""

    protocol: Protocol
    departures: tuple[Departure, ...]

    def field(self) -> dict[str, Any]:
        """The field `protocol` of a result row."""
        return {
            "name": self.protocol.name,
            "sha256": self.protocol.sha256,
            "departures": [f"{d.aspect}: {d.ours}, not {d.published}" for d in self.departures],
        }


@functools.cache
def protocols() -> tuple[Protocol, ...]:
    """Every protocol, in file order.

    Raises:
        DataError: configs/protocols.toml lacks a key or has one that it does not know; the protocol is named.
    """
    path = config_dir() / "protocols.toml"
    found = []
    for name, table in read_toml(path).items():
        if missing := _NEEDED - table.keys():
            raise DataError(f"{path}: [{name}] lacks {', '.join(sorted(missing))}")
        if unknown := table.keys() - _KEYS:
            raise DataError(f"{path}: [{name}] has the unknown key {min(unknown)!r}")
        asks = {
            key: tuple(value) if isinstance(value, list) else (value,) for key, value in table["asks"].items()
        }
        found.append(Protocol(name=name, **{**table, "datasets": tuple(table["datasets"]), "asks": asks}))
    return tuple(found)


def matches(row: Row) -> list[Match]:
    """Every protocol that covers a measured row, that with the fewest departures first."""
    if row["origin"] != "measured":
        return []
    found = [Match(each, tuple(_departures(row, each))) for each in protocols() if each.covers(row)]
    return sorted(found, key=lambda match: len(match.departures))


def nearest(row: Row) -> Match | None:
    """The protocol that a row follows or comes nearest to; None if none is published for it."""
    return next(iter(matches(row)), None)


def with_protocols(rows: Sequence[Row]) -> list[Row]:
    """The rows with the field `protocol` filled in."""
    found = [nearest(row) for row in rows]
    return [{**row, "protocol": match and match.field()} for row, match in zip(rows, found)]


def _departures(row: Row, protocol: Protocol) -> Iterator[Departure]:
    """What the protocol asks, then what every protocol asks."""
    for key, allowed in protocol.asks.items():
        value = _score(row) if key == "score" else _field(row, key)
        if key == "convention.prompts" and str(value).startswith("not applicable"):
            continue  # a classifier
        if (NONE if value is None else value) not in allowed:
            yield Departure(_WORDS.get(key, key), " or ".join(map(str, allowed)), str(value))
    yield from _class_names(row)
    yield from _transform(row, protocol)
    for images, part in {"images": part_of(row), "ID images": id_part_of(row)}.items():
        if part is not None:
            yield Departure(images, "all", share(part, None))
    samples = {"images": row["sample"], "ID images": _field(row, "convention.id_sample")}
    for images, sample in samples.items():
        if sample is not None:
            yield Departure(images, "all", f"a random sample of {sample['limit']} of {sample['of']}")
    skipped = row["skipped"]
    if skipped:
        yield Departure("unreadable images", "none", str(skipped))
    if row["precision"] != "parity":
        yield Departure("precision of the towers", "float32", str(row["precision"]))
    if row["model_facts"].get("resized"):
        yield Departure("image size", "the model's own", str(row["model_facts"].get("image_size")))
    if (decode := _field(row, "recipe.pixels.decode") or "full") != "full":
        yield Departure("decoding", "full", str(decode))


def _class_names(row: Row) -> Iterator[Departure]:
    """A label space of another file may have the name of ours: the digest of the head's classes tells."""
    head = _field(row, "recipe.head_classes")
    if head and row["model_facts"].get("kind") == "zero_shot" and head not in _known_class_names():
        yield Departure("class names", "those of configs/labels", f"others ({head[:12]})")


@functools.cache
def _known_class_names() -> frozenset[str]:
    return frozenset(load_labels(path).digest for path in (config_dir() / "labels").glob("*.csv"))


def _transform(row: Row, protocol: Protocol) -> Iterator[Departure]:
    """From a registered model's own; what the protocol itself asks of the pixels goes before it."""
    own, pixels = registry().get(row["model"]), _field(row, "recipe.pixels")
    if own is None or not isinstance(pixels, Mapping) or row["model_facts"].get("resized"):
        return
    for field, (word, column) in _TRANSFORM.items():
        asked, ours = f"recipe.pixels.{field}" in protocol.asks, str(pixels.get(field, own[column]))
        if not asked and ours != own[column]:
            yield Departure(word, f"the model's own, {own[column]}", ours)


def _score(row: Row) -> Any:
    """Of OOD detection: the score by which images are ranked, that of the slice or the model's own."""
    if (row["slice"] or "").startswith("score:"):
        return row["slice"].removeprefix("score:")
    return _field(row, f"convention.headline.{row['model_facts'].get('kind')}")


def _field(row: Row, dotted: str) -> Any:
    """A field of a row by its dotted name; None where it, or what it lies in, is not there."""
    value: Any = row
    for name in dotted.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
