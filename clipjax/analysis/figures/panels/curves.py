"""One number of many models over bins: a line per model, in the colour of its group (Fig. 7)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from clipjax.analysis.figures.frame import (
    Bars,
    Content,
    Drawing,
    axis_title,
    bars_of,
    draw_cuts,
    draw_own,
    handles,
    legend_shape,
    looks,
    name_of,
    said,
    say_missing,
    set_legend,
)
from clipjax.analysis.figures.labels import write_names
from clipjax.analysis.figures.panels.axes import ends, set_axis
from clipjax.analysis.figures.spec import Curves, Spec
from clipjax.analysis.figures.style import INK, RC, new_figure
from clipjax.analysis.figures.yours import YOURS
from clipjax.analysis.rows.groups import Group
from clipjax.analysis.rows.points import Point

WIDTH, HEIGHT = 2.9, 2.7  # inches per area
LINE = 0.18  # inches per line of the legend
SIZE, STAR = 16, 150  # square points, of a marker and of a highlighted model's star
SPREAD = 0.24  # of the groups within a bin; bins are 1 apart


class _Mark(NamedTuple):
    """A model's number in one bin. `title`: what an SVG shows of it."""

    bin: int
    point: Point
    title: str


def draw_curves(spec: Spec, contents: Sequence[Content], commands: Sequence[str]) -> Drawing:
    """An area per `Curves`, with a content per bin. Empty areas show the `commands` for rows."""
    entries, width = handles(spec, contents), max(WIDTH * len(spec.curves), 5.2)
    rows, _ = legend_shape(width, entries)
    figure = new_figure(width, HEIGHT + LINE * rows + 0.5)
    drawing, rest = Drawing(figure), iter(contents)
    with matplotlib.rc_context(RC):
        grid = figure.subplots(1, len(spec.curves), squeeze=False)[0]
        for k, (area, curves) in enumerate(zip(grid, spec.curves), 1):
            bins = list(itertools.islice(rest, len(curves.bins)))
            area.set_title(curves.title, loc="left", size=9)
            if by_group := _marks(spec, bins):
                drawing.names |= _draw(drawing, area, spec, curves, bins[0], by_group, f"{spec.name}-{k}")
            else:
                say_missing(area, _together(bins), commands)
        figure.suptitle(spec.title, color=INK, size=11)
        set_legend(figure, entries)
        write_names(drawing.labels)
    return drawing


def _together(bins: Sequence[Content]) -> Content:
    missing = [each for content in bins for each in content.missing]
    placeless = [each for content in bins for each in content.placeless]
    return Content(bins[0].panel, [], missing, placeless)


def _marks(spec: Spec, bins: Sequence[Content]) -> dict[str, list[_Mark]]:
    """Marks by the key of their group; a model's marks follow each other, in the order of the bins."""
    by_group: dict[str, dict[str, list[_Mark]]] = {}
    for k, content in enumerate(bins):
        for point, look in looks(spec, content):
            if look is not None:
                mark = _Mark(k, point, said(point, content.panel))
                by_group.setdefault(look[0].key, {}).setdefault(name_of(point), []).append(mark)
    return {key: list(itertools.chain(*models.values())) for key, models in by_group.items()}


def _draw(
    drawing: Drawing,
    area: Axes,
    spec: Spec,
    curves: Curves,
    first: Content,
    by_group: dict[str, list[_Mark]],
    gid: str,
) -> dict[str, list[str]]:
    """Returns the points' names by gid of their collection."""
    axis, names, limits, own = first.panel.x, {}, [], []
    groups = [group for group in (*spec.groups, YOURS) if group.key in by_group]
    for n, group in enumerate(groups):
        marks = by_group[group.key]
        points = [mark.point for mark in marks]
        bars = bars_of(points, "x", axis.scale)
        # Groups stand side by side around their bin: three of them at -1/3, 0 and 1/3 of the spread.
        shift = SPREAD * (n - (len(groups) - 1) / 2) / len(groups)
        x = np.array([mark.bin for mark in marks]) + shift
        for some in _lines(marks):
            area.plot(x[some], bars.at[some], color=group.colour, linewidth=0.9, alpha=0.7, zorder=2.4)
        area.vlines(x, *bars.ends, color=group.colour, linewidth=0.7, alpha=0.45, zorder=2)
        draw_cuts(area, "y", bars, x, group.colour)
        names |= _draw_points(area, spec, group, marks, x, bars, f"{gid}-{group.key}")
        limits += [bars.at, *bars.ends]  # the frame cuts no interval
        own.append((points, x, bars.at))
    area.set_xticks(range(len(curves.bins)), curves.bins)
    area.set_xlim(-0.5, len(curves.bins) - 0.5)
    area.set_xlabel(curves.x, size=8)
    set_axis(area, "y", ends(np.concatenate(limits)), axis.scale, axis.unit)
    area.set_ylabel(axis_title(axis), size=8)
    area.tick_params(labelsize=7)
    for points, x, y in own:
        draw_own(drawing, area, spec, points, x, y)
    return names


def _lines(marks: Sequence[_Mark]) -> Iterator[list[int]]:
    """A model's neighbouring bins, as indices into `marks`: a line does not bridge an empty bin."""
    # Consecutive marks of one model have one difference between index and bin until a bin is missing.
    numbered = enumerate(marks)
    for _, run in itertools.groupby(
        numbered, key=lambda each: (name_of(each[1].point), each[0] - each[1].bin)
    ):
        yield [k for k, _ in run]


def _draw_points(
    area: Axes, spec: Spec, group: Group, marks: Sequence[_Mark], x: np.ndarray, bars: Bars, gid: str
) -> dict[str, list[str]]:
    starred = np.array([mark.point.model in spec.highlight for mark in marks])
    plain: dict[str, Any] = {"marker": group.marker, "s": SIZE, "linewidths": 0.4, "zorder": 3}
    plain |= {"facecolors": group.colour if group.filled else "white"}
    plain |= {"edgecolors": "white" if group.filled else group.colour}
    star = {"marker": "*", "s": STAR, "facecolors": group.colour, "edgecolors": INK, "linewidths": 0.7}
    names = {}
    for which, look, ending in ((~starred, plain, ""), (starred, star | {"zorder": 5.5}, "-star")):
        if which.any():
            names[gid + ending] = [mark.title for mark, here in zip(marks, which) if here]
            area.scatter(x[which], bars.at[which], gid=gid + ending, **look)
    return names
