"""Snow, frost and fog of ImageNet-C (Hendrycks and Dietterich 2019, arXiv 1903.12261)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from clipjax.corruptions.corruption import Constants, Corruption, Extra
from clipjax.corruptions.filters import motion_blurred, of_levels, rounded, truncated, zoomed
from clipjax.corruptions.kinds._imagenet_c import SOURCE, per_image

_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601


def snow(image: jax.Array, key: jax.Array, constants: Constants) -> jax.Array:
    """Flakes: zoomed noise above a threshold, blurred along a random fall; added also turned by 180 degrees.

    The image is whitened first.
    """
    noise, fall = jax.random.split(key)
    flakes = constants["mean"] + constants["deviation"] * jax.random.normal(noise, image.shape[:2])
    flakes = zoomed(flakes, constants["zoom"])
    flakes = of_levels(truncated(jnp.where(flakes < constants["threshold"], 0, flakes)))[..., None]
    angle = jax.random.uniform(fall, minval=-135.0, maxval=-45.0)
    flakes = of_levels(rounded(motion_blurred(flakes, constants["radius"], constants["sigma"], angle)))
    grey = (image * jnp.array(_GREY)).sum(-1, keepdims=True)
    kept = constants["kept"]
    white = kept * image + (1 - kept) * jnp.maximum(image, grey * 1.5 + 0.5)
    return white + flakes + flakes[::-1, ::-1]


def fog(image: jax.Array, key: jax.Array, constants: Constants) -> jax.Array:
    """(x + depth p) m / (m + depth): p a plasma fractal in [0, 1], m the image's largest value."""
    depth, size = constants["depth"], image.shape[0]
    cloud = plasma(key, 1 << (size - 1).bit_length(), constants["decay"])[:size, :size, None]
    highest = image.max()
    return (image + depth * cloud) * highest / (highest + depth)


def plasma(key: jax.Array, size: int, decay: float) -> jax.Array:
    """float32 [size, size] in [0, 1] by diamonds and squares on a torus; `size` is a power of two.

    Every step halves the grid: a new point is the mean of its four neighbours, the centres of squares first,
    plus a uniform draw of at most w^2. w begins at 100 and is divided by `decay`.
    """
    grid = jnp.zeros((1, 1))
    width = 100.0
    all_draws = jax.random.uniform(key, (size * size - 1,), minval=-1.0)
    while (count := grid.shape[0]) < size:
        draws = width**2 * all_draws[count**2 - 1 : 4 * count**2 - 1].reshape(3, count, count)
        right, below = jnp.roll(grid, -1, 1), jnp.roll(grid, -1, 0)
        centre = (grid + right + below + jnp.roll(right, -1, 0)) / 4 + draws[0]
        across = (grid + right + centre + jnp.roll(centre, 1, 0)) / 4 + draws[1]
        down = (grid + below + centre + jnp.roll(centre, 1, 1)) / 4 + draws[2]
        rows = jnp.stack([grid, across], -1), jnp.stack([down, centre], -1)
        grid = jnp.stack([row.reshape(count, -1) for row in rows], 1).reshape(2 * count, -1)
        width /= decay
    grid = grid - grid.min()
    return grid / grid.max()


def frost(images: Any, keys: Any, constants: Constants, extra: Extra) -> Any:
    """image_share x + frost_share f: f a random part of a random picture of `extra["frost"]`."""
    pictures, sizes = extra["frost"]
    size = images.shape[1]

    def one(image: jax.Array, key: jax.Array) -> jax.Array:
        which, y, x = jax.random.split(key, 3)
        picture = jax.random.randint(which, (), 0, pictures.shape[0])
        top, left = (
            jax.random.randint(side, (), 0, sizes[picture, axis] - size) for axis, side in enumerate((y, x))
        )
        window = jax.lax.dynamic_slice(pictures, (picture, top, left, 0), (1, size, size, 3))[0]
        return constants["image_share"] * image + constants["frost_share"] * of_levels(window)

    return jax.vmap(one)(images, keys)


CORRUPTIONS = (
    Corruption("snow", per_image(snow), SOURCE),
    Corruption(
        "frost",
        frost,
        SOURCE,
        convention="all pictures of the user's folder are drawn; the reference draws the first 5 of its 6",
        needs=("frost",),
    ),
    Corruption(
        "fog",
        per_image(fog),
        SOURCE,
        convention="the map's side is the power of two from the image's on",
    ),
)
