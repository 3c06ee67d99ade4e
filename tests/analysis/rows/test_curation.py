"""The curation table: which rows a cell averages, what is missing, intervals, choices, formats."""

from __future__ import annotations

import csv
import io
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from _planted import planted
from _rows import row
from typer.testing import CliRunner

from clipjax.analysis.rows.cells import INDEPENDENT, SHARED, Cell, Term
from clipjax.analysis.rows.curation import (
    FORMATS,
    NOTE,
    Table,
    columns,
    curation_table,
    export_curation,
    listing,
    long,
    wide,
)
from clipjax.cli import app
from clipjax.data.cards import read_card
from clipjax.errors import DataError, UsageError
from clipjax.results.rows import validate_rows
from clipjax.results.store import ResultStore, new_run_id

RUN = "20240101T000000.000000Z-00000000"
MODEL = "vit_b_16-dfn2b"
HALF = 0.02


def row_of(term: Term, value: float, **changed: Any) -> Any:
    interval = {"lo": value - HALF, "hi": value + 2 * HALF, "level": 0.95, "method": "wilson"}
    named = {"task": term.task, "dataset": term.dataset, "metric": term.metric, "slice": term.slice}
    return row(RUN, model=MODEL, value=value, interval=interval, **named, **{"convention": {}, **changed})


def complete(**changed: Any) -> list[Any]:
    """A row for each term; the k-th term of a column has the value (k + 1) / 10."""
    values = {term: (k + 1) / 10 for column in columns() for k, term in enumerate(column.terms)}
    return [row_of(term, value, **changed) for term, value in values.items()]


def cell_of(table: Table, key: str, model: str = MODEL) -> Cell:
    [cell] = [cell for cell in table[model] if cell.column.key == key]
    return cell


def test_columns_of_another_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    head = '[[columns]]\nkey = "mine"\ntitle = "Mine"\nbetter = "higher"\n'
    file.write_text(head + 'rows = [{ task = "zeroshot", dataset = "pets", metric = "top1" }]\n')
    found = row_of(Term("zeroshot", "pets", "top1"), 0.7)
    assert wide(curation_table([found], of=columns(file))) == (["model", "Mine"], [[MODEL, "0.7000"]])
    for text, says in (
        ("", r"expected \[\[columns\]\]"),
        (head, "column 1: the key 'rows' is missing"),
        (head + "rows = []\n", r"rows = \[\] must be a list that is not empty"),
        (
            head + 'rows = [{ task = "zeroshot", data = "pets", metric = "top1" }]\n',
            r"rows\[0\]: unknown key 'data'; did you mean dataset.*also .*'dataset' is missing",
        ),
    ):
        (bad := tmp_path / f"{len(text)}.toml").write_text(text)
        with pytest.raises(DataError, match=rf"{bad.name}: .*{says}"):
            columns(bad)


def test_the_columns_are_those_of_table_iv() -> None:
    assert {column.key: len(column.terms) for column in columns()} == {
        "classification": 7,
        "ood_auroc": 5,
        "ood_fpr95": 5,
        "ece_before": 6,
        "ece_after": 6,
        "larger": 1,
        "shape": 1,
        "color": 1,
        "retrieval": 4,
        "corruptions_3d": 6,
    }
    assert [c.key for c in columns() if c.better == "lower"] == ["ood_fpr95", "ece_before", "ece_after"]


def test_every_term_is_a_data_set_that_its_task_is_made_for() -> None:
    for column in columns():
        for term in column.terms:
            assert term.task in read_card(term.dataset).tasks, term


def test_a_cell_is_the_mean_of_its_rows() -> None:
    rows = complete()
    validate_rows([{**one, "run_id": new_run_id()} for one in rows])
    table = curation_table(rows)
    assert list(table) == [MODEL]
    for column, cell in zip(columns(), table[MODEL]):
        n = len(column.terms)
        assert cell.value == pytest.approx(sum(range(1, n + 1)) / n / 10)
        assert [(r["dataset"], r["metric"]) for r in cell.rows] == [
            (t.dataset, t.metric) for t in column.terms
        ]
        assert cell.missing == ()


@pytest.mark.parametrize(("key", "n"), [("classification", 7), ("ece_before", 6)])
def test_independent_half_widths_add_up_as_squares(key: str, n: int) -> None:
    cell = cell_of(curation_table(complete()), key)
    assert cell.interval is not None
    assert cell.value is not None
    assert cell.interval["lo"] == pytest.approx(cell.value - HALF / math.sqrt(n))
    assert cell.interval["hi"] == pytest.approx(cell.value + 2 * HALF / math.sqrt(n))
    assert (cell.interval["method"], cell.interval["level"]) == (INDEPENDENT, 0.95)


@pytest.mark.parametrize("key", ["ood_auroc", "ece_after", "retrieval", "corruptions_3d"])
def test_rows_that_share_images_may_err_together(key: str) -> None:
    cell = cell_of(curation_table(complete()), key)
    assert cell.interval is not None
    assert cell.value is not None
    assert cell.interval["lo"] == pytest.approx(cell.value - HALF)
    assert cell.interval["hi"] == pytest.approx(cell.value + 2 * HALF)
    assert cell.interval["method"] == SHARED


def test_one_row_keeps_its_own_interval() -> None:
    cell = cell_of(curation_table(complete()), "larger")
    assert cell.interval == cell.rows[0]["interval"]


def test_without_an_interval_of_every_row_there_is_none() -> None:
    rows = complete()
    rows[0] = {**rows[0], "interval": None}
    table = curation_table(rows)
    assert cell_of(table, "classification").interval is None
    assert cell_of(table, "retrieval").interval is not None


def test_a_missing_row_leaves_the_cell_without_a_value() -> None:
    rows = [one for one in complete() if one["dataset"] != "objectnet"]
    rows = [r | {"value": None, "note": "not applicable: x"} if r["dataset"] == "sun" else r for r in rows]
    table = curation_table(rows)
    cell = cell_of(table, "classification")
    assert (cell.value, cell.interval, cell.reference, len(cell.rows)) == (None, None, [], 6)
    assert cell.missing == ("zeroshot objectnet top1",)
    assert cell_of(table, "ood_auroc").missing == ("ood sun auroc (not applicable: x)",)
    shown = dict(zip(*(wide(table)[0], wide(table)[1][0])))
    assert (shown["Classification"], shown["OOD AUROC"], shown["ECE before"]) == (
        "(6 of 7)",
        "(4 of 5)",
        "(5 of 6)",
    )
    assert [line[2:5:2] for line in listing(table)[1] if line[1] == "classification"][-1] == [
        "zeroshot objectnet top1",
        "missing",
    ]


def test_what_is_published_stands_beside() -> None:
    table = curation_table(complete())
    [reference] = cell_of(table, "classification").reference
    assert (reference["value"], reference["source"]) == (0.70, "paper")
    assert reference["difference"] == pytest.approx(0.4 - 0.70)
    assert cell_of(table, "larger").reference[0]["value"] == 0.80  # of its one row
    titles, lines = wide(table)
    assert dict(zip(titles, lines[1])) == {
        "model": "  paper",
        "Classification": "0.7",
        "OOD AUROC": "0.88",
        "OOD FPR@95": "0.52",
        "ECE before": "0.12",
        "ECE after": "0.07",
        "Larger": "0.8",
        "Shape": "0.66",
        "Color": "0.73",
        "Retrieval": "0.85",
        "3D": "0.4",
    }


def test_models_are_chosen_and_ordered() -> None:
    rows = complete()
    others: list[Any] = [{**one, "model": "other"} for one in rows]
    assert list(curation_table([*rows, *others], ["other", MODEL, "other"])) == ["other", MODEL]
    resized = [{**one, "model_facts": {"image_size": 336, "resized": {}}} for one in rows]
    resized = [{**one, "model_facts": {"image_size": 336, "resized": {"rule": "x"}}} for one in resized]
    assert list(curation_table([*rows, *resized])) == [MODEL, f"{MODEL}@336px"]
    with pytest.raises(UsageError, match="unknown model 'nobody'"):
        curation_table(rows, ["nobody"])
    with pytest.raises(DataError, match=r"there are no result rows|none of the rows"):
        curation_table([row(RUN)])


def test_measured_whole_and_newest_rows_are_taken() -> None:
    term = columns()[5].terms[0]
    newest = RUN.replace("2024", "2025")
    fields = [
        {"value": 0.1, "origin": "published"},
        {"value": 0.2, "precision": "fast"},
        {"value": 0.3, "sample": {"limit": 10, "seed": 0, "of": 20}, "run_id": newest},
        {"value": 0.4},
        {"value": 0.5, "run_id": newest},
    ]
    rows = [row_of(term, 0.5) | changed for changed in fields]

    def value(some: list[Any], **settings: Any) -> float | None:
        return cell_of(curation_table(some, **settings), "larger").value

    assert value(rows) == 0.5
    assert value(rows, precision="fast") == 0.2
    assert value(rows[:4]) == 0.4
    assert value(rows[:1]) == 0.1
    assert value([rows[2], rows[0]]) == 0.1  # a newer sample does not replace what is published of the whole
    assert wide(curation_table(rows[2:3]))[1][0][6] == "0.3000* (10 of 20 images)"
    assert wide(curation_table(rows[3:4]))[1][0][6] == "0.4000"


def test_a_mean_over_several_prompt_sets_is_starred() -> None:
    rows = complete(convention={"prompts": "openai_80"})
    assert wide(curation_table(rows))[1][0][1] == "0.4000"
    rows[3] = rows[3] | {"convention": {"prompts": "single"}}
    assert wide(curation_table(rows))[1][0][1] == "0.4000*"


def test_prompt_sets_are_never_mixed_up() -> None:
    term = columns()[5].terms[0]
    rows = [
        row_of(term, k, convention={"prompts": name}) for k, name in ((0.1, "single"), (0.2, "openai_80"))
    ]
    with pytest.raises(DataError, match=r"larger accuracy was measured with the prompts openai_80, single"):
        curation_table(rows)
    assert cell_of(curation_table(rows, prompts="single"), "larger").value == 0.1
    # Where a number was measured once, there is nothing to choose.
    assert cell_of(curation_table(rows[:1], prompts="openai_80"), "larger").value == 0.1


@pytest.mark.parametrize(
    ("title", "first", "second", "named"),
    [
        (
            "label spaces",
            {"label_space": "imagenet"},
            {"label_space": "mine"},
            "imagenet (run {}), mine (run {})",
        ),
        (
            "projections",
            {"projection": "max from imagenet"},
            {"projection": None},
            "max from imagenet (run {}), none (run {})",
        ),
        ("ID sets", {"id": "imagenet_val"}, {"id": "mine"}, "imagenet_val (run {}), mine (run {})"),
        ("questions", {"question": "Which?\nA"}, {"question": "What?"}, "Which? A (run {}), What? (run {})"),
        ("lengths of answers", {"steps": 128}, {"steps": 8}, "128 (run {}), 8 (run {})"),
        ("forms of a chat", {"chat": "base"}, {"chat": "vicuna_v15"}, "base (run {}), vicuna_v15 (run {})"),
    ],
)
def test_different_numbers_are_never_mixed_up(
    title: str, first: dict[str, Any], second: dict[str, Any], named: str
) -> None:
    term = columns()[0].terms[3]
    newest = RUN.replace("2024", "2025")
    rows = [row_of(term, 0.1, convention=first), row_of(term, 0.2, convention=second) | {"run_id": newest}]
    with pytest.raises(DataError) as error:
        curation_table(rows)
    said = str(error.value)
    assert said.startswith(f"{MODEL}: zeroshot objectnet top1 was measured with several {title}: ")
    assert named.format(RUN, newest) in said
    assert "move the folders of the runs that are not wanted out of the results" in said
    # Rows that agree, or that say nothing of it, are one number: the newest is taken.
    for convention in (first, {}):
        again = [rows[0], rows[1] | {"convention": convention}]
        assert cell_of(curation_table(again), "classification").rows[0]["value"] == 0.2


def test_other_annotations_are_another_number() -> None:
    term = columns()[5].terms[0]
    newest = RUN.replace("2024", "2025")
    rows = [
        row_of(term, 0.1, recipe={"annotations": "1" * 64}),
        row_of(term, 0.2, recipe={"annotations": "2" * 64}, convention={"annotations": "resnet50"})
        | {"run_id": newest},
    ]
    says = rf"several annotations: 1{{12}} \(run {RUN}\), resnet50 2{{12}} \(run {newest}\)"
    with pytest.raises(DataError, match=says):
        curation_table(rows)
    assert cell_of(curation_table(rows[1:]), "larger").value == 0.2


def test_a_sample_of_the_id_set_is_a_sample() -> None:
    term = columns()[5].terms[0]
    sample = {"id": "imagenet_val", "id_sample": {"limit": 10, "seed": 0, "of": 50000}}
    newest = row_of(term, 0.3, convention=sample) | {"run_id": RUN.replace("2024", "2025")}
    whole = row_of(term, 0.4, convention={"id": "imagenet_val"})
    assert wide(curation_table([newest, whole]))[1][0][6] == "0.4000"
    assert wide(curation_table([newest]))[1][0][6] == "0.3000* (10 of 50,000 in-distribution images)"


def test_what_is_published_of_other_prompts_does_not_stand_beside() -> None:
    """The paper's means, and its one-row columns, are of 80 prompts: not those of a cell with others."""
    eighty = complete(convention={"prompts": "openai_80"})
    assert len(cell_of(curation_table(eighty), "classification").reference) == 1
    single = [row | {"convention": {"prompts": "single"}} for row in eighty]
    for rows in (single, [single[0], *eighty[1:]]):
        assert cell_of(curation_table(rows), "classification").reference == []
    assert cell_of(curation_table(single), "larger").reference == []
    captions = [row | {"convention": {"prompts": "captions as they stand"}} for row in eighty]
    assert len(cell_of(curation_table(captions), "retrieval").reference) == 1
    mine = [row | {"convention": {"prompts": "openai_80", "id": "mine"}} for row in eighty]
    assert cell_of(curation_table(mine), "ood_auroc").reference == []
    assert len(cell_of(curation_table(mine), "ece_before").reference) == 1


def test_formats() -> None:
    table = curation_table(complete())
    assert "| vit_b_16-dfn2b | 0.4000 | 0.3000 |" in export_curation(table, "markdown")
    assert r"OOD FPR@95 & ECE before" in export_curation(table, "latex")
    records = json.loads(export_curation(table, "json"))
    assert records == json.loads(json.dumps(long(table)))
    assert [len(record["rows"]) for record in records] == [7, 5, 5, 6, 6, 1, 1, 1, 4, 6]
    assert records[0]["rows"][0]["run_id"] == RUN
    lines = list(csv.DictReader(io.StringIO(export_curation(table, "csv"))))
    assert float(lines[0]["value"]) == pytest.approx(0.4)
    assert lines[0]["rows"].startswith("zeroshot imagenet_val top1 = 0.1; ")
    assert (lines[0]["published"], lines[0]["source"], lines[0]["missing"]) == ("0.7", "paper", "")
    with pytest.raises(UsageError, match="unknown format 'html'; known: " + ", ".join(FORMATS)):
        export_curation(table, "html")


def test_the_command(tmp_path: Path) -> None:
    ResultStore(tmp_path / "r").add(complete()[:7])

    def run(*options: str) -> Any:
        return CliRunner().invoke(app, ["results", "curation", str(tmp_path / "r"), *options])

    shown = run()
    assert shown.exit_code == 0
    assert "0.4000" in shown.output
    assert NOTE in shown.output
    listed = run("--rows", "-m", MODEL).output.splitlines()
    assert sum("measured" in line for line in listed) == 7
    assert sum("missing" in line for line in listed) == 35
    assert run("-f", "json", "-o", str(tmp_path / "out.json")).exit_code == 0
    assert json.loads((tmp_path / "out.json").read_text())[0]["value"] == pytest.approx(0.4)
    assert isinstance(run("--rows", "-f", "csv").exception, UsageError)
    assert isinstance(run("-m", "nobody").exception, UsageError)


@pytest.mark.parametrize("where", [["--data", "x"], ["--data-root", "x"]])
def test_curation_is_no_task(where: list[str]) -> None:
    done = CliRunner().invoke(app, ["eval", "curation", "-m", MODEL, *where])
    assert isinstance(done.exception, UsageError)
    assert "clipjax results curation" in str(done.exception)


def test_it_needs_no_jax() -> None:
    code = "import clipjax.analysis.rows.curation as c, sys; c.columns(); sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- rows as the tasks make them ---

EXPECTED = {
    "classification": 6 * 0.75 / 7 + 1 / 7,
    "ood_auroc": 5 / 6,
    "ood_fpr95": 0.5,
    "ece_before": 0.15,
    "ece_after": 0.05,
    "larger": 0.5,
    "shape": 1.0,
    "color": 1.0,
    "retrieval": (6 / 8 + 3 / 4) / 2,
    "corruptions_3d": 0.75,
}


def test_rows_that_the_tasks_make() -> None:
    """The table's terms are metrics and slices that the tasks emit, and the planted numbers come out."""
    rows = []
    for task, dataset in sorted({(term.task, term.dataset) for c in columns() for term in c.terms}):
        for measure in planted(task, dataset):
            interval = None if measure.interval is None else measure.interval._asdict()
            named = {"metric": measure.metric, "slice": measure.slice, "value": measure.value}
            rows.append(row(RUN, task=task, dataset=dataset, interval=interval, **named))
    table = curation_table(rows)
    for column in columns():
        cell = cell_of(table, column.key, "tiny_1")
        assert cell.missing == ()
        assert cell.value == pytest.approx(EXPECTED[column.key]), column.key
        # The ECE of a few planted images is not told from a calibrated model's.
        assert (cell.interval is None) == column.key.startswith("ece_"), column.key
