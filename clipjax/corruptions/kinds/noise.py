"""The noises of ImageNet-C (Hendrycks and Dietterich 2019, arXiv 1903.12261)."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from clipjax.corruptions.corruption import Constants, Corruption
from clipjax.corruptions.kinds._imagenet_c import SOURCE, per_image


def gaussian_noise(image: jax.Array, key: jax.Array, constants: Constants) -> jax.Array:
    """x + N(0, deviation)."""
    return image + constants["deviation"] * jax.random.normal(key, image.shape)


def speckle_noise(image: jax.Array, key: jax.Array, constants: Constants) -> jax.Array:
    """x + x N(0, deviation)."""
    return image + image * constants["deviation"] * jax.random.normal(key, image.shape)


def shot_noise(image: jax.Array, key: jax.Array, constants: Constants) -> jax.Array:
    """Poisson(photons x) / photons."""
    return poisson(key, image, constants["photons"])


def poisson(key: jax.Array, image: jax.Array, photons: float, highest: float = 1.0) -> jax.Array:
    """Poisson(photons x) / photons: the smallest count whose probability reaches a uniform draw.

    `photons` is at most 80, so that the probability of 0 is a float32; no value is above `highest`.
    """
    level = jax.random.uniform(key, image.shape)
    rate = image * photons

    def count_one(k: Any, state: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        count, mass, reached = state
        more = mass * rate / (k + 1).astype(rate.dtype)
        return count + (reached < level).astype(rate.dtype), more, reached + more

    # No draw in 2^23 lies beyond.
    largest = photons * highest
    most = int(largest + 8 * math.sqrt(largest) + 12)
    start = jnp.exp(-rate)
    count, _, _ = jax.lax.fori_loop(0, most, count_one, (jnp.zeros_like(image), start, start))
    return count / photons


def impulse_noise(image: jax.Array, key: jax.Array, constants: Constants) -> jax.Array:
    """A share of all values becomes 0 or 1, each half of the time; channels are drawn apart."""
    which, value = jax.random.split(key)
    hit = jax.random.uniform(which, image.shape) <= constants["share"]
    salt = jax.random.uniform(value, image.shape) <= 0.5
    return jnp.where(hit, salt.astype(image.dtype), image)


CORRUPTIONS = (
    Corruption("gaussian_noise", per_image(gaussian_noise), SOURCE),
    Corruption("shot_noise", per_image(shot_noise), SOURCE),
    Corruption("impulse_noise", per_image(impulse_noise), SOURCE),
    Corruption("speckle_noise", per_image(speckle_noise), SOURCE),
)
