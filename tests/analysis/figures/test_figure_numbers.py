"""The numbers beside a figure: points are the rows, trends the references' lines, both are what is drawn."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as typed_pandas
import pytest
import scipy.stats as typed_stats
import statsmodels.api as typed_sm
from _long import mostly_long
from _study import RUN, models, study_rows, tuned

from clipjax.analysis.figures import numbers
from clipjax.analysis.figures.figure_set import FigureResult, analyze, commands, contents
from clipjax.analysis.figures.frame import Content, drawn
from clipjax.analysis.figures.numbers import POINT, TREND
from clipjax.analysis.figures.panels import scatter
from clipjax.analysis.figures.panels.scatter import draw_scatter
from clipjax.analysis.figures.panels.trends import Trend, trends_of
from clipjax.analysis.figures.spec import Spec, load_spec
from clipjax.analysis.rows.cells import RowIndex
from clipjax.analysis.rows.groups import matches
from clipjax.analysis.trends.group_differences import compare_groups
from clipjax.analysis.trends.regression import K
from clipjax.analysis.trends.resampling import RESAMPLES
from clipjax.analysis.trends.trends import fit_points

sm: Any = typed_sm  # their stubs do not know all that they have
stats: Any = typed_stats
pandas: Any = typed_pandas
PROMPTS = ("openai_80", "mcm_5", "single")
ENDS = ("lo", "hi", "level", "method")


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def some(**facts: Any) -> dict[str, dict[str, Any]]:
    """The study's models with these facts."""
    return {name: own for name, own in {**models(), **tuned()}.items() if matches(own, facts)}


WIT = {"group": "clip", "fine_tune": "none", "train_source": "WIT"}
LAION = {"group": "clip", "fine_tune": "none", "train_source": "LAION-*"}


class Written:
    """A figure's numbers as they were written, and what they were made of."""

    def __init__(self, name: str, of: dict[str, dict[str, Any]], folder: Path) -> None:
        self.spec: Spec = load_spec(name)
        prompts = PROMPTS if self.spec.by_prompts else PROMPTS[:1]
        self.index = RowIndex(study_rows(self.spec.terms, of, prompts))
        self.done: FigureResult = analyze(self.spec, self.index, folder, formats=["csv"])
        self.points = read(folder / f"{name}_points.csv")
        self.trends = read(folder / f"{name}_trends.csv") if self.spec.fits else []

    def names(self) -> list[str]:
        return [path.name for path in self.done.files]


@pytest.fixture(scope="module")
def fig4(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return Written("fig4", some(**WIT) | some(**LAION) | models(every=6), tmp_path_factory.mktemp("fig4"))


@pytest.fixture(scope="module")
def fig8(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return Written("fig8", some(**LAION), tmp_path_factory.mktemp("fig8"))


@pytest.fixture(scope="module")
def robustness(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return Written("effective_robustness", models(every=3), tmp_path_factory.mktemp("robustness"))


# ---------------------------------------------------------------------------------------------------- points


def test_points_are_the_rows(fig4: Written) -> None:
    """To the last bit, with interval, n and where they come from; as many as are drawn."""
    assert fig4.names() == ["fig4_points.csv", "fig4_trends.csv"]
    [content] = contents(fig4.spec, fig4.index)
    assert [each["model"] for each in fig4.points] == [point.model for point in drawn(fig4.spec, content)]
    for found in fig4.points:
        for which, axis in zip("xy", fig4.spec.panels[0].axes):
            [term] = axis.column.terms
            row: Any
            [row] = fig4.index.of(term)[found["model"]]
            assert float(found[which]) == row["value"]
            assert [found[f"{which}_{end}"] for end in ENDS] == [str(row["interval"][end]) for end in ENDS]
            assert int(found[f"{which}_n_images"]) == row["n"]
            assert found[f"{which}_rows"] == f"{term} ({RUN})"
            assert (found[f"{which}_scale"], found[f"{which}_unit"]) == (axis.scale, "fraction")
    assert list(fig4.points[0]) == list(POINT)


def test_points_stand_where_they_are_drawn(fig4: Written) -> None:
    panels = contents(fig4.spec, fig4.index)
    drawing = draw_scatter(fig4.spec, panels, commands(fig4.spec))
    [area] = drawing.figure.axes
    of_group: dict[str, list[list[float]]] = defaultdict(list)
    for each in fig4.points:
        of_group[f"fig4-1-{each['group']}"].append([float(each["x"]), float(each["y"])])
    marks = {each.get_gid(): np.asarray(each.get_offsets()) for each in area.collections if each.get_gid()}
    assert {*marks} == {*of_group}
    for gid, at in of_group.items():
        np.testing.assert_allclose(marks[gid], stats.norm.ppf(at), rtol=1e-12)
    lines = {each.get_gid(): np.asarray(each.get_data(), np.float64) for each in area.lines}
    for trend in fig4.trends:
        x, y = lines[f"fig4-1-fit-{trend['trend']}"]
        np.testing.assert_allclose(x, stats.norm.ppf([float(trend["x_first"]), float(trend["x_last"])]))
        np.testing.assert_allclose(y, float(trend["intercept"]) + float(trend["slope"]) * x)


def test_pandas_reads_them(fig4: Written) -> None:
    points, trends = map(pandas.read_csv, fig4.done.files)
    numbers = [f"{which}{end}" for which in "xy" for end in ("", "_lo", "_hi", "_level")]
    assert {str(points[name].dtype) for name in numbers} == {"float64"}
    assert [str(points[name].dtype) for name in ("drawn", "extrapolated", "x_n_images")] == [
        "bool",
        "bool",
        "int64",
    ]
    np.testing.assert_array_equal(points["x"], [float(each["x"]) for each in fig4.points])
    assert {str(trends[name].dtype) for name in ("slope", "intercept", "offset")} == {"float64"}


def test_a_model_has_a_point_for_each_of_its_prompt_sets(tmp_path: Path) -> None:
    found = Written("fig9", some(**WIT), tmp_path)
    shown = [each for each in found.points if each["drawn"] == "True"]
    assert len({(each["panel"], each["model"], each["prompts"]) for each in shown}) == len(shown) == 3 * 5 * 3
    for each in shown:
        [term] = found.spec.panels[int(each["panel"]) - 1].x.column.terms
        rows = found.index.of(term)[each["model"]]
        [value] = [row["value"] for row in rows if row["convention"]["prompts"] == each["prompts"]]
        assert float(each["x"]) == value
    assert {each["trends"] for each in found.points if each["prompts"] != "openai_80"} == {""}


def test_models_of_a_trend_that_are_not_drawn_are_told(tmp_path: Path) -> None:
    """Fig. 10 has a line through CLIPs of LAION, which it does not show."""
    found = Written("fig10", some(**WIT) | some(**LAION) | tuned(), tmp_path)
    title = found.spec.fits[1].title
    hidden = [each for each in found.points if each["drawn"] == "False" and each["panel"] == "1"]
    assert {*some(**LAION)} == {each["model"] for each in hidden if each["trends"] == title}
    assert {each["shape"] for each in found.points if each["drawn"] == "True"} > {"flyp", "zero_shot"}
    members = [each for each in found.points if each["panel"] == "1" and title in each["trends"].split("; ")]
    assert [len(members)] == [int(each["n_models"]) for each in found.trends[1:2]]


# ---------------------------------------------------------------------------------------------------- trends


def test_trends_are_statsmodels_lines_through_the_points(fig4: Written) -> None:
    """Made again from the two files alone."""
    assert [each["trend"] for each in fig4.trends] == [line.key for line in fig4.spec.fits]
    assert list(fig4.trends[0]) == list(TREND)
    about = [[axis.column.title, axis.scale, "fraction"] for axis in fig4.spec.panels[0].axes]
    names = ("axis", "scale", "unit")
    assert [[fig4.trends[1][f"{which}_{name}"] for name in names] for which in "xy"] == about
    for trend in fig4.trends:
        members = [each for each in fig4.points if trend["trend"] in each["trends"].split("; ")]
        assert len(members) == int(trend["n_models"])
        x, y = (stats.norm.ppf([float(each[which]) for each in members]) for which in "xy")
        norm = sm.robust.norms.HuberT(t=K)
        theirs = sm.RLM(y, sm.add_constant(x), M=norm).fit(conv="coefs", tol=1e-13, maxiter=5000)
        found = [float(trend["intercept"]), float(trend["slope"])]
        np.testing.assert_allclose(found, theirs.params, rtol=0, atol=1e-8)
        assert (trend["method"], trend["x_scale"], trend["y_scale"]) == ("huber", "probit", "probit")


def test_trends_are_the_fits_with_their_intervals(fig4: Written) -> None:
    [content] = contents(fig4.spec, fig4.index)
    for stream, (line, trend) in enumerate(zip(fig4.spec.fits, fig4.trends)):
        members = [point for point in content.points if matches(point.facts, line.where)]
        found = fit_points(members, stream=stream)
        for name, estimate in (("slope", found.slope_estimate), ("intercept", found.intercept_estimate)):
            interval = estimate.interval
            assert interval is not None
            assert float(trend[name]) == getattr(found, name)
            assert [float(trend[f"{name}_{end}"]) for end in ("lo", "hi")] == [interval["lo"], interval["hi"]]
        assert json.loads(trend["where"]) == dict(line.where)
        assert json.loads(trend["convention"]).items() >= found.convention.items()
    assert (fig4.trends[0]["reference"], fig4.trends[0]["slope_difference"]) == ("", "")
    assert fig4.trends[1]["reference"] == fig4.trends[0]["trend"]


def test_differences_are_those_of_the_groups_and_what_is_written_in_the_panel(fig8: Written) -> None:
    panels = contents(fig8.spec, fig8.index)[:2]
    areas = draw_scatter(fig8.spec, panels, commands(fig8.spec)).figure.axes
    cnns = [each for each in fig8.trends if each["trend"] == "cnn"]
    assert [each["reference"] for each in fig8.trends] == ["vit", ""] * 18
    for content, trend, area in zip(panels, cnns, areas):
        of = [[p for p in content.points if matches(p.facts, line.where)] for line in fig8.spec.fits]
        found = compare_groups(*of)
        for name, one in (
            ("slope_difference", found.slope),
            ("offset", found.offset),
            ("tan_angle", found.tan),
        ):
            assert one is not None
            assert one.interval is not None
            told = [float(trend[f"{name}{end}"]) for end in ("", "_lo", "_hi")]
            assert told == [one.value, one.interval["lo"], one.interval["hi"]]
        assert float(trend["offset_at_x"]) == found.at
        value, lo, hi = (float(trend[f"tan_angle{end}"]) for end in ("", "_lo", "_hi"))
        assert area.texts[0].get_text() == f"tan Δ = {value:.2f} [{lo:.2f}, {hi:.2f}]"


@pytest.mark.usefixtures("unpainted")
def test_a_picture_and_its_numbers_share_their_trends(
    fig8: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their intervals take most of the time of `clipjax analyze`."""
    fitted = []

    def counted(spec: Spec, content: Content, resamples: int = RESAMPLES) -> list[Trend]:
        fitted.append(resamples)
        return trends_of(spec, content, 0)

    for module in (numbers, scatter):
        monkeypatch.setattr(module, "trends_of", counted)
    analyze(fig8.spec, fig8.index, tmp_path, formats=["svg", "csv"])
    assert fitted == [RESAMPLES] * len(fig8.spec.panels)


# -------------------------------------------------------------------------------------- effective robustness


def test_effective_robustness_is_what_lies_above_the_references_line(robustness: Written) -> None:
    trend = robustness.trends[0]
    of_first = [each for each in robustness.points if each["panel"] == "1"]
    assert {each["reference"] for each in of_first} == {"standard"}
    for each in of_first:
        x, y = float(each["x"]), float(each["y"])
        expected = stats.norm.cdf(float(trend["intercept"]) + float(trend["slope"]) * stats.norm.ppf(x))
        assert float(each["effective_robustness"]) == pytest.approx(y - expected, abs=1e-12)
        assert float(each["effective_robustness_lo"]) < y - expected < float(each["effective_robustness_hi"])
        beyond = not float(trend["x_first"]) <= x <= float(trend["x_last"])
        assert each["extrapolated"] == str(beyond)
    assert {each["extrapolated"] for each in of_first} == {"True", "False"}


def test_the_panel_of_effective_robustness_shows_the_same_numbers(robustness: Written) -> None:
    by_panel: dict[str, dict[str, list[str]]] = defaultdict(dict)
    for each in robustness.points:
        told = [each[f"effective_robustness{end}"] for end in ("", *(f"_{name}" for name in ENDS))]
        if each["extrapolated"] == "False":
            by_panel[each["panel"]][each["model"]] = told
        if int(each["panel"]) > 5:
            assert told == [each[f"y{end}"] for end in ("", *(f"_{name}" for name in ENDS))]
    for k in range(1, 6):
        assert by_panel[str(k)] == by_panel[str(k + 5)]
    above = [each for each in robustness.trends if int(each["panel"]) > 5]
    assert [each["slope"] for each in above] == [""] * 5
    assert {each["reason"] for each in above} == {"y is how far models lie above the trend 'standard'"}


# ----------------------------------------------------------------------------------------- what is not there


def test_too_few_models_are_told(tmp_path: Path) -> None:
    """Of two models there is no line; of four one without interval, and no difference."""
    few = dict([*list(some(**WIT).items())[:4], *list(some(**LAION).items())[:2]])
    found = Written("fig4", few, tmp_path / "two").trends
    assert [each["n_models"] for each in found] == ["4", "2"]
    assert (found[0]["slope"] != "", found[0]["slope_lo"], found[1]["slope"]) == (True, "", "")
    assert found[1]["reason"] == "2 models, 3 are needed"
    few |= dict(list(some(**LAION).items())[:9])
    found = Written("fig4", few, tmp_path / "nine").trends
    assert found[1]["slope_lo"] != ""
    assert found[1]["slope_difference"] == ""
    assert found[1]["reason"] == "group b has 4 models, 5 are needed"
    few = some(**LAION)
    found = Written("fig4", few, tmp_path / "none").trends
    assert found[1]["reason"] == "the reference has no trend here"
    assert read(tmp_path / "none" / "fig4_points.csv")[0]["effective_robustness"] == ""


@pytest.mark.parametrize("name", mostly_long(["fig4", "effective_robustness"], keep=["fig4"]))
def test_models_of_one_x_have_points_and_no_trend(name: str, tmp_path: Path) -> None:
    """As with a sample of few images, on which all are alike; it must not cost the figure."""
    spec = load_spec(name)
    [x] = spec.panels[0].x.column.terms
    rows: list[Any] = [
        {**row, "value": 0.5} if (row["dataset"], row["metric"]) == (x.dataset, x.metric) else row
        for row in study_rows(spec.terms, some(**LAION) | models(every=6))
    ]
    done = analyze(spec, RowIndex(rows), tmp_path, formats=["svg", "csv"])
    points, trends = (read(tmp_path / f"{name}_{each}.csv") for each in ("points", "trends"))
    assert {each["x"] for each in points} == {"0.5"}
    assert {each["effective_robustness"] for each in points} == {""}
    assert {each["slope"] for each in trends} == {""}
    reasons = {each["reason"] for each in trends if int(each["n_models"]) >= 3}
    assert reasons == {"one x for all models"}
    assert "one x for all models" in (tmp_path / f"{name}.svg").read_text(encoding="utf-8")
    lacking = {each.row for each in done.missing}
    assert lacking == ({"a second x of the robust fit: standard models"} if done.panels > 1 else set())


def test_an_empty_panel_has_no_points_and_says_why_it_has_no_trend(tmp_path: Path) -> None:
    spec = load_spec("fig6")
    rows = [row for row in study_rows(spec.terms, some(**LAION)) if row["dataset"] != "flickr30k"]
    done = analyze(spec, RowIndex(rows), tmp_path, formats=["csv"])
    assert 0 < done.drawn < done.panels
    points, trends = (read(tmp_path / f"fig6_{name}.csv") for name in ("points", "trends"))
    assert len({each["panel"] for each in points}) == done.drawn
    assert [each["panel"] for each in trends] == [str(k + 1) for k in range(done.panels)]
    empty = [each for each in trends if each["slope"] == ""]
    assert len(empty) == done.panels - done.drawn
    assert {(each["n_models"], each["reason"]) for each in empty} == {("0", "0 models, 3 are needed")}


def test_figures_without_trends_have_points_alone(tmp_path: Path) -> None:
    strip = Written("fig2", models(every=9), tmp_path)
    assert strip.names() == ["fig2_points.csv"]
    assert {(each["y"], each["y_axis"], each["effective_robustness"]) for each in strip.points} == {
        ("", "", "")
    }
    assert all(float(each["x_lo"]) <= float(each["x"]) <= float(each["x_hi"]) for each in strip.points)
    assert Written("fig5", models(every=40), tmp_path).names() == ["fig5_points.csv"]


def test_without_rows_nothing_is_written(tmp_path: Path) -> None:
    assert analyze(load_spec("fig4"), RowIndex([]), tmp_path, formats=["csv"]).files == ()
    assert list(tmp_path.iterdir()) == []
