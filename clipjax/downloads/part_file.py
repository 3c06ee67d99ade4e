"""The beginning of a file that is being downloaded, which survives the end of its process.

    NAME.part        the bytes so far, locked (flock) while their writer lives
    NAME.part.json   where they come from

The JSON is written after the part was emptied and before its first byte, so it is never about other bytes.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from clipjax.errors import DataError
from clipjax.storage.digests import canonical_json
from clipjax.storage.locks import is_at, lock
from clipjax.storage.reading import read_json
from clipjax.storage.records import read
from clipjax.storage.remote.web import PIECE
from clipjax.storage.writing import flush_folder, put_bytes

_LOOK_S = 0.1  # seconds between looks at another writer's lock


class Stopped(Exception):
    """The downloads are to end."""


@dataclass(frozen=True)
class PartOrigin:
    """Where the bytes of a part come from.

    Attributes:
        address: without secrets.
        validator: the strong ETag, or else the time of change, that the server sent; None: neither.
        version: identifies the bytes at this address for ever, such as a commit; None: nothing does.
        length: of the whole file in bytes; None: the server did not state it.
    """

    address: str
    validator: str | None = None
    version: str | None = None
    length: int | None = None


class Hashes:
    """Hashes of bytes that come in pieces, each in a thread of its own beside the caller's.

    names: of hashlib's algorithms.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names, self._pool = names, ThreadPoolExecutor(len(names), "clipjax-hash")
        self._running: list[Future[None]] = []
        self.clear()

    def clear(self) -> None:
        self._wait()
        self._hashes = [hashlib.new(name, usedforsecurity=False) for name in self._names]

    def update(self, data: bytes) -> None:
        """Returns when the piece before this one is hashed."""
        self._wait()
        self._running = [self._pool.submit(each.update, data) for each in self._hashes]

    def hexdigests(self) -> dict[str, str]:
        """By the names of the algorithms."""
        self._wait()
        return {name: each.hexdigest() for name, each in zip(self._names, self._hashes)}

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _wait(self) -> None:
        for each in self._running:
            each.result()


class PartFile:
    """The locked part of a file. Only `empty`, `restart` and `append` change it.

    Attributes:
        path: the part.
        size: in bytes.
        origin: None while nothing is known of its bytes.
        hashes: of all its bytes, after `begin` or `restart`.
        inherited: whether they begin with bytes that an earlier run left.
    """

    def __init__(
        self, target: Path, descriptor: int, hashes: Sequence[str], progress: Callable[[int], object]
    ) -> None:
        self.path, self._target = part_of(target), target
        self._record = self.path.with_name(f"{self.path.name}.json")
        self._file, self._progress = descriptor, progress
        self._hashed = 0  # bytes in `hashes`, and told to `progress`
        self.size = os.fstat(descriptor).st_size
        self.origin = self._read_origin() if self.size else None
        self.hashes = Hashes(hashes)
        self.inherited = self.size > 0

    def begin(self, address: str, version: str | None) -> int:
        """How many bytes of this address are here already, hashed; 0 where they may be another file's."""
        origin = self.origin
        if origin is None or origin.address != address or origin.version != version:
            return 0
        if origin.validator is None and version is None:
            return 0
        while data := os.pread(self._file, PIECE, self._hashed):
            self._count(data)
        self.size = self._hashed
        return self.size

    def forget(self) -> None:
        """The bytes are not the beginning of the server's file."""
        self.origin = None

    def empty(self) -> None:
        """Drop the bytes. Raises DataError."""
        with self._writing():
            os.ftruncate(self._file, 0)
            os.fsync(self._file)
            self._record.unlink(missing_ok=True)
        self.hashes.clear()
        self._progress(-self._hashed)
        self._hashed = self.size = 0
        self.origin, self.inherited = None, False

    def restart(self, origin: PartOrigin) -> None:
        """Empty the part for bytes of this origin. Raises DataError."""
        self.empty()
        with self._writing():
            put_bytes(self._record, canonical_json(asdict(origin)).encode())
        self.origin = origin

    def append(self, data: bytes) -> None:
        """Raises DataError where the disk takes no more; what is there stays."""
        self._count(data)
        rest = memoryview(data)
        with self._writing():
            while rest:
                rest = rest[os.pwrite(self._file, rest, self.size) :]
                self.size = self._hashed - len(rest)

    def publish(self) -> None:
        """Give the whole file its name. Raises DataError."""
        with self._writing():
            os.fsync(self._file)
            os.replace(self.path, self._target)
            self._record.unlink(missing_ok=True)
            flush_folder(self._target.parent)

    def close(self) -> None:
        """Unlock the part; an empty one is removed."""
        self.hashes.close()
        if not self.size and is_at(self._file, self.path):
            self._record.unlink(missing_ok=True)
            self.path.unlink(missing_ok=True)
        os.close(self._file)

    def _count(self, data: bytes) -> None:
        self.hashes.update(data)
        self._hashed += len(data)
        self._progress(len(data))

    def _read_origin(self) -> PartOrigin | None:
        try:
            return read(PartOrigin, read_json(self._record), self._record)
        except DataError:
            return None

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DataError(
                    f"the disk of {self._target.parent} is full: free space and run again, which goes on "
                    f"after the {self.size:,} bytes of {self._target.name} that are there"
                ) from None
            raise DataError(
                f"{self.path} cannot be written ({error.strerror}): make its folder writable and run again"
            ) from None


def part_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


@contextmanager
def locked_part(
    target: Path,
    hashes: Sequence[str],
    progress: Callable[[int], object],
    notice: Callable[[str], object],
    stop: threading.Event,
) -> Iterator[PartFile | None]:
    """The part of `target`, as soon as no other process writes it; None where `target` is there by then.

    Raises:
        DataError: the folder cannot be written.
        Stopped: `stop` was set while another process wrote.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _lock(target, notice, stop)
        part = None if descriptor is None else PartFile(target, descriptor, hashes, progress)
    except OSError as error:
        raise DataError(
            f"{part_of(target)} cannot be written ({error.strerror}): make its folder writable"
        ) from None
    try:
        yield part
    finally:
        if part is not None:
            part.close()


def _lock(target: Path, notice: Callable[[str], object], stop: threading.Event) -> int | None:
    """The open and locked part; None where `target` is there."""
    path, told = part_of(target), False
    while not os.path.lexists(target):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        ours = lock(descriptor, wait=False)
        if ours and is_at(descriptor, path):
            if not os.path.lexists(target):
                return descriptor
            path.unlink()  # another process finished between the two looks, and this part is new
        os.close(descriptor)
        if not (ours or told):
            notice(f"{target.name}: another process downloads it; waiting")
            told = True
        if not ours and stop.wait(_LOOK_S):
            raise Stopped
    return None


def hexdigests_of(path: Path, names: Sequence[str], progress: Callable[[int], object]) -> dict[str, str]:
    """Hashes of a file, by the names of the algorithms. Raises OSError."""
    hashes = Hashes(names)
    try:
        with path.open("rb") as file:
            while data := file.read(PIECE):
                hashes.update(data)
                progress(len(data))
        return hashes.hexdigests()
    finally:
        hashes.close()
