"""The result store: schema, atomic runs, newest per recipe, merging, exports."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from _rows import as_older, row
from typer.testing import CliRunner

from clipjax.cli import app
from clipjax.errors import DataError, UsageError
from clipjax.results.exports import text_parts, write_rows
from clipjax.results.rows import validate_rows
from clipjax.results.runs import merge as results_merge
from clipjax.results.runs.merge import merge_results
from clipjax.results.store import ResultStore, new_run_id
from clipjax.results.tables import summary_table


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


LIMITS = {"lo": 0.1, "hi": 0.2, "level": 0.95, "method": "wilson"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"value": "0.5"}, "^result row 'top1': value = '0.5' must be a number or null$"),
        ({"value": True}, "value = True must be a number or null"),
        ({"value": float("nan")}, "^result row 'top1': a number is NaN or infinite, .* write null"),
        ({"schema_version": 2}, "schema_version = 2 must be 1$"),
        ({"recipe_hash": "short"}, "recipe_hash = 'short' must be 64 hexadecimal digits in lower case"),
        ({"n": -1}, "n = -1 must be at least 0"),
        ({"interval": 3}, "interval = 3 must be an object or null"),
        ({"interval": {"lo": 0.1}}, "interval: the key 'hi' is missing; also .*: interval: the key 'level'"),
        ({"interval": LIMITS | {"level": 95}}, "interval: level = 95 must be above 0 and below 1"),
        ({"colour": "red"}, r"unknown key 'colour'; .*known: schema_version, run_id"),
        ({"modl": "red"}, r"unknown key 'modl'; did you mean model"),
        ({"origin": "guessed"}, "origin = 'guessed' is not one of 'measured', 'published'"),
        ({"reference": []}, r"reference = \[\] must be a list that is not empty"),
        ({"reference": [{"value": 1}]}, r"reference\[0\]: the key 'source' is missing"),
        ({"versions": {"jax": 1}}, "versions.jax = 1 must be a text"),
    ],
)
def test_rows_that_break_the_schema_are_refused(tmp_path, changed, message):
    with pytest.raises(DataError, match=message):
        ResultStore(tmp_path / "r").add([row(new_run_id(), **changed)])
    assert not (tmp_path / "r").exists()


def test_a_missing_field_is_named():
    broken = row(new_run_id())
    del broken["n"]
    with pytest.raises(DataError, match=r"^result row 'top1': the key 'n' is missing$"):
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
    rows: list[Any] = list(ResultStore(tmp_path).rows(every=True))
    assert sorted(r["value"] for r in rows) == [k / 40 for k in range(40)]


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
    beside = tmp_path / f".{run_id}.0123.tmp"
    beside.mkdir()
    (beside / "run.json").write_text("{")
    assert ResultStore(tmp_path).rows() == []


def test_a_damaged_run_is_named(tmp_path):
    path = as_older(ResultStore(tmp_path).add([row(new_run_id())]))
    (path / "rows.jsonl").write_text("{")
    with pytest.raises(DataError, match=r"rows\.jsonl:1 is not JSON"):
        ResultStore(tmp_path).rows()
    (path / "run.json").write_text('{"schema_version": 9}')
    (path / "rows.jsonl").write_text("")
    with pytest.raises(DataError, match=r"schema_version is 9, .* reads 1: move the run out"):
        ResultStore(tmp_path).rows()


LINES = 5


@pytest.fixture
def run(tmp_path):
    """A run of five rows, the last with an interval, as an older clipjax wrote it: without digests."""
    run_id = new_run_id()
    rows = [row(run_id, slice=f"class:{k}", value=k / 9, interval=None) for k in range(LINES - 1)]
    run = ResultStore(tmp_path / "r").add([*rows, row(run_id)], {"id": [str(k) for k in range(5000)]})
    return as_older(run)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"slice": null,', "Expecting property name enclosed in double quotes"),
        ("[1]", "is not a JSON object"),
        ("", "Expecting value"),
        ('{"a": 1}', "unknown key 'a'"),
        ('{"slice": null, "value": 1}', "the key 'interval' is missing"),
        ('{"slice": null, "value": "high", "interval": null}', "value = 'high' must be a number or null"),
        ('{"slice": 3, "value": 1, "interval": null}', "slice = 3 must be a text or null"),
        ('{"slice": null, "value": 1, "interval": {"lo": 1}}', "interval: "),
        ('{"slice": null, "value": NaN, "interval": null}', "NaN is not a JSON number"),
        ('{"slice": null, "value": 1e400, "interval": null}', "1e400 is too large for a number"),
        (f'{{"slice": null, "value": 1{"0" * 400}, "interval": null}}', "0 is too large for a number"),
        (f'{{"slice": null, "value": {"[" * 100_000}', "nested too deeply"),
        ('{"slice": null, "value": 1, "interval": null, "n": -1}', "n = -1 must be at least 0"),
        ('{"slice": null, "value": 1, "interval": null, "colour": 1}', "unknown key 'colour'"),
    ],
)
@pytest.mark.parametrize("place", [0, LINES - 1])
def test_a_damaged_line_is_named(run, line, message, place):
    path = run / "rows.jsonl"
    lines = path.read_text().splitlines()
    lines[place] = line
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError) as refused:
        ResultStore(run.parent).rows()
    text = str(refused.value)
    assert text.startswith(f"{path}:{place + 1}")
    assert message in text
    assert text.endswith(f"; delete {run} or restore it")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("run.json", b"[]", " is not a JSON object"),
        ("run.json", b"{", " is not JSON (Expecting property name"),
        ("run.json", b"\xff", " is not UTF-8 text"),
        ("rows.jsonl", b"\xff", "can't decode byte"),
        ("rows.jsonl", b"", "it has no rows"),
        ("rows.jsonl", None, "No such file"),
    ],
)
def test_a_damaged_file_is_named(run, name, text, message):
    (run / name).unlink()
    if text is not None:
        (run / name).write_bytes(text)
    with pytest.raises(DataError) as refused:
        ResultStore(run.parent).run(run.name)
    assert str(refused.value).startswith(f"{run / name}")
    assert f"delete {run} or restore it" in str(refused.value)
    assert message in str(refused.value)


def test_the_shared_fields_are_checked(run):
    shared = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(shared | {"model": 3}))
    with pytest.raises(DataError, match=r"rows\.jsonl:1: model = 3 must be a text; delete"):
        ResultStore(run.parent).rows()


@pytest.mark.parametrize("kept", [0, 3, 200, -5])
def test_a_truncated_per_image_table_is_named(run, kept):
    path = run / "images.parquet"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"images\.parquet: cannot be read \(not a whole Parquet file"):
        ResultStore(run.parent).images(run.name)


def test_a_per_image_table_with_damaged_pages_is_named(run):
    path = run / "images.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + bytes(2000) + whole[2004:])
    with pytest.raises(DataError, match=r"images\.parquet: cannot be read"):
        ResultStore(run.parent).images(run.name)


def invoke(*words):
    """Exit code, stdout, stderr and the error of a command."""
    done = CliRunner().invoke(app, ["results", *map(str, words)])
    return done.exit_code, done.stdout, done.stderr, done.exception


@pytest.mark.parametrize("command", ["list", "export", "curation"])
def test_a_damaged_run_stops_every_table(run, command):
    ResultStore(run.parent).add([row(new_run_id())])
    (run / "run.json").write_text("[]")
    _, shown, _, error = invoke(command, run.parent)
    assert shown == ""
    assert isinstance(error, DataError)
    assert f"delete {run} or restore it" in str(error)


def test_what_is_left_out_is_said(tmp_path):
    folder = tmp_path / "r"
    run_id = new_run_id()
    ResultStore(folder).add([row(run_id, slice=f"class:{k}", value=k / 9) for k in range(LINES)])
    assert invoke("list", "--slices", folder)[2] == ""
    lost = ResultStore(folder).add([row(new_run_id())])
    (lost / "run.json").unlink()
    (folder / ".hidden").mkdir()
    (folder / "notes.txt").write_text("mine")
    said = f"{folder}: left out, as they hold no run.json: {lost.name}\n"
    for words in (["list", "--slices"], ["export"]):
        code, shown, warned, _ = invoke(*words, folder)
        assert (code, warned) == (0, said)
        assert "top1" in shown
    assert invoke("merge", folder, "--out", tmp_path / "all")[2] == said
    error = invoke("plot", lost.name, "--results", folder)[3]
    assert isinstance(error, DataError)
    assert f"{lost.name}/run.json: cannot be read (No such file" in str(error)
    for k in range(7):
        (folder / f"x{k}").mkdir()
    assert invoke("export", folder)[2].endswith(f"{lost.name}, x0, x1, x2, x3 and 3 more\n")


@pytest.mark.parametrize("command", ["list", "export", "curation", "plot"])
def test_a_folder_without_results_is_said(tmp_path, command):
    words = ["plot", "some_run", "--results", tmp_path] if command == "plot" else [command, tmp_path]
    _, shown, _, error = invoke(*words)
    assert shown == ""
    assert isinstance(error, DataError)
    assert str(error).startswith(f"{tmp_path} holds no results")


def test_an_unknown_metric_is_an_error_with_the_nearest(tmp_path):
    run_id = new_run_id()
    parts = row(run_id, metric="class_accuracy", slice="class:n1")
    ResultStore(tmp_path).add([row(run_id), row(run_id, metric="ece"), parts])
    code, shown, _, _ = invoke("list", tmp_path, "--metric", "top1")
    assert code == 0
    assert "top1" in shown
    assert "ece" not in shown
    error = invoke("list", tmp_path, "--metric", "top2")[3]
    assert isinstance(error, UsageError)
    assert "unknown metric 'top2'; did you mean top1?" in str(error)
    error = invoke("list", tmp_path, "--metric", "class_accuracy")[3]
    assert isinstance(error, UsageError)
    assert "add --slices" in str(error)
    assert "class:n1" in invoke("list", tmp_path, "--metric", "class_accuracy", "--slices")[1]


def test_merge(tmp_path):
    runs = [new_run_id() for _ in range(3)]
    a, b = ResultStore(tmp_path / "a"), ResultStore(tmp_path / "b")
    a.add([row(runs[0])], {"id": ["x"]})
    a.add([row(runs[1])])
    b.add([row(runs[1])])
    b.add([row(runs[2])])
    killed, mine = (tmp_path / "all" / f".{name}.tmp" for name in (f"{runs[0]}.{'0' * 32}", "mine"))
    for left in (killed, mine):
        left.mkdir(parents=True)
    assert merge_results([tmp_path / "a", tmp_path / "b"], tmp_path / "all") == 3
    assert [killed.exists(), mine.exists()] == [False, True]
    assert merge_results([tmp_path / "a", tmp_path / "b"], tmp_path / "all") == 0
    merged = ResultStore(tmp_path / "all")
    assert merged.run_ids() == runs
    assert merged.images(runs[0]).num_rows == 1


def test_a_link_in_a_run_is_not_merged(tmp_path):
    run = new_run_id()
    ResultStore(tmp_path / "a").add([row(run)])
    (tmp_path / "secret").write_text("of another folder")
    (tmp_path / "a" / run / "notes").symlink_to(tmp_path / "secret")
    with pytest.raises(DataError, match=r"notes is a link: replace it"):
        merge_results([tmp_path / "a"], tmp_path / "all")
    assert ResultStore(tmp_path / "all").run_ids() == []


def test_a_name_that_no_reader_accepts_is_not_written(tmp_path):
    run = new_run_id()
    with pytest.raises(DataError, match=r"result row 'top1': .*\\udcff.* is not Unicode"):
        ResultStore(tmp_path).add([row(run, dataset="photos\udcff")])
    assert ResultStore(tmp_path).run_ids() == []


@pytest.mark.parametrize("links", [True, False])
def test_merging_needs_no_second_copy_where_the_disk_has_links(tmp_path, monkeypatch, links):
    def refuse(*_):
        raise OSError(errno.EXDEV, "another device")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    path = ResultStore(tmp_path / "a").add([row(new_run_id())], {"id": ["x"]})
    assert merge_results([tmp_path / "a"], tmp_path / "all") == 1
    copies = [(each, tmp_path / "all" / path.name / each.name) for each in path.iterdir()]
    assert len(copies) == 3
    assert all(one.read_bytes() == other.read_bytes() for one, other in copies)
    assert [one.samefile(other) for one, other in copies] == [links] * 3
    shutil.rmtree(tmp_path / "a")
    assert len(ResultStore(tmp_path / "all").rows()) == 1


def test_two_merges_of_one_run_at_once_leave_it_whole(tmp_path, monkeypatch):
    path, copy = ResultStore(tmp_path / "a").add([row(new_run_id())], {"id": ["x"]}), results_merge._copy

    def copied_meanwhile(source, folder):
        monkeypatch.setattr(results_merge, "_copy", copy)
        assert merge_results([tmp_path / "a"], tmp_path / "all") == 1
        copy(source, folder)

    monkeypatch.setattr(results_merge, "_copy", copied_meanwhile)
    assert merge_results([tmp_path / "a"], tmp_path / "all") == 0
    assert [each.name for each in (tmp_path / "all").iterdir()] == [path.name]
    assert len(list((tmp_path / "all" / path.name).iterdir())) == 3


def test_merge_names_what_a_folder_that_is_no_run_lacks(tmp_path):
    path = ResultStore(tmp_path / "a").add([row(new_run_id())])
    (tmp_path / "all" / path.name).mkdir(parents=True)
    with pytest.raises(DataError, match=rf"all/{path.name}/run\.json is missing"):
        merge_results([tmp_path / "a"], tmp_path / "all")


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
    for each in rows:
        validate_rows([each | {"run_id": new_run_id()}])
    assert [cells[0] for cells in summary_table(rows)[1]] == ["tiny_1", "tiny_1@336px"]
    assert "| tiny_1@336px |" in "".join(text_parts(rows, "markdown"))
    found = list(csv.DictReader(io.StringIO("".join(text_parts(rows, "csv")))))
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
    assert "| 0.6332; 0.47 | open_clip; paper | -0.1332; +0.0300 |" in "".join(text_parts(rows, "markdown"))
    [got] = csv.DictReader(io.StringIO("".join(text_parts(rows, "csv"))))
    assert (got["published"], got["difference"]) == ("0.6332; 0.47", "-0.1332; 0.03")
    assert "published" not in summary_table([row("x")])[0]


def test_a_published_number_says_whose_it_is():
    mine = row("x", origin="published", convention={"source": "timm"}, value=0.25)
    titles, [cells] = summary_table([mine])
    shown = dict(zip(titles, cells))
    assert [shown[title] for title in ("value", "published", "source")] == ["0.2500", "0.2500", "timm"]
    assert "difference" not in titles


@pytest.mark.parametrize("reference", [[], PUBLISHED[0], [{"value": 0.5, "source": "paper"}]])
def test_a_reference_is_a_list_of_whole_records(reference):
    with pytest.raises(DataError, match="reference"):
        validate_rows([row(new_run_id(), reference=reference)])


def test_csv_has_every_field():
    [got] = csv.DictReader(io.StringIO("".join(text_parts([row(new_run_id(), slice="a,b")], "csv"))))
    assert float(got["value"]) == 0.5
    assert (got["lo"], got["hi"], got["method"]) == ("0.4", "0.6", "wilson")
    assert got["slice"] == "a,b"
    assert json.loads(got["model_facts"]) == {"train_source": "demo"}


def test_markdown_and_latex_escape_names(tmp_path):
    rows = [row(new_run_id(), model="a|b_c", note="50% & more")]
    assert r"| a\|b_c |" in "".join(text_parts(rows, "markdown"))
    latex = "".join(text_parts(rows, "latex"))
    assert r"a\textbar{}b\_c & demo\_world & top1" in latex
    assert r"50\% \& more \\" in latex
    assert latex.startswith("\\begin{tabular}{llllllll}\n\\toprule\n")
    with pytest.raises(UsageError, match="unknown format 'html'"):
        write_rows(rows, "html", tmp_path / "rows.html")


def test_results_need_no_jax():
    code = "import sys, clipjax.results.store; print([m for m in sys.modules if m.split('.')[0] == 'jax'])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
