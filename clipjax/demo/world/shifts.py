"""Shifted test sets, each in the layout of a real one.

    demo-val        ImageNet val              some images are `world.UNUSUAL`
    demo-v2         ImageNet-V2               drawn anew
    demo-r          ImageNet-R, some classes  cartoons
    demo-a          ImageNet-A, some classes  cues of another class
    demo-sketch     ImageNet-Sketch           pencil sketches
    demo-corrupted  ImageNet-3DCC             blur and fog over demo-val
    demo-objects    ObjectNet, with a border  pose, size and light
    demo-video      ImageNet-Vid-Robust       motion, things in front
    demo-nuisance   ImageNet-D                unseen backgrounds, textures, materials

Columns: folder, layout of, shift.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from clipjax.demo.world.files import ImageSet, Picture, caption_of, rng_of
from clipjax.demo.world.scenes import (
    SHAPES,
    UNSEEN_BACKGROUNDS,
    UNSEEN_TEXTURES,
    Scene,
    sample_scene,
)

RENDITION_CLASSES = ("arrow", "circle", "heart", "ring", "star", "triangle")
ADVERSARIAL_CLASSES = ("bolt", "circle", "cross", "hourglass", "square", "star")
# Folder -> its shapes. The last two are not known classes, as most of ObjectNet's folders.
OBJECTS = {
    "box": ("square",),
    "disc": ("circle", "ring"),
    "flash": ("bolt",),
    "plus_sign": ("cross",),
    "pointer": ("arrow", "triangle"),
    "timer": ("hourglass",),
    "dwelling": ("house",),
    "steps": ("ladder",),
}
# In the order of the numbers in labels.json.
VIDEO_CLASSES = {
    "round": ("circle", "ring", "spiral"),
    "pointed": ("arrow", "bolt", "star", "triangle"),
    "straight": ("cross", "hourglass", "square"),
    "curved": ("crescent", "heart"),
}
SEVERITIES = (1, 3, 5)
OFFSETS = (*range(-10, 0, 2), *range(2, 11, 2))


def _blur(image: Image.Image, severity: int) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(0.4 * severity))


def _fog(image: Image.Image, severity: int) -> Image.Image:
    return Image.blend(image, Image.new("RGB", image.size, (150, 150, 155)), 0.13 * severity)


CORRUPTIONS: dict[str, Callable[[Image.Image, int], Image.Image]] = {"blur": _blur, "fog": _fog}


def shifted(each: int, seed: int, val: ImageSet) -> Iterator[ImageSet]:
    """All of these but demo-val; about `each` images per class."""
    yield _of_classes("demo-v2", "{index}/{hash}.jpeg", "varied", each, seed)
    readme = {"demo-r/README.txt": "Cartoons of six of the twelve shapes of the demo world.\n"}
    yield _of_classes(
        "demo-r", "{shape}/{shape}_{i}.jpg", "diverse", each, seed, RENDITION_CLASSES, readme, style="cartoon"
    )
    readme = {"demo-a/README.txt": "Six shapes in the colours and on the backgrounds of others.\n"}
    yield _of_classes("demo-a", "{shape}/{hash}.jpg", "misleading", each, seed, ADVERSARIAL_CLASSES, readme)
    yield _of_classes("demo-sketch", "{shape}/sketch_{i}.JPEG", "diverse", each, seed, style="pencil")
    yield _corrupted(max(1, each // 2), val)
    yield _objects(each, seed)
    yield _video(2 * each, seed)
    yield _nuisance(max(1, each // 4), seed)


def _of_classes(
    name: str,
    pattern: str,
    kind: str,
    each: int,
    seed: int,
    shapes: tuple[str, ...] = tuple(SHAPES),
    texts: dict[str, str] | None = None,
    **changes: Any,
) -> ImageSet:
    """`pattern` may use the shape, its index, i and a hash."""
    pictures = []
    for i in range(each * len(shapes)):
        rng, shape = rng_of(seed, name, i), shapes[i % len(shapes)]
        scene = replace(sample_scene(rng, kind, shape), **changes)
        place = {"shape": shape, "index": list(SHAPES).index(shape), "i": i, "hash": f"{rng.bytes(8).hex()}"}
        pictures.append(_picture(f"{name}/{pattern.format(**place)}", scene, rng))
    return ImageSet(name, {"kind": kind, "each": each}, pictures, texts or {})


def _picture(path: str, scene: Scene, rng: np.random.Generator, finish: Any = None) -> Picture:
    return Picture(path, scene, int(rng.integers(2**63)), caption_of(scene, rng), finish)


def _corrupted(each: int, val: ImageSet) -> ImageSet:
    first: list[Picture] = []
    for shape in SHAPES:
        first += [picture for picture in val.pictures if picture.scene.shape == shape][:each]
    pictures = [
        picture._replace(
            path=picture.path.replace(val.name, f"demo-corrupted/{name}/{severity}", 1),
            finish=lambda image, corrupt=corrupt, severity=severity: corrupt(image, severity),
        )
        for name, corrupt in CORRUPTIONS.items()
        for severity in SEVERITIES
        for picture in first
    ]
    return ImageSet("demo-corrupted", {"each": each}, pictures)


def _objects(each: int, seed: int) -> ImageSet:
    name, pictures = "demo-objects", []
    for i in range(each * len(OBJECTS)):
        rng, folder = rng_of(seed, name, i), list(OBJECTS)[i % len(OBJECTS)]
        scene = sample_scene(rng, "diverse", str(rng.choice(OBJECTS[folder])))
        scene = replace(
            scene,
            rotation=round(rng.uniform(-40, 40), 2),
            size=round(rng.uniform(0.45, 0.75), 4),
            light=round(rng.uniform(0.7, 1.2), 4),
        )
        path = f"{name}/images/{folder}/{rng.bytes(7).hex()}.png"
        pictures.append(_picture(path, scene, rng, lambda image: ImageOps.expand(image, 2, (255, 0, 0))))
    return ImageSet(name, {"each": each}, pictures)


def _video(videos: int, seed: int) -> ImageSet:
    """A shape drifts and turns; in one frame something is in front."""
    name, pictures = "demo-video", []
    labels: dict[str, list[int]] = {}
    neighbours: dict[str, list[str]] = {}
    for video in range(videos):
        rng, shape = rng_of(seed, name, video), list(SHAPES)[video % len(SHAPES)]
        middle = sample_scene(rng, "diverse", shape)
        look, start = int(rng.integers(2**63)), int(rng.integers(20, 500))
        drift, turn, hidden = rng.uniform(-0.014, 0.014, 2), rng.uniform(-2, 2), int(rng.choice(OFFSETS))
        offsets = (0,) if video == videos - 1 else (0, *OFFSETS)
        keys = [f"val/demo_val_{video:08d}/{start + offset:06d}.JPEG" for offset in offsets]
        for key, offset in zip(keys, offsets):
            scene = replace(
                middle,
                x=round(middle.x + drift[0] * offset, 4),
                y=round(middle.y + drift[1] * offset, 4),
                rotation=round(middle.rotation + turn * offset, 2),
                blocked=0.35 if abs(offset - hidden) <= 1 else 0.0,
            )
            pictures.append(Picture(f"{name}/{key}", scene, look, caption_of(scene, rng)))
            labels[key] = [i for i, shapes in enumerate(VIDEO_CLASSES.values()) if shape in shapes]
        neighbours[keys[0]] = sorted(keys[1:])
    texts = {
        f"{name}/metadata/labels.json": json.dumps(labels, indent=1),
        f"{name}/metadata/pmsets.json": json.dumps(neighbours, indent=1),
    }
    return ImageSet(name, {"videos": videos}, pictures, texts)


def _nuisance(each: int, seed: int) -> ImageSet:
    name, pictures = "demo-nuisance", []
    choices = {
        "background": ("background", list(UNSEEN_BACKGROUNDS)),
        "texture": ("texture", list(UNSEEN_TEXTURES)),
        "material": ("style", ["glass", "metal"]),
    }
    for i in range(3 * each * len(SHAPES)):
        rng, shape = rng_of(seed, name, i), list(SHAPES)[i % len(SHAPES)]
        nuisance = list(choices)[i // len(SHAPES) % 3]
        factor, values = choices[nuisance]
        change: dict[str, Any] = {factor: str(rng.choice(values))}
        scene = replace(sample_scene(rng, "diverse", shape), **change)
        pictures.append(_picture(f"{name}/{nuisance}/{shape}/{rng.bytes(11).hex()}.png", scene, rng))
    return ImageSet(name, {"each": each}, pictures)
