"""The folder of what is published."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath

from clipjax.errors import UsageError
from clipjax.storage.replaced_folder import check_replaceable, written_files
from clipjax.storage.writing import whole_folder, writing

RECORD = ".clipjax_published.json"


def write_files(folder: str | Path, files: Iterable[tuple[str, str]]) -> tuple[int, int]:
    """Write the texts of files by their paths, all or nothing.

    Each folder that gets a file, which is a model's, is replaced; other folders of earlier calls stay.

    Args:
        files: the path and the text of each, made as they are written.

    Returns:
        The number of files written, and of earlier files that stay.

    Raises:
        UsageError: the folder is a URL, or there are no files.
        DataError: the folder has a file that somebody else wrote or changed, or cannot be written.
    """
    path = check_replaceable(folder, RECORD)
    with writing(path), whole_folder(path) as draft:
        replaced, count = set[PurePosixPath](), 0
        for name, text in files:
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            (draft / name).write_text(text, encoding="utf-8")
            replaced.add(PurePosixPath(name).parent)
            count += 1
        if not count:
            raise UsageError("none of these rows can be published")
        kept = _kept(path, replaced)
        for name in kept:
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path / name, draft / name)
        record = {"files": written_files(draft, RECORD)}
        (draft / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return count, len(kept)


def _kept(folder: Path, replaced: Collection[PurePosixPath]) -> list[PurePosixPath]:
    """The earlier files that are not in a folder that is replaced."""
    earlier = (each for each in folder.rglob("*") if each.is_file() and each != folder / RECORD)
    names = (PurePosixPath(each.relative_to(folder).as_posix()) for each in earlier)
    return [name for name in names if not {*name.parents} & {*replaced}]
