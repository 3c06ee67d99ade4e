"""The text tower of open_clip 3.3 `coca_model.CoCa`: a `TextTransformer` with an appended token."""

from __future__ import annotations

from typing import Any

from open_clip.transformer import TextTransformer
from torch import Tensor

from converters.golden.recording import RecordedTower, numbered, recording
from converters.golden.towers.texts import text
from converters.golden.towers.texts.text import open_clip_sizes
from converters.golden.weights import STREAM

__all__ = ["TOWERS", "open_clip_sizes"]


def stages(model: Any, ids: Tensor) -> dict[str, Tensor]:
    blocks = model.transformer.resblocks
    with recording(
        {**numbered("blocks", blocks), "pooled": model.ln_final}, inputs_of={"embed": blocks[0]}
    ) as tensors:
        output = model(ids)
    return {**tensors, "projected": output[0] if model.output_tokens else output}


def condition(model: Any, seed: int) -> None:
    text.condition(model, seed)
    model.cls_emb.normal_(std=STREAM)


def takes(module: Any) -> bool:
    return isinstance(module, TextTransformer) and module.cls_emb is not None


TOWERS = [RecordedTower(takes, stages, condition)]
