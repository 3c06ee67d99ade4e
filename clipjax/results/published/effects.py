"""The usual effect of a departure from a protocol on a number: configs/departures.toml. Imports no JAX.

effect("classes", "zeroshot")   # -> Effect("classes", "timm, ...", ("zeroshot", "imagenet_x"), 13.3)
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from clipjax.config import config_dir
from clipjax.errors import DataError
from clipjax.storage.reading import read_toml
from clipjax.storage.records import read

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Effect:
    """The usual effect of one kind of departure.

    Attributes:
        tasks: those that the figure was measured on; (): every task.
        points: hundredths of an accuracy or an AUROC, without a sign; None: unknown.

    Raises:
        ValueError: `points` is not within 0 and 100.
    """

    aspect: str
    source: str
    tasks: tuple[str, ...] = ()
    points: float | None = None

    def __post_init__(self) -> None:
        if self.points is not None and not 0 <= self.points <= 100:
            raise ValueError(f"points = {self.points:g} must be from 0 to 100: it has no sign")

    def __str__(self) -> str:
        return UNKNOWN if self.points is None else f"{self.points:g} points"

    @property
    def rank(self) -> tuple[int, float]:
        """A sort key: most severe first, an unknown effect before none at all."""
        points = self.points
        return (1, 0) if points is None else (0, -points) if points > 0 else (2, 0)


@dataclass(frozen=True)
class _Effects:
    effects: tuple[Effect, ...]


@functools.cache
def effects() -> tuple[Effect, ...]:
    """Effects in file order. Raises DataError for a wrong or missing key, or a task without a protocol."""
    path = config_dir() / "departures.toml"
    found = read(_Effects, read_toml(path), path).effects
    known = sorted({str(table.get("task")) for table in read_toml(path.with_name("protocols.toml")).values()})
    for k, each in enumerate(found):
        for task in each.tasks:
            if task not in known:
                raise DataError(
                    f"{path}: effects[{k}].tasks: no protocol of protocols.toml is of a task {task!r}; "
                    f"those with one: {', '.join(known)}"
                )
    return found


def effect(aspect: str, task: str) -> Effect:
    """The usual effect of a departure on a task; unknown where the file has no figure of it."""
    fitting = [each for each in effects() if each.aspect == aspect and task in (each.tasks or (task,))]
    return next(iter(fitting), Effect(aspect, f"no figure of {task}"))
