"""Names beside points, placed where they hide neither points nor each other.

write_names([Names(area, x, y, {3: "vit_b_32-openai"})])      # after everything else is drawn
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Annotation

from clipjax.analysis.figures.style import INK, QUIET

NEAR = 6  # points from the point to its name
FAR = (16, 26, 38, 52, 68, 86, 106, 130)  # of names that a line joins to their point
POINT = 3.5  # half the width of a point that a name must not hide, in points
SIZE = 7
SIDES = ((1, 1), (-1, 1), (1, -1), (-1, -1), (0, 1.4), (0, -1.4), (1.4, 0), (-1.4, 0))
MORE = ((0.5, 1), (-0.5, 1), (0.5, -1), (-0.5, -1))  # of the far ones
NAME, OUTSIDE = 3, 100  # hiding a name, or being outside the axes, is as bad as hiding this many points


class Names(NamedTuple):
    """The points of some axes, in coordinates of the axes, and the names of some of them by index."""

    area: Axes
    x: np.ndarray
    y: np.ndarray
    names: Mapping[int, str]


def write_names(panels: Sequence[Names]) -> None:
    """Write the names of all axes of one figure; the axes must be complete.

    Each name takes the first free place around its point, near or far; without one, that which hides least.
    """
    panels = [each for each in panels if each.names]
    if not panels:
        return
    whole = panels[0].area.get_figure(root=True)
    assert whole is not None
    whole.draw_without_rendering()  # decides where the axes are
    for each in panels:
        _write(each)


def _write(panel: Names) -> None:
    area, scale = panel.area, panel.area.figure.dpi / 72  # pixels per point
    points = area.transData.transform(np.column_stack([panel.x, panel.y])) / scale
    frame = np.array(area.get_window_extent().extents) / scale
    taken = np.empty((0, 4))
    for k, name in panel.names.items():
        near = _annotate(area, panel, k, name, (0, 0), joined=False)
        extent = near.get_window_extent()
        near.remove()
        size = np.array([extent.width, extent.height]) / scale
        corners, boxes = _places(points[k], size)
        hidden = [_hidden(box, np.delete(points, k, axis=0), taken, frame) for box in boxes]
        best = int(np.argmin(hidden))
        _annotate(area, panel, k, name, tuple(corners[best]), joined=best >= len(SIDES))
        taken = np.vstack([taken, boxes[best]])


def _places(point: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lower left corners relative to the point, [K, 2], and boxes, [K, 4]: near places first."""
    ways = [(NEAR, side) for side in SIDES] + [(gap, side) for gap in FAR for side in (*SIDES, *MORE)]
    away = np.array([np.multiply(side, (gap, 0.7 * gap)) for gap, side in ways])
    relative = away + size * (np.sign(away) - 1) / 2
    low = point + relative
    return relative, np.hstack([low, low + size])


def _hidden(box: np.ndarray, points: np.ndarray, taken: np.ndarray, frame: np.ndarray) -> int:
    """How much a name in this box would hide, in points."""
    low, high = box[:2], box[2:]
    over = ((points > low - POINT) & (points < high + POINT)).all(axis=1).sum()
    names = ((taken[:, :2] < high) & (taken[:, 2:] > low)).all(axis=1).sum()
    outside = (low < frame[:2]).any() or (high > frame[2:]).any()
    return int(over + NAME * names + OUTSIDE * outside)


def _annotate(
    area: Axes, panel: Names, k: int, name: str, corner: tuple[float, ...], *, joined: bool
) -> Annotation:
    line = {"arrowstyle": "-", "linewidth": 0.5, "color": QUIET, "shrinkA": 0, "shrinkB": 2}
    look: dict[str, Any] = {"arrowprops": line} if joined else {}
    said = area.annotate(
        name,
        (panel.x[k], panel.y[k]),
        xytext=(float(corner[0]), float(corner[1])),
        textcoords="offset points",
        ha="left",
        va="bottom",
        size=SIZE,
        color=INK,
        zorder=5.2,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.7},
        **look,
    )
    said.set_in_layout(False)
    return said
