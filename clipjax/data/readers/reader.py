"""Readers: the layouts in which data sets are published -> a manifest. One file a reader.

A reader is a module of this folder that sets `READER`; the module's name is what data set cards call it. It
reads `(root, label_names, **options) -> Manifest`: `label_names` are the labels as the data spells them
(WordNet ids, folder names, class labels), in label order, and options are keyword arguments of its own. No
reader decodes an image, and none needs TensorFlow or PyTorch. Paths are etils.epath's; on a bucket a
`BucketPath`, which is one.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clipjax.config import plug_ins
from clipjax.data import readers
from clipjax.data.manifest import Manifest

IMAGES, CLASS_FOLDERS, ARCHIVES, OTHER = "images", "class folders", "archives", "other"


@dataclass(frozen=True)
class Reader:
    """A record that a reader's module exposes as `READER`.

    Attributes:
        read: see the module's docstring.
        layout: how the images lie, for what the check of a data set looks for beside the reader's own words:
            IMAGES (files anywhere below the root), CLASS_FOLDERS (files in a folder a class), ARCHIVES
            (shards, which are not to be unpacked), OTHER.
        recognises: whether what lies at a path, given without a card, is of this layout. None: a card is
            always needed.
        asked: readers of lower numbers are asked first: 0 those that know their layout for certain, 1 by the
            endings of files, 2 to 4 those that take any list or folder.
    """

    read: Callable[..., Manifest]
    layout: str = OTHER
    recognises: Callable[[Path], bool] | None = None
    asked: int = 0


def reader_names() -> tuple[str, ...]:
    """What cards may call a reader. None is imported."""
    return plug_ins(readers.__path__, "READER")


@functools.cache
def find_reader(name: str) -> Reader:
    """The reader of that name, one of `reader_names`."""
    return importlib.import_module(f"{readers.__name__}.{name}").READER


def recognise(path: Path) -> str | None:
    """The reader of what lies at a path; None where no reader takes it.

    Raises:
        UsageError: it may be read in two ways.
    """
    for name in sorted(reader_names(), key=lambda name: find_reader(name).asked):
        recognises = find_reader(name).recognises
        if recognises is not None and recognises(path):
            return name
    return None
