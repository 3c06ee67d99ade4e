"""The layers every family is built from, and the one home of their numerics.

Nothing here has a default that changes a number: activations are named, every epsilon is given. Three
defaults of Flax differ from the PyTorch sources we port (its gelu is the tanh form, its LayerNorm has epsilon
1e-6 and the cancelling variance E[x^2] - E[x]^2), so these layers are our own. Modules hold `nnx.Param` and
nothing else.

Arrays are channels last: tokens [B, N, D], maps [B, H, W, C]. A layer computes in the dtype of its input (its
params are in the same dtype, see network.py) except for the statistics of LayerNorm and the softmax, which
are float32 always. Initialisers are those of PyTorch's layers, which open_clip leaves in place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.xla_metadata import set_xla_metadata
from jax.nn.initializers import Initializer, ones, variance_scaling, zeros

from clipjax.errors import UsageError
from clipjax.models.cut import whole
from clipjax.models.training import INFERENCE, current
from clipjax.platforms import by_platform

Padding = Literal["symmetric", "tf_same", "none"]

# U(-1/sqrt(fan_in), 1/sqrt(fan_in)): the default of torch.nn.Linear and Conv2d, for weights.
torch_uniform: Initializer = variance_scaling(1 / 3, "fan_in", "uniform")


def uniform(bound: float) -> Initializer:
    """U(-bound, bound). With bound 1/sqrt(fan_in) the default of torch.nn.Linear for biases."""
    return lambda key, shape, dtype=jnp.float32, out_sharding=None: jax.random.uniform(
        key, shape, dtype, -bound, bound
    )


# -------------------------------------------------------------------------------------- activations


def gelu(x: Array) -> Array:
    """x * Phi(x), with erf as PyTorch has it: JAX's own gelu goes through the slower erfc."""
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
}

# What the config of a transformer may name.
Activation = Literal["gelu", "gelu_tanh", "quick_gelu"]


# ------------------------------------------------------------------------------------------- dense


class Linear(nnx.Module):
    """x @ kernel [in, out] + bias [out]; without `use_bias` there is no bias param."""

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

    def __call__(self, x: Array) -> Array:
        y = x @ self.kernel[...]
        return y if self.bias is None else y + self.bias[...]


class LayerNorm(nnx.Module):
    """Normalises the last axis in float32, whatever the dtype of `x`, and returns that dtype."""

    def __init__(self, dim: int, *, eps: float):
        self.scale = nnx.Param(jnp.ones((dim,)))
        self.bias = nnx.Param(jnp.zeros((dim,)))
        self.eps = eps

    def __call__(self, x: Array) -> Array:
        wide = x.astype(jnp.float32)
        centred = wide - wide.mean(axis=-1, keepdims=True)
        variance = jnp.square(centred).mean(axis=-1, keepdims=True)
        y = centred * jax.lax.rsqrt(variance + self.eps)
        return (y * self.scale[...].astype(jnp.float32) + self.bias[...].astype(jnp.float32)).astype(x.dtype)


# ------------------------------------------------------------------------------------- transformer


def attend(q: Array, k: Array, v: Array, visible: Array | None = None, *, heads: int) -> Array:
    """Multi-head attention of q [B, M, D] over k, v [B, N, D], without the projections -> [B, M, D].

    visible: bool, broadcast to [B, heads, M, N]: which keys a query sees; None is all of them.
    """
    q, k, v = (split_heads(x, heads) for x in (q, k, v))
    return attend_heads(q, k, v, visible)


def split_heads(x: Array, heads: int) -> Array:
    """[B, N, D] -> [B, heads, N, D / heads]."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)


def attend_heads(q: Array, k: Array, v: Array, visible: Array | None = None) -> Array:
    """`attend` for q, k, v already cut into heads, [B, heads, N, D / heads] -> [B, M, D].

    On a CPU long sequences go a few heads at a time, so that their scores stay in the cache.
    """

    def chunked(q: Array, k: Array, v: Array) -> Array:
        flat = [x.reshape(-1, *x.shape[2:]) for x in (q, k, v)]
        mixed = jax.lax.map(lambda head: _mix(*head), tuple(flat), batch_size=_CHUNK_HEADS)
        return mixed.reshape(q.shape)

    if visible is None and q.shape[2] * k.shape[2] >= _LONG:
        mixed = by_platform(q, k, v, cpu=chunked, default=_mix)
    else:
        mixed = _mix(q, k, v, visible)
    mixed = mixed.transpose(0, 2, 1, 3)
    return mixed.reshape(*mixed.shape[:2], -1)


# For a transformer on a CPU: XLA's matrix products are faster where no elementwise work is fused into them
# (8 to 12 %, benchmarks/towers.py); a convolutional net is slower so.
CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}

_LONG = 2**17  # scores of a head: half a million bytes; a core's cache holds a few of them
_CHUNK_HEADS = 4


def _mix(q: Array, k: Array, v: Array, visible: Array | None = None) -> Array:
    """softmax(q k^T / sqrt(d)) v over the last two axes; the softmax in float32.

    Its sum divides the result, [M, D], and not the scores, [M, N]: one pass less over the largest array.
    """
    scores = jnp.matmul(q * q.shape[-1] ** -0.5, k.swapaxes(-1, -2), preferred_element_type=jnp.float32)
    if visible is not None:
        scores = jnp.where(visible, scores, -jnp.inf)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    mixed = jnp.matmul(weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return (mixed / weights.sum(axis=-1, keepdims=True)).astype(v.dtype)


def causal(length: int) -> Array:
    """[L, L] bool: a token sees itself and those before it."""
    return jnp.tri(length, dtype=bool)


class Attention(nnx.Module):
    """Multi-head self-attention; q, k, v and out are separate `Linear`s."""

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
        self.heads = heads

    def __call__(self, x: Array, visible: Array | None = None) -> Array:
        return self.out(attend(self.q(x), self.k(x), self.v(x), visible, heads=self.heads))


class Mlp(nnx.Module):
    """c_fc, activation, c_proj."""

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
        self.activation = activation

    def __call__(self, x: Array) -> Array:
        return self.c_proj(ACTIVATIONS[self.activation](self.c_fc(x)))


class LayerScale(nnx.Module):
    """A learned factor a channel [dim], on what a residual branch adds (Touvron et al. 2021, section 2)."""

    def __init__(self, dim: int, *, init: float):
        self.scale = nnx.Param(jnp.full((dim,), init))

    def __call__(self, x: Array) -> Array:
        return x * self.scale[...]


class Block(nnx.Module):
    """Pre-norm residual block: x + ls_1(attn(ln_1(x))), then x + ls_2(mlp(ln_2(x))).

    layer_scale: the initial value of ls_1 and ls_2; None: there are none.
    """

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

    def __call__(self, x: Array, visible: Array | None = None) -> Array:
        attended = self.attn(self.ln_1(x), visible)
        x = x + (attended if self.ls_1 is None else self.ls_1(attended))
        mixed = self.mlp(self.ln_2(x))
        return x + (mixed if self.ls_2 is None else self.ls_2(mixed))


M = TypeVar("M", bound=nnx.Module)


def stack(make: Callable[[nnx.Rngs], M], depth: int, rngs: nnx.Rngs) -> M:
    """`depth` modules as one: every param has a leading axis of that length."""

    @nnx.split_rngs(splits=depth)
    @nnx.vmap(in_axes=(0,), out_axes=0)
    def build(rngs: nnx.Rngs) -> M:
        return make(rngs)

    return build(rngs)


def scan(blocks: Any, x: Array, *shared: Any, capture: bool) -> tuple[Array, Array | None]:
    """Applies stacked modules one after the other; compiles in the same time for any depth.

    shared: what every module is given beside its input (a mask, rotary tables).

    Returns:
        the last output and, if `capture`, every module's output on a new leading axis.
    """

    def step(x: Array, block: Any) -> tuple[Array, Any]:
        x, found = _called(whole(block), x, *shared, loop=True)
        return x, (x if capture else None, found)

    x, (outputs, found) = jax.lax.scan(step, x, blocks)
    nnx.update(blocks, found)
    return x, outputs


def apply(block: Any, x: Array, *shared: Any) -> Array:
    """block(x, *shared) as `scan` would call it: for a block that stands alone."""
    x, found = _called(block, x, *shared, loop=False)
    nnx.update(block, found)
    return x


def _called(block: Any, x: Array, *shared: Any, loop: bool) -> tuple[Array, Any]:
    """A block's output and the statistics that it left in its variables (see `BatchNorm`).

    These are a result because scan and checkpoint work on a copy of the module: what is written into that is
    lost.
    """

    def pure(block: Any, x: Array, *shared: Any) -> tuple[Array, Any]:
        x = block(x, *shared)
        return x, {} if current().batch_norm == "frozen" else statistics(block)

    training = current()
    if training is not INFERENCE and (training.remat or not statistics(block)):
        policy = None if training.remat else _PRODUCTS
        # A loop's two passes cannot be merged anyway.
        pure = jax.checkpoint(pure, prevent_cse=not loop, policy=policy)
    return pure(block, x, *shared)


# What the backward pass of a block without BatchNorm finds again: matrix products and convolutions. What is
# elementwise is computed anew, which costs less than to write and read it, and leaves 40 % of a transformer's
# activations in memory. BatchNorm's passes over whole maps cost more than they save.
_PRODUCT = "product"
_PRODUCTS = jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_saveable, jax.checkpoint_policies.save_only_these_names(_PRODUCT)
)


def scan_at(blocks: Any, x: Array, *shared: Any, at: Sequence[int]) -> list[Array]:
    """The outputs of the stacked modules `at` (ascending); the others' are not kept, later ones not run."""
    outputs, start = [], 0
    for index in at:
        some = jax.tree.map(lambda param, first=start, last=index: param[first : last + 1], blocks)
        x, _ = scan(some, x, *shared, capture=False)
        outputs.append(x)
        start = index + 1
    return outputs


def maps_at(stages: Sequence[Any], x: Array, at: Sequence[int]) -> list[Array]:
    """`scan_at` for stages of a convolutional net, each called as (x, capture) -> (x, outputs).

    stages: up to the last one asked for.
    """
    maps = []
    for stage in stages:
        x, _ = stage(x, False)
        maps.append(x)
    return [maps[i] for i in at]


# ------------------------------------------------------------------------------------ convolutions


def pads(size: int, kernel: int, stride: int, padding: Padding) -> tuple[int, int]:
    """Zeros before and after an axis of `size`.

    "symmetric" is PyTorch's (kernel - 1) // 2 on both sides; "tf_same" is TensorFlow's SAME, where an odd
    zero goes to the end; "none" is none.
    """
    if padding == "none":
        return 0, 0
    if padding == "symmetric":
        return (kernel - 1) // 2, (kernel - 1) // 2
    total = max((-(size // -stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def conv2d(x: Array, kernel: Array, *, stride: int, padding: Padding) -> Array:
    """Convolution of x [B, H, W, C] with kernel [k, k, C / groups, O]; groups is 1 or C (depthwise).

    Windows that neither overlap nor reach into the padding (1x1, patches) are a matrix product. XLA's CPU
    convolution is slow where the work is elementwise (depthwise: 5 to 90 times slower than torch): there it
    is written out; other platforms get the plain convolution.
    """
    height, width = (pads(size, kernel.shape[0], stride, padding) for size in x.shape[1:3])
    depthwise = kernel.shape[2] == 1 and x.shape[-1] > 1

    def plain(x: Array, kernel: Array) -> Array:
        return _convolve(x, kernel, height, width, stride=stride, groups=x.shape[-1] if depthwise else 1)

    def shifted(x: Array, kernel: Array) -> Array:
        x = jnp.pad(x, ((0, 0), height, width, (0, 0)))
        rows, cols = ((x.shape[axis] - kernel.shape[0]) // stride + 1 for axis in (1, 2))
        terms = [
            x[:, i : i + (rows - 1) * stride + 1 : stride, j : j + (cols - 1) * stride + 1 : stride]
            * kernel[i, j, 0]
            for i in range(kernel.shape[0])
            for j in range(kernel.shape[1])
        ]
        return sum(terms[1:], terms[0])

    if depthwise:
        return checkpoint_name(by_platform(x, kernel, cpu=outlined(shifted), default=plain), _PRODUCT)
    if kernel.shape[0] == stride and (*height, *width) == (0, 0, 0, 0):
        return patches(x, stride) @ kernel.reshape(-1, kernel.shape[-1])
    if stride == 1:
        return by_platform(x, kernel, cpu=_canonical(plain, height, width), default=plain)
    return plain(x, kernel)


def _convolve(
    x: Array,
    kernel: Array,
    height: tuple[int, int],
    width: tuple[int, int],
    *,
    stride: int = 1,
    groups: int = 1,
) -> Array:
    """XLA's convolution, with zeros around the height and the width."""
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), (height, width), dimension_numbers=layout, feature_group_count=groups
    )


def _canonical(
    plain: Callable[..., Array], height: tuple[int, int], width: tuple[int, int]
) -> Callable[..., Array]:
    """A convolution of stride 1 with the same gradients, each as a convolution of the plain layout.

    XLA's CPU compiler has a fast convolution for that layout only. It brings others into it, but not inside
    of a loop, and there (the scanned blocks) the derivatives would be 20 times slower than torch's.
    """

    def backward(kept: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
        x, kernel = kept
        rows, cols = (
            (size - 1 - before, size - 1 - after)
            for size, (before, after) in zip(kernel.shape, (height, width))
        )
        dx = _convolve(dy, kernel[::-1, ::-1].swapaxes(2, 3), rows, cols)
        # Over the pixels of all images: channels are the batch and images the channels.
        dk = _convolve(x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3), height, width)
        return dx, dk.transpose(1, 2, 0, 3)

    call = jax.custom_vjp(plain)
    call.defvjp(lambda x, kernel: (plain(x, kernel), (x, kernel)), backward)
    return call


def patches(x: Array, size: int) -> Array:
    """The whole patches of a map side by side: [B, H, W, C] -> [B, H // size, W // size, size * size * C]."""
    rows, cols = x.shape[1] // size, x.shape[2] // size
    x = x[:, : rows * size, : cols * size].reshape(x.shape[0], rows, size, cols, size, x.shape[3])
    return x.swapaxes(2, 3).reshape(x.shape[0], rows, cols, -1)


def outlined(f: Callable[..., Array]) -> Callable[..., Array]:
    """`f` as a function of its own in the compiled program, computed once.

    XLA's CPU compiler fuses cheap arithmetic into whatever reads it, once a reader: the 49 products of a 7x7
    depthwise convolution would be done three times over by the LayerNorm behind it.
    """

    def call(*args: Array) -> Array:
        with set_xla_metadata(inlineable="false"):
            return jax.jit(f)(*args)

    return call


class Conv(nnx.Module):
    """Square convolution: kernel [k, k, in, out], or [k, k, 1, dim] when depthwise; perhaps a bias [out]."""

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        kernel: int,
        rngs: nnx.Rngs,
        stride: int = 1,
        padding: Padding = "symmetric",
        depthwise: bool = False,
        use_bias: bool = False,
        kernel_init: Initializer = torch_uniform,
    ):
        shape = (kernel, kernel, 1 if depthwise else in_dim, out_dim)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, jnp.float32))
        self.bias = nnx.Param(jnp.zeros((out_dim,))) if use_bias else None
        self.stride = stride
        self.padding: Padding = padding

    def __call__(self, x: Array) -> Array:
        y = conv2d(x, self.kernel[...], stride=self.stride, padding=self.padding)
        return y if self.bias is None else y + self.bias[...]


class Statistic(nnx.Param):
    """A running statistic of BatchNorm, [dim]: a forward pass in training moves it, no gradient does."""


def statistics(module: Any) -> Any:
    """The values of a module's `Statistic`s, in a nested dict like that of its params."""
    return nnx.to_pure_dict(nnx.state(module, Statistic))


def running(before: Array, of_batch: Array) -> Array:
    """A running statistic after a batch, as torch.nn.BatchNorm2d: the sources leave its momentum at 0.1."""
    return 0.9 * before + 0.1 * of_batch


class BatchNorm(nnx.Module):
    """(x - mean) / sqrt(var + eps) * scale + bias over the last axis, with all four of shape [dim] as params.

    In training, unless "frozen", mean and (biased) variance are those of `x`, in float32, and the mean and
    unbiased variance of the batch (of its first part where there are several) are left in the variables.
    """

    def __init__(self, dim: int, *, eps: float, scale_init: Initializer = ones):
        self.scale = nnx.Param(scale_init(jax.random.key(0), (dim,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((dim,)))
        self.mean = Statistic(jnp.zeros((dim,)))
        self.var = Statistic(jnp.ones((dim,)))
        self.eps = eps

    def __call__(self, x: Array) -> Array:
        mode = current()
        if mode.batch_norm != "frozen":
            return self._of_batch(x, mode.devices if mode.batch_norm == "per_device" else 1)
        # The four vectors are folded in float32 first: one multiply-add a pixel.
        scale, bias, mean, var = (
            p[...].astype(jnp.float32) for p in (self.scale, self.bias, self.mean, self.var)
        )
        gain = scale * jax.lax.rsqrt(var + self.eps)
        return x * gain.astype(x.dtype) + (bias - mean * gain).astype(x.dtype)

    def _of_batch(self, x: Array, parts: int) -> Array:
        """Normalised by the statistics of each of `parts` contiguous parts of the batch."""
        wide = x.reshape(parts, -1, *x.shape[1:]).astype(jnp.float32)
        axes = tuple(range(1, wide.ndim - 1))
        count = wide.size // (parts * wide.shape[-1])
        if count == 1:
            raise UsageError(
                "BatchNorm has one value a channel, and no variance: give each device more images, or larger "
                'ones, or train with batch_norm = "frozen"'
            )
        mean = wide.mean(axes, keepdims=True)
        # The mean has no part in the gradient of the variance: differences from it add up to zero.
        var = jnp.square(wide - jax.lax.stop_gradient(mean)).mean(axes, keepdims=True)
        for kept, found in ((self.mean, mean), (self.var, var * (count / (count - 1)))):
            kept.set_value(jax.lax.stop_gradient(found[0].reshape(-1)))
        scale, bias = (p[...].astype(jnp.float32) for p in (self.scale, self.bias))
        y = (wide - mean) * (scale * jax.lax.rsqrt(var + self.eps)) + bias
        return y.reshape(x.shape).astype(x.dtype)


def average_pool(x: Array, window: int) -> Array:
    """Mean over windows of `window` x `window` that do not overlap: [B, H, W, C] -> [B, H / w, W / w, C]."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // window, window, width // window, window, channels)
    return x.mean(axis=(2, 4))
