"""Weights on a bucket: fetched once into the user's cache, then read as files.

A copy's key includes each object's version: a changed object is fetched anew.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clipjax.checkpoints.card import CARD
from clipjax.config import cache_dir
from clipjax.errors import ClipjaxError, DataError
from clipjax.storage.digests import sha256_json
from clipjax.storage.remote.buckets import BucketPath, as_path
from clipjax.storage.remote.publishing import is_unfinished
from clipjax.storage.writing import draft_folder, flush, restore_folder, writing
from converters.hub import PRISMATIC

BLOCK = 32 * 2**20  # bytes of one request


def on_this_disk(source: Any) -> Any:
    """The source of a model; for a bucket URL, the path of its copy.

    Fetches a folder's files, an adapter's base and Prismatic's last checkpoint, no other subfolders.

    Raises DataError if nothing is at the URL, it changes during the fetch, or the disk is full.
    """
    if not isinstance(source, str | os.PathLike):
        return source
    if not isinstance(path := as_path(source), BucketPath):
        restore_folder(path)
        return source
    if path.parts[0] in ("http:", "https:"):  # no bucket: nothing lists its files
        return source
    files = _files(path)
    versions = [file.version() for file in files]
    home = path.parent if path == files[0] else path
    names = [str(file).removeprefix(f"{home}/") for file in files]
    key = sha256_json([str(path), *([name, *version] for name, version in zip(names, versions))])
    folder = cache_dir() / "fetched" / key
    if not folder.is_dir():
        _fetch(files, names, versions, folder)
    return folder if path == home else folder / path.name


@contextlib.contextmanager
def fetched(source: Any) -> Iterator[Any]:
    """Yield `on_this_disk(source)`; errors inside name the URL instead of its copy."""
    copy = on_this_disk(source)
    try:
        yield copy
    except ClipjaxError as error:
        if copy is source or str(copy) not in str(error):
            raise
        raise type(error)(str(error).replace(str(copy), str(as_path(source)))) from error


def _files(path: BucketPath) -> list[BucketPath]:
    if not path.exists():
        raise DataError(f"{path} does not exist; give the file of the weights, or its folder")
    if path.is_file():
        return [path]
    files = [file for file in path.iterdir() if file.is_file() and not file.name.startswith(".")]
    if not files:
        raise DataError(f"{path} holds no files; give the folder with the weights and their card or config")
    if is_unfinished(path) and not (path / CARD).exists():
        raise DataError(f"{path} is not whole, its upload was cut off: run again what was to write it")
    base = path / "base"  # where `clipjax.checkpoints.adapter_file` puts the base of an adapter
    inner = _files(base) if (base / CARD).exists() else []
    return [*sorted(files), *inner, *([path / PRISMATIC] if (path / PRISMATIC).exists() else [])]


def _fetch(files: list[BucketPath], names: list[str], versions: list[tuple[int, int]], folder: Path) -> None:
    with writing(folder), draft_folder(folder) as draft:
        for file, name, (size, _) in zip(files, names, versions):
            copy_object(file, size, draft / name)
        for file, version in zip(files, versions):
            if file.version() != version:
                raise DataError(f"{file} has changed while it was fetched; run again")
        try:
            os.rename(draft, folder)
        except OSError:
            if not folder.is_dir():  # else another process has fetched the same
                raise


def copy_object(file: BucketPath, size: int, target: Path) -> None:
    """Write an object's first `size` bytes to this disk. Raises FileNotFoundError, BucketError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as copy:
        for start in range(0, size, BLOCK):
            copy.write(file.read_range(start, min(start + BLOCK, size)))
        flush(copy.fileno(), copy.flush)
