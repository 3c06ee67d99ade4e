"""Subjects of the fuzzer: files of language models."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
from _subject import plain, subject


def weights(folder: Path) -> Any:
    from clipjax.storage.gguf import read_gguf
    from converters.foreign.llama import gguf_config
    from converters.gguf_tensors import gguf_source

    header = read_gguf(folder / "w.gguf")
    config = gguf_config(header)
    return [str(config), plain({name: tensor.read() for name, tensor in gguf_source(header).items()})]


def texts(folder: Path) -> Any:
    from clipjax.data.text.language_tokenizers import load_language_tokenizer

    path = folder / "w.gguf"
    tokenizer = load_language_tokenizer(path if path.exists() else folder)
    ids = tokenizer.encode("a photo of 12 <s>cats\n", special=True)
    chat = tokenizer.chat([{"role": "user", "content": "x"}])
    return [ids, tokenizer.decode(ids), chat, tokenizer.vocab_size, tokenizer.bos, list(tokenizer.eos)]


def config(folder: Path) -> Any:
    from clipjax.storage.reading import read_json
    from converters.foreign.llama import decoder_config

    return str(decoder_config(read_json(folder / "config.json"), "config.json"))


@functools.cache
def vocabulary() -> bytes:
    from _language import sentencepiece_model

    return sentencepiece_model()


def _gguf(folder: Path) -> None:
    from _ggml import llama_metadata, llama_tensors, write_gguf

    tensors = llama_tensors(np.random.default_rng(0), 32)
    kinds = {"blk.0.attn_q.weight": "Q8_0", "blk.0.ffn_up.weight": "Q4_1", "token_embd.weight": "Q4_0"}
    write_gguf(folder / "w.gguf", tensors, llama_metadata(), kinds)


def _gguf_vocabulary(folder: Path) -> None:
    from _ggml import write_gguf
    from _language import gguf_vocabulary

    write_gguf(folder / "w.gguf", {}, gguf_vocabulary(vocabulary()))


def _sentencepiece(folder: Path) -> None:
    from _language import write_tokenizer

    write_tokenizer(folder, vocabulary())


def _config(folder: Path) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    record = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu", **sizes}
    record |= {"max_position_embeddings": 128, "rms_norm_eps": 1e-5, "vocab_size": 96, "head_dim": 16}
    record |= {
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps(record, indent=1))


def register_language() -> None:
    subject("w.gguf", "front", weights, name="GGUF")(_gguf)
    subject("w.gguf", "bytes", texts, name="tokenizer: GGUF")(_gguf_vocabulary)
    subject("tokenizer.model", "bytes", texts, name="tokenizer: llama tokenizer.model")(_sentencepiece)
    subject("tokenizer_config.json", "text", texts, name="tokenizer: tokenizer_config.json")(_sentencepiece)
    subject("config.json", "text", config, name="config of a decoder")(_config)
