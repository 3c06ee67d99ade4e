"""The layers that families share.

No default changes a number: callers name every activation and epsilon. Flax's own layers differ from
PyTorch's: tanh gelu, LayerNorm epsilon 1e-6, and a cancelling variance E[x^2] - E[x]^2.

Arrays are channels last: tokens [B, N, D], maps [B, H, W, C]. A layer computes in the dtype of its input and
params; LayerNorm statistics and softmax are always float32. Initialisers are PyTorch's, as in open_clip.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.nn.initializers import Initializer
from jaxtyping import Float

from clipjax.models.chunks import is_small
from clipjax.models.cut import any_cut
from clipjax.models.modules.attention import KEPT, MultiHead, Visible
from clipjax.models.modules.binding import Layer
from clipjax.models.modules.forms import form, in_form
from clipjax.models.modules.initializers import full, uniform, variance_scaling, zeros
from clipjax.models.unstacked import is_unstacked

# U(-1/sqrt(fan_in), 1/sqrt(fan_in)): the default of torch.nn.Linear and Conv2d, for weights.
torch_uniform: Initializer = variance_scaling(1 / 3, "fan_in", "uniform")


# -------------------------------------------------------------------------------------- activations


def gelu(x: Array) -> Array:
    """x * Phi(x), with erf as in PyTorch: JAX's own gelu uses the slower erfc."""
    return 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))


def quick_gelu(x: Array) -> Array:
    """x * sigmoid(1.702 x): the activation of OpenAI's CLIP."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "quick_gelu": quick_gelu,
    "silu": jax.nn.silu,
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "hard_swish": jax.nn.hard_silu,  # x * hard_sigmoid(x)
    "hard_sigmoid": jax.nn.hard_sigmoid,  # relu6(x + 3) / 6
    "sigmoid": jax.nn.sigmoid,
}


class ActivationLayer(Layer):
    """The activation of this name. In bfloat16 on a TPU GELU avoids erf, which takes as long as products."""

    def __init__(self, name: str):
        self.name = name

    def __call__(self, x: Array) -> Array:
        if self.name == "gelu" and form("gelu", self.mode, x.dtype) == "tanh":
            return gelu_by_tanh(x)
        return ACTIVATIONS[self.name](x)


def gelu_by_tanh(x: Array) -> Array:
    """GELU within 3e-5: Phi(x) = (1 + tanh(x p(x^2))) / 2, where p has the least largest error."""
    wide = x.astype(jnp.float32)
    squared = jnp.minimum(jnp.square(wide), 30)  # p falls later, when tanh has long been 1
    p = 0.79750788 + squared * (0.03700565 - 0.00035151682 * squared)
    return (0.5 * wide * (1 + jnp.tanh(wide * p))).astype(x.dtype)


# Activations that the config of a transformer may name.
Activation = Literal["gelu", "gelu_tanh", "quick_gelu"]


# ------------------------------------------------------------------------------------------- dense


class Normalised(NamedTuple):
    """Rows that a product with a norm in its kernel and bias normalises (`fold`).

    Attributes:
        factor: one over each row's deviation, float32.
    """

    rows: Float[Array, "*rows D"]
    factor: Float[Array, "*rows 1"]


class Linear(Layer):
    """x @ kernel [in, out] + bias [out]."""

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        rngs: nnx.Rngs,
        use_bias: bool = True,
        kernel_init: Initializer = torch_uniform,
        bias_init: Initializer = zeros,
    ):
        self.kernel = nnx.Param(kernel_init(rngs.params(), (in_dim, out_dim), jnp.float32))
        self.bias = nnx.Param(bias_init(rngs.params(), (out_dim,), jnp.float32)) if use_bias else None

    def __call__(self, x: Float[Array, "*rows I"] | Normalised) -> Float[Array, "*rows O"]:
        if isinstance(x, Normalised):
            return self._of_rows(*x)
        y = self.times(x, self.kernel[...])
        return y if self.bias is None else y + self.bias[...]

    def times(self, x: Float[Array, "*rows I"], kernel: Any) -> Float[Array, "*rows O"]:
        """x @ kernel [I, O], with faster gradients in a CPU's training steps, which state the platform."""
        ways = {"float32_product": _float32_product, "gradient_by_rows": _cpu_product, "plain": jnp.matmul}
        return in_form("linear", ways, x, kernel, mode=self.mode)

    def _of_rows(self, rows: Array, factor: Array) -> Array:
        assert self.bias is not None, "a norm in the product leaves a bias"
        y = (rows @ self.kernel[...]).astype(jnp.float32)  # a float32 result would halve the chunks
        return (y * factor + self.bias[...]).astype(rows.dtype)


def _float32_product(x: Array, kernel: Array) -> Array:
    return jnp.matmul(x, kernel, preferred_element_type=jnp.float32).astype(x.dtype)


@jax.custom_vjp
def _cpu_product(x: Array, kernel: Array) -> Array:
    return x @ kernel


def _cpu_product_gradients(kept: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    """JAX's own gradient by the kernel is a transposed product, for which XLA transposes `dy` in memory."""
    x, kernel = kept
    rows, changes = (y.reshape(-1, y.shape[-1]) for y in (x, dy))
    return dy @ kernel.T, rows.T @ changes


_cpu_product.defvjp(lambda x, kernel: (x @ kernel, (x, kernel)), _cpu_product_gradients)


class LayerNorm(Layer):
    """Normalises the last axis in float32 and returns the dtype of `x`.

    On a TPU bfloat16 is read once for both statistics, where others read it again for the
    variance. E[x^2] - E[x]^2 is wrong by about (1 + mean^2 / variance) / 2^24 of itself: as much as bfloat16
    rounds only where the mean is 200 times the deviation.
    """

    def __init__(self, dim: int, *, eps: float):
        self.scale = nnx.Param(full((dim,), 1.0))
        self.bias = nnx.Param(full((dim,), 0.0))
        self.eps, self.folded = eps, False

    def __call__(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        assert not self.folded, "the products that read this norm have its params: call for_products"
        centred, factor = self._centred(x)
        y = centred * factor
        return (y * self.scale[...].astype(jnp.float32) + self.bias[...].astype(jnp.float32)).astype(x.dtype)

    def for_products(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"] | Normalised:
        """What the products given to `fold` read; without it as `__call__`."""
        return Normalised(x, self._centred(x)[1]) if self.folded else self(x)

    def _centred(self, x: Array) -> tuple[Array, Array]:
        """x - mean, and one over the deviation [*rows, 1]; float32."""
        wide = x.astype(jnp.float32)
        mean = checkpoint_name(wide.mean(axis=-1, keepdims=True), KEPT)
        centred = wide - mean
        if form("norm", self.mode, x.dtype) == "one_read":
            squares = checkpoint_name(jnp.square(wide).mean(axis=-1, keepdims=True), KEPT)
            variance = jnp.maximum(squares - jnp.square(mean), 0)
        else:
            variance = jnp.square(centred).mean(axis=-1, keepdims=True)
        return centred, jax.lax.rsqrt(variance + self.eps)


def fold(norm: LayerNorm, products: Sequence[Linear]) -> None:
    """Moves a norm's params, and its subtraction of the mean, into the only products that read it.

    ((x - mean) * factor * scale + bias) @ K is (x @ C) * factor + bias @ K, where C is scale * K less the
    mean of each column. A TPU then reads x as it is. Otherwise it normalises it in each product anew, which
    on a v6e takes as long as the product. Rounding leaves a small mean in each column of C, which the mean of
    x multiplies: with a mean of 30 deviations the error was 1.8 times that of the products apart.
    """
    arrays = not any_cut(products) and not any(
        map(is_unstacked, jax.tree.leaves(products, is_leaf=is_unstacked))
    )
    ways = ("folded", "apart") if arrays else ("apart",)
    if form("normed_products", norm.mode, norm.scale.dtype, ways) == "apart":
        return
    norm.folded = True
    scale, bias = (param[...].astype(jnp.float32) for param in (norm.scale, norm.bias))
    for each in products:
        kernel = each.kernel[...]
        of_bias = jnp.einsum(
            "...i,...io->...o", bias.astype(kernel.dtype), kernel, preferred_element_type=jnp.float32
        )
        scaled = kernel.astype(jnp.float32) * scale[..., None]
        each.kernel.set_value((scaled - scaled.mean(axis=-2, keepdims=True)).astype(kernel.dtype))
        if each.bias is not None:
            of_bias += each.bias[...].astype(jnp.float32)
        each.bias = nnx.data(nnx.Param(of_bias))


# ------------------------------------------------------------------------------------- transformer


# For transformers on a CPU: XLA's matrix products are faster without elementwise work fused into them
# (8 to 12 %, benchmarks/models/towers.py). Convolutional nets get slower.
CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}


class Attention(Layer):
    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        qkv_init: Initializer,
        out_init: Initializer,
        rngs: nnx.Rngs,
    ):
        self.q = Linear(dim, dim, kernel_init=qkv_init, rngs=rngs)
        self.k = Linear(dim, dim, kernel_init=qkv_init, rngs=rngs)
        self.v = Linear(dim, dim, kernel_init=qkv_init, rngs=rngs)
        self.out = Linear(dim, dim, kernel_init=out_init, rngs=rngs)
        self.attend = MultiHead(heads)

    def __call__(
        self, x: Float[Array, "B N D"] | Normalised, visible: Visible | None = None
    ) -> Float[Array, "B N D"]:
        q, k, v = (linear(x) for linear in (self.q, self.k, self.v))
        if self.mode.attention == "tokens":
            return self.out(self.attend(q, k, v, visible))
        q, k, v = (y.swapaxes(0, 1) for y in (q, k, v))
        return self.out(self.attend(q, k, v).swapaxes(0, 1))


class Mlp(Layer):
    def __init__(
        self,
        dim: int,
        width: int,
        *,
        activation: str,
        fc_init: Initializer,
        proj_init: Initializer,
        rngs: nnx.Rngs,
    ):
        self.c_fc = Linear(dim, width, kernel_init=fc_init, bias_init=uniform(dim**-0.5), rngs=rngs)
        self.c_proj = Linear(width, dim, kernel_init=proj_init, bias_init=uniform(width**-0.5), rngs=rngs)
        self.activation = ActivationLayer(activation)

    def __call__(self, x: Float[Array, "*rows D"] | Normalised) -> Float[Array, "*rows D"]:
        hidden = checkpoint_name(self.c_fc(x), KEPT)
        allowed = ("products_apart", "plain") if is_small(hidden, self.mode) else ("plain",)
        if form("mlp", self.mode, hidden.dtype, allowed) == "products_apart":
            # Otherwise a v6e's compiler fuses the two products into one operation, 1.4 times as long.
            hidden = jax.lax.optimization_barrier(hidden)
        return self.c_proj(self.activation(hidden))


class LayerScale(nnx.Module):
    """A learned factor per channel [dim] on a residual branch (Touvron et al. 2021, section 2)."""

    def __init__(self, dim: int, *, init: float):
        self.scale = nnx.Param(full((dim,), init))

    def __call__(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        return x * self.scale[...]


class Block(Layer):
    """Pre-norm residual block. layer_scale: initial value; None leaves ls_1 and ls_2 out."""

    def __init__(
        self,
        dim: int,
        heads: int,
        mlp_width: int,
        *,
        activation: str,
        ln_eps: float,
        qkv_init: Initializer,
        out_init: Initializer,
        fc_init: Initializer,
        proj_init: Initializer,
        rngs: nnx.Rngs,
        layer_scale: float | None = None,
    ):
        self.ln_1 = LayerNorm(dim, eps=ln_eps)
        self.attn = Attention(dim, heads, qkv_init=qkv_init, out_init=out_init, rngs=rngs)
        self.ls_1 = None if layer_scale is None else LayerScale(dim, init=layer_scale)
        self.ln_2 = LayerNorm(dim, eps=ln_eps)
        self.mlp = Mlp(dim, mlp_width, activation=activation, fc_init=fc_init, proj_init=proj_init, rngs=rngs)
        self.ls_2 = None if layer_scale is None else LayerScale(dim, init=layer_scale)

    def prepare(self) -> None:
        fold(self.ln_1, (self.attn.q, self.attn.k, self.attn.v))
        fold(self.ln_2, (self.mlp.c_fc,))

    def __call__(self, x: Float[Array, "B N D"], visible: Visible | None = None) -> Float[Array, "B N D"]:
        attended = self.attn(self.ln_1.for_products(x), visible)
        x = x + (attended if self.ls_1 is None else self.ls_1(attended))
        mixed = self.mlp(self.ln_2.for_products(x))
        return x + (mixed if self.ls_2 is None else self.ls_2(mixed))
