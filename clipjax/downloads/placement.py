"""A finished draft, moved below the data root by renames."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from clipjax.errors import DataError
from clipjax.storage.writing import flush_disk, flush_folder


def place(draft: Path, root: Path) -> list[Path]:
    """Move the contents of a draft below the data root.

    A folder that the root does not have (or has empty) moves in one rename, with all that is in it; a folder
    that it has is entered. So a fresh data set is one rename. After being killed it can be called again. Two
    processes must not place into the same folders at once.

    Args:
        draft: on the disk of `root`. Its folders are removed where they become empty; it stays itself.
        root: made if it does not exist.

    Returns:
        What was moved, at its new place.

    Raises:
        DataError: before anything is moved: the root has a file of the draft, or a folder of files of the
            draft that is not empty; a folder is on another disk. Or the system refuses a rename.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        moves = list(_moves(draft, root))
        flush_disk(draft)
        for source, target in moves:
            os.rename(source, target)
            flush_folder(target.parent)
        _remove_empty(draft)
    except OSError as error:
        raise DataError(
            f"{error.filename or draft} cannot be moved below {root} ({error.strerror})"
        ) from None
    return [target for _, target in moves]


def _moves(source: Path, target: Path) -> Iterator[tuple[Path, Path]]:
    """The renames that move the contents of one folder into another that exists.

    Files come before folders: of a folder that was entered and left half moved, only files cannot remain.
    """
    if os.stat(source).st_dev != os.stat(target).st_dev:
        raise DataError(
            f"{target} is on another disk than {source}: nothing is moved; move it there yourself"
        )
    for entry in sorted(_entries(source), key=lambda entry: (entry.is_dir(), entry.name)):
        place = target / entry.name
        if not os.path.lexists(place) or (entry.is_dir() and is_empty(place)):
            yield Path(entry.path), place
        elif is_empty(Path(entry.path)):  # all of it was moved before
            continue
        elif entry.is_dir() and place.is_dir() and any(each.is_dir() for each in _entries(entry.path)):
            yield from _moves(Path(entry.path), place)
        else:
            raise DataError(
                f"{place} exists already, from another copy or another layout: remove it or choose another "
                "folder; nothing was moved"
            )


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return list(entries)


def is_empty(path: Path) -> bool:
    """Whether a path is a folder, not a link to one, without entries."""
    return path.is_dir() and not path.is_symlink() and not os.listdir(path)


def _remove_empty(draft: Path) -> None:
    """Remove the folders in a draft that hold no files."""
    for folder, _, _ in os.walk(draft, topdown=False):
        if Path(folder) != draft:
            with contextlib.suppress(OSError):
                os.rmdir(folder)
