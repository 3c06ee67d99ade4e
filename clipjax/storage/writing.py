"""Files and folders that appear whole or not at all, and then survive a crash.

    .NAME.<32 hex digits>.tmp     a draft of NAME, locked (flock) while its writer lives
    .NAME.<32 hex digits>.old     the former NAME, where a disk cannot exchange two folders in one step

The next writer of NAME removes drafts of dead writers, and restores an `.old` without NAME.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from clipjax.errors import DataError
from clipjax.storage.locks import is_at, lock, surely_locked
from clipjax.storage.remote.buckets import BucketPath, as_path
from clipjax.storage.remote.publishing import uploading


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file whole or not at all. Raises DataError if that fails."""
    path = as_path(path)
    with writing(path):
        put_bytes(path, data)


def put_bytes(path: Path, data: bytes) -> None:
    """Like `write_bytes`, but raises the system's own errors."""
    with whole_file(path) as draft:
        write_flushed(draft, data)


def write_flushed(draft: Path, data: bytes) -> None:
    """Returns when the data is on the disk. Raises OSError."""
    with draft.open("wb") as file:
        file.write(data)
        flush(file.fileno(), file.flush)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A draft that becomes `path` at the end (on a bucket by an upload) unless an error is raised.

    Raises OSError; on a bucket DataError.
    """
    if isinstance(path, BucketPath):
        with uploading(path) as draft:
            yield draft
        return
    path = path.absolute()
    # The draft would take the place of /dev/stdout.
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "a device or a pipe: give the name of a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    with draft_file(path) as draft:
        yield draft
        os.replace(draft, path)
        flush_folder(path.parent)


@contextlib.contextmanager
def draft_file(path: Path, *, sweeping: bool = True) -> Iterator[Path]:
    """An empty file beside `path`, removed at the end unless renamed. Raises OSError.

    `sweeping` first removes dead writers' drafts, which lists the folder.
    """
    if sweeping:
        sweep(path)
    with _draft(path, lambda draft: os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)) as draft:
        yield draft


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to fill, which replaces `folder` at the end unless an error is raised.

    Where the disk cannot exchange two folders in one step, a killed run may leave the old one aside
    (`restore_folder`). Raises OSError.
    """
    folder = folder.absolute()
    with draft_folder(folder) as draft:
        yield draft
        flush_folder(draft)
        try:
            os.rename(draft, folder)  # replaces an empty folder
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            if not _exchange(draft, folder):
                _replace(draft, folder)
        flush_folder(folder.parent)


@contextlib.contextmanager
def draft_folder(folder: Path, *, sweeping: bool = True) -> Iterator[Path]:
    """Like `draft_file`, for a folder. `sweeping` also restores a folder that was put aside."""

    def make(draft: Path) -> int:
        draft.mkdir()
        return os.open(draft, os.O_RDONLY)

    folder.parent.mkdir(parents=True, exist_ok=True)
    if sweeping:
        restore_folder(folder)
        sweep(folder)
    with _draft(folder, make) as draft:
        yield draft


def restore_folder(folder: Path) -> None:
    """Bring back, if possible, a folder that a killed run put aside and did not replace."""
    if os.path.lexists(folder):
        return
    for aside in _beside(folder, "old"):
        with contextlib.suppress(OSError), surely_locked(aside):  # waits for a writer that lives
            if not os.path.lexists(folder):
                os.rename(aside, folder)


def sweep(path: Path) -> None:
    """Remove what dead writers of `path` left beside it."""
    for left in [*_beside(path, "tmp"), *(_beside(path, "old") if os.path.lexists(path) else [])]:
        with contextlib.suppress(OSError), surely_locked(left, wait=False):
            _remove(left)


def sweep_folder(folder: Path, *, folders: bool = False) -> None:
    """Like `sweep`, for all files of a folder, or for all folders in it."""
    drafts = folder.glob(f".*.{'[0-9a-f]' * 32}.tmp")
    for left in (each for each in drafts if each.is_dir() is folders):
        with contextlib.suppress(OSError), surely_locked(left, wait=False):
            _remove(left)


@contextlib.contextmanager
def _draft(path: Path, make: Callable[[Path], int]) -> Iterator[Path]:
    """A locked draft, created and opened by `make`."""
    draft = path.parent / f".{path.name}.{uuid.uuid4().hex}.tmp"
    descriptor = make(draft)
    try:
        lock(descriptor)  # on a disk without locks nothing is swept either
        if is_at(descriptor, draft):
            yield draft
        else:  # swept between making and locking: take another
            with _draft(path, make) as again:
                yield again
    finally:
        _remove(draft)
        os.close(descriptor)


def _beside(path: Path, ending: str) -> list[Path]:
    """The drafts of `path` ("tmp"), or what was put aside ("old")."""
    ours = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{32}}\.{ending}")
    try:
        return sorted(path.parent / name for name in os.listdir(path.parent) if ours.fullmatch(name))
    except (OSError, ValueError):
        return []


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _exchange(a: Path, b: Path) -> bool:
    """Swap two names in one step (renameat2(2)); False if system or disk cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if renameat2(here, os.fsencode(a), here, os.fsencode(b), exchange) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code), str(b))


def _replace(draft: Path, folder: Path) -> None:
    """Exchange in two steps; the old folder's lock keeps others from restoring it in between."""
    aside = draft.with_suffix(".old")
    with surely_locked(folder):
        os.rename(folder, aside)
        try:
            os.rename(draft, folder)
        except OSError:
            os.rename(aside, folder)
            raise
        _remove(aside)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """A context that turns an OSError into a DataError about `path`."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror}); nothing was left of it") from None


def flush(descriptor: int, push: Callable[[], Any]) -> None:
    """Bring a file's data to the disk, after `push`, which empties Python's buffer."""
    push()
    os.fsync(descriptor)


def flush_folder(folder: Path) -> None:
    """Make a rename in the folder survive a crash."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_disk(folder: Path) -> None:
    """Make everything that was written to a folder's disk survive a crash (syncfs(2))."""
    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None:
        os.sync()
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if syncfs(descriptor) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(folder))
    finally:
        os.close(descriptor)
