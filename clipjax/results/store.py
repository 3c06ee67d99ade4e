"""Stored results: rows with provenance, and one Parquet row per image. Imports no JAX.

A run is a folder named by its run id, written once and never changed:

    run.json         the fields that all rows share, and digests of all files (`run_files`)
    rows.jsonl       the other fields, one row per line
    images.parquet   one row per image, from which every metric can be recomputed

It is written under another name, then renamed: whole or absent. On a bucket, `run.json` comes last and makes
it a run. `recipe_hash` identifies a row: a rerun adds a run, and readers take the newest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import io
import itertools
import json
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clipjax.checkpoints.encoder import ModelCard
from clipjax.devices.flags import public_flags
from clipjax.errors import DataError
from clipjax.results.completeness import recovered
from clipjax.results.data_sets import with_distinct_names
from clipjax.results.image_table import images_table, read_images_table
from clipjax.results.remarks import remark
from clipjax.results.row import AnyRow, Fields, Row
from clipjax.results.rows import (
    damaged,
    parse_rows,
    refuse_unwritable,
    restorable,
    validate_rows,
    without_gc,
)
from clipjax.results.runs.run_files import IMAGES, ROWS, RUN, RunFiles, described, sealed
from clipjax.results.runs.run_index import RunIndex
from clipjax.storage.reading import parse_json
from clipjax.storage.records import read
from clipjax.storage.remote.bucket_files import BucketFiles
from clipjax.storage.remote.buckets import BucketPath, as_path, check_folder
from clipjax.storage.writing import draft_folder, sweep_folder, write_flushed

SCHEMA_VERSION = 1
AHEAD = 300  # seconds: the writing machine's clock may be ahead of ours by this much
FUTURE = "dated in the future (a wrong clock?), and not counted as the newest until that time has come"


def new_run_id() -> str:
    """UTC time to the microsecond and a random suffix: sorted by time, and unique."""
    return f"{_dated(datetime.datetime.now(datetime.UTC))}-{secrets.token_hex(4)}"


def _dated(moment: datetime.datetime) -> str:
    return f"{moment:%Y%m%dT%H%M%S.%f}Z"


def run_order(run_id: str) -> tuple[bool, str]:
    """A key that sorts runs, the oldest first; runs dated in the future come before all."""
    # A wrong clock: as the newest, such a run would hide every later measurement until its date.
    future = run_id > _latest(int(time.time()) // 60) and run_id[:8].isdigit()  # a name may not be a date
    return not future, run_id


@functools.lru_cache(maxsize=4)
def _latest(minute: int) -> str:
    return _dated(datetime.datetime.fromtimestamp(60 * minute + 60 + AHEAD, datetime.UTC))


class ResultStore:
    """A directory of runs, or the URL of a bucket's folder."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = as_path(root).expanduser()

    def check_root(self, *, exists: bool = False, written: bool = False) -> None:
        """Raises DataError if the root is (in) a file, absent (`exists`), or not writable (`written`)."""
        is_there = self.root.exists()  # on a bucket, this also checks access
        if exists and not is_there:
            raise DataError(
                f"{self.root} does not exist; give the folder that `clipjax eval` wrote results to"
            )
        if not isinstance(self.root, BucketPath):
            check_folder(self.root, "a folder of results", written=written)

    def check_runs(self) -> None:
        """Raises DataError if the root is absent, a file, or holds no run."""
        self.check_root(exists=True)
        if not self.run_ids():
            raise DataError(
                f"{self.root} holds no results; give the folder that `clipjax eval --results` wrote to"
            )

    def add(self, rows: Sequence[AnyRow], images: Mapping[str, Any] | None = None) -> Path:
        """Write one run, with one `run_id`; returns its folder. Nothing of it remains after an error.

        `images`: column -> N values (lists, or arrays of one or two axes).

        Raises:
            DataError: as `validate_rows` and `refuse_unwritable`; several run ids; the run exists; the disk
                is full.
        """
        validate_rows(rows)
        refuse_unwritable(rows)
        if len(ids := {row["run_id"] for row in rows}) != 1:
            raise DataError(f"a run has one run_id, these rows have {len(ids)}")
        table = None if images is None else images_table(images)

        def write(folder: Path) -> None:
            shared, rest = _split(rows)
            data = {ROWS: "".join(json.dumps(row, allow_nan=False) + "\n" for row in rest).encode()}
            files = {ROWS: described(data[ROWS], len(rest))}
            if table is not None:
                data[IMAGES] = _parquet(table)
                files[IMAGES] = described(data[IMAGES], table.num_rows)
            for name, content in {**data, RUN: sealed(shared, files)}.items():
                write_flushed(folder / name, content)

        return self.create(ids.pop(), write)

    def run_ids(self) -> list[str]:
        """Oldest first (`run_order`). Remarks on each run dated in the future."""
        if not self.root.is_dir():
            return []
        names = sorted((path.parent.name for path in self.root.glob(f"[!.]*/{RUN}")), key=run_order)
        for run_id in itertools.takewhile(lambda run_id: not run_order(run_id)[0], names):
            remark(FUTURE, str(self.root / run_id))
        return names

    def rows(self, *, every: bool = False, as_recorded: bool = False) -> list[Row]:
        """Rows of the newest run of each recipe, or of every run; oldest run first.

        Args:
            as_recorded: with the recorded names of data sets; else as `with_distinct_names` makes them.

        Raises:
            DataError: a run is damaged, copied, or written by a newer clipjax; names the file.
        """
        names = self.run_ids()
        with without_gc():
            runs = self._runs(names)
            _refuse_copies(self.root, names, runs)
            kept = list(itertools.chain(*(runs if every else _newest(runs))))
            return kept if as_recorded else with_distinct_names(kept)

    def _runs(self, names: Sequence[str]) -> list[list[Row]]:
        if isinstance(self.root, BucketPath):
            return [self.run(run_id) for run_id in names]
        index, runs = RunIndex(self.root), []
        for run_id in names:
            versions = index.versions(run_id)
            if (rows := index.rows(run_id, versions)) is None:
                rows, files = self._read_run(run_id)
                if files.known and not files.partial and ("part" in rows[0] or not files.has_images()):
                    index.add(run_id, versions, rows)
            runs.append(rows)
        index.save()
        return runs

    def run(self, run_id: str) -> list[Row]:
        """Raises DataError if the run is damaged, copied in part, or of a newer clipjax; names the file."""
        return self._read_run(run_id)[0]

    def _read_run(self, run_id: str) -> tuple[list[Row], RunFiles]:
        shared, files = self._opened(run_id)
        path = self.root / run_id / ROWS
        data = _read(path)
        files.check(ROWS, data)
        try:
            lines = data.decode().splitlines()
        except ValueError as error:
            raise damaged(path, str(error)) from None
        if not (rows := parse_rows(shared, lines, path)):
            raise damaged(path, "it has no rows")
        return (recovered(rows, self.root / run_id / IMAGES) if files.has_images() else rows), files

    def shared(self, run_id: str) -> Fields:
        """The fields that all rows of a run share, read from `run.json` alone.

        Raises:
            DataError: as `run`, but the file of rows is checked only for its size.
        """
        shared, _ = self._opened(run_id)
        folder = self.root / run_id
        with restorable(folder):
            read(Row, shared, folder / RUN, part=True)
        return shared

    def verify(self, run_id: str) -> None:
        """Raises DataError as `run` and `images`, or if a recorded file is absent."""
        _, files = self._opened(run_id)
        if not files.known:  # without digests it must at least be readable
            self.run(run_id)
        elif (path := self.root / run_id / ROWS).exists():
            files.check(ROWS, _read(path))
        else:
            files.check(ROWS, None)
        if files.has_images():
            self.images(run_id)

    def files(self, run_id: str) -> dict[str, bytes]:
        """The bytes of a run's files by name, `run.json` last.

        Raises:
            DataError: as `verify`.
        """
        _, files = self._opened(run_id)
        if not files.known:
            self.verify(run_id)
        data: dict[str, bytes] = {}
        for name in (ROWS, *((IMAGES,) if files.has_images() else ())):
            if not (path := self.root / run_id / name).is_file():
                files.check(name, None)
            data[name] = _read(path)
            files.check(name, data[name])
        return {**data, RUN: _read(self.root / run_id / RUN)}

    def _opened(self, run_id: str) -> tuple[Fields, RunFiles]:
        folder = self.root / run_id
        data = _read(folder / RUN)
        with restorable(folder):
            shared: Fields = parse_json(data, folder / RUN)
        if (version := shared.get("schema_version")) != SCHEMA_VERSION:
            raise DataError(
                f"{folder / RUN}: schema_version is {version}, this clipjax reads {SCHEMA_VERSION}: move "
                "the run out of the folder, or read it with the clipjax that wrote it"
            )
        files = RunFiles(folder, data, shared)
        if isinstance(flags := shared.get("xla_flags"), str):
            shared["xla_flags"] = public_flags(flags)  # older versions wrote them with paths
        files.check_sizes()
        return shared, files

    def has_images(self, run_id: str) -> bool:
        """Whether a per-image table was written with the run. Raises DataError if `run.json` is damaged."""
        return self._opened(run_id)[1].has_images()

    def left_out(self) -> list[str]:
        if not self.root.is_dir():
            return []
        folders = (path for path in self.root.glob("[!.]*") if path.is_dir())
        return sorted(path.name for path in folders if not (path / "run.json").exists())

    def images(self, run_id: str) -> pa.Table:
        """Raises DataError if the per-image table is absent, damaged, or shorter than written."""
        path = self.root / run_id / IMAGES
        _, files = self._opened(run_id)
        if not path.is_file():
            files.check(IMAGES, None)
            raise DataError(f"{path} does not exist: the run has no per-image table")
        data = _read(path)
        files.check(IMAGES, data)
        try:
            return read_images_table(data)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise damaged(path, f"not a whole Parquet file: {error}") from None

    def create(self, run_id: str, write: Callable[[Path], None], *, sweeping: bool = True) -> Path:
        """Fill a hidden folder with `write`, then make it the run. `sweeping`: as in `draft_folder`.

        Raises DataError if the run exists or cannot be written; nothing of it remains.
        """
        home = self.root / run_id
        if self.has(run_id):
            raise DataError(f"{home} exists already: results are never overwritten")
        try:
            if isinstance(home, BucketPath):
                _upload(home, write)
            else:
                with draft_folder(home, sweeping=sweeping) as draft:
                    write(draft)
                    os.rename(draft, home)
        except OSError as error:
            raise DataError(
                f"{home}: the run cannot be written ({error.strerror or error}); free some space or choose "
                "another results folder, then run again: finished embeddings are kept in the store"
            ) from error
        return home

    def sweep(self) -> None:
        """Remove what killed processes left of unfinished runs."""
        if not isinstance(self.root, BucketPath):
            sweep_folder(self.root, folders=True)

    def has(self, run_id: str) -> bool:
        """Whether the run exists; on a disk, anything with its name counts."""
        home = self.root / run_id
        return (home / RUN if isinstance(home, BucketPath) else home).exists()


def _upload(home: Path, write: Callable[[Path], None]) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as undo:
        write(Path(folder))
        # `run.json` last: it makes the run.
        for path in sorted(Path(folder).iterdir(), key=lambda path: path.name == "run.json"):
            target: Any = home / path.name
            if not BucketFiles().create(target, path.read_bytes()):
                raise DataError(f"{target} exists already: results are never overwritten")
            undo.callback(_take_back, target)
        undo.pop_all()


def _take_back(target: Any) -> None:
    with contextlib.suppress(DataError):  # a failing bucket; without run.json it is not a run anyway
        target.unlink(missing_ok=True)


def _refuse_copies(root: Path, names: Sequence[str], runs: Sequence[list[Row]]) -> None:
    folders: dict[str, str] = {}  # a copy's rows would count twice
    for name, rows in zip(names, runs):
        if (other := folders.setdefault(rows[0]["run_id"], name)) != name:
            raise DataError(f"{root / other} and {root / name} are one run: remove one of them")


def _newest(runs: Sequence[list[Row]]) -> Iterator[list[Row]]:
    """The runs without the rows whose recipe a later run has, too."""
    recipes = [[row["recipe_hash"] for row in rows] for rows in runs]
    newest = {recipe: k for k, some in enumerate(recipes) for recipe in some}
    for k, (rows, some) in enumerate(zip(runs, recipes)):
        left = [newest[recipe] == k for recipe in some]
        yield rows if all(left) else list(itertools.compress(rows, left))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise damaged(path, str(getattr(error, "strerror", None) or error)) from None


def model_facts(card: ModelCard) -> dict[str, Any]:
    """A model's facts, with its original size and method if resized, and its lineage if tuned."""
    resized, lineage = card.resized, dict(card.lineage or {})
    if isinstance(recipe := lineage.pop("recipe", None), Mapping):
        lineage["recipe"] = recipe.get("name")  # the name alone
    return {
        **card.facts,
        "arch": card.arch and card.arch.name,
        "kind": card.kind,
        "image_size": card.preprocess.image_size or None,  # 0: not known, as a server prepares the images
        **({} if resized is None else {"resized": dataclasses.asdict(resized)}),
        **({"lineage": lineage} if lineage else {}),
        **facts_origin(card),
    }


def facts_origin(card: ModelCard) -> dict[str, Any]:
    """Fields of the row that tell where the model's facts are from; none for a card without an origin."""
    if card.facts_origin is None:
        return {}
    return {"facts_origin": card.facts_origin, "facts_of": card.facts_of}


def _split(rows: Sequence[AnyRow]) -> tuple[Fields, list[Fields]]:
    shared = {key: value for key, value in rows[0].items() if all(row[key] == value for row in rows)}
    return shared, [{key: value for key, value in row.items() if key not in shared} for row in rows]


def _parquet(table: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd")
    return out.getvalue()
