"""What of a sweep has results, and what its stores hold."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clipjax.checkpoints.encoder import Encoder
from clipjax.embeddings.answers import answer_key
from clipjax.embeddings.compute import Compute
from clipjax.embeddings.keys import image_key
from clipjax.embeddings.pairs import pair_key
from clipjax.embeddings.params import AUTO, placements
from clipjax.evaluation.asked import prompts_of_run
from clipjax.evaluation.plans.ready import Done, Ready, all_ready
from clipjax.evaluation.subject import Part, Subject
from clipjax.models.precision import Precision, known_precision
from clipjax.storage.store import EntryInfo, Store, key_hash
from clipjax.sweep.plan import SweepItem


class Stored:
    """A store's entries by name, as of this object's creation."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = root
        self.entries: dict[str, EntryInfo] = {info.name: info for info in Store(root).ls()}

    @property
    def bytes(self) -> int:
        return sum(info.bytes for info in self.entries.values())

    def share(self, name: str) -> float:
        """0 to 1."""
        info = self.entries.get(name)
        return 0.0 if info is None else info.shards_present / info.shards


def embedding_entries(ready: Ready, stored: Stored) -> list[tuple[str, int]]:
    """Names and numbers of images of the entries that an item reads.

    If entries differ only in the placement of params, the stored one.
    """
    model, subject, entries = ready.model, ready.subject, []
    if model is None or subject is None or model.card.fingerprint is None:
        return []
    for part in subject.parts:
        for precision in map(known_precision, ready.item.request.precisions):
            keys = (_key(model, subject, part, precision, params) for params in placements(AUTO))
            names = list(map(key_hash, keys))
            name = next((name for name in names if name in stored.entries), names[0])
            pairs = None if subject.maps is None else part.manifest.pairs
            entries.append((name, len(part.manifest) if pairs is None else 2 * len(pairs)))
    return entries


def _key(model: Encoder, subject: Subject, part: Part, precision: Precision, params: str) -> dict[str, Any]:
    if subject.asking is not None:
        prompts, steps = prompts_of_run(subject), subject.asking.steps
        return answer_key(model.card, part.manifest, part.pixels, prompts, steps, precision, params)
    if subject.maps is not None:
        return pair_key(model.card, part.manifest, subject.matcher, subject.maps, precision, params)
    return image_key(model.card, part.manifest, part.pixels, precision, "embedding", params)


def lacking(items: Sequence[SweepItem], results: str | Path, compute: Compute) -> list[tuple[SweepItem, str]]:
    """The items without results, each with the reason why it cannot run, or ""."""
    done = Done(results)
    return [
        (item, "" if ready.error is None else str(ready.error))
        for item, ready in zip(items, all_ready(items, results, compute))
        if not done.has_all(ready)
    ]
