"""Heads: from features to one logit per class, in float32 with HIGHEST precision."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, Int32

from clipjax.data.labels import LabelSpace, Projection
from clipjax.errors import DataError
from clipjax.metrics import classification
from clipjax.models.unit_norm import unit_norm

SCORE_BLOCK = 2**22  # scores held at once


@dataclass(frozen=True, eq=False)
class CacheModel:
    """Training images beside a head: logits += alpha * sum over a class's keys of exp(-beta (1 - f @ key)).

    f is a unit-norm feature (Zhang et al. 2022, equation 4).

    Attributes:
        keys: float32 [D, N], columns of unit norm; trained ones (Tip-Adapter-F) of any norm.
        values: int32 [N], the class of each key.

    Raises:
        DataError: unfit shapes.
    """

    keys: jax.Array | np.ndarray
    values: jax.Array | np.ndarray
    alpha: float
    beta: float

    def __post_init__(self) -> None:
        keys, values = np.shape(self.keys), np.shape(self.values)
        if len(keys) != 2 or values != keys[1:]:
            raise DataError(f"a cache has keys [D, N] and values [N], not {list(keys)} and {list(values)}")


@dataclass(frozen=True, eq=False)
class Head:
    """logits = f(features) @ (scale * kernel) + bias, where f divides by the L2 norm if `normalize`.

    scale * kernel comes first, so a classifier with that product as its kernel gives bit-equal logits.

    Attributes:
        scale: the factor (about 100 for CLIP), not its logarithm.
        directions: normalised features give cosines; False for a freely trained kernel.

    Raises:
        DataError: a cache with features of another width, or classes outside 0..K-1.
    """

    kernel: Float[jax.Array, "D K"]
    bias: Float[jax.Array, " K"] | None
    scale: float
    normalize: bool
    label_space: LabelSpace
    cache: CacheModel | None = None
    directions: bool = True

    def __post_init__(self) -> None:
        if self.cache is None:
            return
        (dim, classes), values = np.shape(self.kernel), np.asarray(self.cache.values)
        if self.cache.keys.shape[0] != dim:
            raise DataError(
                f"the cache holds features of {self.cache.keys.shape[0]} numbers, the head reads {dim}"
            )
        if len(values) and not (values.min() >= 0 and values.max() < classes):
            raise DataError(f"the cache has classes {values.min()} to {values.max()}, the head has {classes}")

    @functools.cached_property
    def columns(self) -> Int32[np.ndarray, " K"]:
        """For each class, the first class with the same kernel and bias: mostly itself.

        A matrix product may round equal columns differently: through `columns` the first wins. Classes with
        images in the cache are never merged.
        """
        classes = self.kernel.shape[1]
        bias = np.zeros(classes) if self.bias is None else np.asarray(self.bias)
        cached = set() if self.cache is None else set(np.asarray(self.cache.values).tolist())
        first: dict[tuple[bytes, float, int | None], int] = {}
        return np.array(
            [
                first.setdefault((column.tobytes(), float(b), k if k in cached else None), k)
                for k, (column, b) in enumerate(zip(np.asarray(self.kernel).T, bias))
            ],
            np.int32,
        )

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of everything that decides the logits."""
        cache = self.cache
        beside = () if cache is None else (cache.keys, cache.values)
        arrays = [self.kernel, () if self.bias is None else self.bias, *beside]
        numbers = (self.scale, self.normalize, cache and (cache.alpha, cache.beta))
        digest = hashlib.sha256(repr(numbers).encode())
        for array in map(np.ascontiguousarray, arrays):
            digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
        return digest.hexdigest()


class _Identity(Head):
    """Features already are logits. The kernel has no rows: K x K would be large.

    `score_blocks` leaves float64 features float64 (under `jax.enable_x64`).
    """

    @functools.cached_property
    def columns(self) -> Int32[np.ndarray, " K"]:
        return np.arange(len(self.label_space), dtype=np.int32)


class Scores(NamedTuple):
    """Logits, or probabilities if a projection averaged them."""

    values: Float[jax.Array, "B K"]
    are_probabilities: bool


def logits(head: Head, features: Any) -> Float32[jax.Array, "B K"]:
    """float32 [B, D] -> float32 [B, K]. Raises DataError for features of another shape."""
    features, identity = jnp.asarray(features, jnp.float32), isinstance(head, _Identity)
    dim = len(head.label_space) if identity else head.kernel.shape[0]
    if features.ndim != 2 or features.shape[1] != dim:
        raise DataError(f"a head over {dim} features got features of shape {list(features.shape)}")
    if identity:
        return features if head.bias is None else features + head.bias
    bias = np.zeros(head.kernel.shape[1], np.float32) if head.bias is None else head.bias
    if head.cache is not None:
        bias = bias + _cache_logits(features, head.cache, head.kernel.shape[1])
    scale = np.float32(head.scale)
    return _logits(features, head.kernel, bias, head.columns, scale, normalize=head.normalize)


@functools.partial(jax.jit, static_argnames="normalize")
def _logits(
    features: Float32[jax.Array, "B D"],
    kernel: Float[jax.Array, "D K"],
    bias: Float[jax.Array, " K"] | Float[jax.Array, "B K"],
    columns: Int32[jax.Array, " K"],
    scale: Any,
    *,
    normalize: bool,
) -> Float[jax.Array, "B K"]:
    features = unit_norm(features) if normalize else features
    scores = jnp.matmul(features, scale * kernel, precision=jax.lax.Precision.HIGHEST) + bias
    return scores[:, columns]


def _cache_logits(
    features: Float32[jax.Array, "B D"], cache: CacheModel, classes: int
) -> Float32[jax.Array, "B {classes}"]:
    """A cache's part of the logits, in blocks of at most `SCORE_BLOCK` affinities."""
    count = cache.keys.shape[1]
    size = max(1, min(count, SCORE_BLOCK // max(1, len(features))))
    pad = -count % size
    keys = jnp.pad(jnp.asarray(cache.keys, jnp.float32), ((0, 0), (0, pad)))
    values = jnp.pad(jnp.asarray(cache.values, jnp.int32), (0, pad), constant_values=-1)  # no class
    alpha, beta = np.float32(cache.alpha), np.float32(cache.beta)
    return _affinities(features, keys, values, alpha, beta, classes=classes, size=size)


@functools.partial(jax.jit, static_argnames=("classes", "size"))
def _affinities(
    features: Float32[jax.Array, "B D"],
    keys: Float32[jax.Array, "D N"],
    values: Int32[jax.Array, " N"],
    alpha: Any,
    beta: Any,
    *,
    classes: int,
    size: int,
) -> Float32[jax.Array, "B {classes}"]:
    """Tip-Adapter's alpha exp(-beta (1 - cosine)), summed over the keys of each class.

    Args:
        values: the class of each key; -1 counts for none.
        size: the number of keys at a time, which divides N.
    """
    features, highest = unit_norm(features), jax.lax.Precision.HIGHEST

    def add(block: jax.Array, total: jax.Array) -> jax.Array:
        some = jax.lax.dynamic_slice_in_dim(keys, block * size, size, axis=1)
        classes_of = jax.lax.dynamic_slice_in_dim(values, block * size, size)
        affinity = jnp.exp(-beta * (1 - jnp.matmul(features, some, precision=highest)))
        one_hot = jax.nn.one_hot(classes_of, classes, dtype=jnp.float32)
        return total + jnp.matmul(affinity, one_hot, precision=highest)

    zero = jnp.zeros((features.shape[0], classes), jnp.float32)
    return alpha * jax.lax.fori_loop(0, keys.shape[1] // size, add, zero)


def score_blocks(
    head: Head,
    features: Float[np.ndarray, "N D"],
    projection: Projection | None = None,
    *,
    ids: Sequence[str] | None = None,
) -> Iterator[tuple[slice, Scores]]:
    """Scores over the data set's classes, in blocks of rows, so that memory does not grow with N.

    All blocks have one shape: padding fills the last.

    Args:
        features: float32, N > 0; for `identity_head` also float64, which gives float64 scores.
        projection: to the data set's label space.
        ids: [N], image names, to refuse scores that are not finite; None: no check.

    Raises:
        DataError: a score is not finite; names the image.
    """
    size = min(len(features), max(1, SCORE_BLOCK // head.kernel.shape[1]))
    averages = projection is not None and projection.kind == "mean_prob"
    for start in range(0, len(features), size):
        rows = np.asarray(features[start : start + size])
        wide = isinstance(head, _Identity) and rows.dtype == np.float64
        block = rows if wide else rows.astype(np.float32, copy=False)
        padded = np.pad(block, ((0, size - len(block)), (0, 0)))
        values = _project(jnp.asarray(padded) if wide else logits(head, padded), projection)[: len(block)]
        if ids is not None:
            _check_finite(values, ids[start : start + len(block)])
        yield slice(start, start + len(block)), Scores(values, averages)


def _check_finite(scores: Float[jax.Array, "B K"], ids: Sequence[str]) -> None:
    finite = np.isfinite(np.asarray(scores)).all(axis=1)  # JAX would compile two programs
    if not finite.all():
        raise DataError(f"{ids[int(np.argmin(finite))]}: its logits hold NaN or infinity")


def _project(scores: Float[jax.Array, "B K"], projection: Projection | None) -> Float[jax.Array, "B C"]:
    if projection is None:
        return scores
    columns = np.array([column for group in projection.groups for column in group], np.int32)
    if projection.kind == "select":
        return classification.take_classes(scores, columns)
    group = np.repeat(np.arange(len(projection.groups), dtype=np.int32), [len(g) for g in projection.groups])
    if projection.kind == "max":
        return classification.group_max(scores, columns, group, num_groups=len(projection.groups))
    return classification.group_mean(
        classification.softmax(scores), columns, group, num_groups=len(projection.groups)
    )


def cosine_head(head: Head) -> Head | None:
    """The head without scale and bias: its logits are cosines.

    None where they would not be: raw features, a freely trained kernel, or a cache.
    """
    if not (head.normalize and head.directions) or head.cache is not None:
        return None
    return dataclasses.replace(head, scale=1.0, bias=None)


def identity_head(space: LabelSpace) -> Head:
    """A head for features that already are logits over `space`: returns them bit for bit."""
    kernel = jax.device_put(np.zeros((0, len(space)), np.float32))
    return _Identity(kernel, None, scale=1.0, normalize=False, label_space=space)
