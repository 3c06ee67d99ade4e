"""A run whose files are not those that were written is an error: damage, partial copies, wrong clocks."""

from __future__ import annotations

import datetime
import json
import os
import random
import shutil

import pytest
from _rows import as_older, row
from typer.testing import CliRunner

from clipjax.analysis.rows.cells import Column, Term, cells_of
from clipjax.cli import app
from clipjax.errors import DataError
from clipjax.evaluation.plans.ready import StoredRecipes
from clipjax.evaluation.predictions.scoring import evaluate_predictions
from clipjax.results import store as results
from clipjax.results.rows import validate_rows
from clipjax.results.runs.merge import merge_results
from clipjax.results.store import ResultStore, new_run_id, run_order

LINES, IMAGES = 6, 300


@pytest.fixture
def run(tmp_path):
    """A run with six rows and a per-image table; some fields are shared, some are not."""
    run_id = new_run_id()
    rows = [row(run_id, slice=f"class:{k}", value=k / 9, n=100 + k) for k in range(LINES - 1)]
    images = {"id": [str(k) for k in range(IMAGES)], "top1": [k % 7 for k in range(IMAGES)]}
    return ResultStore(tmp_path / "r").add([*rows, row(run_id)], images)


def invoke(*words):
    """Exit code, stdout, stderr and the error of a command."""
    done = CliRunner().invoke(app, list(map(str, words)))
    return done.exit_code, done.stdout, done.stderr, done.exception


# The five ways in which a file was damaged without a word.


def cut(lines, rng):
    k = rng.choice([k for k, line in enumerate(lines) if line])
    lines[k] = lines[k][: rng.randrange(len(lines[k]))]


def dropped(lines, rng):
    del lines[rng.randrange(len(lines))]


def doubled(lines, rng):
    k = rng.randrange(len(lines))
    lines.insert(k, lines[k])


def digit_changed(lines, rng):
    data = b"\n".join(lines)
    at = rng.choice([k for k, byte in enumerate(data) if chr(byte).isdigit()])
    digit = rng.choice([d for d in b"0123456789" if d != data[at]])
    lines[:] = (data[:at] + bytes([digit]) + data[at + 1 :]).split(b"\n")


def swapped(lines, rng):
    a, b = rng.sample([k for k, line in enumerate(lines)], 2)
    if lines[a] == lines[b]:
        return swapped(lines, rng)
    lines[a], lines[b] = lines[b], lines[a]


def everything(folder):
    """What reads all of a store: its rows, its tables, and a merge."""
    store = ResultStore(folder)
    for run_id in store.run_ids():
        store.run(run_id)
        store.images(run_id)


@pytest.mark.parametrize("change", [cut, dropped, doubled, digit_changed, swapped])
@pytest.mark.parametrize("name", ["run.json", "rows.jsonl", "images.parquet"])
def test_no_damaged_file_is_accepted(run, name, change):
    """40 seeded mutations of each kind and file, 600 in all: none is read or merged."""
    whole, path = (run / name).read_bytes(), run / name
    everything(run.parent)
    accepted = 0
    for seed in range(40):
        lines = whole.split(b"\n")
        change(lines, random.Random(seed))
        damaged = b"\n".join(lines)
        if damaged == whole:
            continue
        path.write_bytes(damaged)
        for read in (everything, lambda folder: merge_results([folder], folder.parent / "all")):
            with pytest.raises(DataError, match=name):
                read(run.parent)
            accepted += (run.parent.parent / "all").exists()
    assert accepted == 0
    path.write_bytes(whole)
    everything(run.parent)


@pytest.mark.parametrize("words", [["results", "list"], ["results", "export"], ["report"], ["analyze"]])
def test_a_changed_digit_stops_every_command(run, tmp_path, words):
    text = (run / "rows.jsonl").read_text()
    (run / "rows.jsonl").write_text(text.replace("105", "106").replace("100", "101", 1))
    out = ["--out", tmp_path / "out"] if len(words) == 1 else []
    _, shown, _, error = invoke(*words, run.parent, *out)
    assert shown == ""
    assert isinstance(error, DataError)
    assert "rows.jsonl was changed or damaged after it was written" in str(error)
    assert f"delete {run} or restore it" in str(error)


def test_a_sweep_does_not_believe_a_changed_run(run):
    StoredRecipes(run.parent)
    text = (run / "run.json").read_text()
    assert '"prompts": "x"' in text
    (run / "run.json").write_text(text.replace('"prompts": "x"', '"prompts": "y"'))
    with pytest.raises(DataError, match=r"run\.json was changed or damaged"):
        StoredRecipes(run.parent)
    (run / "run.json").write_text(text)
    (run / "rows.jsonl").unlink()
    with pytest.raises(DataError, match=r"rows\.jsonl is missing .*copied in part"):
        StoredRecipes(run.parent)


@pytest.mark.parametrize("kept", [0, 40, None])
def test_a_partial_copy_of_rows_says_what_to_copy(run, kept):
    path = run / "rows.jsonl"
    size = path.stat().st_size
    if kept is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError) as refused:
        ResultStore(run.parent).rows()
    there = f"has {kept} of {size} bytes" if kept else "is missing or empty"
    assert str(refused.value).startswith(f"{path} {there} ({LINES} rows were written)")
    assert f"copy {run.name}/rows.jsonl again from the original" in str(refused.value)


@pytest.mark.parametrize("kept", [None, 100])
def test_rows_without_their_whole_table_are_shown_and_not_merged(run, tmp_path, kept):
    path = run / "images.parquet"
    data = path.read_bytes()
    path.unlink()
    if kept:
        path.write_bytes(data[:kept])
    code, shown, said, _ = invoke("results", "list", "--slices", run.parent)
    assert (code, said.count("copied in part, without a whole images.parquet")) == (0, 1)
    assert said.startswith("1 run: ")
    assert str(run) in said
    assert len(shown.splitlines()) == LINES + 2
    for read in (
        lambda: ResultStore(run.parent).images(run.name),
        lambda: merge_results([run.parent], tmp_path / "all"),
    ):
        with pytest.raises(DataError, match=rf"copy {run.name}/images\.parquet again"):
            read()
    assert not (tmp_path / "all").exists()


def test_merge_refuses_a_table_that_is_none(run, tmp_path):
    for folder in (run, as_older(run)):
        (folder / "images.parquet").write_bytes(b"garbage" * 1000)
        with pytest.raises(DataError, match=r"images\.parquet"):
            merge_results([run.parent], tmp_path / "all")
    assert not (tmp_path / "all").exists()


def test_a_table_that_the_run_never_had_is_refused(tmp_path):
    path = ResultStore(tmp_path).add([row(new_run_id())])
    (path / "images.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="not a file of this run"):
        ResultStore(tmp_path).images(path.name)


def test_runs_of_older_versions_stay_readable_with_one_note(tmp_path):
    rows = [row(new_run_id(), recipe_hash=f"{k:064x}") for k in range(5)]
    for each in rows:
        as_older(ResultStore(tmp_path / "r").add([each], {"id": ["a"]}))
    ResultStore(tmp_path / "r").add([row(new_run_id())])
    assert ResultStore(tmp_path / "r").rows()[:5] == rows
    for words in (["results", "list"], ["results", "export"], ["results", "merge", "--out", tmp_path / "m"]):
        code, _, said, _ = invoke(*words, tmp_path / "r")
        assert (code, len(said.splitlines())) == (0, 1)
        assert said.startswith("5 runs: written by an older clipjax without digests")
        assert said.endswith(" and 2 more\n")
    assert ResultStore(tmp_path / "m").rows() == ResultStore(tmp_path / "r").rows()
    assert "digests" not in invoke("results", "list", tmp_path / "r")[1]


def test_whole_runs_are_not_remarked_upon(run):
    assert invoke("results", "list", run.parent, "--slices")[2] == ""


def test_a_hard_link_that_was_edited_says_so(run, tmp_path):
    merge_results([run.parent], tmp_path / "all")
    copy = tmp_path / "all" / run.name / "rows.jsonl"
    with copy.open("r+b") as file:
        file.seek(copy.read_bytes().index(b"100"))
        file.write(b"900")
    with pytest.raises(DataError, match="and so are the other 1 hard links to the same file"):
        ResultStore(run.parent).rows()


def test_a_run_that_is_there_twice_is_refused(run):
    shutil.copytree(run, run.with_name(f"{run.name}-copy"))
    with pytest.raises(DataError, match="are one run: remove one"):
        ResultStore(run.parent).rows()


def test_two_rows_of_one_number_are_refused(tmp_path):
    run_id = new_run_id()
    with pytest.raises(DataError, match="an earlier row has the same metric"):
        validate_rows([row(run_id), row(run_id, value=0.6)])
    with pytest.raises(DataError, match="an earlier row has the same metric"):
        ResultStore(tmp_path).add([row(run_id, slice="a"), row(run_id, slice="a")])
    older = as_older(ResultStore(tmp_path).add([row(run_id, slice="a"), row(run_id, slice="b")]))
    lines = (older / "rows.jsonl").read_text().splitlines(keepends=True)
    (older / "rows.jsonl").write_text("".join([*lines, lines[0]]))
    with pytest.raises(DataError, match=r"rows\.jsonl:3.*an earlier row has the same metric"):
        ResultStore(tmp_path).rows()


def test_an_interval_with_its_limits_in_the_wrong_order_is_refused(tmp_path):
    interval = {"lo": 0.6, "hi": 0.4, "level": 0.95, "method": "wilson"}
    with pytest.raises(DataError, match=r"lo \(0\.6\) is above hi \(0\.4\)"):
        ResultStore(tmp_path).add([row(new_run_id(), interval=interval)])


def _dated(days):
    then = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    return f"{then:%Y%m%dT%H%M%S.%f}Z-0123abcd"


def test_a_run_dated_in_the_future_is_named_and_is_not_the_newest(tmp_path):
    past, future = new_run_id(), _dated(400)
    store = ResultStore(tmp_path)
    store.add([row(future, value=0.9)])
    assert [each["value"] for each in store.rows()] == [0.9]  # it is what there is
    store.add([row(past, value=0.1)])
    assert store.run_ids() == [future, past]
    assert [each["value"] for each in store.rows()] == [0.1]
    [[cell]] = cells_of(
        [row(past, value=0.1), row(future, value=0.9)],
        [Column("a", "a", "higher", None, (Term("zeroshot", "demo_world", "top1"),))],
    ).values()
    assert cell.value == 0.1
    code, shown, said, _ = invoke("results", "list", tmp_path)
    assert (code, "0.9000" in shown) == (0, False)
    assert said == f"1 run: {results.FUTURE}: {tmp_path / future}\n"


def test_a_clock_that_is_a_little_ahead_is_no_matter(tmp_path):
    ahead = _dated(200 / 86400)
    assert sorted([ahead, new_run_id()], key=run_order)[1] == ahead
    assert run_order("zz-a-folder-of-another-name")[0]


def test_run_json_has_what_the_files_are(run):
    files = json.loads((run / "run.json").read_text())["files"]
    assert [files[name]["rows"] for name in ("rows.jsonl", "images.parquet")] == [LINES, IMAGES]
    assert [files[name]["bytes"] for name in ("rows.jsonl", "images.parquet")] == [
        os.stat(run / name).st_size for name in ("rows.jsonl", "images.parquet")
    ]
    assert all("files" not in each for each in ResultStore(run.parent).rows())


def test_predictions_are_not_taken_from_a_changed_table(run):
    path = run / "images.parquet"
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"images\.parquet was changed or damaged"):
        evaluate_predictions("zeroshot", path)
