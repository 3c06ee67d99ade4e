"""ImageNet's validation images, which are published in one folder, sorted by the labels of the devkit.

    imagenet/val/ILSVRC2012_val_00000001.JPEG
    imagenet/val/ILSVRC2012_devkit_t12/data/    ILSVRC2012_validation_ground_truth.txt, meta.mat

becomes imagenet/val/<synset>/ILSVRC2012_val_00000001.JPEG, without the devkit. Line n of the ground truth is
the class of image n, a number of meta.mat, whose classes above 1,000 are not leaves of WordNet's tree.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import scipy.io

from clipjax.downloads.arrangement import Arrangement, arranging
from clipjax.errors import DataError, counted, cut, type_and_line
from clipjax.storage.reading import read_lines

IMAGES, CLASSES = 50_000, 1000
FOLDER = Path("imagenet/val")
DEVKIT = FOLDER / "ILSVRC2012_devkit_t12"
_DAMAGE = (
    *(ValueError, TypeError, LookupError, AttributeError, NameError, OverflowError, NotImplementedError),
    *(OSError, MemoryError, EOFError, struct.error, zlib.error, scipy.io.matlab.MatReadError),
)


def arrange(draft: Path) -> None:
    data = draft / DEVKIT / "data"
    synsets = _synsets(data / "meta.mat")
    truth = _ground_truth(data / "ILSVRC2012_validation_ground_truth.txt", synsets)
    names = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, IMAGES + 1)]
    folder = draft / FOLDER
    flat = {name for name in os.listdir(folder) if name.endswith(".JPEG")}
    moves = [(folder / name, folder / synset / name) for name, synset in zip(names, truth)]
    missing = [name for name, (_, to) in zip(names, moves) if name not in flat and not to.exists()]
    if missing or flat - {*names}:
        odd = f"lacks {missing[0]}" if missing else f"holds {cut(min(flat - {*names}))}"
        raise DataError(f"{folder} should hold {counted(IMAGES, 'image')} and {odd}: fetch the archive again")
    with arranging(folder):
        for synset in synsets.values():
            (folder / synset).mkdir(exist_ok=True)
        for source, to in moves:
            if source.name in flat:
                os.rename(source, to)
        shutil.rmtree(draft / DEVKIT)


def _synsets(path: Path) -> dict[int, str]:
    """The synset of each class number.

    scipy's compiled reader may crash on a damaged file. The devkit's checksum, which its data card states,
    is compared before it is unpacked.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist: ILSVRC2012_devkit_t12.tar.gz contains it, fetch that, too")
    try:
        table = np.atleast_1d(scipy.io.loadmat(path, squeeze_me=True)["synsets"])
        leaves = table[table["num_children"] == 0]
        synsets = {int(n): str(wnid) for n, wnid in zip(leaves["ILSVRC2012_ID"], leaves["WNID"])}
    except _DAMAGE as error:
        raise DataError(f"{path} is damaged ({type_and_line(error)}): fetch the devkit again") from None
    if odd := [wnid for wnid in synsets.values() if not re.fullmatch(r"n\d{8}", wnid, re.ASCII)]:
        raise DataError(f"{path}: {cut(odd[0])!r} is not a synset: fetch the devkit again")
    if sorted(synsets) != list(range(1, CLASSES + 1)) or len({*synsets.values()}) != CLASSES:
        raise DataError(f"{path} should number {counted(CLASSES, 'class', 'classes')} from 1: fetch it again")
    return synsets


def _ground_truth(path: Path, synsets: dict[int, str]) -> list[str]:
    """The synset of each image."""
    lines = [line.strip() for line in read_lines(path)]
    if len(lines) != IMAGES:
        raise DataError(f"{path} has {counted(len(lines), 'line')}, not {IMAGES}: fetch the devkit again")
    by_text = {str(number): synset for number, synset in synsets.items()}
    for number, line in enumerate(lines, 1):
        if line not in by_text:
            raise DataError(f"{path}:{number}: {cut(line)!r} is not a class from 1 to {CLASSES}")
    return [by_text[line] for line in lines]


ARRANGEMENT = Arrangement(
    "imagenet_val", "sorts ImageNet's validation images into folders of classes", arrange
)
