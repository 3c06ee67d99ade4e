"""Readers: published layouts of data sets -> a manifest, one file per reader.

A module of this folder that sets `READER` is a reader; cards use the module's name. Its `read` maps `(root,
label_names, **options)` to a Manifest. `label_names` are the labels as the data spells them (WordNet ids,
folder names, class labels), in label order. No reader decodes an image, or needs TensorFlow or PyTorch.
`root` is an etils.epath path; on a bucket a `BucketPath`.
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
    """What a reader's module exposes as `READER`.

    Attributes:
        read: see the module's docstring.
        layout: where the images are, for a check's hints: IMAGES (anywhere below the root), CLASS_FOLDERS
            (one per class), ARCHIVES (shards, which stay packed), OTHER.
        recognises: whether a path without a card has this layout. None: a card is required.
        asked: lower numbers are asked first: 0 if the layout is certain, 1 by file endings, 2 to 4 for any
            list or folder.
    """

    read: Callable[..., Manifest]
    layout: str = OTHER
    recognises: Callable[[Path], bool] | None = None
    asked: int = 0


@functools.cache
def reader_names() -> tuple[str, ...]:
    """The readers' names; imports none of them."""
    return plug_ins(readers.__path__, "READER")


@functools.cache
def find_reader(name: str) -> Reader:
    return importlib.import_module(f"{readers.__name__}.{name}").READER


def recognise(path: Path) -> str | None:
    """The name of the reader that takes a path, or None.

    Raises:
        UsageError: the path may be read in two ways.
    """
    for name in sorted(reader_names(), key=lambda name: find_reader(name).asked):
        recognises = find_reader(name).recognises
        if recognises is not None and recognises(path):
            return name
    return None
