"""Balance as a figure: a bar a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clipjax.analysis.figures.style import new_figure, save_figure


def balance_figure(rows: Sequence[dict[str, Any]], out: str | Path) -> list[Path]:
    """How even the answers of each model are; returns the files written."""
    shown = [row for row in rows if row["metric"] == "evenness"]
    figure = new_figure(4.0, 1.0 + 0.3 * len(shown))
    panel = figure.subplots()
    panel.barh([row["model"] for row in shown], [row["value"] for row in shown])
    panel.set_xlabel("evenness of the answers")
    return save_figure(figure, out)


FIGURES = {"balance": lambda rows, images, out: balance_figure(rows, out)}
