"""The figures of visual factors and of shape bias, from planted rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from typer.testing import CliRunner

from clipjax.analysis.figures.tasks import cues, factors
from clipjax.analysis.figures.tasks.cues import shape_bias_figure
from clipjax.analysis.figures.tasks.factors import factor_figure
from clipjax.cli import app
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


def drawn(monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, Any]]) -> Any:
    """The panel that `factor_figure` draws."""
    saved: list[Any] = []
    monkeypatch.setattr(factors, "save_figure", lambda figure, out: saved.append(figure) or [])
    factor_figure(rows, "unused")
    return saved[0].axes[0]


@pytest.mark.parametrize(
    ("notes", "said"),
    [
        (["no interval: no resample errs"] * 2, "no interval: no resample errs"),
        (["no interval: no resample errs", None], "no interval"),
        ([None, None], "no interval"),
    ],
)
def test_a_point_without_an_interval_is_hollow_and_the_legend_says_why(
    monkeypatch: pytest.MonkeyPatch, notes: list[str | None], said: str
) -> None:
    bare = [{**row("a", f"f{k}", 2.0 + k), "interval": None, "note": note} for k, note in enumerate(notes)]
    panel = drawn(monkeypatch, [row("a", "pose", 1.2), *bare, row("b", "pose", 1.5)])
    hollow = [line for line in panel.lines if line.get_markerfacecolor() == "white" and len(line.get_xdata())]
    assert [sorted(line.get_xdata()) for line in hollow] == [[2.0, 3.0]]
    assert panel.get_legend_handles_labels()[1] == ["a", "b", said]
    whole = drawn(monkeypatch, [row("a", "pose", 1.2)])
    assert whole.get_legend_handles_labels()[1] == ["a"]


def test_rows_without_factors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="multi/kept: run `clipjax eval imagenet_x`"):
        factor_figure([row("a", "pose", 1.2)], tmp_path / "one", variant="multi/kept")


def test_shape_bias_of_categories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bias(model: str, part: str | None, value: float | None) -> dict[str, Any]:
        return {**row(model, "", value, "shape_bias"), "slice": part}

    rows = [bias("a", "class:bear", 0.25), bias("a", "class:car", None), bias("a", None, 0.5)]
    [png, pdf] = shape_bias_figure(rows, tmp_path / "cues")
    assert (png.name, pdf.name) == ("cues.png", "cues.pdf")
    moved = shape_bias_figure([*rows[:2], bias("a", None, 0.4)], tmp_path / "moved")
    assert moved[0].read_bytes() != png.read_bytes(), "the line of all images is drawn"
    with pytest.raises(DataError, match="run `clipjax eval shape_bias`"):
        shape_bias_figure(rows[2:], tmp_path / "none")
    drawn: list[Figure] = []
    monkeypatch.setattr(cues, "save_figure", lambda figure, _: drawn.append(figure))
    shape_bias_figure(rows, tmp_path)
    panel = drawn[0].axes[0]
    assert panel.get_title("left").startswith("Shape bias of each category (markers)"), "it has a subject"


@pytest.mark.usefixtures("unpainted")
def test_the_command_draws_such_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = {
        "imagenet_x": [row("a", "pose", 1.2)],
        "shape_bias": [{**row("a", "", 0.25, "shape_bias"), "slice": "class:bear"}],
    }

    class Store:
        def __init__(self, root: Path) -> None:
            pass

        def check_root(self, *, exists: bool) -> None:
            pass

        def run_ids(self) -> list[str]:
            return list(runs)

        def left_out(self) -> list[str]:
            return []

        def run(self, name: str) -> list[dict[str, Any]]:
            return [{"task": name, "dataset": "d", **one} for one in runs[name]]

    monkeypatch.setattr("clipjax.results.store.ResultStore", Store)
    monkeypatch.chdir(tmp_path)
    for name in runs:
        done = CliRunner().invoke(app, ["results", "plot", name])
        assert done.output.split() == [f"{name}-d.png", f"{name}-d.pdf"]
        assert (tmp_path / f"{name}-d.png").is_file()
