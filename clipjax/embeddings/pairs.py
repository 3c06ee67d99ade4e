"""Pairs of images -> stored numbers of their matches.

The tower and the matcher are two programs, so the numbers of a pair are the same whether its maps were just
computed or kept in the store (`Compute.keep_maps`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from clipjax.checkpoints.encoder import Encoder, ModelCard
from clipjax.data.manifest import Manifest
from clipjax.data.pairs.pair import Pair
from clipjax.devices.sharding import replicated
from clipjax.embeddings.compute import Compute
from clipjax.embeddings.forward import Forward, ProgramKey, Step, compiled, on_devices
from clipjax.embeddings.pair_maps import MapStream, PairStream, StoredMaps, maps_key
from clipjax.embeddings.placements import AUTO, REPLICATED, refuse_own
from clipjax.embeddings.sets import SHARDS, Embeddings, StoredRows
from clipjax.embeddings.stored_rows import make, rows_of, stored_rows
from clipjax.embeddings.stream import Batch, Order
from clipjax.errors import DataError, UsageError
from clipjax.models.dense import DenseRecipe
from clipjax.models.precision import known_precision
from clipjax.storage.entry import Entry

SHARD_PAIRS = 32  # at most, and lost by a killed run


class Matcher(Protocol):
    """Hashable: equal matchers share a compiled program."""

    @property
    def shape(self) -> tuple[int, int]: ...

    def key(self) -> dict[str, Any]:
        """Everything that decides the numbers, as JSON."""
        ...

    def __call__(self, map0: jax.Array, map1: jax.Array, geometry: Mapping[str, jax.Array]) -> jax.Array:
        """Maps [h, w, C] -> float32 `shape`: a line per match; negative numbers mark an absent one."""
        ...


def match_pairs(
    model: Encoder,
    manifest: Manifest,
    matcher: Matcher,
    recipe: DenseRecipe,
    compute: Compute | None = None,
    *,
    precision: str = "parity",
) -> Embeddings:
    """Match the pairs of a data set, or read what is stored: ids and float32 [N, *matcher.shape].

    Args:
        compute: default: without a store. Params are whole on each device unless "sharded" is asked for. With
            `keep_maps` the maps that the store lacks are made and kept first, then matched from there.
        recipe: of the maps.

    Raises:
        DataError: a pair cannot be read or has no match (the full shards before it are stored first), none is
            left, two images do not fit a device, or a map is not finite.
        UsageError: no pairs, or a user's own model.
    """
    how = Compute() if compute is None else compute
    if manifest.pairs is None or not len(manifest.pairs):
        raise UsageError(f"{manifest.name or 'the data set'} has no pairs of images")
    if model.network is None:
        raise UsageError(f"{model.card.id} is not one of clipjax's networks: it has no maps of features")
    placement = REPLICATED if how.params == AUTO else how.params
    refuse_own(model, placement)
    if model.card.fingerprint is None and how.keep_maps:
        raise UsageError(
            f"{model.card.id} has no fingerprint, under which its maps could be kept: save and load it, or "
            "leave keep_maps (--keep-maps) out"
        )
    common = (
        model,
        known_precision(precision),
        dataclasses.replace(how, per_device_batch=1, params=placement),
        recipe,
    )
    shard = max(1, min(SHARD_PAIRS, len(manifest.pairs) // SHARDS))
    if not how.keep_maps:
        [matches] = rows_of(MatchStream(*common, matcher), [manifest], shard)
        return matches
    stream = MapStream(*common)
    maps = stored_rows(stream, manifest, rows_per_shard=1)
    make(stream, [maps])
    [matches] = rows_of(MatchStream(*common, matcher, maps.entry), [manifest], shard)
    return dataclasses.replace(matches, stats=matches.stats.plus(maps.stats(counted=True)))


def pair_key(
    card: ModelCard,
    manifest: Manifest,
    matcher: Matcher,
    recipe: DenseRecipe,
    precision: str,
    placement: str = REPLICATED,
) -> dict[str, Any]:
    """The key of pairs' numbers: that of their maps, and how these are matched."""
    maps = maps_key(card, manifest, recipe, precision, placement)
    return {**maps, "output": "matches", "matching": matcher.key()}


@dataclasses.dataclass(frozen=True)
class MatchStream(PairStream):
    """Pairs -> numbers of their matches, float32 [devices, *matcher.shape].

    Attributes:
        maps: the entry that has the pairs' maps; None: the tower makes them.
    """

    matcher: Matcher
    maps: Entry | None = None

    verb: ClassVar[str] = "matching"

    @property
    def images(self) -> int:
        return 2 if self.maps is None else 0

    @property
    def row_shape(self) -> tuple[int, ...]:
        return self.matcher.shape

    def key(self, manifest: Manifest, placement: str) -> dict[str, Any]:
        return pair_key(self.model.card, manifest, self.matcher, self.recipe, self.precision, placement)

    def loader(self, of: StoredRows) -> Callable[[int], Pair]:
        pairs = of.manifest.checked_pairs
        if self.maps is None or pairs is None:
            return super().loader(of)
        return StoredMaps(of.name, pairs, self.maps).load

    def inputs(self, batch: Batch, rows: np.ndarray) -> Any:
        return {"maps": batch.inputs.images, "geometry": batch.inputs.geometry}

    def forward(self, per_device_batch: int, placement: str) -> Forward:
        """The matching of pairs, after the tower that makes their maps unless these are stored."""
        match = on_devices(_match_step(self.mesh, self.matcher), (), per_device_batch, self.model)
        if self.maps is not None:
            return match
        tower = super().forward(per_device_batch, placement)

        def run(pairs: Any) -> Any:
            return match.run({**pairs, "maps": tower.run(pairs["maps"])})

        return Forward(run, match.batch_size)

    def unusable(self, order: Order, step: int, read: np.ndarray, array: np.ndarray) -> dict[int, DataError]:
        absent = read & (array[:, :, 0] < 0).all(axis=1)  # NaN is refused where numbers are kept
        rows, errors = order.rows(step), {}
        for position in np.flatnonzero(absent).tolist():
            of, row = order.owner(step, position), int(rows[position])
            assert of.manifest.pairs is not None
            first, second = of.manifest.pairs.image_ids(row)
            errors[position] = DataError(
                f"{of.name}: pair {of.ids[row]} ({first}, {second}) has no match: no point is known in both "
                "images"
            )
        return errors


@functools.lru_cache(maxsize=16)
def _match_step(mesh: Mesh, matcher: Matcher) -> Step:
    """A pair's maps and geometry a device -> the numbers of its matches."""

    def match_pair(_: Any, pair: Any) -> jax.Array:
        [[map0, map1]] = pair["maps"]
        compiled[ProgramKey("any", "matches", map0.shape[0], 1, "parity")] += 1
        geometry = {name: each[0] for name, each in pair["geometry"].items()}
        # A matcher may return finite numbers for a map that is not finite.
        finite = jnp.isfinite(map0).all() & jnp.isfinite(map1).all()
        return jnp.where(finite, matcher(map0, map1, geometry), jnp.nan)[None]

    return Step(match_pair, mesh, None, replicated(mesh))
