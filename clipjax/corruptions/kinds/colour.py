"""Brightness, contrast and saturation of ImageNet-C (Hendrycks and Dietterich 2019, arXiv 1903.12261).

HSV's value is the largest channel and its saturation is (largest - smallest) / largest, so both can be
changed without the hue: a channel is value (1 - saturation t) with
t = (largest - channel) / (largest - smallest).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from clipjax.corruptions.corruption import Constants, Corruption
from clipjax.corruptions.kinds._imagenet_c import SOURCE, per_image


def brightness(image: jax.Array, key: jax.Array, constants: Constants) -> jax.Array:
    """HSV's value + shift, at most 1; black becomes grey."""
    del key
    value = image.max(-1, keepdims=True)
    brighter = jnp.minimum(value + constants["shift"], 1)
    return jnp.where(value > 0, image * (brighter / jnp.where(value > 0, value, 1)), brighter)


def saturate(image: jax.Array, key: jax.Array, constants: Constants) -> jax.Array:
    """HSV's saturation * factor + shift, within [0, 1]."""
    del key
    value = image.max(-1, keepdims=True)
    spread = value - image.min(-1, keepdims=True)
    saturation = jnp.where(value > 0, spread / jnp.where(value > 0, value, 1), 0)
    saturation = jnp.clip(saturation * constants["factor"] + constants["shift"], 0, 1)
    red = jnp.array([0.0, 1.0, 1.0])  # grey has hue 0
    away = jnp.where(spread > 0, (value - image) / jnp.where(spread > 0, spread, 1), red)
    return value * (1 - saturation * away)


def contrast(image: jax.Array, key: jax.Array, constants: Constants) -> jax.Array:
    """(x - mean) factor + mean, with each channel's mean."""
    del key
    mean = image.mean((0, 1), keepdims=True)
    return (image - mean) * constants["factor"] + mean


CORRUPTIONS = (
    Corruption("brightness", per_image(brightness), SOURCE),
    Corruption("contrast", per_image(contrast), SOURCE),
    Corruption(
        "saturate", per_image(saturate), SOURCE, convention="grey pixels turn red where saturation is added"
    ),
)
