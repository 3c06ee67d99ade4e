"""Sets of images on disk.

    val/arrow/val_00000000.JPEG    val.jsonl    {"path", "label", "caption", "factors"} per line

Rendering may be interrupted: the manifest comes last, and existing images are not drawn again.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from clipjax.demo.world.scenes import SHAPES, WORLD_VERSION, Scene, caption_of, render, sample_scene
from clipjax.errors import DataError
from clipjax.progress import progress_through

_FORMATS = {".jpeg": "JPEG", ".jpg": "JPEG", ".png": "PNG", ".gif": "GIF"}


class Picture(NamedTuple):
    """`finish` is applied after rendering; `draw` takes its place."""

    path: str
    scene: Scene
    seed: int
    caption: str
    finish: Callable[[Image.Image], Image.Image] | None = None
    draw: Callable[[Scene], Image.Image] | None = None


@dataclass(frozen=True)
class ImageSet:
    """`recipe`: what may differ between two worlds. `texts`: further files, path -> contents."""

    name: str
    recipe: Mapping[str, Any]
    pictures: Sequence[Picture]
    texts: Mapping[str, str] = field(default_factory=dict)


class RenderedSplit(NamedTuple):
    """Equally many of each class in class folders, or random ones."""

    name: str
    kind: str
    images: int
    class_folders: bool

    def image_set(self, seed: int) -> ImageSet:
        shapes, pictures = list(SHAPES), []
        for index in range(self.images):
            rng = rng_of(seed, self.name, index)
            shape = shapes[index % len(shapes)] if self.class_folders else None
            scene = sample_scene(rng, self.kind, shape)
            folder, stem = (f"{shape}/", self.name) if self.class_folders else ("", "train")
            path = f"{self.name}/{folder}{stem}_{index:08d}.JPEG"
            text = caption_of(scene, rng)
            pictures.append(Picture(path, scene, int(rng.integers(2**63)), text))
        return ImageSet(self.name, self._asdict(), pictures)


def rng_of(seed: int, name: str, index: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode()), index])


def write_split(root: Path, split: RenderedSplit, *, seed: int = 0, progress: bool = True) -> Path:
    return write_set(root, split.image_set(seed), seed=seed, progress=progress)


def write_set(root: Path, images: ImageSet, *, seed: int = 0, progress: bool = True) -> Path:
    """Render a set below `root` unless it exists; returns its manifest file.

    Raises:
        DataError: the folder holds another such set (images, seed, version), or cannot be written.
    """
    root = Path(root)
    manifest = root / f"{images.name}.jsonl"
    made_of, recipe = _recipe(root, images.name, seed, images.recipe)
    try:
        if _is_begun(made_of, recipe) and manifest.is_file():
            return manifest
        (root / images.name).mkdir(parents=True, exist_ok=True)
        _write(made_of, json.dumps(recipe).encode())
        _draw(root, images.pictures, f"render {images.name}", progress)
        for path, text in images.texts.items():
            _write(root / path, text.encode())
        _write(manifest, jsonl(_row(picture) for picture in images.pictures).encode())
    except OSError as error:
        raise DataError(f"{root} cannot be written ({error.strerror or error})") from error
    return manifest


def draw_part(root: Path, images: ImageSet, part: slice, *, seed: int = 0, progress: bool = True) -> None:
    """Draw some pictures of a set that `write_set` completes: parts may be drawn at the same time.

    Raises:
        DataError: as `write_set`.
    """
    root = Path(root)
    check_set(root, images.name, images.recipe, seed)
    if (root / f"{images.name}.jsonl").is_file():
        return
    try:
        _draw(root, images.pictures[part], f"render a part of {images.name}", progress)
    except OSError as error:
        raise DataError(f"{root} cannot be written ({error.strerror or error})") from error


def _draw(root: Path, pictures: Sequence[Picture], what: str, progress: bool) -> None:
    for picture in progress_through(pictures, len(pictures), what, "image", shown=progress):
        if not (root / picture.path).exists():
            _write(root / picture.path, _encoded(picture))


def write_once(
    root: Path, name: str, recipe: Mapping[str, Any], seed: int, write: Callable[[Path], object]
) -> None:
    """Let `write` fill the folder of a set below `root`, unless it is complete.

    Raises:
        DataError: as `write_set`.
    """
    made_of, whole = _recipe(root, name, seed, recipe)
    try:
        if _is_begun(made_of, whole):
            return
        shutil.rmtree(root / name, ignore_errors=True)
        (root / name).mkdir(parents=True)
        write(root / name)
        _write(made_of, json.dumps(whole).encode())
    except OSError as error:
        raise DataError(f"{root} cannot be written ({error.strerror or error})") from error


def check_set(root: Path, name: str, recipe: Mapping[str, Any], seed: int) -> None:
    """Raises DataError if `root` holds another set of this name."""
    _is_begun(*_recipe(root, name, seed, recipe))


def _recipe(root: Path, name: str, seed: int, recipe: Mapping[str, Any]) -> tuple[Path, dict[str, Any]]:
    """The file of a set's settings, and the settings, as JSON."""
    whole = {"world_version": WORLD_VERSION, "seed": seed, **recipe}
    return root / f"{name}.recipe.json", json.loads(json.dumps(whole))


def _is_begun(made_of: Path, recipe: Mapping[str, Any]) -> bool:
    """Raises DataError if the file has other settings."""
    if not made_of.is_file():
        return False
    if json.loads(made_of.read_text()) == recipe:
        return True
    name = made_of.name.removesuffix(".recipe.json")
    raise DataError(
        f"{made_of.parent / name} holds a world of other settings; choose another folder or delete it"
    )


def jsonl(rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _row(picture: Picture) -> dict[str, Any]:
    scene = picture.scene
    return {
        "path": picture.path,
        "label": scene.shape,
        "caption": picture.caption,
        "factors": scene.factors(),
    }


def _encoded(picture: Picture) -> bytes:
    draw = picture.draw
    image = render(picture.scene, picture.seed) if draw is None else draw(picture.scene)
    if picture.finish is not None:
        image = picture.finish(image)
    buffer = io.BytesIO()
    image.save(buffer, _FORMATS[Path(picture.path).suffix.lower()], quality=92)
    return buffer.getvalue()


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_bytes(data)
    os.replace(beside, path)
