"""Answers in the store: one file per image, so that a killed run loses only what was under way.

A file holds the answers in all orders as JSON, in a row of bytes. The first row of an entry is the probe's
answer: the model that goes on must give it again.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clipjax.served.probe import ServerProbe
from clipjax.served.replies import Reply
from clipjax.storage.store import Store

_PROBE, _PROBE_ID = -1, "(probe)"
_log = logging.getLogger(__name__)


class StoredReplies:
    """The answers about images, by the images' numbers. Without a store they are only in memory.

    Use it in a `with` block: inside, no other process removes the entry.

    Args:
        key: everything that the answers depend on.
        ids: of the images.
        about: names for `clipjax store list`.
    """

    def __init__(
        self, store: Store | None, key: Mapping[str, Any], ids: Sequence[str], about: Mapping[str, str]
    ) -> None:
        self.ids = list(ids)
        self._kept: dict[int, tuple[Reply, ...]] = {}
        self._entry = self._held = None
        if store is not None:
            rows = {"ids": [_PROBE_ID, *ids], "rows_per_shard": 1, "per_device_batch": 1, "dtype": "uint8"}
            self._entry = store.entry(dict(key), **rows, about=dict(about))
            self._held = self._entry.hold()
            for k in range(self._entry.shards):
                if (replies := self._read(k)) is not None:
                    self._kept[k - 1] = replies

    def __enter__(self) -> StoredReplies:
        return self

    def __exit__(self, *_: object) -> None:
        if self._held is not None:
            self._held.close()

    @property
    def probe(self) -> ServerProbe | None:
        """The probe of the run that began the entry; None without one."""
        replies = self._kept.get(_PROBE)
        return None if replies is None else ServerProbe(*replies)

    def keep_probe(self, probe: ServerProbe) -> None:
        self.keep(_PROBE, (probe.first, probe.again))

    def missing(self, found: ServerProbe) -> list[int]:
        """The images without answers, and those whose answers lack what the server gives."""
        kept = (self._kept.get(row) for row in range(len(self.ids)))
        return [row for row, replies in enumerate(kept) if replies is None or not found.whole(replies)]

    def get(self, row: int) -> tuple[Reply, ...] | None:
        """The answers about an image, one per order."""
        return self._kept.get(row)

    def keep(self, row: int, replies: tuple[Reply, ...]) -> None:
        """Raises DataError if the disk is full."""
        if row in self._kept:
            self.forget([row])  # a stored file stays as it is
        self._kept[row] = replies
        if self._entry is not None:
            data = np.frombuffer(
                json.dumps([dataclasses.astuple(each) for each in replies]).encode(), np.uint8
            )
            self._entry.write_shard(row + 1, [self._entry.ids[row + 1]], data[None])

    def forget(self, rows: Sequence[int]) -> None:
        """Remove answers that do not count."""
        for row in rows:
            self._kept.pop(row, None)
            if self._entry is not None:
                self._entry.shard_path(row + 1).unlink(missing_ok=True)

    def _read(self, k: int) -> tuple[Reply, ...] | None:
        assert self._entry is not None
        if (shard := self._entry.load_shard(k)) is None or not len(shard[1]):
            return None
        try:
            replies = json.loads(shard[1].tobytes())
            return tuple(Reply(text, _pairs(top), _pairs(options)) for text, top, options in replies)
        except (ValueError, TypeError) as error:
            _log.warning(
                "%s is damaged (%s): that image is asked about again", self._entry.shard_path(k), error
            )
            self._entry.shard_path(k).unlink(missing_ok=True)
            return None


def _pairs(listed: Any) -> tuple[tuple[Any, Any], ...] | None:
    return None if listed is None else tuple((one, two) for one, two in listed)
