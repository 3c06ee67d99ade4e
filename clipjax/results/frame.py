"""Result rows as a data frame. Imports no JAX.

frame = clipjax.load_results("results")
frame[frame.metric == "top1"].pivot(index="model", columns="dataset", values="value")
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from clipjax.errors import UsageError
from clipjax.guards import known_name
from clipjax.results.published.references import with_imported
from clipjax.results.row import Row
from clipjax.results.row_table import flat_and_nested, json_texts, row_table, schema
from clipjax.results.rows import without_gc
from clipjax.results.store import ResultStore

FRAMES = ("pandas", "polars", "arrow")
NAMES = ("run_id", "model", "task", "dataset")  # the first columns of the per-image frame


@without_gc()
def load_results(
    folder: str | Path = "results",
    *,
    every: bool = False,
    as_: Literal["pandas", "polars", "arrow"] = "pandas",
    images: bool = False,
) -> Any:
    """The rows in a folder of results, one line each; the columns are those of `clipjax results export`.

    Several data sets of one name are named with their folders, as by `with_distinct_names`.

    Args:
        folder: that `clipjax eval --results` wrote to, or its URL.
        every: all runs; default: the newest of each recipe.
        as_: "pandas" (a field with several parts, such as `recipe`, is a dict or a list), "polars" or "arrow"
            (it is JSON text; "arrow" is a `pyarrow.Table`).
        images: also give the per-image tables of these runs.

    Returns:
        A frame of rows. With `images` a pair: the rows, and a frame with a line per image of each run. That
        one begins with `run_id`, `model`, `task` and `dataset`; the other columns are those of the runs'
        `images.parquet`, null for runs without them. A column with different types in several runs is text.

    Raises:
        UsageError: the library of the frame is not installed.
        DataError: the folder is missing or holds no run, or a run in it is damaged.
    """
    known_name("frame", as_, FRAMES)
    library = _library(as_)
    store = ResultStore(folder)
    store.check_runs()
    rows = with_imported(store.rows(every=every))
    frame = _pandas(library, rows) if as_ == "pandas" else _frame(as_, row_table(rows))
    return (frame, _frame(as_, image_rows(store, rows))) if images else frame


def _pandas(library: Any, rows: Sequence[Row]) -> Any:
    table, values = flat_and_nested(rows)
    flat = table.to_pandas()
    objects = {name: library.Series(column, dtype=object) for name, column in values.items()}
    return library.DataFrame({name: objects.get(name, flat.get(name)) for name in schema().names})


def _library(name: str) -> Any:
    try:
        return importlib.import_module("pyarrow" if name == "arrow" else name)
    except ImportError:
        raise UsageError(f"a frame of {name} needs that package: pip install {name}") from None


def _frame(as_: str, table: pa.Table) -> Any:
    if as_ == "polars":
        return _library(as_).from_arrow(table)
    return table.to_pandas() if as_ == "pandas" else table


def image_rows(store: ResultStore, rows: Sequence[Row]) -> pa.Table:
    """The per-image tables of the rows' runs as one table, with the run's names in front.

    Raises:
        DataError: as `ResultStore.images`.
    """
    runs = {row["run_id"]: row for row in rows}
    tables = [_named(store.images(run), row) for run, row in runs.items() if store.has_images(run)]
    names = dict.fromkeys([*NAMES, *(name for table in tables for name in table.column_names)])
    fields = [
        _field(name, [t.schema.field(name) for t in tables if name in t.column_names]) for name in names
    ]
    return pa.concat_tables(
        [_fitted(table, fields) for table in tables] or [pa.schema(fields).empty_table()],
        promote_options="permissive",
    )


def _named(table: pa.Table, row: Row) -> pa.Table:
    names = {name: pa.repeat(row[name], table.num_rows) for name in NAMES}
    return pa.table(names | {name: table[name] for name in table.column_names if name not in names})


def _field(name: str, fields: Sequence[pa.Field]) -> pa.Field:
    """The field that holds the values of all; of text if their types have no common one."""
    try:
        unified = pa.unify_schemas([pa.schema([field]) for field in fields], promote_options="permissive")
    except pa.ArrowException:
        return pa.field(name, pa.string())
    return unified.field(name) if fields else pa.field(name, pa.string())


def _fitted(table: pa.Table, fields: Sequence[pa.Field]) -> pa.Table:
    """The table with JSON text in place of values that are not text, where a field is text."""
    for field in fields:
        if field.type == pa.string() and field.name in table.column_names:
            k = table.column_names.index(field.name)
            if not pa.types.is_string(table.schema.field(k).type):
                table = table.set_column(
                    k, field.name, pa.array(json_texts(table[k].to_pylist()), pa.string())
                )
    return table
