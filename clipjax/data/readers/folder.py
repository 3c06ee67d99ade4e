"""Images in one folder per class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from etils import epath

from clipjax.data.manifest import IMAGE_EXTENSIONS, FileOpener, Manifest
from clipjax.data.readers.flat import columns_from_names
from clipjax.data.readers.label_values import Names
from clipjax.data.readers.reader import CLASS_FOLDERS, Reader
from clipjax.data.readers.walk import Walk, folders_in, list_folder
from clipjax.errors import DataError, UsageError, some_of
from clipjax.storage.reading import is_dir

SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}
_BY_ID = "; a folder has its class's id as its name (the column id of a CSV file of classes)"


def read_folder(
    root: epath.Path,
    label_names: Names = None,
    *,
    folder_is_index: bool = False,
    ignore_unknown: bool = False,
    allow_missing: bool = False,
    splits_are_classes: bool = False,
    columns: dict[str, str] | None = None,
) -> Manifest:
    """Class folders as in ImageNet val: `<root>/<class>/**/<image>`; files beside them are ignored.

    Args:
        label_names: exactly these folders must exist. Default: the sorted folder names (by value if all are
            numbers).
        folder_is_index: folder names are the labels, 0 .. K-1 (ImageNet-V2).
        ignore_unknown: leave out folders that are not labels (200 in ObjectNet).
        allow_missing: some labels may have no folder (ImageNet-D).
        splits_are_classes: folders called train, val, test, ... may be classes although folders are in them.
        columns: as in `columns_from_names`.

    Raises:
        DataError: class folders missing, unexpected, empty or unreadable; a folder reached twice; splits.
    """
    names = folders_in(root)
    if not names:
        hint = f"; {root.name} is a class itself: give its parent" if root.name in (label_names or ()) else ""
        raise DataError(f"{root} holds no class folders; expected {root}/<class>/<image>{hint}")
    if label_names is None and not splits_are_classes:
        _refuse_splits(root, names)
    folders, spelled = _class_folders(root, names, label_names, folder_is_index)
    allowed = {"ignore_unknown": ignore_unknown, "allow_missing": allow_missing}
    _same_folders(root, folders, spelled, "" if folder_is_index else _BY_ID, **allowed)

    walk = Walk(root)
    labelled = _labelled_images(walk, [spelled.get(name) for name in folders])
    ids = [image for image, _ in labelled]
    return Manifest(
        tuple(ids),
        FileOpener(str(root), tuple(ids)),
        labels=np.array([label for _, label in labelled], np.int32),
        columns=columns_from_names(root, ids, columns or {}),
        label_names=tuple(folders if label_names is None else label_names),
        left_out=tuple(sorted(walk.left_out)),
    )


def _class_folders(
    root: epath.Path, names: Sequence[str], label_names: Names, folder_is_index: bool
) -> tuple[list[str], dict[str, str]]:
    """The folders' names in the order of the labels, and such a name -> the folder's own."""
    numbered = all(name.isdecimal() for name in names)
    if folder_is_index or (label_names is None and numbered):
        _refuse_one_number_twice(root, names)
    names = sorted(names, key=int) if numbered else names
    folders = list(names if label_names is None else label_names)
    if not folder_is_index:
        return folders, {name: name for name in names}
    # "007" is the folder of class 7.
    spelled = {str(int(name)) if name.isdecimal() else name: name for name in names}
    return [str(i) for i in range(len(folders))], spelled


def _labelled_images(walk: Walk, folders: Sequence[str | None]) -> list[tuple[str, int]]:
    """Every image with its label, sorted. A label that may be missing has no folder."""
    labelled: list[tuple[str, int]] = []
    for label, folder in enumerate(folders):
        if folder is None:
            continue
        images = list(walk.files(IMAGE_EXTENSIONS, folder))
        if not images:
            known = ", ".join(IMAGE_EXTENSIONS)
            raise DataError(f"the class folder {walk.root / folder} holds no images ({known})")
        labelled += [(image, label) for image in images]
    labelled.sort()
    walk.refuse_double([image for image, _ in labelled])
    return labelled


def _refuse_splits(root: epath.Path, names: Sequence[str]) -> None:
    """One level too high, two or three splits would be classes, and a table of them looks like any other."""
    if {name.lower() for name in names} <= SPLITS and all(folders_in(root / name) for name in names):
        raise DataError(
            f"{root} holds splits ({', '.join(names)}) with class folders: give one of them, such as "
            f"{root / names[-1]}, or set `splits_are_classes = true` in [options] of a card"
        )


def _refuse_one_number_twice(root: epath.Path, names: Sequence[str]) -> None:
    first: dict[int, str] = {}
    for name in names:
        if name.isdecimal() and (other := first.setdefault(int(name), name)) != name:
            raise DataError(
                f"{root}: the class folders {other} and {name} are one number: rename one, or join them"
            )


def _same_folders(
    root: epath.Path,
    expected: Sequence[str],
    spelled: dict[str, str],
    naming: str = "",
    *,
    ignore_unknown: bool = False,
    allow_missing: bool = False,
) -> None:
    missing = [name for name in expected if name not in spelled]
    extra = sorted(spelled[name] for name in spelled.keys() - set(expected))
    none_fits = len(missing) == len(set(expected))
    hint = (_nested(root, extra, set(expected)) or naming) if none_fits else ""
    wrong = [
        f"{what} {some_of(names, 8)}"
        for what, names, allowed in (
            ("missing", missing, allow_missing and len(missing) < len(set(expected))),
            ("unexpected", extra, ignore_unknown),
        )
        if names and not allowed
    ]
    if wrong:
        raise DataError(f"{root}: wrong class folders: {'; '.join(wrong)}{hint}")


def _nested(root: epath.Path, folders: Sequence[str], expected: set[str]) -> str:
    fits: dict[tuple[int, int], list[str]] = {}
    for name in folders:
        inside = set(folders_in(root / name))
        if known := len(inside & expected):
            fits.setdefault((known, -len(inside - expected)), []).append(name)
    if not fits:
        return ""
    best = fits[max(fits)]
    if len(best) > 1:  # any one of them would be a guess
        return f"; class folders are in {some_of([str(root / name) for name in best], 8)}: give one of them"
    return f"; class folders are in {root / best[0]}: give that folder"


def _recognises(path: Path) -> bool:
    """Whether only the folders hold images. Raises UsageError if the root does too: those have no labels."""
    if not is_dir(path):
        return False
    entries = sorted(list_folder(path))
    stray = next(
        (e.name for e in entries if e.kind != "folder" and e.name.lower().endswith(IMAGE_EXTENSIONS)),
        None,
    )
    if stray is None:
        return True
    for folder in (entry.name for entry in entries if entry.kind == "folder"):
        if next(Walk(path).files(IMAGE_EXTENSIONS, folder), None):
            raise UsageError(
                f"{path} holds an image ({stray}) beside folders of images ({folder}): move one of "
                "them away, or name a card, for class folders `--dataset folder`"
            )
    return False


READER = Reader(read_folder, CLASS_FOLDERS, _recognises, order=3)
