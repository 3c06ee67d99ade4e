"""Test sets about more than the class, each in the layout of a real one.

    demo-cues      cue-conflict stimuli     one class's shape, another's colour and background
    demo-unknown   iNaturalist of MOS       unknown shapes
    demo-textures  Describable Textures     walls of unseen textures
    demo-ninco     NINCO, odd file names    unknown shapes
    demo-confused  ImageNet-O               unknown shapes, by the most similar class
    demo-captions  Flickr30k, Karpathy's    five captions each

Columns: folder, layout of, contents.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from clipjax.demo.world.files import ImageSet, Picture, caption_of, rng_of
from clipjax.demo.world.scenes import (
    CAPTIONS,
    SHAPES,
    UNSEEN_TEXTURES,
    Scene,
    describe,
    mask,
    own_cues,
    sample_scene,
)
from clipjax.demo.world.shapes import UNKNOWN

_ENDINGS = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG")


def probes(each: int, seed: int) -> Iterator[ImageSet]:
    """All of these sets; about `each` images per class."""
    yield _cues(max(1, each // 10), seed)
    yield _unknown("demo-unknown", 10 * each, seed, lambda i, scene, code: f"images/{code}.jpg")
    yield _textures(6 * each, seed)
    yield _unknown("demo-ninco", len(UNKNOWN) * each, seed, _ninco_path)
    yield _unknown("demo-confused", 6 * each, seed, _confused_path)
    yield _captions(10 * each, seed)


def _cues(times: int, seed: int) -> ImageSet:
    """`times` objects of each class, with the cues of every class."""
    name, pictures = "demo-cues", []
    for i, (number, shape) in enumerate(itertools.product(range(1, times + 1), SHAPES)):
        rng = rng_of(seed, name, i)
        object_ = sample_scene(rng, "diverse", shape)
        for cue in SHAPES:
            colour, background = own_cues(cue)
            scene = replace(object_, colour=colour, background=background)
            path = f"{name}/{shape}/{shape}{number}-{cue}{int(rng.integers(1, 4))}.png"
            pictures.append(Picture(path, scene, int(rng.integers(2**63)), caption_of(scene, rng)))
    return ImageSet(name, {"times": times}, pictures)


def _unknown(name: str, images: int, seed: int, path: Any) -> ImageSet:
    pictures = []
    for i in range(images):
        rng = rng_of(seed, name, i)
        scene = sample_scene(rng, "diverse", list(UNKNOWN)[i % len(UNKNOWN)])
        place = path(i, scene, rng.bytes(16).hex())
        pictures.append(Picture(f"{name}/{place}", scene, int(rng.integers(2**63)), caption_of(scene, rng)))
    return ImageSet(name, {"images": images}, pictures)


def _ninco_path(i: int, scene: Scene, code: str) -> str:
    """One image is a GIF, as in NINCO."""
    ending = ".gif" if i == 0 else _ENDINGS[i % len(_ENDINGS)]
    return f"OOD_classes/{scene.shape}/{scene.shape}_{i // len(UNKNOWN):03d}_{code[:8]}{ending}"


def _confused_path(i: int, scene: Scene, code: str) -> str:
    """The path in the folder of the class whose outline overlaps most (intersection over union)."""
    ours = mask(scene) > 0.5
    overlap = {}
    for shape in SHAPES:
        theirs = mask(replace(scene, shape=shape)) > 0.5
        overlap[shape] = (ours & theirs).sum() / (ours | theirs).sum()
    most = max(overlap, key=overlap.__getitem__)
    return f"{most}/{scene.shape.replace(' ', '_')}_{i}_{overlap[most]:.4f}.JPEG"


def _textures(images: int, seed: int) -> ImageSet:
    name, textures, pictures = "demo-textures", list(UNSEEN_TEXTURES), []
    for i in range(images):
        rng, texture = rng_of(seed, name, i), textures[i % len(textures)]
        scene = replace(sample_scene(rng, "diverse"), shape="", style="wall", texture=texture, light=0.6)
        path = f"{name}/images/{texture}/{texture}_{i // len(textures):04d}.jpg"
        pictures.append(Picture(path, scene, int(rng.integers(2**63)), f"a {texture} wall."))
    return ImageSet(name, {"images": images}, pictures)


def _captions(images: int, seed: int) -> ImageSet:
    """Test images, and a tenth as many that a reader must leave out."""
    name, pictures, records = "demo-captions", [], []
    for i in range(images + images // 10):
        rng = rng_of(seed, name, i)
        scene = sample_scene(rng, "diverse")
        # Four random templates, and the last one, which names every factor.
        templates = [CAPTIONS[k] for k in rng.permutation(len(CAPTIONS) - 1)[:4]] + [CAPTIONS[-1]]
        texts = [describe(scene, template) for template in templates]
        path = f"{name}/{1000 + i}.jpg"
        pictures.append(Picture(path, scene, int(rng.integers(2**63)), texts[-1]))
        records.append(_karpathy(i, PurePosixPath(path).name, "test" if i < images else "train", texts))
    file = json.dumps({"dataset": "demo", "images": records})
    return ImageSet(name, {"images": images}, pictures, {f"{name}/dataset_demo.json": file})


def _karpathy(i: int, filename: str, split: str, texts: list[str]) -> dict[str, Any]:
    numbers = list(range(i * len(texts), (i + 1) * len(texts)))
    sentences = [
        {"raw": text, "tokens": text.strip(".").split(), "imgid": i, "sentid": number}
        for number, text in zip(numbers, texts)
    ]
    return {"imgid": i, "filename": filename, "split": split, "sentids": numbers, "sentences": sentences}
