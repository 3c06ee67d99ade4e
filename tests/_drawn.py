"""Random params without the program that draws them, which takes seconds to trace and to compile."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any
from unittest import mock

import jax
import numpy as np
from jax._src import random as jax_random
from scipy.special import ndtr, ndtri

from clipjax.finetune.training.trees import Params, flatten, nest
from clipjax.models.arch import Arch
from clipjax.models.param_tree import draw


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


def initialised(arch: Arch, seed: int = 0) -> Params:
    """`Network.init_params` with NumPy's random numbers; blocks of a stack are drawn alike.

    `test_params_are_drawn_by_the_keys_of_flax` and `test_init_follows_its_key` are about JAX's.
    """
    # A new function: what `Network.init_params` traced with JAX's draws is another.
    options = {"xla_backend_optimization_level": 0}
    with numpys_draws(seed):
        return jax.jit(lambda key: draw(arch, key), compiler_options=options)(jax.random.key(0))


@contextlib.contextmanager
def numpys_draws(seed: int = 0) -> Iterator[None]:
    """Initialisers draw with NumPy, of the same distributions."""
    rng = np.random.default_rng(seed)

    def normal(key: Any, shape: Any, dtype: Any = None, out_sharding: Any = None) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    def uniform(key: Any, shape: Any, dtype: Any, low: float = 0, high: float = 1, **_: Any) -> np.ndarray:
        return rng.uniform(low, high, shape).astype(np.float32)

    def truncated_normal(key: Any, low: float, high: float, shape: Any, *_: Any, **__: Any) -> np.ndarray:
        return ndtri(rng.uniform(ndtr(low), ndtr(high), shape)).astype(np.float32)

    with contextlib.ExitStack() as stack:
        for function in (normal, uniform, truncated_normal):
            for module in (jax_random, jax.random):
                stack.enter_context(mock.patch.object(module, function.__name__, function))
        yield
