"""The result store: schema, atomic runs, newest per recipe, merging, exports."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from _rows import row

from clipjax.errors import DataError, UsageError
from clipjax.results import (
    ResultStore,
    export_rows,
    merge_results,
    new_run_id,
    summary_table,
    validate_rows,
)


def test_a_run_comes_back_as_it_went_in(tmp_path):
    run_id = new_run_id()
    rows = [row(run_id), row(run_id, metric="class_accuracy", slice="class:n1", interval=None)]
    images = {"id": ["a", "b"], "top5": np.arange(10).reshape(2, 5), "name": np.array(["x", "y"], object)}
    path = ResultStore(tmp_path / "r").add(rows, images)
    assert sorted(p.name for p in path.iterdir()) == ["images.parquet", "rows.jsonl", "run.json"]
    assert ResultStore(tmp_path / "r").rows() == rows
    table = ResultStore(tmp_path / "r").images(run_id)
    assert table.to_pydict() == {
        "id": ["a", "b"],
        "top5": [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]],
        "name": ["x", "y"],
    }


def test_shared_fields_are_written_once(tmp_path):
    run_id = new_run_id()
    path = ResultStore(tmp_path).add([row(run_id, slice=f"class:{k}", value=k / 9) for k in range(10)])
    line = json.loads((path / "rows.jsonl").read_text().splitlines()[0])
    assert set(line) == {"slice", "value"}


def test_results_are_never_overwritten(tmp_path):
    store, run_id = ResultStore(tmp_path), new_run_id()
    store.add([row(run_id)])
    with pytest.raises(DataError, match="never overwritten"):
        store.add([row(run_id, value=0.9)])
    assert [r["value"] for r in store.rows()] == [0.5]


def test_a_rerun_appends_and_the_newest_counts(tmp_path):
    store = ResultStore(tmp_path)
    for value, recipe in ((0.1, "a"), (0.2, "b"), (0.3, "a")):
        store.add([row(new_run_id(), value=value, recipe_hash=recipe * 64)])
    assert [r["value"] for r in store.rows()] == [0.2, 0.3]
    assert [r["value"] for r in store.rows(every=True)] == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"value": "0.5"}, "value: '0.5'"),
        ({"schema_version": 2}, "schema_version"),
        ({"recipe_hash": "short"}, "recipe_hash"),
        ({"interval": {"lo": 0.1}}, "interval"),
        ({"colour": "red"}, "colour"),
        ({"origin": "guessed"}, "origin"),
    ],
)
def test_rows_that_break_the_schema_are_refused(tmp_path, changed, message):
    with pytest.raises(DataError, match=message):
        ResultStore(tmp_path / "r").add([row(new_run_id(), **changed)])
    assert not (tmp_path / "r").exists()


def test_a_missing_field_is_named():
    broken = row(new_run_id())
    del broken["n"]
    with pytest.raises(DataError, match="'n' is a required property"):
        validate_rows([broken])


def test_published_rows_may_leave_out_what_nobody_knows():
    validate_rows(
        [row(new_run_id(), origin="published", interval=None, n=None, precision=None, wall_time=None)]
    )


def test_two_runs_at_the_same_time(tmp_path):
    def write(k):
        return ResultStore(tmp_path).add([row(new_run_id(), value=k / 40)], {"id": [str(k)]})

    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(write, range(40)))
    assert len(set(paths)) == 40
    assert sorted(r["value"] for r in ResultStore(tmp_path).rows(every=True)) == [k / 40 for k in range(40)]


@pytest.mark.parametrize("step", ["os.fsync", "os.rename", "pyarrow.parquet.write_table"])
def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch, step):
    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store = ResultStore(tmp_path / "r")
    with monkeypatch.context() as patch:
        patch.setattr(step, full)
        with pytest.raises(DataError, match=r"No space left on device.*free some space"):
            store.add([row(new_run_id())], {"id": ["a"]})
    assert list((tmp_path / "r").iterdir()) == []
    assert store.rows() == []


def test_a_killed_run_is_invisible(tmp_path):
    run_id = new_run_id()
    beside = tmp_path / f".{run_id}.tmp"
    beside.mkdir()
    (beside / "run.json").write_text("{")
    assert ResultStore(tmp_path).rows() == []


def test_a_damaged_run_is_named(tmp_path):
    path = ResultStore(tmp_path).add([row(new_run_id())])
    (path / "rows.jsonl").write_text("{")
    with pytest.raises(DataError, match=r"rows\.jsonl: cannot be read"):
        ResultStore(tmp_path).rows()
    (path / "run.json").write_text('{"schema_version": 9}')
    (path / "rows.jsonl").write_text("")
    with pytest.raises(DataError, match="schema_version is 9"):
        ResultStore(tmp_path).rows()


def test_merge(tmp_path):
    runs = [new_run_id() for _ in range(3)]
    a, b = ResultStore(tmp_path / "a"), ResultStore(tmp_path / "b")
    a.add([row(runs[0])], {"id": ["x"]})
    a.add([row(runs[1])])
    b.add([row(runs[1])])
    b.add([row(runs[2])])
    assert merge_results([tmp_path / "a", tmp_path / "b"], tmp_path / "all") == 3
    assert merge_results([tmp_path / "a", tmp_path / "b"], tmp_path / "all") == 0
    merged = ResultStore(tmp_path / "all")
    assert merged.run_ids() == runs
    assert merged.images(runs[0]).num_rows == 1


def test_merge_refuses_one_run_with_two_contents(tmp_path):
    run_id = new_run_id()
    ResultStore(tmp_path / "a").add([row(run_id)])
    ResultStore(tmp_path / "b").add([row(run_id, value=0.9)])
    with pytest.raises(DataError, match="one run with different rows"):
        merge_results([tmp_path / "a", tmp_path / "b"], tmp_path / "all")
    with pytest.raises(DataError, match="holds no results"):
        merge_results([tmp_path / "none"], tmp_path / "all")


def test_summary_leaves_out_empty_columns():
    titles, cells = summary_table([row(new_run_id())])
    assert titles == ["model", "data set", "metric", "value", "interval", "n", "precision"]
    assert cells == [["tiny_1", "demo_world", "top1", "0.5000", "[0.4000, 0.6000]", "100", "parity"]]


def test_a_resized_model_is_told_from_the_original():
    facts = {"image_size": 336, "resized": {"image_size": 224, "rule": "open_clip"}}
    rows = [row("x", model_facts={"image_size": 224}), row("x", model_facts=facts)]
    validate_rows([r | {"run_id": new_run_id()} for r in rows])
    assert [cells[0] for cells in summary_table(rows)[1]] == ["tiny_1", "tiny_1@336px"]
    assert "| tiny_1@336px |" in export_rows(rows, "markdown")
    found = list(csv.DictReader(io.StringIO(export_rows(rows, "csv"))))
    assert [json.loads(line["model_facts"]) for line in found] == [{"image_size": 224}, facts]


def test_summary_counts_skipped_images():
    rows = [row("x", skipped=2), row("x", skipped=1, note="low"), row("x", skipped=None)]
    assert [cells[-1] for cells in summary_table(rows)[1]] == [
        "2 unreadable images skipped",
        "low; 1 unreadable images skipped",
        "",
    ]


PUBLISHED = [
    {"value": 0.6332, "source": "open_clip", "difference": -0.1332, "note": None},
    {"value": 0.47, "source": "paper", "difference": 0.03, "note": "Table I"},
]


def test_published_numbers_stand_beside_where_there_are_some(tmp_path):
    rows = [row(new_run_id(), reference=PUBLISHED)]
    ResultStore(tmp_path).add(rows)
    titles, cells = summary_table(ResultStore(tmp_path).rows())
    assert titles.index("published") == titles.index("interval") + 1
    shown = dict(zip(titles, cells[0]))
    assert (shown["published"], shown["source"]) == ("0.6332; 0.47", "open_clip; paper")
    assert shown["difference"] == "-0.1332; +0.0300"
    assert "| 0.6332; 0.47 | open_clip; paper | -0.1332; +0.0300 |" in export_rows(rows, "markdown")
    [got] = csv.DictReader(io.StringIO(export_rows(rows, "csv")))
    assert (got["published"], got["difference"]) == ("0.6332; 0.47", "-0.1332; 0.03")
    assert "published" not in summary_table([row("x")])[0]


@pytest.mark.parametrize("reference", [[], PUBLISHED[0], [{"value": 0.5, "source": "paper"}]])
def test_a_reference_is_a_list_of_whole_records(reference):
    with pytest.raises(DataError, match="reference"):
        validate_rows([row(new_run_id(), reference=reference)])


def test_csv_has_every_field():
    [got] = csv.DictReader(io.StringIO(export_rows([row(new_run_id(), slice="a,b")], "csv")))
    assert float(got["value"]) == 0.5
    assert (got["lo"], got["hi"], got["method"]) == ("0.4", "0.6", "wilson")
    assert got["slice"] == "a,b"
    assert json.loads(got["model_facts"]) == {"train_source": "demo"}


def test_markdown_and_latex_escape_names():
    rows = [row(new_run_id(), model="a|b_c", note="50% & more")]
    assert r"| a\|b_c |" in export_rows(rows, "markdown")
    latex = export_rows(rows, "latex")
    assert r"a|b\_c & demo\_world & top1" in latex
    assert r"50\% \& more \\" in latex
    assert latex.startswith("\\begin{tabular}{llllllll}\n\\toprule\n")
    with pytest.raises(UsageError, match="unknown format 'html'"):
        export_rows(rows, "html")


def test_results_need_no_jax():
    code = "import sys, clipjax.results; print([m for m in sys.modules if m.split('.')[0] == 'jax'])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
