"""Subjects of the fuzzer: what readers of pairs of images read beside the images."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import _pair_worlds
from _subject import Read, plain, subject


def pairs(reader: str) -> Read:
    """Ids, columns and the first pair of a small world.

    No pair of NAVI is loaded: that resizes pictures to 1024 pixels, 20 times as slow as the rest. Depth
    pictures have one decoder, which ScanNet's subject reads with.
    """

    def read(folder: Path) -> Any:
        with tempfile.TemporaryDirectory() as cards:
            of_world = _pair_worlds.pairs_of(reader, folder, Path(cards))
        first = [] if reader == "navi" else [of_world.load(0).images, of_world.load(0).geometry]
        return plain([of_world.ids, of_world.columns, *first])

    return read


def register_pairs() -> None:
    pair, lists = "000000-2008_000000-2008_000001:bus.json", "custom_splits/pairwise_pixel_correspondences"
    for reader, write, file, kind in (
        ("navi", _pair_worlds.write_navi, "box/wild_set/annotations.json", "text"),
        ("navi", _pair_worlds.write_navi, f"{lists}/pairs-wild_set.txt", "text"),
        ("scannet_pairs", _pair_worlds.write_scannet, "test.npz", "zip"),
        ("scannet_pairs", _pair_worlds.write_scannet, "intrinsics.npz", "zip"),
        ("scannet_pairs", _pair_worlds.write_scannet, "scene0707_00/pose/0.txt", "text"),
        ("scannet_pairs", _pair_worlds.write_scannet, "scene0707_00/depth/0.png", "bytes"),
        ("spair71k", _pair_worlds.write_spair, f"PairAnnotation/test/{pair}", "text"),
        ("spair71k", _pair_worlds.write_spair, "ImageAnnotation/bus/2008_000000.json", "text"),
    ):
        name = f"pairs: {reader}: {file.rsplit('/', 1)[-1].split('-')[0]}"
        subject(file, kind, pairs(reader), name=name)(write)
