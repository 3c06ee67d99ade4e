"""Scores of how in-distribution an image looks, from cosines or logits.

LARGER IS ALWAYS MORE IN-DISTRIBUTION. Scores are float32, or float64 from float64 logits under
`jax.enable_x64`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float

Logits = Float[jax.Array, "N K"]
Scores = Float[jax.Array, " N"]
Scalar = float | Float[jax.Array, ""]


def _single(values: jax.Array) -> jax.Array:
    # In half precision most of MCM's values, all near 1/K, would tie.
    return values.astype(jnp.float64 if values.dtype == jnp.float64 else jnp.float32)


@jax.jit
def mcm(cosines: Logits, temperature: Scalar = 1.0) -> Scores:
    """Maximum concept matching (Ming et al. 2022): the largest softmax of cosines / temperature.

    The reference takes RAW cosines at temperature 1.
    """
    return jnp.max(jax.nn.softmax(_single(cosines) / temperature, axis=1), axis=1)


@jax.jit
def msp(logits: Logits) -> Scores:
    """Maximum softmax probability (Hendrycks & Gimpel 2017), of scaled logits."""
    return jnp.max(jax.nn.softmax(_single(logits), axis=1), axis=1)


@jax.jit
def max_logit(logits: Logits) -> Scores:
    """The largest logit of each image. Cosines in place of logits give the same order."""
    return jnp.max(_single(logits), axis=1)


@jax.jit
def energy(logits: Logits, temperature: Scalar = 1.0) -> Scores:
    """T logsumexp(logits / T) (Liu et al. 2020). MCM's code passes raw cosines."""
    return temperature * jax.nn.logsumexp(_single(logits) / temperature, axis=1)


@jax.jit
def negative_entropy(cosines: Logits, temperature: Scalar = 1.0) -> Scores:
    """Negative entropy in nats, at most 0. MCM's code (utils/detection_util.py) passes raw cosines."""
    log_p = jax.nn.log_softmax(_single(cosines) / temperature, axis=1)
    return jnp.sum(jnp.exp(log_p) * log_p, axis=1)
