"""Few-shot training sets as files: image ids, the seed that drew them, and a hash of everything.

A class's images are ranked by the hash of (seed, id), so 4 shots are among the 16. Draw shots from what
`hold_out` leaves: methods with and without a search then train on the same images.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipjax.errors import DataError
from clipjax.finetune.data.splits import Split, TrainSplit, ValidationSplit, class_counts
from clipjax.guards import at_least
from clipjax.storage.digests import sha256_json
from clipjax.storage.reading import check_regular, read_json
from clipjax.storage.records import read
from clipjax.storage.writing import write_bytes

VERSION = 1


@dataclass(frozen=True)
class Shots:
    """A list of training images.

    Attributes:
        drawn_from: `Manifest.order_digest` of the images drawn from.
        content: SHA-256 over ids, bytes and class ids of the drawn images.
        ids: in manifest order.
    """

    dataset: str
    drawn_from: str
    content: str
    seed: int
    per_class: int
    ids: tuple[str, ...]

    @property
    def sha256(self) -> str:
        return sha256_json(self.record())

    def record(self) -> dict[str, Any]:
        return {"version": VERSION, **dataclasses.asdict(self), "ids": list(self.ids)}

    def of(self, split: TrainSplit) -> TrainSplit:
        """The listed images, in order.

        Raises:
            DataError: another data set, missing images, or changed contents.
        """
        if self.dataset != split.name:
            raise DataError(f"the list of shots was drawn from {self.dataset}, and not from {split.name}")
        row_of = {name: row for row, name in enumerate(split.manifest.ids)}
        if missing := [name for name in self.ids if name not in row_of]:
            raise DataError(
                f"{len(missing)} of {len(self.ids)} images in the list of shots ({missing[0]}, ...) are not "
                f"among the {len(split)} training images of {split.name}: it was drawn from another data "
                "set, or they are held out for validation"
            )
        title = f"{self.per_class} shots a class, seed {self.seed}"
        shots = split.select([row_of[name] for name in self.ids], title)
        if _content(shots) != self.content:
            raise DataError(
                f"the images or labels of {split.name} have changed since the list of shots was drawn: same "
                "names, other contents"
            )
        return shots


def write_shots(shots: Shots, path: Path) -> None:
    """Raises DataError if the disk is full or not writable."""
    text = json.dumps({**shots.record(), "sha256": shots.sha256}, indent=1) + "\n"
    write_bytes(path, text.encode())


def read_shots(path: Path) -> Shots:
    """Raises DataError for a file that is missing, damaged or changed."""
    check_regular(path)
    anew = "remove it and draw it anew (--shots N)"
    try:
        record = read_json(path)
        digest, version = record.pop("sha256"), record.pop("version")
        shots = read(Shots, record, path)
    except (DataError, KeyError):
        raise DataError(f"{path} is not a list of shots: {anew}") from None
    if version != VERSION:
        raise DataError(f"{path}: a list of shots of another version: {anew}")
    if shots.sha256 != digest:
        raise DataError(
            f"{path}: the list of shots was changed after it was drawn (its hash is another): {anew}"
        )
    return shots


def draw_shots(split: TrainSplit, per_class: int, seed: int) -> Shots:
    """Draw `per_class` images of each class.

    Raises UsageError for `per_class` below 1, DataError for a class with too few.
    """
    at_least("the shots must be at least 1 image per class", per_class, 1)
    _enough(split, per_class, f"{per_class} shots per class")
    rows = np.sort(np.concatenate([ranked[:per_class] for ranked in _ranking(split, seed)]))
    drawn = split.select(rows)
    return Shots(
        split.name, split.manifest.order_digest, _content(drawn), seed, per_class, drawn.manifest.ids
    )


def hold_out(split: TrainSplit, per_class: int, seed: int) -> tuple[TrainSplit, ValidationSplit]:
    """Hold out `per_class` images of each class; returns (rest, held out).

    Raises UsageError for `per_class` below 1, DataError for a class left without images.
    """
    at_least("at least 1 image per class must be held out", per_class, 1)
    _enough(split, per_class + 1, f"{per_class} held out and 1 left to train on")
    held = np.sort(np.concatenate([ranked[-per_class:] for ranked in _ranking(split, seed)]))
    rest = np.setdiff1d(np.arange(len(split)), held)
    title = f"{per_class} a class held out, seed {seed}"
    held_out = split.select(held, title)
    validation = ValidationSplit(held_out.name, held_out.manifest, held_out.labels, held_out.label_space)
    return split.select(rest, f"all but {title}"), validation


def _content(split: Split) -> str:
    classes = [split.label_space.ids[k] for k in split.labels]
    return sha256_json([split.manifest.images_digest, classes])


def _ranking(split: Split, seed: int) -> list[np.ndarray]:
    rank = [hashlib.sha256(f"{seed}\n{name}".encode()).digest() for name in split.manifest.ids]
    rows: list[list[int]] = [[] for _ in split.label_space.ids]
    for row in sorted(range(len(split)), key=rank.__getitem__):
        rows[split.labels[row]].append(row)
    return [np.array(each, np.int64) for each in rows]


def _enough(split: Split, needed: int, what: str) -> None:
    counts = class_counts(split)
    if np.all(counts >= needed):
        return
    short = np.flatnonzero(counts < needed)
    k = int(short[np.argmin(counts[short])])
    name = split.label_space.ids[k]
    has = "no images" if counts[k] == 0 else f"{counts[k]} image{'' if counts[k] == 1 else 's'}"
    more = "" if len(short) == 1 else f" ({len(short)} classes have too few)"
    raise DataError(f"{split.name}: {what} are asked for, and the class {name!r} has {has}{more}")
