"""Pack loose images into shards with a manifest.json.

A shard is compared with its sources' SHA-256 before it appears; manifest.json comes last. An interrupted run
continues; packing into a finished folder rewrites damaged shards.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from etils import epath

from clipjax.data.corrupted.opener import refuse_corrupted
from clipjax.data.manifest import IMAGE_EXTENSIONS, Manifest
from clipjax.data.readers.packed import (
    DIGEST,
    FORMAT,
    KINDS,
    MANIFEST,
    OR_ANEW,
    is_packed,
    read_packed,
    read_record,
)
from clipjax.data.readers.webdataset import CLASSES, split_name, walk_tar
from clipjax.errors import DataError, UsageError
from clipjax.guards import at_least, known_name
from clipjax.storage.digests import sha256_bytes, sha256_json, version_of
from clipjax.storage.local_files import LocalFiles
from clipjax.storage.reading import exists, is_dir, is_file
from clipjax.storage.remote.buckets import BucketError, BucketPath, as_path
from clipjax.storage.writing import put_bytes, sweep, whole_file

PLAN = "packing.json"  # exists until the folder is finished
IMAGES_PER_SHARD = 1000

# First bytes of encoded images, for members whose ids do not tell the format.
_KINDS = {
    b"\xff\xd8": "jpg",
    b"\x89PNG": "png",
    b"RIFF": "webp",
    b"BM": "bmp",
    b"II*\0": "tif",
    b"MM\0*": "tif",
}


@dataclass(frozen=True)
class PackedData:
    """What a packing wrote: `shards` shards, of which `kept` existed before."""

    folder: Path
    digest: str
    images: int
    shards: int
    kept: int


def pack(
    manifest: Manifest,
    folder: str | Path,
    kind: str,
    *,
    images_per_shard: int = IMAGES_PER_SHARD,
    beside: Mapping[str, bytes] | None = None,
    progress: Callable[[int], object] | None = None,
) -> PackedData:
    """Write a data set's images as shards, in order.

    Args:
        folder: new, empty, or from an earlier run of this packing; on a disk or bucket.
        kind: "webdataset" or "array_record".
        beside: further files of the data set's folder, by name (`files_of_record`), for the packed one.
        progress: called with each finished shard's number of images.

    Raises:
        UsageError: an unknown kind, a shard of no images, ArrayRecord on a bucket, a data set of pairs, or
            images that are corrupted while they are read.
        DataError: a folder of something else, an unreadable image, a full disk, a shard that does not read
            back.
    """
    folder = as_path(folder).expanduser()
    _check(manifest, folder, kind, images_per_shard)
    sizes: dict[str, int] = {}
    if is_packed(folder):
        _refuse_other(manifest, folder, kind, images_per_shard)
        sizes = {shard["file"]: shard["bytes"] for shard in read_record(folder)["shards"]}
        if _is_whole(folder):
            with _writing(folder, "the folder"):
                _put_beside(folder, beside or {})
            shards = -(-len(manifest) // images_per_shard)
            return PackedData(folder, manifest.digest, len(manifest), shards, shards)
    else:
        with _writing(folder, "the folder"):
            _claim(folder, _plan(manifest, kind, images_per_shard))
    shards = _Shards(manifest, _FORMATS[kind](manifest))
    digests: list[str] = []
    entries, kept = [], 0
    for path, rows in _files(folder, kind, len(manifest), images_per_shard):
        found = shards.kept(path, rows, sizes.get(path.name))
        kept += found is not None
        digests += shards.write(path, rows) if found is None else found
        entries.append({"file": path.name, "images": len(rows), "bytes": version_of(path)[0]})
        if progress is not None:
            progress(len(rows))
    if digests != manifest.opener.content_digests():
        raise DataError(f"images of {manifest.name or folder} have changed while they were packed; run again")
    with _writing(folder, MANIFEST):
        _put_beside(folder, beside or {})
        _finish(folder, manifest, kind, entries, digests)
    return PackedData(folder, _digest(folder, manifest), len(manifest), len(entries), kept)


def _check(manifest: Manifest, folder: Path, kind: str, images_per_shard: int) -> None:
    """Raises UsageError and DataError as `pack`, for what can be refused before anything is written."""
    known_name("format", kind, KINDS)
    at_least("a shard holds at least 1 image", images_per_shard, 1)
    if len(manifest) == 0:
        raise DataError(f"{manifest.name or 'the data set'} has no images to pack")
    if manifest.pairs is not None:
        raise UsageError(
            f"{manifest.name} has pairs: its depths, poses and annotations cannot be packed: copy the folder"
        )
    refuse_corrupted(manifest)
    if kind == "array_record" and isinstance(folder, BucketPath):
        raise UsageError(f"{folder}: ArrayRecord files are read on a disk: pack to one, or as webdataset")


def _files(folder: Path, kind: str, images: int, images_per_shard: int) -> Iterator[tuple[Path, range]]:
    """(a shard's file, its rows of the manifest), in order."""
    for k, start in enumerate(range(0, images, images_per_shard)):
        yield folder / f"{k:05d}{KINDS[kind]}", range(start, min(start + images_per_shard, images))


def _put_beside(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        if not is_file(folder / name) or (folder / name).read_bytes() != data:
            put_bytes(folder / name, data)


def _digest(folder: Path, manifest: Manifest) -> str:
    """A bucket's objects were read back before their upload."""
    return manifest.digest if isinstance(folder, BucketPath) else read_packed(folder).digest


def refuse_within(data: str | Path, folder: str | Path) -> None:
    """Raises UsageError if `folder` is inside the data set, whose images its shards would become."""
    around, inside = as_path(data).expanduser(), as_path(folder).expanduser()
    if is_dir(around) and inside.resolve().is_relative_to(around.resolve()):
        raise UsageError(f"{inside} is in the data set {around} itself; give a folder outside of it")


def _refuse_other(manifest: Manifest, folder: Path, kind: str, images_per_shard: int) -> None:
    """Raises DataError unless this packing would give the finished folder."""
    record = read_record(folder)
    images, own = record["shards"][0]["images"], json.loads(json.dumps(_record(manifest, kind, [])))
    if any(own[key] != record[key] for key in ("kind", "ids", "labels", "label_names", "columns")):
        raise DataError(f"{folder} holds another packed data set; choose a new folder")
    if record["sha256"] != manifest.opener.content_digests():
        raise DataError(
            f"{folder} was packed when the images were others (or its {MANIFEST} was changed); choose a new "
            f"folder{OR_ANEW}"
        )
    if images != min(images_per_shard, len(manifest)):
        raise DataError(
            f"{folder} is packed already, {images} images per shard, not {images_per_shard}: "
            "give that number, or choose a new folder"
        )


def _is_whole(folder: Path) -> bool:
    try:
        read_packed(folder).opener.content_digests()
    except BucketError:
        raise
    except DataError:
        return False
    return True


def _plan(manifest: Manifest, kind: str, images_per_shard: int) -> dict[str, Any]:
    """Everything that decides the shards, besides the images' bytes."""
    labels = None if manifest.labels is None else manifest.labels.tolist()
    others = sha256_json([labels, manifest.label_names, manifest.columns])
    order = manifest.order_digest
    return {
        "format": FORMAT,
        "kind": kind,
        "images_per_shard": images_per_shard,
        "order": order,
        "other": others,
    }


def _claim(folder: Path, plan: dict[str, Any]) -> None:
    """Make the folder or continue in it; a folder with foreign files is refused."""
    path = folder / PLAN
    if is_file(path):
        if path.read_text() != json.dumps(plan):
            raise DataError(
                f"{folder} holds the begun packing of something else; remove it, or choose another"
            )
        if not isinstance(folder, BucketPath):
            LocalFiles().clean(epath.Path(folder))
        return
    if not isinstance(folder, BucketPath):
        sweep(path)  # a run that was killed here left a draft
    if exists(folder) and any(folder.iterdir()):
        raise DataError(f"{folder} is not empty; choose a new folder")
    put_bytes(path, json.dumps(plan).encode())


def _record(manifest: Manifest, kind: str, digests: Sequence[str]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "kind": kind,
        "name": manifest.name,
        "label_names": manifest.label_names,
        "shards": [],
        "ids": manifest.ids,
        "sha256": digests,
        "labels": None if manifest.labels is None else manifest.labels.tolist(),
        "columns": manifest.columns,
    }


def _finish(
    folder: Path, manifest: Manifest, kind: str, shards: Sequence[dict[str, Any]], digests: Sequence[str]
) -> None:
    """Write the names of the classes and then the manifest, which makes the folder whole."""
    names, record = manifest.label_names, _record(manifest, kind, digests) | {"shards": shards}
    # WebDataset's file has one name a line.
    if names is not None and all(name.strip() and name.splitlines() == [name] for name in names):
        put_bytes(folder / CLASSES, "".join(f"{name}\n" for name in names).encode())
    record[DIGEST] = sha256_json(record)
    put_bytes(folder / MANIFEST, json.dumps(record, ensure_ascii=False).encode())
    (folder / PLAN).unlink(missing_ok=True)


class _Shards:
    def __init__(self, manifest: Manifest, form: _Format) -> None:
        self.manifest = manifest
        self.form = form

    def kept(self, path: Path, rows: range, size: int | None) -> list[str] | None:
        """SHA-256 of images in an earlier run's shard; None if missing or wrong."""
        if not is_file(path) or size not in (None, version_of(path)[0]):
            return None
        expected = self.manifest.select(rows).opener.content_digests()
        try:
            right = self.form.read(path, rows) == expected
        except BucketError:
            raise
        except (DataError, OSError, RuntimeError):
            right = False
        return expected if right else None

    def write(self, path: Path, rows: range) -> list[str]:
        with _writing(path, "the shard"), whole_file(path) as temporary:
            digests = self.form.write(temporary, rows)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            if self.form.read(temporary, rows) != digests:
                raise DataError(f"{path} does not read back as it was written; is the disk failing?")
        return digests


class _Format(Protocol):
    def write(self, path: Path, rows: range) -> list[str]:
        """Returns each image's SHA-256."""
        ...

    def read(self, path: Path, rows: range) -> list[str]:
        """Each image's SHA-256; raises DataError or RuntimeError for a damaged shard."""
        ...


class _Records:
    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest

    def write(self, path: Path, rows: range) -> list[str]:
        from array_record.python.array_record_module import ArrayRecordWriter

        # Groups of one allow reading single records; encoded images do not compress.
        writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
        try:
            digests = []
            for row in rows:
                data = self.manifest.open(row)
                writer.write(data)
                digests.append(sha256_bytes(data))
        finally:
            writer.close()
        return digests

    def read(self, path: Path, rows: range) -> list[str]:
        from array_record.python.array_record_module import ArrayRecordReader

        reader = ArrayRecordReader(str(path))
        try:
            return [sha256_bytes(reader.read([i])[0]) for i in range(reader.num_records())]
        finally:
            reader.close()


class _Tar:
    """Each image, then its label (.cls), captions (.txt) and other columns (.json)."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.keep_names = _are_member_names(manifest.ids)

    def write(self, path: Path, rows: range) -> list[str]:
        digests = []
        with tarfile.open(path, "w") as archive:
            for row in rows:
                data = self.manifest.open(row)
                digests.append(sha256_bytes(data))
                for name, content in self._members(row, data):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
        return digests

    def read(self, path: Path, rows: range) -> list[str]:
        """The SHA-256 of each row's image; other members must be what `write` makes."""
        members = walk_tar(path)
        digests = []
        with path.open("rb") as file:
            for row in rows:
                for number, (name, content) in enumerate(self._members(row, None)):
                    member = next(members, None)
                    if member is None:
                        raise DataError(f"{path} ends before {name}")
                    file.seek(member.offset)
                    data = file.read(member.size)
                    if number == 0:
                        digests.append(sha256_bytes(data))
                        name = self._image_name(row, data)
                    if member.name != name or (number and data != content):
                        raise DataError(f"{path}: {member.name} is not what belongs there")
        if next(members, None) is not None:
            raise DataError(f"{path} has other files after its last image")
        return digests

    def _members(self, row: int, image: bytes | None) -> Iterator[tuple[str, bytes]]:
        """(name, content), the image first; its name is "" without `image`."""
        yield "" if image is None else self._image_name(row, image), image or b""
        stem = split_name(self.manifest.ids[row])[0] if self.keep_names else f"{row:08d}"
        if self.manifest.labels is not None:
            yield f"{stem}.cls", str(int(self.manifest.labels[row])).encode()
        columns = {name: values[row] for name, values in self.manifest.columns.items()}
        captions = columns.get("captions")
        if isinstance(captions, list) and all(isinstance(text, str) for text in captions):
            yield f"{stem}.txt", "\n".join(captions).encode()
        if columns:
            yield f"{stem}.json", json.dumps(columns, ensure_ascii=False).encode()

    def _image_name(self, row: int, image: bytes) -> str:
        if self.keep_names:
            return self.manifest.ids[row]
        kind = next((kind for begin, kind in _KINDS.items() if image.startswith(begin)), None)
        suffix = PurePosixPath(self.manifest.ids[row]).suffix.lower()
        return f"{row:08d}.{kind or (suffix if suffix in IMAGE_EXTENSIONS else '.jpg').removeprefix('.')}"


_FORMATS = {"webdataset": _Tar, "array_record": _Records}


def _are_member_names(ids: Sequence[str]) -> bool:
    """Whether each id can be the name of an archive's member, and no two have one key."""
    keys = set()
    for name in ids:
        key, extension = split_name(name)
        path = PurePosixPath(name)
        safe = str(path) == name and not path.is_absolute() and ".." not in path.parts
        if key is None or f".{extension}" not in IMAGE_EXTENSIONS or not safe:
            return False
        keys.add(key)
    return len(keys) == len(ids)


@contextlib.contextmanager
def _writing(path: Path, what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:  # array_record raises RuntimeError
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
        reason = "no space left" if full else str(getattr(error, "strerror", None) or error).splitlines()[0]
        raise DataError(
            f"{path}: {what} cannot be written ({reason}); free some space or choose another disk and run it "
            "again: finished shards are kept"
        ) from None
