"""Pairs of images -> stored numbers of their matches.

The tower and the matcher are two programs, so the numbers of a pair are the same whether its maps were just
computed or kept in the store (`Compute.keep_maps`). A device takes one pair at a time. Bits do not depend on
the number of devices, or on the pairs beside a pair. Every process takes its share of the missing shards, as
for embeddings.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from clipjax.checkpoints.encoder import Encoder, ModelCard
from clipjax.data.manifest import Manifest
from clipjax.data.pairs.pair import Pair, PairSet
from clipjax.devices.agreement import assert_same_everywhere
from clipjax.devices.sharding import replicated
from clipjax.embeddings.compute import Compute, EmbedStats
from clipjax.embeddings.forward import OutOfMemoryError, Step, watched
from clipjax.embeddings.images import finish_together
from clipjax.embeddings.pair_maps import StoredMaps, Tower, filled, keep_maps, maps_entry, maps_key
from clipjax.embeddings.pair_stream import PairStream, Work
from clipjax.embeddings.params import AUTO, REPLICATED, refuse_own
from clipjax.embeddings.sets import SHARDS, Embeddings
from clipjax.errors import DataError, UsageError
from clipjax.models.dense import DenseRecipe
from clipjax.models.precision import known_precision
from clipjax.storage.entry import Entry, check_finite, key_hash
from clipjax.storage.store import Store

SHARD_PAIRS = 32  # at most, and lost by a killed run


class Matcher(Protocol):
    """Hashable: equal matchers share a compiled program."""

    @property
    def shape(self) -> tuple[int, int]: ...

    def key(self) -> dict[str, Any]:
        """As JSON, everything that decides the numbers."""
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
    name = manifest.name or "the data set"
    if manifest.pairs is None or not len(manifest.pairs):
        raise UsageError(f"{name} has no pairs of images")
    if model.network is None:
        raise UsageError(f"{model.card.id} is not one of clipjax's networks: it has no maps of features")
    params = REPLICATED if how.params == AUTO else how.params
    refuse_own(model, params)
    store = None if model.card.fingerprint is None else how.store
    if store is None and how.keep_maps:
        raise UsageError(
            f"{model.card.id} has no fingerprint, under which its maps could be kept: save and load it, or "
            "leave keep_maps (--keep-maps) out"
        )
    key = None if store is None else maps_key(model.card, manifest, recipe, precision, params)
    pairs = manifest.checked_pairs  # after the key, which hashes them
    assert pairs is not None
    job = _Job(name, pairs, matcher, Tower(model, recipe, known_precision(precision), params), how)
    if store is None or key is None:
        ids, array = job.match_in_memory()
        name_of_entry = None
    else:
        if how.keep_maps:
            _together(functools.partial(job.keep, maps_entry(store, model, manifest, key)))
        entry = _entry(store, model, manifest, matcher, key)
        _together(functools.partial(job.match, entry))
        ids, array = entry.read()
        name_of_entry = entry.key_hash
    if not ids:
        raise DataError(f"{name}: no pair could be used, all were skipped")
    return Embeddings(ids, array, name_of_entry, job.stats(ids, params))


def pair_key(
    card: ModelCard,
    manifest: Manifest,
    matcher: Matcher,
    recipe: DenseRecipe,
    precision: str,
    placement: str = REPLICATED,
) -> dict[str, Any]:
    """The key of pairs' numbers."""
    return _of_matches(maps_key(card, manifest, recipe, precision, placement), matcher)


def _of_matches(key: dict[str, Any], matcher: Matcher) -> dict[str, Any]:
    """`key`: of the maps."""
    return {**key, "output": "matches", "matching": matcher.key()}


def _entry(store: Store, model: Encoder, manifest: Manifest, matcher: Matcher, maps: dict[str, Any]) -> Entry:
    assert manifest.pairs is not None
    key, ids = _of_matches(maps, matcher), manifest.pairs.ids
    assert_same_everywhere("what to match (the hash of model, data set and settings)", key_hash(key))
    entry = store.entry(
        key,
        ids=ids,
        rows_per_shard=max(1, min(SHARD_PAIRS, len(ids) // SHARDS)),
        per_device_batch=1,
        row_shape=matcher.shape,
        about={"model": str(model.card.id), "data": manifest.name, "selection": manifest.selection},
    )
    assert_same_everywhere(f"the store {store.root} (one directory that all hosts see)", entry.manifest.nonce)
    return entry


def _together(fill: Callable[[], None]) -> None:
    """All processes fill an entry; raises on each if one fails."""
    failure = None
    try:
        fill()
    except Exception as error:
        failure = error
    finish_together(failure)


class _Job:
    """The pairs of one data set through tower and matcher, on the devices of this process."""

    def __init__(self, name: str, pairs: PairSet, matcher: Matcher, tower: Tower, how: Compute) -> None:
        self._name, self._pairs, self._matcher, self._tower, self._how = name, pairs, matcher, tower, how
        self._match = _match_step(tower.mesh, matcher)
        self._before, self._waited, self._computed = self._match.compiles, 0.0, 0.0
        self._kept: Entry | None = None

    def stats(self, ids: Sequence[str], params: str) -> EmbedStats:
        present = set(ids)
        return EmbedStats(
            forward_passes=self._tower.steps,
            images=2 * self._tower.pairs,
            compiles=self._tower.compiles + self._match.compiles - self._before,
            decode_seconds=self._waited,
            compute_seconds=self._computed,
            skipped=tuple(name for name in self._pairs.ids if name not in present),
            per_device_batch=1,
            params=params,
        )

    def keep(self, entry: Entry) -> None:
        """Make and keep the maps that an entry lacks; `match` then reads it."""
        keep_maps(entry, self._how.on_error == "skip", lambda spans: self._run(spans, self._maps, "mapping"))
        self._kept = entry

    def match(self, entry: Entry) -> None:
        """Match what is missing, span by span."""
        missing = entry.missing_shards(allow_skipped=self._how.on_error == "skip", keep=True)
        # Dealt by number: while another run fills the store, processes see different lists.
        mine = [k for k in missing if k % jax.process_count() == jax.process_index()]
        spans = [entry.shard_rows(k) for k in mine]
        for k, numbers in zip(mine, self._run(spans, self._numbers, "matching")):
            skipped = [entry.ids[row] for row in entry.shard_rows(k) if row not in numbers]
            entry.write_shard(k, [entry.ids[row] for row in numbers], self._stacked(numbers), skipped=skipped)

    def match_in_memory(self) -> tuple[list[str], np.ndarray]:
        [numbers] = self._run([range(len(self._pairs))], self._numbers, "matching")
        ids, array = [self._pairs.ids[row] for row in numbers], self._stacked(numbers)
        check_finite(ids, array)
        return ids, array

    def _stacked(self, numbers: Mapping[int, np.ndarray]) -> np.ndarray:
        return np.array([*numbers.values()], np.float32).reshape(len(numbers), *self._matcher.shape)

    def _run(self, spans: Sequence[range], work: Work, doing: str) -> Iterator[dict[int, np.ndarray]]:
        pairs = self._pairs if self._kept is None else StoredMaps(self._name, self._pairs, self._kept)
        stream = PairStream(self._name, pairs, self._tower.mesh.size, self._how)
        try:
            yield from stream.run(spans, work, doing)
        finally:
            self._waited += stream.waited

    def _maps(self, rows: Sequence[int], pairs: Sequence[Pair]) -> list[np.ndarray]:
        """[2, h, w, C] each."""
        with self._computing():
            return list(np.asarray(self._tower(pairs))[: len(pairs)])

    def _numbers(self, rows: Sequence[int], pairs: Sequence[Pair]) -> list[np.ndarray | DataError]:
        size = self._tower.mesh.size
        with self._computing():
            maps = self._tower(pairs) if self._kept is None else filled([pair.images for pair in pairs], size)
            geometry = jax.tree.map(lambda *each: filled(each, size), *[pair.geometry for pair in pairs])
            batch: Any = {"maps": maps, "geometry": geometry}
            numbers = np.asarray(self._match((), batch), np.float32)
        return [self._checked(row, own) for row, own in zip(rows, numbers)]

    @contextlib.contextmanager
    def _computing(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            with watched(1):
                yield
        except OutOfMemoryError:
            raise DataError(
                f"{self._name}: not even one pair fits a device's memory: end what else uses the device, cut "
                "the params over several (--params sharded), or take fewer bits (--precision fast)"
            ) from None
        self._computed += time.perf_counter() - start

    def _checked(self, row: int, numbers: np.ndarray) -> np.ndarray | DataError:
        if not (numbers[:, 0] < 0).all():  # NaN is refused where numbers are kept
            return numbers
        first, second = self._pairs.image_ids(row)
        return DataError(
            f"{self._name}: pair {self._pairs.ids[row]} ({first}, {second}) has no match: no point is "
            "known in both images"
        )


@functools.lru_cache(maxsize=16)
def _match_step(mesh: Mesh, matcher: Matcher) -> Step:
    """A pair's maps and geometry a device -> the numbers of its matches."""

    def match_pair(_: Any, pair: Any) -> jax.Array:
        [[map0, map1]] = pair["maps"]
        geometry = {name: each[0] for name, each in pair["geometry"].items()}
        # A matcher may return finite numbers for a map that is not finite.
        finite = jnp.isfinite(map0).all() & jnp.isfinite(map1).all()
        return jnp.where(finite, matcher(map0, map1, geometry), jnp.nan)[None]

    return Step(match_pair, mesh, None, replicated(mesh))
