"""Result rows for other programs. Imports no JAX.

write_rows(rows, "parquet", Path("rows.parquet"))

csv, jsonl, parquet, arrow    every field, in the columns of `results.row_table`
markdown, latex               the summary
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from clipjax.guards import known_name
from clipjax.results.row import Row
from clipjax.results.row_table import BATCH, batches, columns, json_texts, nested, schema
from clipjax.results.tables import as_latex, as_markdown, csv_lines, summary_table
from clipjax.storage.remote.buckets import as_path
from clipjax.storage.writing import flush, whole_file, writing

BINARY = ("parquet", "arrow")
FORMATS = ("csv", "jsonl", *BINARY, "markdown", "latex")


def write_rows(rows: Sequence[Row], form: str, path: str | Path) -> None:
    """Write rows to a file, a batch at a time; the file appears whole or not at all.

    Args:
        form: one of `FORMATS`.
        path: the file, or its URL on a bucket.

    Raises:
        UsageError: another form.
        DataError: the file cannot be written, or as `row_table.batches`.
    """
    known_name("format", form, FORMATS)
    path = as_path(path)
    with writing(path), whole_file(path) as draft, draft.open("wb") as file:
        if form in BINARY:
            _write_batches(rows, form, file)
        else:
            file.writelines(text.encode() for text in text_parts(rows, form))
        flush(file.fileno(), file.flush)


def _write_batches(rows: Sequence[Row], form: str, file: IO[bytes]) -> None:
    if form == "parquet":
        writer = pq.ParquetWriter(file, schema(), compression="zstd")
    else:
        writer = pa.ipc.new_file(file, schema(), options=pa.ipc.IpcWriteOptions(compression="lz4"))
    with writer:
        for batch in batches(rows):
            writer.write_batch(batch)


def text_parts(rows: Sequence[Row], form: str) -> Iterator[str]:
    """The parts of the text of rows; `form` is "csv", "jsonl", "markdown" or "latex"."""
    if form in ("markdown", "latex"):
        titles, cells = summary_table(rows)
        yield as_markdown(titles, cells) if form == "markdown" else as_latex(titles, cells)
        return
    if form == "csv":
        yield csv_lines([schema().names])
    for start in range(0, len(rows), BATCH):
        lines = _lines(rows[start : start + BATCH])
        yield csv_lines(lines) if form == "csv" else _json_lines(lines)


def _lines(rows: Sequence[Row]) -> Iterator[tuple[Any, ...]]:
    found = columns(rows)
    found |= {name: json_texts(found[name]) for name in nested()}
    return zip(*found.values())


def _json_lines(lines: Iterator[tuple[Any, ...]]) -> str:
    return "".join(json.dumps(dict(zip(schema().names, line))) + "\n" for line in lines)
