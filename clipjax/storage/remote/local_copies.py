"""Copies on this disk of objects that are read again and again: the shards of a data set.

Each object comes once, from front to back, for all processes of this machine and for later runs. The copies
together take at most `BUDGET`; those used longest ago are removed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO

from clipjax.config import cache_dir
from clipjax.errors import DataError
from clipjax.progress import progress_bar
from clipjax.storage.digests import Version, sha256_json, version_of
from clipjax.storage.locks import is_at, lock
from clipjax.storage.reading import check_regular
from clipjax.storage.remote.buckets import REQUESTS, BucketPath, as_path
from clipjax.storage.writing import whole_file

BUDGET = 20 * 10**9  # bytes
AHEAD = 2  # objects that come while one is read


def versions_to_copy(paths: Sequence[Path]) -> tuple[Version, ...]:
    """The versions of objects that are to be read from copies.

    Empty where the paths are on this disk, or copies of all of them do not fit the budget and this disk.
    """
    far = [path for path in paths if isinstance(path, BucketPath)]
    if not far:
        return ()
    with ThreadPoolExecutor(REQUESTS) as pool:
        versions = tuple(pool.map(version_of, far))
    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True)
    room = min(BUDGET, shutil.disk_usage(folder).free + _taken(folder))
    return versions if sum(version.size for version in versions) <= room else ()


def nearby(paths: Sequence[Path], versions: Sequence[Version]) -> Iterator[IO[bytes]]:
    """The files to read, opened, in order: copies, of which the next `AHEAD` come meanwhile, or the paths.

    A file is closed when the next is asked for; until then nothing removes its bytes.

    Args:
        versions: as `versions_to_copy`.

    Raises:
        DataError: as `opened_copy`; a path that cannot be read.
    """
    if not versions:
        for path in paths:
            with _opened(path) as file:
                yield file
        return
    pool, coming = ThreadPoolExecutor(AHEAD), list[Future[IO[bytes]]]()
    sizes = [version.size for version in versions]
    try:
        with progress_bar(sum(sizes), "copy", "B", delay=1) as bar:
            for i in range(len(paths)):
                for k in range(len(coming), min(i + 1 + AHEAD, len(paths))):
                    coming.append(pool.submit(opened_copy, as_path(paths[k]), versions[k]))
                with coming[i].result() as file:
                    bar.update(sizes[i])
                    yield file
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # an error is told at once
        for copy in coming:
            copy.add_done_callback(_close)


def _opened(path: Path) -> IO[bytes]:
    check_regular(path)
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); copy it again") from None


def _close(copy: Future[IO[bytes]]) -> None:
    if not copy.cancelled() and copy.exception() is None:
        copy.result().close()


def opened_copy(path: Path, version: Version) -> IO[bytes]:
    """An object's copy, opened; it comes first if it is not here.

    Raises:
        DataError: it cannot be read, or is not of this version any more.
    """
    while True:
        copy = _copy(path, version)
        with contextlib.suppress(FileNotFoundError):  # removed meanwhile, to make room
            return copy.open("rb")


def _copy(path: Path, version: Version) -> Path:
    assert isinstance(path, BucketPath), path
    folder = _folder()
    copy = folder / sha256_json([str(path), version])
    if not _use(copy):
        with _locked(folder / f"{copy.name}.lock"):
            if not _use(copy):
                _make_room(folder, version.size)
                _fetch(path, version, copy)
                _make_room(folder, 0)  # its server stated no size, or others came meanwhile
    return copy


def _fetch(path: BucketPath, version: Version, copy: Path) -> None:
    with whole_file(copy) as draft:
        try:
            path.ask(lambda fs, name: fs.get_file(name, str(draft)))
        except FileNotFoundError:
            raise DataError(f"{path} does not exist any more: run again") from None
        except DataError as error:
            if getattr(error.__cause__, "errno", None) not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise DataError(
                f"{path}: there is no room for it in {copy.parent}: make some, or set CLIPJAX_CACHE to a "
                "folder on another disk"
            ) from None
        size = draft.stat().st_size
        whole = version.size in (0, size)
        if not whole or path.version() != version[:2]:
            raise DataError(f"{path} changes while it is read: run again when it is written")
        if size > BUDGET:
            raise DataError(
                f"{path} has {size:,} bytes, more than all copies may take, and its server did not "
                "state it: download it and give the file"
            )


def _use(copy: Path) -> bool:
    """Note the use of a copy. Returns whether it is here."""
    try:
        os.utime(copy)
    except FileNotFoundError:
        return False
    return True


def _make_room(folder: Path, size: int) -> None:
    copies = _copies(folder)
    taken = sum(status.st_size for _, status in copies)
    for copy, status in sorted(copies, key=lambda entry: entry[1].st_mtime):
        if taken + size <= BUDGET and shutil.disk_usage(folder).free >= size:
            return
        taken -= status.st_size
        copy.unlink(missing_ok=True)


def _taken(folder: Path) -> int:
    return sum(status.st_size for _, status in _copies(folder))


def _copies(folder: Path) -> list[tuple[Path, os.stat_result]]:
    """Whole copies; drafts and locks have a dot in their names."""
    found = []
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process makes room
            found += [] if "." in path.name else [(path, path.stat())]
    return found


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process fetch; the others wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("wb") as file:
            lock(file.fileno())
            if not is_at(file.fileno(), path):  # its holder removed it: others may lock another file now
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _folder() -> Path:
    return cache_dir() / "copies"
