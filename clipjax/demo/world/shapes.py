"""Outlines in the square [-1, 1]^2, y down. `SHAPES` are the classes; no model has seen an `UNKNOWN` one."""

from __future__ import annotations

import math

import numpy as np

Outline = list[tuple[np.ndarray, int]]  # polygons [n, 2], and 1 to fill or 0 to cut out


def _arc(radius: float, start: float, stop: float, points: int = 40, centre: tuple[float, float] = (0, 0)):
    angle = np.radians(np.linspace(start, stop, points))
    return np.stack([centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle)], axis=1)


def _regular(corners: int, first: float = -90.0) -> np.ndarray:
    return _arc(1.0, first, first + 360.0 * (corners - 1) / corners, corners)


def _star() -> np.ndarray:
    outer, inner = _regular(5), 0.42 * _regular(5, -54.0)
    return np.stack([outer, inner], axis=1).reshape(-1, 2)


def _heart() -> np.ndarray:
    """The parametric curve of https://mathworld.wolfram.com/HeartCurve.html, with y downwards."""
    t = np.linspace(0, 2 * np.pi, 60)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x, y], axis=1) / 17.0


def _crescent() -> np.ndarray:
    # Outer arc of the unit circle, closed by a smaller circle's arc, moved right.
    meet = math.degrees(math.acos((1 + 0.45**2 - 0.8**2) / (2 * 0.45)))
    corner = np.array([math.cos(math.radians(meet)), math.sin(math.radians(meet))])
    inner = math.degrees(math.atan2(corner[1], corner[0] - 0.45))
    return np.concatenate([_arc(1.0, meet, 360 - meet), _arc(0.8, 360 - inner, inner, centre=(0.45, 0))])


def _spiral() -> np.ndarray:
    turn = np.linspace(0.6 * np.pi, 5 * np.pi, 90)
    middle = turn / turn[-1] * 0.85
    direction = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    return np.concatenate(
        [direction * (middle + 0.13)[:, None], (direction * (middle - 0.07)[:, None])[::-1]]
    )


def _polygon(*corners: tuple[float, float]) -> np.ndarray:
    return np.array(corners, dtype=float)


SHAPES: dict[str, Outline] = {
    "arrow": [
        (_polygon((-1, -0.28), (0.1, -0.28), (0.1, -0.8), (1, 0), (0.1, 0.8), (0.1, 0.28), (-1, 0.28)), 1)
    ],
    "bolt": [(_polygon((0.3, -1), (-0.6, 0.2), (-0.05, 0.2), (-0.35, 1), (0.6, -0.25), (0.05, -0.25)), 1)],
    "circle": [(_arc(0.92, 0, 360), 1)],
    "crescent": [(_crescent(), 1)],
    "cross": [
        (
            _polygon(
                *[(-0.3, -1), (0.3, -1), (0.3, -0.3), (1, -0.3), (1, 0.3), (0.3, 0.3)],
                *[(0.3, 1), (-0.3, 1), (-0.3, 0.3), (-1, 0.3), (-1, -0.3), (-0.3, -0.3)],
            ),
            1,
        )
    ],
    "heart": [(_heart(), 1)],
    "hourglass": [(_polygon((-0.8, -1), (0.8, -1), (0.12, 0), (0.8, 1), (-0.8, 1), (-0.12, 0)), 1)],
    "ring": [(_arc(0.95, 0, 360), 1), (_arc(0.5, 0, 360), 0)],
    "spiral": [(_spiral(), 1)],
    "square": [(_polygon((-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)), 1)],
    "star": [(_star(), 1)],
    "triangle": [(_regular(3), 1)],
}


def _drop() -> np.ndarray:
    return np.concatenate([_arc(0.6, -25, 205, 30, centre=(0, 0.4)), _polygon((0, -1))])


def _letter(*bars: tuple[float, float, float, float]) -> Outline:
    """Upright bars, each (left, top, right, bottom)."""
    return [
        (_polygon((left, top), (right, top), (right, bottom), (left, bottom)), 1)
        for left, top, right, bottom in bars
    ]


UNKNOWN: dict[str, Outline] = {
    "drop": [(_drop(), 1)],
    "fish": [
        (_arc(1.0, 0, 360, centre=(-0.2, 0)) * (0.7, 0.45), 1),
        (_polygon((0.4, 0), (1, -0.55), (1, 0.55)), 1),
    ],
    "house": [
        (_polygon((-0.75, -0.1), (0, -0.95), (0.75, -0.1), (0.75, 0.9), (-0.75, 0.9)), 1),
        (_polygon((-0.2, 0.3), (0.2, 0.3), (0.2, 0.9), (-0.2, 0.9)), 0),
    ],
    "key": [
        (_arc(0.42, 0, 360, centre=(-0.55, 0)), 1),
        (_arc(0.18, 0, 360, centre=(-0.55, 0)), 0),
        *_letter((-0.2, -0.13, 1, 0.13), (0.45, 0, 0.62, 0.5), (0.8, 0, 0.97, 0.5)),
    ],
    "ladder": _letter(
        *[(-0.6, -1, -0.35, 1), (0.35, -1, 0.6, 1)],
        *[(-0.6, top, 0.6, top + 0.2) for top in (-0.75, -0.1, 0.55)],
    ),
    "letter e": _letter(
        *[(-0.65, -0.95, -0.3, 0.95), (-0.65, -0.95, 0.65, -0.6)],
        *[(-0.65, -0.17, 0.45, 0.17), (-0.65, 0.6, 0.65, 0.95)],
    ),
    "two dots": [(_arc(0.42, 0, 360, centre=(-0.5, 0)), 1), (_arc(0.42, 0, 360, centre=(0.5, 0)), 1)],
    "zig zag": [
        (
            _polygon(
                *[(-1, 0.1), (-0.6, -0.6), (-0.1, 0.1), (0.4, -0.6), (1, 0.3)],
                *[(1, 0.75), (0.4, -0.1), (-0.1, 0.6), (-0.6, -0.1), (-1, 0.55)],
            ),
            1,
        )
    ],
}
