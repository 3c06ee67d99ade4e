"""A results store of 100,000 rows: seconds to list, merge and analyse it, and to check all claims.

    python benchmarks/results/results_scale.py --published PUBLISHED

PUBLISHED holds the published tables for `clipjax results import`, in folders `openclip`, `timm` and
`testbed`: 72,848 rows in three runs. The other rows (without PUBLISHED: all) are the tests' synthetic study
(tests/_study.py), a run per model and task. One process then does these steps in order:

- read and check the rows, and list a page of them;
- merge the store into an empty one;
- analyse it: trend and effective robustness of all models on ImageNet-V2 with a bootstrap of 2,000 draws, a
  figure, the data of the report page;
- hold it against the ledger of claims: some 160 trends of 2,000 draws each.

There is no other store to compare with, so these are plain seconds, of wall time and of processor time, which
neighbours stretch less. The goal is ten seconds for all steps together. `--folder FOLDER` keeps the store
there, and takes one that is there already.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import common
from clipjax.analysis.claims.claims import check
from clipjax.analysis.claims.ledger import ledger
from clipjax.analysis.figures.figure_set import analyze
from clipjax.analysis.figures.spec import load_spec, spec_names
from clipjax.analysis.report.data import report_data
from clipjax.analysis.rows.cells import Column, RowIndex, Term
from clipjax.analysis.rows.points import points
from clipjax.analysis.trends.trends import effective_robustness, fit_points
from clipjax.results.published.numbers import read_numbers
from clipjax.results.published.result_rows import published_rows
from clipjax.results.row import AnyRow, Row
from clipjax.results.runs.merge import merge_results
from clipjax.results.store import ResultStore, new_run_id
from clipjax.results.tables import summary_table

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from _study import models, study_rows, tuned

SOURCES = {"open_clip": "openclip", "timm": "timm", "testbed": "testbed"}


def fill(store: ResultStore, n: int, published: Path | None) -> int:
    """Add n rows, or more if more are published; returns the number of runs."""
    runs: list[Sequence[AnyRow]] = []
    if published is not None:
        runs = [published_rows(read_numbers(name, published / folder)) for name, folder in SOURCES.items()]
    for copy in itertools.count():
        if (missing := n - sum(map(len, runs))) <= 0:
            break
        runs += study(copy, missing)
    for rows in runs:
        store.add(rows)
    return len(runs)


def study(copy: int, n: int) -> list[list[Row]]:
    """At most n rows of the synthetic study, a list per run; copies get their own model names."""
    terms = dict.fromkeys(term for name in spec_names() for term in load_spec(name).terms)
    known = {**models(), **tuned()}
    named = {f"copy_{copy}_{name}": facts for name, facts in known.items()} if copy else known
    runs: dict[tuple[str, str], list[Row]] = {}
    for row in itertools.islice(study_rows(terms, named), n):
        runs.setdefault((row["model"], row["task"]), []).append(row)
    return [
        [{**row, "run_id": run_id} for row in rows] for rows in runs.values() for run_id in [new_run_id()]
    ]


def trend(index: RowIndex) -> int:
    """Models above or below the trend of standard training, on ImageNet-V2."""
    across, up = (
        Column(name, name, "higher", None, (Term("zeroshot", name, "top1"),))
        for name in ("imagenet_val", "imagenet_v2:matched-frequency")
    )
    found = points(index, across, up)
    baseline = fit_points([point for point in found if point.facts.get("group") == "standard"])
    return len(effective_robustness(found, baseline))


class Steps:
    """Wall and processor seconds of each step."""

    def __init__(self) -> None:
        self.seconds: dict[str, tuple[float, float]] = {}

    def __call__(self, name: str, call: Callable[[], Any]) -> Any:
        clock, processor = time.perf_counter(), time.process_time()
        found = call()
        self.seconds[name] = (time.perf_counter() - clock, time.process_time() - processor)
        return found

    def total(self) -> tuple[float, float]:
        clock, processor = zip(*self.seconds.values())
        return sum(clock), sum(processor)


def main(
    rows: int = 100_000,
    published: Annotated[Path | None, typer.Option(help="Folder of the published tables.")] = None,
    figure: Annotated[str, typer.Option(help="As of `clipjax analyze`.")] = "fig6",
    folder: Annotated[Path | None, typer.Option(help="Keep the store here, or take this one.")] = None,
    json: common.Json = None,
) -> None:
    with common.reported("results_scale", json) as results, tempfile.TemporaryDirectory() as scratch:
        store = ResultStore(folder or Path(scratch) / "results")
        runs = len(store.run_ids()) or fill(store, rows, published)
        step = Steps()
        found = step("read and checked", store.rows)
        step("a page listed", lambda: summary_table(found[:100]))
        step("merged", lambda: merge_results([store.root], Path(scratch) / "merged"))
        index = step("indexed", lambda: RowIndex(found))
        n = step("trend", lambda: trend(index))
        step("figure", lambda: analyze(load_spec(figure), index, Path(scratch), formats=("png",)))
        step("report data", lambda: report_data(found, "results"))
        step("claims", lambda: check(ledger(), index))
        results |= {"rows": len(found), "runs": runs, "trend_models": n, "seconds": step.seconds}
        lines = [("rows, runs", f"{len(found):,}, {runs:,}"), ("models in the trend", f"{n:,}")]
        shown = {"all of it": step.total(), **step.seconds}
        for name, (clock, processor) in shown.items():
            lines.append((name, f"{clock:.2f} s, {processor:.2f} s of the processor"))
        common.table(lines)


if __name__ == "__main__":
    typer.run(main)
