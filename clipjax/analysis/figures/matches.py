"""Matches between two images, as lines from point to point."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from clipjax.analysis.figures.style import RC, new_figure, write_picture

WIDTH = 9.0  # inches
STYLES: dict[bool, dict[str, Any]] = {
    True: {"color": "#007a2f"},
    False: {"color": "#d0001c", "linestyle": "--"},
}


class PairMatches(NamedTuple):
    """The matches of a pair of images, the strongest first.

    Attributes:
        name: beginning of the title.
        images: uint8 [2, H, W, 3].
        ends: float [K, 2, 2]: x and y in image 0, in image 1; 0 is the centre of the first pixel.
        right: bool [K].
    """

    name: str
    images: np.ndarray
    ends: np.ndarray
    right: np.ndarray


def matches_figure(sides: Sequence[PairMatches], path: Path, right: str, drawn: int = 80) -> Path:
    """A line of two images for each of `sides`, with up to `drawn` matches spread over their ranks.

    Args:
        path: the ending decides the format, as in `write_picture`.
        right: when a match is right, for the legend.

    Raises:
        DataError: the file cannot be written.
    """
    heights = [WIDTH * side.images.shape[1] / (2 * side.images.shape[2]) for side in sides]
    figure = new_figure(WIDTH, sum(heights) + 0.28 * len(sides) + 0.3)
    with matplotlib.rc_context(RC):
        areas = figure.subplots(len(sides), 1, squeeze=False, height_ratios=heights)[:, 0]
        for area, side in zip(areas, sides):
            _draw(area, side, drawn)
            area.set_title(
                f"{side.name}: {side.right.mean():.0%} of {len(side.right):,} matches are right", fontsize=10
            )
        words = {True: f"right: {right}", False: "wrong"}
        lines = [Line2D([], [], label=words[key], **style) for key, style in STYLES.items()]
        figure.legend(handles=lines, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return write_picture(figure, path)


def _draw(area: Axes, side: PairMatches, drawn: int) -> None:
    _, height, width, _ = side.images.shape
    area.imshow(np.concatenate([*side.images], axis=1) // 2 + 127)  # pale, so that lines are seen
    area.axvline(width - 0.5, color="white", linewidth=5)
    last = len(side.right) - 1
    for k in np.unique(np.linspace(0, last, min(drawn, last + 1)).astype(int)):
        (x0, y0), (x1, y1) = side.ends[k]
        style = STYLES[bool(side.right[k])]
        area.plot([x0, x1 + width], [y0, y1], marker="o", markersize=3, linewidth=0.9, **style)
    area.set(xlim=(-0.5, 2 * width - 0.5), ylim=(height - 0.5, -0.5))
    area.axis("off")
