"""Pairs of images -> stored numbers of their matches.

A device takes one pair at a time: both images through the tower, the two maps through a matcher. Maps are not
kept. Bits do not depend on the number of devices, or on the pairs beside a pair. Every process takes its
share of the missing shards, as for embeddings.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from clipjax.checkpoints.encoder import Encoder, ModelCard
from clipjax.data.manifest import Manifest
from clipjax.data.pairs.pair import Pair, PairSet
from clipjax.devices.agreement import assert_same_everywhere
from clipjax.devices.sharding import local_mesh, replicated
from clipjax.embeddings.compute import Compute
from clipjax.embeddings.forward import (
    OutOfMemoryError,
    Program,
    Step,
    compiled,
    enable_compile_cache,
    watched,
)
from clipjax.embeddings.images import finish_together
from clipjax.embeddings.params import AUTO, REPLICATED, SHARDED, refuse_own, shardings
from clipjax.embeddings.sets import SHARDS, Embeddings, EmbedStats
from clipjax.errors import DataError, UsageError
from clipjax.models.dense import DenseRecipe, dense_map
from clipjax.models.network import Network
from clipjax.models.precision import Precision, known_precision
from clipjax.models.version import FORWARD_VERSION
from clipjax.progress import progress_bar
from clipjax.storage.entry import Entry, check_finite, key_hash

SHARD_PAIRS = 32  # at most, and lost by a killed run
LOADERS = 8  # threads that read pairs
AHEAD = 2  # steps whose pairs are read ahead


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
        compute: default: without a store. Params are whole on each device unless "sharded" is asked for.
        recipe: of the maps.

    Raises:
        DataError: a pair cannot be read or has no match (the full shards before it are stored first), none is
            left, two images do not fit a device, or a map is not finite.
        UsageError: no pairs, or a user's own model.
    """
    how = Compute() if compute is None else compute
    pairs, name = manifest.pairs, manifest.name or "the data set"
    if pairs is None or not len(pairs):
        raise UsageError(f"{name} has no pairs of images")
    if model.network is None:
        raise UsageError(f"{model.card.id} is not one of clipjax's networks: it has no maps of features")
    params = REPLICATED if how.params == AUTO else how.params
    refuse_own(model, params)
    stream = _Stream(model, name, pairs, matcher, recipe, known_precision(precision), params, how)
    entry = None
    if how.store is not None and model.card.fingerprint is not None:
        entry = _entry(stream, manifest, pair_key(model.card, manifest, matcher, recipe, precision, params))
    kept: dict[int, np.ndarray] = {}
    failure = None
    try:
        _run(stream, entry, kept)
    except Exception as error:
        failure = error
    if entry is not None:
        finish_together(failure)
    elif failure is not None:
        raise failure
    ids, array = _in_memory(stream, kept) if entry is None else entry.read()
    if not ids:
        raise DataError(f"{name}: no pair could be used, all were skipped")
    return Embeddings(ids, array, entry and entry.key_hash, stream.stats(ids))


def pair_key(
    card: ModelCard,
    manifest: Manifest,
    matcher: Matcher,
    recipe: DenseRecipe,
    precision: str,
    params: str = REPLICATED,
) -> dict[str, Any]:
    """Everything that a pair's numbers depend on; the fingerprint covers weights and architecture."""
    assert manifest.pairs is not None
    return {
        "model": card.fingerprint,
        "forward": FORWARD_VERSION,
        "output": "matches",
        "maps": dataclasses.asdict(recipe),
        "matching": matcher.key(),
        "data": manifest.images_digest,
        "pairs": manifest.pairs.digest,
        "precision": precision,
        **({} if params == REPLICATED else {"params": params}),
    }


def _entry(stream: _Stream, manifest: Manifest, key: dict[str, Any]) -> Entry:
    store, ids = stream.how.store, stream.pairs.ids
    assert store is not None
    assert_same_everywhere("what to match (the hash of model, data set and settings)", key_hash(key))
    entry = store.entry(
        key,
        ids=ids,
        rows_per_shard=max(1, min(SHARD_PAIRS, len(ids) // SHARDS)),
        per_device_batch=1,
        row_shape=stream.matcher.shape,
        about={"model": str(stream.model.card.id), "data": manifest.name, "selection": manifest.selection},
    )
    assert_same_everywhere(f"the store {store.root} (one directory that all hosts see)", entry.manifest.nonce)
    return entry


def _run(stream: _Stream, entry: Entry | None, kept: dict[int, np.ndarray]) -> None:
    """Match what is missing, span by span, into the entry or `kept` (by row)."""
    if entry is None:
        kept.update(next(iter(stream.run([range(len(stream.pairs))]))))
        return
    missing = entry.missing_shards(allow_skipped=stream.how.on_error == "skip")
    # Dealt by number: while another run fills the store, processes see different lists.
    mine = [k for k in missing if k % jax.process_count() == jax.process_index()]
    for k, numbers in zip(mine, stream.run([entry.shard_rows(k) for k in mine])):
        skipped = [entry.ids[row] for row in entry.shard_rows(k) if row not in numbers]
        array = _stacked([*numbers.values()], stream.matcher)
        entry.write_shard(k, [entry.ids[row] for row in numbers], array, skipped=skipped)


def _in_memory(stream: _Stream, kept: Mapping[int, np.ndarray]) -> tuple[list[str], np.ndarray]:
    ids = [stream.pairs.ids[row] for row in sorted(kept)]
    array = _stacked([kept[row] for row in sorted(kept)], stream.matcher)
    check_finite(ids, array)
    return ids, array


def _stacked(rows: Sequence[np.ndarray], matcher: Matcher) -> np.ndarray:
    return np.array(rows, np.float32).reshape(len(rows), *matcher.shape)


class _Loaded(NamedTuple):
    row: int
    pair: Pair | DataError


class _Stream:
    """The pairs of one data set through the devices of this process."""

    def __init__(
        self,
        model: Encoder,
        name: str,
        pairs: PairSet,
        matcher: Matcher,
        recipe: DenseRecipe,
        precision: Precision,
        params: str,
        how: Compute,
    ) -> None:
        self.model, self.name, self.pairs, self.matcher, self.how = model, name, pairs, matcher, how
        self._recipe, self._precision, self._placement = recipe, precision, params
        self._steps = self._matched = self._compiles = 0
        self._waited = self._computed = 0.0

    def stats(self, ids: Sequence[str]) -> EmbedStats:
        present = set(ids)
        return EmbedStats(
            forward_passes=self._steps,
            images=2 * self._matched,
            compiles=self._compiles,
            decode_seconds=self._waited,
            compute_seconds=self._computed,
            skipped=tuple(name for name in self.pairs.ids if name not in present),
            per_device_batch=1,
            params=self._placement,
        )

    def run(self, spans: Sequence[range]) -> Iterator[dict[int, np.ndarray]]:
        """The numbers of each span's pairs by row, in turn; a skipped pair has none.

        Raises DataError for a pair that cannot be used, after the spans before it.
        """
        if not spans:
            return
        rows = list(itertools.chain(*spans))
        done: dict[int, np.ndarray | None] = {}
        waiting = collections.deque(spans)
        stops = self.how.on_error == "raise"
        shown = self.how.progress and jax.process_index() == 0
        with progress_bar(len(rows), f"matching {self.name}", "pair", shown=shown) as bar:
            for results in self._results(rows):
                bar.update(len(results))
                unusable = {row: each for row, each in results.items() if isinstance(each, DataError)}
                done |= {row: each for row, each in results.items() if not isinstance(each, DataError)}
                if not stops:
                    done |= dict.fromkeys(unusable)
                while waiting and all(row in done for row in waiting[0]):
                    span = waiting.popleft()
                    numbers = {row: done.pop(row) for row in span}
                    yield {row: each for row, each in numbers.items() if each is not None}
                if unusable and stops:
                    raise next(iter(unusable.values()))

    def _results(self, rows: Sequence[int]) -> Iterator[dict[int, np.ndarray | DataError]]:
        """A step's pairs by row, each with its numbers or why it has none."""
        enable_compile_cache()
        mesh = local_mesh()
        network = self.model.network
        assert network is not None
        step = _step(network, mesh, self._precision, self._recipe, self.matcher, self._placement)
        params = jax.device_put({"vision": self.model.params["vision"]}, step.params_shardings)
        before = step.compiles
        try:
            for group in self._groups(rows, mesh.size):
                unusable = {each.row: each.pair for each in group if isinstance(each.pair, DataError)}
                usable = [(each.row, each.pair) for each in group if isinstance(each.pair, Pair)]
                numbers = self._matches(step, params, [pair for _, pair in usable], mesh.size)
                yield unusable | {row: self._checked(row, own) for (row, _), own in zip(usable, numbers)}
        finally:
            self._compiles += step.compiles - before

    def _groups(self, rows: Sequence[int], size: int) -> Iterator[list[_Loaded]]:
        """Up to `size` readable pairs, in order, with the unreadable ones among them."""
        group: list[_Loaded] = []
        for each in self._loaded(rows, AHEAD * size):
            group.append(each)
            stops = self.how.on_error == "raise" and isinstance(each.pair, DataError)
            if stops or sum(isinstance(one.pair, Pair) for one in group) == size:
                yield group
                group = []
        if group:
            yield group

    def _loaded(self, rows: Sequence[int], ahead: int) -> Iterator[_Loaded]:
        with ThreadPoolExecutor(LOADERS, "pairs") as pool:
            running: collections.deque[Future[_Loaded]] = collections.deque()
            remaining = iter(rows)
            try:
                while True:
                    for row in itertools.islice(remaining, ahead - len(running)):
                        running.append(pool.submit(self._load, row))
                    if not running:
                        return
                    start = time.perf_counter()
                    each = running.popleft().result()
                    self._waited += time.perf_counter() - start
                    yield each
            finally:
                for future in running:
                    future.cancel()

    def _load(self, row: int) -> _Loaded:
        try:
            return _Loaded(row, self.pairs.load(row))
        except DataError as error:
            return _Loaded(row, error)

    def _matches(self, step: Step, params: Any, pairs: Sequence[Pair], size: int) -> np.ndarray:
        """float32 [len(pairs), ...]; the last pair fills up the step."""
        if not pairs:
            return np.empty((0, *self.matcher.shape), np.float32)
        start = time.perf_counter()
        batch: Any = jax.tree.map(lambda *each: np.stack(each), *pairs, *[pairs[-1]] * (size - len(pairs)))
        try:
            with watched(1):
                numbers = np.asarray(step(params, batch), np.float32)[: len(pairs)]
        except OutOfMemoryError:
            raise DataError(
                f"{self.name}: not even one pair fits a device's memory: end what else uses the device, cut "
                "the params over several (--params sharded), or take fewer bits (--precision fast)"
            ) from None
        self._steps += 1
        self._matched += len(pairs)
        self._computed += time.perf_counter() - start
        return numbers

    def _checked(self, row: int, numbers: np.ndarray) -> np.ndarray | DataError:
        if not (numbers[:, 0] < 0).all():  # NaN is refused where numbers are kept
            return numbers
        first, second = self.pairs.image_ids(row)
        return DataError(
            f"{self.name}: pair {self.pairs.ids[row]} ({first}, {second}) has no match: no point is known in "
            "both images"
        )


@functools.lru_cache(maxsize=16)
def _step(
    network: Network, mesh: Mesh, precision: Precision, recipe: DenseRecipe, matcher: Matcher, placement: str
) -> Step:
    """Params and a pair a device -> the numbers of its matches."""

    def match_pair(params: Any, pair: Any) -> jax.Array:
        images, geometry = pair.images[0], {name: each[0] for name, each in pair.geometry.items()}
        compiled[Program(network.arch.name, "pairs", images.shape[1], 1, precision)] += 1
        map0, map1 = dense_map(network, params, images, recipe, precision)
        # A matcher may return finite numbers for a map that is not finite.
        finite = jnp.isfinite(map0).all() & jnp.isfinite(map1).all()
        return jnp.where(finite, matcher(map0, map1, geometry), jnp.nan)[None]

    where: Any = replicated(mesh)
    if placement == SHARDED:
        where = shardings({"vision": network.abstract_params()["vision"]}, mesh, placement)
    return Step(match_pair, mesh, network.compiler_options("vision"), where)
