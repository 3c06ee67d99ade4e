"""Heads: from features to one logit a class.

One type serves all models. A zero-shot head holds a class's mean prompt embedding (Radford et al. 2021,
section 3.1.4; open_clip's build_zero_shot_classifier): every prompt embedded, normalised, averaged over the
class, normalised again. A classifier's head is its own linear layer. Either may have a cache of training
images beside it (Tip-Adapter, Zhang et al. 2022). All are float32 with HIGHEST precision, whatever the towers
use.
"""

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
import scipy.sparse

from clipjax.checkpoints.model import unit_norm
from clipjax.data.labels import LabelSpace, Projection, PromptSet, load_labels
from clipjax.embeddings.texts import CHUNK, encode_texts, stored, text_key
from clipjax.errors import DataError, UsageError
from clipjax.metrics import classification
from clipjax.progress import progress_bar
from clipjax.storage.digests import sha256_json

SCORE_BLOCK = 2**22  # scores held at once


@dataclass(frozen=True, eq=False)
class Cache:
    """Training images beside a head: logits += alpha * sum over a class's keys of exp(-beta (1 - f @ key)).

    f is a feature of unit norm (Tip-Adapter, Zhang et al. 2022, equation 4).

    Attributes:
        keys: float32 [D, N], columns of unit norm (Tip-Adapter-F trains them: of about unit norm).
        values: int32 [N], the class of each.
        alpha, beta: the cache's weight, and how fast the affinity falls.

    Raises:
        DataError: keys and values are not of the same images.
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

    The scale is multiplied into the kernel: a classifier that starts from a zero-shot head, with scale *
    kernel for its own kernel, gives the zero-shot logits to the last bit.

    Attributes:
        kernel: float32 [D, K].
        bias: float32 [K], or None.
        scale: the factor itself (about 100 for CLIP), not its logarithm.
        normalize: features are brought to unit norm first.
        label_space: what the K columns stand for.
        cache: what is added to the logits; None: nothing.
        directions: of a head that normalises: the kernel's columns are directions, and products with it
            cosines. False for a kernel that was trained freely.

    Raises:
        DataError: a cache of other features, or with classes outside 0..K-1.
    """

    kernel: jax.Array
    bias: jax.Array | None
    scale: float
    normalize: bool
    label_space: LabelSpace
    cache: Cache | None = None
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
    def columns(self) -> np.ndarray:
        """int32 [K]: for each class the first class with the same kernel and bias, mostly itself.

        Two classes of one name have one embedding. A matrix product may round them differently, and then
        chance would decide between them; read through `columns`, they are equal and the first one wins a tie.
        A class with images in the cache is like no other.
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
        """SHA-256 of all that decides the logits; of the label space nothing."""
        cache = self.cache
        beside = () if cache is None else (cache.keys, cache.values)
        arrays = [self.kernel, () if self.bias is None else self.bias, *beside]
        numbers = (self.scale, self.normalize, cache and (cache.alpha, cache.beta))
        digest = hashlib.sha256(repr(numbers).encode())
        for array in map(np.ascontiguousarray, arrays):
            digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
        return digest.hexdigest()


class _Identity(Head):
    """A head for features that are logits already. Its kernel has no rows: the K x K one is never made.

    `score_blocks` leaves float64 features float64 (under `jax.enable_x64`).
    """

    @functools.cached_property
    def columns(self) -> np.ndarray:
        """int32 [K]: no two classes are one."""
        return np.arange(len(self.label_space), dtype=np.int32)


class Scores(NamedTuple):
    """float32 [B, K]: logits, or probabilities where a projection averaged them."""

    values: jax.Array
    are_probabilities: bool


def logits(head: Head, features: Any) -> jax.Array:
    """float32 [B, D] -> float32 [B, K]."""
    features, identity = jnp.asarray(features, jnp.float32), isinstance(head, _Identity)
    dim = len(head.label_space) if identity else head.kernel.shape[0]
    if features.ndim != 2 or features.shape[1] != dim:
        raise DataError(f"a head over {dim} features got features of shape {list(features.shape)}")
    if identity:
        return features if head.bias is None else features + head.bias
    bias = jnp.zeros(head.kernel.shape[1], jnp.float32) if head.bias is None else head.bias
    scale = np.float32(head.scale)
    if head.cache is None:
        return _logits(features, head.kernel, bias, head.columns, scale, normalize=head.normalize)
    bias = bias + _cache_logits(features, head.cache, head.kernel.shape[1])
    return _logits(features, head.kernel, bias, head.columns, scale, normalize=head.normalize)


@functools.partial(jax.jit, static_argnames="normalize")
def _logits(
    features: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    columns: jax.Array,
    scale: Any,
    *,
    normalize: bool,
) -> jax.Array:
    features = unit_norm(features) if normalize else features
    scores = jnp.matmul(features, scale * kernel, precision=jax.lax.Precision.HIGHEST) + bias
    return scores[:, columns]


def _cache_logits(features: jax.Array, cache: Cache, classes: int) -> jax.Array:
    """What a cache adds, float32 [B, K]; as many keys at a time as `SCORE_BLOCK` affinities hold."""
    found = cache.keys.shape[1]
    size = max(1, min(found, SCORE_BLOCK // max(1, len(features))))
    pad = -found % size
    keys = jnp.pad(jnp.asarray(cache.keys, jnp.float32), ((0, 0), (0, pad)))
    values = jnp.pad(jnp.asarray(cache.values, jnp.int32), (0, pad), constant_values=-1)  # of no class
    alpha, beta = np.float32(cache.alpha), np.float32(cache.beta)
    return _affinities(features, keys, values, alpha, beta, classes=classes, size=size)


@functools.partial(jax.jit, static_argnames=("classes", "size"))
def _affinities(
    features: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    alpha: Any,
    beta: Any,
    *,
    classes: int,
    size: int,
) -> jax.Array:
    """Blocks of `size` keys one after the other."""
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
    features: np.ndarray,
    projection: Projection | None = None,
    *,
    ids: Sequence[str] | None = None,
) -> Iterator[tuple[slice, Scores]]:
    """Scores over the data set's classes, a block of rows at a time, so that memory does not grow with N.

    All blocks have one shape: the last one is padded and cut again.

    Args:
        features: float32 [N, D], N > 0. Of `identity_head` also float64: scores then are, too.
        projection: from the head's label space to the data set's; None leaves the logits as they are.
        ids: [N], names of the images, to refuse scores that are not finite; None: they are not looked at.

    Raises:
        DataError: a score is not finite; names the image.
    """
    size = min(len(features), max(1, SCORE_BLOCK // head.kernel.shape[1]))
    for start in range(0, len(features), size):
        given = np.asarray(features[start : start + size])
        wide = isinstance(head, _Identity) and given.dtype == np.float64
        block = given if wide else given.astype(np.float32, copy=False)
        padded = np.pad(block, ((0, size - len(block)), (0, 0)))
        values = _project(jnp.asarray(padded) if wide else logits(head, padded), projection)[: len(block)]
        if ids is not None:
            _check_finite(values, ids[start : start + len(block)])
        yield slice(start, start + len(block)), Scores(values, _averages(projection))


def _check_finite(scores: jax.Array, ids: Sequence[str]) -> None:
    finite = np.asarray(jnp.all(jnp.isfinite(scores), axis=1))
    if not finite.all():
        raise DataError(f"{ids[int(np.argmin(finite))]}: its logits hold NaN or infinity")


def _averages(projection: Projection | None) -> bool:
    return projection is not None and projection.kind == "mean_prob"


def _project(scores: jax.Array, projection: Projection | None) -> jax.Array:
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
    """The same head without scale and bias: its logits are cosines. None for a head that is no cosine: of
    raw features, with a kernel that was trained freely, or with a cache."""
    if not (head.normalize and head.directions) or head.cache is not None:
        return None
    return dataclasses.replace(head, scale=1.0, bias=None)


def identity_head(space: LabelSpace) -> Head:
    """A head for features that are logits over `space` already: it hands them through, to the last bit."""
    return _Identity(jnp.zeros((0, len(space))), None, scale=1.0, normalize=False, label_space=space)


def classifier_head(model: Any) -> Head:
    """The linear head of a classifier; of features of unit norm where its card says so.

    Raises:
        UsageError: the model is not a classifier, or its card does not say what its classes are.
    """
    card = model.card
    if card.kind != "classifier":
        raise UsageError(f"{card.id} is not a classifier: build its head from prompts (zeroshot_head)")
    if "head" not in model.params:
        raise UsageError(f"{card.id} has features only, no classes: train a head on them, or probe them")
    if card.classes is None:
        raise UsageError(
            f"the card of {card.id} does not name its classes; give `classes` a file of configs/labels"
        )
    kernel = jnp.asarray(model.params["head"]["kernel"], jnp.float32)
    labels = getattr(card, "label_space", None) or load_labels(card.classes)
    if kernel.shape[1] != len(labels):
        raise DataError(
            f"{card.id} has {kernel.shape[1]} outputs, but {card.classes!r} has {len(labels)} classes"
        )
    bias = jnp.asarray(model.params["head"]["bias"], jnp.float32)
    normalize = getattr(card, "normalize_features", False)  # a user's own card may have no word for this
    return Head(kernel, bias, 1.0, normalize, labels, directions=False)


def zeroshot_head(
    model: Any,
    labels: LabelSpace,
    prompts: PromptSet,
    *,
    precision: str = "parity",
    store: Any = None,
    chunk: int = CHUNK,
    progress: bool = False,
) -> Head:
    """The head of a zero-shot model: the normalised mean of each class's normalised prompt embeddings.

    Args:
        model: a `clipjax.Model`, or any object with a card and `encode_text(list of strings) -> unit norm [B,
        D]`.
        precision: of the text tower, "parity" or "fast".
        store: a `clipjax.storage.store.Store` to keep the kernel in; a card without a fingerprint is never
            stored.
        chunk: prompts encoded at once.
        progress: show a bar on stderr.

    Raises:
        UsageError: the model has no text tower, or its card no logit scale.
        DataError: the prompt set has nothing for a class, or the class's prompts have no mean direction (not
            finite, or zero), which is named; `encode_text` does not return what it should.
    """
    if model.card.kind != "zero_shot":
        raise UsageError(f"{model.card.id} is a classifier: prompts are not applicable, it has its own head")
    scale = logit_scale(model.card)
    usage = _Usage.of([prompts.of_class(name) for name in labels.classes])

    def compute() -> np.ndarray:
        return _class_means(encode_texts(model, usage.prompts, precision, chunk), usage, labels, progress)

    about = {"model": str(model.card.id), "data": f"{prompts.name} prompts of {labels.name}", "selection": ""}
    kernel = stored(store, _key(model, usage, labels, precision), about, labels.ids, compute)
    bias = (
        None if model.card.logit_bias is None else jnp.full(len(labels), model.card.logit_bias, jnp.float32)
    )
    return Head(jnp.asarray(kernel.T), bias, scale, normalize=True, label_space=labels)


def logit_scale(card: Any) -> float:
    """The factor of a zero-shot model's logits. Raises UsageError where the card does not say."""
    if card.logit_scale is None:
        raise UsageError(f"set logit_scale on the card of {card.id}: the factor itself, 100 for most CLIPs")
    return float(card.logit_scale)


class _Usage(NamedTuple):
    """The distinct prompts, and how often each class uses each: float64 [K, P], sparse."""

    prompts: list[str]
    times: scipy.sparse.csc_array

    @staticmethod
    def of(prompts_of_class: Sequence[Sequence[str]]) -> _Usage:
        number: dict[str, int] = {}
        columns = [
            number.setdefault(prompt, len(number)) for prompts in prompts_of_class for prompt in prompts
        ]
        rows = np.repeat(np.arange(len(prompts_of_class)), [len(prompts) for prompts in prompts_of_class])
        shape = (len(prompts_of_class), len(number))
        times = scipy.sparse.coo_array((np.ones(len(rows)), (rows, columns)), shape)  # repeated pairs add up
        return _Usage(list(number), scipy.sparse.csc_array(times))


def _class_means(
    chunks: Iterator[tuple[np.ndarray, np.ndarray]], usage: _Usage, labels: LabelSpace, progress: bool
) -> np.ndarray:
    """Add the embeddings to their classes in float64 as they come, then normalise. Returns float32 [K, D]."""
    sums: Any = 0.0
    with progress_bar(len(usage.prompts), "prompts", "prompt", shown=progress) as bar:
        for rows, embeddings in chunks:
            sums = sums + usage.times[:, rows] @ embeddings.astype(np.float64)
            bar.update(len(rows))
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    # Float32 embeddings that cancel leave about 1e-7 each, whose direction is chance.
    usable = np.isfinite(norms[:, 0]) & (norms[:, 0] > 1e-5)
    if not usable.all():
        k = int(np.argmin(usable))
        raise DataError(
            f"class {labels.classes[k]!r}: the sum of its prompts is a vector of norm {norms[k, 0]:.3g}: "
            "that has no direction; check the text tower's weights and the prompts"
        )
    return (sums / norms).astype(np.float32)


def _key(model: Any, usage: _Usage, labels: LabelSpace, precision: str) -> dict[str, Any] | None:
    """What the kernel depends on; None for a model that must not be stored."""
    times = usage.times
    used = [times.indptr.tolist(), times.indices.tolist(), times.data.tolist()]
    prompts = sha256_json([usage.prompts, used])
    return text_key(model, "zeroshot_head", precision, prompts=prompts, classes=labels.digest)
