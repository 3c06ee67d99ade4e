"""Data sets of a few large files, read at random and never unpacked."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
from etils import epath

from clipjax.data.manifest import IMAGE_EXTENSIONS, Progress
from clipjax.data.pixels.limits import check_bytes
from clipjax.errors import DataError, counted
from clipjax.storage.digests import Version, sha256_parts
from clipjax.storage.reading import check_regular, exists, is_dir, is_file, read_text
from clipjax.storage.remote.buckets import REQUESTS, BucketPath, as_path
from clipjax.storage.remote.local_copies import opened_copy

TARS = (".tar",)
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
PARQUETS = (".parquet",)
SHARDS = (*TARS, *COMPRESSED, *PARQUETS)
COUNT = "nshards.txt"  # beside CLIP_benchmark's shards: their number
DATA = "data"  # the shards' folder in a Hugging Face hub repository

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_OF = re.compile(r"(.*-)(\d{5})-of-(\d{5})(\D.*)")
_MOST = 1_000_000  # most shards of one pattern


def only_shards(path: Path, endings: tuple[str, ...]) -> bool:
    """Whether a file, pattern with braces or folder consists of such shards.

    Archives beside folders or images do not count: they were unpacked.
    """
    return are_shards(shown(path), endings) if is_dir(path) else path.name.lower().endswith(endings)


def are_shards(entries: Sequence[Path], endings: tuple[str, ...]) -> bool:
    """`only_shards` for a folder with these entries."""
    names = [entry.name.lower() for entry in entries]
    shards = [name for name in names if name.endswith(SHARDS)]
    others = any(name.endswith(IMAGE_EXTENSIONS) for name in names) or any(each.is_dir() for each in entries)
    return bool(shards) and not others and all(name.endswith(endings) for name in shards)


def shown(folder: Path) -> list[Path]:
    return [entry for entry in folder.iterdir() if not entry.name.startswith(".")]


def shard_files(root: epath.Path, endings: tuple[str, ...], inside: str | None = None) -> list[Path]:
    """The shards of `root`: sorted by the numbers in their names, or in the pattern's order.

    Args:
        root: a folder, a file, or a pattern with braces: `{000000..000009}.tar`, `{train,val}.tar`.
        inside: subfolder to use if `root` itself has no shards.

    Raises:
        DataError: no shard; one is missing by the pattern, the names (`-00003-of-00010`) or `nshards.txt`.
    """
    path = as_path(root)
    if is_dir(path):
        files = _shards_in(path, endings)
        if not files and inside is not None and is_dir(path / inside):
            path = path / inside
            files = _shards_in(path, endings)
        if not files:
            raise DataError(f"{path} holds no {' or '.join(endings)} files; give the folder of the shards")
        _check_count(path, files)
        return files
    if _BRACES.search(_pattern_of(path)) and not exists(path):
        return _expand(path)
    if not exists(path):
        raise DataError(f"{path} does not exist; give a shard, a folder of shards, or a pattern with braces")
    check_regular(path)
    return [path]


def _shards_in(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    return sorted((entry for entry in folder.iterdir() if _is_shard(entry, endings)), key=_by_numbers)


def _is_shard(path: Path, endings: tuple[str, ...]) -> bool:
    return path.name.lower().endswith(endings) and not path.name.startswith(".") and is_file(path)


def _by_numbers(path: Path) -> tuple[list[int | str], str]:
    """Sorts "10.tar" after "9.tar". Odd parts of the split are numbers, so types never mix."""
    parts = re.split(r"(\d+)", path.name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], path.name


def _check_count(folder: Path, files: Sequence[Path]) -> None:
    if exists(folder / COUNT):
        said = read_text(folder / COUNT).strip()
        if said != str(len(files)):
            has = counted(len(files), "shard")
            raise DataError(f"{folder} holds {has}, {COUNT} says {said[:20]}: copy the missing ones")
    # train-00003-of-00010.parquet: shard 3 of the series ("train-", "00010"), with the tail ".parquet".
    series: dict[tuple[str, str], dict[int, str]] = {}
    for path in files:
        if part := _OF.fullmatch(path.name):
            head, number, total, tail = part.groups()
            tail = tail if tail.startswith(".") else ""  # otherwise a hash, different in each shard
            series.setdefault((head, total), {})[int(number)] = tail
    for (head, total), tails in series.items():
        if missing := [i for i in range(int(total)) if i not in tails]:
            tail = next(iter(tails.values()))
            first = f"{head}{missing[0]:05d}-of-{total}{tail}"
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise DataError(f"{folder} lacks the shard {first}{more}: copy it")


def _pattern_of(path: Path) -> str:
    """The part of a path that may have ranges in braces: on this disk only the name."""
    return str(path) if isinstance(path, BucketPath) else path.name


def _expand(pattern: Path) -> list[Path]:
    pieces = _BRACES.split(_pattern_of(pattern))
    choices = [_choices(pattern, piece) if i % 2 else [piece] for i, piece in enumerate(pieces)]
    count = 1
    for each in choices:
        count *= len(each)
    if count > _MOST:
        raise DataError(f"{pattern} stands for {count} files; write smaller ranges")
    base = None if isinstance(pattern, BucketPath) else pattern.parent
    names = ["".join(parts) for parts in product(*choices)]
    paths = [as_path(name) if base is None else base / name for name in names]
    with ThreadPoolExecutor(1 if base else REQUESTS) as pool:
        missing = [path for path, there in zip(paths, pool.map(is_file, paths)) if not there]
    if missing:
        raise DataError(
            f"{pattern}: {len(missing)} of its {counted(len(paths), 'shard')} do not exist, the first is "
            f"{missing[0]}"
        )
    return paths


def _choices(pattern: Path, inside: str) -> list[str]:
    """ "000..009" -> ten numbers, as wide as the first; "a,b" -> both."""
    if match := _RANGE.fullmatch(inside):
        first, last = int(match[1]), int(match[2])
        if last - first >= _MOST:
            raise DataError(f"{pattern} stands for {last - first + 1} files; write smaller ranges")
        if first <= last:
            return [str(number).zfill(len(match[1])) for number in range(first, last + 1)]
    elif "," in inside:
        return inside.split(",")
    raise DataError(f"{pattern}: {{{inside}}} is not a range; write {{000..009}} or {{a,b}}")


@dataclasses.dataclass(frozen=True, eq=False)
class ShardOpener:
    """Images in tars.

    Attributes:
        locations: int64 [N, 3]: shard, offset and size in bytes.
        versions: of shards that are read from copies on this disk; empty: none is.
    """

    shards: tuple[str, ...]
    members: tuple[str, ...]
    locations: np.ndarray
    versions: tuple[Version, ...] = ()

    def open(self, i: int) -> bytes:
        shard, offset, size = (int(value) for value in self.locations[i])
        check_bytes(size, self.where(i))
        try:
            data = self._read(shard, offset, size)
        except OSError as error:
            raise DataError(f"{self.where(i)}: cannot be read ({error.strerror}); copy the shard") from None
        if len(data) != size:
            raise DataError(f"{self.where(i)}: the shard was cut off; copy it again")
        return data

    def where(self, i: int) -> str:
        return f"{self.shards[int(self.locations[i, 0])]}/{self.members[i]}"

    def select(self, rows: Sequence[int]) -> ShardOpener:
        locations = self.locations[np.asarray(rows, np.int64)]
        members = tuple(self.members[i] for i in rows)
        return dataclasses.replace(self, members=members, locations=locations)

    def content_digests(self, progress: Progress | None = None) -> list[str]:
        parts = self.locations[:, 1].astype(str).tolist()
        return digests_of_parts(self.shards, self.locations[:, 0], parts, self.open, progress)

    def _read(self, shard: int, offset: int, size: int) -> bytes:
        path = as_path(self.shards[shard])
        if isinstance(path, BucketPath) and not self.versions:
            return path.read_range(offset, offset + size)
        with opened_copy(path, self.versions[shard]) if self.versions else open(path, "rb") as file:
            file.seek(offset)
            return file.read(size)


def digests_of_parts(
    shards: tuple[str, ...],
    shard: np.ndarray,
    parts: Sequence[str],
    open_: Callable[[int], bytes],
    progress: Progress | None,
) -> list[str]:
    """SHA-256 of images in shards, in order; cached for unchanged shards.

    `shard`: int [N], each image's. `parts` identifies it there.
    """
    digests = [""] * len(parts)
    for k in np.unique(shard):
        rows = np.flatnonzero(shard == k).tolist()
        shard_digests = sha256_parts(
            as_path(shards[int(k)]),
            [parts[row] for row in rows],
            lambda i, rows=rows: open_(rows[i]),
            progress,
        )
        for row, digest in zip(rows, shard_digests):
            digests[row] = digest
    return digests
