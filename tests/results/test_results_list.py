"""Which result rows `results list` and `results export` show, and that they say what they left out."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re

from _rows import row
from typer.testing import CliRunner

import clipjax
from clipjax.cli import app
from clipjax.errors import UsageError
from clipjax.results.store import ResultStore, new_run_id


def invoke(*words):
    """Exit code, stdout, stderr and the error of a command."""
    done = CliRunner().invoke(app, ["results", *map(str, words)])
    return done.exit_code, done.stdout, done.stderr, done.exception


def some_rows(folder):
    """Two models, two data sets, two metrics, and a class each."""
    names = itertools.product(
        ("a_1", "b_1"), ("imagenet_r", "imagenet_a"), ("top1", "top5"), (None, "class:x")
    )
    rows = [
        row(new_run_id(), model=m, dataset=d, metric=k, slice=s, recipe_hash=f"{n:064x}")
        for n, (m, d, k, s) in enumerate(names)
    ]
    for one in rows:
        ResultStore(folder).add([one])
    return rows


def test_a_listing_is_of_what_was_asked_for_and_says_what_it_left_out(tmp_path):
    some_rows(tmp_path)
    for words, n, left_out in (
        ([], 8, ["8 rows of parts of data sets (--slices)"]),
        (["--slices"], 16, []),
        (["-m", "a_*"], 4, ["4 rows of parts"]),
        (["-m", "a_*", "-m", "b_1", "-d", "imagenet_r", "--metric", "top1"], 2, ["2 rows of parts"]),
        (["--limit", "3"], 3, ["5 more rows (--limit 0 shows all", "8 rows of parts"]),
        (["--limit", "0", "--task", "zeroshot", "--slices"], 16, []),
    ):
        code, shown, said, _ = invoke("list", tmp_path, *words)
        assert (code, len(shown.splitlines()) - 2) == (0, n)
        assert len(said.splitlines()) == len(left_out)
        assert all(f"not shown: {what}" in said for what in left_out)
    exported = list(
        csv.DictReader(io.StringIO(invoke("export", tmp_path, "-m", "b_1", "--metric", "top5")[1]))
    )
    assert {(one["model"], one["metric"]) for one in exported} == {("b_1", "top5")}
    assert len(exported) == 4


def test_names_that_no_row_has_are_refused(tmp_path):
    some_rows(tmp_path)
    ResultStore(tmp_path).add([row(new_run_id(), model="c_1", dataset="places", task="ood")])
    for words, message in (
        (["-m", "a_2"], "unknown model 'a_2'; did you mean a_1"),
        (["-d", "imagenet_[ra]"], r"unknown data set 'imagenet_\[ra\]'"),
        (["-t", "oood"], "unknown task 'oood'; did you mean ood"),
        (["-m", "c_1", "-t", "zeroshot"], "no row of model c_1 and task zeroshot"),
    ):
        for command in ("list", "export"):
            error = invoke(command, tmp_path, *words)[3]
            assert isinstance(error, UsageError)
            assert re.search(message, str(error)), str(error)


def test_runs_are_listed_with_their_dates(tmp_path):
    some_rows(tmp_path)
    code, shown, said, _ = invoke("list", tmp_path, "--runs", "--limit", 3)
    titles, _, *lines = shown.splitlines()
    assert (code, titles.split()) == (0, ["run", "date", "task", "data", "set", "model", "rows"])
    assert len(lines) == 3
    assert "13 older runs" in said
    newest = ResultStore(tmp_path).run_ids()[-1]
    assert lines[-1].startswith(newest)
    assert f"{newest[:4]}-{newest[4:6]}-{newest[6:8]} {newest[9:11]}:{newest[11:13]}" in lines[-1]


def test_a_run_is_shown_whole(tmp_path):
    some_rows(tmp_path)
    run = ResultStore(tmp_path).run_ids()[0]
    code, shown, _, _ = invoke("show", run, "--results", tmp_path)
    assert code == 0
    assert "recipe.prompts: x" in shown
    assert "model_facts.train_source: demo" in shown
    assert "[0.4000, 0.6000]" in shown
    _, text, _, _ = invoke("show", run, "--results", tmp_path, "--json")
    assert json.loads(text) == ResultStore(tmp_path).run(run)
    code, _, _, error = invoke("show", "2", "--results", tmp_path)
    assert isinstance(error, UsageError)
    assert "16 runs begin with '2', such as" in str(error)
    assert "unknown run 'x'" in str(invoke("show", "x", "--results", tmp_path)[3])


def test_the_folder_is_the_last_argument_or_an_option(tmp_path):
    some_rows(tmp_path)
    run = ResultStore(tmp_path).run_ids()[0]
    for words in (["list"], ["show", run], ["export"], ["table", "--metric", "top1"]):
        code, shown, _, _ = invoke(*words, tmp_path)
        assert code == 0
        assert shown == invoke(*words, "--results", tmp_path)[1]
    error = invoke("list", tmp_path, "--results", tmp_path)[3]
    assert "--results and RESULTS do not go together" in str(error)


def test_what_ran_the_model_is_shown_and_exported(tmp_path):
    run = new_run_id()
    ResultStore(tmp_path).add([row(run, framework="torch:timm")])
    assert "framework: torch:timm" in invoke("show", run, "--results", tmp_path)[1]
    [exported] = csv.DictReader(io.StringIO(invoke("export", tmp_path)[1]))
    assert exported["framework"] == "torch:timm"
    assert "framework" not in invoke("list", tmp_path)[1]
    ResultStore(tmp_path).add([row(new_run_id(), model="a_port", framework="jax", recipe_hash="b" * 64)])
    assert "framework" in invoke("list", tmp_path)[1].splitlines()[0].split()


def test_runs_of_one_recipe_are_all_runs(tmp_path):
    for _ in range(2):
        ResultStore(tmp_path).add([row(new_run_id())])
    assert len(invoke("list", tmp_path)[1].splitlines()) == 3
    assert len(invoke("list", tmp_path, "--runs")[1].splitlines()) == 4


def test_results_as_a_data_frame(tmp_path):
    some_rows(tmp_path)
    ResultStore(tmp_path).add([row(new_run_id(), convention={"prompts": "openai_7", "label_space": "pets"})])
    frame = clipjax.load_results(tmp_path)
    assert len(frame) == 17
    assert set(frame["prompts"].dropna()) == {"openai_7"}
    assert set(frame["label_space"].dropna()) == {"pets"}
    assert frame[frame.model == "a_1"].lo.tolist() == [0.4] * 8
    exported = csv.DictReader(io.StringIO(invoke("export", tmp_path)[1]))
    assert exported.fieldnames == list(frame.columns)


def test_the_api_is_listed():
    assert {"evaluate", "load_model", "load_results", "wrap"} <= set(dir(clipjax))
