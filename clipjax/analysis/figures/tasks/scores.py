"""Figures of a `calibration` or `ood` run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from clipjax.analysis.figures.style import COLOURS, INK, QUIET, RC, limits_around, new_figure, save_figure
from clipjax.errors import DataError
from clipjax.results.row import AnyRow

STATES = ("before", "after")
NAMES = {
    "mcm": "MCM",
    "msp": "MSP",
    "max_logit": "largest logit",
    "energy": "energy",
    "energy_cosine": "energy of cosines",
    "negative_entropy": "negative entropy",
    "knn": "KNN",
    "mahalanobis": "Mahalanobis",
    "relative_mahalanobis": "relative Mahalanobis",
    "vim": "ViM",
}


def reliability_figure(rows: Sequence[AnyRow], out: str | Path) -> list[Path]:
    """Accuracy by confidence, before and after temperature scaling; below, the bins' sizes."""
    bins = {state: _bins(rows, state) for state in STATES}
    shown = [state for state in STATES if bins[state]]
    if not shown:
        raise DataError("no result row is of a reliability diagram: run `clipjax eval calibration`")
    figure = new_figure(0.8 + 3.2 * len(shown), 4.2)
    with matplotlib.rc_context(RC):
        panels = figure.subplots(
            2, len(shown), sharex=True, sharey="row", squeeze=False, height_ratios=[3, 1]
        )
        for state, (above, below) in zip(shown, panels.T):
            _reliability_panel(above, bins[state])
            total = sum(accuracy["n"] for _, accuracy, _ in bins[state])
            for k, accuracy, of in bins[state]:
                below.bar((k - 0.5) / of, accuracy["n"] / total, 1 / of, color=QUIET, edgecolor="white")
            below.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            below.set_xlabel("confidence")
            above.set_title(_title(rows, state), loc="left", size=9)
        panels[0, 0].set_ylabel("accuracy")
        panels[1, 0].set_ylabel("images")
        figure.suptitle(f"{rows[0]['model']} on {rows[0]['dataset']}", color=INK)
    return save_figure(figure, out)


def _bins(rows: Sequence[AnyRow], state: str) -> list[tuple[int, AnyRow, int]]:
    """(number of the bin, its row, number of bins)."""
    start, bins = f"reliability/{state}/bin:", []
    for row in rows:
        if (row["slice"] or "").startswith(start) and row["metric"] == "accuracy":
            k, of = row["slice"].removeprefix(start).split("/")
            bins.append((int(k), row, int(of)))
    return bins


def _reliability_panel(panel: Axes, bins: Sequence[tuple[int, AnyRow, int]]) -> None:
    panel.plot([0, 1], [0, 1], color=QUIET, linestyle="--", linewidth=1)
    for k, row, of in bins:
        panel.bar(
            (k - 0.5) / of,
            row["value"],
            1 / of,
            color=COLOURS[0],
            alpha=0.75,
            edgecolor="white",
            yerr=limits_around([row]),
            error_kw={"ecolor": INK, "elinewidth": 0.8, "capsize": 1.5},
        )
    panel.set_xlim(0, 1)
    panel.set_ylim(0, 1)


def _title(rows: Sequence[AnyRow], state: str) -> str:
    whole = {row["metric"]: row["value"] for row in rows if row["slice"] is None}
    words = "before" if state == "before" else f"after, T = {whole['temperature']:.3g}"
    null = next((row["interval"] for row in rows if row["metric"] == f"null_ece_15_{state}"), None)
    # Older rows have none.
    beside = "" if null is None else f"\n(calibrated: ECE up to {null['hi']:.1%})"
    return f"{words}: ECE {whole[f'ece_15_{state}']:.1%}, NLL {whole[f'nll_{state}']:.3f}{beside}"


def ood_figure(rows: Sequence[AnyRow], images: Mapping[str, Any], out: str | Path) -> list[Path]:
    """Histograms of every score, in- against out-of-distribution, with AUROC and the 95 % threshold.

    `images`: the run's per-image table, column -> values.
    """
    scores = [name for name in NAMES if name in images]
    if not scores or "in_distribution" not in images:
        raise DataError("the per-image table has no OOD scores: run `clipjax eval ood`")
    inside = np.asarray(images["in_distribution"], bool)
    areas = {row["slice"]: row for row in rows if row["metric"] == "auroc"}
    wide = min(3, len(scores))
    tall = -(-len(scores) // wide)
    figure = new_figure(0.6 + 2.8 * wide, 0.9 + 2.1 * tall)
    with matplotlib.rc_context(RC):
        panels = figure.subplots(tall, wide, squeeze=False).ravel()
        for panel, name in zip(panels, scores):
            _score_panel(panel, np.asarray(images[name], np.float64), inside)
            panel.set_title(f"{NAMES[name]}: {_area(areas.get(f'score:{name}'))}", loc="left", size=8)
        for panel in panels[::wide]:
            panel.set_ylabel("density of images")
        for panel in panels[len(scores) :]:
            panel.set_visible(False)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower right", ncols=3, frameon=False)
        figure.suptitle(f"{rows[0]['model']} on {rows[0]['dataset']}", color=INK)
    return save_figure(figure, out)


def _area(row: AnyRow | None) -> str:
    if row is None or row["value"] is None:
        return "no AUROC"
    limits = row["interval"]
    return f"AUROC {row['value']:.3f}" + (f" [{limits['lo']:.3f}, {limits['hi']:.3f}]" if limits else "")


def _score_panel(panel: Axes, values: np.ndarray, inside: np.ndarray) -> None:
    edges = np.histogram_bin_edges(values, 40)
    sides = (("in distribution", inside, COLOURS[0]), ("out of distribution", ~inside, COLOURS[1]))
    for name, mask, colour in sides:
        label = f"{name} (n = {int(mask.sum()):,})"
        panel.hist(values[mask], edges.tolist(), density=True, color=colour, alpha=0.55, label=label)
    threshold = float(np.quantile(values[inside], 0.05))
    panel.axvline(threshold, color=QUIET, linestyle="--", linewidth=1, label="95 % of ID images above")
    panel.set_yticks([])
    panel.ticklabel_format(useOffset=False)
    panel.locator_params(axis="x", nbins=6, min_n_ticks=5)
    panel.tick_params(labelsize=7)
    panel.grid(visible=False)


FIGURES = {
    "calibration": lambda rows, images, out: reliability_figure(rows, out),
    "ood": lambda rows, images, out: ood_figure(rows, images(), out),
}
