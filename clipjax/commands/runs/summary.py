"""Tables and lines that `clipjax eval` prints about its runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clipjax.commands.shared.output import print_table, say
from clipjax.commands.shared.processes import say_waiting
from clipjax.errors import DataError, counted

if TYPE_CHECKING:
    from clipjax.evaluation.rows import Result
    from clipjax.results.row import Row

EMPTY: Mapping[str, str] = {}


def runs_before(results: Path) -> Mapping[str, str]:
    """Recipe hash -> newest run, of the results in a folder; {} for a bucket, which is slow to read."""
    from clipjax.results.store import ResultStore

    if "://" in str(results) or not results.is_dir():
        return {}
    store, found = ResultStore(results), dict[str, str]()
    try:
        for run in store.run_ids():
            shared = store.shared(run)  # run.json alone, unless the run has several recipes
            recipes = [shared] if "recipe_hash" in shared else store.run(run)
            found |= {row["recipe_hash"]: run for row in recipes}
    except DataError:
        return {}  # the command that reads them reports it
    return found


def show(
    results: Sequence[Result],
    as_json: bool,
    folder: Path = Path("results"),
    *,
    all_metrics: bool = False,
    before: Mapping[str, str] = EMPTY,
) -> None:
    """Print notes on the runs to stderr, then their numbers or JSON to stdout.

    Args:
        folder: the folder of these results.
        all_metrics: numbers that are not usual too.
        before: as `runs_before`, from before these runs.
    """
    from clipjax.results.completeness import stated

    rows = [row for result in results for row in result.rows]
    for result in results:
        _say_what(result, before)
        _say_skipped(result.stats.skipped)
    for line in stated(rows):
        say(f"not the whole data set: {line}", err=True)
    _say_resolution([result.rows for result in results], folder)
    say_waiting([result.stats for result in results])
    if as_json:
        say(json.dumps(rows, indent=2))
        return
    unlabelled = [result for result in results if _only_predicts(result)]
    measured = [row for result in results if result not in unlabelled for row in result.rows]
    if measured:
        _print_numbers(measured, all_metrics)
    for number, result in enumerate(unlabelled):
        if measured or number:
            say()
        _print_predictions(result)
    paths = [result.path for result in results if result.path is not None]
    if paths:
        say(f"\nrows and per-image table: {paths[0] if len(paths) == 1 else paths[0].parent}", err=True)


def _print_numbers(rows: Sequence[Row], all_metrics: bool) -> None:
    from clipjax.results.tables import summary_table

    usual = [row for row in rows if _is_usual(row)]
    whole = [row for row in rows if row["slice"] is None or _is_usual(row)]
    print_table(*summary_table(whole if all_metrics else usual))
    if not all_metrics and (more := len(whole) - len(usual)):
        say(f"{counted(more, 'more number')}: --all-metrics, or `clipjax results list`", err=True)


def _say_what(result: Result, before: Mapping[str, str]) -> None:
    if result.what:
        say(result.what, err=True)
    runs = dict.fromkeys(before[row["recipe_hash"]] for row in result.rows if row["recipe_hash"] in before)
    for run in runs:
        say(f"the same recipe has rows already, of the run {run}: the newest are used", err=True)


def _is_usual(row: Row) -> bool:
    """Whether the task prints the number, or a whole data set has a published one beside it."""
    from clipjax.results.row import metric_name
    from clipjax.tasks.task import find_task

    usual, whole = find_task(row["task"]).usual, row["slice"] is None
    named = metric_name(row["metric"], row["slice"]) in usual
    return named or (whole and bool(not usual or row["reference"]))


def _say_skipped(skipped: Sequence[str], most: int = 10) -> None:
    if skipped:
        named = ", ".join(skipped[:most]) + (", ..." if len(skipped) > most else "")
        say(f"{counted(len(skipped), 'unreadable image')} skipped: {named}", err=True)


def _say_resolution(runs: Sequence[Sequence[Row]], folder: Path) -> None:
    """Print how small a difference the samples among the runs can show."""
    if sampled := [rows for rows in runs if rows and rows[0]["sample"]]:
        from clipjax.evaluation.comparison.sample_power import told_by_runs

        for line in told_by_runs(sampled, folder):
            say(line, err=True)


def _only_predicts(result: Result) -> bool:
    """Without labels every metric is null."""
    names = result.images.column_names
    predicts = "prediction_name" in names and "label" not in names
    return predicts and all(row["value"] is None for row in result.rows)


def _print_predictions(result: Result, most: int = 20) -> None:
    """Print the model's predictions for the first images."""
    images = result.images
    rows = images.slice(0, most).to_pylist()
    cells = [[row["id"], row["prediction_name"], f"{row['confidence']:.3f}"] for row in rows]
    print_table(["image", "prediction", "confidence"], cells)
    if images.num_rows > most:
        say(f"... and {images.num_rows - most} more, in the per-image table")
    say(f"\n{result.rows[0]['metric']}: {result.rows[0]['note']}")
