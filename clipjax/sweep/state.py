"""State of a sweep: items without results, and entries of its stores."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from clipjax.embeddings.compute import Compute
from clipjax.embeddings.placements import AUTO, placements
from clipjax.evaluation.plans.ready import ResolvedItem, StoredRecipes, all_ready
from clipjax.models.precision import known_precision
from clipjax.storage.store import EntryInfo, Store, key_hash
from clipjax.sweep.plan import SweepItem


class StoreIndex:
    """A store's entries by name, as of this object's creation."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = root
        self.entries: dict[str, EntryInfo] = {info.name: info for info in Store(root).ls()}

    @property
    def bytes(self) -> int:
        return sum(info.bytes for info in self.entries.values())

    def share(self, name: str) -> float:
        """The share of an entry's shards that are stored, 0 to 1."""
        info = self.entries.get(name)
        return 0.0 if info is None else info.shards_present / info.shards


def embedding_entries(ready: ResolvedItem, stored: StoreIndex) -> list[tuple[str, int]]:
    """Names and numbers of images of the entries that an item reads.

    If entries differ only in the placement of params, the stored one.
    """
    model, subject, entries = ready.model, ready.subject, []
    if model is None or subject is None or model.card.fingerprint is None:
        return []
    for precision in map(known_precision, ready.item.request.precisions):
        for ways in zip(*(subject.entries(precision, params) for params in placements(AUTO))):
            names = [(key_hash(key), images) for key, images in ways]
            entries.append(next((name for name in names if name[0] in stored.entries), names[0]))
    return entries


def lacking(items: Sequence[SweepItem], results: str | Path, compute: Compute) -> list[tuple[SweepItem, str]]:
    """The items without results, each with the reason why it cannot run, or ""."""
    done = StoredRecipes(results)
    return [
        (item, "" if ready.error is None else str(ready.error))
        for item, ready in zip(items, all_ready(items, results, compute))
        if not done.has_all(ready)
    ]
