"""Merge runs of several result folders. Imports no JAX."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path

from clipjax.errors import DataError
from clipjax.results.runs.run_files import IMAGES, ROWS, RUN
from clipjax.results.store import ResultStore
from clipjax.storage.remote.buckets import BucketPath
from clipjax.storage.writing import write_flushed


def merge_results(folders: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> int:
    """Copy the runs of several folders into one; returns how many were added.

    On one file system copies are hard links: an edit in one folder edits all, and the digest reveals it.

    Raises:
        DataError: a folder has no runs; a run is damaged, partial, has a link, or has different rows in both
            folders.
    """
    target, added = ResultStore(out), 0
    target.sweep()  # once: a sweep for each run would list all runs each time
    for folder in folders:
        source = ResultStore(folder)
        if not (runs := source.run_ids()):
            raise DataError(f"{source.root} holds no results")
        for run_id in runs:
            here, there = source.root / run_id, target.root / run_id
            source.verify(run_id)
            if not target.has(run_id) and _copied(here, target):
                added += 1
            elif not _is_same(here, there):
                raise DataError(f"{here} and {there} are one run with different rows; remove the wrong one")
    return added


def _copied(run: Path, target: ResultStore) -> bool:
    try:
        target.create(run.name, functools.partial(_copy, run), sweeping=False)
    except DataError:
        if not target.has(run.name):  # else another merge was first
            raise
        return False
    return True


def _is_same(here: Path, there: Path) -> bool:
    """Raises DataError if a folder is not a whole run."""
    names = [RUN, ROWS, *([IMAGES] if (here / IMAGES).is_file() else [])]
    files = [(folder / name) for name in names for folder in (here, there)]
    if missing := [file for file in files if not file.is_file()]:
        raise DataError(f"{missing[0]} is missing: restore or remove its folder")
    return all(one.read_bytes() == other.read_bytes() for one, other in zip(files[::2], files[1::2]))


def _copy(source: Path, folder: Path) -> None:
    for path in source.iterdir():
        if not isinstance(path, BucketPath) and path.is_symlink():
            raise DataError(f"{path} is a link: replace it by the file that it points to, or remove it")
        if not _linked(path, folder / path.name):
            write_flushed(folder / path.name, path.read_bytes())


def _linked(path: Path, link: Path) -> bool:
    """False on a bucket, and without hard links."""
    if isinstance(path, BucketPath):
        return False
    try:
        os.link(path, link)
    except OSError:
        return False
    return True
