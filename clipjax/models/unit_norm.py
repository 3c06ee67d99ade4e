"""Features of unit norm. Loads no flax."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array


def unit_norm(features: Array) -> Array:
    """Rows divided by their L2 norm, [B, D]; a zero row stays zero (torch's normalize, eps 1e-12)."""
    norm = jnp.sqrt(jnp.sum(features * features, axis=-1, keepdims=True))
    return features / jnp.maximum(norm, 1e-12)
