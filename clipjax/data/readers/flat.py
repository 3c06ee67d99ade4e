"""Unlabelled images anywhere below a folder, or a single one."""

from __future__ import annotations

import re
from collections.abc import Sequence

from etils import epath

from clipjax.data.manifest import IMAGE_EXTENSIONS, FileOpener, Manifest
from clipjax.data.readers.label_values import Names
from clipjax.data.readers.reader import IMAGES, Reader
from clipjax.data.readers.walk import Walk
from clipjax.errors import DataError
from clipjax.storage.reading import AnyPath, exists, is_file


def read_flat(
    root: epath.Path,
    label_names: Names = None,
    *,
    columns: dict[str, str] | None = None,
    extensions: Sequence[str] = (),
) -> Manifest:
    """Every image below `root`, or that file; `extensions` adds endings, e.g. ".gif" (its first frame).

    Raises:
        DataError: `root` holds no image.
    """
    known, walk = (*IMAGE_EXTENSIONS, *extensions), Walk(root)
    if is_image(root, known):
        root, ids = root.parent, (root.name,)
    else:
        ids = tuple(sorted(walk.files(known)))
        walk.refuse_double(ids)
    if not ids:
        raise DataError(f"{root} holds no images ({', '.join(known)})")
    names = None if label_names is None else tuple(label_names)
    column_values = columns_from_names(root, ids, columns or {})
    opener, left_out = FileOpener(str(root), ids), sorted(walk.left_out)
    return Manifest(ids, opener, columns=column_values, label_names=names, left_out=tuple(left_out))


def is_image(path: AnyPath, extensions: Sequence[str] = IMAGE_EXTENSIONS) -> bool:
    """Whether a path is a file whose name ends as an image's does."""
    return is_file(path) and path.name.lower().endswith(tuple(extensions))


def columns_from_names(root: epath.Path, ids: Sequence[str], patterns: dict[str, str]) -> dict[str, list]:
    """Column -> the first group of its pattern in each id.

    Raises:
        DataError: a wrong pattern, or one that does not match an id.
    """
    columns = {}
    for column, pattern in patterns.items():
        try:
            re.compile(pattern)
        except re.error as error:
            raise DataError(f"the pattern {pattern!r} of the column {column!r} is wrong: {error}") from None
        matches = [(name, re.search(pattern, name)) for name in ids]
        wrong = [name for name, match in matches if match is None]
        if wrong:
            raise DataError(f"{root / wrong[0]}: its name has no {column} (expected {pattern})")
        columns[column] = [match[1] for _, match in matches if match is not None]
    return columns


READER = Reader(read_flat, IMAGES, exists, order=4)
