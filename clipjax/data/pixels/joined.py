"""Several data sets read as one."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import operator
from collections.abc import Sequence

from clipjax.data.manifest import Manifest, Opener, Progress


@dataclasses.dataclass(frozen=True)
class JoinedOpener:
    """Image i of opener k is `starts[k] + i`."""

    openers: tuple[Opener, ...]
    starts: tuple[int, ...]

    def open(self, i: int) -> bytes:
        k, row = self._owner(i)
        return self.openers[k].open(row)

    def where(self, i: int) -> str:
        k, row = self._owner(i)
        return self.openers[k].where(row)

    def select(self, rows: Sequence[int]) -> JoinedOpener:
        openers, sizes = [], []
        # An opener may come again: only neighbouring rows of one opener are grouped, which keeps the order.
        for k, owned in itertools.groupby(map(self._owner, rows), key=operator.itemgetter(0)):
            own = [row for _, row in owned]
            openers.append(self.openers[k].select(own))
            sizes.append(len(own))
        return JoinedOpener(tuple(openers), _starts(sizes))

    def content_digests(self, progress: Progress | None = None) -> list[str]:
        return [digest for opener in self.openers for digest in opener.content_digests(progress)]

    def _owner(self, i: int) -> tuple[int, int]:
        k = bisect.bisect_right(self.starts, i) - 1
        return k, i - self.starts[k]


def _starts(sizes: Sequence[int]) -> tuple[int, ...]:
    return tuple(itertools.accumulate(sizes, initial=0))[:-1]


def joined(manifests: Sequence[Manifest]) -> Manifest:
    """One manifest of all images, without labels and columns; ids begin with the manifest's number.

    A single manifest is returned as it is.
    """
    if len(manifests) == 1:
        return manifests[0]
    ids = tuple(f"{k}/{name}" for k, manifest in enumerate(manifests) for name in manifest.ids)
    starts = _starts([len(manifest) for manifest in manifests])
    opener = JoinedOpener(tuple(manifest.checked_opener for manifest in manifests), starts)
    return Manifest(ids, opener, name=f"{len(manifests)} data sets")
