"""The source of ImageNet-C's corruptions, and the wrapper that applies one to a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from clipjax.corruptions.corruption import Apply, Constants, Extra

SOURCE = (
    "Hendrycks and Dietterich, Benchmarking neural network robustness to common corruptions and "
    "perturbations, ICLR 2019, and its reference code (hendrycks/robustness e0377d4, make_imagenet_c.py)"
)

One = Callable[[jax.Array, jax.Array, Constants], jax.Array]


def per_image(one: One) -> Apply:
    """`apply` of a function of one image [S, S, 3], its key and the constants."""

    def apply(images: Any, keys: Any, constants: Constants, extra: Extra) -> Any:
        del extra
        return jax.vmap(lambda image, key: one(image, key, constants))(images, keys)

    apply.__doc__ = one.__doc__
    return apply
