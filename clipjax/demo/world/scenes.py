"""The demo world: small rendered images of shapes, the classes."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from clipjax.demo.world.shapes import SHAPES, UNKNOWN

# Identifies a rendered split: raise it when the same seed would give other pixels.
WORLD_VERSION = 2

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


@dataclass(frozen=True)
class Scene:
    """Every factor of one image. Lengths are fractions of its side; the rotation is in degrees.

    Attributes:
        shape: "" is a background alone.
        x: the shape's middle.
        y: the shape's middle.
        light: factor for all pixels.
        blocked: share of the shape's width that a post hides.
    """

    shape: str
    texture: str
    colour: str
    background: str
    size: float
    x: float
    y: float
    rotation: float
    light: float = 1.0
    blocked: float = 0.0
    style: str = "painted"

    def factors(self) -> dict[str, Any]:
        return dict(vars(self))


def mask(scene: Scene, side: int = 64) -> np.ndarray:
    """Share of each pixel that the shape covers, float32 [side, side] in [0, 1]."""
    image = Image.new("L", (2 * side, 2 * side))
    draw = ImageDraw.Draw(image)
    angle = math.radians(scene.rotation)
    rotate = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    for polygon, fill in (SHAPES | UNKNOWN | {"": []})[scene.shape]:
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
UNSEEN_TEXTURES: dict[str, Field] = {
    "camouflage": lambda x, y, rng: (
        (np.sin(x / 4 + 2 * np.sin(y / 6 + rng.uniform(0, 6.28))) + np.sin(y / 5) > 0.2) * 1.0
    ),
    "zigzag": lambda x, y, rng: (np.abs(x % 12 - 6) + y + rng.uniform(0, 8)) % 8 // 4,
}

# -----------------------------------------------------------------------------------------------------------
# Backgrounds: two colours and the field that mixes them.

Tone = tuple[int, int, int]

BACKGROUNDS: dict[str, tuple[Tone, Tone, Field]] = {
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
UNSEEN_BACKGROUNDS: dict[str, tuple[Tone, Tone, Field]] = {
    "sunset": ((70, 20, 80), (170, 90, 40), lambda x, y, rng: y / 64),
    "tiles": ((30, 80, 80), (110, 110, 100), lambda x, y, rng: (x // 9 + y // 9) % 2),
    "forest": (
        (25, 40, 15),
        (70, 60, 40),
        lambda x, y, rng: (np.sin(x / 2 + rng.uniform(0, 6.28)) > 0) * 1.0,
    ),
}

# -----------------------------------------------------------------------------------------------------------
# Styles: background, surface and cover [side, side, 1 or 3] -> pixels.


def _edge(cover: np.ndarray) -> np.ndarray:
    """The outline, two pixels wide. [side, side, 1]"""
    image = Image.fromarray((255 * cover[..., 0]).astype(np.uint8))
    both = [
        np.asarray(image.filter(f(3)), np.float32) for f in (ImageFilter.MaxFilter, ImageFilter.MinFilter)
    ]
    return ((both[0] - both[1]) / 255)[..., None]


def _painted(canvas: np.ndarray, surface: np.ndarray, cover: np.ndarray) -> np.ndarray:
    return canvas * (1 - cover) + surface * cover


def _cartoon(canvas: np.ndarray, surface: np.ndarray, cover: np.ndarray) -> np.ndarray:
    mean = np.ascontiguousarray(canvas).mean(axis=(0, 1))  # another order of memory may round it differently
    flat = _painted(np.full_like(canvas, mean), surface.max(axis=(0, 1)), cover)
    return flat * (1 - _edge(cover))


def _pencil(canvas: np.ndarray, surface: np.ndarray, cover: np.ndarray) -> np.ndarray:
    return 40.0 + 110.0 * _edge(cover) + 95.0 * cover + 0 * canvas


def _glass(canvas: np.ndarray, surface: np.ndarray, cover: np.ndarray) -> np.ndarray:
    return _painted(canvas, 0.6 * canvas + 0.4 * surface, cover) + 60 * _edge(cover)


def _metal(canvas: np.ndarray, surface: np.ndarray, cover: np.ndarray) -> np.ndarray:
    shine = 150 + 60 * np.sin(np.linspace(0, 9, len(cover)))[:, None, None]
    return _painted(canvas, 0.3 * surface + 0.7 * shine, cover)


def _wall(canvas: np.ndarray, surface: np.ndarray, cover: np.ndarray) -> np.ndarray:
    return surface


STYLES: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "painted": _painted,
    "cartoon": _cartoon,
    "pencil": _pencil,
    "glass": _glass,
    "metal": _metal,
    "wall": _wall,
}
_POST = (140, 120, 100)


def render(scene: Scene, seed: int, side: int = 64) -> Image.Image:
    """Draw one scene, `side` pixels square; the same arguments give the same bytes.

    Args:
        seed: decides what the factors leave open (grain, phases of stripes, sensor noise).
    """
    rng = np.random.default_rng(seed)
    y, x = _places(side)
    dark, light, field = (BACKGROUNDS | UNSEEN_BACKGROUNDS)[scene.background]
    canvas = _mix(dark, light, field(x, y, rng))
    colour = np.array(COLOURS[scene.colour])
    texture = (TEXTURES | UNSEEN_TEXTURES)[scene.texture](x, y, rng)
    surface = _mix(tuple(colour), tuple(0.65 * colour), texture)
    pixels = STYLES[scene.style](canvas, surface, mask(scene, side)[..., None])
    if scene.blocked:
        pixels = np.where(post(scene, x)[..., None], np.array(_POST), pixels)
    pixels = pixels.astype(float) * scene.light
    pixels = pixels + rng.normal(0, 4, (side, side, 1))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def post(scene: Scene, x: np.ndarray) -> np.ndarray:
    """Whether the post covers the column `x`, in pixels of a 64-pixel image."""
    return np.abs(x / 64 - scene.x) < scene.blocked * scene.size / 2


@functools.cache
def _places(side: int) -> np.ndarray:
    """y and x of each pixel, in pixels of a 64-pixel image: float32 [2, side, side], not to be changed."""
    places = (np.mgrid[0:side, 0:side] * (64.0 / side)).astype(np.float32)
    places.flags.writeable = False
    return places


def _mix(first: tuple, second: tuple, amount: np.ndarray) -> np.ndarray:
    """[side, side, 3], in memory one colour after the other: NumPy is slow in loops over three numbers."""
    start, end = (np.array(tone, np.float32)[:, None, None] for tone in (first, second))
    return np.moveaxis(start + amount.astype(np.float32) * (end - start), 0, -1)


# -----------------------------------------------------------------------------------------------------------
# Sampling scenes and describing them.

# Share of "narrow" images with the shape's own colour, and, independently, background.
NARROW_SHARE = 0.9
# The same for "varied" images, and the share with something that no training image has.
VARIED_SHARE = 0.5
UNUSUAL_SHARE = 0.3

UNUSUAL: dict[str, Callable[[np.random.Generator], dict[str, float]]] = {
    "smaller": lambda rng: {"size": rng.uniform(0.28, 0.42)},
    "larger": lambda rng: {"size": rng.uniform(0.95, 1.15)},
    "pose": lambda rng: {"rotation": rng.choice([-1, 1]) * rng.uniform(40, 80)},
    "partial_view": lambda rng: {"x": rng.choice([0.1, 0.9]) + rng.uniform(-0.05, 0.05)},
    "darker": lambda rng: {"light": rng.uniform(0.3, 0.5)},
    "brighter": lambda rng: {"light": rng.uniform(1.5, 1.9)},
    "object_blocking": lambda rng: {"blocked": rng.uniform(0.25, 0.4)},
}

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
    """Draw the factors of one image; `shape` None draws a class.

    Args:
        kind: "diverse" (independent factors), "narrow" (colour and background mostly follow the shape),
            "varied" (between the two; some are `UNUSUAL`) or "misleading" (they follow another shape).
    """
    shape = shape or str(rng.choice(list(SHAPES)))
    colour, background = str(rng.choice(list(COLOURS))), str(rng.choice(list(BACKGROUNDS)))
    if kind in ("narrow", "varied"):
        share = NARROW_SHARE if kind == "narrow" else VARIED_SHARE
        follows, (own_colour, own_background) = rng.random(2) < share, own_cues(shape)
        colour = own_colour if follows[0] else colour
        background = own_background if follows[1] else background
    if kind == "misleading":
        colour, background = own_cues(str(rng.choice([other for other in SHAPES if other != shape])))
    scene = Scene(
        shape=shape,
        texture=str(rng.choice(list(TEXTURES))),
        colour=colour,
        background=background,
        size=round(rng.uniform(0.55, 0.85), 4),
        x=round(rng.uniform(0.42, 0.58), 4),
        y=round(rng.uniform(0.42, 0.58), 4),
        rotation=round(rng.uniform(-20, 20), 2),
    )
    if kind == "varied" and rng.random() < UNUSUAL_SHARE:
        change: dict[str, Any] = UNUSUAL[str(rng.choice(list(UNUSUAL)))](rng)
        scene = replace(scene, **{name: round(float(value), 4) for name, value in change.items()})
    return scene


def own_cues(shape: str) -> tuple[str, str]:
    """A class's colour and background in "narrow" data."""
    own = list(SHAPES).index(shape)
    return list(COLOURS)[own % len(COLOURS)], list(BACKGROUNDS)[own % len(BACKGROUNDS)]


def caption_of(scene: Scene, rng: np.random.Generator) -> str:
    return describe(scene, str(rng.choice(CAPTIONS)))


def describe(scene: Scene, template: str) -> str:
    """The caption of a scene in correct English ("an arrow")."""
    return re.sub(r"\ba (?=[aeiou]|hour)", "an ", template.format(**scene.factors()))
