"""Figures of curves: a line per model over bins, and no point where a bin is empty."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _study import models, study_rows
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex

from clipjax.analysis.figures.figure_set import analyze, contents
from clipjax.analysis.figures.frame import Drawing
from clipjax.analysis.figures.panels.curves import draw_curves
from clipjax.analysis.figures.spec import Spec, load_spec
from clipjax.analysis.rows.cells import RowIndex
from clipjax.analysis.rows.groups import group_of
from clipjax.errors import DataError
from clipjax.tasks.selective import COVERAGES

SPEC = load_spec("fig7")
EMPTY = ("vit_b_32-openai", "navi", "angle:30-60")  # the pairs of a sample have no such rotation
MINE = """
title = "t"
paper = "none"
kind = "curves"
[[groups]]
key = "all"
title = "all"
colour = "#000000"
marker = "o"
where = { group = "clip" }
[[panels]]
title = "p"
x = "degrees"
bins = ["0-30", "30-60"]
[panels.y]
title = "recall"
scale = "linear"
rows = [{ task = "correspondence", dataset = "navi", metric = "recall", slice = "angle:{bin}" }]
"""


def some_models() -> dict[str, dict[str, Any]]:
    everyone = models()
    named = {
        m: f for m, f in everyone.items() if f["group"] in ("dense_baseline", "probe3d") or "openai" in m
    }
    return {**models(every=9), **named}


def rows() -> list[Any]:
    def emptied(row: Any) -> Any:
        if (row["model"], row["dataset"], row["slice"]) != EMPTY:
            return row
        return row | {"value": None, "interval": None, "n": 0, "note": "no pair in this bin"}

    return [emptied(row) for row in study_rows(SPEC.terms, some_models())]


@pytest.fixture(scope="module")
def index() -> RowIndex:
    return RowIndex(rows())


@pytest.fixture(scope="module")
def drawing(index: RowIndex) -> Drawing:
    drawing = draw_curves(SPEC, contents(SPEC, index), ["clipjax sweep suite:x"])
    drawing.figure.draw_without_rendering()  # a warning is an error
    return drawing


def points_of(drawing: Drawing) -> dict[tuple[str, str], dict[int, float]]:
    """(area, model) -> {bin: value}."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for area in drawing.figure.axes:
        for marks in area.collections:
            for title, (x, y) in zip(
                drawing.names.get(marks.get_gid() or "", ()), np.asarray(marks.get_offsets())
            ):
                found.setdefault((area.get_title(loc="left"), title.partition(":")[0]), {})[round(x)] = y
    return found


def test_points_are_the_rows_and_an_empty_bin_has_none(index: RowIndex, drawing: Drawing) -> None:
    found, every = points_of(drawing), rows()
    bins = {
        "ScanNet": ("scannet_pairs", "angle"),
        "NAVI": ("navi", "angle"),
        "SPair-71k": ("spair71k", "groups"),
    }
    shown = [model for model, facts in some_models().items() if group_of(facts, SPEC.groups)]
    assert set(found) == {(curves.title, model) for curves in SPEC.curves for model in shown}
    for curves in SPEC.curves:
        data, by = bins[curves.title]
        for model in shown:
            wanted = {
                k: row["value"]
                for k, label in enumerate(curves.bins)
                for row in every
                if (row["model"], row["dataset"], row["slice"]) == (model, data, f"{by}:{label}")
                and row["value"] is not None
            }
            assert found[curves.title, model] == pytest.approx(wanted)
    assert sorted(found["NAVI", EMPTY[0]]) == [0, 2, 3]
    assert [label.get_text() for label in drawing.figure.axes[1].get_xticklabels()] == list(
        SPEC.curves[1].bins
    )


def test_a_line_has_a_gap_at_an_empty_bin(drawing: Drawing) -> None:
    [_, navi, _] = drawing.figure.axes
    lines = [np.asarray(line.get_xdata()) for line in navi.lines if line.get_linestyle() == "-"]
    of_rest, pieces = len(points_of(drawing)) // 3 - 1, [x for x in lines if len(x) < 4]
    assert len(lines) == of_rest + 2
    assert [[round(at) for at in x] for x in pieces] == [[0], [2, 3]]


def test_colours_are_groups_and_each_is_in_the_legend(drawing: Drawing) -> None:
    [legend] = drawing.figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    for group in SPEC.groups:
        assert any(text.startswith(f"{group.title} (") for text in texts)
    colours = {
        marks.get_gid(): {to_hex(colour) for colour in np.asarray(marks.get_facecolor())}
        for marks in drawing.figure.axes[0].collections
        if marks.get_gid()
    }
    assert colours == {f"fig7-1-{group.key}": {group.colour.lower()} for group in SPEC.groups}


def test_bars_are_the_intervals(index: RowIndex, drawing: Drawing) -> None:
    bars = [
        segment
        for each in drawing.figure.axes[0].collections
        if isinstance(each, LineCollection)
        for segment in each.get_segments()
    ]
    heights = sorted((float(low), float(high)) for (_, low), (_, high) in bars)
    panels = contents(SPEC, index)[: len(SPEC.curves[0].bins)]
    cells = [p.x for c in panels for p in c.points if group_of(p.facts, SPEC.groups)]
    assert len(heights) > 4 * len(SPEC.groups)
    np.testing.assert_allclose(
        heights, sorted((c.interval["lo"], c.interval["hi"]) for c in cells if c.interval)
    )


def test_the_table_has_a_line_per_model_and_bin(index: RowIndex, tmp_path: Path) -> None:
    done = analyze(SPEC, index, tmp_path, formats=["csv", "svg"])
    assert [path.name for path in done.files] == ["fig7.svg", "fig7_points.csv"]
    assert (done.drawn, done.panels) == (11, 11)
    assert [tuple(each) for each in done.missing] == [
        ("NAVI, 30-60", EMPTY[0], "correspondence navi angle:30-60 recall")
    ]
    with (tmp_path / "fig7_points.csv").open(encoding="utf-8") as file:
        table = [(line["title"], line["model"]) for line in csv.DictReader(file)]
    assert ("NAVI, 0-30", EMPTY[0]) in table
    assert ("NAVI, 30-60", EMPTY[0]) not in table


def test_a_panel_without_rows_names_the_command_that_makes_them(tmp_path: Path) -> None:
    few = RowIndex(row for row in rows() if row["dataset"] == "navi")
    done = analyze(SPEC, few, tmp_path, formats=["svg"])
    assert (done.drawn, done.panels) == (4, 11)
    text = (tmp_path / "fig7.svg").read_text(encoding="utf-8")
    assert ">clipjax sweep suite:fig7</" in text
    nothing = analyze(SPEC, RowIndex([]), tmp_path / "none")
    assert (nothing.files, nothing.drawn, len(nothing.missing)) == ((), 0, 11)


def test_risk_coverage_curves_have_every_coverage_and_the_rows_of_the_task(tmp_path: Path) -> None:
    spec = load_spec("risk_coverage")
    for curves in spec.curves:
        assert [float(label) for label in curves.bins] == list(COVERAGES)
    own = study_rows(spec.terms, models(every=40))
    risks: list[Any] = [
        {**row, "value": 0.4 * float(row["slice"].removeprefix("coverage:")) ** 2} for row in own
    ]
    done = analyze(spec, RowIndex(risks), tmp_path, formats=["csv", "svg"])
    assert (done.drawn, done.panels, [*done.missing]) == (40, 40, [])
    with (tmp_path / "risk_coverage_points.csv").open(encoding="utf-8") as file:
        shown = {line["title"]: float(line["x"]) for line in csv.DictReader(file)}
    assert shown["ImageNet-R, 0.5"] == pytest.approx(0.1)
    assert shown["ImageNet, 1"] == pytest.approx(0.4)


def mine(folder: Path, old: str = "", new: str = "") -> Spec:
    path = folder / "mine.toml"
    assert old in MINE
    path.write_text(MINE.replace(old, new))
    return load_spec(path)


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    spec = mine(tmp_path)
    assert [panel.title for panel in spec.panels] == ["p, 0-30", "p, 30-60"]
    assert [term.slice for term in spec.terms] == ["angle:0-30", "angle:30-60"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'bins = ["0-30", "30-60"]',
            "bins = []",
            r"panels\[0\]: bins = \[\] must be a list that",
        ),
        ("angle:{bin}", "angle:{angle}", r"panels\[0\].*has a word that is not in across, down or words"),
        ('x = "degrees"', "", r"panels\[0\].*'x' is missing"),
        ('scale = "linear"', 'scale = "bent"', r"panels\[0\]\.y: scale = 'bent' is not one of"),
    ],
)
def test_an_error_names_file_and_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(DataError, match=f"mine.toml.*{message}"):
        mine(tmp_path, old, new)
