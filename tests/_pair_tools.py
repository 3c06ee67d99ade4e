"""Pairs in memory, and a script that matches them in a process of its own.

    python tests/_pair_tools.py STORE OUT.npz INDEX COUNT PORT

matches twelve pairs with the tiny CLIP of `_embed_tools`. XLA_FLAGS sets the number of devices.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from _embed_tools import SIZE, TinyModel

from clipjax.data.manifest import Manifest
from clipjax.data.pairs.matching import Curve, Matching
from clipjax.data.pairs.pair import Pair
from clipjax.errors import DataError

GRID = 8
GEOMETRIC = Matching(
    kind="geometric",
    size=(SIZE, SIZE),
    normalisation="imagenet",
    features="bicubic",
    by="angle",
    curve=Curve("3d", 0.5),
    grid=(GRID, GRID),
    keep=20,
    thresholds_3d=(0.5, 1.0),
    bins=((0, 30), (30, 60), (60, 90)),
)
KEYPOINTS = Matching(
    kind="keypoints",
    size=(SIZE, SIZE),
    normalisation="imagenet",
    features="corners",
    by="groups",
    curve=Curve("pck", 0.1),
    thresholds_pck=(0.1,),
    keypoints=3,
    groups=("all",),
)


@dataclasses.dataclass(frozen=True)
class MemoryPairs:
    """Random views of a plane. `broken` pairs cannot be read; `empty` ones have no point in image 1."""

    numbers: tuple[int, ...]
    broken: tuple[int, ...] = ()
    empty: tuple[int, ...] = ()

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(f"pair{number}" for number in self.numbers)

    @property
    def clusters(self) -> tuple[str, ...]:
        return tuple(f"object{number % 4}" for number in self.numbers)

    @property
    def columns(self) -> dict[str, list]:
        return {"angle": [float(7 * number % 60) for number in self.numbers]}

    @property
    def digest(self) -> str:
        return f"memory {self.numbers}"

    def __len__(self) -> int:
        return len(self.numbers)

    def image_ids(self, i: int) -> tuple[str, str]:
        return f"{self.numbers[i]}-0.png", f"{self.numbers[i]}-1.png"

    def load(self, i: int) -> Pair:
        number = self.numbers[i]
        if number in self.broken:
            raise DataError(f"depth/{number}.png: pair {self.ids[i]}: cannot be read; replace it")
        rng = np.random.default_rng(number)
        points = rng.uniform(0.5, 2, (2, GRID, GRID, 3)).astype(np.float32)
        points[0, :2] = 0
        if number in self.empty:
            points[1] = 0
        camera = np.diag([20, 20, 1]).astype(np.float32)
        geometry = {"points": points, "intrinsics": camera, "motion": np.eye(4, dtype=np.float32)}
        return Pair(rng.normal(size=(2, SIZE, SIZE, 3)).astype(np.float32), geometry)

    def problems(self, i: int) -> list[str]:
        return []

    def checked(self, images: Mapping[str, str]) -> Self:
        return self

    def select(self, rows: Sequence[int]) -> Self:
        return dataclasses.replace(self, numbers=tuple(self.numbers[i] for i in rows))


@dataclasses.dataclass(frozen=True)
class MemoryImages:
    """Opens the images of `MemoryPairs`, which nothing decodes."""

    names: tuple[str, ...]

    def open(self, i: int) -> bytes:
        return self.names[i].encode()

    def where(self, i: int) -> str:
        return self.names[i]

    def select(self, rows: Sequence[int]) -> MemoryImages:
        return MemoryImages(tuple(self.names[i] for i in rows))

    def content_digests(self, progress: Any = None) -> list[str]:
        return list(self.names)


def manifest_of(pairs: MemoryPairs, name: str = "views") -> Manifest:
    names = tuple(each for i in range(len(pairs)) for each in pairs.image_ids(i))
    return Manifest(names, MemoryImages(names), name=name, pairs=pairs)


def main(store: str, out: str, index: int, count: int, port: str) -> None:
    import jax

    if count > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{port}", count, index, initialization_timeout=60)
    from clipjax.embeddings.compute import Compute
    from clipjax.embeddings.pairs import match_pairs
    from clipjax.models.dense import PROBE3D
    from clipjax.storage.store import Store
    from clipjax.tasks.correspondence import PairMatcher

    how = Compute(store=Store(store), progress=False)
    matches = match_pairs(
        TinyModel(), manifest_of(MemoryPairs(tuple(range(12)))), PairMatcher(GEOMETRIC), PROBE3D, how
    )
    np.savez(Path(out), ids=np.array(matches.ids), array=matches.array, images=matches.stats.images)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
