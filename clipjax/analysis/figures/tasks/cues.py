"""Shape bias as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.ticker import PercentFormatter

from clipjax.analysis.figures.style import COLOURS, RC, draw_points, explain_hollow, new_figure, save_figure
from clipjax.errors import DataError
from clipjax.results.row import AnyRow

_CLASS = "class:"  # how the slice of a category begins


def shape_bias_figure(rows: Sequence[AnyRow], out: str | Path) -> list[Path]:
    """Per category with interval, a marker per model; lines: over all images."""
    biases = [row for row in rows if row["metric"] == "shape_bias" and row["value"] is not None]
    of_all = [row for row in biases if row["slice"] is None]
    parts = [row for row in biases if (row["slice"] or "").startswith(_CLASS)]
    if not parts:
        raise DataError("no result row is the shape bias of a category: run `clipjax eval shape_bias`")
    models = list(dict.fromkeys(row["model"] for row in parts))
    categories = sorted({row["slice"] for row in parts}, reverse=True)
    figure = new_figure(6.0, 1.4 + 0.28 * len(categories))
    with matplotlib.rc_context(RC):
        panel = figure.subplots()
        for k, model in enumerate(models):
            # Models stand one below the other within half of a category's height, the first on top.
            shift = 0.5 * (k - (len(models) - 1) / 2) / len(models)
            own = [row for row in parts if row["model"] == model]
            heights = [categories.index(row["slice"]) - shift for row in own]
            draw_points(panel, own, heights, k, model)
            for row in of_all:
                if row["model"] == model:
                    panel.axvline(row["value"], color=COLOURS[k % len(COLOURS)], linestyle="--", linewidth=1)
        explain_hollow(panel, parts)
        panel.set_yticks(range(len(categories)), [name.removeprefix(_CLASS) for name in categories])
        panel.set_xlim(-0.02, 1.02)
        panel.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        panel.set_xlabel("shape bias: decisions for the shape / for the shape or the other cue")
        panel.set_title("Shape bias of each category (markers) and of all images (lines)", loc="left")
        panel.grid(visible=False, axis="y")
        figure.legend(loc="outside lower right", ncols=3, frameon=False)
    return save_figure(figure, out)


FIGURES = {"shape_bias": lambda rows, images, out: shape_bias_figure(rows, out)}
