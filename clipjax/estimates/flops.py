"""A tower's floating-point operations, traced without weights or read from the record of traced ones."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr

from clipjax.analysis.cost.arch_costs import ArchCost, recorded
from clipjax.checkpoints.card import Card
from clipjax.data.pixels.normalize import normalize
from clipjax.devices.jaxprs import subprograms
from clipjax.entry_points import cached
from clipjax.errors import UsageError
from clipjax.models.arch import Arch, arch_to_dict, load_arch
from clipjax.models.network import Network
from clipjax.models.precision import Precision
from clipjax.models.resample import resized_arch
from clipjax.models.unit_norm import unit_norm
from clipjax.models.version import FORWARD_VERSION
from clipjax.storage.digests import sha256_json


@dataclass(frozen=True)
class AbstractForward:
    """One chip's computation, function(params, batch) -> features, with abstract params.

    Attributes:
        example: without the batch axis.
    """

    function: Callable[[Any, jax.Array], jax.Array]
    params: Any
    example: jax.ShapeDtypeStruct

    def batch(self, size: int, sharding: Any = None) -> jax.ShapeDtypeStruct:
        shape = (size, *self.example.shape)
        return jax.ShapeDtypeStruct(shape, self.example.dtype, sharding=sharding)


def forward_of(
    card: Card,
    tower: str,
    precision: Precision,
    platform: str | None = None,
    devices: int = 1,
    chip: str | None = None,
) -> AbstractForward:
    """A tower as embedding runs it: uint8 pixels or full-length token ids to features.

    platform: as in `Network.encode_image`, like what follows.
    """
    where: Any = {"precision": precision, "platform": platform, "devices": devices, "chip": chip}
    network = Network(card.arch)
    params = network.abstract_tower(tower, precision)
    if tower == "text":
        assert card.arch.text is not None
        ids = jax.ShapeDtypeStruct((card.arch.text.context_length,), jnp.int32)
        return AbstractForward(
            lambda params, ids: unit_norm(network.encode_text(params, ids, **where)), params, ids
        )
    mean, std, size = card.preprocess.mean, card.preprocess.std, card.arch.vision.image_size

    def encode(params: Any, pixels: jax.Array) -> jax.Array:
        features = network.encode_image(params, normalize(pixels, mean, std), **where)
        return features if card.arch.text is None else unit_norm(features)

    return AbstractForward(encode, params, jax.ShapeDtypeStruct((size, size, 3), jnp.uint8))


def tower_flops(card: Card) -> dict[str, int]:
    """Operations of each tower for one image, or one text of whole length."""
    entry = recorded().get(card.arch.name)
    if entry is not None and entry["arch"] == arch_digest(card.arch):
        return entry["towers"]
    return traced_flops(card.arch)


def traced_flops(arch: Arch) -> dict[str, int]:
    """Like `tower_flops`, traced anew in place of read from the record."""
    network, size = Network(arch), arch.vision.image_size
    inputs = {"vision": jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)}
    encode = {"vision": network.encode_image, "text": network.encode_text}
    if arch.text is not None:
        inputs["text"] = jax.ShapeDtypeStruct((1, arch.text.context_length), jnp.int32)
    params = network.abstract_params()
    towers = {}
    for tower, batch in inputs.items():
        program = jax.make_jaxpr(functools.partial(encode[tower], precision="parity"))(params, batch)
        towers[tower] = product_flops(program.jaxpr)
    return towers


@cached
def traced_cost(name: str, image_size: int | None = None) -> ArchCost | None:
    """The cost of an architecture of configs/archs or an added folder, without estimates of its rate.

    Args:
        image_size: of the images, in pixels; None: its own.

    Returns:
        None if the architecture takes no images of that size.
    """
    arch = load_arch(name)
    try:
        arch = arch if image_size is None else resized_arch(arch, image_size)
    except UsageError:
        return None
    operations = None if arch.language is not None else traced_flops(arch)["vision"]
    return ArchCost(name, arch.vision.image_size, operations, counted_params(arch), ())


def counted_params(arch: Arch) -> dict[str, int]:
    """The number of params by part: "vision", "text", "head", ..."""
    parts = Network(arch).abstract_params()
    return {part: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(parts[part])) for part in parts}


def arch_digest(arch: Arch) -> str:
    """SHA-256 of everything that the operations depend on."""
    return sha256_json([arch_to_dict(arch), FORWARD_VERSION])


def product_flops(jaxpr: Jaxpr) -> int:
    """Floating-point operations of a program's dots and convolutions, two per multiply-add.

    A scan's body counts as often as it runs (XLA's cost analysis counts it once). A `cond` counts as its
    costliest branch, a choice of platform as its default (other forms may multiply zeros). A convolution's
    padding counts.

    Raises:
        ValueError: a product inside a loop of unknown length.
    """
    return sum(_equation_flops(equation) for equation in jaxpr.eqns)


def _equation_flops(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval
        out_channels = kernel.shape[params["dimension_numbers"].rhs_spec[0]]
        return 2 * equation.outvars[0].aval.size * kernel.size // out_channels
    inner = [product_flops(jaxpr) for jaxpr in subprograms(params)]
    if name == "while" and any(inner):
        raise ValueError("products inside a loop of unknown length: their number cannot be counted")
    if name == "cond":  # the default comes last
        return inner[-1] if params.get("branches_platforms") else max(inner)
    return sum(inner) * (params["length"] if name == "scan" else 1)
