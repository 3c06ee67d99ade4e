"""Files made for a bucket: written to a working copy on this disk, then uploaded whole.

    CACHE/working/gs/bucket/folder/file        the working copy of gs://bucket/folder/file

The file that identifies a folder goes up last (card.json of a model, sizes.json of a resume point); without
it the folder counts as absent. A failed upload keeps the working copy and names it.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

from clipjax.config import cache_dir
from clipjax.errors import ClipjaxError, DataError, UsageError
from clipjax.storage.remote.bucket_files import BucketFiles
from clipjax.storage.remote.buckets import BucketPath

_UNFINISHED = ".uploading"  # in a folder that is not whole yet
_AT_ONCE = 8  # uploads: each may hold some blocks of a large file in memory


def working_copy(path: Path) -> Path:
    """The path itself, or for a URL a place in the cache; a URL with ".." raises UsageError."""
    if not isinstance(path, BucketPath):
        return path
    if ".." in path.parts:
        raise UsageError(f"{path}: write the address without '..'")
    return cache_dir().joinpath("working", path.parts[0].rstrip(":"), *path.parts[1:])


def publish(folder: Path, target: BucketPath, last: str) -> None:
    """Upload a folder to a bucket, all or nothing; it replaces `target`.

    Args:
        last: the file that identifies the folder: removed first, created last.

    Raises DataError if the bucket fails or refuses, or another run published there meanwhile.
    """
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    names.remove(last)
    with naming(folder):
        BucketFiles().create(target / _UNFINISHED, b"", replace=True)
        remove(target, last, but=[*names, _UNFINISHED])
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for _ in pool.map(lambda name: BucketFiles().upload(folder / name, target / name), names):
                pass
        if not BucketFiles().create(target / last, (folder / last).read_bytes()):
            raise DataError(f"{target} was written by another run at the same time: let one go on")
    with contextlib.suppress(DataError):  # some users may write there, but not remove
        (target / _UNFINISHED).unlink(missing_ok=True)


def is_unfinished(target: Path | BucketPath) -> bool:
    """Whether `publish` was cut off here."""
    return isinstance(target, BucketPath) and (target / _UNFINISHED).exists()


def remove(target: BucketPath, last: str, but: Sequence[str] = ()) -> None:
    """Remove all but the files `but`: first `last`, then what a listing shows.

    Raises DataError if the bucket fails or refuses.
    """
    if (target / last).exists():
        (target / last).unlink(missing_ok=True)
    left = {str(target / name) for name in but}
    for path in list(target.rglob("*")):
        if path.is_file() and str(path) not in left:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def uploading(target: BucketPath) -> Iterator[Path]:
    """A local file to write, uploaded at the end. Raises DataError, naming the kept copy."""
    draft = working_copy(cast(Path, target))
    draft.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield draft
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    with naming(draft):
        BucketFiles().upload(draft, target)
    draft.unlink()


def moved(files: Sequence[Path], folder: Path) -> list[Path]:
    """Upload a working copy's files; returns their places. On a disk they are already there.

    Raises DataError, naming the copy.
    """
    if not isinstance(folder, BucketPath):
        return list(files)
    for file in files:
        with naming(file):
            BucketFiles().upload(file, folder / file.name)
        file.unlink()
    return [cast(Path, folder / file.name) for file in files]


def forget(path: Path) -> None:
    """Remove the working copy of something published."""
    if (copy := working_copy(path)) != path:
        shutil.rmtree(copy, ignore_errors=True)


@contextlib.contextmanager
def naming(copy: Path) -> Iterator[None]:
    """Add the kept copy's place to an error."""
    try:
        yield
    except ClipjaxError as error:
        raise type(error)(f"{error}; the copy on this disk is kept: {copy}") from error
