"""The demo world: small rendered images whose shape, texture, colour and background vary independently.

A `Scene` is the complete record of the factors of one image; `render` turns it into pixels. The shape is the
class (what zero-shot classification must name), the other factors are nuisances. Two kinds of training data
are sampled from the same generator: in "diverse" every factor is independent of the shape, in "narrow" most
images show a shape in its own colour on its own background, so that a model can get away with not looking at
the shape at all.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

# Part of what a rendered split is recognised by: bump when the same scene would give other pixels.
WORLD_VERSION = 1

COLOURS = {
    "red": (255, 95, 85),
    "orange": (255, 165, 50),
    "yellow": (250, 235, 90),
    "green": (110, 225, 110),
    "cyan": (100, 220, 235),
    "blue": (120, 160, 255),
    "pink": (255, 150, 205),
    "white": (245, 245, 245),
}

Outline = list[tuple[np.ndarray, int]]  # polygons [n, 2] in [-1, 1]^2, y down, and 1 to fill or 0 to cut out


@dataclass(frozen=True)
class Scene:
    """Every factor of one image. Lengths are fractions of the image side, the rotation is in degrees."""

    shape: str
    texture: str
    colour: str
    background: str
    size: float
    x: float
    y: float
    rotation: float

    def factors(self) -> dict[str, Any]:
        """The record as plain values, in the order of the fields."""
        return asdict(self)


# -----------------------------------------------------------------------------------------------------------
# Shapes: outlines in the unit square.


def _arc(radius: float, start: float, stop: float, points: int = 40, centre: tuple[float, float] = (0, 0)):
    angle = np.radians(np.linspace(start, stop, points))
    return np.stack([centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle)], axis=1)


def _regular(corners: int, first: float = -90.0) -> np.ndarray:
    return _arc(1.0, first, first + 360.0 * (corners - 1) / corners, corners)


def _star() -> np.ndarray:
    outer, inner = _regular(5), 0.42 * _regular(5, -54.0)
    return np.stack([outer, inner], axis=1).reshape(-1, 2)


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 60)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x, y], axis=1) / 17.0


def _crescent() -> np.ndarray:
    # Outer arc of the unit circle, closed by the arc of a smaller circle moved to the right.
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


def _mask(scene: Scene, side: int) -> np.ndarray:
    """How much of each pixel the shape covers, float [side, side] in [0, 1]; drawn at twice the size."""
    image = Image.new("L", (2 * side, 2 * side))
    draw = ImageDraw.Draw(image)
    angle = math.radians(scene.rotation)
    rotate = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    for polygon, fill in SHAPES[scene.shape]:
        points = (polygon @ rotate * scene.size / 2 + (scene.x, scene.y)) * 2 * side
        draw.polygon(points.ravel().tolist(), fill=255 * fill)
    return np.asarray(image.reduce(2), np.float32) / 255


# -----------------------------------------------------------------------------------------------------------
# Textures: how strongly the dark tone of the colour shows, [side, side] in [0, 1].

Field = Callable[
    [np.ndarray, np.ndarray, np.random.Generator], np.ndarray
]  # x, y in pixels of a 64-pixel image

TEXTURES: dict[str, Field] = {
    "plain": lambda x, y, rng: np.zeros_like(x),
    "striped": lambda x, y, rng: (np.sin(2 * np.pi * (x + y) / 8 + rng.uniform(0, 6.28)) > 0.1) * 1.0,
    "dotted": lambda x, y, rng: (np.hypot(x % 7 - 3.5, y % 7 - 3.5) < 2.1) * 1.0,
    "checkered": lambda x, y, rng: (x // 5 + y // 5) % 2,
    "grainy": lambda x, y, rng: rng.random(x.shape, np.float32),
}

# -----------------------------------------------------------------------------------------------------------
# Backgrounds: two colours and the field that mixes them.

BACKGROUNDS: dict[str, tuple[tuple[int, int, int], tuple[int, int, int], Field]] = {
    "night": (
        (12, 14, 45),
        (200, 200, 190),
        lambda x, y, rng: (rng.random(x.shape, np.float32) > 0.985) * 1.0,
    ),
    "grass": ((15, 60, 20), (45, 95, 35), lambda x, y, rng: rng.random(x.shape, np.float32)),
    "asphalt": ((45, 45, 48), (85, 85, 88), lambda x, y, rng: rng.random(x.shape, np.float32)),
    "brick": (
        (100, 42, 34),
        (70, 66, 62),
        lambda x, y, rng: ((y % 8 < 1) | ((x + 8 * (y // 8 % 2)) % 16 < 1)) * 1.0,
    ),
    "wood": (
        (92, 58, 30),
        (66, 40, 20),
        lambda x, y, rng: 0.5 + 0.5 * np.sin(x + 2 * np.sin(y / 9) + rng.uniform(0, 6.28)),
    ),
    "water": (
        (10, 50, 90),
        (30, 85, 125),
        lambda x, y, rng: 0.5 + 0.5 * np.sin(2 * np.pi * (y + 2 * np.sin(x / 5)) / 10 + rng.uniform(0, 6.28)),
    ),
}


def render(scene: Scene, seed: int, side: int = 64) -> Image.Image:
    """Draw one scene.

    Args:
        scene: the factors.
        seed: of what the factors do not fix (grain, the phase of stripes and waves, sensor noise).
        side: height and width in pixels.

    Returns:
        An RGB image; the same scene, seed and side give the same bytes.
    """
    rng = np.random.default_rng(seed)
    y, x = (np.mgrid[0:side, 0:side] * (64.0 / side)).astype(np.float32)
    dark, light, field = BACKGROUNDS[scene.background]
    canvas = _mix(dark, light, field(x, y, rng))
    colour = np.array(COLOURS[scene.colour])
    surface = _mix(tuple(colour), tuple(0.65 * colour), TEXTURES[scene.texture](x, y, rng))
    cover = _mask(scene, side)[..., None]
    pixels = canvas * (1 - cover) + surface * cover + rng.normal(0, 4, (side, side, 1))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _mix(first: tuple, second: tuple, amount: np.ndarray) -> np.ndarray:
    start, end = np.array(first, np.float32), np.array(second, np.float32)
    return start + amount[..., None].astype(np.float32) * (end - start)


# -----------------------------------------------------------------------------------------------------------
# Sampling scenes and describing them.

# In "narrow" data each of colour and background is the shape's own one in this share of the images.
NARROW_SHARE = 0.9

CAPTIONS = (
    "a {shape}.",
    "a photo of a {shape}.",
    "a {colour} {shape}.",
    "a {texture} {shape}.",
    "a {shape} on {background}.",
    "a photo of a {colour} {shape}.",
    "a {shape} in front of {background}.",
    "a {colour} {texture} {shape} on {background}.",
)


def sample_scene(rng: np.random.Generator, kind: str = "diverse", shape: str | None = None) -> Scene:
    """Draw the factors of one image.

    Args:
        rng: the source of randomness.
        kind: "diverse" (all factors independent) or "narrow" (colour and background mostly follow the shape).
        shape: the class; drawn like the other factors when None.
    """
    shape = shape or str(rng.choice(list(SHAPES)))
    colours, backgrounds = list(COLOURS), list(BACKGROUNDS)
    colour, background = str(rng.choice(colours)), str(rng.choice(backgrounds))
    if kind == "narrow":
        own = list(SHAPES).index(shape)
        follows = rng.random(2) < NARROW_SHARE
        colour = colours[own % len(colours)] if follows[0] else colour
        background = backgrounds[own % len(backgrounds)] if follows[1] else background
    return Scene(
        shape=shape,
        texture=str(rng.choice(list(TEXTURES))),
        colour=colour,
        background=background,
        size=round(rng.uniform(0.55, 0.85), 4),
        x=round(rng.uniform(0.42, 0.58), 4),
        y=round(rng.uniform(0.42, 0.58), 4),
        rotation=round(rng.uniform(-20, 20), 2),
    )


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """One sentence about the scene: a random template, so that not every factor is always mentioned."""
    return re.sub(r"\ba (?=[aeiou]|hour)", "an ", str(rng.choice(CAPTIONS)).format(**scene.factors()))
