"""Pairs of ScanNet's test scenes (`scannet_test_1500`), with depth and poses."""

from __future__ import annotations

from etils import epath

from clipjax.data.manifest import Manifest
from clipjax.data.pairs.matching import Matching
from clipjax.data.pairs.scannet import read_pairs
from clipjax.data.readers.reader import Reader


def read_scannet_pairs(root: epath.Path, matching: Matching) -> Manifest:
    """`<root>/test.npz`, `intrinsics.npz`, and a folder a scene: see `clipjax.data.pairs.scannet`."""
    return read_pairs(root, matching)


READER = Reader(read_scannet_pairs, pairs=True)
