"""What an architecture's forward functions take: images, ids, vectors, layers; the rest is refused."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any, get_args

from jax import Array

from clipjax.errors import DataError, UsageError
from clipjax.guards import known_name
from clipjax.models.arch import Arch, family_of
from clipjax.models.resample import resized_vision
from clipjax.models.training import Attends

_SMALLEST = 32  # pixels: the stride of the last stage of most nets


def check_images(arch: Arch, images: Array) -> None:
    """Raises DataError unless they have the architecture's own size."""
    size = arch.vision.image_size
    if images.ndim != 4 or images.shape[1:] != (size, size, 3):
        raise DataError(f"{arch.name} takes images [B, {size}, {size}, 3], not {list(images.shape)}")


def check_sides(arch: Arch, images: Array) -> None:
    """Raises DataError unless dense features can be made of images with these sides."""
    name, config, family = arch.name, arch.vision, family_of(arch.vision)
    if images.ndim != 4 or images.shape[3] != 3:
        raise DataError(f"{name} takes images [B, H, W, 3], not {list(images.shape)}")
    height, width = images.shape[1:3]
    if height == width == config.image_size:
        return
    refusal = f"{name} cannot take images of {height} x {width} pixels"
    if family.one_size is not None:
        raise DataError(f"{refusal}, only of its own {config.image_size}: {family.one_size}")
    if family.patch is None and min(height, width) < _SMALLEST:
        raise DataError(f"{refusal}: dense features need sides of {_SMALLEST} pixels or more")
    if getattr(config, "patch_size", None):  # a net without patches takes any sides
        try:
            for side in (height, width):
                resized_vision(config, side)
        except ValueError as error:
            raise DataError(f"{refusal}: {error}") from None


def check_attention(arch: Arch, attention: Attends) -> None:
    """Raises UsageError if the image tower cannot attend so."""
    known_name("attention", attention, get_args(Attends))
    batch_attention = family_of(arch.vision).batch_attention
    if attention != "tokens" and not (batch_attention and batch_attention(arch.vision)):
        raise UsageError(
            f"{arch.name} is not one of open_clip's own vision transformers: only these attend over "
            f"the batch, so leave out attention={attention!r}"
        )


def check_ids(arch: Arch, ids: Array) -> None:
    """Raises DataError without a text tower, or for ids that it does not take."""
    if arch.text is None:
        kind = "a classifier" if arch.language is None else "a vision-language model"
        raise DataError(f"{arch.name} is {kind}: it has no text tower")
    shortest, longest = arch.text.min_length, arch.text.context_length
    if ids.ndim != 2 or not shortest <= ids.shape[1] <= longest:
        lengths = f"{shortest}..{longest}" if shortest < longest else f"{longest}"
        raise DataError(f"{arch.name} takes ids [B, {lengths}], not {list(ids.shape)}")


def check_takes_vectors(arch: Arch) -> None:
    """Raises UsageError if the text tower cannot take vectors in place of ids."""
    if arch.text is None:
        raise UsageError(f"{arch.name} is a classifier: it has no text tower for learned prompts")
    family = family_of(arch.text)
    if family.embedded is None:
        raise UsageError(
            f"the text tower of {arch.name} (family {family.name!r}) takes token ids only: learned "
            "prompts need one of CLIP's or SigLIP's"
        )


def check_vectors(arch: Arch, beginning: Array, tokens: Array) -> None:
    """Raises DataError for vectors [P, D] and [B, L, D] that do not fit."""
    text: Any = arch.text
    shapes = f"a beginning {list(beginning.shape)} and tokens {list(tokens.shape)}"
    if tokens.ndim != 3 or {tokens.shape[2], *beginning.shape[1:]} != {text.width}:
        raise DataError(f"{arch.name} takes vectors of {text.width} numbers, not {shapes}")
    if not text.min_length <= len(beginning) + tokens.shape[1] <= text.context_length:
        lengths = f"{text.min_length} to {text.context_length}"
        raise DataError(f"{arch.name} takes {lengths} tokens, not {shapes}")
    if len(beginning) and not text.causal:
        raise DataError(f"the beginning of a text of {arch.name} sees the rest: it cannot be shared")


def layer_indices(layers: Any) -> int | tuple[int, ...]:
    """`layers` as integers: static arguments of `jax.jit` must be hashable. Raises UsageError for others."""
    try:
        return tuple(map(operator.index, layers)) if isinstance(layers, Iterable) else operator.index(layers)
    except TypeError:
        raise UsageError(
            f"layers is the number of last layers or a list of indices, integers, not {layers!r}"
        ) from None


def known_layers(arch: Arch, layers: int | Sequence[int]) -> list[int]:
    """Each layer's index from 0, in the order given. Raises UsageError for layers that do not exist."""
    family = family_of(arch.vision)
    assert family.depth is not None
    depth, given = family.depth(arch.vision), layer_indices(layers)
    if isinstance(given, int):
        if not 1 <= given <= depth:
            raise UsageError(
                f"layers={given} asks for the last {given} layers, of which {arch.name} has {depth}: "
                f"give 1 to {depth}, or a list of indices"
            )
        return list(range(depth - given, depth))
    wanted = [index + depth if index < 0 else index for index in given]
    if not wanted or not set(wanted) <= set(range(depth)):
        raise UsageError(f"{arch.name} has the layers 0 to {depth - 1} for dense features, not {list(given)}")
    return wanted
