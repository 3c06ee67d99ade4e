"""Readers: a module of this folder, or of one in it, that sets `READER`. Cards use its name, or a plug-in's.

`read(root, label_names, **options)` gives a Manifest. On a bucket, `root` is a `BucketPath`. `label_names`
are in label order, spelled as in the data; a reader of pairs gets a `Matching` in their place. No reader
decodes an image, or needs TensorFlow or PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clipjax.data.manifest import Manifest
from clipjax.registry import Registry

READERS = Registry("reader", "READER", group="readers")
IMAGES, CLASS_FOLDERS, ARCHIVES, OTHER = "images", "class folders", "archives", "other"


@dataclass(frozen=True)
class Reader:
    """One layout of files and the function that reads it; a module sets it as `READER`.

    Attributes:
        layout: where the images are: IMAGES (anywhere below the root), CLASS_FOLDERS, ARCHIVES or OTHER.
        recognises: whether a path without a card has this layout. None: a card is required.
        order: lowest first: 0 if the layout is certain, 1 by file endings, 2 to 4 for any list or folder.
        pairs: it reads pairs: `Manifest.pairs` is set, and the card has a table `[matching]`.
    """

    read: Callable[..., Manifest]
    layout: str = OTHER
    recognises: Callable[[Path], bool] | None = None
    order: int = 0
    pairs: bool = False


def find_reader(name: str) -> Reader:
    """Imports no other reader. Raises as `Registry.find`."""
    return READERS.find(name, Reader)


def recognise(path: Path) -> str | None:
    """The reader that takes a path, or None. Raises UsageError if there are two ways to read it."""
    for name in sorted(READERS.names(), key=lambda name: find_reader(name).order):
        recognises = find_reader(name).recognises
        if recognises is not None and recognises(path):
            return name
    return None
