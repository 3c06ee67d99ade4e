"""Costs as an axis: the front that is drawn, verdicts, names beside points, ticks of a log axis."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _compared import add
from matplotlib.axes import Axes
from matplotlib.text import Text
from typer.testing import CliRunner

from clipjax.analysis.figures.labels import Names, write_names
from clipjax.analysis.figures.panels.axes import set_axis, ticks
from clipjax.analysis.figures.spec import spec_from
from clipjax.analysis.figures.style import new_figure
from clipjax.cli import app
from clipjax.errors import ClipjaxError, DataError

B32, B16, L14 = ({"arch": name, "image_size": 224} for name in ("ViT-B-32", "ViT-B-16", "ViT-L-14"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """b16 costs more than b32 and is better, l14 costs more than both and is decidedly worse than b16."""
    results = tmp_path / "results"
    for k, (model, accuracy, facts) in enumerate(
        [("b32", 0.3, B32), ("b32_near", 0.302, B32), ("b16", 0.8, B16), ("l14", 0.5, L14), ("mine", 0.9, {})]
    ):
        add(results, model, accuracy, recipe_hash=f"{k}" * 64, model_facts=facts)
    return results


def invoked(*words: object) -> Any:
    return CliRunner().invoke(app, [*map(str, words)])


def points(out: Path) -> dict[str, dict[str, str]]:
    with Path(f"{out}_points.csv").open() as file:
        return {line["model"]: line for line in csv.DictReader(file)}


def test_scatter_takes_a_cost_and_draws_the_front(folder: Path, tmp_path: Path) -> None:
    done = invoked("results", "scatter", "cost/operations", "d/top1", folder, "--out", tmp_path / "s")
    assert done.exit_code == 0, done.output
    assert "mine is left out: its rows name no architecture of clipjax's" in done.stderr
    found = points(tmp_path / "s")
    assert {model: line["verdict"] for model, line in found.items()} == {
        "b32": "cannot be told",
        "b32_near": "cannot be told",
        "b16": "on the front",
        "l14": "dominated",
    }
    assert float(found["b16"]["x"]) == pytest.approx(35.13, abs=0.01)
    assert {line["x_scale"] for line in found.values()} == {"log"}
    assert {line["y_scale"] for line in found.values()} == {"probit"}
    front = {model for model, line in found.items() if line["on_front"] == "True"}
    assert front in ({"b32", "b16"}, {"b32_near", "b16"})
    assert ", ".join(sorted(front, key="b16".__eq__)) in done.stderr
    drawn = (tmp_path / "s.svg").read_text()
    assert all(name in drawn for name in ("line: Pareto front", "cross: decidedly beaten"))
    assert not (tmp_path / "s_trends.csv").exists()  # no line through costs


def test_what_has_no_images_is_not_tested(folder: Path, tmp_path: Path) -> None:
    for model, facts in (("b32", B32), ("b16", B16)):
        add(tmp_path / "p", model, 0.5, origin="published", model_facts=facts, recipe_hash=f"{model:0>64}")
    done = invoked("results", "scatter", "cost/params", "d/top1", tmp_path / "p", "--out", tmp_path / "s")
    assert "the front is not tested: published numbers come without their images" in done.stderr
    assert {line["verdict"] for line in points(tmp_path / "s").values()} == {""}
    assert "decidedly beaten" not in (tmp_path / "s.svg").read_text()


def test_rates_have_no_effect_without_a_cost(folder: Path, tmp_path: Path) -> None:
    done = invoked("results", "scatter", "d/top1", "d/top1", folder, "--rates", tmp_path)
    assert "--rates has no effect without a cost as an axis (cost/...)" in str(done.exception)


@pytest.mark.parametrize(
    ("axes", "why"),
    [
        (("d/top1", "cost/operations"), "a cost goes across: give cost/operations first, then d/top1"),
        (("cost/operation", "d/top1"), "unknown cost 'operation'; did you mean operations?"),
        (("cost/images_per_second cpu fast", "d/top1"), "no model has the cost 'images_per_second cpu fast'"),
        (("cost/operations", "d/top2"), "unknown number 'd/top2'"),
    ],
)
def test_wrong_axes_are_refused(folder: Path, tmp_path: Path, axes: tuple[str, str], why: str) -> None:
    done = invoked("results", "scatter", *axes, folder, "--out", tmp_path / "s")
    assert why in str(done.exception)


@pytest.mark.usefixtures("unpainted")
def test_two_costs_have_no_front(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "s"
    done = invoked("results", "scatter", "cost/operations", "cost/model_params", folder, "--out", out)
    assert done.exit_code == 0, done.output
    assert "verdict" not in next(iter(points(out).values()))


def test_pareto_prints_and_exports_the_verdicts(folder: Path) -> None:
    record = json.loads(invoked("pareto", folder, "--metric", "top1", "--json").stdout)
    [front] = record["fronts"]
    assert [each["model"] for each in front["models"]][2:] == ["b16", "l14"]
    assert front["models"][-1]["beaten_by"] == ["b16"]
    assert front["left_out"] == {"mine": "no operations: its rows name no architecture of clipjax's"}
    assert record["cost"]["cheaper"] == "lower"
    said = invoked("pareto", folder, "--metric", "top1", "--cost", "estimated_images_per_second v5e fast")
    assert "images a second, v5e fast (estimate)" in said.stdout
    assert "3,800 (estimate, scaled)" in said.stdout
    assert "95% holds for all 20 ordered pairs of models; costs are taken as exact" in said.stdout
    assert record["level"] == 0.95


def test_pareto_refuses_what_has_no_front(folder: Path, tmp_path: Path) -> None:
    def refused(*words: object) -> str:
        done = invoked("pareto", *words, "--metric", "top1")
        assert isinstance(done.exception, ClipjaxError)
        return str(done.exception)

    nowhere = refused(folder, "--models", "b32", "--models", "mine")
    assert "nowhere have two models both top1 and operations (mine is left out: no operations" in nowhere
    add(tmp_path / "one", "b32", model_facts=B32)
    assert "ranks need two models or more on the same images" in refused(tmp_path / "one")
    add(tmp_path / "none", "mine")
    assert "unknown cost 'operations'; known: none" in refused(tmp_path / "none")
    assert "nowhere.json" in refused(folder, "--rates", tmp_path / "nowhere.json")
    add(tmp_path / "p", "b32", origin="published", model_facts=B32)
    assert "published numbers come without their images" in refused(tmp_path / "p")


def test_a_front_is_never_set_by_a_file(tmp_path: Path) -> None:
    axis = {"title": "t", "scale": "log", "rows": [{"task": "zeroshot", "dataset": "d", "metric": "top1"}]}
    record = {"title": "t", "kind": "scatter", "groups": "paper"}
    panel = {"title": "p", "x": axis, "y": axis}
    assert spec_from({**record, "panels": [panel]}, tmp_path / "f.toml").panels[0].front is None
    with pytest.raises(DataError, match="front"):
        spec_from({**record, "panels": [{**panel, "front": {"line": ["a"]}}]}, tmp_path / "f.toml")


def test_a_log_axis_has_ticks() -> None:
    assert ticks(0.4, 2000, "log") == [1, 3, 10, 30, 100, 300, 1000]
    assert ticks(3, 60, "log") == [3, 5, 10, 15, 30, 50]
    assert ticks(0.0037, 0.0125, "log") == [0.004, 0.005, 0.006, 0.008, 0.01]
    assert len(ticks(5.0, 5.3, "log")) >= 5


def crowded(seed: int) -> tuple[Axes, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x, y = rng.random(40), rng.random(40)
    area = new_figure(6, 4).subplots()
    area.scatter(x, y)
    set_axis(area, "x", (-0.1, 1.1), "linear", "")
    set_axis(area, "y", (-0.1, 1.1), "linear", "")
    return area, x, y


@pytest.mark.parametrize("seed", range(3))
def test_names_hide_neither_points_nor_each_other(seed: int) -> None:
    area, x, y = crowded(seed)
    write_names([Names(area, x, y, {k: f"a model's name {k}" for k in range(8)})])
    for said in area.texts:
        said.get_window_extent()  # moves the text to its place
    boxes = [Text.get_window_extent(said).extents for said in area.texts]  # without the joining lines
    assert len(boxes) == 8
    at = area.transData.transform(np.column_stack([x, y]))
    frame = area.get_window_extent().extents
    for k, (left, low, right, high) in enumerate(boxes):
        inside = (at[:, 0] > left) & (at[:, 0] < right) & (at[:, 1] > low) & (at[:, 1] < high)
        assert not inside.any()
        assert frame[0] <= left < right <= frame[2]
        assert frame[1] <= low < high <= frame[3]
        for other in boxes[:k]:
            assert right <= other[0] or other[2] <= left or high <= other[1] or other[3] <= low


def test_a_name_without_a_free_place_is_written_all_the_same() -> None:
    area, x, y = crowded(0)
    write_names([Names(area, x, y, {0: "x" * 300}), Names(area, x, y, {})])
    assert [said.get_text() for said in area.texts] == ["x" * 300]
