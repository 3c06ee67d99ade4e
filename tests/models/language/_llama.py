"""transformers' Llama and Mistral, narrow, with weights that all matter, and their weights as our params.

The mapping is written out here a second time, apart from the converter's table.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from clipjax.models.language.config import DecoderConfig
from clipjax.models.language.decoder import Decoder
from converters.golden.recording import numbered, recording
from converters.golden.weights import ATTENTION_GAIN, STREAM, scaled_normal
from tests.models._torch_weights import Tree, array, stacked

LLAMA = DecoderConfig(
    width=48,
    layers=3,
    heads=4,
    kv_heads=4,
    head_dim=16,
    mlp_width=80,
    vocab_size=97,
    context_length=64,
    rope_theta=10_000.0,
    norm_eps=1e-5,
    tied=False,
)
GROUPED = dataclasses.replace(LLAMA, heads=6, kv_heads=2, rope_theta=100_000.0, tied=True)
MISTRAL = dataclasses.replace(LLAMA, kv_heads=2, rope_theta=1_000_000.0, sliding_window=7)


class Joined(Decoder):
    """Its cache has two key heads side by side, as on a TPU, but here in parity."""

    def joined(self, dtype: Any) -> int:
        return 2

    def _key(self) -> tuple[Any, ...]:  # another program than that of a plain decoder
        return (*super()._key(), "joined")


def reference(config: DecoderConfig, seed: int = 0) -> Any:
    """transformers' model of a record, eager, float32, conditioned."""
    c = config
    fields: dict[str, Any] = {
        "hidden_size": c.width,
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads,
        "head_dim": c.head_dim,
        "intermediate_size": c.mlp_width,
        "vocab_size": c.vocab_size,
        "max_position_embeddings": c.context_length,
        "rope_parameters": {"rope_type": "default", "rope_theta": c.rope_theta},
        "rms_norm_eps": c.norm_eps,
        "tie_word_embeddings": c.tied,
        "attn_implementation": "eager",
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    if c.sliding_window is None:
        model: Any = LlamaForCausalLM(LlamaConfig(**fields))
    else:
        model = MistralForCausalLM(MistralConfig(**fields, sliding_window=c.sliding_window))
    condition(model, seed)
    return model.eval()


@torch.no_grad()
def condition(model: Any, seed: int) -> None:
    """Norms read small inputs, so that eps counts; attention is neither uniform nor one-hot."""
    torch.manual_seed(seed)
    decoder = model.model
    for layer in decoder.layers:
        for linear in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            scaled_normal(linear.weight, ATTENTION_GAIN)
        for linear in (layer.self_attn.v_proj, layer.mlp.gate_proj, layer.mlp.up_proj):
            scaled_normal(linear.weight, 1.0)
        for linear in (layer.self_attn.o_proj, layer.mlp.down_proj):
            scaled_normal(linear.weight, STREAM)
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            norm.weight.uniform_(0.6, 1.4)
    decoder.norm.weight.uniform_(0.6, 1.4)
    scaled_normal(model.lm_head.weight, 1.0)
    # With tied matrices this is the head, too: its logits are small.
    decoder.embed_tokens.weight.normal_(std=STREAM)


def params_of(model: Any) -> Tree:
    decoder = model.model
    tree = {
        "embedding": array(decoder.embed_tokens.weight),
        "blocks": stacked([_block(layer) for layer in decoder.layers]),
        "norm": {"scale": array(decoder.norm.weight)},
    }
    return tree if model.config.tie_word_embeddings else tree | {"head": _matrix(model.lm_head)}


def _block(layer: Any) -> Tree:
    attention = {name: _matrix(getattr(layer.self_attn, f"{name}_proj")) for name in "qkv"}
    return {
        "attn_norm": {"scale": array(layer.input_layernorm.weight)},
        "attn": attention | {"out": _matrix(layer.self_attn.o_proj)},
        "mlp_norm": {"scale": array(layer.post_attention_layernorm.weight)},
        "mlp": {name: _matrix(getattr(layer.mlp, f"{name}_proj")) for name in ("gate", "up", "down")},
    }


def _matrix(linear: Any) -> Tree:
    return {"kernel": array(linear.weight).T}


@torch.no_grad()
def stages_of(model: Any, ids: np.ndarray, valid: np.ndarray) -> dict[str, np.ndarray]:
    """Every stage and the logits, of rows padded on the left."""
    blocks, decoder = model.model.layers, model.model
    positions = torch.from_numpy(np.maximum(valid.cumsum(axis=1) - 1, 0))
    outputs = numbered("blocks", blocks) | {"norm": decoder.norm}
    with recording(outputs, inputs_of={"embed": blocks[0]}) as tensors:
        logits = model(
            input_ids=torch.from_numpy(ids).long(),
            attention_mask=torch.from_numpy(valid).long(),
            position_ids=positions,
        ).logits
    stages = {name: tensor.numpy() for name, tensor in tensors.items()}
    return stages | {"logits": logits.numpy()}
