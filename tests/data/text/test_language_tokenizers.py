"""Tokenizers of language models against sentencepiece, `tokenizers` and transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers
from _ggml import write_gguf
from _language import (
    CORPUS,
    TEMPLATE,
    gguf_vocabulary,
    sentencepiece_model,
    tokenizer_config,
    write_tokenizer,
)
from _texts import HAND_WRITTEN, fuzz
from tokenizers import decoders, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from clipjax.data.text.language_tokenizers import load_language_tokenizer
from clipjax.errors import DataError, UsageError

MODEL = sentencepiece_model()
CHAT = [
    {"role": "user", "content": "a <b> of 12"},
    {"role": "assistant", "content": "no"},
    {"role": "user", "content": " why? "},
]


def texts() -> list[str]:
    """Without half surrogates, which sentencepiece cannot take, and without names of special tokens."""
    every = [*HAND_WRITTEN, *CORPUS[::40], *fuzz(600, seed=3), "A.teapot\nB.bench", "  1984  12 "]
    special = ("<s>", "</s>", "<unk>")
    plain = [
        t for t in every if t == t.encode(errors="replace").decode() and not any(s in t for s in special)
    ]
    return [text for text in plain if "\0" not in text]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("llama"), MODEL)


def test_sentencepiece_pieces_and_texts_again(llama: Path) -> None:
    ours, theirs = load_language_tokenizer(llama), sentencepiece.SentencePieceProcessor(model_proto=MODEL)
    assert (ours.vocab_size, ours.bos, ours.eos) == (theirs.vocab_size(), 1, (2,))
    assert len(texts()) > 600
    for text in texts():
        ids = theirs.encode(text)
        assert ours.encode(text) == ids, text
        assert ours.encode(text, special=True) == [1, *ids]
        assert ours.decode([1, *ids, 2, -1, -1]) == text
    assert ours.encode("<s>a</s>") == [1, *theirs.encode("a"), 2]


def test_the_same_vocabulary_from_gguf(llama: Path, tmp_path: Path) -> None:
    ours = load_language_tokenizer(write_gguf(tmp_path / "w.gguf", {}, gguf_vocabulary(MODEL)))
    model = load_language_tokenizer(llama)
    assert (ours.vocab_size, ours.bos, ours.eos) == (model.vocab_size, 1, (2,))
    for text in texts()[::4]:
        assert ours.encode(text, special=True) == model.encode(text, special=True), text
    assert ours.chat(CHAT) == model.chat(CHAT)
    changed = gguf_vocabulary(MODEL) | {
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_eos_token": True,
    }
    other = load_language_tokenizer(write_gguf(tmp_path / "o.gguf", {}, changed))
    assert other.encode("a", special=True) == [*model.encode("a"), 2]


def byte_level(folder: Path, digits: bool) -> tokenizers.Tokenizer:
    """A tokenizer.json with SmolLM2's steps, a BOS around texts and a special token."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    first = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*first, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        [*CORPUS, *["  12   1984 (x)"] * 300],
        trainers.BpeTrainer(
            vocab_size=500, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=12)
    tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    names = {
        "bos_token": {"content": "<|im_start|>", "lstrip": False},
        "eos_token": "<|im_end|>",
        "unk_token": None,
    }
    config = tokenizer_config(**names, tokenizer_class="PreTrainedTokenizerFast", add_bos_token=None)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return tokenizer


def test_a_tokenizer_json_is_read_as_it_is(tmp_path: Path) -> None:
    theirs = byte_level(tmp_path, digits=True)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 0]}')
    ours = load_language_tokenizer(tmp_path)
    assert (ours.vocab_size, ours.bos, ours.eos) == (500, 1, (0, 2))
    for text in texts()[::3]:
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids, text
        assert ours.encode(text, special=True) == theirs.encode(text).ids
        assert ours.decode(ours.encode(text, special=True)) == text
    reference = PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "tokenizer.json"),
        chat_template=TEMPLATE,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
    )
    expected: Any = reference.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    assert ours.chat(CHAT) == expected


def test_digits_are_split_first_as_smollm2_does(tmp_path: Path) -> None:
    theirs = byte_level(tmp_path, digits=True)
    model = json.loads(theirs.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    record = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": [" ".join(merge) for merge in model["merges"]],
        "tokenizer.ggml.token_type": [3 if i < 3 else 1 for i in range(len(tokens))],
    }
    files = {
        pre: write_gguf(tmp_path / pre, {}, {**record, "tokenizer.ggml.pre": pre})
        for pre in ("smollm", "gpt-2")
    }
    smollm, gpt2 = (load_language_tokenizer(file) for file in files.values())
    assert (smollm.bos, smollm.eos, smollm.encode("a", special=True)) == (None, (), smollm.encode("a"))
    differing = 0
    for text in texts():
        ids = smollm.encode(text)
        assert ids == theirs.encode(text, add_special_tokens=False).ids, text
        differing += ids != gpt2.encode(text)
    assert differing > 3
    assert smollm.encode("in  1984") != gpt2.encode("in  1984")


def test_chat_templates(llama: Path, tmp_path: Path) -> None:
    ours = load_language_tokenizer(llama)
    assert ours.chat(CHAT[:1]) == "<s>[INST] a <b> of 12 [/INST]"
    with pytest.raises(DataError, match="only users and assistants speak"):
        ours.chat([{"role": "system", "content": "x"}])
    with pytest.raises(UsageError, match="is not a message"):
        ours.chat([{"role": "user"}])
    for template, message in (
        ("{{ messages[0].content.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
        ("{% for %}", "TemplateSyntaxError"),
        ("{{ messages[0]['content'] + 1 }}", "TypeError"),
    ):
        other = load_language_tokenizer(write_tokenizer(tmp_path, MODEL, chat_template=template))
        with pytest.raises(DataError, match=rf"tokenizer_config\.json: the chat template .*{message}"):
            other.chat(CHAT)
    several = [{"name": "tools", "template": "x"}, {"name": "default", "template": "{{ eos_token }}"}]
    assert (
        load_language_tokenizer(write_tokenizer(tmp_path, MODEL, chat_template=several)).chat(CHAT) == "</s>"
    )
    (tmp_path / "chat_template.jinja").write_text("{{ messages | tojson }}")
    assert load_language_tokenizer(tmp_path).chat(CHAT) == json.dumps(CHAT)
    (tmp_path / "chat_template.jinja").unlink()
    without = load_language_tokenizer(write_tokenizer(tmp_path, MODEL, chat_template=None))
    with pytest.raises(UsageError, match="has no chat template: give the prompt as text"):
        without.chat(CHAT)


def test_what_is_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no tokenizer: neither tokenizer\.json nor tokenizer\.model"):
        load_language_tokenizer(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        load_language_tokenizer(tmp_path / "x")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=r"tokenizer_config\.json is missing"):
        load_language_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer_config()))
    with pytest.raises(DataError, match="the tokenizer is damaged"):
        load_language_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer.model").write_bytes(MODEL[:1001])
    with pytest.raises(DataError, match="the tokenizer is damaged"):
        load_language_tokenizer(tmp_path)
    with pytest.raises(DataError, match="is not text"):
        load_language_tokenizer(write_tokenizer(tmp_path, MODEL)).encode(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "bert"}, r"tokenizer\.ggml\.model is 'bert'; clipjax reads gpt2 and llama"),
        ({"model": "gpt2", "pre": "qwen2"}, "pre is 'qwen2'; clipjax splits texts as smollm, gpt-2"),
        ({"model": "gpt2", "pre": "smollm"}, "it lacks 'merges'"),
        ({"model": "gpt2", "pre": "smollm", "merges": ["a b c"]}, "'a b c' is not a merge"),
        ({"scores": [0.0]}, "is damaged"),
        ({"unknown_token_id": 10**6}, "the unknown piece has the id 1000000"),
        ({"tokens": ["a", "a"], "scores": [0.0, 0.0], "token_type": [1, 1]}, "'a' appears twice"),
        ({"tokens": ["a", "b" * 600], "scores": [0.0, 0.0], "token_type": [2, 1]}, "600 characters"),
    ],
)
def test_gguf_metadata_that_is_no_tokenizer(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    record = gguf_vocabulary(MODEL) | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    with pytest.raises(DataError, match=message):
        load_language_tokenizer(write_gguf(tmp_path / "w", {}, record))


def test_sentencepiece_of_another_kind(tmp_path: Path) -> None:
    """The unigram models of SigLIP are not read as a BPE."""
    raw = bytearray(MODEL)
    at = raw.index(b"\x18\x02", len(MODEL) // 2)  # model_type: BPE
    raw[at + 1] = 1
    with pytest.raises(DataError, match="not a BPE that keeps all spaces"):
        load_language_tokenizer(write_tokenizer(tmp_path, bytes(raw)))


def test_ids_are_whole_numbers(llama: Path) -> None:
    assert load_language_tokenizer(llama).decode([3 + 65, 3 + 66]) == "AB"
