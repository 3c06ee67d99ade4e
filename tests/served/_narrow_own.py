"""The narrow LLaVA as a model of clipjax, from the arrays that are in llama.cpp's files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from _narrow_vl import BLOCKS, EPS, HEADS, HIDDEN, MEAN, PATCH, SIDE, STD, WIDTH, Tensors

from clipjax.checkpoints.card import Card, Chat, Preprocess, WeightsSource
from clipjax.checkpoints.language import LanguageModel
from clipjax.checkpoints.model import Model
from clipjax.data.text.language_tokenizers import CONFIGS, FILES, BuiltTokenizer
from clipjax.data.text.vocabularies import digest
from clipjax.models.arch import Arch
from clipjax.models.families.patches.vit import ViTConfig
from clipjax.models.language.config import LanguageConfig

# llama.cpp's server joins the parts of a message for a template that takes one text, as SmolLM2's does: a
# picture's tokens stand directly before the question.
PROMPT = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\n{image}{question}<|im_end|>\n<|im_start|>assistant\n"
)
TOWER = ViTConfig(
    image_size=SIDE,
    patch_size=PATCH,
    width=WIDTH,
    layers=BLOCKS,
    heads=HEADS,
    mlp_width=HIDDEN,
    crop_to_patches=False,
    patch_bias=False,
    class_token=False,
    positions="patches",
    pre_norm=True,
    layer_scale=False,
    activation="quick_gelu",
    ln_eps=EPS,
    pooling="mean",
    pool_queries=0,
    pool_heads=0,
    projection=False,
    embed_dim=WIDTH,
)


def own_model(
    tensors: Tensors, decoder: LanguageModel, folder: Path, *, tower: ViTConfig = TOWER, layer: int = -2
) -> Model:
    """A model with these weights; `tower` and `layer` may differ from llama.cpp's, to see that this matters.

    Args:
        tensors: the tower's and projector's, in llama.cpp's names.
        folder: gets the tokenizer's files.
    """
    language = LanguageConfig(layer, "gelu-mlp", decoder.config)
    arch = Arch(
        name="narrow-vl", vision=tower, text=None, num_classes=None, logit_bias=False, language=language
    )
    files = write_tokenizer(decoder.tokenizer, folder)
    card = Card(
        id="narrow-vl",
        arch=arch,
        source=WeightsSource(library="clipjax", arch="narrow-vl", tag=None),
        preprocess=Preprocess(SIDE, SIDE, "shortest", "bicubic", MEAN, STD),
        tokenizer=None,
        logit_scale=None,
        logit_bias=None,
        facts={"group": "narrow", "params_m": 1.0},
        chat=Chat(PROMPT, None, digest(files)),
    )
    return Model(card, {**tower_params(tensors), "decoder": decoder.params}, tokenizer_files=files)


def with_means(model: Model, mean: tuple[float, float, float]) -> Model:
    """The same model with pixels of another mean."""
    return model.with_card(
        dataclasses.replace(model.card, preprocess=dataclasses.replace(model.card.preprocess, mean=mean))
    )


def write_tokenizer(tokenizer: Any, folder: Path) -> tuple[Path, ...]:
    """The files of transformers with a tokenizer that was read from GGUF."""
    assert isinstance(tokenizer, BuiltTokenizer)
    folder.mkdir(parents=True, exist_ok=True)
    core, config = folder / FILES[0], folder / CONFIGS[0]
    tokenizer.core.save(str(core))
    config.write_text(json.dumps({"add_bos_token": False} | dict(tokenizer.names)))
    return core, config


def tower_params(tensors: Tensors) -> dict[str, Any]:
    """vision and projector, as `clipjax.models` names them."""

    def linear(name: str) -> dict[str, np.ndarray]:
        return {"kernel": tensors[f"{name}.weight"].T, "bias": tensors[f"{name}.bias"]}

    def norm(name: str) -> dict[str, np.ndarray]:
        return {"scale": tensors[f"{name}.weight"], "bias": tensors[f"{name}.bias"]}

    def block(i: int) -> dict[str, Any]:
        heads = {"q": "attn_q", "k": "attn_k", "v": "attn_v", "out": "attn_out"}
        return {
            "ln_1": norm(f"v.blk.{i}.ln1"),
            "ln_2": norm(f"v.blk.{i}.ln2"),
            "attn": {name: linear(f"v.blk.{i}.{theirs}") for name, theirs in heads.items()},
            "mlp": {"c_fc": linear(f"v.blk.{i}.ffn_up"), "c_proj": linear(f"v.blk.{i}.ffn_down")},
        }

    blocks = [block(i) for i in range(BLOCKS)]
    vision = {
        "patch_embed": {"kernel": tensors["v.patch_embd.weight"].transpose(2, 3, 1, 0)},
        "positional_embedding": tensors["v.position_embd.weight"],
        "ln_pre": norm("v.pre_ln"),
        "blocks": jax.tree.map(lambda *leaves: np.stack(leaves), *blocks),
        # It comes after the block that is read.
        "ln_post": {"scale": np.ones(WIDTH, np.float32), "bias": np.zeros(WIDTH, np.float32)},
    }
    return {"vision": vision, "projector": {"linear_0": linear("mm.0"), "linear_1": linear("mm.2")}}
