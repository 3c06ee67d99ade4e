"""Scatter plots of models: groups, trend lines, intervals, and the angle between two trends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike

from clipjax.analysis.axes import ends, set_axis
from clipjax.analysis.figure_spec import Panel, Spec
from clipjax.analysis.frame import (
    Content,
    Drawing,
    drawn,
    ends_of,
    handles,
    legend_shape,
    line_colour,
    said,
    say_missing,
    set_legend,
    title_axes,
)
from clipjax.analysis.groups import Group, group_of
from clipjax.analysis.panel_trends import Trend, trends_of
from clipjax.analysis.points import Point, coordinates
from clipjax.analysis.resampling import RESAMPLES
from clipjax.analysis.scales import on_scale, transform
from clipjax.analysis.style import INK, RC, new_figure

WIDTH, HEIGHT = 2.45, 2.25  # inches a panel
ALONE = 3.4  # its height where it stands alone in its line
LINE = 0.18  # inches a line of the legend
SIZES = {"*": 46, "P": 26, "X": 26}  # of markers, in square points; else:
SIZE = 20


class Places(NamedTuple):
    """Where points stand on the scales of their panel: x, y [N], and the ends of their intervals [2, N] (the
    point itself where it has no interval)."""

    x: np.ndarray
    y: np.ndarray
    x_ends: np.ndarray
    y_ends: np.ndarray


class Series(NamedTuple):
    """The points of one look, by their place in the panel's list."""

    group: Group
    marker: str
    members: list[int]


def draw_scatter(spec: Spec, contents: Sequence[Content], commands: Sequence[str]) -> Drawing:
    """All panels of a figure, and one legend.

    Args:
        contents: one a panel of the spec, in its order.
        commands: what makes the missing rows, as an empty panel says it.
    """
    lines = -(-len(contents) // spec.across)
    entries, width = handles(spec, contents), max(WIDTH * spec.across, 5.2)
    rows, _ = legend_shape(width, entries)
    figure = new_figure(width, (HEIGHT if spec.across > 1 else ALONE) * lines + LINE * rows + 0.5)
    drawing = Drawing(figure)
    with matplotlib.rc_context(RC):
        grid = figure.subplots(lines, spec.across, squeeze=False)
        for area in grid.ravel()[len(contents) :]:
            area.set_visible(False)
        shown = [bool(drawn(spec, content)) for content in contents]
        for k, (area, content) in enumerate(zip(grid.ravel(), contents), 1):
            area.set_title(content.panel.title, loc="left", size=9)
            if shown[k - 1]:
                drawing.names |= draw_panel(area, spec, content, f"{spec.name}-{k}")
            else:
                say_missing(area, content, commands)
        title_axes(grid, [content.panel for content in contents], shown)
        figure.suptitle(spec.title, color=INK, size=11)
        set_legend(figure, entries)
    return drawing


def draw_panel(area: Axes, spec: Spec, content: Content, gid: str) -> dict[str, list[str]]:
    """One panel; returns the names of the points of each of its collections, by gid."""
    panel, at = content.panel, places(content.panel, content.points)
    assert panel.y is not None
    names, shown = {}, []
    for key, series in _series(spec, content).items():
        _draw_series(area, series, at, f"{gid}-{key}")
        names[f"{gid}-{key}"] = [said(content.points[i], panel) for i in series.members]
        shown += series.members
    # Near 0 and 1 intervals are endless on the other scales: there an axis ends with its points.
    reach_x = at.x_ends if panel.x.scale == "linear" else at.x
    reach_y = at.y_ends if panel.y.scale == "linear" else at.y
    limits = [ends(reach_x[..., shown]), ends(reach_y[..., shown])]
    trends = trends_of(spec, content, RESAMPLES if spec.difference else 0)  # of lines no interval is drawn
    for trend in trends:
        line = trend.line
        if line.key == panel.above:
            area.axhline(0, color=line_colour(spec, line), linestyle=line.style, linewidth=1.3, zorder=4)
        _draw_fit(area, spec, trend, panel, f"{gid}-fit-{line.key}")
    if spec.ideal:
        both = [min(low for low, _ in limits), max(high for _, high in limits)]
        area.plot(both, both, color=INK, linestyle="--", linewidth=0.9, zorder=1, gid=f"{gid}-ideal")
    if spec.difference:
        area.text(0.04, 0.96, _angle(spec, trends), transform=area.transAxes, va="top", size=7, color=INK)
    set_axis(area, "x", limits[0], panel.x.scale, panel.x.unit)
    set_axis(area, "y", limits[1], panel.y.scale, panel.y.unit)
    return names


def places(panel: Panel, points: Sequence[Point]) -> Places:
    """Where points stand in a panel."""
    assert panel.y is not None
    x, y, n_x, n_y = coordinates(points)
    found = []
    for values, n, which, scale in ((x, n_x, "x", panel.x.scale), (y, n_y, "y", panel.y.scale)):
        limits = np.array([ends_of(point, which) for point in points]).T
        at = transform(on_scale(limits, scale), scale, np.stack([n, n]))
        found.append((transform(values, scale, n), at))
    (across, across_ends), (up, up_ends) = found
    return Places(across, up, across_ends, up_ends)


def _series(spec: Spec, content: Content) -> dict[str, Series]:
    """One for each group, of a figure with shapes for each group and shape, that has points.

    Those of few points come last, so that they lie on top.
    """
    place = {id(point): i for i, point in enumerate(content.points)}
    looks = [(group, shape) for group in spec.groups for shape in spec.shapes or [None]]
    found = {_key(*look): Series(look[0], (look[1] or look[0]).marker, []) for look in looks}
    for point in drawn(spec, content):
        look = group_of(point.facts, spec.groups), group_of(point.facts, spec.shapes)
        found[_key(*look)].members.append(place[id(point)])
    sizes = {key: len(series.members) for key, series in found.items() if series.members}
    return {key: found[key] for key in sorted(sizes, key=lambda key: -sizes[key])}


def _key(group: Group | None, shape: Group | None) -> str:
    return "-".join(each.key for each in (group, shape) if each is not None)


def _draw_series(area: Axes, series: Series, at: Places, gid: str) -> None:
    group, marker, members = series
    x, y = at.x[members], at.y[members]
    for ends_x, ends_y in ((at.x_ends[:, members], [y, y]), ([x, x], at.y_ends[:, members])):
        area.plot(_broken(ends_x), _broken(ends_y), color=group.colour, linewidth=0.7, alpha=0.45, zorder=2)
    filled = {"facecolors": group.colour, "edgecolors": "white", "linewidths": 0.4}
    hollow = {"facecolors": "none", "edgecolors": group.colour, "linewidths": 0.6}
    look = {"zorder": 3, **filled} if group.filled else {"zorder": 2.5, **hollow}
    area.scatter(x, y, s=SIZES.get(marker, SIZE), marker=marker, gid=gid, **look)


def _broken(ends: ArrayLike) -> np.ndarray:
    """First and last coordinates of segments, [2, N], as one line with gaps: one path in a file, not N."""
    both = np.asarray(ends)
    return np.concatenate([both, np.full_like(both[:1], np.nan)]).T.ravel()


def _draw_fit(area: Axes, spec: Spec, trend: Trend, panel: Panel, gid: str) -> None:
    """The trend of some models, from the first of them to the last, light at its edges to lie on points."""
    line, found = trend.line, trend.fit
    if found is None:
        return
    assert panel.y is not None
    across = np.array(found.ends)
    at = transform(across, panel.x.scale), transform(found.predict(across), panel.y.scale)
    edge = [withStroke(linewidth=2.6, foreground="white")]
    look = {"color": line_colour(spec, line), "linestyle": line.style, "linewidth": 1.3}
    area.plot(*at, zorder=4, gid=gid, path_effects=edge, **look)


def _angle(spec: Spec, trends: Sequence[Trend]) -> str:
    """The tangent of the angle between two trends, with its interval; "" where one of them is missing."""
    difference = next(trend.difference for trend in trends if trend.line.key == spec.difference[0])
    found = None if difference is None else difference.tan
    if found is None:
        return ""
    limits = found.interval
    return f"tan Δ = {found.value:.2f}" + (f" [{limits['lo']:.2f}, {limits['hi']:.2f}]" if limits else "")
