"""Pairs of views on disk, in the public layouts of NAVI, ScanNet pairs and SPair-71k.

write_navi(root, {"star": prism("star", 40.0, 15.0)}, poses, [(0, 1), (0, 2)])
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from clipjax.demo.world.solids import (
    Solid,
    angle_between,
    camera,
    corners,
    project,
    quaternion,
    view,
)

Pairs = Sequence[tuple[int, int]]
"""Numbers of the views of each pair."""


def save(path: Path, array: np.ndarray, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def write_json(path: Path, record: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))


# -----------------------------------------------------------------------------------------------------------
# NAVI: an object in several places.

NAVI_SIZE = (90, 120)
NAVI_FOCAL = 150.0
WILD = {"wild_set": "wild_set"}


def write_navi(
    root: Path,
    objects: Mapping[str, Solid],
    poses: Sequence[np.ndarray],
    pairs: Pairs,
    scenes: Mapping[str, str] = WILD,
) -> Path:
    """Raw images, and the official lists.

    Args:
        poses: object to camera, in millimetres, of each view.
        scenes: which list -> the folder of its images. Both lists exist; one without a scene is empty.
    """
    lists: dict[str, list[str]] = {"wild_set": [], "multiview": []}
    for (thing, solid), (kind, scene) in itertools.product(objects.items(), scenes.items()):
        folder, records = root / thing / scene, []
        for k, pose in enumerate(poses):
            picture, depth = view(NAVI_SIZE, camera(NAVI_FOCAL, NAVI_SIZE), pose, solid)
            save(folder / f"images/{k:03d}.jpg", picture, quality=95)
            save(folder / f"depth/{k:03d}.png", disparity(depth))
            save(folder / f"masks/{k:03d}.png", (depth > 0).astype(np.uint8) * 255)
            records.append(navi_record(k, thing, scene, pose, length=1.0 + 0.1 * k))
        write_json(folder / "annotations.json", records)
        for pair in pairs:
            names = " ".join(f"{thing}/{scene}/images/{k:03d}.jpg" for k in pair)
            lists[kind].append(f"{names} {round(angle_between(*(poses[k] for k in pair)), 4)}")
    splits = root / "custom_splits" / "pairwise_pixel_correspondences"
    splits.mkdir(parents=True)
    for kind, lines in lists.items():
        (splits / f"pairs-{kind}.txt").write_text("\n".join(lines) + "\n")
    return root


def disparity(depth: np.ndarray) -> np.ndarray:
    """Millimetres -> uint16, as in NAVI's depth pictures."""
    with np.errstate(divide="ignore"):
        return np.where(depth > 0, np.round(655350 / depth), 0).astype(np.uint16)


def navi_record(k: int, thing: str, scene: str, pose: np.ndarray, length: float = 1.0) -> dict[str, Any]:
    """An entry of annotations.json; `length` of the quaternion, which need not be 1."""
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


# -----------------------------------------------------------------------------------------------------------
# ScanNet: a camera that moves through a room.

SCANNET_SIZE = (48, 64)
SCANNET_K = np.array([[57.5, 0, 32.2], [0, 57.6, 24.1], [0, 0, 1]])
_EVERY = 15  # frames between two views


def write_scannet(
    root: Path, rooms: Mapping[tuple[int, int], Solid], poses: Sequence[np.ndarray], pairs: Pairs
) -> Path:
    """Views inside a solid; colour is twice as large as depth.

    Args:
        rooms: (room, scan) -> what the camera is in.
        poses: camera to world, in metres, of each view.
    """
    names, motions, large = [], [], np.diag([2.0, 2.0, 1.0]) @ SCANNET_K
    for (room, scan), solid in rooms.items():
        scene = root / scene_name(room, scan)
        for k, pose in enumerate(poses):
            picture, _ = view((96, 128), large, np.linalg.inv(pose), solid)
            _, depth = view(SCANNET_SIZE, SCANNET_K, np.linalg.inv(pose), solid)
            save(scene / f"color/{_EVERY * k}.jpg", picture, quality=95)
            save(scene / f"depth/{_EVERY * k}.png", np.round(depth * 1000).astype(np.uint16))
            (scene / "pose").mkdir(exist_ok=True)
            np.savetxt(scene / f"pose/{_EVERY * k}.txt", pose, fmt="%.6f")
        for a, b in pairs:
            names.append((room, scan, _EVERY * a, _EVERY * b))
            motions.append((np.linalg.inv(poses[b]) @ poses[a])[:3].ravel())
    np.savez(root / "test.npz", name=np.array(names, np.uint16), rel_pose=np.array(motions, np.float32))
    intrinsics: dict[str, Any] = {scene_name(*each): SCANNET_K for each in rooms}
    np.savez(root / "intrinsics.npz", **intrinsics)
    return root


def scene_name(room: int, scan: int) -> str:
    return f"scene{room:04d}_{scan:02d}"


# -----------------------------------------------------------------------------------------------------------
# SPair-71k: different objects of one class.

SPAIR_SIZE = (60, 75)
SPAIR_FOCAL = 90.0
_TURNED = (25, 50)  # degrees above which the viewpoint variation is 1, is 2


class Shot(NamedTuple):
    """An image: its object, object to camera in millimetres, and the `corners` that it does not show."""

    solid: Solid
    pose: np.ndarray
    absent: Sequence[int]


def write_spair(root: Path, classes: Mapping[str, Sequence[Shot]], masks: bool = True) -> Path:
    """Corners are the keypoints. Every two images of a class are a pair, both ways."""
    numbers = itertools.count()
    for c, (category, shots) in enumerate(classes.items()):
        boxes = [_write_shot(root, category, k, shot, c + 1 if masks else 0) for k, shot in enumerate(shots)]
        for a, b in itertools.permutations(range(len(shots)), 2):
            turned = angle_between(shots[a].pose, shots[b].pose)
            viewpoint = sum(turned > limit for limit in _TURNED)
            _write_pair(root, category, next(numbers), (a, b), boxes, viewpoint)
    return root


def _write_shot(root: Path, category: str, k: int, shot: Shot, mask: int) -> list[int]:
    """`mask`: the object's number in its mask, 0 without one. Returns its box: left, top, right, bottom."""
    intrinsics, name = camera(SPAIR_FOCAL, SPAIR_SIZE), _image_name(k)
    picture, depth = view(SPAIR_SIZE, intrinsics, shot.pose, shot.solid)
    save(root / f"JPEGImages/{category}/{name}.jpg", picture, quality=95)
    if mask:
        save(root / f"Segmentation/{category}/{name}.png", (depth > 0).astype(np.uint8) * mask)
    pixels, _ = project(corners(shot.solid), intrinsics, shot.pose)
    points = {str(j): None if j in shot.absent else [int(v) for v in xy] for j, xy in enumerate(pixels)}
    rows, columns = np.nonzero(depth)
    box = [int(v) for v in (columns.min(), rows.min(), columns.max(), rows.max())]
    record = {"filename": f"{name}.jpg", "bndbox": box, "kps": points}
    write_json(root / f"ImageAnnotation/{category}/{name}.json", record)
    return box


def hidden_corners(solid: Solid, pose: np.ndarray) -> list[int]:
    """The corners that no pixel of an image or its eight neighbours shows."""
    intrinsics = camera(SPAIR_FOCAL, SPAIR_SIZE)
    _, depth = view(SPAIR_SIZE, intrinsics, pose, solid)
    pixels, depths = project(corners(solid), intrinsics, pose)
    hidden, near = [], np.pad(depth, 1)
    for j, ((x, y), away) in enumerate(zip(pixels, depths)):
        inside = 0 <= x < SPAIR_SIZE[1] and 0 <= y < SPAIR_SIZE[0]
        around = near[int(y) : int(y) + 3, int(x) : int(x) + 3] if inside else np.zeros(1)
        if (np.abs(around - away) > solid.thick / 2).all():
            hidden.append(j)
    return hidden


def _image_name(k: int) -> str:
    return f"2008_{k:06d}"


def _write_pair(
    root: Path,
    category: str,
    number: int,
    images: tuple[int, int],
    boxes: Sequence[list[int]],
    viewpoint: int,
) -> None:
    source, target = (_image_name(k) for k in images)
    full = f"{number:06d}-{source}-{target}:{category}"
    size = [SPAIR_SIZE[1], SPAIR_SIZE[0], 3]
    record = {
        "filename": full,
        "pair_id": number,
        "category": category,
        "src_imname": f"{source}.jpg",
        "trg_imname": f"{target}.jpg",
        "src_imsize": size,
        "trg_imsize": size,
        "src_bndbox": boxes[images[0]],
        "trg_bndbox": boxes[images[1]],
        "viewpoint_variation": viewpoint,
        "mirror": 0,
    }
    write_json(root / f"PairAnnotation/test/{full}.json", record)
