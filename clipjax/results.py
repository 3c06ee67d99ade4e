"""Results: rows with provenance, and one Parquet row an image. Imports no JAX.

A run is a folder named by its run id, written once and never changed:

    run.json         the fields that all rows of the run share
    rows.jsonl       the other fields, one row a line
    images.parquet   one row an image, from which every metric can be recomputed

It is written beside its place and renamed when complete, so that it is whole or absent, and runs that write
at the same time do not meet; on a bucket `run.json` comes last, and makes it a run. A row joined with its
run's shared fields follows configs/result_row.schema.json. Its identity is `recipe_hash`; a rerun adds a run,
and `ResultStore.rows` returns the newest of each recipe.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import gc
import json
import math
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipjax.bucket_files import BucketFiles
from clipjax.buckets import BucketPath, check_folder, place, readable
from clipjax.completeness import recovered
from clipjax.config import config_dir
from clipjax.errors import DataError
from clipjax.row_check import Check, compiled

SCHEMA_VERSION = 1

Row = dict[str, Any]


def new_run_id() -> str:
    """UTC time to the microsecond and a random suffix: sorts by time, and no two processes draw the same."""
    now = datetime.datetime.now(datetime.UTC)
    return f"{now:%Y%m%dT%H%M%S.%f}Z-{secrets.token_hex(4)}"


class ResultStore:
    """A folder of runs.

    Args:
        root: a directory, or the URL of a folder of a bucket; created by the first `add`.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = place(root).expanduser()

    def check_root(self, *, exists: bool = False, written: bool = False) -> None:
        """Raises DataError if the folder is a file, lies in one, or is not what it should be: there, or open
        to be written to."""
        found = self.root.exists()  # of a bucket, also whether we may ask
        if exists and not found:
            raise DataError(
                f"{self.root} does not exist; give the folder that `clipjax eval` wrote results to"
            )
        if not isinstance(self.root, BucketPath):
            check_folder(self.root, "a folder of results", written=written)

    def add(self, rows: Sequence[Row], images: Mapping[str, Any] | None = None) -> Path:
        """Write one run; returns its folder.

        Args:
            rows: complete rows with one common `run_id`.
            images: column name -> N values (lists, or arrays of one or two axes), or None for no table.

        Raises:
            DataError: a row breaks the schema (the field is named), the run exists, or the disk is full; then
                nothing of the run is there.
        """
        validate_rows(rows)
        if len(ids := {row["run_id"] for row in rows}) != 1:
            raise DataError(f"a run has one run_id, these rows have {len(ids)}")
        table = None if images is None else images_table(images)

        def write(folder: Path) -> None:
            shared, rest = _split(rows)
            _write(folder / "run.json", json.dumps(shared, indent=1, allow_nan=False))
            lines = (json.dumps(row, allow_nan=False) + "\n" for row in rest)
            _write(folder / "rows.jsonl", "".join(lines))
            if table is not None:
                pq.write_table(table, folder / "images.parquet", compression="zstd")
                flush(folder / "images.parquet")

        return self.create(ids.pop(), write)

    def run_ids(self) -> list[str]:
        """The runs, oldest first."""
        if not self.root.is_dir():
            return []
        return sorted(path.parent.name for path in self.root.glob("[!.]*/run.json"))

    def rows(self, *, every: bool = False) -> list[Row]:
        """The rows of the newest run of each recipe, or of every run; oldest run first.

        Raises:
            DataError: a run is damaged or was written by a newer clipjax; the file is named.
        """
        runs = [self.run(run_id) for run_id in self.run_ids()]
        if every:
            return [row for rows in runs for row in rows]
        newest = {row["recipe_hash"]: row["run_id"] for rows in runs for row in rows}
        return [row for rows in runs for row in rows if newest[row["recipe_hash"]] == row["run_id"]]

    def run(self, run_id: str) -> list[Row]:
        """The rows of one run.

        Raises:
            DataError: it is damaged or was written by a newer clipjax; the file and line are named.
        """
        folder = self.root / run_id
        shared = _parsed(_read(folder / "run.json"), folder / "run.json")
        if (version := shared.get("schema_version")) != SCHEMA_VERSION:
            raise DataError(f"{folder}: schema_version is {version}, this clipjax reads {SCHEMA_VERSION}")
        path = folder / "rows.jsonl"
        with _no_collection():
            rows = list(_joined(shared, _read(path).splitlines(), path))
        if not rows:
            raise _damaged(path, "", "it has no rows")
        return recovered(rows, folder / "images.parquet")

    def left_out(self) -> list[str]:
        """Names of the folders here that are no runs because they have no run.json (hidden ones aside)."""
        if not self.root.is_dir():
            return []
        folders = (path for path in self.root.glob("[!.]*") if path.is_dir())
        return sorted(path.name for path in folders if not (path / "run.json").exists())

    def images(self, run_id: str) -> pa.Table:
        """The per-image table of one run.

        Raises:
            DataError: it has none, or the file is damaged.
        """
        path = self.root / run_id / "images.parquet"
        if not path.is_file():
            raise DataError(f"{path} does not exist: the run has no per-image table")
        try:
            return pq.read_table(readable(path))
        except (OSError, ValueError, pa.ArrowException) as error:
            raise _damaged(path, "", f"not a whole Parquet file: {error}") from None

    def create(self, run_id: str, write: Callable[[Path], None]) -> Path:
        """Fill a folder with `write` where nobody sees it, then let it be the run.

        Raises DataError if the run exists, or cannot be written: then nothing of it is there.
        """
        home = self.root / run_id
        if self.has(run_id):
            raise DataError(f"{home} exists already: results are never overwritten")
        try:
            (_upload if _on_bucket(home) else _rename)(home, write)
        except OSError as error:
            raise DataError(
                f"{home}: the run cannot be written ({error.strerror or error}); free some space or choose "
                "another results folder, then run again: finished embeddings are kept in the store"
            ) from error
        return home

    def has(self, run_id: str) -> bool:
        """Whether there is such a run, or on a disk anything of its name."""
        home = self.root / run_id
        return (home / "run.json" if _on_bucket(home) else home).exists()


def _on_bucket(path: Path) -> bool:
    return isinstance(path, BucketPath)


def _rename(home: Path, write: Callable[[Path], None]) -> None:
    beside = home.with_name(f".{home.name}.{secrets.token_hex(4)}.tmp")  # two merges may copy one run at once
    try:
        beside.mkdir(parents=True)
        write(beside)
        os.rename(beside, home)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _upload(home: Path, write: Callable[[Path], None]) -> None:
    """The folder's files become objects, `run.json` last; what has failed is taken back."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as undo:
        write(Path(folder))
        for path in sorted(Path(folder).iterdir(), key=lambda path: path.name == "run.json"):
            target: Any = home / path.name
            if not BucketFiles().create(target, path.read_bytes()):
                raise DataError(f"{target} exists already: results are never overwritten")
            undo.callback(_take_back, target)
        undo.pop_all()


def _take_back(target: Any) -> None:
    with contextlib.suppress(DataError):  # a bucket that fails; without run.json it is no run anyway
        target.unlink(missing_ok=True)


def validate_rows(rows: Sequence[Row]) -> None:
    """Check rows against the schema.

    Raises:
        DataError: there is no row, or one breaks the schema; the field is named.
    """
    if not rows:
        raise DataError("a run without rows is not a result")
    for row in rows:
        if problem := _problem(row):
            raise DataError(f"result row {row.get('metric')!r}: {problem}")


def _problem(row: Row, *, whole: bool = True) -> str | None:
    """What is wrong with a row, or with a part of its fields: the field and why. None for a good one."""
    fits, validator = _checks(whole)
    if fits(row):
        return None
    error = next(validator.iter_errors(row))
    return f"{'.'.join(map(str, error.absolute_path)) or 'the row'}: {error.message}"


@functools.cache
def _checks(whole: bool) -> tuple[Check, jsonschema.Draft202012Validator]:
    """The fast check, and what says more of a row that does not pass it."""
    schema = row_schema() | ({} if whole else {"required": []})
    return compiled(schema), jsonschema.Draft202012Validator(schema)


def _joined(shared: Row, lines: Sequence[str], path: Path) -> Iterator[Row]:
    """The rows of a run, checked."""
    keys = None
    for number, line in enumerate(lines, 1):
        rest = _parsed(line, path, f":{number}")
        row = shared | rest
        # The shared fields are checked with the first row: that takes a quarter of the time.
        if problem := _problem(rest, whole=False) if rest.keys() == keys else _problem(row):
            raise _damaged(path, f":{number}", problem)
        keys = rest.keys()
        yield row


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Rows are trees, which leave no cycles: looking for them would take a third of the time of reading."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise _damaged(path, "", str(getattr(error, "strerror", None) or error)) from None


def _parsed(text: str, path: Path, line: str = "") -> Row:
    """The JSON object that a text is; NaN and infinity, which `ResultStore.add` never writes, are no JSON."""
    try:
        found = _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, line, str(getattr(error, "msg", error))) from None
    if not isinstance(found, dict):
        raise _damaged(path, line, "not a JSON object")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    """Of our numbers is neither 1e400, which Python reads as infinity, nor an integer beyond all floats."""
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text[:20]} is too large for a number")
    return number


def _integer(text: str) -> int:
    _finite(text)
    return int(text)


# Made once: one a line takes as long as its line.
_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite, parse_int=_integer)


def _damaged(path: Path, line: str, problem: str) -> DataError:
    """The error for a run that is not what was written: it stops every table, as one without it would lie."""
    return DataError(f"{path}{line}: cannot be read ({problem}); delete {path.parent} or restore it")


@functools.cache
def row_schema() -> dict[str, Any]:
    return json.loads((config_dir() / "result_row.schema.json").read_text(encoding="utf-8"))


def model_facts(card: Any) -> dict[str, Any]:
    """The snapshot of a card that result rows carry; a resized model's says from which size and how, a
    fine-tuned one's how it was made (of the recipe name and digest)."""
    arch, resized = getattr(card, "arch", None), getattr(card, "resized", None)
    lineage = dict(getattr(card, "lineage", None) or {})
    if isinstance(recipe := lineage.pop("recipe", None), Mapping):
        lineage["recipe"] = recipe.get("name")
    return {
        **dict(getattr(card, "facts", {})),
        "arch": arch and arch.name,
        "kind": card.kind,
        "image_size": card.preprocess.image_size,
        **({} if resized is None else {"resized": dataclasses.asdict(resized)}),
        **({"lineage": lineage} if lineage else {}),
    }


def images_table(columns: Mapping[str, Any]) -> pa.Table:
    """A per-image table from columns of equal length; an array of two axes becomes a column of lists."""
    return pa.table({name: pa.array(_values(column)) for name, column in columns.items()})


def _values(column: Any) -> Any:
    """What pyarrow takes: it knows neither arrays of two axes nor arrays of Python strings."""
    if isinstance(column, np.ndarray) and (column.ndim > 1 or column.dtype.kind == "O"):
        return column.tolist()
    return column


def _split(rows: Sequence[Row]) -> tuple[Row, list[Row]]:
    """Fields that all rows share, and the rows without them. Facts and versions are written once a run."""
    shared = {key: value for key, value in rows[0].items() if all(row[key] == value for row in rows)}
    return shared, [{key: value for key, value in row.items() if key not in shared} for row in rows]


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    flush(path)


def flush(path: Path) -> None:
    """Wait until a file's bytes are on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
