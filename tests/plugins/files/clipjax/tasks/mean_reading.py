"""Mean reading: the mean of a data set's readings, a task of the kind of run `readings`."""

from __future__ import annotations

from typing import Any

from clipjax.tasks.inputs import About
from clipjax.tasks.task import Columns, Measure, Task, finite_column


def describe(inputs: Any) -> dict[str, Any]:
    """The column `reading`."""
    return {"reading": inputs.readings}


def measure(columns: Columns, about: About) -> list[Measure]:
    readings = finite_column(columns, "reading")
    return [Measure("mean_reading", float(readings.mean()), len(readings))]


TASK = Task(
    name="mean_reading",
    version=1,
    section="none",
    needs=(),
    kinds=("readings",),
    convention={},
    describe=describe,
    measure=measure,
)
