"""Locks (flock) of open files and folders: held until they are closed, or until their process ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


def lock(descriptor: int, *, wait: bool = True, shared: bool = False) -> bool:
    """Lock an open file or folder; False where another process holds it. A disk without locks lets all pass.

    Args:
        descriptor: of the open file.
        wait: wait until no other process holds it.
        shared: others may hold it as well, if theirs is shared, too.
    """
    how = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    try:
        fcntl.flock(descriptor, how)
    except BlockingIOError:
        return False
    except OSError:  # a disk without locks
        pass
    return True


@contextlib.contextmanager
def surely_locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold what is at `path`, for somebody who removes or moves it.

    Raises OSError if another process holds it, it was moved while waiting, or the disk has no locks.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        if not is_at(descriptor, path):
            raise FileNotFoundError(path)
        yield
    finally:
        os.close(descriptor)


def is_at(descriptor: int, path: Path) -> bool:
    """Whether `path` still is the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False
