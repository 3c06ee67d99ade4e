"""`clipjax analyze`: what it writes and prints, and the one sentence of every bad input."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from _study import models, study_rows
from typer.testing import CliRunner

from clipjax import cli
from clipjax.analysis.figure_spec import load_spec
from clipjax.errors import ClipjaxError
from clipjax.results import ResultStore


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
    assert "The task that matches dense features is to come." in said
    assert [line for line in commands.splitlines() if line.startswith("fig10 ")] == [
        "fig10                 clipjax sweep suite:fig10",
        "fig10                 clipjax finetune suite:finetuning_paper --evaluate robustness",
    ]
    assert "fig7" not in commands


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
    ],
)
def test_bad_input(results, tmp_path, arguments, message):
    with pytest.raises(ClipjaxError, match=message):
        invoke(results, "--out", tmp_path, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(ClipjaxError, match="nothing"):
        invoke(tmp_path / "nothing")
