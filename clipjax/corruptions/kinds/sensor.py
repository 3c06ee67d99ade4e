"""Noise and quantisation of a camera: kinds that ImageNet-3DCC has too, with constants of our own.

They follow public definitions, and their numbers are not ImageNet-3DCC's.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from clipjax.corruptions.corruption import Constants, Corruption
from clipjax.corruptions.filters import of_levels, rounded
from clipjax.corruptions.kinds._imagenet_c import per_image
from clipjax.corruptions.kinds.noise import poisson


def iso_noise(image: jax.Array, key: jax.Array, constants: Constants) -> jax.Array:
    """Poisson(photons x) / photons + N(0, deviation)."""
    return _sensed(image, key, constants["photons"], constants["deviation"])


def low_light(image: jax.Array, key: jax.Array, constants: Constants) -> jax.Array:
    """Linear light, `stops` darker, with a sensor's noise, as sRGB again."""
    light = jnp.where(image <= 0.04045, image / 12.92, ((image + 0.055) / 1.055) ** 2.4)
    exposure = 2.0 ** -constants["stops"]
    sensed = _sensed(light * exposure, key, constants["photons"], constants["deviation"], exposure)
    sensed = jnp.clip(sensed, 0, 1)
    bright = 1.055 * jnp.maximum(sensed, 0.0031308) ** (1 / 2.4) - 0.055
    return jnp.where(sensed <= 0.0031308, 12.92 * sensed, bright)


def _sensed(
    light: jax.Array, key: jax.Array, photons: float, deviation: float, highest: float = 1.0
) -> jax.Array:
    shot, read = jax.random.split(key)
    return poisson(shot, light, photons, highest) + deviation * jax.random.normal(read, light.shape)


def color_quant(image: jax.Array, key: jax.Array, constants: Constants) -> jax.Array:
    """Keep the highest `bits` of every level, as Pillow's ImageOps.posterize does."""
    del key
    step = 2.0 ** (8 - constants["bits"])
    return of_levels(jnp.floor(rounded(image) / step) * step)


_OURS = "the constants are ours: never compare with published numbers of ImageNet-3DCC"
_SENSOR = "Foi et al., Practical Poissonian-Gaussian noise modeling and fitting, IEEE TIP 2008"

CORRUPTIONS = (
    Corruption("iso_noise", per_image(iso_noise), f"ours, after {_SENSOR}", convention=_OURS),
    Corruption(
        "low_light",
        per_image(low_light),
        f"ours, after {_SENSOR}, and sRGB (IEC 61966-2-1)",
        convention=_OURS,
    ),
    Corruption(
        "color_quant", per_image(color_quant), "ours, as Pillow's ImageOps.posterize", convention=_OURS
    ),
)
