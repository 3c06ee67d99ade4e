"""Layers that only some convolutional nets have; `layers.py` has the rules."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from clipjax.models.modules import convolutions, layers
from clipjax.models.modules.initializers import full
from clipjax.models.training import Precise


class GroupNorm(nnx.Module):
    """Normalises each image's groups of neighbouring channels, in float32; scale and bias are [dim].

    Sources: Wu and He 2018 (arXiv 1803.08494); torch.nn.GroupNorm.
    """

    def __init__(self, dim: int, *, groups: int, eps: float):
        self.scale = nnx.Param(full((dim,), 1.0))
        self.bias = nnx.Param(full((dim,), 0.0))
        self.groups = groups
        self.eps = eps

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        wide = x.astype(jnp.float32)
        centred = wide - self._of_group(wide)
        gain = jax.lax.rsqrt(self._of_group(jnp.square(centred)) + self.eps)
        gain = gain * self.scale[...].astype(jnp.float32)
        return (centred * gain + self.bias[...].astype(jnp.float32)).astype(x.dtype)

    def _of_group(self, x: Array) -> Float[Array, "B 1 1 C"]:
        """The mean over a channel's group; pixels first, because a map cut into groups is slow."""
        means = x.mean(axis=(1, 2)).reshape(x.shape[0], self.groups, -1).mean(axis=-1)
        return jnp.repeat(means, x.shape[-1] // self.groups, axis=-1)[:, None, None]


def standardize(kernel: Float[Array, "k k I O"], eps: float) -> Float[Array, "k k I O"]:
    """Each output's weights with mean 0 and (biased) variance 1, in float32; eps is added to the variance."""
    wide = kernel.astype(jnp.float32)
    centred = wide - wide.mean(axis=(0, 1, 2))
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(axis=(0, 1, 2)) + eps)


class StandardConv(convolutions.Conv):
    """`Conv` with its kernel standardised; the param is the raw kernel.

    Sources: Qiao et al. 2019 (arXiv 1903.10520); timm 1.0 `std_conv.StdConv2d`.
    """

    def __init__(self, in_dim: int, out_dim: int, *, eps: float, **options: Any):
        super().__init__(in_dim, out_dim, **options)
        self.kernel = Precise(self.kernel[...])
        self.eps = eps

    def __call__(self, x: Float[Array, "B H W I"]) -> Float[Array, "B h w O"]:
        return self.convolve(x, standardize(self.kernel[...], self.eps).astype(x.dtype))


class SqueezeExcite(nnx.Module):
    """A factor per channel: params fc1/{kernel [dim,width],bias}, fc2/{kernel [width,dim],bias}.

    Source: Hu et al. 2018 (arXiv 1709.01507), whose 1x1 convolutions read one pixel: here they are `Linear`.
    """

    def __init__(self, dim: int, width: int, *, activation: str, gate: str, rngs: nnx.Rngs):
        self.fc1 = layers.Linear(dim, width, bias_init=layers.uniform(dim**-0.5), rngs=rngs)
        self.fc2 = layers.Linear(width, dim, bias_init=layers.uniform(width**-0.5), rngs=rngs)
        self.activation = layers.ActivationLayer(activation)
        self.gate = layers.ActivationLayer(gate)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        hidden = self.activation(self.fc1(x.mean(axis=(1, 2))))
        return x * self.gate(self.fc2(hidden))[:, None, None]
