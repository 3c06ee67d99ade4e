"""What all figures have around their points: titles, one legend, and what an empty panel says."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from clipjax.analysis.cells import Cell
from clipjax.analysis.figure_spec import Axis, FitLine, Panel, Spec
from clipjax.analysis.groups import Group, group_of, matches
from clipjax.analysis.points import Point
from clipjax.analysis.style import INK, LINE_COLOURS, NO_ROWS, QUIET
from clipjax.analysis.trends import too_little

NAMED = 4  # missing rows that a panel names
WIDE = 34  # characters of a line in a panel
FEWEST = 3  # models that a trend line is drawn through


@dataclass
class Drawing:
    """A figure to save, and for each of its collections of points (by gid) the names of the points."""

    figure: Figure
    names: dict[str, list[str]] = field(default_factory=dict)


class Missing(NamedTuple):
    """A row that is not there: of one model, or of all where `model` is None."""

    panel: str
    model: str | None
    row: str


@dataclass(frozen=True)
class Content:
    """What a panel shows.

    Attributes:
        points: all models that have its numbers; a strip's have the one number as x and as y. Those in no
            group are not drawn, but trends may be fitted to them.
        missing: what it lacks.
    """

    panel: Panel
    points: Sequence[Point]
    missing: Sequence[Missing] = ()


def name_of(point: Point) -> str:
    """The model, and where prompts are told apart those."""
    return " ".join(filter(None, (point.model, point.facts.get("prompts"))))


def said(point: Point, panel: Panel) -> str:
    """The point in words: its name and its numbers."""
    numbers = zip(panel.axes, (point.x, point.y))
    parts = [f"{axis.column.title} {cell.value:.4g}" for axis, cell in numbers]
    return f"{name_of(point)}: {', '.join(parts)}"


def drawn(spec: Spec, content: Content) -> list[Point]:
    """The points of the figure's models that a group (and where it has shapes, a shape) has a look for."""
    schemes = [spec.groups, spec.shapes] if spec.shapes else [spec.groups]
    return [
        point
        for point in content.points
        if matches(point.facts, spec.models) and all(group_of(point.facts, scheme) for scheme in schemes)
    ]


def ends_of(point: Point, which: str) -> tuple[float, float]:
    """The interval of one of its numbers; the number itself twice where there is none."""
    cell: Cell = getattr(point, which)
    assert cell.value is not None
    return (cell.interval["lo"], cell.interval["hi"]) if cell.interval else (cell.value, cell.value)


def say_missing(area: Axes, content: Content, commands: Sequence[str]) -> None:
    """Instead of points: which rows are missing, and what makes them."""
    area.set_axis_off()
    missing = [each.row for each in content.missing if each.model is None]
    named = [line for row in missing[:NAMED] for line in textwrap.wrap(row, WIDE)]
    more = [f"and {len(missing) - NAMED} more"] if len(missing) > NAMED else []
    made = [line for each in commands for line in textwrap.wrap(each, WIDE, break_on_hyphens=False)]
    words = ["no rows:", *named, *more, "", *made]
    area.text(0.02, 0.95, "\n".join(words), transform=area.transAxes, va="top", size=7, color=QUIET)


def title_axes(grid: np.ndarray, panels: Sequence[Panel], shown: Sequence[bool]) -> None:
    """Titles of axes: once for neighbours that are shown and share one, at the left and below."""
    across = grid.shape[1]
    for k, panel in enumerate(panels):
        area, left = grid.flat[k], k % across > 0 and shown[k - 1]
        below = k + across < len(panels) and shown[k + across]
        if not (below and panels[k + across].x == panel.x):
            area.set_xlabel(axis_title(panel.x), size=8)
        if panel.y is not None and not (left and _alike(panels[k - 1].y, panel.y)):
            area.set_ylabel(axis_title(panel.y), size=8)
        area.tick_params(labelsize=7)


def _alike(first: Axis | None, second: Axis) -> bool:
    return first is not None and axis_title(first) == axis_title(second)


def axis_title(axis: Axis) -> str:
    """What an axis shows, with its unit."""
    return f"{axis.column.title} ({axis.unit})" if axis.unit else axis.column.title


def handles(spec: Spec, contents: Sequence[Content]) -> list[list[Line2D]]:
    """The entries of the legend: every group of the figure, also those without a model; shapes; lines."""
    shown = [point for content in contents for point in drawn(spec, content)]
    found = _counts(shown, spec.groups)
    marks = [_mark(group, found[group.key], bool(spec.shapes)) for group in spec.groups]
    found = _counts(shown, spec.shapes)
    shapes = [_shape(shape, found[shape.key]) for shape in spec.shapes]
    lines = [_line(spec, line, contents) for line in spec.fits]
    if spec.ideal:
        lines.append(Line2D([], [], color=INK, linestyle="--", linewidth=0.9, label="y = x"))
    lines.append(Line2D([], [], color=QUIET, linewidth=0.7, label="bars: intervals of the numbers"))
    return [marks, shapes, lines] if shapes else [marks + lines]


def set_legend(figure: Figure, parts: Sequence[Sequence[Line2D]]) -> None:
    """One legend below the panels; where it has several parts, each is a column."""
    rows, columns = legend_shape(figure.get_figwidth(), parts)
    blank = Line2D([], [], linestyle="none", label=" ")
    padded = [[*part, *[blank] * (rows - len(part))] if len(parts) > 1 else part for part in parts]
    entries = [entry for part in padded for entry in part]
    figure.legend(handles=entries, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)


def legend_shape(width: float, parts: Sequence[Sequence[Line2D]]) -> tuple[int, int]:
    """Rows and columns of the legend of a figure so many inches wide."""
    if len(parts) > 1:
        return max(map(len, parts)), len(parts)
    columns = max(2, min(4, int(width // 2.6)))
    return -(-len(parts[0]) // columns), columns


def _counts(points: Iterable[Point], scheme: Sequence[Group]) -> dict[str, int]:
    """Models of each group, each once."""
    members = {group.key: set[str]() for group in scheme}
    for point in points:
        if (group := group_of(point.facts, scheme)) is not None:
            members[group.key].add(point.model)
    return {key: len(models) for key, models in members.items()}


def members_of(line: FitLine, content: Content) -> list[Point]:
    """The points of the models that a trend is to run through, drawn or not."""
    return [point for point in content.points if matches(point.facts, line.where)]


def fitted(line: FitLine, content: Content) -> list[Point]:
    """The points that a trend runs through; none where they are too little, or the panel is above one."""
    found = [] if content.panel.above else members_of(line, content)
    return [] if too_little(found, FEWEST) else found


def _mark(group: Group, n: int, only_colour: bool) -> Line2D:
    look: dict[str, Any] = {"marker": "o" if only_colour else group.marker, "markersize": 5.5}
    colour = group.colour if n else NO_ROWS
    look |= {"markerfacecolor": colour if group.filled and n else "none", "markeredgecolor": colour}
    return Line2D([], [], linestyle="none", label=_counted(group.title, n), **look)


def _shape(shape: Group, n: int) -> Line2D:
    look: dict[str, Any] = {"marker": shape.marker, "markersize": 5.5}
    look |= {"markerfacecolor": QUIET if n else "none", "markeredgecolor": QUIET if n else NO_ROWS}
    return Line2D([], [], linestyle="none", label=_counted(shape.title, n), **look)


def _line(spec: Spec, line: FitLine, contents: Sequence[Content]) -> Line2D:
    there = any(fitted(line, each) or (each.points and each.panel.above == line.key) for each in contents)
    enough = any(len(members_of(line, each)) >= FEWEST for each in contents)
    lacking = "one x for all models" if enough else f"fewer than {FEWEST} models"
    look: dict[str, Any] = {"color": line_colour(spec, line) if there else NO_ROWS, "linestyle": line.style}
    label = line.title if there else f"{line.title}: {lacking}"
    return Line2D([], [], linewidth=1.3, label=label, **look)


def line_colour(spec: Spec, line: FitLine) -> str:
    """A line's own colour, or that of the group of its key."""
    if line.colour is not None:
        return LINE_COLOURS[line.colour]
    return next((group.colour for group in spec.groups if group.key == line.key), INK)


def _counted(title: str, n: int) -> str:
    return f"{title} ({n})" if n else f"{title}: no rows"
