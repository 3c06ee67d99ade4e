"""The input of a decoder: the projected patches of an image among the embedded ids.

    tokens = image_tokens(network, params, images, "parity")              # [B, P, D]
    embedded = assemble(decoder, params["decoder"], ids, image_at, tokens)  # [B, L + P, D]

Sources: Karamcheti et al. 2024 (arXiv 2402.07865) and its code, TRI-ML/prismatic-vlms at 874c5bb;
transformers' `LlavaForConditionalGeneration`.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float, Float32, Int, Int32

from clipjax.models.arch import Arch, family_of
from clipjax.models.input_checks import check_images
from clipjax.models.language.config import LanguageConfig
from clipjax.models.language.decoder import Decoder
from clipjax.models.language.projector import Projector
from clipjax.models.modules.binding import inference_mode
from clipjax.models.network import Network
from clipjax.models.param_tree import Params, abstract_tree, bound_graph, check_tree
from clipjax.models.precision import DTYPE, MATMUL, Precision


def language_of(arch: Arch) -> LanguageConfig:
    """Raises TypeError for another kind of architecture."""
    if arch.language is None:
        raise TypeError(f"{arch.name} has no language model")
    return arch.language


def image_positions(arch: Arch) -> int:
    """The number of the decoder's positions that an image takes: one a patch."""
    family, config = family_of(arch.vision), arch.vision
    assert family.patch is not None
    return (config.image_size // family.patch(config)) ** 2


def image_tokens(
    network: Network, params: Params, images: Array, precision: Precision, platform: str | None = None
) -> Float32[Array, "B P D"]:
    """images [B, S, S, 3] float32, normalised -> the projected patches, row by row.

    The class token is left out, and no norm comes between the block and the projector.

    Raises:
        DataError: params or images that do not fit.
    """
    language = language_of(network.arch)
    check_images(network.arch, images)
    [patches] = network.encode_dense(
        params, images, layers=(language.layer,), precision=precision, platform=platform
    )
    flat = patches.reshape(len(patches), -1, patches.shape[-1]).astype(DTYPE[precision])
    _, abstract = abstract_tree(network.arch, "projector")
    check_tree(params.get("projector", {}), abstract, f"{network.arch.name}: params/projector")
    cast = functools.partial(jnp.asarray, dtype=DTYPE[precision])
    projector = projector_of(network.arch, jax.tree.map(cast, params["projector"]))
    with jax.default_matmul_precision(MATMUL[precision]):
        return projector(flat).astype(jnp.float32)


def projector_of(arch: Arch, params: Params) -> Projector:
    """The layers with these params. They are few, so no platform has forms of its own for them."""
    return nnx.merge(bound_graph(arch, "projector", inference_mode(None)), params)


def assemble(
    decoder: Decoder,
    params: Params,
    ids: Int32[Array, "B L"],
    image_at: Int[Array, " B"],
    tokens: Float[Array, "B P D"],
) -> Float[Array, "B L+P D"]:
    """Embedded ids with an image's tokens before the id at `image_at` (of the padded ids).

        ids [BOS, 5, 6], image_at 1: [BOS, token 0, ..., token P - 1, 5, 6]

    Args:
        params: the decoder's.
    """
    length, count = ids.shape[1], tokens.shape[1]
    embedded = decoder.embed(params, ids)
    both = jnp.concatenate([embedded, tokens.astype(embedded.dtype)], axis=1)
    place, start = jnp.arange(length + count), image_at[:, None]
    of_image = length + place - start
    rows = jnp.where(place < start, place, jnp.where(place < start + count, of_image, place - count))
    return jnp.take_along_axis(both, rows[:, :, None], axis=1)
