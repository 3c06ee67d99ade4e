"""Files that are whole or absent, on a local or network disk.

A file is written beside its place, flushed to disk and only then given its name.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import uuid
from collections.abc import Iterator
from typing import IO, Any

from etils import epath

from clipjax.errors import DataError


class LocalFiles:
    """Whole, immutable files on a local or network disk: all that a store asks of the place it lives in."""

    def create(self, path: epath.Path, data: bytes, *, replace: bool = False) -> bool:
        """Put a complete file at `path`, or nothing at all.

        Returns False, and leaves the file alone, where one exists and `replace` is false.
        Raises DataError if the disk is full or cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._temporary(path) as (file, temporary):
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                # link() refuses an existing name, which makes it the atomic create-if-absent of a disk.
                (os.replace if replace else os.link)(temporary, path)
            self._flush_directory(path.parent)
        except FileExistsError:
            return False
        except OSError as error:
            raise _write_error(path, error) from error
        return True

    def read(self, path: epath.Path) -> bytes | None:
        """The file's bytes, or None without a file; b"" for a FIFO or a device, which never end."""
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):
                return b""
            return path.read_bytes()
        except FileNotFoundError:
            return None

    def touch(self, path: epath.Path) -> None:
        """Set the time of last use; a store that cannot be written simply keeps the old one."""
        with contextlib.suppress(OSError):
            os.utime(path)

    def used(self, path: epath.Path) -> float:
        """The time of last use, in seconds since the epoch."""
        return os.stat(path).st_mtime

    def hold(self, path: epath.Path) -> IO[bytes]:
        """The file, opened: until it is closed, or the process ends, it is held (see `unless_held`).

        Raises FileNotFoundError where there is none.
        """
        file = path.open("rb")
        with contextlib.suppress(OSError):  # a disk that knows no locks
            fcntl.flock(file, fcntl.LOCK_SH)
        if not path.exists():  # taken away between open() and flock()
            file.close()
            raise FileNotFoundError(path)
        return file

    @contextlib.contextmanager
    def unless_held(self, path: epath.Path) -> Iterator[bool]:
        """Whether nobody holds the file (False where there is none); within the context nobody can."""
        with contextlib.ExitStack() as stack:
            try:
                fcntl.flock(stack.enter_context(open(path, "rb")), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield False
            else:
                yield True

    def clean(self, directory: epath.Path) -> None:
        """Remove the temporary files of writers that were killed: the lock of a dead writer is free."""
        for path in directory.glob(".*.tmp"):
            with contextlib.suppress(OSError), open(path, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)

    @contextlib.contextmanager
    def _temporary(self, path: epath.Path) -> Iterator[tuple[Any, epath.Path]]:
        """An open, locked file beside `path`; its name is gone afterwards, whatever happened."""
        temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}.tmp"
        try:
            with open(temporary, "xb") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                if os.fstat(file.fileno()).st_nlink == 0:  # swept up between open() and flock(): take another
                    with self._temporary(path) as again:
                        yield again
                else:
                    yield file, temporary
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)

    @staticmethod
    def _flush_directory(directory: epath.Path) -> None:
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _write_error(path: epath.Path, error: OSError) -> DataError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DataError(
            f"{path}: no space left while writing; free some (`clipjax store gc`) or choose another store, "
            "then run again: finished shards are kept"
        )
    return DataError(
        f"{path}: cannot be written: {error.strerror or error}; choose another store, then run again"
    )
