"""Pairs of images -> their maps of features, and maps that are kept in a store.

A device takes one pair at a time, so bits do not depend on the number of devices, or on the pairs beside a
pair. Each pair's maps are a shard of their own: a killed run loses none.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from clipjax.checkpoints.encoder import Encoder, ModelCard
from clipjax.data.manifest import Manifest
from clipjax.data.pairs.pair import Pair, PairSet
from clipjax.devices.agreement import assert_same_everywhere
from clipjax.devices.programs import enable_compile_cache
from clipjax.devices.sharding import local_mesh, replicated
from clipjax.embeddings.forward import Program, Step, compiled
from clipjax.embeddings.keys import entry_key
from clipjax.embeddings.params import REPLICATED, SHARDED, shardings
from clipjax.errors import DataError
from clipjax.models.dense import DenseRecipe, dense_map
from clipjax.models.network import Network
from clipjax.models.precision import Precision
from clipjax.storage.entry import Entry, key_hash
from clipjax.storage.store import Store


def maps_key(
    card: ModelCard, manifest: Manifest, recipe: DenseRecipe, precision: str, placement: str = REPLICATED
) -> dict[str, Any]:
    """The key of pairs' maps; the pairs' digest covers how their images are prepared."""
    assert manifest.pairs is not None
    return entry_key(
        card,
        "maps",
        precision,
        placement,
        maps=dataclasses.asdict(recipe),
        data=manifest.images_digest,
        pairs=manifest.pairs.digest,
    )


class Tower:
    """The image tower on the devices of this process.

    Attributes:
        steps, pairs: what it did.
    """

    def __init__(self, model: Encoder, recipe: DenseRecipe, precision: Precision, placement: str) -> None:
        assert model.network is not None
        self._model, self._placement = model, placement
        self._make = functools.partial(_maps_step, model.network, precision=precision, recipe=recipe)
        self.mesh = local_mesh()
        self.steps = self.pairs = 0

    def __call__(self, pairs: Sequence[Pair]) -> jax.Array:
        """float32 [devices, 2, h, w, C], perhaps not computed yet; the last pair fills up the step."""
        step, params = self._ready
        self.steps += 1
        self.pairs += len(pairs)
        return step(params, filled([pair.images for pair in pairs], self.mesh.size))

    @functools.cached_property
    def _ready(self) -> tuple[Step, Any]:
        """Params move to the devices for the first pair that needs them."""
        enable_compile_cache()
        step = self._make(mesh=self.mesh, placement=self._placement)
        self._before = step.compiles
        params = {"vision": self._model.params["vision"]}
        return step, jax.device_put(params, step.params_shardings)

    @property
    def compiles(self) -> int:
        return self._ready[0].compiles - self._before if self.steps else 0


def filled(arrays: Sequence[np.ndarray], size: int) -> np.ndarray:
    """[size, ...]: the last one repeats."""
    return np.stack([*arrays, *[arrays[-1]] * (size - len(arrays))])


@functools.lru_cache(maxsize=16)
def _maps_step(
    network: Network, *, mesh: Mesh, precision: Precision, recipe: DenseRecipe, placement: str
) -> Step:
    """Params and the images of a pair per device -> its maps."""

    def maps_of_pair(params: Any, images: jax.Array) -> jax.Array:
        compiled[Program(network.arch.name, "pairs", images.shape[2], 1, precision)] += 1
        return dense_map(network, params, images[0], recipe, precision)[None]

    where: Any = replicated(mesh)
    if placement == SHARDED:
        where = shardings({"vision": network.abstract_params()["vision"]}, mesh, placement)
    return Step(maps_of_pair, mesh, network.compiler_options("vision"), where)


def maps_entry(store: Store, model: Encoder, manifest: Manifest, key: dict[str, Any]) -> Entry:
    """All processes call this, and agree."""
    assert manifest.pairs is not None
    assert_same_everywhere("what maps to keep (the hash of model, data set and settings)", key_hash(key))
    entry = store.entry(
        key,
        ids=manifest.pairs.ids,
        rows_per_shard=1,
        per_device_batch=1,
        about={"model": str(model.card.id), "data": manifest.name, "selection": manifest.selection},
    )
    assert_same_everywhere(f"the store {store.root} (one directory that all hosts see)", entry.manifest.nonce)
    return entry


def keep_maps(
    entry: Entry, skips: bool, compute: Callable[[list[range]], Iterator[dict[int, np.ndarray]]]
) -> None:
    """Fill this process's share of an entry. `compute`: spans of rows -> their maps by row, in turn."""
    missing = entry.missing_shards(allow_skipped=skips)
    mine = [k for k in missing if k % jax.process_count() == jax.process_index()]
    for k, maps in zip(mine, compute([entry.shard_rows(k) for k in mine])):
        if k in maps:
            entry.write_shard(k, [entry.ids[k]], maps[k][None])
        else:
            entry.write_shard(k, [], np.empty(0, np.float32), skipped=[entry.ids[k]])


@dataclasses.dataclass(frozen=True)
class StoredMaps:
    """Pairs whose `images` are their stored maps, float32 [2, h, w, C]."""

    name: str
    pairs: PairSet
    entry: Entry

    def load(self, i: int) -> Pair:
        pair, shard = self.pairs.load(i), self.entry.load_shard(i)
        if shard is None:
            raise DataError(f"{self.entry.shard_path(i)} is missing or damaged; run the task again")
        if not shard[0]:
            raise DataError(
                f"{self.name}: pair {self.pairs.ids[i]} could not be read when the maps were kept: run "
                "without --on-error skip to make its maps"
            )
        return Pair(shard[1][0], pair.geometry)
