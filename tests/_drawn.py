"""Random params without the program that draws them, which takes seconds to trace and to compile."""

from __future__ import annotations

import math

import jax
import numpy as np

from clipjax.finetune.training.trees import Params, flatten, nest


def drawn(abstract: Params, seed: int = 0) -> Params:
    """Weights that keep the size of what goes through; norms, their statistics and biases as at a start."""
    rng = np.random.default_rng(seed)

    def draw(path: str, shape: tuple[int, ...]) -> np.ndarray:
        last = path.rsplit("/", 1)[-1]
        if not shape:
            return np.asarray({"logit_scale": math.log(1 / 0.07), "logit_bias": -10.0}[last], np.float32)
        if last in ("scale", "var"):
            return np.ones(shape, np.float32)
        if last in ("bias", "mean"):
            return np.zeros(shape, np.float32)
        return (rng.normal(size=shape) / np.sqrt(np.prod(shape[-4:-1]))).astype(np.float32)

    leaves = {path: draw(path, leaf.shape) for path, leaf in flatten(abstract).items()}
    return jax.device_put(nest(leaves))  # jnp.asarray compiles a program for each shape
