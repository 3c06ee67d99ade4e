"""Convolutions, padding, patches and BatchNorm of maps [B, H, W, C]; `layers.py` has the rules."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.xla_metadata import set_xla_metadata
from jax.nn.initializers import Initializer
from jaxtyping import Float

from clipjax.errors import UsageError
from clipjax.models.modules.binding import Layer
from clipjax.models.modules.forms import form, in_form
from clipjax.models.modules.frequencies import by_frequencies, pays
from clipjax.models.modules.initializers import full
from clipjax.models.modules.layers import torch_uniform
from clipjax.models.training import PRODUCT, Mode, Statistic

Padding = Literal["symmetric", "tf_same", "none"]


def pads(size: int, kernel: int, stride: int, padding: Padding) -> tuple[int, int]:
    """Zeros before and after an axis of `size`.

    "symmetric" is PyTorch's (kernel - 1) // 2 on both sides; "tf_same" is TensorFlow's SAME, with an odd zero
    at the end. Size 4, kernel 3, stride 2: (1, 1), (0, 1) and for "none" (0, 0).
    """
    if padding == "none":
        return 0, 0
    if padding == "symmetric":
        return (kernel - 1) // 2, (kernel - 1) // 2
    total = max((-(size // -stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def conv2d(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "k k C_of_group O"],
    *,
    stride: int,
    padding: Padding,
    mode: Mode,
) -> Float[Array, "B h w O"]:
    """Convolution in C // C_of_group groups of channels.

    Windows without overlap and padding (1x1, patches) become a matrix product. On a CPU:
        depthwise: a sum of shifted maps; XLA's own is 5 to 90 times slower than torch's.
        groups: each alone, small ones a few together (`_merged`), 2 to 9 times faster.
        1x1 and patches, in training: the kernel's gradient as one product of matrices, up to 3 times faster.
        depthwise, in training: the kernel's gradient pixel by pixel, 3 to 6 times faster (`_depthwise`).
    """
    height, width = (pads(size, kernel.shape[0], stride, padding) for size in x.shape[1:3])
    groups = x.shape[-1] // kernel.shape[2]
    depthwise = kernel.shape[2] == 1 and x.shape[-1] > 1

    plain, dense = (_plain(height, width, stride, of) for of in (groups, 1))
    if depthwise:
        ways = _of_channels(x, kernel, height, width, stride, padding)
        return checkpoint_name(
            in_form("depthwise", {"general": plain, **ways}, x, kernel, mode=mode), PRODUCT
        )
    if groups > 1:
        together = _canonical(dense, height, width) if stride == 1 else dense
        ways = {"merged": partial(_merged, together), "general": plain}
        return in_form("grouped", ways, x, kernel, mode=mode)
    if kernel.shape[0] == stride and (*height, *width) == (0, 0, 0, 0):
        x, kernel = patches(x, stride), kernel.reshape(-1, kernel.shape[-1])
        return in_form("pixelwise", _pixelwise(jnp.matmul, 1), x, kernel, mode=mode)
    if stride == 1:
        ways = {"plain_gradients": _canonical(plain, height, width), "general": plain}
        return in_form("convolution", ways, x, kernel, mode=mode)
    if kernel.shape[0] == 1:
        return in_form("pixelwise", _pixelwise(plain, stride), x, kernel, mode=mode)
    return in_form("convolution", {"general": plain}, x, kernel, mode=mode)


def _of_channels(
    x: Array, kernel: Array, height: tuple[int, int], width: tuple[int, int], stride: int, padding: Padding
) -> dict[str, Callable[..., Array]]:
    """The forms of a depthwise convolution that its shapes allow, beside the general one."""
    shifted = outlined(partial(_shifted, height=height, width=width, stride=stride))
    ways: dict[str, Callable[..., Array]] = {"shifted": shifted}
    if stride == 1:
        ways["gradient_by_pixels"] = _depthwise(shifted, height, width)
    if stride == 1 and padding != "none" and pays(x, len(kernel)):
        ways["frequencies"] = by_frequencies
    return ways


def _plain(height: tuple[int, int], width: tuple[int, int], stride: int, groups: int) -> Callable[..., Array]:
    """A convolution as XLA's own."""

    def convolve(x: Array, kernel: Array) -> Array:
        return _convolve(x, kernel, height, width, stride=stride, groups=groups)

    return convolve


def _convolve(
    x: Array,
    kernel: Array,
    height: tuple[int, int],
    width: tuple[int, int],
    *,
    stride: int = 1,
    groups: int = 1,
) -> Array:
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), (height, width), dimension_numbers=layout, feature_group_count=groups
    )


def _shifted(
    x: Array, kernel: Array, *, height: tuple[int, int], width: tuple[int, int], stride: int = 1
) -> Array:
    """A depthwise convolution as a sum of shifted maps, in stride 1 above 3x3 a call for each row.

    In one loop over its 49 terms a 7x7 takes up to 6 times longer.
    """
    size = len(kernel)
    by_row = size > 3 and stride == 1
    x = jnp.pad(x, ((0, 0), height, width, (0, 0)))
    rows, cols = ((x.shape[axis] - size) // stride + 1 for axis in (1, 2))

    # Output (r, c) is the sum over i, j of x[r * stride + i, c * stride + j] * kernel[i, j].
    down, right = (rows - 1) * stride + 1, (cols - 1) * stride + 1

    def add(i: int, x: Array, kernel: Array, *total: Array) -> Array:
        terms = (x[:, i : i + down : stride, j : j + right : stride] * kernel[i, j, 0] for j in range(size))
        return functools.reduce(operator.add, (*total, *terms))

    total: list[Array] = []
    for i in range(size):
        row = partial(add, i)
        total = [(outlined(row) if by_row else row)(x, kernel, *total)]
    return total[0]


def _depthwise(
    shifted: Callable[..., Array], height: tuple[int, int], width: tuple[int, int]
) -> Callable[..., Array]:
    """A depthwise convolution of stride 1 with gradients for a CPU.

    The input's gradient is a convolution with the turned kernel, the kernel's is a loop over its pixels.
    JAX's own gradients are fused sums, 3 to 6 times slower.

    Args:
        shifted: the convolution itself, of an input and a kernel [size, size, 1, C].
        height: rows of zeros above and below the input.
        width: columns of zeros to its left and right.
    """

    def backward(kept: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
        x, kernel, dy = (each.astype(jnp.float32) for each in (*kept, dy))
        size = len(kernel)
        rows, cols = ((size - 1 - before, size - 1 - after) for before, after in (height, width))
        dx = outlined(partial(_shifted, height=rows, width=cols))(dy, kernel[::-1, ::-1])
        padded = jnp.pad(x, ((0, 0), height, width, (0, 0)))

        def of_pixel(index: Array) -> Array:
            """The gradient of one pixel of the kernel for each image, [B, C].

            The sum over images comes after the loop: they may be on several devices, which add up once.
            """
            i, j = index // size, index % size
            return (jax.lax.dynamic_slice(padded, (0, i, j, 0), dy.shape) * dy).sum((1, 2))

        each = jax.lax.map(of_pixel, jnp.arange(size * size, dtype=jnp.int32))
        dk = each.sum(1).reshape(kernel.shape)
        return dx.astype(kept[0].dtype), dk.astype(kept[1].dtype)

    call = jax.custom_vjp(shifted)
    call.defvjp(lambda x, kernel: (shifted(x, kernel), (x, kernel)), backward)
    return call


_MERGED = 16  # inputs of a merged convolution: fewer are as slow, more multiply more zeros


def _merged(dense: Callable[..., Array], x: Array, kernel: Array) -> Array:
    """A grouped convolution as `dense` ones, small groups together with zeros between them.

    XLA's own is slower: benchmarks/models/grouped_convolutions.py.
    """
    side, width = kernel.shape[0], kernel.shape[2]
    groups = x.shape[-1] // width
    together = max(1, _MERGED // width)
    parts = []
    for start in range(0, groups, together):
        count = min(together, groups - start)
        mine = kernel.reshape(side, side, 1, width, groups, -1)[..., start : start + count, :]
        # [k, k, group, width, group, O / groups], zero where the two groups differ.
        block = jnp.where(jnp.eye(count, dtype=bool)[:, None, :, None], mine, 0)
        block = block.reshape(side, side, count * width, -1)
        parts.append(dense(x[..., start * width : (start + count) * width], block))
    return jnp.concatenate(parts, axis=-1)


def _canonical(
    plain: Callable[..., Array], height: tuple[int, int], width: tuple[int, int]
) -> Callable[..., Array]:
    """A convolution of stride 1 and one group whose gradients are convolutions in the plain layout.

    XLA's CPU compiler converts no other layout inside a loop: in scanned blocks derivatives would be 20 times
    slower than torch's.
    """

    def backward(kept: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
        x, kernel = kept
        rows, cols = (
            (size - 1 - before, size - 1 - after)
            for size, (before, after) in zip(kernel.shape, (height, width))
        )
        # dy convolved with the flipped kernel, its inputs and outputs exchanged.
        dx = _convolve(dy, kernel[::-1, ::-1].swapaxes(2, 3), rows, cols)
        # The sum is over the pixels of all images, so channels act as the batch and images as channels.
        dk = _convolve(x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3), height, width)
        return dx, dk.transpose(1, 2, 0, 3)

    call = jax.custom_vjp(plain)
    call.defvjp(lambda x, kernel: (plain(x, kernel), (x, kernel)), backward)
    return call


def _pixelwise(plain: Callable[..., Array], stride: int) -> dict[str, Callable[..., Array]]:
    """The forms of a convolution of single pixels: `plain`, and it with a CPU's gradient by the kernel.

    XLA's CPU compiler sums over the three axes of pixels after a transposition, and one by one with a stride
    (benchmarks/training/resnet_step.py).
    """

    def backward(kept: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
        x, kernel = kept
        (dx,) = jax.vjp(lambda x: plain(x, kernel), x)[1](dy)
        pixels, outputs = (y.reshape(-1, y.shape[-1]) for y in (x[:, ::stride, ::stride], dy))
        return dx, (pixels.T @ outputs).reshape(kernel.shape)

    call = jax.custom_vjp(plain)
    call.defvjp(lambda x, kernel: (plain(x, kernel), (x, kernel)), backward)
    return {"gradient_by_rows": call, "general": plain}


def patches(x: Float[Array, "B H W C"], size: int) -> Float[Array, "B h w {size}*{size}*C"]:
    """The whole patches side by side: h is H // size, w is W // size."""
    rows, cols = x.shape[1] // size, x.shape[2] // size
    x = x[:, : rows * size, : cols * size].reshape(x.shape[0], rows, size, cols, size, x.shape[3])
    return x.swapaxes(2, 3).reshape(x.shape[0], rows, cols, -1)


def outlined(f: Callable[..., Array]) -> Callable[..., Array]:
    """`f` as a separate function in the compiled program, computed once.

    XLA's CPU compiler fuses cheap arithmetic into each reader: LayerNorm would compute the 49 products of a
    7x7 depthwise convolution three times.
    """

    def call(*args: Array) -> Array:
        with set_xla_metadata(inlineable="false"):
            return jax.jit(f)(*args)

    return call


class Conv(Layer):
    """Square convolution: kernel [k, k, in / groups, out], optional bias [out]."""

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        kernel: int,
        rngs: nnx.Rngs,
        stride: int = 1,
        padding: Padding = "symmetric",
        groups: int = 1,
        use_bias: bool = False,
        kernel_init: Initializer = torch_uniform,
    ):
        shape = (kernel, kernel, in_dim // groups, out_dim)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, jnp.float32))
        self.bias = nnx.Param(full((out_dim,), 0.0)) if use_bias else None
        self.stride = stride
        self.padding: Padding = padding

    def __call__(self, x: Float[Array, "B H W I"]) -> Float[Array, "B h w O"]:
        return self.convolve(x, self.kernel[...])

    def by_frequencies(self, x: Array) -> bool:
        """Whether the layer takes that form of maps like `x`."""
        size, _, ins, outs = self.kernel.shape[-4:]  # of stacked blocks, too
        shapes = ins == 1 < outs and self.stride == 1 and self.padding != "none" and pays(x, size)
        return shapes and form("depthwise", self.mode, x.dtype) == "frequencies"

    def convolve(self, x: Float[Array, "B H W I"], kernel: Any) -> Float[Array, "B h w O"]:
        y = conv2d(x, kernel, stride=self.stride, padding=self.padding, mode=self.mode)
        return y if self.bias is None else y + self.bias[...]


class BatchNorm(Layer):
    """(x - mean) / sqrt(var + eps) * scale + bias over the last axis; all four are params [dim].

    In training, unless "frozen", it uses the float32 mean and (biased) variance of `x`. It stores the mean
    and unbiased variance of the batch, or of its first part.
    """

    def __init__(self, dim: int, *, eps: float, scale: float = 1.0):
        self.scale = nnx.Param(full((dim,), scale))
        self.bias = nnx.Param(full((dim,), 0.0))
        self.mean = Statistic(full((dim,), 0.0))
        self.var = Statistic(full((dim,), 1.0))
        self.eps = eps

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        training = self.mode.training
        if training is not None and training.batch_norm != "frozen":
            parts = training.devices if training.batch_norm == "per_device" else 1
            kept = form("batch_norm", self.mode, x.dtype) == "input_kept"
            return self._of_batch(x, parts, _cpu_normalised if kept else _normalised)
        # Fold the four vectors in float32 first: one multiply-add per pixel.
        scale, bias, mean, var = (
            p[...].astype(jnp.float32) for p in (self.scale, self.bias, self.mean, self.var)
        )
        gain = scale * jax.lax.rsqrt(var + self.eps)
        return x * gain.astype(x.dtype) + (bias - mean * gain).astype(x.dtype)

    def _of_batch(self, x: Array, parts: int, normalised: Callable[..., tuple[Array, Array, Array]]) -> Array:
        """Normalises each contiguous part of the batch separately."""
        wide = x.reshape(parts, -1, *x.shape[1:]).astype(jnp.float32)
        count = wide.size // (parts * wide.shape[-1])
        if count == 1:
            raise UsageError(
                "BatchNorm has one value per channel, and no variance: give each device more images, or "
                'larger ones, or train with batch_norm = "frozen"'
            )
        scale, bias = (p[...].astype(jnp.float32) for p in (self.scale, self.bias))
        y, mean, var = normalised(wide, scale, bias, self.eps)
        for kept, value in ((self.mean, mean), (self.var, var * (count / (count - 1)))):
            kept.set_value(jax.lax.stop_gradient(value[0].reshape(-1)))
        return y.reshape(x.shape).astype(x.dtype)


def _normalised(
    x: Float[Array, "P b H W C"], scale: Float[Array, " C"], bias: Float[Array, " C"], eps: float
) -> tuple[Array, Array, Array]:
    """BatchNorm of each of P parts; also their means and (biased) variances, [P, 1, 1, 1, C]."""
    axes = tuple(range(1, x.ndim - 1))
    mean = x.mean(axes, keepdims=True)
    # No gradient flows through the mean: differences from it add up to zero.
    var = jnp.square(x - jax.lax.stop_gradient(mean)).mean(axes, keepdims=True)
    return (x - mean) * (scale * jax.lax.rsqrt(var + eps)) + bias, mean, var


def _normalised_kept(x: Array, scale: Array, bias: Array, eps: float) -> tuple[Any, Any]:
    y, mean, var = _normalised(x, scale, bias, eps)
    return (y, mean, var), (x, scale, mean, jax.lax.rsqrt(var + eps))


def _normalised_gradients(eps: float, kept: tuple[Array, ...], changes: Any) -> tuple[Array, Array, Array]:
    """Gradients in two passes over the maps; the statistics get none."""
    # Ioffe & Szegedy (2015), section 3: with x' = (x - mean) * inverse, the normalised map, and means over a
    # channel's pixels, dx = scale * inverse * (dy - mean(dy) - x' * mean(dy * x')).
    (x, scale, mean, inverse), (dy, _, _) = kept, changes
    axes = tuple(range(1, x.ndim - 1))
    count = x.size // mean.size
    total = dy.sum(axes, keepdims=True)
    slope = (dy * (x - mean)).sum(axes, keepdims=True)
    per_pixel = total / count + (x - mean) * (jnp.square(inverse) * slope / count)
    dx = (dy - per_pixel) * (scale * inverse)
    return dx, (slope * inverse).reshape(-1, x.shape[-1]).sum(0), total.reshape(-1, x.shape[-1]).sum(0)


# JAX's own gradient keeps three maps a layer: this one keeps the input.
_cpu_normalised = jax.custom_vjp(_normalised, nondiff_argnums=(3,))
_cpu_normalised.defvjp(_normalised_kept, _normalised_gradients)
