"""Models of the user's own in figures, tables and the page: none vanishes, and none is shown as another's."""

from __future__ import annotations

import csv
import dataclasses
import io
from pathlib import Path
from typing import Any

import pytest
from _long import mostly_long
from _study import models, study_rows
from typer.testing import CliRunner

from clipjax import cli
from clipjax.analysis.figures.figure_set import FigureResult, analyze, contents
from clipjax.analysis.figures.frame import drawn, handles, members_of
from clipjax.analysis.figures.panels.scatter import draw_scatter
from clipjax.analysis.figures.panels.strip import draw_strip
from clipjax.analysis.figures.spec import FitLine, Spec, load_spec
from clipjax.analysis.figures.yours import YOURS, is_own, look_of, why_none
from clipjax.analysis.report.data import report_data
from clipjax.analysis.report.write import Choices, write_report
from clipjax.analysis.rows.cells import RowIndex
from clipjax.errors import ClipjaxError
from clipjax.results.store import ResultStore

SIZE = {"params_m": 90.0, "image_size": 224}
UNKNOWN = {"kind": "zero_shot", "facts_origin": "unknown", "facts_of": None}
OLD = {"kind": "predictions"}
TUNED = {"group": "clip_ft", "fine_tune": "FLYP", "lineage": {"parent": "vit_b_32-openai"}}
STATED = {"group": "clip", "fine_tune": "none", "train_source": "WIT", "facts_origin": "stated"}
KNOWN = {"group": "standard", "arch_kind": "cnn", "fine_tune": "none"}
OWN = {"mine": UNKNOWN, "old_mine": OLD, "tuned": TUNED}


def rows_of(spec: Spec, facts: dict[str, dict[str, Any]]) -> list[Any]:
    """Rows of all numbers; what the study's noise needs of a model is not written."""
    base = {"group": "clip", "arch_kind": "vit", **SIZE}
    found = list(study_rows(spec.terms, {name: {**base, **of} for name, of in facts.items()}))
    return [{**each, "model_facts": facts[each["model"]]} for each in found]


def few() -> dict[str, dict[str, Any]]:
    return models(every=12)


def done_of(name: str, facts: dict[str, dict[str, Any]], out: Path, **choice: Any) -> FigureResult:
    spec = dataclasses.replace(load_spec(name), **choice)
    return analyze(spec, RowIndex(rows_of(spec, facts)), out, formats=["svg", "csv", "markdown"])


def points_csv(done: FigureResult) -> list[dict[str, str]]:
    [path] = [path for path in done.files if path.name.endswith("_points.csv")]
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


# ---------------------------------------------------------------------------------------------- groups


@pytest.mark.parametrize(
    "name",
    mostly_long(["fig1", "fig2", "fig8", "effective_robustness"], keep=["fig1", "effective_robustness"]),
)
def test_no_model_of_the_users_own_vanishes(name, tmp_path):
    """A model that fits no group was in no figure: "0 models, missing rows: all"."""
    done = done_of(name, OWN, tmp_path)
    assert done.models >= OWN.keys() or name == "effective_robustness"
    assert (done.drawn > 0, bool(done.missing)) == (True, name == "effective_robustness")
    assert {each.model for each in done.placeless if each.shown} == OWN.keys()
    groups = {line["model"]: line["group"] for line in points_csv(done)}
    assert groups == dict.fromkeys(OWN, YOURS.key)
    assert f">{YOURS.title} (3)<" in (tmp_path / f"{name}.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "draw"), [("fig4", draw_scatter), ("fig2", draw_strip)])
def test_yours_are_a_group_of_their_own_beside_the_others(name, draw):
    spec = load_spec(name)
    panels = contents(spec, RowIndex(rows_of(spec, {**few(), **OWN})))
    drawing = draw(spec, panels, ["clipjax"])
    titles = drawing.names[f"{name}-1-yours"]
    assert sorted(title.partition(":")[0] for title in titles) == sorted(OWN)
    labels = [label.get_text() for area in drawing.figure.axes for label in area.get_yticklabels()]
    if name == "fig4":
        [entries] = handles(spec, panels)
        labels = [str(entry.get_label()) for entry in entries][::-1]
    assert labels[0] == f"{YOURS.title} (3)"  # last in the legend; the bottom line of a strip


def test_its_marker_and_colour_are_no_other_groups():
    for name in ("fig1", "fig2", "fig6", "fig8", "fig9"):
        for group in load_spec(name).groups:
            assert (group.colour.lower(), group.marker) != (YOURS.colour.lower(), YOURS.marker)
            assert group.colour.lower() != YOURS.colour.lower()
            assert group.marker != YOURS.marker


def test_others_models_that_a_figure_is_not_of_stay_away_and_are_named(tmp_path):
    """A standard ResNet is not "yours" in a figure of LAION's CLIPs; that no group has it is said."""
    done = done_of("fig8", {"resnet": KNOWN}, tmp_path)
    assert (done.drawn, done.models, done.files) == (0, frozenset(), ())
    assert done.missing == ()
    assert done.why_empty == "none: 1 model with the rows in none of the groups"
    assert {(each.model, each.shown) for each in done.placeless} == {("resnet", False)}
    assert done.placeless[0].why == "no group has group 'standard', fine_tune 'none', arch_kind 'cnn'"


def test_why_a_model_is_in_no_group():
    spec = load_spec("fig1")
    assert why_none(spec, UNKNOWN) == "not known: group, fine_tune, train_source (facts_origin unknown)"
    assert why_none(spec, OLD) == "not known: group, fine_tune, train_source"
    assert why_none(spec, {"group": "clip"}) == "not known: fine_tune, train_source"
    assert why_none(spec, TUNED) == "no group has group 'clip_ft', fine_tune 'FLYP'"
    nine = load_spec("fig9")
    assert why_none(nine, {**STATED, "fine_tune": "FLYP", "arch": "ViT-B-32-quickgelu"}).startswith(
        "no group has fine_tune 'FLYP'"
    )


def test_whose_a_model_is():
    assert [is_own(facts) for facts in (UNKNOWN, OLD, TUNED, STATED)] == [True] * 4
    assert not is_own({"kind": "zero_shot"}), "a published model of no known group"
    registered = {**few()["rn50-openai"]} if "rn50-openai" in few() else {**models()["rn50-openai"]}
    assert not is_own(registered)
    assert not is_own({**registered, "facts_origin": "registry"})
    assert not is_own(KNOWN)
    nine = load_spec("fig9")
    assert look_of(nine, "tuned", TUNED) is None  # the figure is of models that were not fine-tuned
    assert look_of(nine, "mine", UNKNOWN) == (YOURS, None)


def test_trends_run_through_yours_only_where_asked():
    spec = load_spec("fig4")
    facts = {**few(), "odd": {"group": "clip", "train_source": "Mine", "facts_origin": "unknown"}}
    [content] = contents(spec, RowIndex(rows_of(spec, facts)))
    line = FitLine("clips", "CLIPs", {"group": "clip"}, "huber", None, "solid")
    assert "odd" in {point.model for point in drawn(spec, content)}
    without = {point.model for point in members_of(line, content)}
    asked = {point.model for point in members_of(dataclasses.replace(line, yours=True), content)}
    assert without
    assert asked - without == {"odd"}


def test_a_file_may_ask_for_yours_in_a_trend(tmp_path):
    text = Path(cli.__file__).parents[1].joinpath("configs/figures/fig4.toml").read_text(encoding="utf-8")
    (tmp_path / "mine.toml").write_text(text.replace("[[fits]]\n", "[[fits]]\nyours = true\n", 1), "utf-8")
    assert [line.yours for line in load_spec(tmp_path / "mine.toml").fits][:2] == [True, False]


# --------------------------------------------------------------------------------------- what is missing


def test_missing_tells_apart_rows_of_all_rows_of_some_and_groups(tmp_path):
    assert done_of("fig4", {}, tmp_path).why_empty == "all"
    spec = load_spec("fig4")

    def why(rows: list[Any]) -> str:
        done = analyze(spec, RowIndex(rows), tmp_path)
        assert (done.drawn, done.files) == (0, ())
        return done.why_empty

    resnet, clips = rows_of(spec, {"resnet": {**KNOWN, "group": "x"}}), rows_of(spec, few())
    ood = [each for each in clips if each["task"] == "ood"]
    assert why([*ood, *resnet]) == "none: 1 model with the rows in none of the groups"
    one, other = [*few()][:2]
    halves = [each for each in clips if each["model"] == (other if each["task"] == "ood" else one)]
    assert why(halves) == "some of every model"
    assert why(ood) == "1 of all models"


def test_an_empty_panel_never_says_no_rows_where_a_group_is_missing():
    """Fig. 8 has one model of its groups, which lacks the first panel's number, and one of none."""
    spec = load_spec("fig8")
    clip = {"vit": {"group": "clip", "fine_tune": "none", "train_source": "LAION-2B", "arch_kind": "vit"}}
    assert spec.panels[0].y is not None
    [first] = spec.panels[0].y.column.terms
    found = [each for each in rows_of(spec, clip) if each["dataset"] != first.dataset]
    drawing = draw_scatter(spec, contents(spec, RowIndex([*found, *rows_of(spec, {"resnet": KNOWN})])), [])
    [said] = [text.get_text() for text in drawing.figure.axes[0].texts]
    assert said.replace("\n", " ").startswith("no model in these groups; in none of them: resnet")
    assert "no rows" not in said


# ------------------------------------------------------------------------------------ stated, highlighted


def test_a_stated_model_is_in_its_group_and_says_so(tmp_path):
    done = done_of("fig4", {**few(), "stated": STATED}, tmp_path)
    [line] = [line for line in points_csv(done) if line["model"] == "stated"]
    assert (line["group"], line["facts_origin"]) == ("clip_wit", "stated")
    text = (tmp_path / "fig4.svg").read_text(encoding="utf-8")
    assert ">ring: facts stated by the user<" in text
    assert "(facts stated by the user)</title>" in text.replace("ns0:", "")
    plain = done_of("fig4", few(), tmp_path / "plain")
    assert "facts stated" not in (tmp_path / "plain" / "fig4.svg").read_text(encoding="utf-8")
    assert {line["facts_origin"] for line in points_csv(plain)} == {""}


@pytest.mark.parametrize(
    ("name", "model"),
    mostly_long(
        [
            ("fig4", "vit_b_32-openai"),
            ("fig4", "mine"),
            ("fig4", "resnet"),
            ("fig2", "mine"),
            ("fig8", "resnet"),
        ],
        keep=[("fig4", "mine"), ("fig4", "resnet")],
    ),
)
def test_a_highlighted_model_is_a_star_with_its_name(name, model, tmp_path):
    """In any group, in none, and in a figure of other models."""
    facts = {"vit_b_32-openai": models()["vit_b_32-openai"], **few(), "mine": UNKNOWN, "resnet": KNOWN}
    done = done_of(name, facts, tmp_path, highlight=(model,))
    assert model in done.models
    text = (tmp_path / f"{name}.svg").read_text(encoding="utf-8")
    assert '-star"' in text
    assert f">{model}<" in text
    assert "star: highlighted" in text
    marked = {line["model"] for line in points_csv(done) if line["highlighted"] == "True"}
    assert marked == {model}


def test_a_highlighted_model_is_in_no_trend():
    """The trends judge it; those without it stay as they are."""
    spec = load_spec("fig4")
    index = RowIndex(
        rows_of(spec, {**few(), "resnet": {"group": "clip", "fine_tune": "x", "train_source": "y"}})
    )
    lines = [
        [
            {p.model for p in members_of(line, content)}
            for line in each.fits
            for content in contents(each, index)
        ]
        for each in (spec, dataclasses.replace(spec, highlight=("resnet", "rn50-openai")))
    ]
    assert "rn50-openai" in set().union(*lines[0])
    assert lines[1] == [members - {"resnet", "rn50-openai"} for members in lines[0]]


def test_the_trend_of_distances_leaves_a_highlighted_model_out():
    """Panels above a trend fit it themselves."""
    spec = load_spec("effective_robustness")
    index = RowIndex(rows_of(spec, models(every=3)))
    plain = [each for each in contents(spec, index) if each.panel.above]
    standard = next(p.model for p in plain[0].points if p.facts["group"] == "standard")
    judged = [
        each for each in contents(dataclasses.replace(spec, highlight=(standard,)), index) if each.panel.above
    ]
    before, after = (
        {p.model: p.y.value for p in each[0].points if p.model != standard} for each in (plain, judged)
    )
    assert before.keys() == after.keys()
    assert before != after


def test_models_beyond_the_trend_are_named(tmp_path):
    """In x outside of the models of the figure's reference."""
    spec = load_spec("effective_robustness")
    index = RowIndex(rows_of(spec, models(every=3)))
    done = analyze(spec, index, tmp_path, formats=["csv"])
    told = points_csv(done)
    beyond = {each["model"] for each in told if each["extrapolated"] == "True"}
    assert set(done.extrapolated) == beyond
    assert 0 < len(beyond) < len({each["model"] for each in told})


# ---------------------------------------------------------------------------------------------- tables


def test_yours_are_the_last_lines_of_a_table(tmp_path):
    twelve = {name: facts for name, facts in models().items() if facts.get("train_source") == "WIT"}
    done = done_of("table4", {**twelve, **OWN, "stated": STATED}, tmp_path)
    text = (tmp_path / "table4.md").read_text(encoding="utf-8")
    last = text.strip().splitlines()[-4:]
    assert all(line.startswith("| yours ") for line in last)
    assert [name for line in last for name in (*OWN, "stated") if f"| {name}" in line] == sorted(
        [*OWN, "stated"]
    )
    assert "| stated (facts stated by the user) |" in text
    assert "stated" in done.models
    [own] = {each.why for each in done.placeless}
    assert own == "no line of the table is of it"


# ------------------------------------------------------------------------------------ command and page


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own") / "results"
    ResultStore(folder).add(rows_of(load_spec("fig4"), {**few(), **OWN, "stated": STATED}))
    return folder


def invoke(*arguments: object) -> str:
    found = CliRunner().invoke(cli.app, [*map(str, arguments)])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert found.exit_code == 0, found.output
    return found.output


def test_analyze_names_the_models_that_no_group_has(results, tmp_path):
    said = invoke("analyze", results, "--figure", "fig4", "--format", "csv", "--out", tmp_path)
    _, _, listed = said.partition("Models with the rows, but in no group")
    lines = {line.split()[1]: line for line in listed.splitlines() if line.startswith("fig4")}
    assert lines.keys() == OWN.keys()
    assert "yours" in lines["mine"]
    assert lines["mine"].endswith("not known: group, fine_tune, train_source (facts_origin unknown)")


def test_analyze_says_groups_are_missing_and_not_rows(tmp_path):
    folder = tmp_path / "results"
    ResultStore(folder).add(rows_of(load_spec("fig8"), {"resnet": KNOWN}))
    with pytest.raises(ClipjaxError, match=r"no group of these figures has a place for the models .*resnet"):
        invoke("analyze", folder, "--figure", "fig8", "--out", tmp_path)
    halves = [each for each in rows_of(load_spec("fig4"), few()) if each["task"] == "ood"]
    ResultStore(tmp_path / "halves").add(halves)
    with pytest.raises(ClipjaxError, match="no model has all rows of a figure"):
        invoke("analyze", tmp_path / "halves", "--figure", "fig4", "--out", tmp_path)


@pytest.mark.parametrize("command", ["analyze", "report"])
def test_an_unknown_model_to_highlight_is_refused(results, tmp_path, command):
    with pytest.raises(ClipjaxError, match="unknown model 'mien'; did you mean mine"):
        invoke(command, results, "--highlight", "mien", "--out", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_analyze_takes_several_to_highlight(results, tmp_path):
    choice = ["--highlight", "mine", "--highlight", "stated", "--figure", "fig4", "--format", "svg"]
    invoke("analyze", results, *choice, "--out", tmp_path)
    text = (tmp_path / "fig4.svg").read_text(encoding="utf-8")
    assert ">mine<" in text
    assert ">stated<" in text


def test_the_page_has_yours_in_every_scheme_and_the_stars(results, tmp_path):
    rows = ResultStore(results).rows()
    data = report_data(rows, "x", highlight=("stated",))
    assert [data["models"][k] for k in data["highlight"]] == ["stated"]
    for scheme in data["schemes"]:
        places = dict(zip(data["models"], scheme["of"]))
        in_none = [name for name in OWN if places[name] == scheme["yours"]]
        assert in_none or scheme["title"] in ("fine tune", "training")
        if scheme["yours"] >= 0:
            assert scheme["groups"][-1]["title"] == YOURS.title
            assert scheme["yours"] == len(scheme["groups"]) - 1
        assert all(places[name] != -1 for name in (*OWN, "stated"))
    plain = report_data([each for each in rows if each["model"] in few()], "x")
    assert {scheme["yours"] for scheme in plain["schemes"]} == {-1}
    written = write_report(rows, tmp_path / "r.html", "x", Choices(figures=["fig4"], highlight=("mine",)))
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert written.models == len(few()) + 4
    assert "In no group, shown as yours: mine, old_mine, tuned." in text
    assert "star: highlighted" in text


def test_the_page_says_which_figures_lack_a_group(tmp_path):
    rows = rows_of(load_spec("fig8"), {"resnet": KNOWN})
    write_report(rows, tmp_path / "r.html", "x", Choices(figures=["fig8", "fig1"]))
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "1 model with the rows in none of the groups" in text
    assert text.count("no rows; clipjax sweep") == 1  # of Fig. 1, which has none
