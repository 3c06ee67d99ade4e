"""The parts that all figures draw around their points: axes, trends, legend and texts."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import CARETDOWN, CARETLEFT, CARETRIGHT, CARETUP

from clipjax.analysis.cost.fronts import DOMINATED
from clipjax.analysis.figures.labels import Names
from clipjax.analysis.figures.spec import Axis, FitLine, Panel, Spec
from clipjax.analysis.figures.style import INK, LINE_COLOURS, NO_ROWS, QUIET
from clipjax.analysis.figures.yours import STATED, YOURS, Look, is_own, is_stated, look_of
from clipjax.analysis.rows.cells import Cell
from clipjax.analysis.rows.groups import Group, matches
from clipjax.analysis.rows.points import Point
from clipjax.analysis.rows.scales import ends_on_scale, transform
from clipjax.analysis.trends.trends import too_little
from clipjax.results.row import Row

NAMED = 4  # at most this many missing rows in a panel's text
WIDE = 34  # characters per line of a panel's text
BARS = "bars: intervals of the numbers"
CUTS = {"x": (CARETLEFT, CARETRIGHT), "y": (CARETDOWN, CARETUP)}  # heads of cut bars: lower and upper end
CUT = "arrow: an interval that the scale cuts, at 0 or 1"
FRONT_LINE, FRONT_WIDTH = "line: Pareto front", 1.0
BEATEN = "cross: decidedly beaten"
FEWEST = 3  # models for a trend line


@dataclass
class Drawing:
    """`names`: gid of a collection of points -> their names. `labels`: the names that are written."""

    figure: Figure
    names: dict[str, list[str]] = field(default_factory=dict)
    labels: list[Names] = field(default_factory=list)


class MissingRow(NamedTuple):
    """A row that a model, or (None) every model, lacks."""

    panel: str
    model: str | None
    row: str


class UngroupedModel(NamedTuple):
    """A model with all rows of a panel but in no group."""

    panel: str
    model: str
    why: str
    shown: bool


@dataclass(frozen=True)
class Content:
    """The models and other marks of one panel.

    Attributes:
        points: all models with its numbers; a strip has one number as x and y. Points in no group are
            drawn only if they are the user's own, as `YOURS`; trends may use them.
        placeless: the points in no group.
        people: the row of people, which a strip draws as a line.
        highlight: models that no trend is fitted to, since the trends judge them.
    """

    panel: Panel
    points: Sequence[Point]
    missing: Sequence[MissingRow] = ()
    placeless: Sequence[UngroupedModel] = ()
    people: Row | None = None
    highlight: Sequence[str] = ()


def name_of(point: Point) -> str:
    """A point's name, with its prompts where they tell points apart."""
    return " ".join(filter(None, (point.model, point.facts.get("prompts"))))


def said(point: Point, panel: Panel) -> str:
    numbers = zip(panel.axes, (point.x, point.y))
    parts = [f"{axis.column.title} {cell.value:.4g}{_part(cell)}" for axis, cell in numbers]
    stated = f" ({STATED})" if is_stated(point.facts) else ""
    return f"{name_of(point)}: {', '.join(parts)}{stated}"


def _part(cell: Cell) -> str:
    return f" (of {cell.part})" if cell.part else ""


def parts_of(point: Point, panel: Panel) -> list[str]:
    """Axis and images of each number that is not of a whole data set."""
    numbers = zip(panel.axes, (point.x, point.y))
    return [f"{axis.column.title}: {cell.part}" for axis, cell in numbers if cell.part]


def drawn(spec: Spec, content: Content) -> list[Point]:
    return [point for point, look in looks(spec, content) if look is not None]


def looks(spec: Spec, content: Content) -> list[tuple[Point, Look | None]]:
    """Each point's look, None if not drawn."""
    return [(point, look_of(spec, point.model, point.facts)) for point in content.points]


class Bars(NamedTuple):
    """One number of N points in coordinates of its axis.

    Attributes:
        ends: of the intervals (without one: the point itself), [2, N].
        cut: whether the scale cuts an end, bool [2, N].
    """

    at: np.ndarray
    ends: np.ndarray
    cut: np.ndarray

    def of(self, members: Sequence[int]) -> Bars:
        return Bars(*(part[..., list(members)] for part in self))


def bars_of(points: Sequence[Point], which: str, scale: str) -> Bars:
    """The points' numbers with their intervals, on the axis `which`, "x" or "y"."""
    cells: list[Cell] = [getattr(point, which) for point in points]
    n = np.array([cell.n for cell in cells], np.float64)
    limits = np.array([ends_of(point, which) for point in points]).T
    at = transform(np.array([cell.value for cell in cells], np.float64), scale, n)
    ends, cut = ends_on_scale(limits, scale, n)
    return Bars(at, ends, cut & np.array([cell.interval is not None for cell in cells]))


def has_cut(spec: Spec, content: Content) -> bool:
    shown = drawn(spec, content)
    axes = zip("xy", content.panel.axes) if shown else ()
    return any(bool(bars_of(shown, which, axis.scale).cut.any()) for which, axis in axes)


def has_bars(points: Iterable[Point]) -> bool:
    return any(cell.interval is not None for point in points for cell in (point.x, point.y))


def ends_of(point: Point, which: str) -> tuple[float, float]:
    """The ends of the number's interval; without one, the number twice."""
    cell: Cell = getattr(point, which)
    assert cell.value is not None
    return (cell.interval["lo"], cell.interval["hi"]) if cell.interval else (cell.value, cell.value)


def say_missing(area: Axes, content: Content, commands: Sequence[str]) -> None:
    area.set_axis_off()
    made = [line for each in commands for line in textwrap.wrap(each, WIDE, break_on_hyphens=False)]
    words = [*_why_empty(content), "", *(made if content.missing else ())]
    area.text(0.02, 0.95, "\n".join(words), transform=area.transAxes, va="top", size=7, color=QUIET)


def _why_empty(content: Content) -> list[str]:
    if content.placeless:
        names = ", ".join(dict.fromkeys(each.model for each in content.placeless))
        said = f"no model in these groups; in none of them: {textwrap.shorten(names, 3 * WIDE)}"
        return textwrap.wrap(said, WIDE)
    nowhere = [each.row for each in content.missing if each.model is None]
    partly = list(dict.fromkeys(each.row for each in content.missing if each.model is not None))
    title = "no rows:" if nowhere else "no model has all rows; missing of some:"
    missing = nowhere or partly
    if not missing:
        return textwrap.wrap("no rows of models in these groups", WIDE)
    named = [line for row in missing[:NAMED] for line in textwrap.wrap(row, WIDE)]
    more = [f"and {len(missing) - NAMED} more"] if len(missing) > NAMED else []
    return [*textwrap.wrap(title, WIDE), *named, *more]


def draw_cuts(area: Axes, which: str, bars: Bars, beside: np.ndarray, colour: str) -> None:
    """Draw heads on cut bars. `beside`: the other coordinate, [N]."""
    for head, at, some in zip(CUTS[which], bars.ends, bars.cut):
        if some.any():
            pair = (at[some], beside[some]) if which == "x" else (beside[some], at[some])
            area.plot(*pair, linestyle="none", marker=head, markersize=4, color=colour, zorder=2.2)


def draw_own(
    drawing: Drawing,
    area: Axes,
    spec: Spec,
    shown: Sequence[Point],
    x: np.ndarray,
    y: np.ndarray,
    named: Iterable[str] = (),
) -> None:
    """Draw rings around models with stated facts; collect the names of highlighted and of `named` models.

    With `spec.names`, the names of all. `write_names` writes them when the whole figure is drawn.
    """
    stated = [k for k, point in enumerate(shown) if is_stated(point.facts)]
    if stated:
        area.scatter(x[stated], y[stated], s=95, facecolors="none", edgecolors=INK, linewidths=0.6, zorder=5)
    some = {*spec.highlight, *named}
    names = {k: name_of(point) for k, point in enumerate(shown) if spec.names or point.model in some}
    drawing.labels.append(Names(area, x, y, names))


def title_axes(grid: np.ndarray, panels: Sequence[Panel], shown: Sequence[bool]) -> None:
    """Title the axes of panels. Neighbours with the same title show it once."""
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
    return f"{axis.column.title} ({axis.unit})" if axis.unit else axis.column.title


def handles(spec: Spec, contents: Sequence[Content]) -> list[list[Line2D]]:
    """The legend's columns: groups, even without a model; shapes; lines and `own_marks`."""
    shown = [(p, look) for content in contents for p, look in looks(spec, content) if look is not None]
    counts = _counts((point, group) for point, (group, _) in shown)
    marks = [_mark(group, counts.get(group.key, 0), bool(spec.shapes)) for group in spec.groups]
    of_shape = _counts((point, shape) for point, (_, shape) in shown if shape is not None)
    shapes = [_shape(shape, of_shape.get(shape.key, 0)) for shape in spec.shapes]
    lines = [_line(spec, line, contents) for line in spec.fits]
    if spec.ideal:
        lines.append(Line2D([], [], color=INK, linestyle="--", linewidth=0.9, label="y = x"))
    if has_bars([point for point, _ in shown]):
        lines.append(Line2D([], [], color=QUIET, linewidth=0.7, label=BARS))
    if any(has_cut(spec, content) for content in contents):
        lines.append(_sign(CUTS["x"][1], 4.0, QUIET, CUT))
    lines += _front_marks(contents)
    own = own_marks(spec, [point for point, _ in shown], counts.get(YOURS.key, 0))
    return [marks, shapes, lines + own] if shapes else [marks + lines + own]


def _front_marks(contents: Sequence[Content]) -> list[Line2D]:
    fronts = [content.panel.front for content in contents if content.panel.front is not None]
    marks = [Line2D([], [], color=INK, linewidth=FRONT_WIDTH, label=FRONT_LINE)] if fronts else []
    beaten = any(front.models(DOMINATED) for front in fronts)
    return [*marks, *([_sign("x", 4.5, INK, BEATEN)] if beaten else [])]


def own_marks(spec: Spec, shown: Sequence[Point], yours: int) -> list[Line2D]:
    marks = []
    if any(point.model in spec.highlight for point in shown):
        marks.append(_sign("*", 9.0, INK, "star: highlighted"))
    if any(is_stated(point.facts) for point in shown):
        marks.append(_sign("o", 8.0, "none", f"ring: {STATED}"))
    return [*marks, _mark(YOURS, yours, False)] if yours else marks


def _sign(marker: Any, size: float, face: str, label: str) -> Line2D:
    look: dict[str, Any] = {"markersize": size, "markerfacecolor": face, "markeredgecolor": INK}
    return Line2D([], [], linestyle="none", marker=marker, markeredgewidth=0.6, label=label, **look)


def set_legend(figure: Figure, parts: Sequence[Sequence[Line2D]]) -> None:
    """Draw the legend below the figure. Several parts, such as groups and shapes, get a column each."""
    rows, columns = legend_shape(figure.get_figwidth(), parts)
    blank = Line2D([], [], linestyle="none", label=" ")
    entries: list[Line2D] = []
    for part in parts:
        entries += part
        if len(parts) > 1:  # matplotlib fills columns from the top: blanks end each part's column
            entries += [blank] * (rows - len(part))
    figure.legend(handles=entries, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)


def legend_shape(width: float, parts: Sequence[Sequence[Line2D]]) -> tuple[int, int]:
    """(rows, columns) of the legend; `width` in inches."""
    if len(parts) > 1:
        return max(map(len, parts)), len(parts)
    columns = max(2, min(4, int(width // 2.6)))
    return -(-len(parts[0]) // columns), columns


def _counts(some: Iterable[tuple[Point, Group]]) -> dict[str, int]:
    members: dict[str, set[str]] = {}
    for point, group in some:
        members.setdefault(group.key, set()).add(point.model)
    return {key: len(models) for key, models in members.items()}


def members_of(line: FitLine, content: Content) -> list[Point]:
    """The points that a trend is fitted to: without highlighted models, and without the user's own models
    that are in no group unless `line.yours`."""
    apart = set() if line.yours else {each.model for each in content.placeless}
    apart_or_judged = (
        p.model in content.highlight or (name_of(p) in apart and is_own(p.facts)) for p in content.points
    )
    some = [p for p, without in zip(content.points, apart_or_judged) if not without]
    return [p for p in some if matches(p.facts, line.where)]


def fitted(line: FitLine, content: Content) -> list[Point]:
    """`members_of`; none if too few, or if the panel shows distances from a trend."""
    members = [] if content.panel.above else members_of(line, content)
    return [] if too_little(members, FEWEST) else members


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
    reasons = (too_little(members_of(line, each), FEWEST) for each in contents)
    noisy = any(why and why.startswith("x is too noisy") for why in reasons)
    lacking = "one x for all models" if enough else f"fewer than {FEWEST} models"
    lacking = "x is too noisy" if noisy else lacking
    look: dict[str, Any] = {"color": line_colour(spec, line) if there else NO_ROWS, "linestyle": line.style}
    label = line.title if there else f"{line.title}: {lacking}"
    return Line2D([], [], linewidth=1.3, label=label, **look)


def line_colour(spec: Spec, line: FitLine) -> str:
    if line.colour is not None:
        return LINE_COLOURS[line.colour]
    return next((group.colour for group in spec.groups if group.key == line.key), INK)


def _counted(title: str, n: int) -> str:
    return f"{title} ({n})" if n else f"{title}: no models"
