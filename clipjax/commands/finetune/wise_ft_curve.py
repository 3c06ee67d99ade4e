"""The curve of `clipjax wise-ft --evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clipjax.commands.shared.output import announce, print_table, say

if TYPE_CHECKING:
    from clipjax.checkpoints.model import Model
    from clipjax.embeddings.compute import Compute
    from clipjax.finetune.suites import FinetuneSuite
    from clipjax.results.row import Row


def measure(
    base: Model,
    tuned: Model,
    alphas: Sequence[float],
    suite: FinetuneSuite,
    data_root: Path,
    results: Path,
    compute: Compute,
) -> tuple[list[Row], list[str], int]:
    """The rows of every alpha, also written to `results`; the runs that failed, and the number of all."""
    from clipjax.evaluation.rows import Result
    from clipjax.finetune.before_after import evaluate_suite, left_out
    from clipjax.finetune.wise_ft import sweep

    for line in left_out(suite, data_root):
        announce(line)
    rows: list[Row] = []
    failed: list[str] = []
    runs = 0
    for model in sweep(base, tuned, alphas):
        outcomes = evaluate_suite(model, suite, data_root, announce, compute=compute, results=results)
        runs += len(outcomes)
        for (task, dataset), outcome in outcomes.items():
            if isinstance(outcome, Result):
                rows += suite.shown(outcome.rows)
            else:
                failed.append(f"{model.card.id}, {task} on {dataset}: {outcome}")
    return rows, failed, runs


def show(rows: Sequence[Row], alphas: Sequence[float], suite: FinetuneSuite) -> None:
    """A line for each number of the suite, a column for each alpha."""
    titles = {(each.task, each.metric, each.slice): each.title for each in suite.metrics}
    found: dict[tuple[str, str, str], dict[float, str]] = {}
    for row in rows:
        name = row["task"], row["dataset"], titles[row["task"], row["metric"], row["slice"]]
        value = "" if row["value"] is None else f"{row['value']:.4f}"
        found.setdefault(name, {})[row["model_facts"]["lineage"]["alpha"]] = value
    cells = [[*name, *(values.get(alpha, "") for alpha in alphas)] for name, values in found.items()]
    print_table(["task", "data set", "number", *(f"alpha {alpha:g}" for alpha in alphas)], cells)


def draw(rows: Sequence[Row], reference: str | None, alpha: float, out: Path) -> list[Path]:
    """Draw the curve over alpha; returns its files. Prints on stderr why it cannot be drawn."""
    from clipjax.analysis.figures.tasks.finetuning import alpha_figure
    from clipjax.errors import DataError
    from clipjax.storage.remote.publishing import moved, working_copy

    names = list(dict.fromkeys(row["dataset"] for row in rows if row["task"] == "zeroshot"))
    held_out = [name for name in names if name.endswith("_val")]
    try:
        axis = reference or next(iter([*held_out, *names]), "")
        return moved(alpha_figure(rows, axis, working_copy(out) / "wise_ft", written=alpha), out)
    except DataError as error:
        say(f"no figure: {error}", err=True)
        return []
