"""The study's figures of a made-up study: points are the rows, lines the fits, legends the groups."""

from __future__ import annotations

import dataclasses
import functools
import xml.etree.ElementTree as ET
from typing import Any, NamedTuple

import numpy as np
import pytest
from _long import mostly_long
from _study import models, study_rows, tuned
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.markers import MarkerStyle
from scipy.special import logit, ndtr, ndtri

from clipjax.analysis.figures.figure_set import analyze, contents
from clipjax.analysis.figures.frame import Content, Drawing
from clipjax.analysis.figures.named_points import SVG, name_points
from clipjax.analysis.figures.panels.axes import set_axis, ticks
from clipjax.analysis.figures.panels.scatter import draw_scatter
from clipjax.analysis.figures.panels.strip import draw_strip
from clipjax.analysis.figures.spec import Spec, load_spec, spec_names
from clipjax.analysis.rows.cells import RowIndex
from clipjax.analysis.rows.groups import matches
from clipjax.analysis.trends.group_differences import compare_groups
from clipjax.analysis.trends.trends import fit

PROMPTS = ("openai_80", "openai_30_of_80", "mcm_5", "single", "cupl")
FIGURES = [name for name in spec_names() if load_spec(name).kind in ("scatter", "strip")]
SCATTERS = [name for name in FIGURES if load_spec(name).kind == "scatter"]
MANY_PANELS = ("fig3", "fig5", "fig8")  # of the kind of Figs. 1 and 6; eighteen panels of scatters

ANGLES = "test_differences_are_those_of_the_groups_and_what_is_written_in_the_panel"


def mostly(names: list[str], test: str) -> list[Any]:
    """`names`, of which figures of many panels are long."""
    keep = [name for name in names if name not in MANY_PANELS]
    return mostly_long(names, keep, f"analysis/figures/test_paper_figures.py::{test}")


def some_models() -> dict[str, dict[str, Any]]:
    """Every third model of the study, those that figures name, and the fine-tuned ones."""
    everyone = models()
    named = [name for name, facts in everyone.items() if facts.get("train_source") == "WIT"]
    return {**models(every=3), **{name: everyone[name] for name in named}, **tuned()}


class Drawn(NamedTuple):
    spec: Spec
    rows: RowIndex
    contents: list[Content]
    drawing: Drawing


def index_of(spec: Spec, of: dict[str, dict[str, Any]] | None = None) -> RowIndex:
    prompts = PROMPTS if spec.by_prompts else PROMPTS[:1]
    return RowIndex(study_rows(spec.terms, some_models() if of is None else of, prompts))


def draw(spec: Spec, index: RowIndex) -> Drawn:
    panels = contents(spec, index)
    function = draw_strip if spec.kind == "strip" else draw_scatter
    return Drawn(spec, index, panels, function(spec, panels, ["clipjax sweep suite:x"]))


@functools.cache
def drawn(name: str) -> Drawn:
    spec = load_spec(name)
    laion = {m: f for m, f in models().items() if (f.get("train_source") or "").startswith("LAION")}
    return draw(spec, index_of(spec, laion if name == "fig8" else None))


def artists(figure: Figure) -> dict[str, Any]:
    """By gid: collections of points, and lines."""
    found = [artist for area in figure.axes for artist in (*area.collections, *area.lines)]
    return {gid: artist for artist in found if (gid := artist.get_gid())}


def legend_of(figure: Figure) -> dict[str, Any]:
    [legend] = figure.legends
    assert isinstance(legend, Legend)
    return dict(zip([text.get_text() for text in legend.get_texts()], legend.legend_handles))


def row_value(index: RowIndex, axis: Any, label: str) -> float:
    """The mean of an axis' rows, looked up by what a point is called: the model, and its prompts."""
    model, _, prompts = label.partition(" ")
    rows: list[Any] = [
        row
        for term in axis.column.terms
        for row in index.of(term)[model]
        if not prompts or row["convention"]["prompts"] == prompts
    ]
    assert len(rows) == len(axis.column.terms)
    return float(np.mean([row["value"] for row in rows]))


def coordinate(value: Any, scale: str) -> Any:
    return {"probit": ndtri, "logit": logit, "log": np.log, "linear": np.asarray}[scale](value)


# ------------------------------------------------------------------------------------ points and lines


@pytest.mark.parametrize("name", mostly(FIGURES, "test_a_figure_draws_without_a_warning"))
def test_a_figure_draws_without_a_warning(name):
    drawn(name).drawing.figure.draw_without_rendering()


@pytest.mark.parametrize("name", mostly(SCATTERS, "test_points_stand_where_the_rows_say"))
def test_points_stand_where_the_rows_say(name):
    spec, index, panels, drawing = drawn(name)
    there = artists(drawing.figure)
    assert drawing.names
    for k, (asked, content) in enumerate(zip(spec.panels, panels), 1):
        labels, at = [], []
        for gid, titles in drawing.names.items():
            if gid.startswith(f"{name}-{k}-"):
                labels += [title.partition(":")[0] for title in titles]
                at += list(there[gid].get_offsets())
        assert asked.y is not None
        x, y = (np.array([row_value(index, axis, each) for each in labels]) for axis in asked.axes)
        if asked.above:
            y -= trend_of(spec, content, index, asked).predict(x)
        else:
            y = coordinate(y, asked.y.scale)
        np.testing.assert_allclose(np.array(at), np.stack([coordinate(x, asked.x.scale), y], 1), atol=1e-9)
        assert len(set(labels)) == len(labels)
        assert len(labels) == sum(is_drawn(spec, point.facts) for point in content.points)


def is_drawn(spec: Spec, facts: Any) -> bool:
    return matches(facts, spec.models) and all(
        any(group.has(facts) for group in scheme) for scheme in (spec.groups, spec.shapes) if scheme
    )


def trend_of(spec: Spec, content: Content, index: RowIndex, panel: Any, key: str | None = None) -> Any:
    """The fit to the rows themselves."""
    line = next(line for line in spec.fits if line.key == (key or panel.above))
    members = [point for point in content.points if matches(point.facts, line.where)]
    labels = [f"{p.model} {p.facts['prompts']}" if spec.by_prompts else p.model for p in members]
    x, y = ([row_value(index, axis, each) for each in labels] for axis in panel.axes)
    scales = {"scale": panel.x.scale, "scale_y": panel.y.scale}
    return fit(x, y, method=line.method, resamples=0, **scales)


@pytest.mark.parametrize(
    "name", mostly([name for name in SCATTERS if load_spec(name).fits], "test_lines_are_the_fits")
)
def test_lines_are_the_fits(name):
    spec, index, panels, drawing = drawn(name)
    there, lines = artists(drawing.figure), 0
    for k, (asked, content) in enumerate(zip(spec.panels, panels), 1):
        for line in spec.fits if not asked.above else ():
            found = trend_of(spec, content, index, asked, line.key)
            x, y = there[f"{name}-{k}-fit-{line.key}"].get_data()
            np.testing.assert_allclose(y, found.intercept + found.slope * x, atol=1e-9)
            np.testing.assert_allclose(x, coordinate(found.ends, asked.x.scale), atol=1e-9)
            lines += 1
    assert lines >= len(spec.fits)


def test_a_linear_axis_has_room_for_intervals():
    _, _, panels, drawing = drawn("fig10")
    low, high = drawing.figure.axes[-1].get_ylim()
    limits = [point.y.interval for point in panels[-1].points if is_drawn(drawn("fig10").spec, point.facts)]
    assert low < min(limit["lo"] for limit in limits if limit)
    assert high > max(limit["hi"] for limit in limits if limit)


def test_the_ideal_line_of_fig1():
    for k in range(1, 11):
        x, y = artists(drawn("fig1").drawing.figure)[f"fig1-{k}-ideal"].get_data()
        assert list(x) == list(y)


@pytest.mark.long(f"analysis/figures/test_figure_numbers.py::{ANGLES}")
def test_the_angle_is_written_in_each_panel_of_fig8():
    spec, _, panels, drawing = drawn("fig8")
    assert len(panels) == 18
    for content, area in zip(panels, drawing.figure.axes):
        of = [[p for p in content.points if matches(p.facts, line.where)] for line in spec.fits]
        tan = compare_groups(*of, method="huber").tan
        assert tan is not None
        assert tan.interval is not None
        [said] = [text.get_text() for text in area.texts]
        assert said == f"tan Δ = {tan.value:.2f} [{tan.interval['lo']:.2f}, {tan.interval['hi']:.2f}]"


def test_larger_points_are_larger_models():
    spec, index, _, drawing = drawn("fig2")
    facts = {model: row["model_facts"] for term in spec.terms for model, [row] in index.of(term).items()}
    for gid, titles in drawing.names.items():
        points = artists(drawing.figure)[gid]
        of = [facts[title.partition(":")[0]]["params_m"] for title in titles]
        assert (np.argsort(of, kind="stable") == np.argsort(points.get_sizes(), kind="stable")).all()
        values = [row_value(index, spec.panels[0].x, title.partition(":")[0]) for title in titles]
        np.testing.assert_allclose(points.get_offsets()[:, 0], values)


# ----------------------------------------------------------------------------------- groups and legend


@pytest.mark.parametrize("name", mostly(SCATTERS, "test_the_legend_has_every_group_with_its_look"))
def test_the_legend_has_every_group_with_its_look(name):
    spec, _, _, drawing = drawn(name)
    legend, there = legend_of(drawing.figure), artists(drawing.figure)
    looks = [(group, shape) for group in spec.groups for shape in spec.shapes or [group]]
    for group, shape in looks:
        key = f"{name}-1-{group.key}-{shape.key}" if spec.shapes else f"{name}-1-{group.key}"
        if key not in drawing.names:
            continue
        marks, style = there[key], MarkerStyle(shape.marker)
        path = style.get_path().transformed(style.get_transform())
        np.testing.assert_array_equal(marks.get_paths()[0].vertices, path.vertices)
        [colour] = marks.get_facecolor() if group.filled else marks.get_edgecolor()
        assert to_hex(colour) == group.colour.lower()
    for entries in (spec.groups, spec.shapes):
        for entry in entries:
            [label] = [text for text in legend if text.startswith((f"{entry.title} (", f"{entry.title}: "))]
            assert legend[label].get_marker() == (
                entry.marker if entries is spec.shapes or not spec.shapes else "o"
            )
    assert {line.title for line in spec.fits} <= set(legend)


@pytest.mark.parametrize("name", ["fig1", "fig3", "fig4", "fig5"])
def test_colours_are_groups_and_markers_training_data(name):
    """Captions of Figs. 1 and 5: colours are groups, shapes what zero-shot CLIPs were trained on."""
    groups = load_spec(name).groups
    assert len({(group.colour, group.marker) for group in groups}) == len(groups)
    clips = [group for group in groups if group.where["group"] == "clip"]
    assert len({group.marker for group in clips}) == len(clips)
    others = {group.colour for group in groups} - {group.colour for group in clips}
    assert len(others) == 4  # standard, contrastive, more data, CLIP-FT


def test_a_group_without_rows_is_a_named_entry():
    spec = load_spec("fig4")
    others = {n: f for n, f in some_models().items() if f.get("train_source") != "WIT"}
    legend = legend_of(draw(spec, index_of(spec, others)).drawing.figure)
    assert "CLIP-WIT: no models" in legend
    assert "robust fit: CLIP trained on WIT: fewer than 3 models" in legend
    assert legend["CLIP-WIT: no models"].get_markerfacecolor() == "none"


# -------------------------------------------------------------------------------------- missing rows


def test_missing_rows_are_said_by_model_and_row(tmp_path):
    spec = load_spec("fig3")
    spec = dataclasses.replace(spec, panels=(*spec.panels[:2], spec.panels[9]))
    rows = list(study_rows(spec.terms, some_models()))
    lacking = ("rn50-openai", "ood", "sun", "auroc")
    kept = [r for r in rows if (r["model"], r["task"], r["dataset"], r["metric"]) != lacking]
    kept = [r for r in kept if (r["dataset"], r["metric"]) != ("imagenet_o", "fpr95_imagenet_o")]
    index = RowIndex(kept)
    done = analyze(spec, index, tmp_path, formats=["svg"])
    assert (done.drawn, done.panels) == (2, 3)
    assert [tuple(each) for each in done.missing] == [
        ("SUN", "rn50-openai", "ood sun auroc"),
        ("ImageNet-O", None, "ood imagenet_o fpr95_imagenet_o"),
    ]
    text = (tmp_path / "fig3.svg").read_text(encoding="utf-8")
    for said in ("no rows:", "ood imagenet_o fpr95_imagenet_o", "clipjax sweep suite:fig3"):
        assert f">{said}</" in text


def test_of_several_prompt_sets_the_studys_is_taken():
    """Rows of Fig. 9 beside those of the other figures."""
    spec = load_spec("fig4")
    few = {name: facts for name, facts in models().items() if facts.get("train_source") == "WIT"}
    index = RowIndex(study_rows(spec.terms, few, PROMPTS))
    for chosen, prompts in ((contents(spec, index), "openai_80"), (contents(spec, index, "mcm_5"), "mcm_5")):
        for point in chosen[0].points:
            assert point.y.value == row_value(index, spec.panels[0].y, f"{point.model} {prompts}")
        assert len(chosen[0].points) == len(few)


def test_without_any_row_nothing_is_written(tmp_path):
    done = analyze(load_spec("fig1"), RowIndex([]), tmp_path)
    assert (done.files, done.drawn, len(done.missing)) == ((), 0, 20)
    assert list(tmp_path.iterdir()) == []


def test_effective_robustness_is_told_where_the_trend_is():
    spec, _, panels, _ = drawn("effective_robustness")
    above = panels[len(panels) // 2]
    trend = trend_of(spec, panels[0], drawn(spec.name).rows, spec.panels[0], "standard")
    beyond = {p.model for p in panels[0].points if not trend.ends[0] <= (p.x.value or 0) <= trend.ends[1]}
    assert beyond
    assert {each.model for each in above.missing} == beyond
    assert {p.model for p in above.points} == {p.model for p in panels[0].points} - beyond
    assert above.panel.y is not None
    assert (above.panel.y.scale, above.panel.y.unit) == ("linear", "points")
    few = {n: f for n, f in some_models().items() if f["group"] != "standard"}
    found = contents(spec, index_of(spec, few))[-1]
    assert found.points == []
    assert found.missing[-1].row == "3 models of the robust fit: standard models"


# --------------------------------------------------------------------------------------------- files


@pytest.fixture(scope="module")
def small() -> RowIndex:
    return index_of(load_spec("fig4"))


def test_files_are_the_same_every_time(small, tmp_path):
    spec = load_spec("fig4")
    spec = dataclasses.replace(spec, panels=spec.panels[:1])
    first, second = (analyze(spec, small, tmp_path / name).files for name in "ab")
    assert [path.name for path in first] == [
        "fig4.png",
        "fig4.pdf",
        "fig4.svg",
        "fig4_points.csv",
        "fig4_trends.csv",
    ]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert first[0].read_bytes().startswith(b"\x89PNG")
    assert first[1].read_bytes().startswith(b"%PDF")


def test_points_of_an_svg_know_their_names(small, tmp_path):
    spec = load_spec("fig4")
    [path] = analyze(spec, small, tmp_path, formats=["svg"]).files
    names = draw(spec, small).drawing.names
    groups = {g.get("id"): g for g in ET.parse(path).iter(f"{{{SVG}}}g")}
    for gid, titles in names.items():
        assert [each.text for each in groups[gid].iter(f"{{{SVG}}}title")] == titles
    [said] = [t for titles in names.values() for t in titles if t.startswith("rn50-openai:")]
    x, y = (row_value(small, axis, "rn50-openai") for axis in spec.panels[0].axes)
    assert said == f"rn50-openai: accuracy on ImageNet {x:.4g}, class-mean AUROC {y:.4g}"


def test_names_must_be_as_many_as_points(small, tmp_path):
    [path] = analyze(load_spec("fig4"), small, tmp_path, formats=["svg"]).files
    with pytest.raises(ValueError, match="fig4-1-clip_wit: 9 points in the SVG, and 1 names"):
        name_points(path.read_bytes(), {"fig4-1-clip_wit": ["one"]})


# ---------------------------------------------------------------------------------------------- axes


@pytest.mark.parametrize(
    ("low", "high", "scale", "expected"),
    [
        (0.2, 0.95, "probit", [0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95]),
        (0.001, 0.5, "logit", [0.001, 0.01, 0.05, 0.2, 0.4]),
        (0.0, 0.3, "linear", [0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3]),
        (0.0, 1.0, "linear", [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
    ],
)
def test_ticks_are_numbers_that_people_read(low, high, scale, expected):
    found = ticks(low, high, scale)
    assert low <= min(found)
    assert max(found) <= high
    np.testing.assert_allclose(found, expected)


RANGES = [
    (0.02, 0.98),
    (0.6, 0.9),
    (0.7, 0.72),
    (0.0005, 0.01),
    (0.94, 0.999),
    (0.02, 0.15),
    (0.9417, 0.9991),
]


@pytest.mark.parametrize("scale", ["probit", "logit", "log", "linear"])
@pytest.mark.parametrize(("low", "high"), RANGES)
def test_every_axis_has_five_ticks_or_more_that_do_not_touch(low, high, scale):
    found = ticks(low, high, scale)
    assert 5 <= len(found) <= 9
    gaps = np.diff(coordinate(found, scale)) / np.ptp(coordinate([low, high], scale))
    assert gaps.min() >= 0.1


def test_tick_labels_are_in_the_unit():
    area = Figure().subplots()
    set_axis(area, "x", (float(ndtri(0.1)), float(ndtri(0.9))), "probit", "%")
    set_axis(area, "y", (0.0, 3.0), "linear", "")
    labels = [text.get_text() for text in area.get_xticklabels()]
    assert labels == [f"{100 * value:.6g}" for value in ndtr(area.get_xticks())]
    assert "1" in [text.get_text() for text in area.get_yticklabels()]
