"""Motion blur of 3D common corruptions a second time: loops over points and pixels, from its description."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

DIRECTIONS = [(-1, 1), (0, 1), (1, 1), (1, 0), (-1, 2), (1, 2), (2, 1), (2, -1)]
DIRECTIONS += [(-2, 3), (-1, 3), (1, 3), (2, 3), (3, 2), (3, 1), (3, -1), (3, -2)]


def blur(
    image: np.ndarray, depth: np.ndarray, right: float, down: float, left: float, frames: int
) -> np.ndarray:
    """uint8; `left` is the share of the nearest depth at the end of the path."""
    size = len(depth)
    disparity = 1 / (depth.astype(np.float64) + 1e-7)
    disparity *= 40 / disparity.max()
    far = 512 * 40 / (disparity + 1e-7)
    nearest = far[size // 4 : -(size // 4), size // 4 : -(size // 4)].min()
    at = np.arange(size) - (size - 1) / 2
    points = np.stack([far * at / size, far * at[:, None] / size, far], -1)
    p = np.pad(disparity / 40, 1, mode="edge")
    bend = 4 * p[1:-1, 1:-1] - p[:-2, 1:-1] - p[:-2, 2:] - p[1:-1, :-2] - p[2:, :-2]
    points[np.abs(bend) >= 0.03] = 0
    total = np.zeros(image.shape, np.int64)
    for i in range(frames):
        share = i / 59
        dz = nearest * ((1 - share) + share * left - 1)
        shift = -share * right * (nearest + dz) / 512, -share * down * (nearest + dz) / 512, dz
        view = fill(*splat(image, points + np.array(shift)))
        view = np.clip(view * 255, 0, 255).astype(np.uint8).astype(np.int64)
        padded = np.pad(view, ((0, 1), (0, 1), (0, 0)), mode="edge")
        block = padded[:-1, :-1] + padded[1:, :-1] + padded[:-1, 1:] + padded[1:, 1:]
        total += np.floor(block / 4 + 0.5).astype(np.int64)
    return (total // frames).astype(np.uint8)


def splat(image: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    size = len(image)
    drawn = []
    buffer = np.full((size, size), 1e6, np.float32)
    for row, column in np.ndindex(size, size):
        x, y, z = points[row, column]
        if z < 0.001:
            continue
        u, v = size * x / z + (size - 1) / 2, size * y / z + (size - 1) / 2
        e = np.float32(1e6 - 512 * 40 / (z + 1e-7))
        x0, y0 = math.floor(u), math.floor(v)
        a, b = u - x0, v - y0
        corners = [(y0, x0, (1 - a) * (1 - b)), (y0, x0 + 1, a * (1 - b))]
        corners += [(y0 + 1, x0, (1 - a) * b), (y0 + 1, x0 + 1, a * b)]
        drawn.append((corners, e, image[row, column], z))
        r, c, _ = max(corners, key=lambda corner: corner[2])
        if 0 <= r < size and 0 <= c < size:
            buffer[r, c] = min(buffer[r, c], e)
    closed = buffer.copy()
    for row, column in np.ndindex(size, size):
        found = []
        for dx, dy in ((1, 0), (0, 1), (1, 1), (1, -1)):
            ends = [(row - dy, column - dx), (row + dy, column + dx)]
            if all(0 <= r < size and 0 <= c < size for r, c in ends):
                values = [buffer[end] for end in ends]
                if buffer[row, column] >= max(values) + 1:
                    found += values
        if found:
            closed[row, column] = min(buffer[row, column], np.mean(np.array(found, np.float64)))
    sums, weights = np.zeros((size, size, 4)), np.zeros((size, size))
    for corners, e, colour, z in drawn:
        for r, c, weight in corners:
            if 0 <= r < size and 0 <= c < size and e <= closed[r, c] + 1 and weight >= 1 / 4096:
                sums[r, c] += weight * np.array([*colour, z])
                weights[r, c] += weight
    mean = sums / (weights[..., None] + 1e-7)
    return mean[..., :3], mean[..., 3]


def fill(image: np.ndarray, depth: np.ndarray) -> np.ndarray:
    out = image.copy()
    for row, column in np.argwhere(depth <= 0):
        best, source = math.inf, None
        for dx, dy in DIRECTIONS:
            length = math.hypot(dx, dy)
            unit = np.float32(dx / length), np.float32(dy / length)
            ends = [_first_seen(depth, row, column, sign * unit[0], sign * unit[1]) for sign in (-1, 1)]
            if ends[0] is None or ends[1] is None:
                continue
            (r0, c0), (r1, c1) = ends[0], ends[1]
            span = math.hypot(r1 - r0, c1 - c0)
            if span < best:
                best, source = span, ends[1] if depth[r1, c1] > depth[r0, c0] else ends[0]
        if source is not None:
            out[row, column] = image[source]
    return out


def _first_seen(depth: np.ndarray, row: int, column: int, dx: Any, dy: Any) -> tuple[int, int] | None:
    x, y, size = np.float32(column), np.float32(row), len(depth)
    while True:
        x, y = np.float32(x + dx), np.float32(y + dy)
        c, r = (int(math.copysign(math.floor(abs(each) + 0.5), each)) for each in (x, y))
        if not (0 <= r < size and 0 <= c < size):
            return None
        if depth[r, c] > 0:
            return r, c
