"""Retrieval between images and captions: recall@k and mean average precision, both ways.

As in CLIP_benchmark (`metrics/zeroshot_retrieval.py`): any of an image's captions counts; recall@k is the
mean over queries. Ties go to the lowest index; the reference leaves them to its top-k.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int, Int32
from numpy.typing import ArrayLike

from clipjax.metrics.checks import booleans, refuse

# The rank of a missing partner.
ABSENT = np.iinfo(np.int32).max

Count = int | Int[jax.Array, ""]


class Ranks(NamedTuple):
    """Ranks of each query's true partners, ascending: 0 is best. P is the most captions of an image.

    ABSENT fills short rows and rows of padding.
    """

    image_to_text: Int32[np.ndarray, "N P"]
    text_to_image: Int32[np.ndarray, "M 1"]


class _Pairs(NamedTuple):
    """Pairs without padding, their captions sorted by image."""

    images: np.ndarray
    texts: np.ndarray
    image_rows: np.ndarray  # int32 [n], rows of the embeddings
    text_rows: np.ndarray  # int32 [m], rows of the embeddings
    image: np.ndarray  # int32 [m], index of the caption's image among the n
    slot: np.ndarray  # int32 [m], the caption's number within its image
    block: int  # side of a block of scores


def rank_partners(
    images: Float[np.ndarray, "N D"],
    texts: Float[np.ndarray, "M D"],
    image_of_text: ArrayLike,
    *,
    image_mask: ArrayLike | None = None,
    block: int = 1024,
) -> Ranks:
    """Ranks of all true partners by dot product.

    Args:
        images: L2-normalised; may be memory-mapped.
        texts: L2-normalised; may be memory-mapped.
        image_of_text: int [M]; -1 marks padding.
        image_mask: bool [N]; False marks padding.
        block: images, and captions, per block.

    Raises:
        ValueError: no image, an image without caption, a caption without image, a non-finite embedding.
    """
    pairs = _pair_up(images, texts, np.asarray(image_of_text), image_mask, block)
    own = _own_scores(pairs)
    above_image, above_text = _count_better(pairs, own)
    image_to_text = np.full((len(images), above_text.shape[1]), ABSENT, np.int32)
    image_to_text[pairs.image_rows] = np.sort(above_text, axis=1)
    text_to_image = np.full((len(texts), 1), ABSENT, np.int32)
    text_to_image[pairs.text_rows, 0] = above_image
    return Ranks(image_to_text, text_to_image)


def found_in_top_k(ranks: Int[np.ndarray, "Q P"], k: int) -> Bool[np.ndarray, " Q"]:
    """Whether any partner of a query is among its k best. A k beyond the gallery finds all.

    Raises:
        ValueError: k < 1.
    """
    if k < 1:
        raise ValueError(f"recall at {k}; give a k of 1 or more")
    return ranks[:, 0] < k


def average_precision(ranks: Int[np.ndarray, "Q P"]) -> Float64[np.ndarray, " Q"]:
    """Mean precision at the partners' ranks: 1 / (1 + rank) with one partner; NaN for padding."""
    there = ranks != ABSENT
    precision = (1 + np.arange(ranks.shape[1])) / (1.0 + ranks)
    total = np.sum(precision, axis=1, where=there)
    return np.divide(total, there.sum(axis=1), out=np.full(len(ranks), np.nan), where=there[:, 0])


def _pair_up(
    images: np.ndarray, texts: np.ndarray, owner: np.ndarray, image_mask: ArrayLike | None, block: int
) -> _Pairs:
    real = np.ones(len(images), bool) if image_mask is None else booleans("image_mask", image_mask)
    if owner.shape != (len(texts),) or owner.dtype.kind not in "iu" or real.shape != (len(images),):
        raise ValueError(
            f"{len(images)} images and {len(texts)} captions, but image_of_text is {owner.dtype} "
            f"{owner.shape} and image_mask {real.shape}; give a whole number a caption and a bool an image"
        )
    used = owner >= 0
    refuse(owner >= len(images), f"the caption's image is not among the {len(images)}")
    refuse(used & ~real[np.where(used, owner, 0)] if len(images) else used, "the caption's image is padding")
    captions = np.bincount(owner[used], minlength=len(images))
    refuse(real & (captions == 0), "the image has no caption")
    if not used.any():
        raise ValueError("there is no image to search with")
    image_rows = np.flatnonzero(real).astype(np.int32)
    text_rows = np.argsort(owner, kind="stable")[np.sum(~used) :].astype(np.int32)
    image = np.searchsorted(image_rows, owner[text_rows]).astype(np.int32)
    slot = np.arange(len(image), dtype=np.int32) - np.searchsorted(image, image).astype(np.int32)
    _check_finite("image", images, image_rows, block)
    _check_finite("caption", texts, text_rows, block)
    return _Pairs(images, texts, image_rows, text_rows, image, slot, block)


def _own_scores(pairs: _Pairs) -> np.ndarray:
    """The score of each caption with its own image, float32 [m].

    From blocks on the same grid as in `_count_better`: the same products have the same bits.
    """
    own = np.empty(len(pairs.text_rows), np.float32)
    for i in range(0, len(pairs.image_rows), pairs.block):
        first, last = np.searchsorted(pairs.image, [i, i + pairs.block])
        # Captions are sorted by image: those of the block's images are first..last - 1.
        for t in range(first - first % pairs.block, last, pairs.block):
            scores = np.asarray(_block_scores(pairs, i, t))
            here = np.arange(max(first, t), min(last, t + pairs.block))
            own[here] = scores[pairs.image[here] - i, here - t]
    return own


def _count_better(pairs: _Pairs, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images above each caption's own, int32 [m]; captions above each image's own, int32 [n, P].

    ABSENT where an image has fewer than P captions.
    """
    n, m, size = len(pairs.image_rows), len(pairs.text_rows), pairs.block
    # Each image's captions: their scores and rows. Nothing outranks the infinity that fills short rows.
    shape = (n, pairs.slot.max() + 1)
    scores_of, rows_of = np.full(shape, np.inf, np.float32), np.full(shape, -1, np.int32)
    scores_of[pairs.image, pairs.slot], rows_of[pairs.image, pairs.slot] = own, pairs.text_rows
    above_image, above_text = np.zeros(m, np.int32), np.zeros(shape, np.int32)
    # Each block of scores serves both directions, then is dropped: no array grows with images x texts. Blocks
    # have one shape, so that equal embeddings have bit-equal scores.
    for i in range(0, n, size):
        i_end = min(i + size, n)
        numbers = np.arange(i, i + size, dtype=np.int32)
        captions = [_fill(part[i:i_end], size, fill) for part, fill in ((scores_of, np.inf), (rows_of, -1))]
        for t in range(0, m, size):
            t_end = min(t + size, m)
            scores = _block_scores(pairs, i, t)
            images = [_fill(part[t:t_end], size, fill) for part, fill in ((own, np.inf), (pairs.image, -1))]
            above_image[t:t_end] += np.asarray(_above_image(scores, *images, numbers))[: t_end - t]
            text_rows = _fill(pairs.text_rows[t:t_end], size, -1)
            above_text[i:i_end] += np.asarray(_above_text(scores, *captions, text_rows))[: i_end - i]
    above_text[rows_of < 0] = ABSENT
    return above_image, above_text


def _block_scores(pairs: _Pairs, i: int, t: int) -> jax.Array:
    """Images from i, captions from t; -inf past the last. float32 [B, B]."""
    image_rows, text_rows = pairs.image_rows[i : i + pairs.block], pairs.text_rows[t : t + pairs.block]
    images, texts = (
        _fill(np.asarray(values[rows], np.float32), pairs.block, 0)
        for values, rows in ((pairs.images, image_rows), (pairs.texts, text_rows))
    )
    return _scores(images, texts, len(image_rows), len(text_rows))


@jax.jit
def _scores(
    images: Float32[jax.Array, "I D"], texts: Float32[jax.Array, "T D"], n: Count, m: Count
) -> Float32[jax.Array, "I T"]:
    scores = jnp.matmul(images, texts.T, precision=jax.lax.Precision.HIGHEST)
    number = jnp.arange(scores.shape[0])
    return jnp.where((number[:, None] < n) & (number < m), scores, -jnp.inf)


@jax.jit
def _above_image(
    scores: Float32[jax.Array, "I T"],
    own: Float32[jax.Array, " T"],
    own_image: Int[jax.Array, " T"],
    image: Int[jax.Array, " I"],
) -> Int32[jax.Array, " T"]:
    return jnp.sum(_outranks(scores, own, own_image, image[:, None]), axis=0, dtype=jnp.int32)


@jax.jit
def _above_text(
    scores: Float32[jax.Array, "I T"],
    own: Float32[jax.Array, "I P"],
    own_row: Int[jax.Array, "I P"],
    row: Int[jax.Array, " T"],
) -> Int32[jax.Array, "I P"]:
    def count(caption: tuple[jax.Array, jax.Array]) -> jax.Array:
        own, own_row = (part[:, None] for part in caption)
        return jnp.sum(_outranks(scores, own, own_row, row), axis=1, dtype=jnp.int32)

    return jax.lax.map(count, (own.T, own_row.T)).T


def _outranks(scores: jax.Array, own: jax.Array, own_index: jax.Array, index: jax.Array) -> jax.Array:
    return (scores > own) | ((scores == own) & (index < own_index))


def _fill(values: np.ndarray, size: int, fill: float) -> np.ndarray:
    if len(values) == size:
        return values
    return np.concatenate([values, np.full((size - len(values), *values.shape[1:]), fill, values.dtype)])


def _check_finite(kind: str, values: np.ndarray, rows: np.ndarray, block: int) -> None:
    bad = np.zeros(len(values), bool)
    for start in range(0, len(rows), block):
        part = rows[start : start + block]
        bad[part] = ~np.isfinite(np.asarray(values[part], np.float32)).all(axis=1)
    refuse(bad, f"the {kind}'s embedding holds NaN or infinity")
