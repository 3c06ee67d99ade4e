"""Texts with the same first tokens: a causal tower runs these once, and the rest of each text.

"a photo of a tench." and "a photo of a goldfish." differ only after "a photo of a". The token ids show
that, so it works for any prompts.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Int

from clipjax.checkpoints.encoder import Encoder
from clipjax.devices.platforms import platform_of
from clipjax.devices.programs import enable_compile_cache
from clipjax.devices.sharding import local_mesh, replicated
from clipjax.embeddings.forward import TEXT_BATCH, ProgramKey, Step, compiled, in_steps
from clipjax.models.network import Network
from clipjax.models.precision import Precision, known_precision, stated_platform
from clipjax.models.text_ids import Memory, Rest, token_ids
from clipjax.models.unit_norm import unit_norm

# Bump it when other texts share, or in another way: it is part of the key of every head that may share.
VERSION = "1"

FEWEST = 8  # texts that share a beginning
MOST = 128  # beginnings; a device keeps the keys and values of all, 200 kB a token in ViT-H
WIDTH_STEP = 4  # beginnings are padded to a multiple: other prompts can use the same programs
RESTS = 128  # per device in one step
PROGRAM = 4096  # tokens that take as long as compiling another program, roughly


class SplitTexts(NamedTuple):
    """N texts as F beginnings and rests.

    Attributes:
        ids: int [N, L], whole texts.
        length: int [N], their tokens.
        beginnings: int [F, 2], a text and how many of its first tokens; F is a multiple of TEXT_BATCH.
        beginning: int [N], the row of each text's beginning, which may have no tokens.
        padded: int [N], the length at which the rest runs; few different ones.
    """

    ids: np.ndarray
    length: np.ndarray
    beginnings: np.ndarray
    beginning: np.ndarray
    padded: np.ndarray

    def rest(self, rows: np.ndarray, length: int) -> Rest:
        """The rests of texts, padded by each one's last token, which no earlier token sees."""
        start, stop = self.beginnings[self.beginning[rows], 1], self.length[rows]
        positions = np.minimum(start[:, None] + np.arange(length), stop[:, None] - 1)
        ids = np.take_along_axis(self.ids[rows], positions, axis=1)
        return Rest(*(x.astype(np.int32) for x in (ids, self.beginning[rows], start, stop - start)))


def shared(ids: Int[np.ndarray, "N L"], length: Int[np.ndarray, " N"]) -> SplitTexts | None:
    """Find the longest beginning that each text shares with many; None: that saves too few tokens.

    ids: after each text's `length` an id that no text has.
    """
    order = np.lexsort(ids.T[::-1])
    equal = np.cumprod(ids[order[1:]] == ids[order[:-1]], axis=1).sum(axis=1)
    equal = np.concatenate([[0], equal])  # leading ids that equal those of the text before
    beginnings, row = _beginnings(MOST, equal, length[order])
    tokens = int(beginnings[:, 1].sum())
    beginnings[:, 0] = order[beginnings[:, 0]]
    beginnings = np.pad(beginnings, ((0, -len(beginnings) % TEXT_BATCH), (0, 0)))
    beginning = np.empty(len(ids), np.int64)
    beginning[order] = row
    padded = _padded(length - beginnings[beginning, 1])
    programs = 1 + len(np.unique(padded))
    worthwhile = length.sum() - padded.sum() - tokens >= PROGRAM * programs
    return SplitTexts(ids, length, beginnings, beginning, padded) if worthwhile else None


def _beginnings(
    most: int, equal: Int[np.ndarray, " N"], length: Int[np.ndarray, " N"]
) -> tuple[Int[np.ndarray, "F 2"], Int[np.ndarray, " N"]]:
    """At most this many beginnings that many texts share, as `_longest`, and the row of each text's own.

    Where there are more, twice as many texts must share one.
    """
    fewest = FEWEST
    while True:
        rows, row = np.unique(_longest(equal, length, fewest), axis=0, return_inverse=True)
        if len(rows) <= most:
            return rows, row.reshape(-1)
        fewest *= 2


def _longest(
    equal: Int[np.ndarray, " N"], length: Int[np.ndarray, " N"], fewest: int
) -> Int[np.ndarray, "N 2"]:
    """For each of the sorted texts, the first one with the same beginning and that beginning's length.

    A beginning leaves at least one token of each text.

    equal: leading ids that equal those of the text before.
    """
    found = np.zeros((len(equal), 2), np.int64)
    for size in range(1, int(equal.max(initial=0)) + 1):
        new = equal < size
        run = np.cumsum(new) - 1
        often = (np.bincount(run)[run] >= fewest) & (length > size)
        found[often, 0] = np.flatnonzero(new)[run[often]]
        found[often, 1] = size
    return found


def _padded(length: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    """Each length rounded up to one of few: those with the fewest tokens, counting PROGRAM for each."""
    sizes, counts = np.unique(length, return_counts=True)
    # best[i]: the fewest tokens for the texts of the first i sizes, and the lengths that they are padded to.
    best: list[tuple[int, tuple[int, ...]]] = [(0, ())]
    for i in range(1, len(sizes) + 1):
        top = int(sizes[i - 1])
        ways = []
        for j in range(i):  # the first j sizes at their best, then one program for sizes j to i - 1
            tokens, tops = best[j]
            padded = top * int(counts[j:i].sum())
            ways.append((tokens + padded + PROGRAM, (*tops, top)))
        best.append(min(ways))
    tops = np.array(best[-1][1])
    return tops[np.searchsorted(tops, length)]


def encode_shared(
    model: Encoder, texts: SplitTexts, precision: str, chunk: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Like `clipjax.embeddings.texts.encode_texts`, on this process's devices.

    The texts that a device takes in one step do not depend on the number of devices, and so nor do the bits.
    """
    enable_compile_cache()
    network, mesh, profile = model.network, local_mesh(), known_precision(precision)
    assert network is not None
    params = jax.device_put({"text": model.params["text"]}, replicated(mesh))
    texts = texts._replace(ids=token_ids(np.maximum(texts.ids, 0), network.arch))
    memory = _memory(_begin_step(network, mesh, profile), params, texts, mesh)
    step, size = _finish_step(network, mesh, profile), RESTS * mesh.size
    order = np.argsort(texts.padded, kind="stable")
    last = np.minimum((np.arange(len(order)) // RESTS + 1) * RESTS, len(order)) - 1
    lengths = texts.padded[order[last]]  # the longest of the RESTS
    for length in np.unique(lengths):
        of_length, at_once = order[lengths == length], -(-chunk // size) * size
        for start in range(0, len(of_length), at_once):
            rows = of_length[start : start + at_once]
            yield rows, in_steps(step, (params, memory), texts.rest(rows, int(length)), size)


def _memory(step: Step, params: Any, texts: SplitTexts, mesh: Mesh) -> Memory:
    """The keys and values of all beginnings, on every device."""
    leader, size = texts.beginnings.T
    ids = texts.ids[leader, : -(-int(size.max()) // WIDTH_STEP) * WIDTH_STEP]
    parts = in_steps(step, params, ids, TEXT_BATCH * mesh.size)
    return jax.device_put(tuple(part.swapaxes(0, 1) for part in parts), replicated(mesh))


@functools.lru_cache(maxsize=16)
def _begin_step(network: Network, mesh: Mesh, precision: Precision) -> Step:
    """Token ids [F, P] to keys and values [F, layers, P, D]."""
    platform = stated_platform(platform_of(mesh), precision)

    def begin_texts(params: Any, ids: Array) -> Memory:
        compiled[ProgramKey(network.arch.name, "beginnings", ids.shape[1], len(ids), precision)] += 1
        keys, values = network.begin_texts(params, ids, precision=precision, platform=platform)
        return keys.swapaxes(0, 1), values.swapaxes(0, 1)

    return Step(begin_texts, mesh, network.compiler_options("text", precision), replicated(mesh))


@functools.lru_cache(maxsize=16)
def _finish_step(network: Network, mesh: Mesh, precision: Precision) -> Step:
    """`Rest`s to unit-norm features."""
    platform = stated_platform(platform_of(mesh), precision)

    def finish_texts(params: Any, rest: Rest) -> Array:
        own, memory = params
        compiled[ProgramKey(network.arch.name, "rests", rest.ids.shape[1], len(rest.ids), precision)] += 1
        features = network.finish_texts(own, memory, rest, precision=precision, platform=platform)
        return unit_norm(features)

    return Step(finish_texts, mesh, network.compiler_options("text", precision), replicated(mesh))
