"""Fog and flash of 3D common corruptions (Kar et al., CVPR 2022), from depth or reshading."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from clipjax.corruptions.corruption import Constants, Corruption, Extra
from clipjax.corruptions.kinds._common_3d import SOURCE


def fog(images: Any, keys: Any, constants: Constants, extra: Extra) -> Any:
    """t I + (1 - t) A with t = 1 / exp(a D); A is the image's mean over pixels and channels."""
    del keys
    through = jnp.exp(-constants["attenuation"] * extra["depth"])[..., None]
    values = images.reshape(len(images), -1)
    # A product with ones: the compiler's sums are slow.
    total = jnp.matmul(values, jnp.ones(values.shape[1]), precision=jax.lax.Precision.HIGHEST)
    air = (total / values.shape[1])[:, None, None, None]
    return air + through * (images - air)


def flash(images: Any, keys: Any, constants: Constants, extra: Extra) -> Any:
    """I + I R / k, at most 1; R is the reshading in [0, 1]."""
    del keys
    light = extra["reshading"][..., None] / constants["distance"]
    return jnp.minimum(images + images * light, 1)


CORRUPTIONS = (
    Corruption(
        "fog_3d",
        fog,
        SOURCE,
        convention="the airlight is each image's own mean (the reference takes the mean of its batch)",
        needs=("depth",),
        version=2,
    ),
    Corruption("flash", flash, SOURCE, needs=("reshading",)),
)
