"""The picture of a gate's history: differences with their one-sided limits, checkpoint by checkpoint."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from clipjax.analysis.figures.style import COLOURS, INK, QUIET, RC, new_figure, save_figure
from clipjax.gates.history import History, Judgement, Measured, Verdict

FILE = "history.svg"
# Marker, colour and filling of a point.
LOOKS: dict[Verdict, tuple[str, str, bool]] = {
    "pass": ("o", COLOURS[0], True),
    "fail": ("s", COLOURS[1], True),
    "undecided": ("D", QUIET, False),
}
MOST_NAMES = 12  # below a panel

_Point = tuple[Judgement, Measured]


def draw_history(history: History, folder: Path) -> Path:
    """Write history.svg of a gate that has judged a checkpoint; returns its path.

    Raises DataError if it cannot be written.
    """
    panels: dict[tuple[str, ...], list[_Point]] = {}
    for judgement in history.judged:
        for each in judgement.measured:
            way = str(each.convention.get("prompts")), str(each.precision)
            panels.setdefault((each.condition, each.task, each.dataset, *way), []).append((judgement, each))
    width = max(5.0, 2.0 + 0.45 * len(history.judged))
    figure = new_figure(width, 1.2 + 2.1 * len(panels))
    with matplotlib.rc_context(RC):
        areas = figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
        for area, points in zip(areas, panels.values()):
            _draw(area, points)
        _name(areas[-1], history)
        title = f"Against {history.terms.pinned.model}, alpha {history.terms.alpha:g} in all"
        figure.suptitle(title, color=INK, size=11)
        figure.legend(handles=_legend(), loc="outside lower center", ncols=4, frameon=False)
    return save_figure(figure, folder / FILE, ["svg"])[0]


def _draw(area: Axes, points: list[_Point]) -> None:
    first = points[0][1]
    area.set_title(f"{first.condition}: {first.task} on {first.dataset}", loc="left", size=9)
    area.axhline(0, color=QUIET, linewidth=0.8)
    area.axhline(first.above, color=INK, linewidth=1.2, linestyle="--")
    for judgement, each in points:
        marker, colour, filled = LOOKS[each.verdict]
        area.errorbar(
            judgement.number,
            each.difference,
            yerr=[[each.difference - each.lower], [0]],
            fmt=marker,
            color=colour,
            markerfacecolor=colour if filled else "white",
            markersize=6,
            capsize=3,
        )
    area.set_ylabel("difference")


def _name(area: Axes, history: History) -> None:
    step = -(-len(history.judged) // MOST_NAMES)
    shown = history.judged[::step]
    area.set_xticks([each.number for each in shown], [each.model for each in shown], rotation=30, ha="right")
    area.set_xlim(0.5, len(history.judged) + 0.5)


def _legend() -> list[Line2D]:
    lines = [
        Line2D(
            [], [], marker=marker, color=colour, markerfacecolor=colour if filled else "white", label=verdict
        )
        for verdict, (marker, colour, filled) in LOOKS.items()
    ]
    return [*lines, Line2D([], [], color=INK, linestyle="--", label="must be above")]
