"""Fine-tuning as figures: numbers by method, and interpolation between two models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from clipjax.analysis.figures.style import COLOURS, INK, QUIET, RC, limits_around, new_figure, save_figure
from clipjax.errors import DataError
from clipjax.results.row import AnyRow

Point = tuple[float, float]
_CORNERS = ((1, 1), (1, -1), (-1, 1), (-1, -1))


class FinetuningPanel(NamedTuple):
    """A panel of `methods_figure` and the number that it shows."""

    title: str
    task: str
    dataset: str
    metric: str
    slice: str | None = None

    def find(self, rows: Sequence[AnyRow], model: str) -> AnyRow | None:
        """The model's newest row of this number with a value, or None; `rows` are the oldest first."""
        wanted = (model, self.task, self.dataset, self.metric, self.slice)
        names = ("model", "task", "dataset", "metric", "slice")
        newest = (row for row in reversed(rows) if row["model"] == model and row["value"] is not None)
        return next((row for row in newest if tuple(row[name] for name in names) == wanted), None)


def methods_figure(
    rows: Sequence[AnyRow],
    base: str,
    models: Sequence[str],
    panels: Sequence[FinetuningPanel],
    out: str | Path,
) -> list[Path]:
    """A panel per number; a line per fine-tuned model, by method, top to bottom; `base` as a dashed line."""
    everyone = [base, *models]
    by_panel = {
        (panel, model): row for panel in panels for model in everyone if (row := panel.find(rows, model))
    }
    if not by_panel:
        raise DataError("no result row is one of the numbers of the figure: evaluate the models first")
    figure = new_figure(1.8 + 2.3 * len(panels), 1.2 + 0.3 * len(everyone))
    heights = {model: -number for number, model in enumerate(everyone)}
    with matplotlib.rc_context(RC):
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for panel, area in zip(panels, axes):
            here = [by_panel[panel, model] for model in everyone if (panel, model) in by_panel]
            for row in here:
                colour = QUIET if row["model"] == base else COLOURS[0]
                area.errorbar(
                    row["value"],
                    heights[row["model"]],
                    xerr=limits_around([row]),
                    fmt="D" if row["model"] == base else "o",
                    color=colour,
                    markersize=5,
                    capsize=2,
                )
            if (panel, base) in by_panel:
                area.axvline(by_panel[panel, base]["value"], color=QUIET, linestyle="--", linewidth=1)
            area.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            area.set_title(panel.title, loc="left")
            area.grid(visible=False, axis="y")
        axes[0].set_yticks(list(heights.values()), [_name(rows, model, base) for model in everyone])
        figure.supxlabel(f"of {base}, 95 % intervals; dashed: before", fontsize=9, color=INK)
    return save_figure(figure, out)


def _is_interpolated(row: AnyRow) -> bool:
    """Whether a row is the zero-shot accuracy of a model with an alpha."""
    is_accuracy = row["task"] == "zeroshot" and row["metric"] == "top1" and row["slice"] is None
    return is_accuracy and row["value"] is not None and _alpha(row) is not None


def alpha_figure(
    rows: Iterable[AnyRow], reference: str, out: str | Path, *, written: float | None = None
) -> list[Path]:
    """WiSE-FT's curve: accuracy on the fine-tuning data against accuracy on each shift, by alpha.

    Args:
        rows: zero-shot rows of interpolated models (alpha in their lineage).
        reference: the fine-tuning data.
        written: alpha of the model kept, shown with a ring.

    Raises:
        DataError: fewer than two alphas have an accuracy on `reference`, or no other data set has one.
    """
    by_alpha = {(row["dataset"], _alpha(row)): row for row in rows if _is_interpolated(row)}
    alphas = sorted({alpha for dataset, alpha in by_alpha if dataset == reference})  # type: ignore[type-var]
    shifts = sorted({dataset for dataset, _ in by_alpha} - {reference})
    if len(alphas) < 2 or not shifts:
        raise DataError(
            f"the curve needs accuracies of two alphas or more, on {reference} and on another data set"
        )
    figure = new_figure(5.4, 4.0)
    with matplotlib.rc_context(RC):
        area = figure.subplots()
        ringed, curves = [], list[tuple[dict[Any, Point], str]]()
        for k, dataset in enumerate(shifts):
            common = [alpha for alpha in alphas if (dataset, alpha) in by_alpha]
            points = {alpha: (by_alpha[reference, alpha], by_alpha[dataset, alpha]) for alpha in common}
            colour = COLOURS[k % len(COLOURS)]
            curves.append((_curve(area, points, colour, dataset), colour))
            if written in points:
                ringed.append(points[written])
        if ringed:
            x, y = ([pair[side]["value"] for pair in ringed] for side in (0, 1))
            ring = {"markersize": 9, "markerfacecolor": "none", "color": INK, "linestyle": "none"}
            area.plot(x, y, "o", label=f"alpha {written:g}, written", **ring)
        for axis in (area.xaxis, area.yaxis):
            axis.set_major_formatter(PercentFormatter(1.0))  # decimals as the ticks need
        area.margins(0.08)
        area.autoscale_view()  # pending until now: the names need the limits
        for placed, colour in curves:
            _name_alphas(area, placed, colour)
        area.set_xlabel(f"accuracy on {reference}")
        area.set_ylabel("accuracy on the shift, 95 % intervals")
        area.set_title("From the pretrained (alpha 0) to the fine-tuned model (1)", loc="left")
        figure.legend(loc="outside lower right", ncols=3, frameon=False, fontsize=8)
    return save_figure(figure, out)


def _curve(
    area: Axes, points: Mapping[Any, tuple[AnyRow, AnyRow]], colour: str, label: str
) -> dict[Any, Point]:
    """Draw the accuracies of each alpha as a line; returns each alpha's point (x, y)."""
    if not points:
        return {}
    across, up = (list(rows) for rows in zip(*points.values()))
    x, y = ([row["value"] for row in rows] for rows in (across, up))
    area.errorbar(x, y, yerr=limits_around(up), fmt="none", color=colour, alpha=0.35, linewidth=1)
    area.plot(x, y, "-o", color=colour, markersize=4, linewidth=1, label=label)
    return dict(zip(points, zip(x, y)))


def _name_alphas(area: Axes, points: Mapping[Any, Point], colour: str) -> None:
    """Write each alpha beside its point, in the corner furthest from the line. Needs the axes' limits."""
    places = area.transData.transform(list(points.values())) if points else np.empty((0, 2))
    ways = np.diff(places, axis=0)
    for k, (alpha, point) in enumerate(points.items()):
        onward, back = ways[k : k + 1], -ways[max(k - 1, 0) : k]  # the first and the last lack one
        away = np.concatenate([onward, back])
        away = away / np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-9)
        x, y = max(_CORNERS, key=lambda corner: -(away @ corner).max(initial=-1.0))
        area.annotate(
            f"{alpha:g}",
            point,
            xytext=(5 * x, 4 * y),
            textcoords="offset points",
            ha="left" if x > 0 else "right",
            va="bottom" if y > 0 else "top",
            fontsize=7,
            color=colour,
        )


def _alpha(row: AnyRow) -> float | None:
    return (row["model_facts"].get("lineage") or {}).get("alpha")


def _name(rows: Sequence[AnyRow], model: str, base: str) -> str:
    if model == base:
        return "before"
    facts = next((row["model_facts"] for row in rows if row["model"] == model), {})
    return str(facts.get("fine_tune") or model)
