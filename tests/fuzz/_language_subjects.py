"""Subjects of the fuzzer: files of language models."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
from _subject import plain, subject


def weights(folder: Path) -> Any:
    from clipjax.storage.formats.gguf import read_gguf
    from converters.foreign.llama import gguf_config
    from converters.gguf_llama import gguf_source

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


def foreign(folder: Path) -> Any:
    from clipjax.checkpoints.card import card_from_dict
    from converters.foreign import read_foreign_card

    record = read_foreign_card(folder)
    return None if record is None else card_from_dict(record, "here").to_dict()


def prompt(folder: Path) -> Any:
    from clipjax.checkpoints.language_parts import own_chat

    return str(own_chat(folder))


def file_of_parts(folder: Path) -> Any:
    from converters.sources import open_source

    return plain(
        {name: tensor.read() for name, tensor in open_source(folder / "latest-checkpoint.pt").items()}
    )


def _prismatic(folder: Path) -> None:
    model = {"vision_backbone_id": "clip-vit-l-336px", "llm_backbone_id": "vicuna-v15-7b"}
    model |= {"arch_specifier": "no-align+gelu-mlp", "image_resize_strategy": "letterbox"}
    (folder / "config.json").write_text(json.dumps({"model": model, "seed": 7}, indent=1))


def _llava(folder: Path) -> None:
    from transformers import CLIPImageProcessor, LlavaConfig

    size: Any = {"shortest_edge": 336}
    CLIPImageProcessor(size=size, crop_size=336).save_pretrained(folder)  # type: ignore[reportCallIssue]
    LlavaConfig().save_pretrained(folder)


def _template(folder: Path) -> None:
    turn = "USER: <image>\n{% for m in messages %}{{ m['content'][1]['text'] }}{% endfor %} ASSISTANT:"
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": turn}))


def _parts(folder: Path) -> None:
    import torch

    parts = {"projector": {"projector.0.weight": torch.ones(3, 2)}, "llm_backbone": {"llm.w": torch.zeros(2)}}
    torch.save({"model": parts}, folder / "latest-checkpoint.pt")


def register_language() -> None:
    subject("config.json", "text", foreign, name="config of Prismatic")(_prismatic)
    subject("config.json", "text", foreign, name="config of LLaVA")(_llava)
    subject("chat_template.json", "text", prompt, name="chat template of LLaVA")(_template)
    subject("latest-checkpoint.pt", "bytes", file_of_parts, name="checkpoint of Prismatic")(_parts)
    subject("w.gguf", "front", weights, name="GGUF")(_gguf)
    subject("w.gguf", "bytes", texts, name="tokenizer: GGUF")(_gguf_vocabulary)
    subject("tokenizer.model", "bytes", texts, name="tokenizer: llama tokenizer.model")(_sentencepiece)
    subject("tokenizer_config.json", "text", texts, name="tokenizer: tokenizer_config.json")(_sentencepiece)
    subject("config.json", "text", config, name="config of a decoder")(_config)
