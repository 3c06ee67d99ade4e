"""Images -> stored embeddings: the only file that runs a model for evaluation.

The rows of a data set are cut into shards (see `clipjax.store`), and work is dealt out by shard: every
process takes its share of those that are missing, embeds them on its own devices and never waits for
another until all are done. Each device always gets the same number of images, fixed when the entry is
created, and runs the same program on them, so the bits of an embedding do not depend on the number of
devices or processes (with a fixed global batch they do: matrix products of other shapes add up in another
order).
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, PartitionSpec

from clipjax.card import embeds_at_unit_norm
from clipjax.data.loader import Batches, batches
from clipjax.data.manifest import Manifest
from clipjax.data.pixel_store import PixelStore
from clipjax.data.preprocess import PixelRecipe, normalize, normalize_host
from clipjax.digests import cache_dir
from clipjax.errors import DataError, UsageError, unknown_name
from clipjax.model import token_ids, unit_norm
from clipjax.models import FORWARD_VERSION
from clipjax.models.network import Network, Precision, known_precision
from clipjax.progress import Bar, progress_bar
from clipjax.sharding import DATA, assert_same_everywhere, batch_sharding, local_mesh, replicated
from clipjax.store import Entry, Store, check_finite, key_hash

_log = logging.getLogger(__name__)

OUTPUTS = ("embedding", "features")
SHARD_ROWS = 512  # at most: what a killed run loses, and a file of 1 MB for embeddings of 512 numbers
SHARDS = 8  # at least, for a data set of more batches than that: a small one can be resumed too
IMAGE_BATCH = 64  # images a device takes in one step, unless the caller says otherwise
TEXT_BATCH = 32  # texts a device takes in one step
IN_FLIGHT = 2  # batches on the devices at once: one computes while the next is handed over


@dataclasses.dataclass(frozen=True)
class EmbedStats:
    """What this process did for an `embed_images` call.

    Attributes:
        forward_passes: batches run; 0 if everything was in the store.
        images: images embedded.
        compiles: times that the forward pass was compiled.
        decode_seconds: spent waiting for pixels.
        compute_seconds: spent handing over batches and waiting for features.
        skipped: ids of the data set's unreadable images, in order: they have no embedding.
        per_device_batch: images a device took in one step; a stored entry's own, not what was asked for.
    """

    forward_passes: int
    images: int
    compiles: int
    decode_seconds: float
    compute_seconds: float
    skipped: tuple[str, ...]
    per_device_batch: int


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """ids [N], array float32 [N, D] in manifest order; `key_hash` names the entry (None: not stored)."""

    ids: list[str]
    array: np.ndarray
    key_hash: str | None
    stats: EmbedStats


def embed_images(
    model: Any,
    manifest: Manifest,
    *,
    store: Store | None = None,
    pixel_store: PixelStore | None = None,
    precision: str = "parity",
    per_device_batch: int | None = None,
    rows_per_shard: int | None = None,
    workers: int = 0,
    output: str = "embedding",
    recipe: PixelRecipe | None = None,
    progress: bool = True,
    on_error: str = "raise",
) -> Embeddings:
    """Embed the images of a data set, or read what is already stored.

    Args:
        model: a `clipjax.Model`, or any object with a card and `encode_image(float32 [B,H,W,3]) -> [B,D]`.
        store: where embeddings are kept; with None, or a card without a fingerprint, nothing is kept, and of
            several processes each embeds everything.
        pixel_store: where decoded pixels are kept for the next model; None keeps none. Changes no bit.
        precision: "parity" (float32) or "fast" (bfloat16 tower).
        per_device_batch: images a device takes in one step. An entry that exists keeps its own number.
        rows_per_shard: rows in a stored file, a multiple of the batch; an entry that exists keeps its own.
        workers: processes that decode; 0 decodes in threads.
        output: "embedding" (what the head reads: unit norm for a zero-shot model and for a classifier whose
            card says so, else raw features) or "features" (never normalised).
        recipe: the pixels, default the card's own with RGB first.
        progress: show a bar with the time left on stderr.
        on_error: "raise" on an unreadable image, or "skip" it and list it in the statistics.

    Raises:
        DataError: no images, an unreadable image, none that can be read, features of a wrong shape or not
            finite, a full disk, or hosts that do not share the store.
        UsageError: an output, precision, batch, number of workers or `on_error` that does not exist; pixels
            that exceed the budget of the pixel store.
    """
    check_settings(per_device_batch, workers, on_error)
    if len(manifest) == 0:
        raise DataError(f"{manifest.name or 'the data set'} has no images to embed")
    precision = known_precision(precision)
    if output not in OUTPUTS:
        raise unknown_name("output", output, list(OUTPUTS))
    pixels: PixelRecipe = model.card.preprocess.recipe(rgb="first") if recipe is None else recipe
    batch = _default_batch(len(manifest)) if per_device_batch is None else per_device_batch
    entry = None
    if store is not None and model.card.fingerprint is not None:
        key = image_key(model.card, manifest, pixels, precision, output)
        shard = _default_shard(len(manifest), batch) if rows_per_shard is None else rows_per_shard
        entry = _open(store, key, model, manifest, shard, batch)
        batch = entry.manifest.per_device_batch
    source = batches if pixel_store is None else pixel_store.batches
    job = _Job(model, manifest, pixels, source, precision, output, batch, workers, progress, on_error)
    if entry is None:
        ids, array = _embed_in_memory(job)
    else:
        ids, array = _embed_into(entry, job)
    if not ids:
        raise DataError(f"{manifest.name or 'the data set'}: no image could be read, all were skipped")
    present = set(ids)
    skipped = tuple(name for name in manifest.ids if name not in present)
    stats = EmbedStats(
        job.forward_passes, job.images, job.compiles, job.decode_seconds, job.compute_seconds, skipped, batch
    )
    return Embeddings(ids, array, entry.key_hash if entry else None, stats)


def check_settings(per_device_batch: int | None, workers: int, on_error: str) -> None:
    """Raises UsageError for a batch below 1, fewer than 0 workers, or an unknown `on_error`."""
    if per_device_batch is not None and per_device_batch < 1:
        raise UsageError(f"the batch size must be at least 1, not {per_device_batch}")
    if workers < 0:
        raise UsageError(f"the number of workers must be at least 0, not {workers}")
    if on_error not in ("raise", "skip"):
        raise UsageError(f"on_error must be 'raise' or 'skip', not {on_error!r}")


def _default_batch(n: int) -> int:
    """IMAGE_BATCH, or the next power of two for a data set smaller than that."""
    return min(IMAGE_BATCH, 1 << (n - 1).bit_length())


def _default_shard(n: int, batch: int) -> int:
    """Whole batches: about an eighth of the data set, SHARD_ROWS at most (or one batch, if that is more)."""
    return batch * max(1, min(SHARD_ROWS, n // SHARDS) // batch)


def image_key(
    card: Any, manifest: Manifest, recipe: PixelRecipe, precision: str, output: str
) -> dict[str, Any]:
    """What an embedding depends on; `card.fingerprint` covers weights, architecture, mean and std."""
    return {
        "model": card.fingerprint,
        "forward": FORWARD_VERSION,
        "output": output if embeds_at_unit_norm(card) else "features",
        "pixels": recipe.key(),
        "data": manifest.images_digest,
        "precision": precision,
    }


def _open(
    store: Store, key: dict[str, Any], model: Any, manifest: Manifest, rows_per_shard: int, batch: int
) -> Entry:
    """The entry, after a check that all processes mean the same one and see the same disk."""
    if rows_per_shard < 1 or rows_per_shard % batch:
        raise UsageError(f"{rows_per_shard} rows a shard is not a multiple of the batch of {batch} images")
    assert_same_everywhere("what to embed (the hash of model, data set and settings)", key_hash(key))
    entry = store.entry(
        key,
        ids=manifest.ids,
        rows_per_shard=rows_per_shard,
        per_device_batch=batch,
        about={"model": str(model.card.id), "data": manifest.name, "selection": manifest.selection},
    )
    assert_same_everywhere(f"the store {store.root} (one directory that all hosts see)", entry.manifest.nonce)
    return entry


def _embed_into(entry: Entry, job: _Job) -> tuple[list[str], np.ndarray]:
    """Make this process's share of the missing shards, wait for the others, read the whole."""
    missing = entry.missing_shards(allow_skipped=job.on_error == "skip")
    # By number, not by place in the list: processes see different lists while another run fills the store.
    mine = [k for k in missing if k % jax.process_count() == jax.process_index()]
    failure = None
    try:
        for (rows, features), k in zip(job.run([entry.shard_rows(k) for k in mine]), mine):
            kept = set(rows.tolist())
            skipped = [entry.ids[row] for row in entry.shard_rows(k) if row not in kept]
            entry.write_shard(k, [entry.ids[row] for row in rows], features, skipped=skipped)
    except Exception as error:
        failure = error
    _finish_together(failure)
    return entry.read()


def _finish_together(failure: Exception | None) -> None:
    """Wait for the other processes, then fail on all of them if one has failed.

    A process that just left would keep the others waiting; so it says at once what is wrong, and they store
    what they are at.
    """
    if jax.process_count() > 1:
        if failure is not None:
            _log.error("%s (waiting for the other processes to store their shards)", failure)
        failed = np.flatnonzero(multihost_utils.process_allgather(np.array(failure is not None)))
        if failure is None and len(failed):
            raise DataError(f"embedding failed on process {failed[0]}: see its message; run again to resume")
    if failure is not None:
        raise failure


def _embed_in_memory(job: _Job) -> tuple[list[str], np.ndarray]:
    [(rows, features)] = job.run([range(len(job.manifest))])
    ids = [job.manifest.ids[row] for row in rows]
    check_finite(ids, features)
    return ids, features


@dataclasses.dataclass
class _Job:
    """One process's work on one data set, and its account of it."""

    model: Any
    manifest: Manifest
    recipe: PixelRecipe
    source: Callable[..., Batches]
    precision: Precision
    output: str
    per_device_batch: int
    workers: int
    progress: bool
    on_error: str
    forward_passes: int = 0
    images: int = 0
    compiles: int = 0
    decode_seconds: float = 0.0
    compute_seconds: float = 0.0

    def run(self, spans: Sequence[range]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """For each span of rows: those that could be read, and their features [n, D].

        A span is padded to a multiple of the per-device batch, so a row has the same place and the same
        neighbours in its device's batch, however many devices there are and wherever a killed run left off.
        """
        if not spans:
            return
        forward = _forward(self.model, self.precision, self.output, self.per_device_batch)
        padded = [_pad(np.arange(span.start, span.stop), self.per_device_batch) for span in spans]
        with (
            self.source(
                self.manifest,
                self.recipe,
                batch_size=forward.batch_size,
                rows=np.concatenate(padded),
                workers=self.workers,
                on_error=self.on_error,
            ) as source,
            progress_bar(
                sum(map(len, spans)),
                f"embedding {self.manifest.name}".rstrip(),
                "image",
                shown=self.progress and jax.process_index() == 0,
            ) as bar,
        ):
            pieces = _cut(self._features(forward, source, bar), [len(rows) for rows in padded])
            for rows, features in pieces:
                yield rows[rows >= 0], features[rows >= 0]
        self.compiles = forward.compiles()

    def _features(
        self, forward: _Forward, source: Batches, bar: Bar
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Rows [B] and features [B, D] of each batch; the next is decoded and sent while one computes."""
        waiting: collections.deque[tuple[np.ndarray, Any]] = collections.deque()
        while True:
            start = time.perf_counter()
            batch = next(source, None)
            loaded = time.perf_counter()
            self.decode_seconds += loaded - start
            if batch is not None:
                waiting.append((batch["row"], forward.run(batch["pixels"])))
                self.forward_passes += 1
            elif not waiting:
                return
            if batch is None or len(waiting) == IN_FLIGHT:
                rows, features = waiting.popleft()
                done = rows, np.asarray(features, np.float32)
                self.compute_seconds += time.perf_counter() - loaded
                count = int((rows >= 0).sum())
                self.images += count
                bar.update(count)
                yield done
            else:
                self.compute_seconds += time.perf_counter() - loaded


def _pad(rows: np.ndarray, multiple: int) -> np.ndarray:
    return np.concatenate([rows, np.full(-len(rows) % multiple, -1)])


def _cut(
    stream: Iterator[tuple[np.ndarray, np.ndarray]], lengths: Sequence[int]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Regroup a stream of (rows, features) into pieces of these lengths, whatever its own pieces are."""
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    for length in lengths:
        while sum(len(rows) for rows, _ in parts) < length:
            parts.append(next(stream))
        rows, features = (np.concatenate(column) for column in zip(*parts))
        yield rows[:length], features[:length]
        parts = [(rows[length:], features[length:])]


@dataclasses.dataclass(frozen=True)
class _Forward:
    """`run`: pixels uint8 [batch_size, S, S, 3] -> features [batch_size, D], perhaps not yet computed."""

    run: Callable[[np.ndarray], Any]
    batch_size: int
    compiles: Callable[[], int]


def _forward(model: Any, precision: Precision, output: str, per_device_batch: int) -> _Forward:
    if hasattr(model, "network"):
        return _network_forward(model, precision, output, per_device_batch)
    if precision != "parity" or output != "embedding":
        raise UsageError(f"{model.card.id} is not one of clipjax's networks: leave out precision and output")
    mean, std = model.card.preprocess.mean, model.card.preprocess.std

    def run(pixels: np.ndarray) -> Any:
        features = model.encode_image(normalize_host(pixels, mean, std))
        if len(np.shape(features)) != 2 or len(features) != len(pixels):
            raise DataError(
                f"encode_image of {model.card.id} made an array {list(np.shape(features))} of {len(pixels)} "
                f"images: it must return [{len(pixels)}, D]"
            )
        return features

    return _Forward(run, per_device_batch, lambda: 0)


def _network_forward(model: Any, precision: Precision, output: str, per_device_batch: int) -> _Forward:
    enable_compile_cache()
    mesh, card = local_mesh(), model.card
    unit = output == "embedding" and embeds_at_unit_norm(card)
    mean, std = tuple(card.preprocess.mean), tuple(card.preprocess.std)
    step = _image_step(model.network, mesh, precision, unit, mean, std)
    params = jax.device_put({"vision": model.params["vision"]}, replicated(mesh))
    before = step.compiles
    return _Forward(
        functools.partial(step, params), per_device_batch * mesh.size, lambda: step.compiles - before
    )


class _Step:
    """A jitted (params, batch) -> features: each device runs the whole function on its part of the batch.

    `shard_map` states that as the program: there is nothing for the compiler to split or to communicate.
    `compiles` counts how often it was traced.
    """

    def __init__(
        self, function: Callable[[Any, jax.Array], jax.Array], mesh: Mesh, options: dict[str, str] | None
    ):
        self.compiles = 0
        self.batch_sharding = batch_sharding(mesh)

        def counted(params: Any, batch: jax.Array) -> jax.Array:
            self.compiles += 1
            return function(params, batch)

        split = PartitionSpec(DATA)
        # The check of varying axes does not know every primitive of every model; nothing here is reduced.
        self._run = jax.jit(
            jax.shard_map(
                counted, mesh=mesh, in_specs=(PartitionSpec(), split), out_specs=split, check_vma=False
            ),
            compiler_options=options,
        )

    def __call__(self, params: Any, batch: np.ndarray) -> jax.Array:
        return self._run(params, jax.device_put(batch, self.batch_sharding))


@functools.lru_cache(maxsize=16)
def _image_step(
    network: Network, mesh: Mesh, precision: Precision, unit: bool, mean: tuple, std: tuple
) -> _Step:
    """Kept, so that the next data set of the same model does not compile again."""

    def forward(params: Any, pixels: jax.Array) -> jax.Array:
        features = network.encode_image(params, normalize(pixels, mean, std), precision=precision)
        return unit_norm(features) if unit else features

    return _Step(forward, mesh, network.compiler_options("vision"))


@functools.lru_cache(maxsize=16)
def _text_step(network: Network, mesh: Mesh, precision: Precision) -> _Step:
    def forward(params: Any, ids: jax.Array) -> jax.Array:
        return unit_norm(network.encode_text(params, ids, precision=precision))

    return _Step(forward, mesh, network.compiler_options("text"))


def text_encoder(model: Any, precision: str = "parity") -> Callable[[np.ndarray], np.ndarray]:
    """The text tower on all devices of this process: int32 [B, L] -> float32 [B, E] of unit norm.

    Each device takes TEXT_BATCH texts at a time, whatever B is: there is one compilation for each length L,
    and the bits do not depend on the number of devices.

    Args:
        model: a `clipjax.Model` with a text tower.
        precision: "parity" or "fast".
    """
    enable_compile_cache()
    mesh = local_mesh()
    step = _text_step(model.network, mesh, known_precision(precision))
    params = jax.device_put({"text": model.params["text"]}, replicated(mesh))
    size = TEXT_BATCH * mesh.size

    def encode(ids: np.ndarray) -> np.ndarray:
        ids = token_ids(ids, model.network.arch)
        padded = np.pad(ids, ((0, max(1, -(-len(ids) // size)) * size - len(ids)), (0, 0)))
        parts = [step(params, padded[start : start + size]) for start in range(0, len(padded), size)]
        return np.concatenate([np.asarray(part) for part in parts])[: len(ids)]

    return encode


def enable_compile_cache() -> None:
    """Keep compiled programs in the user's cache between runs, unless JAX was told where to or not to."""
    if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue]
        jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "xla"))
