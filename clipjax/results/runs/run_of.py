"""Annotations made by an earlier run: `run_of:MODEL` names that model's newest one in the results.

clipjax eval imagenet_d --model resnet50.tv_in1k ...
clipjax eval multiple_choice --model vit_b_32-openai --annotations run_of:resnet50.tv_in1k ...
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from clipjax.errors import DataError, UsageError
from clipjax.results.completeness import is_whole
from clipjax.results.row import Row
from clipjax.results.store import ResultStore

RUN_OF = "run_of:"


def names_run(annotations: str | Path | None) -> bool:
    return str(annotations or "").startswith(RUN_OF)


def annotations_at(
    annotations: str | Path | None,
    task: str | None,
    dataset: str,
    results: str | Path | None,
    prompts: Callable[[], str | None] = lambda: None,
) -> str | Path | None:
    """The folder of the run that is named; anything else stays.

    Whole runs come before samples, then those with `prompts` before others, then the newest.

    Args:
        task: whose runs are annotations; None: those of no task.
        prompts: () -> the name of the prompt set of the run that reads the annotations.

    Raises:
        UsageError: no task, or no results.
        DataError: no such run is among the results.
    """
    if not names_run(annotations):
        return annotations
    model = str(annotations).removeprefix(RUN_OF)
    if task is None:
        raise UsageError(f"the task takes no runs as annotations: leave {annotations} (--annotations) out")
    if results is None:
        raise UsageError(f"{annotations} is a run among results: say where they are, results=FOLDER")
    store, wanted = ResultStore(results), prompts()
    found: dict[tuple[bool, bool], Path] = {}
    for run_id in reversed(store.run_ids()):
        row = store.run(run_id)[0]
        if _is_of(row, task, dataset, model):
            same = (row["convention"] or {}).get("prompts") == wanted
            found.setdefault((is_whole(row), same), store.root / run_id)
            if (True, True) in found:
                break  # no older run is preferred
    if found:
        return found[max(found)]
    raise DataError(
        f"{store.root} has no run of {task} by {model} on {dataset}: make it first, "
        f"`clipjax eval {task} --model {model} --data FOLDER --dataset {dataset} --results {store.root}`"
    )


def _is_of(row: Row, task: str, dataset: str, model: str) -> bool:
    named = (row["task"], row["dataset"], row["model"], row["precision"]) == (task, dataset, model, "parity")
    return named and row["value"] is not None
