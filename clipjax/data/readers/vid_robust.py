"""ImageNet-Vid-Robust: video frames, their classes and anchors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from clipjax.data.manifest import FileOpener, Manifest, missing_files
from clipjax.data.readers.reader import Reader
from clipjax.errors import DataError
from clipjax.storage.reading import check_exists, read_json

LABELS = "metadata/labels.json"
SETS = "metadata/pmsets.json"


def read_vid_robust(
    root: epath.Path, label_names: Sequence[str] | None = None, *, anchors_only: bool = False
) -> Manifest:
    """`<root>/val/<video>/<frame>.JPEG` with metadata/labels.json and metadata/pmsets.json.

    An image's label is its first class. Columns: `accepted`, all its classes (indices); `anchor`, the id of
    its set's anchor; `offset`, frames after the anchor (negative before it); `set_size`, frames of the set
    with its anchor.

    Args:
        label_names: in the order of labels.json's numbers.
        anchors_only: leave out the neighbours.

    Raises:
        DataError: metadata missing or malformed; a frame missing, without classes, or not in exactly one set;
            a class outside the set.
    """
    labels, sets = _read(root / LABELS), _read(root / SETS)
    anchor_of = _anchors(root / SETS, sets)
    _check_frames(root, labels, anchor_of, None if label_names is None else len(label_names))
    frames = sorted(sets if anchors_only else anchor_of)
    if gone := missing_files(root, frames):
        raise DataError(f"{len(gone)} of {len(frames)} frames are not below {root}, the first is {gone[0]}")
    return Manifest(
        tuple(frames),
        FileOpener(str(root), tuple(frames)),
        labels=np.array([labels[frame][0] for frame in frames], np.int32),
        columns={
            "accepted": [labels[frame] for frame in frames],
            "anchor": [anchor_of[frame] for frame in frames],
            "offset": [_number(frame) - _number(anchor_of[frame]) for frame in frames],
            "set_size": [1 + len(sets[anchor_of[frame]]) for frame in frames],
        },
        label_names=None if label_names is None else tuple(label_names),
    )


def _read(path: epath.Path) -> dict[str, list[Any]]:
    check_exists(path, "; give the folder imagenet-vid-robust, with val and metadata")
    record = read_json(path)
    if not record:
        raise DataError(f"{path}: expected one object, frame -> list")
    for frame, values in record.items():
        if not isinstance(values, list):
            raise DataError(f"{path}: the value of {frame!r} is not a list")
        if not re.fullmatch(r"[0-9]{1,9}", frame.rsplit("/", 1)[-1].split(".")[0]):
            raise DataError(f"{path}: {frame!r} is not a frame; expected val/<video>/<number>.JPEG")
    return record


def _anchors(path: epath.Path, sets: dict[str, list[Any]]) -> dict[str, str]:
    anchor_of: dict[str, str] = {}
    for anchor, neighbours in sets.items():
        if wrong := [frame for frame in neighbours if not isinstance(frame, str)]:
            raise DataError(f"{path}: the set of {anchor} has {wrong[0]!r}, which is not a frame")
        for frame in (anchor, *neighbours):
            if frame in anchor_of:
                raise DataError(f"{path}: the frame {frame} is in two sets, or twice in one")
            anchor_of[frame] = anchor
    return anchor_of


def _check_frames(
    root: epath.Path, labels: dict[str, list[Any]], anchor_of: dict[str, str], classes: int | None
) -> None:
    for frame in anchor_of:
        if not labels.get(frame):
            raise DataError(f"{root / LABELS}: the frame {frame} has no class")
    limit = classes or 2**31  # labels are int32
    for frame, numbers in labels.items():
        if frame not in anchor_of:
            raise DataError(f"{root / SETS}: the frame {frame} is in no set")
        for number in numbers:
            if type(number) is not int or not 0 <= number < limit:
                raise DataError(f"{root / LABELS}: {frame}: the class {number!r} is outside the set")


def _number(frame: str) -> int:
    """val/<video>/000442.JPEG -> 442."""
    return int(frame.rsplit("/", 1)[-1].split(".")[0])


READER = Reader(read_vid_robust)
