"""SHA-256 of files, remembered between runs by path and `Version`.

Size and modification time do not identify a file: `cp -p`, `rsync -t` and `tar` set the time. No program sets
the time of change (ctime), and a renamed file has another inode. A file may still change twice within one
step of the clock. So a digest is not kept if its file changed just before the read (git's "racy git"), nor
on a disk that stores no time of change.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from clipjax.config import cache_dir
from clipjax.errors import DataError
from clipjax.storage.local_files import keeps_ctime, mounted
from clipjax.storage.remote.buckets import BLOCK, REQUESTS, BucketPath, as_path

T = TypeVar("T")

SETTLED_NS = 2 * 10**9  # the coarsest file system clock in use, FAT's, moves in steps of two seconds
_ASKED = 500  # paths in one query
_ATTEMPTS = 3  # to read a file that changes meanwhile


class Version(NamedTuple):
    """Identifies a file's contents without reading them.

    Attributes:
        size: in bytes.
        mtime_ns: on a bucket, a number that changes with the object.
        ctime_ns: 0 on a bucket.
        inode: 0 on a bucket.
        device: 0 on a bucket.
    """

    size: int
    mtime_ns: int
    ctime_ns: int = 0
    inode: int = 0
    device: int = 0


def sha256_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def canonical_json(value: object) -> str:
    """A value as the one JSON text that is hashed: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_json(value: object) -> str:
    return sha256_bytes(canonical_json(value).encode())


def version_of(path: Path | str) -> Version:
    """Raises OSError if missing; on a bucket as `BucketPath.ask`."""
    if isinstance(path, BucketPath):
        return Version(*path.version())
    status = os.stat(path)
    return Version(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)


def read_still(path: Path, read: Callable[[Version], T]) -> tuple[T, Version]:
    """`read(version)` and the version, of a file that stays the same meanwhile.

    Raises DataError if it is unreadable or always changes, or if `read` does.
    """
    try:
        for _ in range(_ATTEMPTS):
            before, value, failure = version_of(path), None, None
            try:
                value = read(before)
            except (OSError, DataError) as error:
                failure = error
            if version_of(path) == before:
                if failure is not None:
                    raise failure
                return cast(T, value), before
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    raise DataError(f"{path} changes while it is read: run again when it is written")


def clock_ns(folder: Path) -> int:
    """Nanoseconds since the epoch, by the earlier of this machine's clock and the folder's.

    A file server's clock may be slow.
    """
    now = time.time_ns()
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            now = min(now, os.fstat(file.fileno()).st_ctime_ns)
    return now


def _threads(path: Path) -> ThreadPoolExecutor:
    # Threads of a bucket mostly wait.
    return ThreadPoolExecutor(REQUESTS if isinstance(path, BucketPath) else os.cpu_count() or 1)


def sha256_files(paths: Iterable[Path], progress: Callable[[int], object] | None = None) -> list[str]:
    """Digests of files, in order; reads only those changed since the last call.

    Args:
        progress: takes each finished file's bytes.

    Raises DataError for an unreadable file.
    """
    absolute = [as_path(path).absolute() for path in paths]
    memory = _Memory(absolute)
    digests = []
    with _threads(absolute[0] if absolute else Path()) as pool:
        for digest, size in pool.map(memory.digest, absolute):
            digests.append(digest)
            if progress is not None:
                progress(size)
    memory.save()
    return digests


def sha256_file(path: Path, size: int | None = None) -> str:
    """The SHA-256 of a file, which is not remembered; `size`: an object's bytes, if known.

    Raises OSError if unreadable; on a bucket as `BucketPath.ask`.
    """
    if not isinstance(path, BucketPath):
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest, size = hashlib.sha256(), path.version()[0] if size is None else size
    for start in range(0, size, BLOCK):
        digest.update(path.read_range(start, min(start + BLOCK, size)))
    return digest.hexdigest()


def sha256_parts(
    path: Path,
    parts: Sequence[str],
    read: Callable[[int], bytes],
    progress: Callable[[int], object] | None = None,
) -> list[str]:
    """Digests of a large file's parts, in order; remembered until the file changes.

    Args:
        parts: one text a part, unique in the file.
        read: part number -> bytes; called from several threads.
        progress: takes the bytes read of each finished part.

    Raises DataError if the file is unreadable, or `read` raises it.
    """
    names = [f"{path.absolute()}#{part}" for part in parts]
    memory = _Memory(names)

    def digests_of(version: Version) -> list[tuple[str, int]]:
        def digest(i: int) -> tuple[str, int]:
            if (known := memory.find(names[i], version)) is not None:
                return known, 0
            data = read(i)
            return sha256_bytes(data), len(data)

        pairs = []
        with _threads(path) as pool:
            for value, size in pool.map(digest, range(len(names))):
                pairs.append((value, size))
                if progress is not None:
                    progress(size)
        return pairs

    digests, version = read_still(path, digests_of)
    for name, (value, _) in zip(names, digests):
        memory.add(name, version, value)
    memory.save()
    return [value for value, _ in digests]


def remembered(path: Path, what: str, compute: Callable[[], Any]) -> Any:
    """`compute()`, or its value of an earlier run, until the file changes.

    Args:
        what: the computation and its version, e.g. "tar members 1".
        compute: gives JSON that depends on the file alone.

    Raises:
        DataError: the file is unreadable or changes meanwhile, or `compute` raises it.
    """
    name = f"{what} of {path.absolute()}"  # unlike a path's, which begins with "/" or a scheme
    memory = _Memory([name])

    def value_of(version: Version) -> Any:
        known = memory.find(name, version)
        return compute() if known is None else json.loads(known)

    value, version = read_still(path, value_of)
    if memory.find(name, version) is None:  # a long list takes a while to write
        memory.add(name, version, json.dumps(value))
        memory.save()
    return value


class _Memory:
    """Digests (or other texts) by path and version; a failing cache only costs time."""

    def __init__(self, paths: Sequence[Path | str]) -> None:
        self.file = cache_dir() / "digests.sqlite"
        self.now = clock_ns(self.file.parent)
        self.new: list[tuple[str, str, str]] = []
        self.mounts = mounted()
        self.known: dict[str, tuple[str, str, str]] = {}
        with contextlib.suppress(OSError, sqlite3.Error), self._table() as table:
            for start in range(0, len(paths), _ASKED):
                asked = [str(path) for path in paths[start : start + _ASKED]]
                marks = ", ".join("?" * len(asked))
                rows = table.execute(f"SELECT * FROM records WHERE path IN ({marks})", asked)
                self.known |= {path: tuple(row) for path, *row in rows}

    @contextlib.contextmanager
    def _table(self) -> Iterator[sqlite3.Connection]:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(self.file, timeout=30)) as table, table:
            # A new name: older tables lack the checksum. Text: an inode may exceed SQLite's integers.
            table.execute(
                "CREATE TABLE IF NOT EXISTS records (path TEXT PRIMARY KEY, version TEXT, sha256, checksum)"
            )
            yield table

    def find(self, name: str, version: Version) -> str | None:
        """The digest; None if unknown, or if the disk does not store changes' times (`keeps_ctime`)."""
        known = self.known.get(name)
        if known is None:
            return None
        stated, digest, checksum = known
        if stated != canonical_json(version) or checksum != _checksum(name, stated, digest):
            return None
        return digest if keeps_ctime(version.device, self.mounts) else None

    def add(self, name: str, version: Version, sha256: str) -> None:
        # Any change gives an object another version, but a file only after a step of the disk's clock.
        settled = not any(version[2:]) or max(version.mtime_ns, version.ctime_ns) + SETTLED_NS < self.now
        if settled and keeps_ctime(version.device, self.mounts) and self.find(name, version) is None:
            self.new.append((name, canonical_json(version), sha256))

    def digest(self, path: Path) -> tuple[str, int]:
        digest, version = read_still(
            path, lambda version: self.find(str(path), version) or sha256_file(path, version.size)
        )
        self.add(str(path), version, digest)
        return digest, version.size

    def save(self) -> None:
        if self.new:
            with contextlib.suppress(OSError, sqlite3.Error), self._table() as table:
                rows = [(*row, _checksum(*row)) for row in self.new]
                table.executemany("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?)", rows)


def _checksum(name: str, version: str, sha256: str) -> str:
    """The checksum of one record: a damaged or swapped record is not believed."""
    return sha256_json([name, version, sha256])
