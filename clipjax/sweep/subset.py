"""A suite with fewer models, or fewer images of each data set. Imports no JAX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from clipjax.errors import UsageError, unknown_name
from clipjax.sweep.suite import PREDICTIONS, Suite, SuiteRun


def subset(suite: Suite, models: Sequence[str] = (), limit: int | None = None) -> Suite:
    """A suite with only some of its models, and with at most `limit` images of each data set.

    Args:
        models: names as in the suite's file, or their last part where they are paths; none: all. A name that
            several models of the suite have picks all of them.
        limit: a run whose own limit is smaller keeps it.

    Raises:
        UsageError: a name of none of its models; a limit beside a model that has only files of predictions.
    """
    kept = {model for name in models for model in _called(suite, name)} if models else set(suite.models)
    runs = [replace(run, models=tuple(model for model in run.models if model in kept)) for run in suite.runs]
    runs = [run for run in runs if run.models] if models else runs
    if limit is not None:
        if files := sorted(kept & suite.predictions.keys()):
            raise UsageError(
                f"--limit: {_short(suite, files[0])} of {suite.name} has files of predictions, which a limit "
                "cannot cut: choose other models with --models"
            )
        runs = [_limited(run, limit) for run in runs]
    return replace(suite, runs=tuple(runs))


def _limited(run: SuiteRun, limit: int) -> SuiteRun:
    return replace(run, options={**run.options, "limit": min(limit, run.options.get("limit", limit))})


def _called(suite: Suite, name: str) -> list[str]:
    found = [
        model
        for model in suite.models
        if name in (model, _short(suite, model)) or model.endswith((f"/{name}", f"{PREDICTIONS}{name}"))
    ]
    if not found:
        raise unknown_name(
            f"model of {suite.name}", name, list(dict.fromkeys(_short(suite, each) for each in suite.models))
        )
    return found


def _short(suite: Suite, model: str) -> str:
    """The name that the file states, else the last part of a path."""
    stated = suite.stated.get(model, {}).get("name")
    return stated or PurePosixPath(model.removeprefix(PREDICTIONS)).name
