"""A model for images of another size: `load_model(..., image_size=N)`."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax

from clipjax.checkpoints.card import ImageResize, Preprocess
from clipjax.checkpoints.model import Model
from clipjax.errors import UsageError
from clipjax.models.resample import RULES, Rule, resampled, resized_arch, rule_of


def refuse_wrong_resize(image_size: int | None, rule: str | None) -> None:
    """Refuse a size that is not a whole number, and an unknown rule. Raises UsageError."""
    if image_size is not None and type(image_size) is not int:
        raise UsageError(f"image_size is {image_size!r}: give a whole number of pixels")
    if rule is not None and rule not in RULES:
        raise UsageError(f"no rule {rule!r} for resampling positions; known: {', '.join(RULES)}")


def resize_model(model: Model, image_size: int, rule: str | None = None) -> Model:
    """The model for images of `image_size` pixels; the same object if it has that size.

    `card.resized` enters the fingerprint: embeddings of two sizes or rules never mix.

    Args:
        rule: "open_clip", "timm", "transformers" or "dinov2" instead of the model's own.

    Raises:
        UsageError: an impossible size, an unknown rule, an adapter, a vision-language model, or a model
            resized before.
    """
    refuse_wrong_resize(image_size, rule)
    model = model.settled()
    card, size = model.card, model.card.arch.vision.image_size
    if image_size == size:
        return model
    if card.arch.language is not None:
        raise UsageError(
            f"{card.id} reads images of {size} pixels: its decoder was trained on that many patches, so "
            "leave image_size (--image-size) out"
        )
    if model.adapter is not None:
        raise UsageError(f"{card.id} has an adapter, which was trained at {size} pixels: resize its base")
    applied: Any = rule_of(card.arch, card.source.library, rule)
    if card.resized is not None:
        raise UsageError(
            f"{card.id} was resized before, from {card.resized.image_size} to {size} pixels: "
            "load the original weights"
        )
    card = dataclasses.replace(
        card,
        arch=resized_arch(card.arch, image_size),
        preprocess=resized_preprocess(card.preprocess, image_size),
        resized=ImageResize(size, applied),
    )
    params, origin = model.params, model.origin
    if applied is not None:
        path, params = _with_table(model, image_size, applied)
        if origin.dtypes is not None:  # resampled values need more than half precision
            origin = dataclasses.replace(origin, dtypes={**origin.dtypes, f"vision/{path}": "float32"})
    return Model(
        card, params, origin, model.carried, weights=card.weights, tokenizer_files=model.tokenizer_files
    )


def resized_preprocess(preprocess: Preprocess, image_size: int) -> Preprocess:
    """Keep the cropped share of the image: its side before the crop is floor(size / share), as in timm.

    A crop of 224 from 256 (share 0.875) becomes, at 336, one of 336 from 384.
    """
    share = _crop_share(preprocess.image_size, preprocess.resize_size)
    return dataclasses.replace(
        preprocess, image_size=image_size, resize_size=max(image_size, math.floor(image_size / share))
    )


def _crop_share(image_size: int, resize_size: int) -> float:
    """The roundest share that gives these whole pixels (224 of 256: 0.875); the card does not record it."""
    exact = image_size / resize_size
    for step in (100, 50, 25, 10, 5, 1):  # thousandths
        share = math.floor(1000 * exact / step) * step / 1000
        if share and math.floor(image_size / share) == resize_size:
            return share
    return exact


def _with_table(model: Model, image_size: int, rule: Rule) -> tuple[str, dict[str, Any]]:
    path, table = resampled(model.card.arch, model.params["vision"], image_size, rule)
    params = dict(model.params)
    node = params["vision"] = dict(params["vision"])
    *parts, last = path.split("/")
    for part in parts:
        node[part] = dict(node[part])
        node = node[part]
    node[last] = jax.device_put(table, node[last].sharding)
    return path, params
