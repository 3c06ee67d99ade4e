"""A narrow open_clip ViT-B-32, and our model of its weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from reference import conditioned, narrow, save

from clipjax.checkpoints.identity.registry import model_card
from clipjax.checkpoints.load import load_model
from clipjax.checkpoints.model import Model
from clipjax.models.arch import load_arch


def narrow_pair(folder: Path, vocabulary: int = 49408) -> tuple[Any, Model]:
    """(open_clip's model, ours loaded from the file that it wrote into `folder`).

    Args:
        vocabulary: ids of the text tower; with fewer than the tokenizer has, the model has none.
    """
    config = narrow("ViT-B-32")
    config["text_cfg"] |= {"vocab_size": vocabulary, "context_length": 77}
    theirs = conditioned(config)
    path = save(theirs, folder / "model.safetensors")
    size = config["vision_cfg"]["image_size"]
    card = model_card("vit_b_32-laion2b_s34b_b79k")
    card = dataclasses.replace(
        card,
        id="narrow",
        arch=_arch(config),
        tokenizer=card.tokenizer if vocabulary == 49408 else None,
        preprocess=dataclasses.replace(card.preprocess, image_size=size, resize_size=size),
    )
    # Stated: random weights are known to be nobody's, and tests read the facts.
    return theirs, load_model(path, card=dataclasses.replace(card, facts_origin="stated"))


def _arch(config: dict[str, Any]) -> Any:
    arch: Any = load_arch("ViT-B-32")
    tower, text = config["vision_cfg"], config["text_cfg"]
    small = {"layers": 2, "heads": 2, "embed_dim": config["embed_dim"]}
    vision = {"image_size": tower["image_size"], "width": tower["width"], "mlp_width": 4 * tower["width"]}
    words = {"width": text["width"], "mlp_width": 4 * text["width"], "vocab_size": text["vocab_size"]}
    return dataclasses.replace(
        arch,
        vision=dataclasses.replace(arch.vision, **small, **vision),
        text=dataclasses.replace(arch.text, **small, **words),
    )
