"""Published evaluation protocols, and how a result departs from them. Imports no JAX.

    nearest(row)   # -> Match(clip_80, (Departure("templates", "openai_80", "single", ...),))

configs/protocols.toml lists them. A result records a version: a name, and the SHA-256 of the requirements.
The nearest protocol is the one with the smallest sum of the departures' usual effects (`effects`).
"""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from clipjax.checkpoints.identity.registry_rows import registry
from clipjax.config import config_dir
from clipjax.data.labels import load_labels
from clipjax.results.completeness import share
from clipjax.results.published.effects import Effect, effect
from clipjax.results.row import AnyRow, Fields
from clipjax.storage.digests import sha256_json
from clipjax.storage.reading import read_toml
from clipjax.storage.records import read

NONE = "none"  # in a protocol: null in a row

# The fields that protocols ask for, in words.
_WORDS = {
    "convention.prompts": "templates",
    "convention.label_space": "classes",
    "convention.projection": "projection",
    "convention.id": "in-distribution set",
    "recipe.pixels.pre_crop": "border cut",
    "recipe.pixels.interpolation": "interpolation",
}

# Field of a pixel recipe -> its word, and the column of configs/models.csv with the model's own value.
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
        datasets: names, may have `*`.
        asks: dotted name of a result row's field -> allowed values.
        kind: "zero_shot" or "classifier" models; "" for both.
        left_open: what the source leaves open, and what clipjax does.
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
        """Digest of what decides a match; title, source and `left_open` may change."""
        whole = {"task": self.task, "datasets": self.datasets, "kind": self.kind, "asks": dict(self.asks)}
        return sha256_json(whole)

    def covers(self, row: AnyRow) -> bool:
        return (
            row["task"] == self.task
            and any(fnmatch.fnmatchcase(row["dataset"], pattern) for pattern in self.datasets)
            and self.kind in ("", row["model_facts"].get("kind"))
        )


@dataclass(frozen=True)
class Departure:
    """`effect`: how much such a departure usually changes a number."""

    aspect: str
    published: str
    ours: str
    effect: Effect


@dataclass(frozen=True)
class Match:
    """`departures`: the most severe first."""

    protocol: Protocol
    departures: tuple[Departure, ...]

    @property
    def points(self) -> float:
        """The sum of the known effects."""
        return round(sum(each.effect.points or 0.0 for each in self.departures), 6)

    @property
    def unknown(self) -> tuple[str, ...]:
        """Aspects of the departures whose effect is unknown."""
        return tuple(each.aspect for each in self.departures if each.effect.points is None)

    @property
    def rank(self) -> tuple[float, int, int]:
        """Effects without a figure decide only between equal sums, and then their number does."""
        return self.points, len(self.unknown), len(self.departures)

    def field(self) -> dict[str, Any]:
        return {
            "name": self.protocol.name,
            "sha256": self.protocol.sha256,
            "departures": [f"{d.aspect}: {d.ours}, not {d.published}" for d in self.departures],
        }


@functools.cache
def protocols() -> tuple[Protocol, ...]:
    """The protocols in file order.

    Raises:
        DataError: a missing or unknown key; names the protocol.
    """
    path = config_dir() / "protocols.toml"
    every = []
    for name, table in read_toml(path).items():
        if isinstance(asks := table.get("asks"), dict):  # one value stands for a list of it
            listed = {key: value if isinstance(value, list) else [value] for key, value in asks.items()}
            table = {**table, "asks": listed}
        every.append(read(Protocol, table, f"{path}: [{name}]", given={"name": name}))
    return tuple(every)


def matches(row: AnyRow) -> list[Match]:
    """The protocols that cover a measured row, the nearest first (`Match.rank`)."""
    if row["origin"] != "measured":
        return []
    covering = [each for each in protocols() if each.covers(row)]
    return sorted((Match(each, _by_severity(row, each)) for each in covering), key=lambda match: match.rank)


def nearest(row: AnyRow) -> Match | None:
    return next(iter(matches(row)), None)


def with_protocols(rows: Sequence[Fields]) -> list[Fields]:
    matched = [nearest(row) for row in rows]
    return [{**row, "protocol": match and match.field()} for row, match in zip(rows, matched)]


def _by_severity(row: AnyRow, protocol: Protocol) -> tuple[Departure, ...]:
    departures = [
        Departure(each.aspect, each.published, each.ours, effect(each.kind or each.aspect, row["task"]))
        for each in _departures(row, protocol)
    ]
    return tuple(sorted(departures, key=lambda each: each.effect.rank))


class _Difference(NamedTuple):
    """`kind`: the aspect in configs/departures.toml, where it is another."""

    aspect: str
    published: str
    ours: str
    kind: str = ""


def _departures(row: AnyRow, protocol: Protocol) -> Iterator[_Difference]:
    for key, allowed in protocol.asks.items():
        value = _score(row) if key == "score" else _field(row, key)
        if key == "convention.prompts" and str(value).startswith("not applicable"):
            continue  # a classifier
        if (NONE if value is None else value) not in allowed:
            yield _Difference(_WORDS.get(key, key), " or ".join(map(str, allowed)), str(value))
    yield from _class_names(row)
    yield from _transform(row, protocol)
    for images, part in {"images": row.get("part"), "ID images": row.get("id_part")}.items():
        if part is not None:
            yield _Difference(images, "all", share(part, None))
    samples = {"images": row["sample"], "ID images": _field(row, "convention.id_sample")}
    for images, sample in samples.items():
        if sample is not None:
            yield _Difference(
                images, "all", f"a random sample of {sample['limit']} of {sample['of']}", "random sample"
            )
    skipped = row["skipped"]
    if skipped:
        yield _Difference("unreadable images", "none", str(skipped))
    if row["precision"] != "parity":
        yield _Difference("precision of the towers", "float32", str(row["precision"]))
    if row["model_facts"].get("resized"):
        yield _Difference("image size", "the model's own", str(row["model_facts"].get("image_size")))
    if (decode := _field(row, "recipe.pixels.decode") or "full") != "full":
        yield _Difference("decoding", "full", str(decode))


def _class_names(row: AnyRow) -> Iterator[_Difference]:
    """The head's digest reveals another label space under the name of ours."""
    head = _field(row, "recipe.head_classes")
    if head and row["model_facts"].get("kind") == "zero_shot" and head not in _known_class_names():
        yield _Difference("class names", "those of configs/labels", f"others ({head[:12]})")


@functools.cache
def _known_class_names() -> frozenset[str]:
    return frozenset(load_labels(path).digest for path in (config_dir() / "labels").glob("*.csv"))


def _transform(row: AnyRow, protocol: Protocol) -> Iterator[_Difference]:
    """Departures from a registered model's own transform, except where the protocol asks."""
    own, pixels = registry().get(row["model"]), _field(row, "recipe.pixels")
    if own is None or not isinstance(pixels, Mapping) or row["model_facts"].get("resized"):
        return
    for field, (word, column) in _TRANSFORM.items():
        asked, ours = f"recipe.pixels.{field}" in protocol.asks, str(pixels.get(field, own[column]))
        if not asked and ours != own[column]:
            yield _Difference(word, f"the model's own, {own[column]}", ours)


def _score(row: AnyRow) -> Any:
    """The score that ranks images in OOD detection."""
    if (row["slice"] or "").startswith("score:"):
        return row["slice"].removeprefix("score:")
    return _field(row, f"convention.headline.{row['model_facts'].get('kind')}")


def _field(row: AnyRow, dotted: str) -> Any:
    value: Any = row
    for name in dotted.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
