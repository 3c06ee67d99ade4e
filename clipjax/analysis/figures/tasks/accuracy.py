"""Accuracy of models as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from clipjax.analysis.figures.style import COLOURS, INK, QUIET, RC, limits_around, new_figure, save_figure
from clipjax.errors import DataError
from clipjax.results.row import AnyRow

# metric -> (name in the legend, marker, whether it is filled)
_ACCURACIES = {"top1": ("top-1", "o", True), "top5": ("top-5", "s", False)}

# Width of a label such as "12.3%" with margins, as a share of an axis from 0 to 1.
LABEL = 0.14


def accuracy_figure(rows: Sequence[AnyRow], out: str | Path) -> list[Path]:
    """A panel per data set, a line per model with intervals, best on top.

    Shows "top1" and "top5" of whole data sets. Per-class rows give the line of chance.
    """
    accuracies = [row for row in rows if row["metric"] in _ACCURACIES and row["slice"] is None]
    shown = [row for row in accuracies if row["value"] is not None]
    if not shown:
        raise DataError("no result row is the accuracy of a whole data set: run `clipjax eval zeroshot`")
    models = _by_accuracy(shown)
    datasets = list(dict.fromkeys(row["dataset"] for row in shown))
    figure = new_figure(2.0 + 4.2 * len(datasets), 1.5 + 0.42 * len(models))
    with matplotlib.rc_context(RC):
        panels = figure.subplots(1, len(datasets), sharey=True, squeeze=False)[0]
        for panel, dataset in zip(panels, datasets):
            here = [row for row in shown if row["dataset"] == dataset]
            _accuracy_panel(panel, here, models, _classes(rows, dataset))
            panel.set_title(f"{dataset} (n = {max(row['n'] for row in here):,})", loc="left")
        panels[0].set_yticks(range(len(models)), models)
        panels[0].set_ylim(-0.6, len(models) - 0.4)
        # Panels share their names (those without classes lack "chance"): the legend has each once.
        legend = {}
        for panel in panels:
            handles, names = panel.get_legend_handles_labels()
            legend |= zip(names, handles)
        figure.legend(legend.values(), legend.keys(), loc="outside lower right", ncols=3, frameon=False)
    return save_figure(figure, out)


def _accuracy_panel(panel: Axes, rows: Sequence[AnyRow], models: Sequence[str], classes: int) -> None:
    chance = 1 / classes if classes else None
    for colour, (metric, (name, marker, filled)) in zip(COLOURS, _ACCURACIES.items()):
        points = [row for row in rows if row["metric"] == metric]
        if not points:
            continue
        values = [row["value"] for row in points]
        heights = [models.index(row["model"]) for row in points]
        panel.errorbar(
            values,
            heights,
            xerr=limits_around(points),
            fmt=marker,
            color=colour,
            markerfacecolor=colour if filled else "white",
            capsize=3,
            label=f"{name}, 95 % interval",
        )
        if metric == "top1":
            for value, height in zip(values, heights):
                _value_label(panel, value, height, chance)
    if chance is not None:
        panel.axvline(chance, color=QUIET, linestyle="--", linewidth=1, label="chance")
    panel.set_xlim(0, 1.03)
    panel.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    panel.set_xlabel("zero-shot accuracy" + (f" (chance: 1 of {classes})" if classes else ""))
    panel.grid(visible=False, axis="y")


def _value_label(panel: Axes, value: float, height: int, chance: float | None) -> None:
    """Above its marker, or beside the line of chance where they would overlap."""
    crossed = chance is not None and abs(value - chance) < LABEL / 2
    panel.annotate(
        f"{value:.1%}",
        (chance if crossed else value, height),
        xytext=(3 if crossed else 0, 7),
        textcoords="offset points",
        ha="left" if crossed else "center",
        color=INK,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8},
    )


def _by_accuracy(rows: Sequence[AnyRow]) -> list[str]:
    """Lowest best accuracy first."""
    best: dict[str, float] = {}
    for row in rows:
        if row["metric"] == "top1":
            best[row["model"]] = max(row["value"], best.get(row["model"], 0.0))
    return sorted(best, key=best.__getitem__)


def _classes(rows: Sequence[AnyRow], dataset: str) -> int:
    return len({row["slice"] for row in rows if _is(row, dataset=dataset, metric="class_accuracy")})


def _is(row: AnyRow, **wanted: Any) -> bool:
    return all(row[name] == value for name, value in wanted.items())
