"""What reading 100,000 rows of a few thousand runs takes: `results list`, `table`, `load_results`.

    python benchmarks/results/results_index.py

The steps run in one process, after the imports, twice: from the runs, and through their index. There is no
other store to compare with, so these are plain seconds, of wall time and of processor time. The goal is that
no step takes a second of the processor through the index.
`--folder FOLDER` keeps the store there, and takes one that is there already.
"""

from __future__ import annotations

import itertools
import tempfile
import time
import unittest.mock
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pandas  # noqa: F401  # imports are not measured
import typer

import clipjax
from benchmarks import common
from benchmarks.results.results_scale import study
from clipjax.analysis.rows.pivot import pivot
from clipjax.commands.results.listing import RowOptions
from clipjax.results.rows import without_gc
from clipjax.results.runs.run_index import RunIndex
from clipjax.results.store import ResultStore, new_run_id
from clipjax.results.tables import summary_table
from clipjax.storage.digests import SETTLED_NS


def listed(folder: Path) -> int:
    rows = [row for row in RowOptions().rows(folder) if row["slice"] is None]
    return len(summary_table(rows[:100])[1])


def tabled(folder: Path) -> int:
    with without_gc():  # as in the command
        return len(pivot(RowOptions().rows_but_metric(folder), "top1").lines)


def as_frame(folder: Path) -> int:
    return len(clipjax.load_results(folder))


def fill(store: ResultStore, n: int) -> int:
    """Add n rows, a run for each model; returns the number of runs."""
    runs: dict[str, list[Any]] = {}
    for copy in itertools.count():
        if (missing := n - sum(map(len, runs.values()))) <= 0:
            break
        for row in itertools.chain.from_iterable(study(copy, missing)):
            runs.setdefault(row["model"], []).append(row)
    for rows in runs.values():
        run_id = new_run_id()
        store.add([{**row, "run_id": run_id} for row in rows])
    return len(runs)


STEPS: dict[str, Callable[[Path], int]] = {
    "results list": listed,
    "results table": tabled,
    "load_results": as_frame,
}


def seconds(call: Callable[[], Any]) -> tuple[float, float]:
    """Wall and processor seconds of a call."""
    clock, processor = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - clock, time.process_time() - processor


def main(
    rows: int = 100_000,
    folder: Annotated[Path | None, typer.Option(help="Keep the store here, or take this one.")] = None,
    json: common.Json = None,
) -> None:
    with common.reported("results_index", json) as results, tempfile.TemporaryDirectory() as scratch:
        store = ResultStore(folder or Path(scratch) / "results")
        runs = len(store.run_ids()) or fill(store, rows)
        results |= {"rows": rows, "runs": runs}
        time.sleep(SETTLED_NS / 1e9)  # a run that was just written is not indexed
        lines = [("rows, runs", f"{rows:,}, {runs:,}")]
        for name, call in STEPS.items():
            with unittest.mock.patch.multiple(RunIndex, rows=lambda *_: None, save=lambda _: None):
                from_runs = seconds(lambda call=call: call(store.root))
            store.rows()  # writes the index where it is missing
            found = seconds(lambda call=call: call(store.root))
            results |= {name: {"from the runs": from_runs, "through the index": found}}
            for way, (clock, processor) in results[name].items():
                lines.append((f"{name}, {way}", f"{clock:.2f} s, {processor:.2f} s of the processor"))
        common.table(lines)


if __name__ == "__main__":
    typer.run(main)
