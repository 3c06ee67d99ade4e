"""The record of a Llama or Mistral decoder, from transformers' `config.json` or a GGUF file's metadata.

Sources: transformers 5.24 models/llama, models/mistral; llama.cpp's convert_hf_to_gguf.py.
A field that may change the logits is understood or refused, and none is guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from clipjax.errors import DataError
from clipjax.guards import multiple_of
from clipjax.models.language.config import DecoderConfig
from clipjax.storage.formats.gguf import GgufHeader
from converters.engine import LazyTensor
from converters.foreign.card import at, get
from converters.foreign.transformers import WITHOUT_EFFECT

MODELS = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM"}
# LlamaConfig's defaults. Files of models that contain a decoder leave these out; none has ever changed.
LLAMA_DEFAULTS = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
}
_NEEDED = tuple(LLAMA_DEFAULTS)
_NEEDED_BY_MISTRAL = ("num_key_value_heads", "sliding_window")  # its defaults are one model's
# Fields with one value that clipjax computes, which files may leave out.
_FIXED = {"attention_bias": False, "mlp_bias": False, "pretraining_tp": 1, "hidden_act": "silu"}
_ROPE = ("rope_theta", "rope_parameters", "rope_scaling")
_READ = {*_NEEDED, *_NEEDED_BY_MISTRAL, *_FIXED, *_ROPE, "head_dim", "eos_token_id"}
_ROWS = 4096  # compared at a time


def decoder_config(record: Mapping[str, Any], where: str) -> DecoderConfig:
    """The decoder that a `config.json`, or (with `LLAMA_DEFAULTS` below it) a section of one, describes.

    Raises:
        DataError: another kind of model, a field that clipjax does not know, or one that is missing.
    """
    kind = record.get("model_type")
    if kind not in list(MODELS):
        raise DataError(f"{at(where, 'model_type')} is {kind!r}; clipjax has decoders of {', '.join(MODELS)}")
    if record.get("architectures") not in (None, [MODELS[kind]]):
        raise DataError(f"{where}: architectures is {record['architectures']!r}, not [{MODELS[kind]!r}]")
    mistral = kind == "mistral"
    _refuse(record, WITHOUT_EFFECT | (_READ if mistral else _READ - {"sliding_window"}), where)
    _require(record, (*_NEEDED, *(_NEEDED_BY_MISTRAL if mistral else ())), where)
    for name, value in _FIXED.items():
        if record.get(name, value) not in (None, value):
            raise DataError(f"{at(where, name)} is {record[name]!r}; clipjax has decoders with {value!r}")
    width, heads = (get(record, name, where, "size") for name in ("hidden_size", "num_attention_heads"))
    settings = {name: value for name, value in record.items() if value is not None}
    if "head_dim" not in settings:
        multiple_of(f"{where}: hidden_size", width, heads, "num_attention_heads", DataError)
    settings = {
        "num_key_value_heads": heads,
        "head_dim": width // heads,
        "tie_word_embeddings": False,
        **settings,
    }
    return _built(
        where,
        width=width,
        layers=get(record, "num_hidden_layers", where, "layers"),
        heads=heads,
        kv_heads=get(settings, "num_key_value_heads", where, "size"),
        head_dim=get(settings, "head_dim", where, "size"),
        mlp_width=get(record, "intermediate_size", where, "size"),
        vocab_size=get(record, "vocab_size", where, "size"),
        context_length=get(record, "max_position_embeddings", where, "size"),
        rope_theta=_rope_theta(settings, where),
        norm_eps=float(get(record, "rms_norm_eps", where, "positive")),
        tied=get(settings, "tie_word_embeddings", where, "switch"),
        sliding_window=get(settings, "sliding_window", where, "size")
        if "sliding_window" in settings
        else None,
    )


def _rope_theta(record: Mapping[str, Any], where: str) -> float:
    """The base of the rotary positions' wavelengths, from the file's own field or from `rope_parameters`.

    10,000 where a file has none: the library's default, as in Llama-2's own files.

    Raises DataError for scaled positions.
    """
    rope = {"rope_theta": record.get("rope_theta", 10000.0)}
    for name in ("rope_scaling", "rope_parameters"):
        if name not in record:
            continue
        rope |= get(record, name, where, "object")
        kinds = [rope.pop(key, "default") for key in ("rope_type", "type")]
        if kinds != ["default"] * 2 or set(rope) != {"rope_theta"}:
            raise DataError(
                f"{at(where, name)} scales the rotary positions ({record[name]!r}); clipjax has them unscaled"
            )
    return float(get(rope, "rope_theta", where, "positive"))


def _require(record: Mapping[str, Any], names: Iterable[str], where: str) -> None:
    if missing := [name for name in names if name not in record]:
        raise DataError(f"{where} lacks {missing[0]!r}, which decides what the decoder computes")


def _refuse(record: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    if other := sorted(record.keys() - set(known)):
        raise DataError(
            f"{where} has the field {other[0][:80]!r}, which clipjax does not know: it may change what the "
            "decoder computes"
        )


def _built(where: str, **fields: Any) -> DecoderConfig:
    try:
        return DecoderConfig(**fields)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None


def refuse_other_head(source: Mapping[str, LazyTensor], config: DecoderConfig, where: str) -> None:
    """Raises DataError if the config ties the output matrix to the embedding, but the file has another."""
    if not config.tied or "lm_head.weight" not in source:
        return
    head, table = source["lm_head.weight"], source["model.embed_tokens.weight"]
    same = head.shape == table.shape and all(
        np.array_equal(head.rows(i, j).read(), table.rows(i, j).read())
        for i, j in ((i, min(i + _ROWS, head.shape[0])) for i in range(0, head.shape[0], _ROWS))
    )
    if not same:
        raise DataError(
            f"{where}: tie_word_embeddings is true, but lm_head.weight is not the embedding: say false if "
            "the model was trained so"
        )


# --- GGUF ---

_LLAMA = "llama."
# Keys of "llama." that change no number of a decoder, or repeat the tensors' shapes.
_GGUF_READ = {
    *("block_count", "context_length", "embedding_length", "feed_forward_length", "vocab_size"),
    *("attention.head_count", "attention.head_count_kv", "attention.layer_norm_rms_epsilon"),
    *("attention.key_length", "attention.value_length", "rope.dimension_count", "rope.freq_base"),
    *("attention.sliding_window", "rope.scaling.type"),
}
_GGUF_NEEDED = (
    *("block_count", "context_length", "embedding_length", "feed_forward_length"),
    *("attention.head_count", "attention.layer_norm_rms_epsilon"),
)


def gguf_config(header: GgufHeader) -> DecoderConfig:
    """The decoder of a GGUF file. Raises as `decoder_config`."""
    where = f"{header.path}: llama"
    record = {k.removeprefix(_LLAMA): v for k, v in header.metadata.items() if k.startswith(_LLAMA)}
    _refuse(record, _GGUF_READ, where)
    _require(record, _GGUF_NEEDED, where)
    width, heads = (get(record, name, where, "size") for name in ("embedding_length", "attention.head_count"))
    if record.get("rope.scaling.type", "none") != "none":
        raise DataError(f"{where}.rope.scaling.type is {record['rope.scaling.type']!r}, not 'none'")
    if "attention.key_length" not in record:
        multiple_of(f"{where}.embedding_length", width, heads, "attention.head_count", DataError)
    table = header.tensors.get("token_embd.weight")
    if table is None:
        raise DataError(f"{header.path}: tensor token_embd.weight is missing; get the file again")
    implied = {"attention.head_count_kv": heads, "attention.key_length": width // heads}
    settings = {**implied, "rope.freq_base": 10000.0, "vocab_size": table.shape[0], **record}
    head_dim = get(settings, "attention.key_length", where, "size")
    for name, value in (
        *(("rope.dimension_count", head_dim), ("attention.value_length", head_dim)),
        ("vocab_size", table.shape[0]),
    ):
        if settings.get(name, value) != value:
            raise DataError(
                f"{where}.{name} is {settings[name]!r}, not {value} as the rest of the file has it"
            )
    window = get({"attention.sliding_window": 0, **settings}, "attention.sliding_window", where, "count")
    return _built(
        where,
        width=width,
        layers=get(record, "block_count", where, "layers"),
        heads=heads,
        kv_heads=get(settings, "attention.head_count_kv", where, "size"),
        head_dim=head_dim,
        mlp_width=get(record, "feed_forward_length", where, "size"),
        vocab_size=get(settings, "vocab_size", where, "size"),
        context_length=get(record, "context_length", where, "size"),
        rope_theta=float(get(settings, "rope.freq_base", where, "positive")),
        norm_eps=float(get(record, "attention.layer_norm_rms_epsilon", where, "positive")),
        tied="output.weight" not in header.tensors,
        sliding_window=window or None,
    )
