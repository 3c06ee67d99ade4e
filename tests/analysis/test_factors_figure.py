"""The figure of visual factors, from planted rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clipjax.analysis.factors import factor_figure
from clipjax.errors import DataError


def row(model: str, factor: str, value: float | None, metric: str = "error_ratio") -> dict[str, Any]:
    interval = None if value is None else {"lo": 0.5 * value, "hi": 2 * value}
    place = f"top/filtered/factor:{factor}"
    return {"model": model, "metric": metric, "slice": place, "value": value, "interval": interval, "n": 12}


def test_the_figure_is_written_and_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    rows = [row("a", "pose", 1.2), row("b", "pose", 0.0), row("a", "object_blocking", 3.0)]
    rows += [row("b", "object_blocking", None), {**row("a", "pose", 1.0, "ece"), "slice": None}]
    first = factor_figure(rows, tmp_path / "one")
    second = factor_figure(rows, tmp_path / "two")
    assert [path.name for path in first] == ["one.png", "one.pdf"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    others = factor_figure([*rows, row("c", "pose", 9.0)], tmp_path / "three")
    assert others[0].read_bytes() != first[0].read_bytes()


def test_rows_without_factors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="multi/kept: run `clipjax eval imagenet_x`"):
        factor_figure([row("a", "pose", 1.2)], tmp_path / "one", variant="multi/kept")
