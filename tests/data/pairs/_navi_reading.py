"""probe3d's preparation of NAVI's pairs a second time: pixel by pixel, from raw images."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
from PIL import Image

from clipjax.data.pairs.pair import Pair

SIDE, GRID = 64, 16
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)


def reading(root: Path, pair: str, crop: bool) -> Pair:
    images, points, poses, focal = [], [], [], 0.0
    for name in pair.split(" "):
        scene, stem = root / name.rsplit("/", 1)[0], name.rsplit("/", 1)[1]
        record = next(
            r for r in json.loads((scene / "annotations.json").read_text()) if r["filename"] == f"{stem}.jpg"
        )
        image = Image.open(scene / f"images/{stem}.jpg")
        depth = Image.fromarray(np.asarray(Image.open(scene / f"depth/{stem}.png")).astype(np.int32))
        factor = 1024 / min(image.size)
        size = (int(image.width * factor), int(image.height * factor))
        jpeg = io.BytesIO()
        image.resize(size, Image.Resampling.BILINEAR).save(jpeg, "JPEG")
        picture = np.asarray(Image.open(jpeg)).astype(np.float32) / np.float32(255)
        picture = (picture - MEAN) / STD
        numbers = np.asarray(depth.resize(size, Image.Resampling.NEAREST)).astype(np.float64)
        metres = np.where(numbers > 0, 655350 / np.maximum(numbers, 1) / 1000, 0)
        rows, columns = (nearest_and_middle(length, min(size)) for length in (size[1], size[0]))
        picture, metres = picture[rows][:, columns], metres[rows][:, columns]
        focal = record["camera"]["focal_length"] * SIDE / min(record["image_size"])
        xyz = np.zeros((SIDE, SIDE, 3))
        for v in range(SIDE):
            for u in range(SIDE):
                ray = ((u + 0.5 - SIDE / 2) / focal, (v + 0.5 - SIDE / 2) / focal, 1)
                xyz[v, u] = metres[v, u] * np.array(ray)
        if crop:
            picture, xyz, length = cropped(picture, xyz, metres)
            focal *= SIDE / length
        images.append(picture)
        points.append(xyz[:: SIDE // GRID, :: SIDE // GRID])
        poses.append(pose(record))
    motion = poses[1] @ np.linalg.inv(poses[0])
    geometry = {"points": np.stack(points), "intrinsics": np.diag([focal, focal, 1]), "motion": motion}
    return Pair(np.stack(images), geometry)


def nearest_and_middle(length: int, short: int) -> list[int]:
    resized = SIDE if length == short else int(SIDE * length / short)
    scale = np.float32(length / resized)
    taken = [min(int(np.floor(np.float32(i) * scale)), length - 1) for i in range(resized)]
    start = round((resized - SIDE) / 2)
    return taken[start : start + SIDE]


def cropped(picture: np.ndarray, xyz: np.ndarray, metres: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    seen = [(v, u) for v in range(SIDE) for u in range(SIDE) if metres[v, u] > 0]
    first, last = [min(axis) for axis in zip(*seen)], [max(axis) for axis in zip(*seen)]
    size = [b - a for a, b in zip(first, last)]
    length = max(size)
    corner = [a - (length - s) // 2 for a, s in zip(first, size)]
    if not all(c >= 0 and c + length <= SIDE for c in corner):
        corner = [max(a - (length - s), 0) for a, s in zip(first, size)]
    step = 1 / (SIDE / length)
    rows, columns = ([c + math.floor(i * step) for i in range(SIDE)] for c in corner)
    return picture[rows][:, columns], xyz[rows][:, columns], length


def pose(record: dict) -> np.ndarray:
    w, *v = np.array(record["camera"]["q"]) / np.linalg.norm(record["camera"]["q"])
    cross = np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])
    made = np.eye(4)
    made[:3, :3] = np.eye(3) + 2 * w * cross + 2 * cross @ cross
    made[:3, 3] = np.array(record["camera"]["t"]) / 1000
    return made
