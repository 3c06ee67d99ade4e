"""Which result rows `results list` and `results export` show, and that they say what they left out."""

from __future__ import annotations

import csv
import io
import itertools
import re

from _rows import row
from typer.testing import CliRunner

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
