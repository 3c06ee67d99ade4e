"""Visual factors as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

from clipjax.analysis.figures.style import QUIET, RC, draw_points, explain_hollow, new_figure, save_figure
from clipjax.errors import DataError
from clipjax.results.row import AnyRow


def factor_figure(rows: Sequence[AnyRow], out: str | Path, variant: str = "top/filtered") -> list[Path]:
    """Error ratios with intervals: a line per factor, hardest on top, a marker per model.

    `variant` of the annotations: see `clipjax.tasks.imagenet_x`.
    """
    ratios = _ratios(rows, f"{variant}/factor:")
    if not ratios:
        raise DataError(f"no result row is an error ratio of {variant}: run `clipjax eval imagenet_x`")
    models, factors = list(dict.fromkeys(model for model, _ in ratios)), _by_difficulty(ratios)
    figure = new_figure(7.0, 1.4 + 0.38 * len(factors))
    with matplotlib.rc_context(RC):
        panel = figure.subplots()
        for k, model in enumerate(models):
            shift = 0.5 * (k - (len(models) - 1) / 2) / len(models)
            points = [(i - shift, ratios[model, f]) for i, f in enumerate(factors) if (model, f) in ratios]
            draw_points(panel, [row for _, row in points], [height for height, _ in points], k, model)
        explain_hollow(panel, list(ratios.values()))
        panel.axvline(1, color=QUIET, linestyle="--", linewidth=1)
        panel.set_yticks(range(len(factors)), [_label(factor, ratios) for factor in factors])
        panel.set_xlim(left=0)
        panel.set_xlabel("error with the factor / average error (1: no harder than the average image)")
        panel.set_title("Visual factors, in brackets their images", loc="left")
        panel.grid(visible=False, axis="y")
        figure.legend(loc="outside lower right", ncols=3, frameon=False)
    return save_figure(figure, out)


def _ratios(rows: Sequence[AnyRow], start: str) -> dict[tuple[str, str], AnyRow]:
    """Error ratios by (model, factor)."""
    return {
        (row["model"], row["slice"].removeprefix(start)): row
        for row in rows
        if row["metric"] == "error_ratio" and row["value"] is not None and row["slice"].startswith(start)
    }


def _by_difficulty(ratios: dict[tuple[str, str], AnyRow]) -> list[str]:
    """Lowest mean ratio first."""
    of_factor: dict[str, list[float]] = {}
    for (_, factor), row in ratios.items():
        of_factor.setdefault(factor, []).append(row["value"])
    return sorted(of_factor, key=lambda factor: sum(of_factor[factor]) / len(of_factor[factor]))


def _label(factor: str, ratios: dict[tuple[str, str], AnyRow]) -> str:
    images = max(row["n"] for (_, name), row in ratios.items() if name == factor)
    return f"{factor.replace('_', ' ')} ({images:,})"


FIGURES = {"imagenet_x": lambda rows, images, out: factor_figure(rows, out)}
