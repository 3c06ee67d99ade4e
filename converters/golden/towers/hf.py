"""transformers 5 CLIPModel and SiglipModel; a tower is the model (it owns the projections) and one half."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from converters.golden.recording import RecordedTower, numbered, recording
from converters.golden.weights import ATTENTION_GAIN, STREAM, condition_residual, scaled_normal


@dataclass(frozen=True)
class ImageTower:
    model: Any


@dataclass(frozen=True)
class TextTower:
    model: Any


def image_stages(tower: ImageTower, images: Tensor) -> dict[str, Tensor]:
    vision, clip = tower.model.vision_model, is_clip(tower.model)
    blocks = vision.encoder.layers
    modules = {"patch_embed": vision.embeddings.patch_embedding, **numbered("blocks", blocks)}
    if clip:  # the class token only
        modules["pooled"] = vision.post_layernorm
    with recording(modules, inputs_of={"embed": blocks[0]}) as tensors:
        features = tower.model.get_image_features(images).pooler_output
    return {**tensors, "projected": features} if clip else {**tensors, "pooled": features}


def text_stages(tower: TextTower, ids: Tensor) -> dict[str, Tensor]:
    text = tower.model.text_model
    blocks = text.encoder.layers
    with recording(numbered("blocks", blocks), inputs_of={"embed": blocks[0]}) as tensors:
        output = text(input_ids=ids)
    if is_clip(tower.model):
        pooled, features = output.pooler_output, tower.model.text_projection(output.pooler_output)
    else:
        pooled, features = output.last_hidden_state[:, -1], output.pooler_output
    return {**tensors, "pooled": pooled, "projected": features}


def is_clip(model: Any) -> bool:
    return hasattr(model, "visual_projection")


def condition_image(tower: ImageTower, seed: int) -> None:
    vision = tower.model.vision_model
    condition_blocks(vision)
    embeddings = vision.embeddings
    scaled_normal(embeddings.patch_embedding.weight, STREAM)
    embeddings.position_embedding.weight.normal_(std=STREAM)
    if is_clip(tower.model):
        embeddings.class_embedding.normal_(std=STREAM)
        vision.pre_layrnorm.weight.mul_(STREAM)
        vision.pre_layrnorm.bias.mul_(STREAM)
        return
    embeddings.patch_embedding.bias.mul_(STREAM)
    head = vision.head
    head.probe.normal_()
    condition_residual([(head.attention.out_proj,)])


def condition_text(tower: TextTower, seed: int) -> None:
    text = tower.model.text_model
    condition_blocks(text)
    text.embeddings.token_embedding.weight.normal_(std=STREAM)
    text.embeddings.position_embedding.weight.normal_(std=STREAM)


def condition_blocks(half: Any) -> None:
    layers = half.encoder.layers
    for layer in layers:
        for linear in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            scaled_normal(linear.weight, ATTENTION_GAIN)
    condition_residual((layer.self_attn.out_proj, layer.mlp.fc2) for layer in layers)


TOWERS = [
    RecordedTower(lambda tower: isinstance(tower, ImageTower), image_stages, condition_image),
    RecordedTower(lambda tower: isinstance(tower, TextTower), text_stages, condition_text),
]
