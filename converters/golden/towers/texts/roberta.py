"""The text tower of open_clip 3.3 `hf_model.HFTextEncoder` around transformers' RoBERTa or XLM-RoBERTa."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

from open_clip.hf_model import HFTextEncoder
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig, RobertaConfig, XLMRobertaConfig

from converters.golden.recording import RecordedTower, numbered, recording
from converters.golden.weights import ATTENTION_GAIN, STREAM, scaled_normal

# Differences from the config classes' defaults in these hub repositories' config.json, which open_clip would
# download.
_BOTH = {"max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
_HUB: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "roberta-base": (RobertaConfig, {**_BOTH, "vocab_size": 50265}),
    "xlm-roberta-base": (XLMRobertaConfig, {**_BOTH, "vocab_size": 250002}),
    "xlm-roberta-large": (XLMRobertaConfig, {**_BOTH, **_LARGE, "vocab_size": 250002}),
}
_SIZES = {
    "vocab_size": "vocab_size",
    "positions": "max_position_embeddings",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "mlp_width": "intermediate_size",
}


def hub_configs(record: dict[str, Any] | None) -> AbstractContextManager[Any]:
    """`AutoConfig.from_pretrained` without the hub, with the sizes of our tower record, if any."""

    def from_pretrained(name: str, **_: Any) -> PreTrainedConfig:
        kind, facts = _HUB[name]
        sizes = {} if record is None else {theirs: record[ours] for ours, theirs in _SIZES.items()}
        return kind(**{**facts, **sizes})

    return mock.patch.object(AutoConfig, "from_pretrained", from_pretrained)


def open_clip_sizes(record: dict[str, Any]) -> dict[str, Any]:
    return {"context_length": record["context_length"]}  # the others are in transformers' config


def stages(model: Any, ids: Tensor) -> dict[str, Tensor]:
    encoder = model.transformer
    modules = {"embed": encoder.embeddings, **numbered("blocks", encoder.encoder.layer)}
    with recording({**modules, "pooled": model.pooler}) as tensors:
        features = model(ids)
    features = features[0] if model.output_tokens else features  # CoCa's
    return {**tensors, "projected": features}


def condition(model: Any, seed: int) -> None:
    """Norms write and read a stream of scale STREAM; what must not stay small is scaled back."""
    for module in model.transformer.modules():
        if isinstance(module, nn.Embedding):
            module.weight.normal_(std=STREAM)
        elif isinstance(module, nn.LayerNorm):
            scale_by(STREAM, module)
    for layer in model.transformer.encoder.layer:
        attention = layer.attention.self
        for linear in (attention.query, attention.key):
            scaled_normal(linear.weight, ATTENTION_GAIN / STREAM)
        for linear in (attention.value, layer.attention.output.dense):
            linear.bias.mul_(STREAM)
        scaled_normal(layer.intermediate.dense.weight, 1 / STREAM)
        scale_by(STREAM, layer.output.dense)
    if isinstance(model.proj, nn.Sequential):
        first: Any = model.proj[0]
        scaled_normal(first.weight, 1 / STREAM)


def scale_by(factor: float, module: Any) -> None:
    module.weight.mul_(factor)
    module.bias.mul_(factor)


TOWERS = [RecordedTower(lambda module: isinstance(module, HFTextEncoder), stages, condition)]
