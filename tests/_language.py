"""Small language models in the formats of the real ones: transformers' folders, sentencepiece, GGUF."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import sentencepiece
from open_clip import IMAGENET_CLASSNAMES

PIECES = 600
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}"
    "{% else %}{{ raise_exception('only users and assistants speak') }}{% endif %}{% endfor %}"
)
CORPUS = [
    *(f"a photo of a {name}, in the style of {i}." for i, name in enumerate(IMAGENET_CLASSNAMES)),
    *["What is the main object in this image? Choose from the list: A.teapot B.bench\n"] * 20,
]


def sentencepiece_model() -> bytes:
    """A vocabulary with the settings of Llama's."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=model,
        vocab_size=PIECES,
        model_type="bpe",
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        minloglevel=2,
    )
    return model.getvalue()


def tokenizer_config(**changes: Any) -> dict[str, Any]:
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True}
    return {"tokenizer_class": "LlamaTokenizer", **names, "chat_template": TEMPLATE, **changes}


def write_tokenizer(folder: Path, model: bytes, **changes: Any) -> Path:
    """tokenizer.model with its tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model)
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config(**changes)))
    return folder


def gguf_vocabulary(model: bytes) -> dict[str, Any]:
    """The same pieces as GGUF metadata."""
    own = sentencepiece.SentencePieceProcessor(model_proto=model)
    size = own.vocab_size()
    kinds = [
        next(
            (
                kind
                for kind, test in ((2, own.is_unknown), (3, own.is_control), (6, own.is_byte))
                if test(piece)
            ),
            1,
        )
        for piece in range(size)
    ]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [own.id_to_piece(i) for i in range(size)],
        "tokenizer.ggml.scores": [float(own.get_score(i)) for i in range(size)],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.chat_template": TEMPLATE,
    }
