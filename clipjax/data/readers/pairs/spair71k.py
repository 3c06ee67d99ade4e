"""SPair-71k: pairs of objects of one class, with keypoints."""

from __future__ import annotations

from etils import epath

from clipjax.data.manifest import Manifest
from clipjax.data.pairs.matching import Matching
from clipjax.data.pairs.spair import read_pairs
from clipjax.data.readers.reader import Reader


def read_spair71k(root: epath.Path, matching: Matching, *, split: str, per_draw: int, seed: int) -> Manifest:
    """Seeded draws from a split, one for each class and viewpoint: see `clipjax.data.pairs.spair`.

    Args:
        split: "trn", "val" or "test".
        per_draw: pairs of each draw; 0 for all.
    """
    return read_pairs(root, matching, split, per_draw, seed)


READER = Reader(read_spair71k, pairs=True)
