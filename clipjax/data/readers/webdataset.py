"""WebDataset shards: plain tar files, a sample's members side by side.

    000001.jpg  000001.cls  000001.txt   000002.jpg  ...

Their key is the name up to the first dot after the last slash (webdataset 1.0, webdataset/tariterators.py,
`base_plus_ext`).
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from etils import epath

from clipjax.data.manifest import IMAGE_EXTENSIONS, Manifest
from clipjax.data.readers.label_values import is_int, number_labels
from clipjax.data.readers.reader import ARCHIVES, Reader
from clipjax.data.readers.shards import COMPRESSED, TARS, ShardOpener, only_shards, shard_files
from clipjax.errors import DataError, cut
from clipjax.storage.digests import remembered
from clipjax.storage.member_names import wrong_member_name
from clipjax.storage.reading import check_regular, decode_text, is_file, parse_json, read_lines
from clipjax.storage.remote.local_copies import nearby, versions_to_copy
from clipjax.storage.remote.web import is_page

IMAGES = tuple(ending.removeprefix(".") for ending in IMAGE_EXTENSIONS)
CLASSES = "classnames.txt"  # beside or above CLIP_benchmark's shards: the classes in label order
LABEL, CAPTIONS = "cls", "txt"

# First bytes of compressed files, and what unpacks them.
_MAGIC = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ": "unxz", b"\x28\xb5\x2f\xfd": "unzstd"}
_BLOCK = 512
MAX_TEXT = 16 * 2**20  # bytes of a label, of captions or of a JSON member


class Member(NamedTuple):
    name: str
    offset: int
    size: int


class ShardSample(NamedTuple):
    key: str
    image: Member
    members: dict[str, Member]


def read_webdataset(
    root: epath.Path,
    label_names: Sequence[str] | None = None,
    *,
    image: str | None = None,
    label: str | None = None,
    captions: str | None = None,
    shard_in_id: bool = False,
) -> Manifest:
    """A folder of *.tar, one tar, or a pattern `shards-{000000..000009}.tar`.

    An image's id is its member's name; the order is the shards'.

    Args:
        label_names: default the lines of CLIP_benchmark's `classnames.txt` beside or above the shards.
        image: the image's extension if a sample has several, e.g. "jpg".
        label: an extension ("cls"), or a key of a JSON member ("json:class"), with an int or class name. A
            number in "cls" is always an index, even if numbers name classes. Default: "cls" if the first
            sample has it.
        captions: extension whose lines are captions; default "txt" if the first sample has it.
        shard_in_id: ids are `shard.tar/member`, for shards that repeat their keys.

    Raises:
        DataError: as `walk_tar`; a repeated key, a sample without image or label, a label outside the set.
    """
    shards = shard_files(root, (*TARS, *COMPRESSED))
    ids: dict[str, Path] = {}
    members: list[str] = []
    locations: list[tuple[int, int, int]] = []  # shard, first byte, length
    raw: list[tuple[Any, str]] = []
    texts: list[list[str]] = []
    versions = versions_to_copy(shards)
    # One shard at a time, because samples are many.
    for k, (shard, file) in enumerate(zip(shards, nearby(shards, versions))):
        samples = _samples(shard, file, image)
        if samples and not ids:
            label = label or (LABEL if LABEL in samples[0].members else None)
            captions = captions or (CAPTIONS if CAPTIONS in samples[0].members else None)
        for member in (sample.image for sample in samples):
            name = f"{shard.name}/{member.name}" if shard_in_id else member.name
            if name in ids:
                raise DataError(
                    f"{shard}: {member.name} is also in {ids[name].name}; if these are two images, set "
                    "shard_in_id = true under [options] of a card"
                )
            ids[name] = shard
            members.append(member.name)
            locations.append((k, member.offset, member.size))
        read = MemberTexts(shard, file)
        for sample in samples:
            if label is not None:
                raw.append((_label(read, sample, label), read.where(sample)))
            if captions is not None:
                texts.append(_lines(read(sample, captions)))
    if not ids:
        raise DataError(f"{root} holds no images")
    names = _class_names(shards[0].parent) if label_names is None else label_names
    labels, names = number_labels(raw, names)
    opener = ShardOpener(tuple(map(str, shards)), tuple(members), np.array(locations, np.int64), versions)
    columns = {} if captions is None else {"captions": texts}
    return Manifest(tuple(ids), opener, labels=labels, columns=columns, label_names=names)


def _samples(shard: Path, file: IO[bytes], image: str | None) -> list[ShardSample]:
    groups: dict[str, dict[str, Member]] = {}
    last = None
    for member in tar_members(shard, file):
        key, extension = split_name(member.name)
        if key is None:
            continue
        if key != last and key in groups:
            raise DataError(f"{shard}: the key {key} occurs twice; a sample's members must stand together")
        if extension in groups.setdefault(key, {}):
            raise DataError(f"{shard}: the member {member.name} occurs twice; pack the shard again")
        groups[key][extension] = member
        last = key
    return [ShardSample(key, _image(shard, key, members, image), members) for key, members in groups.items()]


def split_name(name: str) -> tuple[str | None, str]:
    """A member's key, and its extension in lower case.

    None for hidden files, `__meta__` and names without an extension.
    """
    folder, slash, base = name.rpartition("/")
    stem, dot, extension = base.partition(".")
    if not stem or not dot or (stem.startswith("__") and stem.endswith("__")):
        return None, ""
    return f"{folder}{slash}{stem}", extension.lower()


def _image(shard: Path, key: str, members: dict[str, Member], image: str | None) -> Member:
    known = IMAGES if image is None else (image.lower(),)
    images = [extension for extension in members if extension in known]
    if len(images) == 1:
        return members[images[0]]
    has = ", ".join(members)
    if images:
        raise DataError(
            f"{shard}: the sample {key} has {len(images)} images ({has}); say which, image = "
            f'"{images[0]}" under [options] of a card'
        )
    raise DataError(f"{shard}: the sample {key} has no image ({', '.join(known)}), only {has}")


def tar_members(shard: Path, file: IO[bytes] | None = None) -> list[Member]:
    """`walk_tar`, cached for an unchanged file."""
    try:
        rows = remembered(shard, "tar members 1", lambda: list(walk_tar(shard, file)))
    except OSError as error:
        raise DataError(f"{shard}: cannot be read ({error.strerror or error}); copy it again") from None
    return [Member(*row) for row in rows]


def walk_tar(shard: Path, file: IO[bytes] | None = None) -> Iterator[Member]:
    """The files in a tar, in order; their bytes are not read.

    Args:
        file: the opened file to read; default: the shard. Errors name the shard.

    Raises:
        DataError: a compressed, damaged or truncated tar; a link; an impossible size; a name that is
            absolute, leaves the folder or is not UTF-8.
    """
    check_regular(shard)
    with shard.open("rb") if file is None else nullcontext(file) as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        begin = file.read(_BLOCK)
        for magic, tool in _MAGIC.items():
            if begin.startswith(magic):
                raise DataError(
                    f"{shard} is compressed and cannot be read at random; unpack it: {tool} {shard}"
                )
        if is_page(begin):
            raise DataError(f"{shard} is a web page, not a tar file: give the address of the file itself")
        file.seek(0)
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                end = 0
                for info in archive:
                    if info.size < 0 or not end < archive.offset <= size:
                        raise tarfile.ReadError(f"the size of {info.name!r:.60} is impossible: {info.size}")
                    end = archive.offset
                    if not info.isdir():
                        yield _member(shard, info)
                # Some versions of Python take a damaged extended header for the end, and stop after it.
                file.seek(archive.offset)
                if archive.offset != end or file.read(_BLOCK) != bytes(_BLOCK):
                    raise tarfile.ReadError("it has no end-of-archive mark")
        except (
            *(tarfile.TarError, ValueError, OverflowError, RecursionError),
            MemoryError,  # a header may claim a name of gigabytes
        ) as error:
            raise DataError(f"{shard}: not a whole tar file ({error}); copy it again") from None


def _member(shard: Path, info: tarfile.TarInfo) -> Member:
    name = info.name.removeprefix("./")
    if why := wrong_member_name(name):
        raise DataError(f"{shard}: the member {cut(name)} {why}; do not trust this file")
    if not info.isreg() or info.sparse is not None:
        raise DataError(f"{shard}: the member {name} is not a plain file (a link?); pack it as one")
    return Member(name, info.offset_data, info.size)


class MemberTexts:
    """Reads a shard's small members, from its opened file: `read(sample, extension)` -> text."""

    def __init__(self, shard: Path, file: IO[bytes]) -> None:
        self.shard, self._file = shard, file

    def where(self, sample: ShardSample) -> str:
        return f"{self.shard}: {sample.key}"

    def __call__(self, sample: ShardSample, extension: str) -> str:
        """Raises DataError if the member is missing, too large, or not UTF-8."""
        member = sample.members.get(extension)
        if member is None:
            has = ", ".join(sample.members)
            raise DataError(f"{self.where(sample)} has no .{extension}, as others do; it has {has}")
        if member.size > MAX_TEXT:
            raise DataError(
                f"{self.where(sample)}: .{extension} has {member.size:,} bytes, too many for a text"
            )
        self._file.seek(member.offset)
        return decode_text(self._file.read(member.size), f"{self.where(sample)}: .{extension}")


def _label(read: MemberTexts, sample: ShardSample, label: str) -> Any:
    extension, _, key = label.partition(":")
    text = read(sample, extension).strip()
    if not key:
        return int(text) if extension == LABEL and is_int(text) else text
    record = parse_json(text, f"{read.where(sample)}: .{extension}")
    if key not in record:
        raise DataError(f"{read.where(sample)}: .{extension} has no {key!r}; it has {', '.join(record)}")
    return record[key]


def _lines(text: str) -> list[str]:
    """Unlike `str.splitlines`, keeps form feeds and U+2028 in a caption."""
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []


def _class_names(folder: Path) -> list[str] | None:
    path = next((each / CLASSES for each in (folder, folder.parent) if is_file(each / CLASSES)), None)
    return None if path is None else read_lines(path)


def _recognises(path: Path) -> bool:
    return only_shards(path, (*TARS, *COMPRESSED))


READER = Reader(read_webdataset, ARCHIVES, _recognises, order=1)
