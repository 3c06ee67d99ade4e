"""Files of ImageNet-X that record what is unusual about each image.

A scene is compared with its class's typical values, in units of the training images' spread. Factors of
`TICKED` or more are ticked; the largest is the top factor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np

from clipjax.demo.world.files import ImageSet, Picture, jsonl
from clipjax.demo.world.scenes import BACKGROUNDS, COLOURS, SHAPES, TEXTURES, Scene, own_cues

# In the order of ImageNet-X's files.
KEYS = (
    *("multiple_objects", "background", "color", "brighter", "darker", "style", "larger", "smaller"),
    *(
        "object_blocking",
        "person_blocking",
        "partial_view",
        "pattern",
        "pose",
        "shape",
        "subcategory",
        "texture",
    ),
)
FOLDER = "demo-factors"
TICKED = 0.5
PROTOTYPES = 3
_ROUND = ("circle", "ring")  # look the same in every pose


def unusual(scene: Scene) -> dict[str, float]:
    """Factor -> distance from the typical value."""
    colour, background = own_cues(scene.shape)
    stretch = (scene.size - 0.7) / 0.15
    margin = min(scene.x, 1 - scene.x, scene.y, 1 - scene.y)
    return {
        "background": _difference(_GROUNDS, scene.background, background),
        "color": _difference(COLOURS, scene.colour, colour),
        "brighter": max(0.0, math.log2(scene.light) / 0.4),
        "darker": max(0.0, -math.log2(scene.light) / 0.4),
        "larger": max(0.0, stretch),
        "smaller": max(0.0, -stretch),
        "object_blocking": scene.blocked / 0.15,
        "partial_view": max(0.0, 0.5 - margin / scene.size) / 0.1,
        "pattern": 0.0 if scene.texture == "grainy" else _CONTRAST[scene.texture],
        "pose": 0.0 if scene.shape in _ROUND else abs(scene.rotation) / 20,
        "texture": _CONTRAST[scene.texture] if scene.texture == "grainy" else 0.0,
    }


def annotated(val: ImageSet) -> ImageSet:
    texts = {f"{FOLDER}/{name}": text for name, text in annotation_files(val.pictures).items()}
    card = _CARD.format(val=val.name, folder=FOLDER, n=len(val.pictures))
    return replace(val, texts={**texts, "demo_x.toml": card})


def annotation_files(pictures: Sequence[Picture]) -> dict[str, str]:
    names = [PurePosixPath(picture.path).name for picture in pictures]
    labels = [list(SHAPES).index(picture.scene.shape) for picture in pictures]
    distances = [unusual(picture.scene) for picture in pictures]
    multi, top = [], []
    for name, label, distance in zip(names, labels, distances):
        most = max(distance, key=distance.__getitem__)
        ticked = {key for key, value in distance.items() if value >= TICKED}
        record = {"file_name": name, "class": label}
        words = {"justification": None, "one_word": None}
        multi.append(record | {key: int(key in ticked | {most}) for key in KEYS} | words)
        top.append(record | {key: int(key == most) for key in KEYS} | words)
    return {
        "imagenet_x_val_multi_factor.jsonl": jsonl(multi),
        "imagenet_x_val_top_factor.jsonl": jsonl(top),
        "prototypical_paths.csv": _table("file_name", _prototypes(names, labels, distances)),
        "demo_metaclasses.csv": _table("name", [_METACLASS[shape] for shape in SHAPES]),
    }


def _prototypes(
    names: Sequence[str], labels: Sequence[int], distances: Sequence[dict[str, float]]
) -> list[str]:
    """The images of each class whose largest distance in any factor is smallest."""
    order = sorted(range(len(names)), key=lambda i: max(distances[i].values()))
    prototypes: list[str] = []
    for label in range(len(SHAPES)):
        prototypes += [names[i] for i in order if labels[i] == label][:PROTOTYPES]
    return prototypes


def _table(title: str, lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in (title, *lines))


def _difference(values: dict, one: str, other: str) -> float:
    """Distance of two colours over the mean distance of different ones."""
    tones = np.array(list(values.values()), float)
    apart = np.linalg.norm(tones[:, None] - tones[None], axis=2)
    names = list(values)
    return float(apart[names.index(one), names.index(other)] / apart[apart > 0].mean())


def _contrast(texture: str) -> float:
    y, x = np.mgrid[0:64, 0:64].astype(np.float32)
    return float(2 * TEXTURES[texture](x, y, np.random.default_rng(0)).std())


# The group of each class.
_METACLASS = dict.fromkeys(SHAPES, "cornered") | dict.fromkeys(
    ("circle", "ring", "spiral", "crescent", "heart"), "curved"
)
# A card such as users write for their own images.
_CARD = """\
name = "demo_x"
title = "Demo world: visual factors"
reader = "folder"
label_space = "demo_shapes"
prompts = "demo"
tasks = ["imagenet_x"]
place = "{val}"
annotations = "{folder}"
images = {n}
licence = "Apache-2.0, rendered by clipjax"
note = "The images of demo_val; their annotations are derived from the records of the scenes."
"""
_GROUNDS = {name: np.mean(tones[:2], axis=0) for name, tones in BACKGROUNDS.items()}
_CONTRAST = {name: _contrast(name) for name in TEXTURES}
