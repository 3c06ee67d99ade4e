"""A small data set of coloured images, and runs of models on it, for tests of pages of images."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
from _compared import write
from PIL import Image

from clipjax.data.cards import Dataset, DatasetCard, load_dataset
from clipjax.data.pixels.preprocess import PixelRecipe
from clipjax.storage.digests import sha256_json
from clipjax.tasks.task import Measure

CLASSES = ("cat", "dog", "owl")
EACH = 10  # images of a class
SIZE = (60, 40)  # width and height: no square, so that a crop is another picture
RECIPE = PixelRecipe(32, 32, "shortest", "bicubic", "first")
CARD = """\
name = "pets"
title = "Pets"
reader = "folder"
"""


def paint(folder: Path, shift: int = 0) -> Path:
    """Class folders with images of one colour each, and a blue column at the left that a crop loses."""
    for k, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(EACH):
            image = Image.new("RGB", SIZE, colour(k, i, shift))
            image.paste((0, 0, 255), (0, 0, 8, SIZE[1]))
            image.save(folder / name / f"{i}.png")
    return folder


def colour(k: int, i: int, shift: int = 0) -> tuple[int, int, int]:
    return 20 * i + shift, 100 * k, 60


def pets(folder: Path, **changed: Any) -> Dataset:
    """The images of a folder, painted before, by a card with these keys."""
    return load_dataset(dataclasses.replace(DatasetCard("pets", "Pets", "folder"), **changed), folder)


def add_run(results: Path, dataset: Dataset, model: str, wrong: list[str], /, **changed: Any) -> str:
    """A zero-shot run that has these images wrong: it takes them for the next class.

    `confidence`, `order`, `table` change the per-image table; the rest are fields of a row.
    """
    ids = list(dataset.manifest.ids)
    labels = np.array([CLASSES.index(name.split("/")[0]) for name in ids])
    missed = np.array([name in wrong for name in ids])
    prediction = np.where(missed, (labels + 1) % len(CLASSES), labels)
    columns: dict[str, Any] = {
        "id": ids,
        "prediction": prediction,
        "prediction_name": [CLASSES[k] for k in prediction],
        "confidence": changed.pop("confidence", np.linspace(0.5, 0.9, len(ids))),
        "label": labels,
        "correct": ~missed,
        **changed.pop("table", {}),
    }
    order = changed.pop("order", np.arange(len(ids)))
    columns = {name: [values[i] for i in order] for name, values in columns.items() if values is not None}
    recipe = {"images": dataset.manifest.digest, "pixels": RECIPE.key(), "dataset": dataset.card.name}
    fields = {
        "recipe": recipe,
        "dataset": dataset.card.name,
        "recipe_hash": sha256_json([model, sorted(map(str, changed.items()))]),
    }
    measures = [Measure("top1", float(1 - missed.mean()), len(ids))]
    return write(results, columns, model=model, measures=measures, **{**fields, **changed})


def thumbnails(page: str) -> list[tuple[str, str, np.ndarray]]:
    """Alternative text, form and pixels of every image of a page."""
    found = re.findall(r'<img alt="([^"]*)" src="data:image/(\w+);base64,([^"]*)"', page)
    return [
        (alt, form, np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))) for alt, form, data in found
    ]
