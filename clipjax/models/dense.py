"""Dense features of any image tower as one map, by the protocol of probe3d.

Source: El Banani et al. 2024 (arXiv 2404.08636) and its code, mbanani/probe3d at a1f1464. For architectures
that it has no wrapper for, the choice is ours: nets of stages other than ConvNeXt (CLIP's ModifiedResNet and
others) are read as ConvNeXt is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Float32

from clipjax.errors import DataError, UsageError
from clipjax.guards import known_name
from clipjax.models.arch import Arch, family_of
from clipjax.models.network import Network
from clipjax.models.param_tree import Params
from clipjax.models.precision import Precision
from clipjax.models.resample import GridRule
from clipjax.models.training import Attends

STAGE_PATCH = 16  # pixels of an image for each pixel of the map of a net of stages
_PARTS = 4  # layers of "multilayer"

Layers = Literal["last", "multilayer"]


@dataclass(frozen=True)
class DenseRecipe:
    """Options that decide a map beside the network and its params; they are part of a store key.

    Attributes:
        layers: "last", or "multilayer": the ends of a transformer's four quarters, or a net's last four
            stages, concatenated.
        attention: as in `Network.encode_dense`.
        positions: as in `Network.encode_dense`.

    Raises UsageError for another value.
    """

    layers: Layers
    attention: Attends
    positions: GridRule

    def __post_init__(self) -> None:
        for name, values in (("layers", Layers), ("attention", Attends), ("positions", GridRule)):
            value = getattr(self, name)
            known_name(name, value, get_args(values))


# Tokens attend to their own image; else as probe3d.
PROBE3D = DenseRecipe("last", "tokens", "probe3d")


def center_padding(images: Float[Array, "B H W 3"], patch: int) -> Float[Array, "B h w 3"]:
    """`images`, normalised, with zeros around them up to multiples of `patch`, as probe3d pads.

    Unchanged if both sides are multiples. Otherwise each side grows by patch - side % patch: a side that is
    already a multiple gets a whole patch more. If the number of zeros is odd, the bottom or right
    gets one more. For 30 x 28 pixels and patch 14: 6 and 6 rows, 7 and 7 columns.
    """
    sides = images.shape[1:3]
    if not any(side % patch for side in sides):
        return images
    pads = [patch - side % patch for side in sides]
    return jnp.pad(images, ((0, 0), *((pad // 2, pad - pad // 2) for pad in pads), (0, 0)))


def layers_of(arch: Arch, layers: Layers) -> tuple[int, ...]:
    """Indices of the layers, ascending.

    12 blocks: (2, 5, 8, 11) for "multilayer".

    Raises UsageError if the network has fewer than four layers.
    """
    family = family_of(arch.vision)
    assert family.depth is not None
    depth = family.depth(arch.vision)
    if layers == "last":
        return (depth - 1,)
    if depth < _PARTS:
        raise UsageError(
            f"{arch.name} has {depth} layers, and layers='multilayer' needs {_PARTS}: use 'last'"
        )
    if family.patch is None:
        return tuple(range(depth - _PARTS, depth))
    return depth // 4 - 1, depth // 2 - 1, 3 * (depth // 4) - 1, depth - 1


def dense_map(
    network: Network,
    params: Params,
    images: Array,
    recipe: DenseRecipe,
    precision: Precision,
    platform: str | None = None,
) -> Float32[Array, "B h w C"]:
    """images [B, H, W, 3] float32, normalised, of any shape -> one map of the padded images.

    h and w are the padded sides in patches, for nets of stages in units of 16 pixels: each stage is resized
    there bilinearly. Features are those of `Network.encode_dense`: no final norm, not of unit norm.

    With the attention "reference_batch" a map depends on all images of the call.

    Raises:
        DataError: params or images that do not fit, or an architecture bound to its size.
        UsageError: layers or attention that the architecture does not have.
    """
    if images.ndim != 4:
        raise DataError(f"{network.arch.name} takes images [B, H, W, 3], not {list(images.shape)}")
    family = family_of(network.arch.vision)
    patch = STAGE_PATCH if family.patch is None else family.patch(network.arch.vision)
    padded = center_padding(images, patch)
    maps = network.encode_dense(
        params,
        padded,
        layers=layers_of(network.arch, recipe.layers),
        precision=precision,
        attention=recipe.attention,
        positions=recipe.positions,
        platform=platform,
    )
    height, width = (side // patch for side in padded.shape[1:3])
    return jnp.concatenate([_bilinear(each, height, width) for each in maps], axis=-1)


def _bilinear(x: Float32[Array, "B H W C"], height: int, width: int) -> Float32[Array, "B h w C"]:
    """Like `torch.nn.functional.interpolate` with align_corners false, which does not antialias."""
    if x.shape[1:3] == (height, width):
        return x
    shape = (x.shape[0], height, width, x.shape[3])
    return jax.image.resize(x, shape, "linear", antialias=False, precision=jax.lax.Precision.HIGHEST)
