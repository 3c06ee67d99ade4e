"""A few images of a data set with their labels, for a picture of it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

from clipjax.data.cards import Dataset
from clipjax.data.manifest import Manifest
from clipjax.data.pixels.preprocess import open_image, to_rgb
from clipjax.errors import UsageError

NUMBER, SIDE = 8, 224  # images; pixels of an image's longer side


class Example(NamedTuple):
    """One image, or the two images of a pair.

    Attributes:
        images: uint8 [H, W, 3] each.
        label: what the data set states of them; empty: nothing.
        name: the id of the image or pair.
    """

    images: tuple[np.ndarray, ...]
    label: str
    name: str


def examples_of(dataset: Dataset) -> list[Example]:
    """Eight images, or four pairs, of a data set: those that `--limit` would take.

    Raises:
        UsageError: the data set's licence forbids to show its images.
        DataError: an image cannot be read.
    """
    card, manifest = dataset.card, dataset.manifest
    if card.hidden is not None:
        raise UsageError(f"the images of {card.name} may not be shown: {card.hidden}")
    if manifest.pairs is None:
        sample = manifest.sample(NUMBER)
        return [
            Example((small_image(sample, i, SIDE),), _label(dataset, sample, i), name)
            for i, name in enumerate(sample.ids)
        ]
    sample = manifest.sample(NUMBER // 2)
    pairs, row = sample.pairs, {name: i for i, name in enumerate(sample.ids)}
    assert pairs is not None
    both = [[small_image(sample, row[name], SIDE) for name in pairs.image_ids(i)] for i in range(len(pairs))]
    return [Example(tuple(images), "", name) for images, name in zip(both, pairs.ids)]


def _label(dataset: Dataset, sample: Manifest, i: int) -> str:
    """The first caption, else the class."""
    if captions := sample.columns.get("captions"):
        return captions[i][0] if isinstance(captions[i], list) else captions[i]
    if sample.labels is None or dataset.label_space is None:
        return ""
    return dataset.label_space.classes[sample.labels[i]]


def small_image(manifest: Manifest, i: int, side: int) -> np.ndarray:
    """The whole image, smaller. Its outermost pixels stay so, since ObjectNet's border must be seen.

    Args:
        side: pixels of the longer side; a smaller image does not grow.

    Returns: uint8 [H, W, 3].

    Raises:
        DataError: the image cannot be read.
    """
    image = to_rgb(open_image(manifest.opener.open(i), manifest.ids[i]))
    pixels, small = np.asarray(image), image.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    shrunk = np.asarray(small).copy()
    rows, columns = (
        np.linspace(0, a - 1, b).round().astype(int) for a, b in zip(pixels.shape, shrunk.shape[:2])
    )
    nearest = pixels[rows[:, None], columns]
    for edge in (np.s_[[0, -1]], np.s_[:, [0, -1]]):
        shrunk[edge] = nearest[edge]
    return shrunk
