"""Records of decoders from config.json, read strictly; transformers' names, alone and below a prefix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from transformers import LlamaConfig, MistralConfig

from clipjax.errors import DataError
from clipjax.models.language.config import DecoderConfig
from clipjax.models.language.decoder import Decoder
from converters.engine import ConversionError, conversion_of, detect_table, export, flatten
from converters.foreign.llama import LLAMA_DEFAULTS, decoder_config, refuse_other_head
from converters.sources import open_source
from converters.table import load_table, parse_table

# The values of meta-llama/Llama-2-7b-chat-hf and mistralai/Mistral-7B-Instruct-v0.2, and of older files.
LLAMA_2: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.32.0.dev0",
    "use_cache": True,
    "vocab_size": 32000,
}
MISTRAL: dict[str, Any] = {
    "architectures": ["MistralForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "model_type": "mistral",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.36.0",
    "use_cache": True,
    "vocab_size": 32000,
}
SEVEN = DecoderConfig(4096, 32, 32, 32, 128, 11008, 32000, 4096, 10000.0, 1e-5, False)
SMALL = DecoderConfig(16, 2, 4, 2, 4, 24, 32, 64, 10000.0, 1e-5, False)


def test_the_decoders_of_the_study() -> None:
    assert decoder_config(LLAMA_2, "config.json") == SEVEN
    mistral = DecoderConfig(4096, 32, 32, 8, 128, 14336, 32000, 32768, 1e6, 1e-5, False)
    assert decoder_config(MISTRAL, "config.json") == mistral
    window = decoder_config({**MISTRAL, "sliding_window": 4096, "rope_theta": 10000.0}, "config.json")
    assert (window.sliding_window, window.rope_theta) == (4096, 10000.0)


@pytest.mark.parametrize("kind", [LlamaConfig, MistralConfig])
def test_files_of_today(kind: Any) -> None:
    record = kind(
        rope_parameters={"rope_type": "default", "rope_theta": 5e5}, head_dim=64, num_key_value_heads=4
    )
    config = decoder_config(json.loads(record.to_json_string()), "config.json")
    assert (config.rope_theta, config.head_dim, config.kv_heads) == (5e5, 64, 4)


def test_what_a_file_of_a_larger_model_leaves_out_is_the_librarys() -> None:
    """The decoder's section of llava-hf/llava-1.5-7b-hf."""
    section = {
        "model_type": "llama",
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "vocab_size": 32064,
    }
    config = decoder_config({**LLAMA_DEFAULTS, **section}, "config.json: text_config")
    assert config == DecoderConfig(4096, 32, 32, 32, 128, 11008, 32064, 4096, 10000.0, 1e-5, False)
    assert LlamaConfig().to_dict() | LLAMA_DEFAULTS == LlamaConfig().to_dict()
    with pytest.raises(DataError, match="text_config lacks 'hidden_size'"):
        decoder_config(section, "config.json: text_config")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "qwen2"}, "model_type is 'qwen2'; clipjax has decoders of llama, mistral"),
        ({"model_type": ["llama"]}, "clipjax has decoders of"),
        ({"architectures": ["LlamaForSequenceClassification"]}, r"not \['LlamaForCausalLM'\]"),
        ({"logit_scale": 2.0}, "has the field 'logit_scale'"),
        ({"sliding_window": 5}, "has the field 'sliding_window'"),
        ({"attention_bias": True}, "attention_bias is True; clipjax has decoders with False"),
        ({"mlp_bias": True}, "mlp_bias is True"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; clipjax has decoders with 'silu'"),
        ({"pretraining_tp": 2}, "pretraining_tp is 2"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling scales the rotary positions"),
        ({"rope_scaling": {"type": []}}, "rope_scaling scales the rotary positions"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "rope_parameters scales"),
        ({"rope_theta": 0}, "rope_theta is 0; it should be a finite number above 0"),
        ({"rms_norm_eps": None}, "rms_norm_eps is None"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"num_key_value_heads": 5}, "heads 32 is not a multiple of kv_heads 5"),
        ({"num_attention_heads": 33}, "hidden_size 4096 is not a multiple of num_attention_heads 33"),
        ({"head_dim": 15}, "head_dim 15 is odd"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no'; it should be true or false"),
    ],
)
def test_what_would_change_a_number_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        decoder_config({**LLAMA_2, **changes}, "config.json")


@pytest.mark.parametrize("name", ["hidden_size", "rms_norm_eps", "max_position_embeddings", "sliding_window"])
def test_a_missing_number_is_not_guessed(name: str) -> None:
    with pytest.raises(DataError, match=f"lacks '{name}'"):
        decoder_config({key: value for key, value in MISTRAL.items() if key != name}, "config.json")


# --- names ---


def weights(config: DecoderConfig, at: str = "") -> dict[str, Any]:
    rng = np.random.default_rng(0)
    shapes = flatten(Decoder(config).abstract_params())
    return {at + path: rng.normal(size=leaf.shape).astype("f4") for path, leaf in shapes.items()}


def test_transformers_names_one_file_or_several(tmp_path: Path) -> None:
    leaves, table = weights(SMALL), load_table("llama")
    tensors = export(leaves, table)
    assert len(tensors) == 9 * SMALL.layers + 3
    np.testing.assert_array_equal(
        tensors["model.layers.1.mlp.up_proj.weight"], leaves["blocks/mlp/up/kernel"][1].T
    )
    assert detect_table(tensors).name == "llama"
    frequencies = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": np.ones(2, "f4") for i in range(2)}
    save_file(tensors | frequencies, tmp_path / "model.safetensors")
    parts = {f"model-0000{n}-of-00002.safetensors": sorted(tensors)[n - 1 :: 2] for n in (1, 2)}
    for name, keys in parts.items():
        save_file({key: tensors[key] for key in keys}, tmp_path / name)
    index = {"weight_map": {key: name for name, keys in parts.items() for key in keys}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    for name in ("model.safetensors", "model.safetensors.index.json"):
        source = open_source(tmp_path / name)
        read = dict(conversion_of(source, Decoder(SMALL).abstract_params(), table).leaves(np.float32))
        assert {path: leaf.tobytes() for path, leaf in read.items()} == {
            path: leaf.tobytes() for path, leaf in leaves.items()
        }


@pytest.mark.parametrize("prefix", ["llm.", "language_model."])
def test_the_names_below_a_prefix(prefix: str) -> None:
    table = parse_table(f"include _llama at=decoder/ prefix={prefix}", "test")
    leaves = weights(SMALL, "decoder/")
    tensors: dict[str, Any] = export(leaves, table)
    plain = export(weights(SMALL), load_table("llama"))
    assert set(tensors) == {prefix + key for key in plain}
    assert table.drops(f"{prefix}model.layers.3.self_attn.rotary_emb.inv_freq")
    target = {"decoder": Decoder(SMALL).abstract_params()}
    assert set(conversion_of(tensors, target, table).pieces) == set(leaves)


def test_missing_and_unknown_tensors(tmp_path: Path) -> None:
    tensors: dict[str, Any] = export(weights(SMALL), load_table("llama"))
    target = Decoder(SMALL).abstract_params()
    for change, message in (
        ({"model.layers.0.self_attn.q_proj.bias": np.ones(16, "f4")}, "q_proj.bias is in the checkpoint but"),
        ({"lm_head.weight": None}, r"lm_head\.weight is missing"),
        ({"model.norm.weight": np.ones(17, "f4")}, r"has shape \(17,\), norm/scale needs \(16,\)"),
    ):
        changed = {key: value for key, value in {**tensors, **change}.items() if value is not None}
        with pytest.raises(ConversionError, match=message):
            conversion_of(changed, target, load_table("llama"))


def test_a_tied_head(tmp_path: Path) -> None:
    tied = DecoderConfig(16, 2, 4, 2, 4, 24, 32, 64, 10000.0, 1e-5, True)
    tensors = export(weights(tied), load_table("llama"))
    assert "lm_head.weight" not in tensors
    for head, same in ((tensors["model.embed_tokens.weight"], True), (np.ones((32, 16), "f4"), False)):
        save_file(tensors | {"lm_head.weight": head.copy()}, tmp_path / "w")
        source = open_source(tmp_path / "w")
        conversion_of(source, Decoder(tied).abstract_params(), load_table("llama"))
        if same:
            refuse_other_head(source, tied, "config.json")
        else:
            with pytest.raises(DataError, match=r"lm_head\.weight is not the embedding"):
                refuse_other_head(source, tied, "config.json")
