"""Images in one folder whose names begin with their class: `pink_0001.png`."""

from __future__ import annotations

import re

from etils import epath

from clipjax.data.manifest import IMAGE_EXTENSIONS, FileOpener, Manifest
from clipjax.data.readers.label_values import Names, number_labels
from clipjax.data.readers.reader import IMAGES, Reader
from clipjax.data.readers.walk import Walk
from clipjax.errors import DataError


def read_named_files(root: epath.Path, label_names: Names = None, *, ends: str = "_") -> Manifest:
    """The class of an image is its file's name up to `ends`.

    Raises:
        DataError: no image, or one whose name has no class.
    """
    ids = tuple(sorted(Walk(root).files(IMAGE_EXTENSIONS)))
    if not ids:
        raise DataError(f"{root} holds no images named CLASS{ends}...")
    labels = []
    for name in ids:
        if ends not in name:
            raise DataError(f"{root / name}: its name does not begin with a class and {ends!r}")
        labels.append((re.split(re.escape(ends), name)[0], str(root / name)))
    numbers, names = number_labels(labels, label_names)
    return Manifest(ids, FileOpener(str(root), ids), labels=numbers, label_names=names)


READER = Reader(read_named_files, IMAGES)
