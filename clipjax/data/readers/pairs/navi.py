"""Pairs of NAVI's images, with depth and cameras."""

from __future__ import annotations

from etils import epath

from clipjax.data.manifest import Manifest
from clipjax.data.pairs.matching import Matching
from clipjax.data.pairs.navi import read_pairs
from clipjax.data.readers.reader import Reader


def read_navi(root: epath.Path, matching: Matching, *, pairs: str, crop: bool) -> Manifest:
    """NAVI v1.0 or v1.5, raw or prepared: see `clipjax.data.pairs.navi`.

    Args:
        pairs: "wild_set", "multiview", or a file of pairs.
        crop: to the object's box.
    """
    return read_pairs(root, matching, pairs, crop)


READER = Reader(read_navi, pairs=True)
