"""`clipjax analyze`: what it writes and prints, and the one sentence of every bad input."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from _study import models, study_rows
from typer.testing import CliRunner

from clipjax import cli
from clipjax.analysis.figures.spec import load_spec
from clipjax.errors import ClipjaxError
from clipjax.results.store import ResultStore


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of Fig. 4 (without one model's AUROC) and of Table II."""
    folder = tmp_path_factory.mktemp("analyzed") / "results"
    terms = {name: load_spec(name).terms for name in ("fig4", "table2")}
    rows = list(study_rows(dict.fromkeys((*terms["fig4"], *terms["table2"])), models(every=4)))
    ResultStore(folder).add([r for r in rows if (r["model"], r["task"]) != ("rn50-openai", "ood")])
    return folder


def invoke(*arguments: object) -> str:
    found = CliRunner().invoke(cli.app, ["analyze", *map(str, arguments)])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert found.exit_code == 0, found.output
    return found.output


def test_all_that_has_rows_is_written(results, tmp_path):
    said = invoke(results, "--out", tmp_path, "--format", "svg", "--format", "csv")
    table, _, commands = said.partition("What makes the missing rows:")
    lines = {line.split()[0]: line for line in table.splitlines() if line}
    assert {path.name for path in tmp_path.iterdir()} >= {"fig4.svg", "table2.csv"}
    assert "1 of 1" in lines["fig4"]
    assert "0 of 10" in lines["fig1"]
    assert [line for line in commands.splitlines() if line.startswith("fig10 ")] == [
        "fig10                 clipjax sweep suite:fig10",
        "fig10                 clipjax finetune suite:finetuning_paper --evaluate robustness",
    ]
    assert [line for line in commands.splitlines() if line.startswith("fig7 ")] == [
        "fig7                  clipjax sweep suite:fig7"
    ]


def test_missing_rows_are_listed(results, tmp_path):
    said = invoke(results, "--figure", "fig4", "--missing", "--out", tmp_path, "--format", "png")
    [line] = [line for line in said.splitlines() if "class_mean_auroc" in line]
    assert line.split() == ["fig4", "NINCO", "rn50-openai", "ood", "ninco", "class_mean_auroc"]
    assert "clipjax sweep suite:fig4" in said
    assert [path.name for path in tmp_path.iterdir()] == ["fig4.png"]


def test_slopes_are_listed(results, tmp_path):
    said = invoke(results, "--figure", "fig4", "--numbers", "--out", tmp_path, "--format", "csv")
    assert "fig4 (_points.csv _trends.csv)" in said
    with (tmp_path / "fig4_trends.csv").open(encoding="utf-8", newline="") as file:
        written = list(csv.DictReader(file))
    listed = [line for line in said.splitlines() if "robust fit" in line]
    for line, trend in zip(listed, written, strict=True):
        assert f"NINCO  {trend['y_axis']}  {trend['trend_title']}" in line
        few = trend["reason"] or "no interval"
        limits = [f"{float(trend[name]):.3f}" for name in ("slope_lo", "slope_hi") if trend[name]]
        assert line.endswith(f"[{', '.join(limits)}]" if limits else few)
        assert not trend["slope"] or f"  {trend['n_models']}  {float(trend['slope']):.3f}  " in line
    assert any(trend["slope_lo"] for trend in written)


def test_a_figure_of_ones_own(results, tmp_path):
    text = (Path(cli.__file__).parents[1] / "configs" / "figures" / "fig4.toml").read_text(encoding="utf-8")
    (tmp_path / "mine.toml").write_text(text.replace('title = "NINCO"', 'title = "Mine"'), encoding="utf-8")
    invoke(results, "--figure", tmp_path / "mine.toml", "--out", tmp_path, "--format", "svg")
    assert ">Mine<" in (tmp_path / "mine.svg").read_text(encoding="utf-8")


def test_names_of_a_figure_that_nothing_has_are_named(results, tmp_path):
    text = (Path(cli.__file__).parents[1] / "configs" / "figures" / "fig4.toml").read_text(encoding="utf-8")
    changes = (('"ood"', '"odd"'), ('"ninco"', '"nnco"'), ('"class_mean_auroc"', '"class_auroc"'))
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    arguments = (results, "--figure", tmp_path / "mine.toml", "--out", tmp_path / "out")
    found = CliRunner().invoke(cli.app, ["analyze", *map(str, arguments)])
    assert "clipjax eval zeroshot" in found.output
    assert "clipjax eval odd" not in found.output, "it would be refused"
    for says in (
        "task 'odd'; did you mean ood",
        "data set 'nnco'; did you mean ninco",
        "metric 'class_auroc'",
    ):
        assert f"mine: unknown {says}" in str(found.exception)


def test_the_list_draws_nothing(results, tmp_path):
    said = invoke(results, "--list", "--out", tmp_path)
    assert "Fig. 10" in said
    assert "Table IV" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--figure", "fig44"], "unknown figure 'fig44'"),
        (["--format", "jpg"], "unknown format 'jpg'"),
        (["--figure", "fig1"], "has no row of these figures"),
        (["--figure", "nowhere.toml"], "nowhere.toml"),
        (
            ["--figure", "fig4", "--prompts", "openai80"],
            "unknown prompt set 'openai80'; did you mean openai_80",
        ),
        (["--figure", "fig4", "--precision", "fats"], "unknown precision 'fats'"),
    ],
)
def test_bad_input(results, tmp_path, arguments, message):
    with pytest.raises(ClipjaxError, match=message):
        invoke(results, "--out", tmp_path, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_two_figures_of_one_name_do_not_overwrite_each_other(results, tmp_path):
    shipped = Path(cli.__file__).parents[1] / "configs" / "figures" / "fig4.toml"
    (tmp_path / "fig4.toml").write_bytes(shipped.read_bytes())
    with pytest.raises(ClipjaxError, match="two figures are called 'fig4'"):
        invoke(results, "-f", "fig4", "-f", tmp_path / "fig4.toml", "--out", tmp_path / "out")
    invoke(results, "-f", "fig4", "-f", "fig4", "--out", tmp_path / "out", "--format", "svg")


def test_a_file_in_place_of_the_folder_is_kept(results, tmp_path):
    (tmp_path / "out").write_text("precious")
    for out in (tmp_path / "out", tmp_path / "out" / "below"):
        with pytest.raises(ClipjaxError, match=r"out is a file, not a folder for figures \(--out\)"):
            invoke(results, "--figure", "fig4", "--out", out)
    assert (tmp_path / "out").read_text() == "precious"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("fig4", r"fig4, NINCO: rn50-openai: ood ninco class_mean_auroc \(run \S+\): 70 has no place on"),
        (
            "linear",
            r"linear, NINCO: rn50-openai: ood .*: 70 is not a fraction from 0 to 1, which an axis in %",
        ),
    ],
)
def test_per_cent_are_named_and_cost_no_other_figure(tmp_path, name, said):
    terms = {each: load_spec(each).terms for each in ("fig4", "table2")}
    rows = list(study_rows(dict.fromkeys((*terms["fig4"], *terms["table2"])), models(every=4)))
    wrong = next(r for r in rows if (r["model"], r["task"]) == ("rn50-openai", "ood"))
    wrong |= {"value": 70.0, "interval": None}
    ResultStore(tmp_path / "results").add(rows)
    text = (Path(cli.__file__).parents[1] / "configs" / "figures" / "fig4.toml").read_text(encoding="utf-8")
    (tmp_path / "linear.toml").write_text(text.replace('"probit"', '"linear"'), encoding="utf-8")
    figure = name if name == "fig4" else tmp_path / "linear.toml"
    with pytest.raises(ClipjaxError, match=said):
        invoke(tmp_path / "results", "-f", figure, "-f", "table2", "--out", tmp_path / "o", "--format", "csv")
    assert [path.name for path in (tmp_path / "o").iterdir()] == ["table2.csv"]


def test_rows_without_a_value_fill_no_table(tmp_path):
    rows = list(study_rows(load_spec("table2").terms, models(every=4)))
    empty = {"value": None, "interval": None, "note": "not defined", "reference": None}
    ResultStore(tmp_path / "results").add([row | empty for row in rows])
    with pytest.raises(ClipjaxError, match="no model has all rows of a figure"):
        invoke(tmp_path / "results", "--figure", "table2", "--out", tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_an_interval_beyond_the_ends_of_an_axis_is_drawn_to_its_end(tmp_path):
    rows = list(study_rows(load_spec("fig4").terms, models(every=4)))
    for row in rows:
        if row["task"] == "ood":
            row["interval"] = {"lo": -0.01, "hi": 1.01, "level": 0.95, "method": "normal"}
    ResultStore(tmp_path / "results").add(rows)
    said = invoke(tmp_path / "results", "-f", "fig4", "--out", tmp_path / "o", "--format", "svg")
    assert "1 of 1" in said


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(ClipjaxError, match="nothing"):
        invoke(tmp_path / "nothing")
