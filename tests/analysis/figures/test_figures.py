"""Figures are drawn from result rows and look as they should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from clipjax.analysis.figures.tasks import accuracy as figures
from clipjax.analysis.figures.tasks.accuracy import accuracy_figure
from clipjax.errors import DataError


def row(model: str, metric: str, value: float | None, **other: Any) -> dict[str, Any]:
    interval = None if value is None else {"lo": value - 0.1, "hi": value + 0.05}
    return {
        "model": model,
        "dataset": "demo_val",
        "metric": metric,
        "value": value,
        "interval": interval,
        "n": 1200,
        "slice": None,
        **other,
    }


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    table = []
    for model, top1 in (("base", 0.9), ("narrow", 0.3), ("small", 0.6)):
        table += [row(model, "top1", top1), row(model, "top5", 0.94)]
        table += [row(model, "class_accuracy", top1, slice=f"class:{k}") for k in range(10)]
        table += [row(model, "top1", 0.5, slice="half:0"), row(model, "mean_per_class", top1)]
    return table


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that is saved while the test runs."""
    saved: list[Figure] = []
    real = figures.save_figure
    monkeypatch.setattr(figures, "save_figure", lambda figure, out: saved.append(figure) or real(figure, out))
    return saved


def test_accuracy_figure(rows: list[dict[str, Any]], drawn: list[Figure], tmp_path: Path) -> None:
    files = accuracy_figure(rows, tmp_path / "sub" / "accuracy")
    assert [file.name for file in files] == ["accuracy.png", "accuracy.pdf"]
    assert files[1].read_bytes().startswith(b"%PDF")
    assert np.asarray(Image.open(files[0])).std() > 5
    assert sorted(path.name for path in files[0].parent.iterdir()) == ["accuracy.pdf", "accuracy.png"]

    panel = drawn[0].axes[0]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["narrow", "small", "base"]
    top1 = panel.containers[0]
    values = {height: value for value, height in zip(top1[0].get_xdata(), top1[0].get_ydata())}
    assert values == {0: 0.3, 1: 0.6, 2: 0.9}, "parts of the data set are not points"
    ends = np.asarray([segment[:, 0] for segment in top1[2][0].get_segments()])
    np.testing.assert_allclose(sorted(ends.tolist()), [[0.2, 0.35], [0.5, 0.65], [0.8, 0.95]])
    assert [text.get_text() for text in panel.texts] == ["90.0%", "30.0%", "60.0%"]
    chance = [line for line in panel.lines if line.get_linestyle() == "--"]
    assert [np.asarray(line.get_xdata())[0] for line in chance] == [0.1]


@pytest.mark.usefixtures("unpainted")
def test_texts_do_not_overlap(rows: list[dict[str, Any]], drawn: list[Figure], tmp_path: Path) -> None:
    accuracy_figure(rows, tmp_path / "accuracy")
    panel = drawn[0].axes[0]
    boxes = [text.get_window_extent() for text in [*panel.texts, *panel.get_yticklabels(), panel.title]]
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
    width, height = drawn[0].bbox.max
    assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height for box in boxes)


@pytest.mark.usefixtures("unpainted")
def test_the_panels_share_one_entry_for_chance(
    rows: list[dict[str, Any]], drawn: list[Figure], tmp_path: Path
) -> None:
    few = [one | {"dataset": "few"} for one in rows if not (one["slice"] or "").endswith(tuple("6789"))]
    none = [one | {"dataset": "none"} for one in rows if one["slice"] is None]
    accuracy_figure([*rows, *few, *none], tmp_path / "accuracy")
    texts = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert sorted(texts) == ["chance", "top-1, 95 % interval", "top-5, 95 % interval"]
    assert [axes.get_xlabel() for axes in drawn[0].axes] == [
        "zero-shot accuracy (chance: 1 of 10)",
        "zero-shot accuracy (chance: 1 of 6)",
        "zero-shot accuracy",
    ]


@pytest.mark.usefixtures("unpainted")
@pytest.mark.parametrize("top1", [0.0, 0.04, 0.1, 0.12, 0.16, 0.2])
def test_no_label_lies_on_the_line_of_chance(
    rows: list[dict[str, Any]], drawn: list[Figure], tmp_path: Path, top1: float
) -> None:
    rows = [one | {"value": top1} if one["value"] == 0.3 else one for one in rows]
    accuracy_figure(rows, tmp_path / "accuracy")
    panel = drawn[0].axes[0]
    line = panel.transData.transform((0.1, 0))[0]
    boxes = {text.get_text(): text.get_window_extent() for text in panel.texts}
    assert f"{top1:.1%}" in boxes
    assert not any(box.x0 <= line <= box.x1 for box in boxes.values())
    assert min(box.x0 for box in boxes.values()) > panel.bbox.x0 - 20, "it does not cover a model's name"


@pytest.mark.usefixtures("unpainted")
def test_a_panel_for_each_data_set(rows: list[dict[str, Any]], drawn: list[Figure], tmp_path: Path) -> None:
    other = [one | {"dataset": "other", "n": 50} for one in rows if one["model"] != "small"]
    accuracy_figure(rows + other, tmp_path / "accuracy")
    assert [axes.get_title(loc="left") for axes in drawn[0].axes] == [
        "demo_val (n = 1,200)",
        "other (n = 50)",
    ]


def test_the_same_rows_give_the_same_files(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    first = [file.read_bytes() for file in accuracy_figure(rows, tmp_path / "a")]
    assert first == [file.read_bytes() for file in accuracy_figure(rows, tmp_path / "b")]


def test_nothing_to_draw_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no result row"):
        accuracy_figure([row("base", "top1", None)], tmp_path / "accuracy")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        accuracy_figure([row("base", "top1", 0.5)], tmp_path / "file" / "accuracy")


def test_the_style_stays_in_our_figures(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    accuracy_figure(rows, tmp_path / "accuracy")
    assert dict(matplotlib.rcParams) == before
