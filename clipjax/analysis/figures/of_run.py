"""The figure of one run, by its task."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from clipjax.errors import UsageError
from clipjax.registry import Registry
from clipjax.results.row import AnyRow

FIGURES = Registry("figure", "FIGURES")


class Draw(Protocol):
    """Draws a run's rows to `out` as .png and .pdf; returns the files.

    `images` reads the per-image table, column -> values.
    """

    def __call__(
        self, rows: Sequence[AnyRow], images: Callable[[], Mapping[str, Any]], out: Path
    ) -> list[Path]: ...


@functools.cache
def run_figures() -> dict[str, Draw]:
    """Task -> its function.

    Raises:
        ValueError: two modules draw one task.
    """
    by_task: dict[str, Draw] = {}
    for module, own in FIGURES.all(dict).items():
        if both := by_task.keys() & own.keys():
            raise ValueError(f"two modules draw a run of {min(both)!r}, one of them {module}")
        by_task |= own
    return by_task


def figure_of(run: str, task: str) -> Draw:
    """Raises UsageError for a task without a figure."""
    if task not in run_figures():
        known = ", ".join(sorted(run_figures()))
        raise UsageError(f"{run} is a run of {task!r}, which has no figure; these have: {known}")
    return run_figures()[task]
