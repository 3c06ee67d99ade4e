"""The runs that a name stands for: a run's folder, a run's id, or a model. Imports no JAX."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

from clipjax.errors import DataError, unknown_name
from clipjax.results.runs.run_files import RUN
from clipjax.results.store import ResultStore


class NamedRuns(NamedTuple):
    """`runs` are ids, oldest first; `is_run`: the name is that of one run, not of a model."""

    store: ResultStore
    runs: list[str]
    is_run: bool


def runs_named(name: str | Path, results: str | Path) -> NamedRuns:
    """Find a run by its folder, or in `results` by its id, or all runs of a model.

    Raises:
        UsageError: no run or model of that name, with near names.
        DataError: `results` does not exist or holds no run, or a `run.json` there is damaged.
    """
    if ((folder := ResultStore(name).root) / RUN).is_file():
        folder = folder.resolve()
        return NamedRuns(ResultStore(folder.parent), [folder.name], True)
    store = ResultStore(results)
    store.check_root(exists=True)
    ids = store.run_ids()
    if not ids:
        raise DataError(f"{results} holds no results; give the folder that `clipjax eval --results` wrote to")
    if name in ids:
        return NamedRuns(store, [str(name)], True)
    folder = store.root.resolve() if isinstance(store.root, Path) else store.root
    models = {run_id: _model(folder, run_id) for run_id in ids}
    if own := [run_id for run_id in ids if models[run_id] == name]:
        return NamedRuns(store, own, False)
    raise unknown_name("run or model", str(name), sorted(set(models.values())))


@functools.cache  # `compare` asks for two names, and twice: a run never changes
def _model(folder: Path, run_id: str) -> str:
    """The first row's: published numbers of many models may be one run."""
    store = ResultStore(folder)
    shared = store.shared(run_id)
    return shared["model"] if "model" in shared else store.run(run_id)[0]["model"]
