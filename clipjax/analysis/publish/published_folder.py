"""The folder of what is published."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from clipjax.errors import DataError, UsageError
from clipjax.storage.buckets import BucketPath, as_path
from clipjax.storage.reading import is_file, read_json
from clipjax.storage.writing import whole_folder, writing

RECORD = ".clipjax_published.json"


def write_files(folder: str | Path, files: Iterable[tuple[str, str]]) -> int:
    """Write files, all or nothing; an earlier folder of ours is replaced. Returns their number.

    Args:
        files: the path and the text of each, made as they are written.

    Raises:
        UsageError: the folder is a URL, or there are no files.
        DataError: the folder has other files, or cannot be written.
    """
    path = as_path(folder).expanduser()
    if isinstance(path, BucketPath):
        raise UsageError(f"{path}: results are published into a folder of this disk")
    if path.exists() and not path.is_dir():
        raise DataError(f"{path} is a file: give a folder")
    if foreign := _foreign(path):
        raise DataError(f"{path / foreign} was not written by `clipjax results publish`: give another folder")
    with writing(path), whole_folder(path) as draft:
        names = list[str]()
        for name, text in files:
            names.append(name)
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            (draft / name).write_text(text, encoding="utf-8")
        if not names:
            raise UsageError("none of these rows can be published")
        (draft / RECORD).write_text(json.dumps(sorted(names)) + "\n", encoding="utf-8")
    return len(names)


def _foreign(folder: Path) -> str | None:
    """A file that no earlier call wrote there."""
    record = folder / RECORD
    ours = {RECORD, *(read_json(record, list) if is_file(record) else ())}
    there = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    return next((name for name in sorted(there) if name not in ours), None)
