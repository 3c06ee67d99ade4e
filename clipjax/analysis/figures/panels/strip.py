"""One number of many models: a line of points per group, sized by `spec.size` (Fig. 2)."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from clipjax.analysis.figures.frame import (
    BARS,
    CUT,
    Content,
    Drawing,
    axis_title,
    bars_of,
    draw_cuts,
    draw_own,
    drawn,
    has_bars,
    has_cut,
    looks,
    said,
    say_missing,
)
from clipjax.analysis.figures.labels import write_names
from clipjax.analysis.figures.panels.axes import ends, set_axis
from clipjax.analysis.figures.spec import Panel, Spec
from clipjax.analysis.figures.style import INK, NO_ROWS, QUIET, RC, new_figure
from clipjax.analysis.figures.yours import STATED, YOURS, is_stated
from clipjax.analysis.rows.groups import Group
from clipjax.analysis.rows.points import Point
from clipjax.analysis.rows.scales import ends_on_scale, transform
from clipjax.results.row import Row

SMALLEST, LARGEST = 14, 120  # of markers, in square points
STAR = 190  # square points, of a highlighted model's star
LINE = 90  # characters per line below a panel
SPREAD = 0.3  # largest distance of points from their line; lines are 1 apart


def draw_strip(spec: Spec, contents: Sequence[Content], commands: Sequence[str]) -> Drawing:
    """A panel per `Content`, a line per group, top to bottom. Empty panels show the `commands` for rows."""
    groups = _lines(spec, contents)
    figure = new_figure(2.2 + 4.2 * len(contents), 1.6 + 0.42 * len(groups))
    drawing = Drawing(figure)
    with matplotlib.rc_context(RC):
        grid = figure.subplots(1, len(contents), squeeze=False)[0]
        for k, (area, content) in enumerate(zip(grid, contents), 1):
            area.set_title(content.panel.title, loc="left", size=9)
            if drawn(spec, content):
                drawing.names |= _draw(drawing, area, spec, content, groups, f"{spec.name}-{k}")
            else:
                say_missing(area, content, commands)
        figure.suptitle(spec.title, color=INK, size=11)
        figure.supxlabel(_explained(spec, contents), size=8, color=INK)
        write_names(drawing.labels)
    return drawing


def _lines(spec: Spec, contents: Sequence[Content]) -> list[Group]:
    shown = [look[0] for content in contents for _, look in looks(spec, content) if look is not None]
    return [*spec.groups, *([YOURS] if any(group is YOURS for group in shown) else [])]


def _explained(spec: Spec, contents: Sequence[Content]) -> str:
    shown = [point for content in contents for point in drawn(spec, content)]
    parts = ["larger points: more parameters"] if spec.size else []
    parts += [BARS] if has_bars(shown) else []
    parts += ["lines: medians of the groups"]
    parts += [
        people_in_words(each.people) for each in contents if each.people is not None and drawn(spec, each)
    ]
    parts += [CUT] if any(has_cut(spec, content) for content in contents) else []
    parts += ["star: highlighted"] if any(point.model in spec.highlight for point in shown) else []
    parts += [f"ring: {STATED}"] if any(is_stated(point.facts) for point in shown) else []
    return "\n".join(textwrap.wrap("; ".join(dict.fromkeys(parts)), LINE * len(contents)))


def people_in_words(row: Row) -> str:
    images = "" if row["n"] is None else f" on {row['n']:,} images"
    value, limits = f"{row['value']:.3f}", row["interval"]
    if limits is None:
        return f"black line: mean of {row['model_facts']['people']} people{images}, {value}"
    band = (
        f"band: {100 * limits['level']:g} % interval across people, {limits['lo']:.3f} to {limits['hi']:.3f}"
    )
    return f"black line: mean of {row['model_facts']['people']} people{images}, {value} ({band})"


def _draw(
    drawing: Drawing, area: Axes, spec: Spec, content: Content, groups: Sequence[Group], gid: str
) -> dict[str, list[str]]:
    panel, names, labels, limits = content.panel, {}, [], []
    own: list[tuple[list[Point], np.ndarray, np.ndarray]] = []
    shown = [(point, look[0]) for point, look in looks(spec, content) if look is not None]
    for height, group in enumerate(reversed(groups)):
        members = [point for point, of in shown if of is group]
        labels.append(f"{group.title} ({len(members)})" if members else f"{group.title}: no models")
        if not members:
            area.axhline(height, color=NO_ROWS, linewidth=0.6, linestyle=":")
            continue
        bars = bars_of(members, "x", panel.x.scale)
        x = bars.at
        y = height + SPREAD * _offsets(x)
        area.hlines(y, *bars.ends, color=group.colour, linewidth=0.7, alpha=0.45, zorder=2)
        draw_cuts(area, "x", bars, y, group.colour)
        middle = float(np.median(x))
        area.vlines(middle, height - 0.4, height + 0.4, color=group.colour, linewidth=1.6, zorder=2.5)
        names |= _draw_points(area, spec, panel, group, members, x, y, f"{gid}-{group.key}")
        own.append((members, x, y))
        limits += [x, *bars.ends]  # the frame cuts no interval
    if content.people is not None:
        limits.append(_draw_people(area, content.people, panel.x.scale))
    area.set_yticks(range(len(labels)), labels)
    for tick, label in zip(area.get_yticklabels(), labels):
        tick.set_color(QUIET if label.endswith(": no models") else INK)
    area.set_ylim(-0.6, len(labels) - 0.4)
    set_axis(area, "x", ends(np.concatenate(limits)), panel.x.scale, panel.x.unit)
    for members, x, y in own:
        draw_own(drawing, area, spec, members, x, y)
    area.set_xlabel(axis_title(panel.x))
    area.grid(visible=False, axis="y")
    return names


def _draw_people(area: Axes, row: Row, scale: str) -> np.ndarray:
    """Returns the coordinates that the axis must show."""
    interval = row["interval"] or {"lo": row["value"], "hi": row["value"]}
    ends = np.array([[interval["lo"]], [interval["hi"]]])
    at, band = transform(np.array([row["value"]]), scale, row["n"]), ends_on_scale(ends, scale)[0][:, 0]
    area.axvspan(*band, color=QUIET, alpha=0.25, linewidth=0, zorder=0.5)
    area.axvline(float(at[0]), color=INK, linewidth=1.2, zorder=1.5)
    return np.concatenate([at, band])


def _draw_points(
    area: Axes,
    spec: Spec,
    panel: Panel,
    group: Group,
    members: Sequence[Point],
    x: np.ndarray,
    y: np.ndarray,
    gid: str,
) -> dict[str, list[str]]:
    sizes = _sizes([point.facts.get(spec.size) if spec.size else None for point in members])
    starred = [point.model in spec.highlight for point in members]
    looks_of: dict[bool, dict[str, Any]] = {
        False: {"marker": group.marker, "edgecolors": "white", "linewidths": 0.5, "alpha": 0.85, "zorder": 3},
        True: {"marker": "*", "edgecolors": INK, "linewidths": 0.7, "zorder": 5.5},
    }
    names = {}
    for star, look in looks_of.items():
        if some := [k for k, is_star in enumerate(starred) if is_star is star]:
            name = f"{gid}-star" if star else gid
            names[name] = [said(members[k], panel) for k in some]
            size = STAR if star else [sizes[k] for k in some]
            area.scatter(x[some], y[some], s=size, facecolors=group.colour, gid=name, **look)
    return names


def _offsets(x: np.ndarray) -> np.ndarray:
    """-1 to 1, so that neighbours in x stand apart; not random: a rerun draws the same figure."""
    steps = np.array([0, 0.6, -0.6, 0.3, -0.3, 0.9, -0.9]) if len(x) > 3 else np.zeros(1)
    offsets = np.empty(len(x))
    offsets[np.argsort(x, kind="stable")] = np.resize(steps, len(x))
    return offsets


def _sizes(facts: Sequence[Any]) -> list[float]:
    """Marker areas by the fact's rank; medium if unknown."""
    known = sorted({fact for fact in facts if isinstance(fact, int | float)})
    middle = (SMALLEST + LARGEST) / 3
    if len(known) < 2:
        return [middle] * len(facts)
    step = (LARGEST - SMALLEST) / (len(known) - 1)
    return [SMALLEST + step * known.index(fact) if fact in known else middle for fact in facts]
