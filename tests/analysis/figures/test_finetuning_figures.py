"""The figures of fine-tuned models, from planted rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipjax.analysis.figures.tasks import finetuning
from clipjax.analysis.figures.tasks.finetuning import FinetuningPanel, alpha_figure, methods_figure
from clipjax.errors import DataError

ACCURACY = FinetuningPanel("accuracy", "zeroshot", "val", "top1")
AUROC = FinetuningPanel("AUROC", "ood", "odd", "auroc", "score:msp")


def row(model: str, panel: FinetuningPanel, value: float | None, **fields: Any) -> dict[str, Any]:
    interval = None if value is None else {"lo": value - 0.1, "hi": value + 0.05}
    place = {"task": panel.task, "dataset": panel.dataset, "metric": panel.metric, "slice": panel.slice}
    facts = {"fine_tune": {"base": "none", "m-flyp": "FLYP", "m-ce": "Cross-entropy"}.get(model)}
    return {"model": model, "value": value, "interval": interval, "model_facts": facts, **place, **fields}


ROWS = [
    row("base", ACCURACY, 0.2),
    row("base", ACCURACY, 0.5),
    row("base", ACCURACY, None),
    row("base", AUROC, 0.8),
    row("m-flyp", ACCURACY, 0.7),
    row("m-ce", ACCURACY, 0.6),
    row("m-ce", AUROC, 0.9, interval=None),
]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that would be saved."""
    saved: list[Any] = []
    monkeypatch.setattr(finetuning, "save_figure", lambda figure, out: saved.append(figure) or [])
    return saved


def points(panel: Any) -> list[tuple[float, float]]:
    return [
        (float(container[0].get_xdata()[0]), float(container[0].get_ydata()[0]))
        for container in panel.containers
    ]


def test_the_files_are_written_and_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = (
        methods_figure(ROWS, "base", ["m-flyp", "m-ce"], [ACCURACY, AUROC], tmp_path / name)
        for name in ("one", "two")
    )
    assert [path.name for path in first] == ["one.png", "one.pdf"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    curve = alpha_figure(mixtures(), "val", tmp_path / "curve")
    assert [path.name for path in curve] == ["curve.png", "curve.pdf"]


def test_a_panel_a_number_a_line_a_model_and_the_base_through_all(drawn: list[Any]) -> None:
    methods_figure(ROWS, "base", ["m-flyp", "m-ce"], [ACCURACY, AUROC], "unused")
    accuracy, auroc = drawn[0].axes
    assert [label.get_text() for label in accuracy.get_yticklabels()] == ["before", "FLYP", "Cross-entropy"]
    assert [panel.get_title("left") for panel in (accuracy, auroc)] == ["accuracy", "AUROC"]
    assert points(accuracy) == [(0.5, 0), (0.7, -1), (0.6, -2)], "the newest row with a value"
    assert points(auroc) == [(0.8, 0), (0.9, -2)], "what a model does not have is left out"
    [dashed] = [line for line in accuracy.lines if line.get_linestyle() == "--"]
    assert list(dashed.get_xdata()) == [0.5, 0.5]
    assert "of base, 95 % intervals" in drawn[0].get_supxlabel()


def test_nothing_to_draw_is_said() -> None:
    with pytest.raises(DataError, match="no result row is one of the numbers of the figure: evaluate"):
        methods_figure([row("base", ACCURACY, None)], "base", [], [ACCURACY], "unused")


def mixtures() -> list[dict[str, Any]]:
    found = []
    for alpha, here, there in ((0.0, 0.4, 0.5), (1.0, 0.8, 0.3), (0.5, 0.7, 0.6)):
        facts = {"model_facts": {"lineage": {"alpha": alpha}}}
        shift = ACCURACY._replace(dataset="shift")
        found += [row("m", ACCURACY, here, **facts), row("m", shift, there, **facts)]
    other = ACCURACY._replace(dataset="unreferenced")
    facts = {"model_facts": {"lineage": {"alpha": 0.25}}}
    nowhere = row("m", ACCURACY._replace(dataset="other"), 0.1, model_facts={})
    return [*found, row("m", other, 0.9, **facts), nowhere, row("m", AUROC, 0.9, **facts)]


def test_the_curve_goes_from_alpha_0_to_1_on_each_shift(drawn: list[Any]) -> None:
    alpha_figure(mixtures(), "val", "unused", written=0.5)
    [area] = drawn[0].axes
    line, ring = area.lines
    assert [list(values) for values in ring.get_data()] == [[0.7], [0.6]]
    assert (ring.get_label(), ring.get_markerfacecolor()) == ("alpha 0.5, written", "none")
    assert [list(values) for values in line.get_data()] == [[0.4, 0.7, 0.8], [0.5, 0.6, 0.3]]
    assert line.get_label() == "shift", "a data set without an alpha of the reference's is left out"
    assert [text.get_text() for text in area.texts] == ["0", "0.5", "1"]
    limits = [there["interval"] for there in mixtures() if there["dataset"] == "shift"]
    [bars] = area.collections
    drawn_limits = sorted(tuple(segment[:, 1]) for segment in bars.get_segments())
    assert np.allclose(drawn_limits, sorted((each["lo"], each["hi"]) for each in limits))
    assert area.get_xlabel() == "accuracy on val"


def test_an_alpha_stands_beside_the_line_and_the_legend_below(drawn: list[Any]) -> None:
    facts = [{"model_facts": {"lineage": {"alpha": alpha}}} for alpha in (0.0, 0.5, 1.0)]
    shift = ACCURACY._replace(dataset="shift")
    for there in ((0.3, 0.4, 0.5), (0.5, 0.4, 0.3), (0.3, 0.5, 0.3)):
        alpha_figure(
            [row("m", ACCURACY, here, **each) for here, each in zip((0.4, 0.5, 0.6), facts)]
            + [row("m", shift, up, **each) for up, each in zip(there, facts)],
            "val",
            "unused",
        )
        figure = drawn.pop()
        figure.draw_without_rendering()
        [area] = figure.axes
        line = area.lines[0].get_path().transformed(area.transData)
        boxes = [text.get_window_extent() for text in area.texts]
        assert not any(line.intersects_bbox(box, filled=False) for box in boxes), there
        [legend] = figure.legends
        assert legend.get_window_extent().y1 < area.get_window_extent().y0


@pytest.mark.parametrize("written", [None, 0.3])
def test_an_alpha_that_is_not_on_the_curve_has_no_ring(drawn: list[Any], written: float | None) -> None:
    alpha_figure(mixtures(), "val", "unused", written=written)
    assert [line.get_label() for line in drawn[0].axes[0].lines] == ["shift"]


def test_a_curve_needs_two_alphas_and_another_data_set() -> None:
    only_one = [each for each in mixtures() if each["model_facts"].get("lineage", {}).get("alpha") == 0.5]
    no_shift = [each for each in mixtures() if each["dataset"] == "val"]
    for rows in (only_one, no_shift, []):
        with pytest.raises(DataError, match="needs accuracies of two alphas or more, on val and on another"):
            alpha_figure(rows, "val", "unused")
