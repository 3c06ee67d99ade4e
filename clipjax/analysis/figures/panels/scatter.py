"""Scatter plots of models with trend lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike

from clipjax.analysis.cost.fronts import DOMINATED
from clipjax.analysis.figures.frame import (
    FRONT_WIDTH,
    Bars,
    Content,
    Drawing,
    bars_of,
    draw_cuts,
    draw_own,
    drawn,
    handles,
    legend_shape,
    line_colour,
    looks,
    said,
    say_missing,
    set_legend,
    title_axes,
)
from clipjax.analysis.figures.labels import write_names
from clipjax.analysis.figures.panels.axes import ends, set_axis
from clipjax.analysis.figures.panels.trends import Trend, trends_of
from clipjax.analysis.figures.spec import Panel, PanelFront, Spec
from clipjax.analysis.figures.style import INK, RC, new_figure
from clipjax.analysis.figures.yours import YOURS
from clipjax.analysis.rows.groups import Group
from clipjax.analysis.rows.scales import transform
from clipjax.analysis.trends.resampling import RESAMPLES

WIDTH, HEIGHT = 2.45, 2.25  # inches per panel
ALONE = 3.4  # height in inches of a panel alone in its line
LINE = 0.18  # inches per line of the legend
SIZES = {"*": 46, "P": 26, "X": 26}  # square points per marker; the others:
SIZE = 20
STAR = 150  # square points, of a highlighted model's star


class Series(NamedTuple):
    """The points of one look, as indices into the panel's list."""

    group: Group
    marker: str
    members: list[int]
    star: bool = False


def draw_scatter(
    spec: Spec,
    contents: Sequence[Content],
    commands: Sequence[str],
    trends: Sequence[Sequence[Trend]] | None = None,
) -> Drawing:
    """A panel per `Content`, and one legend. Empty panels show the `commands` for rows.

    trends: of each panel with their intervals, where they are fitted already.
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
                fits = trends[k - 1] if trends is not None else _fitted(spec, content)
                drawing.names |= draw_panel(drawing, area, spec, content, fits, f"{spec.name}-{k}")
            else:
                say_missing(area, content, commands)
        title_axes(grid, [content.panel for content in contents], shown)
        figure.suptitle(spec.title, color=INK, size=11)
        set_legend(figure, entries)
        write_names(drawing.labels)
    return drawing


def _fitted(spec: Spec, content: Content) -> list[Trend]:
    return trends_of(spec, content, RESAMPLES if spec.difference else 0)  # lines show no interval


def draw_panel(
    drawing: Drawing, area: Axes, spec: Spec, content: Content, trends: Sequence[Trend], gid: str
) -> dict[str, list[str]]:
    """Returns the points' names by gid of their collection."""
    panel = content.panel
    assert panel.y is not None
    points = drawn(spec, content)
    x, y = bars_of(points, "x", panel.x.scale), bars_of(points, "y", panel.y.scale)
    names = {}
    for key, series in _series(spec, content).items():
        _draw_series(area, series, x, y, f"{gid}-{key}")
        names[f"{gid}-{key}"] = [said(points[i], panel) for i in series.members]
    limits = [ends(np.append(x.ends, x.at)), ends(np.append(y.ends, y.at))]  # the frame cuts no interval
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
    front = panel.front or PanelFront(())
    _draw_front(area, front, [point.model for point in points], x.at, y.at)
    draw_own(drawing, area, spec, points, x.at, y.at, front.line)
    return names


def _series(spec: Spec, content: Content) -> dict[str, Series]:
    pairs = [(group, shape) for group in spec.groups for shape in spec.shapes or [None]]
    by_key: dict[str, Series] = {}
    for star in (False, True):
        for group, shape in (*pairs, (YOURS, None)):
            marker = "*" if star else (shape or group).marker
            by_key[_key(group, shape, star)] = Series(group, marker, [], star)
    shown = ((point, look) for point, look in looks(spec, content) if look is not None)
    for i, (point, look) in enumerate(shown):
        by_key[_key(*look, point.model in spec.highlight)].members.append(i)
    # Groups with few points come last, so on top; stars after all others.
    filled = [(key, each) for key, each in by_key.items() if each.members]
    return dict(sorted(filled, key=lambda item: (item[1].star, -len(item[1].members))))


def _key(group: Group, shape: Group | None, star: bool) -> str:
    parts = [each.key for each in (group, shape) if each is not None]
    return "-".join([*parts, "star"] if star else parts)


def _draw_series(area: Axes, series: Series, all_x: Bars, all_y: Bars, gid: str) -> None:
    group, marker, members, star = series
    bars_x, bars_y = all_x.of(members), all_y.of(members)
    x, y = bars_x.at, bars_y.at
    for along_x, along_y in ((bars_x.ends, [y, y]), ([x, x], bars_y.ends)):
        area.plot(_broken(along_x), _broken(along_y), color=group.colour, linewidth=0.7, alpha=0.45, zorder=2)
    draw_cuts(area, "x", bars_x, y, group.colour)
    draw_cuts(area, "y", bars_y, x, group.colour)
    if star:
        star_look = {"facecolors": group.colour, "edgecolors": INK, "linewidths": 0.7, "zorder": 5.5}
        area.scatter(x, y, s=STAR, marker=marker, gid=gid, **star_look)
        return
    filled = {"facecolors": group.colour, "edgecolors": "white", "linewidths": 0.4}
    hollow = {"facecolors": "none", "edgecolors": group.colour, "linewidths": 0.6}
    look = {"zorder": 3, **filled} if group.filled else {"zorder": 2.5, **hollow}
    area.scatter(x, y, s=SIZES.get(marker, SIZE), marker=marker, gid=gid, **look)


def _broken(ends: ArrayLike) -> np.ndarray:
    """Segments [2, N] as one line with gaps: one path in the file, not N."""
    both = np.asarray(ends)
    return np.concatenate([both, np.full_like(both[:1], np.nan)]).T.ravel()


def _draw_fit(area: Axes, spec: Spec, trend: Trend, panel: Panel, gid: str) -> None:
    line, fit = trend.line, trend.fit
    if fit is None:
        return
    assert panel.y is not None
    across = np.array(fit.ends)
    at = transform(across, panel.x.scale), transform(fit.predict(across), panel.y.scale)
    edge = [withStroke(linewidth=2.6, foreground="white")]
    look = {"color": line_colour(spec, line), "linestyle": line.style, "linewidth": 1.3}
    area.plot(*at, zorder=4, gid=gid, path_effects=edge, **look)


def _draw_front(area: Axes, front: PanelFront, models: Sequence[str], x: np.ndarray, y: np.ndarray) -> None:
    """Draw the front as steps, and a cross on each model that is decidedly beaten."""
    if not (at := [models.index(model) for model in front.line if model in models]):
        return
    across, up = np.repeat(x[at], 2)[1:], np.repeat(y[at], 2)[:-1]
    area.plot(across, up, color=INK, linewidth=FRONT_WIDTH, zorder=3.5)
    beaten = [k for k, model in enumerate(models) if model in front.models(DOMINATED)]
    area.plot(x[beaten], y[beaten], "x", color=INK, markersize=4.5, markeredgewidth=0.7, zorder=4)


def _angle(spec: Spec, trends: Sequence[Trend]) -> str:
    difference = next(trend.difference for trend in trends if trend.line.key == spec.difference[0])
    tangent = None if difference is None else difference.tan
    if tangent is None:
        return ""
    limits = tangent.interval
    return f"tan Δ = {tangent.value:.2f}" + (f" [{limits['lo']:.2f}, {limits['hi']:.2f}]" if limits else "")
