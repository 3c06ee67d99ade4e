"""The study's tables of a made-up study: cells are the rows, with interval, n and what the paper says."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from _study import models, study_rows, tuned

from clipjax.analysis.figures.figure_set import FigureResult, analyze
from clipjax.analysis.figures.paper_tables import fill_table
from clipjax.analysis.figures.spec import load_spec
from clipjax.analysis.rows.cells import RowIndex
from clipjax.analysis.rows.groups import matches

TABLES = ["table1", "table2", "table3", "table4"]


def rows_of(name: str, of: dict[str, Any] | None = None) -> list[Any]:
    """Of the models of the table's lines and some others, or of those given."""
    spec = load_spec(name)
    if of is None:
        everyone = {**models(), **tuned()}
        in_lines = {
            model: facts
            for model, facts in everyone.items()
            if any(matches({**facts, "model": model}, line.where) for line in spec.lines)
        }
        of = {**models(every=8), **in_lines}
    return list(study_rows(spec.terms, of))


def write(name: str, rows: list[Any], out: Path) -> tuple[FigureResult, list[dict[str, str]]]:
    done = analyze(load_spec(name), RowIndex(rows), out)
    with open(out / f"{name}.csv", encoding="utf-8", newline="") as file:
        return done, list(csv.DictReader(file))


@pytest.mark.parametrize("name", TABLES)
def test_cells_are_the_rows(name, tmp_path):
    spec, rows = load_spec(name), rows_of(name)
    done, lines = write(name, rows, tmp_path)
    assert [path.suffix for path in done.files] == [".md", ".tex", ".csv"]
    value = {(r["model"], r["task"], r["dataset"], r["metric"], r["slice"]): r for r in rows}
    assert done.drawn == len(spec.lines)
    assert done.missing == ()
    checked = 0
    for line in lines:
        of = [each for each in spec.lines if list(each.cells) == [line[title] for title in spec.head]]
        [column] = [column for column in of[0].columns if column.key == line["column"]]
        used = [value[line["model"], *term] for term in column.terms]
        assert float(line["value"]) == pytest.approx(sum(r["value"] for r in used) / len(used), rel=1e-12)
        assert int(line["n"]) == sum(r["n"] for r in used)
        assert float(line["lo"]) < float(line["value"]) < float(line["hi"])
        checked += 1
    assert checked >= len(spec.lines) * len(spec.lines[0].columns)


@pytest.mark.parametrize("name", TABLES)
def test_the_papers_numbers_stand_beside(name, tmp_path):
    """Each is the paper's for that model, and its difference is measured less published."""
    _, lines = write(name, rows_of(name), tmp_path)
    for line in lines:
        assert line["published"], line
        if line["value"]:
            assert float(line["difference"]) == pytest.approx(float(line["value"]) - float(line["published"]))
    if name == "table4":  # as section X-A says it
        of = {(line["model"], line["column"]): line["published"] for line in lines}
        assert of["vit_b_16-dfn2b", "larger"] == "0.8"
        assert of["vit_b_16-laion2b_s34b_b88k", "larger"] == "0.69"


def test_table3_tells_lists_apart(tmp_path):
    """Lists of one model are not another's: the convention of a row decides."""
    rows = rows_of("table3")
    for row in rows:
        row["convention"]["annotations"] = "resnet50.tv_in1k"
    _, lines = write("table3", rows, tmp_path)
    assert {line["Category list"] for line in lines if line["model"]} == {"ResNet-50"}
    assert len({line["model"] for line in lines if line["model"]}) == 8
    text = (tmp_path / "table3.md").read_text(encoding="utf-8")
    assert text.count("| no rows |") == 16


def test_table3_holds_yours_once_for_each_maker_of_lists(tmp_path):
    own = {"mine": {"group": "clip", "arch_kind": "vit", "params_m": 9.0, "facts_origin": "unknown"}}
    rows = []
    for maker in ("resnet50.tv_in1k", "vit_l_14_336-openai"):
        of_maker = rows_of("table3", own)
        for row in of_maker:
            row["convention"]["annotations"] = maker
        rows += of_maker
    _, lines = write("table3", rows, tmp_path)
    titles = {line["Category list"] for line in lines if line["model"]}
    assert titles == {"yours, as ResNet-50", "yours, as CLIP, ViT-L/14-336"}


def test_three_seeds_are_three_lines():
    known = {**models(), **tuned()}
    for seed in (1, 2):
        known[f"vit_b_32-openai-FLYP-{seed}"] = known["vit_b_32-openai-FLYP"]
    lines = fill_table(load_spec("table1"), RowIndex(rows_of("table1", known)))
    assert [each.model for each in lines if each.line.cells == ("ViT-B/32", "Contrastive FT")] == [
        "vit_b_32-openai-FLYP",
        "vit_b_32-openai-FLYP-1",
        "vit_b_32-openai-FLYP-2",
    ]


def test_a_mean_without_one_of_its_rows_is_no_number(tmp_path):
    rows = [r for r in rows_of("table4") if (r["model"], r["dataset"]) != ("vit_b_16-dfn2b", "objectnet")]
    done, lines = write("table4", rows, tmp_path)
    assert {(each.panel, each.model, each.row) for each in done.missing} == {
        ("ViT-B/16, DFN-2B, yes", "vit_b_16-dfn2b", f"{task} objectnet {metric}")
        for task, metric in [
            ("zeroshot", "top1"),
            ("calibration", "ece_15_before"),
            ("calibration", "ece_15_after"),
        ]
    }
    [line] = [
        each for each in lines if (each["model"], each["column"]) == ("vit_b_16-dfn2b", "classification")
    ]
    assert (line["value"], line["missing"]) == ("", "zeroshot objectnet top1")
    assert "6 of 7 rows (0.7)" in (tmp_path / "table4.md").read_text(encoding="utf-8")


def test_the_text_for_people(tmp_path):
    write("table1", rows_of("table1", {**models(), **tuned()}), tmp_path)
    about, _, head, _, first, *_ = (tmp_path / "table1.md").read_text(encoding="utf-8").splitlines()
    assert about.endswith("Value [interval] (the paper's value). n: Shape bias 10,000.")
    assert head == "| Backbone | FT method | Shape bias | model |"
    assert first.startswith("| ViT-B/32 | Zero shot | 0.")
    assert first.endswith("(0.575) | vit_b_32-openai |")
    latex = (tmp_path / "table1.tex").read_text(encoding="utf-8")
    assert latex.startswith("% Table I: Shape bias of fine-tuned CLIPs.")
    assert r"\begin{tabular}" in latex
    assert r"vit\_b\_32-openai \\" in latex
