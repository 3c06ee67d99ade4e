"""Small data sets of pairs with exact geometry, in the three layouts: a textured box seen by known cameras.

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


def rotation(axis: Sequence[float], degrees: float) -> np.ndarray:
    """Rodrigues' formula: float64 [3, 3]."""
    x, y, z = np.array(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.radians(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def motion(turn: np.ndarray, shift: Sequence[float]) -> np.ndarray:
    made = np.eye(4)
    made[:3, :3], made[:3, 3] = turn, shift
    return made


def quaternion(turn: np.ndarray) -> np.ndarray:
    """w, x, y, z of a rotation by less than 180 degrees."""
    w = np.sqrt(max(0, 1 + np.trace(turn))) / 2
    x, y, z = turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]
    return np.array([w, x / (4 * w), y / (4 * w), z / (4 * w)])


def view(
    size: tuple[int, int],
    intrinsics: np.ndarray,
    pose: np.ndarray,
    half: Sequence[float],
    inside: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """An axis-parallel box around the origin, seen from outside or inside.

    Args:
        size: height, width.
        pose: object to camera.
        half: half the box's sides, in the unit of `pose`.

    Returns: uint8 [H, W, 3], and the depth float64 [H, W], 0 where no ray meets the box.
    """
    height, width = size
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(intrinsics).T
    turn, shift = pose[:3, :3], pose[:3, 3]
    origin, rays = -turn.T @ shift, rays @ turn  # in the box's coordinates; depth = length along the ray
    with np.errstate(divide="ignore", invalid="ignore"):
        both = np.stack([(-np.array(half) - origin) / rays, (np.array(half) - origin) / rays])
    near, far = both.min(0).max(-1), both.max(0).min(-1)
    depth = far if inside else near
    depth = np.where((near < far) & (depth > 0), depth, 0)
    picture = texture(origin + rays * depth[..., None], half)
    return np.where(depth[..., None] > 0, picture, 90).astype(np.uint8), depth


def texture(points: np.ndarray, half: Sequence[float]) -> np.ndarray:
    """Colours of points [H, W, 3] of the box: waves that repeat nowhere, [H, W, 3] in 0 to 255."""
    place = points / np.max(half)
    rng = np.random.default_rng(5)
    waves = rng.normal(size=(24, 3)) * np.geomspace(1.5, 9, 24)[:, None]
    value = np.sin(place @ waves.T + rng.uniform(0, 6, 24)) @ rng.normal(size=(24, 3)) / 24**0.5
    return 127.5 + 110 * np.tanh(value)


def save(path: Path, array: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


# --- NAVI ---

NAVI_SIZE = (90, 120)
NAVI_FOCAL = 150.0
BOX = (40.0, 30.0, 35.0)  # millimetres


def navi_pose(k: int, degrees: float = 25.0) -> np.ndarray:
    """Object to camera, in millimetres; neighbours are `degrees` apart."""
    turn = rotation((0.2, 1.0, 0.1), degrees * k) @ rotation((1.0, 0.3, 0.2), 30)
    return motion(turn, (3.0 - k, 2.0 * k - 1, 220.0 + 5 * k))


def navi_record(k: int, thing: str, scene: str, pose: np.ndarray, length: float = 1.0) -> dict:
    return {
        "object_id": thing,
        "camera": {
            "q": (length * quaternion(pose[:3, :3])).tolist(),
            "t": pose[:3, 3].tolist(),
            "focal_length": NAVI_FOCAL,
            "camera_model": "made",
        },
        "filename": f"{k:03d}.jpg",
        "filename_original": f"IMG_{k}",
        "image_size": list(NAVI_SIZE),
        "scene_name": scene,
        "split": "train" if k % 2 else "val",
        "occluded": False,
    }


def write_navi(
    root: Path, *, objects: Sequence[str] = ("box", "crate"), views: int = 3, dash: str = "-"
) -> Path:
    """Raw images, one wild_set and one multi-view scene an object, and both official lists.

    A list's pairs are each scene's neighbours: angles of 25 degrees.
    """
    lists: dict[str, list[str]] = {"wild_set": [], "multiview": []}
    for thing in objects:
        for kind, scene in (("wild_set", "wild_set"), ("multiview", f"multiview{dash}00-made")):
            records, folder = [], root / thing / scene
            for k in range(views):
                pose = navi_pose(k)
                intrinsics = np.array([[NAVI_FOCAL, 0, 60], [0, NAVI_FOCAL, 45], [0, 0, 1]])
                picture, depth = view(NAVI_SIZE, intrinsics, pose, BOX)
                save(folder / f"images/{k:03d}.jpg", picture, quality=95)
                save(folder / f"depth/{k:03d}.png", disparity(depth))
                save(folder / f"masks/{k:03d}.png", (depth > 0).astype(np.uint8) * 255)
                records.append(navi_record(k, thing, scene, pose, length=1.0 + 0.1 * k))
                if k:
                    names = [f"{thing}/{scene}/images/{each:03d}.jpg" for each in (k - 1, k)]
                    lists[kind].append(f"{names[0]} {names[1]} 25.0")
            (folder / "annotations.json").write_text(json.dumps(records))
    splits = root / "custom_splits" / "pairwise_pixel_correspondences"
    splits.mkdir(parents=True)
    for kind, lines in lists.items():
        (splits / f"pairs-{kind}.txt").write_text("\n".join(lines) + "\n")
    return root


def disparity(depth: np.ndarray) -> np.ndarray:
    """Millimetres -> uint16, as in NAVI's depth pictures."""
    with np.errstate(divide="ignore"):
        return np.where(depth > 0, np.round(655350 / depth), 0).astype(np.uint16)


# --- ScanNet ---

SCANNET_K = np.array([[57.5, 0, 32.2], [0, 57.6, 24.1], [0, 0, 1]])  # of 64 x 48 pixels
ROOM = (2.0, 1.5, 2.5)  # metres


def scannet_pose(k: int) -> np.ndarray:
    """Camera to world, in metres."""
    return motion(rotation((0.1, 1.0, 0.2), 35 + 20.0 * k), (0.1 * k, -0.05 * k, 0.2 - 0.1 * k))


def write_scannet(
    root: Path, *, scenes: Sequence[tuple[int, int]] = ((707, 0), (708, 1)), frames: int = 3
) -> Path:
    """Views inside a box; colour is twice as large. Pairs are each scene's neighbours, 20 degrees apart."""
    names, motions, intrinsics = [], [], {}
    for room, scan in scenes:
        scene = f"scene{room:04d}_{scan:02d}"
        intrinsics[scene] = SCANNET_K.astype(np.float64)
        for k in range(frames):
            pose = scannet_pose(k)
            large = np.diag([2.0, 2.0, 1.0]) @ SCANNET_K
            picture, _ = view((96, 128), large, np.linalg.inv(pose), ROOM, inside=True)
            _, depth = view((48, 64), SCANNET_K, np.linalg.inv(pose), ROOM, inside=True)
            save(root / scene / f"color/{15 * k}.jpg", picture, quality=95)
            save(root / scene / f"depth/{15 * k}.png", np.round(depth * 1000).astype(np.uint16))
            (root / scene / "pose").mkdir(exist_ok=True)
            np.savetxt(root / scene / f"pose/{15 * k}.txt", pose, fmt="%.6f")
            if k:
                names.append((room, scan, 15 * (k - 1), 15 * k))
                motions.append((np.linalg.inv(pose) @ scannet_pose(k - 1))[:3].ravel())
    np.savez(root / "test.npz", name=np.array(names, np.uint16), rel_pose=np.array(motions, np.float32))
    np.savez(root / "intrinsics.npz", **intrinsics)
    return root


# --- SPair-71k ---

CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])


def write_spair(
    root: Path, *, classes: Sequence[str] = ("bus", "car"), images: int = 3, masks: bool = True
) -> Path:
    """Boxes with corners as keypoints; keypoint 7 - k is not in image k. Every two images are a pair."""
    size, focal = (60, 75), 90.0
    intrinsics = np.array([[focal, 0, 37.5], [0, focal, 30], [0, 0, 1]])
    for c, category in enumerate(classes):
        boxes = []
        for k in range(images):
            pose = navi_pose(k, 15.0 + 5 * c)
            picture, depth = view(size, intrinsics, pose, BOX)
            name = f"2008_00000{k}"
            save(root / f"JPEGImages/{category}/{name}.jpg", picture, quality=95)
            if masks:
                save(root / f"Segmentation/{category}/{name}.png", (depth > 0).astype(np.uint8) * (c + 1))
            corners = (CORNERS * BOX) @ pose[:3, :3].T + pose[:3, 3]
            pixels = (corners @ intrinsics.T)[:, :2] / corners[:, 2:]
            points = {str(j): None if j == 7 - k else [int(v) for v in xy] for j, xy in enumerate(pixels)}
            rows, columns = np.nonzero(depth)
            boxes.append([int(v) for v in (columns.min(), rows.min(), columns.max(), rows.max())])
            write_json(
                root / f"ImageAnnotation/{category}/{name}.json",
                {"filename": f"{name}.jpg", "bndbox": boxes[-1], "kps": points},
            )
        for a in range(images):
            for b in range(images):
                if a != b:
                    write_spair_pair(root, category, (a, b), boxes, size)
    return root


def write_spair_pair(
    root: Path, category: str, images: tuple[int, int], boxes: Sequence[list[int]], size: tuple[int, int]
) -> None:
    number = len(list((root / "PairAnnotation/test").glob("*.json")))
    names = [f"2008_00000{k}" for k in images]
    full = f"{number:06d}-{names[0]}-{names[1]}:{category}"
    record = {
        "filename": full,
        "pair_id": number,
        "category": category,
        "src_imname": f"{names[0]}.jpg",
        "trg_imname": f"{names[1]}.jpg",
        "src_imsize": [size[1], size[0], 3],
        "trg_imsize": [size[1], size[0], 3],
        "src_bndbox": boxes[images[0]],
        "trg_bndbox": boxes[images[1]],
        "viewpoint_variation": min(2, abs(images[0] - images[1]) - 1),
        "mirror": 0,
    }
    write_json(root / f"PairAnnotation/test/{full}.json", record)


def write_json(path: Path, record: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))
