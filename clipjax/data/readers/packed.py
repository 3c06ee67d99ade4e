"""Packed data sets (`clipjax datasets pack`): shards and a manifest.json.

    OUT/00000.tar 00001.tar ... manifest.json          or *.array_record

They have their source's digest, and any card of the source reads them.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from clipjax.data.manifest import Manifest, Opener, Progress
from clipjax.data.pixels.limits import check_bytes
from clipjax.data.readers.reader import Reader
from clipjax.data.readers.shards import ShardOpener, digests_of_parts
from clipjax.data.readers.webdataset import Member, split_name, tar_members
from clipjax.errors import DataError, counted
from clipjax.storage.digests import Version, sha256_json, version_of
from clipjax.storage.reading import check_regular, is_file, read_json
from clipjax.storage.remote.buckets import BucketPath, as_path

MANIFEST = "manifest.json"
FORMAT = "clipjax packed images 1"
DIGEST = "digest"
_LOG = logging.getLogger(__name__)
_BEGIN = f'{{"format": "{FORMAT}"'.encode()
_KEYS = {"format", "kind", "name", "label_names", "shards", "ids", "sha256", "labels", "columns"}
OR_ANEW = ", or remove the folder and pack the data set again"
_OR_MEND = ", or pack the data set into this folder again, which writes only what is damaged"
KINDS = {"webdataset": ".tar", "array_record": ".array_record"}


def is_packed(root: str | os.PathLike[str]) -> bool:
    path = as_path(root) / MANIFEST
    try:
        if isinstance(path, BucketPath):
            return path.read_range(0, len(_BEGIN)) == _BEGIN
        if not is_file(path):  # opening a FIFO would never end
            return False
        with path.open("rb") as file:
            return file.read(len(_BEGIN)) == _BEGIN
    except OSError:
        return False


def read_packed(root: str | os.PathLike[str], label_names: Sequence[str] | None = None) -> Manifest:
    """`label_names` must equal the classes it was packed with, if any.

    Raises:
        DataError: manifest.json missing or damaged; a shard missing or of another size; other classes.
    """
    folder = as_path(root)
    record = read_record(folder)
    names = record["label_names"]
    if label_names is not None and names is not None and list(label_names) != names:
        wrong = next((i for i, (a, b) in enumerate(zip(label_names, names)) if a != b), "the length")
        raise DataError(f"{folder}: packed with other classes than the card's, first at {wrong}")
    for shard in record["shards"]:
        _check_shard(folder, shard)
    files = [folder / shard["file"] for shard in record["shards"]]
    counts = [shard["images"] for shard in record["shards"]]
    opener = _tars(files, counts) if record["kind"] == "webdataset" else _records(files, counts)
    return Manifest(
        tuple(record["ids"]),
        PackedOpener(opener, tuple(record["sha256"])),
        labels=None if record["labels"] is None else np.array(record["labels"], np.int32),
        columns=record["columns"],
        label_names=None if names is None else tuple(names),
    )


def read_record(folder: Path) -> dict[str, Any]:
    """manifest.json without its digest; raises DataError if missing or damaged."""
    path = folder / MANIFEST
    check_regular(path)
    try:
        record = read_json(path)
    except DataError as error:
        raise _damaged(path, str(error).removeprefix(f"{path} ")) from None
    digest = record.pop(DIGEST, None)
    if digest is None:
        _note_no_digest(str(path))
    elif digest != sha256_json(record):
        raise _damaged(path, f"its SHA-256 is not that in its {DIGEST!r}")
    try:
        _check_types(record)
        lengths = {len(record[key]) for key in ("ids", "sha256")}
        lengths |= {sum(shard["images"] for shard in record["shards"])}
        if record["format"] != FORMAT or record.keys() != _KEYS or len(lengths) != 1:
            raise ValueError("its keys or lengths do not fit")
        if record["kind"] not in KINDS:
            raise ValueError(f"unknown kind {record['kind']!r}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, str(error)) from None
    return record


def _damaged(path: Path, why: str) -> DataError:
    return DataError(f"{path} is damaged ({why}); copy it again{OR_ANEW}")


@functools.lru_cache(maxsize=256)
def _note_no_digest(path: str) -> None:
    """Once per manifest."""
    _LOG.warning(
        "%s has no SHA-256 of its own: whether ids, labels or columns were changed is not known (pack the "
        "data set into a new folder to have one)",
        path,
    )


def _check_types(record: dict[str, Any]) -> None:
    images, shards = len(record["ids"]), record["shards"]
    texts = [*record["ids"], *record["sha256"], *(record["label_names"] or ())]
    texts += [shard["file"] for shard in shards]
    numbers = [*(record["labels"] or ())]
    for shard in shards:
        numbers += [shard["images"], shard["bytes"]]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("an id, a digest or a name is not a text")
    if not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
        raise ValueError("a label or a size is not a whole number")
    # Labels are int32; without names any of them is a class.
    classes = len(record["label_names"]) if record["label_names"] else 2**31
    labels = record["labels"]
    if labels is not None and (len(labels) != images or max(labels, default=0) >= classes):
        raise ValueError("its labels are not one for each image, among its classes")
    if not all(isinstance(column, list) and len(column) == images for column in record["columns"].values()):
        raise ValueError("a column is not one value for each image")


def _check_shard(folder: Path, shard: dict[str, Any]) -> None:
    path = folder / shard["file"]
    _refuse_outside(folder, path, shard["file"])
    if not is_file(path):
        raise DataError(f"{path} does not exist, and {MANIFEST} names it: copy it{_OR_MEND}")
    if (size := version_of(path)[0]) != shard["bytes"]:
        raise DataError(f"{path} has {size} bytes, {MANIFEST} says {shard['bytes']}: copy it again{_OR_MEND}")


def _refuse_outside(folder: Path, path: Path, name: str) -> None:
    """A foreign manifest must not make us read other files."""
    parts = PurePosixPath(name)
    outside = parts.is_absolute() or ".." in parts.parts or not parts.parts
    if not outside and not isinstance(path, BucketPath):
        outside = not path.resolve().is_relative_to(folder.resolve())
    if outside:
        raise DataError(
            f"{folder / MANIFEST} names the shard {name!r}, which is outside of its folder: copy the shard "
            "into the folder"
        )


@dataclasses.dataclass(frozen=True, eq=False)
class PackedOpener:
    shards: Opener
    sha256: tuple[str, ...]

    def open(self, i: int) -> bytes:
        return self.shards.open(i)

    def where(self, i: int) -> str:
        return self.shards.where(i)

    def select(self, rows: Sequence[int]) -> PackedOpener:
        return PackedOpener(self.shards.select(rows), tuple(self.sha256[i] for i in rows))

    def content_digests(self, progress: Progress | None = None) -> list[str]:
        """The SHA-256 of each image's bytes, read again.

        Raises:
            DataError: an image differs from what was packed; names the first.
        """
        digests = self.shards.content_digests(progress)
        for i, (digest, packed) in enumerate(zip(digests, self.sha256)):
            if digest != packed:
                raise DataError(
                    f"{self.where(i)}: has changed since it was packed; copy the shard again{_OR_MEND}"
                )
        return digests


def sample_images(shard: Path) -> list[Member]:
    """Each sample's image, its first member."""
    keyed = [(split_name(member.name)[0], member) for member in tar_members(shard)]
    return [member for i, (key, member) in enumerate(keyed) if i == 0 or key != keyed[i - 1][0]]


def _tars(files: list[Path], counts: list[int]) -> ShardOpener:
    members, locations = [], []
    for k, (file, count) in enumerate(zip(files, counts)):
        images = sample_images(file)
        _check_count(file, len(images), count)
        members += [member.name for member in images]
        locations += [(k, member.offset, member.size) for member in images]
    return ShardOpener(tuple(map(str, files)), tuple(members), np.array(locations, np.int64))


def _records(files: list[Path], counts: list[int]) -> RecordOpener:
    for file, count in zip(files, counts):
        if isinstance(file, BucketPath):
            raise DataError(f"{file}: ArrayRecord files are read on a disk: copy them, or pack as webdataset")
        with _READING:
            _check_count(file, _reader(str(file), version_of(file)).num_records(), count)
    locations = [np.stack([np.full(count, k), np.arange(count)], 1) for k, count in enumerate(counts)]
    return RecordOpener(tuple(map(str, files)), np.concatenate(locations))


def _check_count(file: Path, images: int, said: int) -> None:
    if images != said:
        raise DataError(
            f"{file} holds {counted(images, 'image')}, {MANIFEST} says {said}: copy it again{_OR_MEND}"
        )


@dataclasses.dataclass(frozen=True, eq=False)
class RecordOpener:
    """`locations`: int64 [N, 2], file and record."""

    files: tuple[str, ...]
    locations: np.ndarray

    def open(self, i: int) -> bytes:
        number, record = (int(value) for value in self.locations[i])
        path = self.files[number]
        try:
            with _READING:
                data = _reader(path, version_of(Path(path))).read([record])[0]
        except (OSError, RuntimeError, IndexError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"{self.where(i)}: cannot be read ({reason}); copy the shard again") from None
        check_bytes(len(data), self.where(i))
        return data

    def where(self, i: int) -> str:
        return f"{self.files[int(self.locations[i, 0])]} record {int(self.locations[i, 1])}"

    def select(self, rows: Sequence[int]) -> RecordOpener:
        return RecordOpener(self.files, self.locations[np.asarray(rows, np.int64)])

    def content_digests(self, progress: Progress | None = None) -> list[str]:
        parts = self.locations[:, 1].astype(str).tolist()
        return digests_of_parts(self.files, self.locations[:, 0], parts, self.open, progress)


_READING = threading.Lock()


@functools.lru_cache(maxsize=64)
def _reader(path: str, version: Version) -> Any:
    """A replaced file has another `version`. Not picklable, so not in the opener."""
    from array_record.python.array_record_module import ArrayRecordReader

    return ArrayRecordReader(path)


READER = Reader(read_packed, recognises=is_packed)
