"""Folders that a command writes and may replace later: each has a record of its files, as JSON.

    {..., "files": {"images.npy": "<SHA-256>", ...}}

A folder that has a file which the record does not have, or has with other contents, is not replaced.
"""

from __future__ import annotations

from pathlib import Path

from clipjax.errors import DataError, UsageError
from clipjax.storage.digests import sha256_file, sha256_files
from clipjax.storage.reading import is_file, read_json
from clipjax.storage.remote.buckets import BucketPath, as_path
from clipjax.storage.writing import writing


def check_replaceable(folder: str | Path, record: str) -> Path:
    """The path of a folder that can be written without the loss of anybody else's file.

    Args:
        folder: absent, empty, or as an earlier command left it.
        record: the name of the record's file in it.

    Raises:
        UsageError: the folder is a URL.
        DataError: it is a file, has no readable record, or has a file that was changed or added.
    """
    path = as_path(folder).expanduser()
    if isinstance(path, BucketPath):
        raise UsageError(f"{path}: give a folder of this disk, then copy it to the bucket")
    if path.exists() and not path.is_dir():
        raise DataError(f"{path} is a file: give another folder")
    with writing(path):
        there = sorted(each for each in path.rglob("*") if each.is_symlink() or not each.is_dir())
        if not there:
            return path
        ours = _files(path / record)
        theirs = [each for each in there if each != path / record]
        for file in theirs:
            if file.is_symlink() or file.relative_to(path).as_posix() not in ours:
                raise DataError(f"{file} was not written by this command: give another folder")
        for file, digest in zip(theirs, sha256_files(theirs), strict=True):
            if digest != ours[file.relative_to(path).as_posix()]:
                raise DataError(f"{file} was changed after it was written: move it, or give another folder")
    return path


def written_files(folder: Path, record: str) -> dict[str, str]:
    """The files of a folder but its record, by their relative paths -> SHA-256."""
    files = sorted(each for each in folder.rglob("*") if each.is_file() and each != folder / record)
    return {each.relative_to(folder).as_posix(): sha256_file(each) for each in files}


def _files(record: Path) -> dict[str, str]:
    """Raises DataError if a command of ours did not write the record."""
    if not is_file(record):
        raise DataError(f"{record.parent} has files, but no {record.name} of clipjax: give another folder")
    files = read_json(record).get("files")
    if not isinstance(files, dict):
        raise DataError(f"{record} lists no files that clipjax wrote: give another folder")
    return files
