"""Images of a data set beside each other, with their labels."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

from clipjax.analysis.figures.style import QUIET, RC, new_figure, write_picture
from clipjax.data.examples import Example

TILE, TEXT = 2.3, 0.55  # inches: an image's side, the space for its label
WIDE, LINES = 34, 3  # characters of a line of a label, and lines


def examples_figure(examples: Sequence[Example], title: str, licence: str | None, path: Path) -> Path:
    """Draw examples in rows of four images, at least one of them.

    Args:
        licence: is written below the images.
        path: the ending decides the format, as in `write_picture`.

    Raises:
        DataError: the file cannot be written.
    """
    each = max(len(example.images) for example in examples)
    across = 4 // each
    down = -(-len(examples) // across)
    figure = new_figure(4 * TILE, down * (TILE + TEXT) + 0.6)
    with matplotlib.rc_context(RC):
        areas = figure.subplots(down, across, squeeze=False).ravel()
        for area in areas:
            area.axis("off")
        for area, example in zip(areas, examples):
            area.imshow(_beside(example.images), interpolation="nearest")
            lines = textwrap.wrap(example.label, WIDE * each, max_lines=LINES, placeholder=" ...")
            area.set_title("\n".join([*lines, _end_of(example.name, WIDE * each)]), fontsize=8)
        figure.suptitle(title, fontsize=10)
        figure.supxlabel(f"licence: {licence or 'not stated'}", fontsize=7, color=QUIET)
    return write_picture(figure, path)


def _end_of(name: str, most: int) -> str:
    """A name, or its last characters: folders differ less than files."""
    return name if len(name) <= most else f"...{name[3 - most :]}"


def _beside(images: Sequence[np.ndarray]) -> np.ndarray:
    """Images in a row, 6 pixels apart, on white."""
    height = max(len(image) for image in images)
    parts = []
    for image in images:
        parts += [np.full((height, 6, 3), 255, np.uint8)] if parts else []
        below = np.full((height - len(image), image.shape[1], 3), 255, np.uint8)
        parts.append(np.concatenate([image, below]))
    return np.concatenate(parts, axis=1)
