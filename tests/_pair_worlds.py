"""Small data sets of pairs with exact geometry, in the three layouts: a box and a room.

root = write_navi(tmp_path / "navi")
pairs_of("navi", root, tmp_path).load(0)
"""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipjax.data.cards import load_dataset
from clipjax.data.pairs.pair import PairSet
from clipjax.demo.world import pair_files
from clipjax.demo.world.pair_files import save
from clipjax.demo.world.solids import box, motion, rotation
from clipjax.errors import DataError

ROOT = Path(__file__).parent.parent
SMALL = {"navi": ([64, 64], [16, 16]), "scannet_pairs": ([48, 64], [12, 16]), "spair71k": ([80, 80], None)}


def small_card(name: str, folder: Path, options: dict | None = None, **matching) -> Path:
    """The shipped card with pictures of a tenth of the size, written into `folder`."""
    record = tomllib.loads((ROOT / "configs" / "datasets" / f"{name}.toml").read_text())
    size, grid = SMALL[name]
    table = record["matching"] | {"size": size} | ({} if grid is None else {"grid": grid}) | matching
    lines = [f"{key} = {json.dumps(record[key])}" for key in ("name", "title", "reader", "tasks")]
    lines.append("[options]")
    lines += [
        f"{key} = {json.dumps(value)}" for key, value in (record.get("options", {}) | (options or {})).items()
    ]
    lines.append("[matching]")
    curve = table.pop("curve")
    lines += [f"{key} = {json.dumps(value)}" for key, value in table.items() if value is not None]
    lines.append(f'curve = {{ metric = "{curve["metric"]}", threshold = {curve["threshold"]} }}')
    path = folder / f"{name}.toml"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def pairs_of(name: str, root: Path, folder: Path, **options) -> PairSet:
    """The pairs of a small card, written into `folder`, with these options of the reader."""
    pairs = load_dataset(small_card(name, folder, options), root).manifest.pairs
    assert pairs is not None
    return pairs


def refusal_of(name: str, root: Path, folder: Path, **options) -> str:
    """The line with which the reader refuses the data set."""
    with pytest.raises(DataError) as raised:
        pairs_of(name, root, folder, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def with_large_numbers(world: Path, root: Path, factor: int) -> Path:
    """A copy whose depth pictures have `factor` times the numbers, on both sides of 32,767."""
    shutil.copytree(world, root)
    for path in sorted(root.rglob("depth/*.png")):
        numbers = np.asarray(Image.open(path)).astype(int) * factor
        assert numbers[numbers > 0].min() < 32767 < numbers.max() <= 65535
        save(path, numbers.astype(np.uint16))
    return root


# What the tests' worlds show: a box from outside, a room from inside.

BOX = (40.0, 30.0, 35.0)  # half its sides, millimetres
ROOM = (2.0, 1.5, 2.5)  # metres


def navi_pose(k: int, degrees: float = 25.0) -> np.ndarray:
    """Object to camera, in millimetres; neighbours are `degrees` apart."""
    turn = rotation((0.2, 1.0, 0.1), degrees * k) @ rotation((1.0, 0.3, 0.2), 30)
    return motion(turn, (3.0 - k, 2.0 * k - 1, 220.0 + 5 * k))


def write_navi(
    root: Path, *, objects: Sequence[str] = ("box", "crate"), views: int = 3, dash: str = "-"
) -> Path:
    """One wild_set and one multi-view scene an object. Pairs are each scene's neighbours."""
    poses = [navi_pose(k) for k in range(views)]
    scenes = {"wild_set": "wild_set", "multiview": f"multiview{dash}00-made"}
    return pair_files.write_navi(root, dict.fromkeys(objects, box(BOX)), poses, neighbours(views), scenes)


def neighbours(views: int) -> list[tuple[int, int]]:
    return [(k - 1, k) for k in range(1, views)]


def scannet_pose(k: int) -> np.ndarray:
    """Camera to world, in metres."""
    return motion(rotation((0.1, 1.0, 0.2), 35 + 20.0 * k), (0.1 * k, -0.05 * k, 0.2 - 0.1 * k))


def write_scannet(
    root: Path, *, scenes: Sequence[tuple[int, int]] = ((707, 0), (708, 1)), frames: int = 3
) -> Path:
    """Pairs are each scene's neighbours, 20 degrees apart."""
    poses = [scannet_pose(k) for k in range(frames)]
    return pair_files.write_scannet(root, dict.fromkeys(scenes, box(ROOM)), poses, neighbours(frames))


def write_spair(
    root: Path, *, classes: Sequence[str] = ("bus", "car"), images: int = 3, masks: bool = True
) -> Path:
    """Boxes with corners as keypoints; keypoint 7 - k is not in image k."""
    shots = {
        category: [pair_files.Shot(box(BOX), navi_pose(k, 15.0 + 5 * c), (7 - k,)) for k in range(images)]
        for c, category in enumerate(classes)
    }
    return pair_files.write_spair(root, shots, masks)
