"""The demo world on disk.

A training split is a folder of images and a manifest file with captions (the reader "manifest_file"); the
held-out split is laid out as ImageNet's validation set, one folder a class (the reader "folder"):

    diverse/train_00000000.JPEG   diverse.jsonl     {"path", "label", "caption", "factors"} a line
    narrow/train_00000000.JPEG    narrow.jsonl
    val/arrow/val_00000000.JPEG   val.jsonl

Image i of a split is drawn from the seed of (split, i) alone. A split is complete when its manifest is there,
and images that are there already are not drawn again, so rendering may be interrupted at any point.
"""

from __future__ import annotations

import io
import json
import os
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from clipjax.demo.world import SHAPES, WORLD_VERSION, caption, render, sample_scene
from clipjax.errors import DataError


class Split(NamedTuple):
    """One split: its name, the kind of scenes in it (see `sample_scene`), how many images, and its layout."""

    name: str
    kind: str
    images: int
    class_folders: bool


def write_split(root: Path, split: Split, *, seed: int = 0, progress: bool = True) -> Path:
    """Render a split below `root` unless it is there; returns its manifest file.

    Args:
        split: with class folders every class gets the same number of images, else shapes are drawn at random.
        seed: of the whole world.

    Raises:
        DataError: the folder holds the split rendered in another way (number of images, seed, version), or
            the disk is full.
    """
    root = Path(root)
    manifest, made_of = root / f"{split.name}.jsonl", root / f"{split.name}.recipe.json"
    recipe = {"world_version": WORLD_VERSION, "seed": seed, **split._asdict()}
    try:
        if made_of.is_file():
            if json.loads(made_of.read_text()) != recipe:
                raise DataError(
                    f"{root / split.name} holds a world of other settings; choose another folder or delete it"
                )
            if manifest.is_file():
                return manifest
        (root / split.name).mkdir(parents=True, exist_ok=True)
        _write(made_of, json.dumps(recipe).encode())
        bar = tqdm(range(split.images), desc=f"render {split.name}", unit="image", disable=not progress)
        rows = [_write_image(root, split, i, seed) for i in bar]
        _write(manifest, "".join(json.dumps(row) + "\n" for row in rows).encode())
    except OSError as error:
        raise DataError(f"{root} cannot be written ({error.strerror or error})") from error
    return manifest


def _write_image(root: Path, split: Split, index: int, seed: int) -> dict[str, Any]:
    """Draw image `index` unless it is there; returns its row in the manifest."""
    rng = np.random.default_rng([seed, zlib.crc32(split.name.encode()), index])
    shapes = list(SHAPES)
    scene = sample_scene(rng, split.kind, shapes[index % len(shapes)] if split.class_folders else None)
    if split.class_folders:
        path = f"{split.name}/{scene.shape}/{split.name}_{index:08d}.JPEG"
    else:
        path = f"{split.name}/train_{index:08d}.JPEG"
    row = {
        "path": path,
        "label": scene.shape,
        "caption": caption(scene, rng),
        "factors": scene.factors(),
    }
    file = root / path
    if not file.exists():
        buffer = io.BytesIO()
        render(scene, int(rng.integers(2**63))).save(buffer, "JPEG", quality=92)
        file.parent.mkdir(exist_ok=True)
        _write(file, buffer.getvalue())
    return row


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all: written beside its place, then renamed."""
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_bytes(data)
    os.replace(beside, path)
