"""One number of many models as a strip: a line of points a group, larger models larger points (Fig. 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from clipjax.analysis.axes import ends, set_axis
from clipjax.analysis.figure_spec import Panel, Spec
from clipjax.analysis.frame import Content, Drawing, axis_title, drawn, ends_of, said, say_missing
from clipjax.analysis.groups import group_of
from clipjax.analysis.points import Point, coordinates
from clipjax.analysis.scales import on_scale, transform
from clipjax.analysis.style import INK, NO_ROWS, QUIET, RC, new_figure

SMALLEST, LARGEST = 14, 120  # of markers, in square points
SPREAD = 0.3  # how far from their line points may stand, lines being 1 apart


def draw_strip(spec: Spec, contents: Sequence[Content], commands: Sequence[str]) -> Drawing:
    """A panel a number, a line a group of the scheme, from top to bottom in its order.

    Args:
        contents: one a panel of the spec, in its order.
        commands: what makes the missing rows, as an empty panel says it.
    """
    figure = new_figure(2.2 + 4.2 * len(contents), 1.6 + 0.42 * len(spec.groups))
    drawing = Drawing(figure)
    with matplotlib.rc_context(RC):
        grid = figure.subplots(1, len(contents), squeeze=False)[0]
        for k, (area, content) in enumerate(zip(grid, contents), 1):
            area.set_title(content.panel.title, loc="left", size=9)
            if drawn(spec, content):
                drawing.names |= _draw(area, spec, content, f"{spec.name}-{k}")
            else:
                say_missing(area, content, commands)
        figure.suptitle(spec.title, color=INK, size=11)
        bars = "bars: intervals of the numbers; lines: medians of the groups"
        figure.supxlabel(f"larger points: more parameters; {bars}" if spec.size else bars, size=8, color=INK)
    return drawing


def _draw(area: Axes, spec: Spec, content: Content, gid: str) -> dict[str, list[str]]:
    panel, names, labels, limits = content.panel, {}, [], []
    for height, group in enumerate(reversed(spec.groups)):
        members = [point for point in drawn(spec, content) if group_of(point.facts, spec.groups) is group]
        labels.append(f"{group.title} ({len(members)})" if members else f"{group.title}: no rows")
        if not members:
            area.axhline(height, color=NO_ROWS, linewidth=0.6, linestyle=":")
            continue
        x, at = _places(panel, members)
        y = height + SPREAD * _offsets(x)
        area.hlines(y, *at, color=group.colour, linewidth=0.7, alpha=0.45, zorder=2)
        middle = float(np.median(x))
        area.vlines(middle, height - 0.4, height + 0.4, color=group.colour, linewidth=1.6, zorder=2.5)
        colour = {"facecolors": group.colour, "edgecolors": "white", "linewidths": 0.5, "alpha": 0.85}
        sizes = _sizes([point.facts.get(spec.size) if spec.size else None for point in members])
        names[f"{gid}-{group.key}"] = [said(point, panel) for point in members]
        area.scatter(x, y, s=sizes, marker=group.marker, zorder=3, gid=f"{gid}-{group.key}", **colour)
        limits.append(x)
    area.set_yticks(range(len(labels)), labels)
    for tick, label in zip(area.get_yticklabels(), labels):
        tick.set_color(QUIET if label.endswith("no rows") else INK)
    area.set_ylim(-0.6, len(labels) - 0.4)
    set_axis(area, "x", ends(np.concatenate(limits)), panel.x.scale, panel.x.unit)
    area.set_xlabel(axis_title(panel.x))
    area.grid(visible=False, axis="y")
    return names


def _places(panel: Panel, members: Sequence[Point]) -> tuple[np.ndarray, np.ndarray]:
    """x [N] and the ends of the intervals [2, N] on the panel's scale."""
    value, _, n, _ = coordinates(members)
    limits = np.array([ends_of(member, "x") for member in members]).T
    at = transform(on_scale(limits, panel.x.scale), panel.x.scale, np.stack([n, n]))
    return transform(value, panel.x.scale, n), at


def _offsets(x: np.ndarray) -> np.ndarray:
    """-1 to 1: neighbours in x stand apart, the same values always in the same way."""
    steps = np.array([0, 0.6, -0.6, 0.3, -0.3, 0.9, -0.9]) if len(x) > 3 else np.zeros(1)
    found = np.empty(len(x))
    found[np.argsort(x, kind="stable")] = np.resize(steps, len(x))
    return found


def _sizes(facts: Sequence[Any]) -> list[float]:
    """Areas that grow with the fact within the group, by rank; the middle where it is not known."""
    known = sorted({fact for fact in facts if isinstance(fact, int | float)})
    step = (LARGEST - SMALLEST) / max(len(known) - 1, 1)
    middle = (SMALLEST + LARGEST) / 3
    return [SMALLEST + step * known.index(f) if f in known and len(known) > 1 else middle for f in facts]
