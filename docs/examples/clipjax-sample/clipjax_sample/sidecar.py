"""The reader `sidecar`: the class of `cat_1.png` is the text in `cat_1.txt` beside it."""

from __future__ import annotations

from etils import epath

from clipjax.data.manifest import IMAGE_EXTENSIONS, FileOpener, Manifest
from clipjax.data.readers.label_values import Names, number_labels
from clipjax.data.readers.reader import IMAGES, Reader
from clipjax.data.readers.walk import Walk
from clipjax.errors import DataError
from clipjax.storage.reading import read_text

INTERFACE = 1


def read_sidecar(root: epath.Path, label_names: Names = None, *, ending: str = ".txt") -> Manifest:
    """Every image below `root`.

    Raises:
        DataError: no image, or one without its file of text.
    """
    ids = tuple(sorted(Walk(root).files(IMAGE_EXTENSIONS)))
    if not ids:
        raise DataError(f"{root} holds no images ({', '.join(IMAGE_EXTENSIONS)})")
    files = [(root / name).with_suffix(ending) for name in ids]
    labels = [(read_text(file).strip(), str(file)) for file in files]
    numbers, names = number_labels(labels, label_names)
    return Manifest(ids, FileOpener(str(root), ids), labels=numbers, label_names=names)


READER = Reader(read_sidecar, IMAGES)
