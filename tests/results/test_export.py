"""Exports for other programs and data frames: every field, one schema, a file whole or absent."""

from __future__ import annotations

import json
import math
import os
import random
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from _rows import row
from typer.testing import CliRunner

import clipjax
from clipjax.cli import app
from clipjax.errors import DataError, UsageError
from clipjax.results import row_table
from clipjax.results.exports import BINARY, FORMATS, write_rows
from clipjax.results.row import Limits, Row
from clipjax.results.row_table import columns, nested, schema
from clipjax.results.store import ResultStore, new_run_id
from clipjax.storage.records import field_names

REFERENCE = [{"value": 0.6, "source": "paper", "difference": -0.1, "note": "Table I"}]


def study(folder: Path) -> list[Any]:
    """Nine rows of three models: one without a value, one with a reference, one with an absent field."""
    rows: list[Any] = []
    for k in range(9):
        run, model = new_run_id(), f"m_{k % 3}"
        changed: dict[str, Any] = {"recipe_hash": f"{k:064x}", "value": 0.1 * k, "n": 100 + k, "model": model}
        if k == 4:
            changed |= {"value": None, "interval": None, "note": "not applicable: =1+1, \u202eé\x1b"}
        if k == 5:
            changed |= {"reference": REFERENCE, "convention": {"prompts": "openai_80"}, "folder": None}
        rows.append(row(run, **changed))
        ResultStore(folder).add([rows[-1]])
    return rows


def read(path: Path, form: str) -> pa.Table:
    if form == "parquet":
        return pq.ParquetFile(path).read()
    if form == "arrow":
        with pa.ipc.open_file(path) as file:
            return file.read_all()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return pa.Table.from_pylist(lines, schema=schema())


def sql(query: str) -> list[Any]:
    """What DuckDB answers."""
    answer: Any = duckdb.sql(query)
    return answer.fetchall()


def export(*words: object) -> Any:
    return CliRunner().invoke(app, ["results", "export", *map(str, words)])


@pytest.mark.parametrize("form", ["parquet", "arrow", "jsonl"])
def test_every_field_of_every_row_is_in_the_file(tmp_path: Path, monkeypatch: Any, form: str) -> None:
    monkeypatch.setattr(row_table, "BATCH", 4)  # several batches
    monkeypatch.setattr("clipjax.results.exports.BATCH", 4)
    rows = study(tmp_path / "results")
    done = export(tmp_path / "results", "--format", form, "--out", tmp_path / "rows")
    assert (done.exit_code, done.stdout) == (0, "")
    table = read(tmp_path / "rows", form)
    assert table.schema == schema()
    lines = table.to_pylist()
    assert len(lines) == len(rows)
    for line, one in zip(lines, rows, strict=True):
        for name, value in one.items():
            if name == "interval":
                assert {part: line[part] for part in field_names(Limits)} == (
                    value or dict.fromkeys(field_names(Limits))
                )
            elif name in nested() and value is not None:
                assert json.loads(line[name]) == value
            else:
                assert line[name] == value or (line[name] is value is None), name
    assert lines[5]["prompts"] == "openai_80"
    assert lines[5]["published"] == "0.6"
    assert json.loads(lines[5]["reference"])[0]["note"] == "Table I"
    assert lines[4]["value"] is None


def test_the_columns_are_those_of_the_record() -> None:
    names = set(schema().names)
    assert set(field_names(Row)) - {"interval"} | set(field_names(Limits)) < names
    assert list(columns([row("x")])) == schema().names
    kinds = {name: str(schema().field(name).type) for name in ("value", "n", "lo", "model", "recipe", "part")}
    assert kinds == {
        "value": "double",
        "n": "int64",
        "lo": "double",
        "model": "string",
        "recipe": "string",
        "part": "string",
    }
    assert {"recipe", "versions", "device", "sample", "plug_ins"} < nested()
    assert not {"value", "origin", "schema_version", "note", "task_version"} & nested()


@pytest.mark.parametrize("form", BINARY)
def test_a_column_without_a_value_keeps_its_type(tmp_path: Path, form: str) -> None:
    empty = row(new_run_id(), value=None, n=None, interval=None, note="why", wall_time=None)
    for rows in ([empty], []):
        write_rows(rows, form, tmp_path / form)
        assert read(tmp_path / form, form).schema == schema()


def test_numbers_keep_their_bits_or_are_refused(tmp_path: Path) -> None:
    values = [math.nextafter(0.1, 1), 5e-324, -0.0, 1, 2**60 + 1]
    write_rows([row("x", value=value) for value in values], "parquet", tmp_path / "rows")
    found = read(tmp_path / "rows", "parquet")["value"].to_pylist()
    assert np.array(found).tobytes() == np.array(values, float).tobytes()
    with pytest.raises(DataError, match="a number of 'n' needs more than 64 bits"):
        write_rows([row("x", n=2**64)], "parquet", tmp_path / "other")
    assert os.listdir(tmp_path) == ["rows"]


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_is_whole_or_absent(tmp_path: Path, form: str) -> None:
    """The limit of a file's size stands for a full disk: one sentence, and the file that was there stays."""
    rng, target = random.Random(0), tmp_path / "rows"
    rows = [row(f"r{k}", note=rng.randbytes(400).hex()) for k in range(200)]
    target.write_text("before")
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    kept = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(
            DataError, match=r"rows cannot be written \(File too large\); nothing was left of it"
        ):
            write_rows(rows, form, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        signal.signal(signal.SIGXFSZ, kept)
    assert target.read_text() == "before"
    assert os.listdir(tmp_path) == ["rows"]


def test_the_command_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    study(tmp_path)
    for words, said in (
        (["--format", "parquet"], "--format parquet is a binary file: say where to write it, --out FILE"),
        (["--format", "parquett", "--out", "x"], "unknown format 'parquett'"),
    ):
        done = export(tmp_path, *words)
        assert isinstance(done.exception, UsageError)
        assert said in str(done.exception)


def test_json_lines_go_to_a_pipe_too(tmp_path: Path) -> None:
    study(tmp_path)
    done = export(tmp_path, "--format", "jsonl", "--model", "m_1")
    assert {json.loads(line)["model"] for line in done.stdout.splitlines()} == {"m_1"}


def test_other_programs_compute_the_same_means(tmp_path: Path) -> None:
    """DuckDB and polars, from the file; pandas, polars and Arrow, from the folder."""
    study(tmp_path / "results")
    write_rows(ResultStore(tmp_path / "results").rows(), "parquet", tmp_path / "rows.parquet")
    write_rows(ResultStore(tmp_path / "results").rows(), "jsonl", tmp_path / "rows.jsonl")
    write_rows(ResultStore(tmp_path / "results").rows(), "arrow", tmp_path / "rows.arrow")
    frame = clipjax.load_results(tmp_path / "results")
    wanted = frame.groupby("model").value.mean().to_dict()
    assert wanted == pytest.approx({"m_0": 0.3, "m_1": 0.4, "m_2": 0.5})
    for name in ("rows.parquet", "rows.jsonl"):
        query = f"select model, avg(value) from '{tmp_path / name}' group by model"
        assert dict(sql(query)) == pytest.approx(wanted)
    nested_part = f"select distinct recipe->>'$.prompts' from '{tmp_path / 'rows.parquet'}'"
    assert sql(nested_part) == [("x",)]
    read_by_polars = [
        polars.read_parquet(tmp_path / "rows.parquet"),
        polars.read_ipc(tmp_path / "rows.arrow"),
        polars.read_ndjson(tmp_path / "rows.jsonl"),
        clipjax.load_results(tmp_path / "results", as_="polars"),
    ]
    for found in read_by_polars:
        assert dict(found.group_by("model").agg(polars.col("value").mean()).iter_rows()) == pytest.approx(
            wanted
        )
    table = clipjax.load_results(tmp_path / "results", as_="arrow")
    assert table == read(tmp_path / "rows.parquet", "parquet")
    assert frame.recipe[0] == {"prompts": "x"}  # pandas has objects, as rows do
    assert list(frame.columns) == table.column_names


def test_a_frame_needs_its_package(tmp_path: Path, monkeypatch: Any) -> None:
    study(tmp_path)
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(UsageError, match="a frame of polars needs that package: pip install polars"):
        clipjax.load_results(tmp_path, as_="polars")
    with pytest.raises(UsageError, match="unknown frame 'dask'"):
        clipjax.load_results(tmp_path, as_="dask")  # pyright: ignore[reportArgumentType]


def test_the_images_are_a_second_frame(tmp_path: Path) -> None:
    store, runs = ResultStore(tmp_path), [new_run_id() for _ in range(4)]
    tables: list[Any] = [
        {"id": ["a", "b"], "correct": [True, False], "answer": [1, 2]},
        {"id": ["c"], "score": [0.5], "answer": ["x"]},
        {"id": ["d"], "correct": [True], "failures": [["e", "f"]], "model": ["column of a task"]},
        None,
    ]
    for k, (run, table) in enumerate(zip(runs, tables)):
        store.add([row(run, model=f"m_{k}", recipe_hash=f"{k:064x}")], table)
    rows, images = clipjax.load_results(tmp_path, as_="arrow", images=True)
    assert rows.num_rows == 4
    assert images.column_names == [
        "run_id",
        "model",
        "task",
        "dataset",
        "id",
        "correct",
        "answer",
        "score",
        "failures",
    ]
    assert images["id"].to_pylist() == ["a", "b", "c", "d"]
    assert images["run_id"].to_pylist() == [runs[0], *runs[:3]]
    assert images["model"].to_pylist() == ["m_0", "m_0", "m_1", "m_2"]
    assert images["correct"].to_pylist() == [True, False, None, True]
    assert images["answer"].to_pylist() == ["1", "2", "x", None]  # no common type: text
    assert images["failures"].to_pylist() == [None, None, None, ["e", "f"]]
    frame = clipjax.load_results(tmp_path, images=True)[1]
    assert frame.groupby("model").size().to_dict() == {"m_0": 2, "m_1": 1, "m_2": 1}
    assert clipjax.load_results(tmp_path, as_="polars", images=True)[1].shape == (4, 9)


def test_a_folder_without_runs_is_refused_by_load_results_too(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no results; give the folder that `clipjax eval --results`"):
        clipjax.load_results(tmp_path)
