"""SHA-256 of files, remembered between runs.

Hashing a data set or a large checkpoint takes as long as reading it. A file's digest is therefore kept in
the user's cache under (path, size, modification time) and computed again only when one of them changes; that
of an object on a bucket under what the bucket says of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from clipjax.buckets import BLOCK, REQUESTS, BucketPath, place
from clipjax.errors import DataError

# Paths that one query names.
_ASKED = 500


def cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Where clipjax keeps what it can make again: $CLIPJAX_CACHE, else ~/.cache/clipjax."""
    return Path(environ.get("CLIPJAX_CACHE") or Path.home() / ".cache" / "clipjax")


def sha256_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def canonical_json(value: object) -> str:
    """The one JSON text of a value: sorted keys, no spaces, no NaN. What keys and fingerprints hash."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_json(value: object) -> str:
    return sha256_bytes(canonical_json(value).encode())


def version_of(path: Path) -> tuple[int, int]:
    """Size, and time of change in nanoseconds (on a bucket another number that changes with the object).

    Raises OSError where there is no such file; `BucketPath.ask` says what else of a bucket.
    """
    if isinstance(path, BucketPath):
        return path.version()
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _threads(path: Path) -> ThreadPoolExecutor:
    """As many as read that at the same time: a disk keeps the processors busy, a bucket is waited for."""
    return ThreadPoolExecutor(REQUESTS if isinstance(path, BucketPath) else os.cpu_count() or 1)


def sha256_files(paths: Iterable[Path], progress: Callable[[int], None] | None = None) -> list[str]:
    """Digests of the files' contents, in order; only files that changed since the last call are read.

    Args:
        paths: existing files.
        progress: called with the number of bytes of each file, as it is done.

    Raises:
        DataError: a file cannot be read.
    """
    absolute = [place(path).absolute() for path in paths]
    memory = _Memory(cache_dir() / "digests.sqlite", absolute)
    digests = []
    with _threads(absolute[0] if absolute else Path()) as pool:
        for digest, size in pool.map(memory.digest, absolute):
            digests.append(digest)
            if progress is not None:
                progress(size)
    memory.save()
    return digests


def _sha256(path: Path, size: int) -> str:
    if not isinstance(path, BucketPath):
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for start in range(0, size, BLOCK):
        digest.update(path.read_range(start, min(start + BLOCK, size)))
    return digest.hexdigest()


def sha256_parts(
    path: Path,
    parts: Sequence[str],
    read: Callable[[int], bytes],
    progress: Callable[[int], None] | None = None,
) -> list[str]:
    """Digests of parts of one large file, in order; remembered as long as the file does not change.

    Args:
        path: an existing file.
        parts: what tells the parts apart in it, one text each.
        read: the number of a part -> its bytes; called from several threads, for parts not remembered.
        progress: called with the number of bytes read of each part, as it is done.

    Raises:
        DataError: the file cannot be read; what `read` raises.
    """
    names = [f"{path.absolute()}#{part}" for part in parts]
    memory = _Memory(cache_dir() / "digests.sqlite", names)
    try:
        version = version_of(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None

    def digest(i: int) -> tuple[str, int]:
        if (known := memory.find(names[i], version)) is not None:
            return known, 0
        data = read(i)
        value = sha256_bytes(data)
        memory.new.append((names[i], *version, value))
        return value, len(data)

    digests = []
    with _threads(path) as pool:
        for value, size in pool.map(digest, range(len(names))):
            digests.append(value)
            if progress is not None:
                progress(size)
    memory.save()
    return digests


class _Memory:
    """What earlier runs computed of some files, by path, size and time of change; a cache that fails only
    costs time."""

    def __init__(self, file: Path, paths: Sequence[Path | str]) -> None:
        self.file = file
        self.new: list[tuple[str, int, int, str]] = []
        self.known: dict[str, tuple[int, int, str]] = {}
        with contextlib.suppress(OSError, sqlite3.Error), self._table() as table:
            for start in range(0, len(paths), _ASKED):
                asked = [str(path) for path in paths[start : start + _ASKED]]
                marks = ", ".join("?" * len(asked))
                found = table.execute(f"SELECT * FROM digests WHERE path IN ({marks})", asked)
                self.known |= {path: tuple(row) for path, *row in found}

    @contextlib.contextmanager
    def _table(self) -> Iterator[sqlite3.Connection]:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(self.file, timeout=30)) as table, table:
            table.execute(
                "CREATE TABLE IF NOT EXISTS digests (path TEXT PRIMARY KEY, size INT, mtime_ns INT, sha256)"
            )
            yield table

    def find(self, name: str, version: tuple[int, int]) -> str | None:
        known = self.known.get(name)
        if known is not None and known[:2] == version:
            return known[2]
        return None

    def digest(self, path: Path) -> tuple[str, int]:
        try:
            version = version_of(path)
            if (known := self.find(str(path), version)) is not None:
                return known, version[0]
            value = _sha256(path, version[0])
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from None
        self.new.append((str(path), *version, value))
        return value, version[0]

    def save(self) -> None:
        if self.new:
            with contextlib.suppress(OSError, sqlite3.Error), self._table() as table:
                table.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?)", self.new)
