"""ImageNet's training images, which are published as a tar of a tar for each class.

    imagenet/train/n01440764.tar

becomes imagenet/train/n01440764/n01440764_10026.JPEG. Each tar is removed once it is unpacked, so that the
images do not take twice their bytes.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from clipjax.downloads.archives import unpack
from clipjax.downloads.arrangement import Arrangement, arranging
from clipjax.errors import DataError, counted, cut

CLASSES = 1000
FOLDER = Path("imagenet/train")
_HALF = ".unpacking"  # the ending of a folder that is not whole yet


def arrange(draft: Path) -> None:
    folder = draft / FOLDER
    with arranging(folder):
        for name in os.listdir(folder):
            if name.endswith(_HALF):
                shutil.rmtree(folder / name)
        names = sorted(os.listdir(folder))
    synsets = {name.removesuffix(".tar") for name in names}
    if odd := [name for name in names if not re.fullmatch(r"n\d{8}(\.tar)?", name, re.ASCII)]:
        raise DataError(f"{folder} holds {cut(odd[0])}, which is not a class's tar: fetch the archive again")
    if len(synsets) != CLASSES:
        classes = counted(len(synsets), "class", "classes")
        raise DataError(f"{folder} holds {classes}, not {CLASSES}: fetch the archive again")
    for name in names:
        if name.endswith(".tar"):
            _unpack_class(folder / name)


def _unpack_class(archive: Path) -> None:
    folder = archive.with_suffix("")
    with arranging(folder):
        if not folder.exists():
            half = archive.with_suffix(_HALF)
            unpack(archive, half, progress=lambda count: None)
            os.rename(half, folder)
        archive.unlink()


ARRANGEMENT = Arrangement("imagenet_train", "unpacks the tar of each of ImageNet's classes", arrange)
