"""Build a model's head: from prompts (zero-shot), or from a classifier's linear layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jaxtyping import Float32

from clipjax.checkpoints.classes import head_classes
from clipjax.checkpoints.encoder import Encoder, ModelCard
from clipjax.data.labels import LabelSpace, PromptSet
from clipjax.embeddings.beginnings import VERSION
from clipjax.embeddings.texts import CHUNK, encode_texts, stored, text_key
from clipjax.errors import DataError, UsageError
from clipjax.heads.head import Head
from clipjax.models.outputs import one_layer
from clipjax.progress import progress_bar
from clipjax.storage.digests import sha256_json
from clipjax.storage.store import Store


def has_own_head(model: Encoder) -> bool:
    """Whether the model has a head that needs no prompts: a classifier's or an adapter's."""
    return model.card.kind == "classifier" or model.adapter is not None


def classifier_head(model: Encoder) -> Head:
    """A classifier's linear head; it normalises features if the card says so.

    Raises:
        UsageError, DataError: as `clipjax.checkpoints.classes.head_classes`.
    """
    labels = head_classes(model.card, model.params)
    layer = one_layer(model.params["head"])
    kernel, bias = (jnp.asarray(layer[name], jnp.float32) for name in ("kernel", "bias"))
    return Head(kernel, bias, 1.0, model.card.normalize_features, labels, directions=False)


def zeroshot_head(
    model: Encoder,
    labels: LabelSpace,
    prompts: PromptSet,
    *,
    precision: str = "parity",
    store: Store | None = None,
    chunk: int = CHUNK,
    progress: bool = False,
) -> Head:
    """The normalised mean of each class's normalised prompt embeddings.

    Source: Radford et al. 2021, section 3.1.4; open_clip's build_zero_shot_classifier.

    Args:
        precision: "parity" or "fast".
        store: keeps the kernel, unless the card has no fingerprint.
        chunk: prompts encoded at once.

    Raises:
        UsageError: a classifier, a model without a text tower, or a card without a logit scale.
        DataError: a class without prompts, or whose prompts have no mean direction (not finite, or zero);
            names it. Or `encode_text` returns a wrong shape or norm.
    """
    if model.card.kind != "zero_shot":
        raise UsageError(f"{model.card.id} is a classifier: prompts are not applicable, it has its own head")
    scale = logit_scale(model.card)
    usage = _Usage.of([prompts.of_class(name) for name in labels.classes])

    def compute() -> np.ndarray:
        embeddings = encode_texts(model, usage.prompts, precision, chunk, share=True)
        return _class_means(embeddings, usage, labels, progress)

    about = {"model": str(model.card.id), "data": f"{prompts.name} prompts of {labels.name}", "selection": ""}
    kernel = stored(store, _key(model, usage, labels, precision), about, labels.ids, compute)
    bias = None if model.card.logit_bias is None else np.full(len(labels), model.card.logit_bias, np.float32)
    # `jnp.asarray` of a transposed array would compile a program.
    placed, bias = jax.device_put((np.ascontiguousarray(kernel.T), bias))
    return Head(placed, bias, scale, normalize=True, label_space=labels)


def logit_scale(card: ModelCard) -> float:
    """The factor of a zero-shot model's logits. Raises UsageError if the card lacks it."""
    if card.logit_scale is None:
        raise UsageError(f"set logit_scale on the card of {card.id}: the factor itself, 100 for most CLIPs")
    return float(card.logit_scale)


class _Usage(NamedTuple):
    """The P distinct prompts, and how often each class uses each: float64 [K, P], sparse."""

    prompts: list[str]
    times: scipy.sparse.csc_array

    @staticmethod
    def of(prompts_of_class: Sequence[Sequence[str]]) -> _Usage:
        """The distinct prompts in the order of their first use, and how often each class uses each."""
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
) -> Float32[np.ndarray, "K D"]:
    sums: Any = 0.0
    with progress_bar(len(usage.prompts), "prompts", "prompt", shown=progress) as bar:
        for rows, embeddings in chunks:
            sums = sums + usage.times[:, rows] @ embeddings.astype(np.float64)
            bar.update(len(rows))
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    # Float32 embeddings that cancel leave about 1e-7 each: a random direction.
    usable = np.isfinite(norms[:, 0]) & (norms[:, 0] > 1e-5)
    if not usable.all():
        k = int(np.argmin(usable))
        raise DataError(
            f"class {labels.classes[k]!r}: the sum of its prompts is a vector of norm {norms[k, 0]:.3g}: "
            "that has no direction; check the text tower's weights and the prompts"
        )
    return (sums / norms).astype(np.float32)


def _key(model: Encoder, usage: _Usage, labels: LabelSpace, precision: str) -> dict[str, Any] | None:
    times = usage.times
    used = [times.indptr.tolist(), times.indices.tolist(), times.data.tolist()]
    prompts = sha256_json([usage.prompts, used])
    # Heads of towers that cannot share keep the key that they had before others could.
    way = {"beginnings": VERSION} if model.network is not None and model.network.shares_beginnings else {}
    return text_key(model, "zeroshot_head", precision, prompts=prompts, classes=labels.digest, **way)
