"""Readers: the layouts in which data sets are published -> a manifest. One file per reader.

A reader is a module of this folder that sets `READER`; data set cards use the module's name. It reads `(root,
label_names, **options) -> Manifest`. `label_names` are the labels as the data spells them (WordNet ids,
folder names, class labels), in label order; options are its own keyword arguments. No reader decodes an image
or needs TensorFlow or PyTorch. Paths are etils.epath's; on a bucket a `BucketPath`.
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
        layout: where the images are, so that a check can give hints: IMAGES (files anywhere below the root),
            CLASS_FOLDERS (files in one folder per class), ARCHIVES (shards, which stay packed), OTHER.
        recognises: whether a path given without a card has this layout. None: a card is always needed.
        asked: lower numbers are tried first: 0 if the layout is certain, 1 by file endings, 2 to 4 for any
            list or folder.
    """

    read: Callable[..., Manifest]
    layout: str = OTHER
    recognises: Callable[[Path], bool] | None = None
    asked: int = 0


@functools.cache
def reader_names() -> tuple[str, ...]:
    """The readers' names, without importing them."""
    return plug_ins(readers.__path__, "READER")


@functools.cache
def find_reader(name: str) -> Reader:
    """The reader of that name."""
    return importlib.import_module(f"{readers.__name__}.{name}").READER


def recognise(path: Path) -> str | None:
    """The reader of a path; None if no reader takes it.

    Raises:
        UsageError: it may be read in two ways.
    """
    for name in sorted(reader_names(), key=lambda name: find_reader(name).asked):
        recognises = find_reader(name).recognises
        if recognises is not None and recognises(path):
            return name
    return None
