"""The layers between an image tower and a decoder.

Sources: Liu et al. 2023 (arXiv 2304.08485, 2310.03744); Karamcheti et al. 2024 (arXiv 2402.07865) and its
code, TRI-ML/prismatic-vlms at 874c5bb, prismatic/util/nn_utils.py.

Params: linear_0/{kernel,bias}, and with an MLP linear_1 (and linear_2). Kernels are [in, out].
"""

from __future__ import annotations

from flax import nnx
from jax import Array
from jaxtyping import Float

from clipjax.models.language.config import Projector as Kind
from clipjax.models.modules import layers

_FUSED = 4  # the first layer of "fused-gelu-mlp" is this many times as wide as the tower


def widths(kind: Kind, tower: int, decoder: int) -> list[int]:
    """Channels before, between and after the linear layers.

    widths("gelu-mlp", 1024, 4096) == [1024, 4096, 4096]
    """
    between = {"linear": [], "gelu-mlp": [decoder], "fused-gelu-mlp": [_FUSED * tower, decoder]}
    return [tower, *between[kind], decoder]


class Projector(nnx.Module):
    """Linear layers with exact GELU between them."""

    def __init__(self, kind: Kind, tower: int, decoder: int, rngs: nnx.Rngs):
        sizes = widths(kind, tower, decoder)
        self.names = tuple(f"linear_{i}" for i in range(len(sizes) - 1))
        self.activation = layers.ActivationLayer("gelu")
        for name, before, after in zip(self.names, sizes, sizes[1:]):
            setattr(self, name, layers.Linear(before, after, rngs=rngs))

    def __call__(self, x: Float[Array, "*rows T"]) -> Float[Array, "*rows D"]:
        for i, name in enumerate(self.names):
            x = getattr(self, name)(self.activation(x) if i else x)
        return x
