"""A folder of coloured images, and what a fine-tuning run of it would hand to `clipjax.finetune.outcome`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import PIL.Image

from clipjax.checkpoints.model import Model
from clipjax.data.cards import DatasetCard, load_dataset
from clipjax.data.labels import PromptSet
from clipjax.devices.sharding import make_mesh
from clipjax.finetune.data.splits import train_split
from clipjax.finetune.method import Settings, Setup
from clipjax.finetune.recipe import recipe_from_dict
from clipjax.finetune.training.trees import Params, flatten, nest

CLASSES = ("blue, or navy", "green", "red")
PROMPTS = PromptSet("photo", ("a photo of a {}.",))
SIDE = 96


def write_images(folder: Path, classes: tuple[str, ...] = CLASSES, per_class: int = 4) -> Path:
    """Noise around a colour a class: class folders of small images."""
    rng = np.random.default_rng(0)
    for k, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            pixels = rng.integers(0, 120, (SIDE, SIDE, 3))
            pixels[..., k % 3] += 100
            PIL.Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


def make_setup(model: Model, images: Path, folder: Path | None = None, method: str = "flyp") -> Setup:
    record = {"name": "short", "title": "Short", "method": method, "batch_size": 4, "epochs": 1}
    card = DatasetCard(name="colours", title="Colours", reader="folder", split="train")
    return Setup(
        model=model,
        train=train_split(load_dataset(card, images)),
        validation=None,
        recipe=recipe_from_dict(record, "here"),
        seed=2,
        options={"mask_collisions": False},
        settings=Settings(make_mesh(jax.devices()[:1]), folder=folder),
    )


def moved(params: Any, size: float = 0.02) -> Params:
    """The params as training would leave them: everything a little elsewhere, on the host."""
    rng = np.random.default_rng(0)
    leaves = {
        path: np.asarray(leaf) * np.float32(1 + size)
        + np.float32(size * rng.normal()) * np.asarray(leaf).std()
        for path, leaf in flatten(params).items()
    }
    return nest({path: np.asarray(leaf, np.float32) for path, leaf in leaves.items()})


def with_head(model: Model, classes: int = len(CLASSES)) -> Params:
    """A trained image tower and a head over it."""
    rng = np.random.default_rng(1)
    width = model.card.arch.vision.embed_dim
    kernel = rng.normal(size=(width, classes)).astype(np.float32)
    head = {"kernel": kernel, "bias": rng.normal(size=classes).astype(np.float32)}
    return {"vision": moved(model.params["vision"]), "head": head}


def renamed(model: Model, name: str) -> Model:
    """The same model under another id."""
    return model.with_card(dataclasses.replace(model.card, id=name))
