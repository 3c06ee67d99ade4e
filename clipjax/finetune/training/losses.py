"""Logits of a linear head, cross-entropy and accuracy.

Source: wise-ft (`src/models/modeling.py`, ClassificationHead); torch.nn.CrossEntropyLoss.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax
from jax import Array


def unit_norm(features: Array) -> Array:
    """Rows divided by their L2 norm, float32 [B, D].

    As torch's normalize (eps 1e-12), but the gradient of a zero row is finite.
    """
    square = jnp.sum(features * features, axis=-1, keepdims=True)
    return features * jax.lax.rsqrt(jnp.maximum(square, 1e-24))


def head_logits(head: Mapping[str, Array], features: Array, *, normalize: bool) -> Array:
    """float32 [B, D] -> float32 [B, K]; `normalize` first brings features to unit norm.

    `head` is {"kernel" [D, K], "bias" [K]}: the kernel includes any scale; the bias may be missing.
    """
    features = unit_norm(features) if normalize else features
    logits = jnp.matmul(features, head["kernel"], precision="highest")
    return logits + head["bias"] if "bias" in head else logits


def cross_entropy(logits: Array, labels: Array, *, label_smoothing: float = 0.0) -> Array:
    """Mean cross-entropy, float32 [], of logits float32 [B, K] and labels int32 [B].

    `label_smoothing` is the share spread over all K classes.
    """
    targets = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    if label_smoothing:
        targets = optax.smooth_labels(targets, label_smoothing)
    return optax.softmax_cross_entropy(logits, targets).mean()


def accuracy(logits: Array, labels: Array) -> Array:
    """float32 [], the share of rows whose largest logit is the label's."""
    return jnp.mean(jnp.argmax(logits, axis=-1) == labels)
