"""Small vocabularies in the formats of SigLIP's, SigLIP 2's and (XLM-)RoBERTa's, in folders as the hub's."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers
from open_clip import IMAGENET_CLASSNAMES
from open_clip.tokenizer import HFTokenizer
from tokenizers import normalizers, pre_tokenizers, trainers

from clipjax.data.text import vocabularies

PIECES = 1200  # of the sentencepiece models
CORPUS = [
    *(f"a photo of a {name}, in the style of {i}." for i, name in enumerate(IMAGENET_CLASSNAMES)),
    *["Привет мир γειά σου שלום مرحبا नमस्ते 你好 世界 こんにちは 안녕하세요 0123456789 .,!?'\"-()<>&;:/"] * 20,
]
# What a folder's tokenizer_config.json tells transformers; the special tokens of a sentencepiece model.
CONFIGS = {
    "siglip": {"tokenizer_class": "T5Tokenizer", "extra_ids": 0, "pad_token": "</s>", "legacy": False},
    "xlm_roberta": {"tokenizer_class": "XLMRobertaTokenizer"},
    "roberta": {"tokenizer_class": "RobertaTokenizer"},
    "gemma": {
        "tokenizer_class": "GemmaTokenizer",
        "padding_side": "right",
        **{f"{name}_token": f"<{name}>" for name in ("pad", "eos", "bos", "unk", "mask")},
    },
}
SPECIAL_IDS: dict[str, dict[str, Any]] = {
    "siglip": {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
    "xlm_roberta": {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1},
}


def small_rules(real: dict[str, vocabularies.VocabularyRules]) -> dict[str, vocabularies.VocabularyRules]:
    """The shipped rules with the sizes of these vocabularies: all else is the real tokenizers'."""
    sizes = {"siglip": PIECES, "xlm_roberta": PIECES + 2, "xlm_v": PIECES + 2, "roberta": 700}
    sizes |= {"gemma": 900}
    return {
        name: dataclasses.replace(
            own,
            vocab_size=sizes[name],
            special={token: min(number, sizes[name] - 1) for token, number in own.special.items()},
        )
        for name, own in real.items()
    }


def pieces(**ids: Any) -> bytes:
    """A sentencepiece model."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=model, vocab_size=PIECES, minloglevel=2, **ids
    )
    return model.getvalue()


def write_folders(root: Path) -> None:
    """root/NAME/FORMAT for every tokenizer and every set of files that it may come in."""
    for name, ids in SPECIAL_IDS.items():
        file = {"siglip": "spiece.model", "xlm_roberta": "sentencepiece.bpe.model"}[name]
        folder = _folder(root, name, "model")
        (folder / file).write_bytes(pieces(**ids))
        _write_json(_folder(root, name, "json"), folder)
    folder = _folder(root, "roberta", "files")
    _write_byte_bpe(folder)
    _write_json(_folder(root, "roberta", "json"), folder)
    _write_gemma(_folder(root, "gemma", "json"))


def _folder(root: Path, name: str, kind: str) -> Path:
    folder = root / name / kind
    folder.mkdir(parents=True)
    (folder / "tokenizer_config.json").write_text(json.dumps(CONFIGS[name]))
    return folder


def _write_json(folder: Path, source: Path) -> None:
    """A tokenizer.json as the hub's are: by an older transformers, whose <mask> takes the space before it."""
    HFTokenizer(str(source)).tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    record = json.loads((folder / "tokenizer.json").read_text())
    record |= {"truncation": None, "padding": None}
    for token in record["added_tokens"]:
        token["lstrip"] = token["content"] == "<mask>"
    (folder / "tokenizer.json").write_text(json.dumps(record))


def _write_byte_bpe(folder: Path) -> None:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=699,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"] | {"<mask>": 699}))
    (folder / "merges.txt").write_text(
        "\n".join(["#version: 0.2", *map(" ".join, _pairs(model["merges"])), ""])
    )


def _write_gemma(folder: Path) -> None:
    """Special tokens, bytes, then pieces; texts get an end token, as SigLIP 2's file says."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    names = [*special, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=names, max_token_length=12, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS[:1000], trainer)
    record = json.loads(tokenizer.to_str())
    record["model"] |= {"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}
    record["added_tokens"] = [token for token in record["added_tokens"] if token["content"] in special]
    end = {"SpecialToken": {"id": "<eos>", "type_id": 0}}
    sequence = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
    record["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [sequence[0], end],
        "pair": [sequence[0], end, sequence[1], end],
        "special_tokens": {"<eos>": {"id": "<eos>", "ids": [1], "tokens": ["<eos>"]}},
    }
    (folder / "tokenizer.json").write_text(json.dumps(record))


def _pairs(merges: Iterable[str | list[str]]) -> Iterable[list[str]]:
    return (merge.split(" ") if isinstance(merge, str) else merge for merge in merges)
