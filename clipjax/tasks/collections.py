"""Collections: several tasks under one name, from configs/collections.toml. Imports no JAX."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from clipjax.config import ConfigTable, config_tables
from clipjax.entry_points import cached
from clipjax.errors import DataError
from clipjax.storage.reading import read_tables
from clipjax.storage.records import read
from clipjax.tasks.task_names import TASKS

if TYPE_CHECKING:
    from clipjax.data.cards import DatasetCard

ALL = "all"


@dataclasses.dataclass(frozen=True)
class Collection:
    """Several tasks under one name.

    Attributes:
        section: of the paper.
        prompts: each task runs with each of these sets; empty: each data set's own.
        corrupted: include data sets with a variant `corruption` (3DCC's sixty).
    """

    tasks: tuple[str, ...]
    section: str = ""
    prompts: tuple[str, ...] = ()
    corrupted: bool = True

    def takes(self, card: DatasetCard, task: str) -> bool:
        return task in card.tasks and (self.corrupted or "corruption" not in card.variant)


@cached
def collections() -> dict[str, Collection]:
    """Raises DataError naming the file and the wrong key."""
    tables = read_tables(config_tables(ConfigTable.COLLECTIONS))
    return {name: _collection(f"{path}: {name}", record) for name, (record, path) in tables.items()}


def _collection(where: str, record: object) -> Collection:
    group = read(Collection, record, where)
    if unknown := set(group.tasks) - set(TASKS.names()):
        raise DataError(f"{where}: there is no task {min(unknown)!r}")
    return group


def collection(name: str) -> Collection:
    """The tasks of a collection, of `all`, or one task by name. Raises UsageError with the nearest names."""
    if name in collections():
        return collections()[name]
    if name == ALL:
        return Collection(TASKS.names())
    if name not in TASKS.names():
        raise TASKS.unknown(name, [*collections(), ALL])
    return Collection((name,))
