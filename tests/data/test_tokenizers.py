"""Token ids against open_clip's SimpleTokenizer itself."""

from __future__ import annotations

import dataclasses
import html
import random
import re
import subprocess
import sys
import warnings

import ftfy
import numpy as np
import pytest
import regex
from open_clip import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES
from open_clip.tokenizer import SimpleTokenizer
from tokenizers.models import BPE

from clipjax.data import tokenizers
from clipjax.data.tokenizers import Tokenizer, load_tokenizer, token_lengths, tokenizer_spec
from clipjax.errors import DataError, UsageError

HAND_WRITTEN = [
    "",
    " ",
    " \t\n\r\x0b\x0c ",
    "\u00a0\u2003\u3000",
    "a",
    "A photo of a CAT.",
    "  a   photo\tof\n\na cat  ",
    "it's we're they've I'm you'll he'd don't IT'S 'S ''s '",
    "123 4567 1.5 ½ ² ٣ ৪ Ⅷ 一二三",
    "!!! ... ?!?! ---- ___ #hashtag @user $9.99 50% a_b-c/d\\e",
    "&amp; &lt;b&gt; &amp;amp; &amp;lt; &nbsp;x&nbsp; &#39;s &#x1F600; &notanentity; &copy &hearts;",
    "<b>bold</b> &amp; <i>x</i>",
    "a < b with entities of entities: &amp;lt;tag&amp;gt;",
    "<|endoftext|> <|startoftext|> <start_of_text> <end_of_text> <START_OF_TEXT>",
    "a<end_of_text>b<start_of_text><end_of_text>s 's<end_of_text>'s",
    "</w> a</w> </w>b",
    "😀 👩‍👩‍👧‍👦 🇩🇪 👍🏽 ❤️ ☺︎",
    "e\u0301 n\u0303 a\u0308o\u0308 \u0301 क्षि กำ ﷺ",
    "Привет мир; γειά σου; שלום; مرحبا; नमस्ते; 你好，世界; こんにちは; 안녕하세요; สวัสดี",
    "İSTANBUL ıİ ß ẞ ǅ ﬁ ﬂ ＡＢＣ",
    "“quoted” ‘single’ «guillemets» – — … • ™ ®",
    "Ã©tÃ© â€œmojibakeâ€\x9d schÃ¶n",
    "zero\u200bwidth\u200djoiner\ufeffbom\u00adsoft\u2060",
    "control\x00\x01\x07\x1b[31mred\x1b[0m\x7f\x80\x9f end",
    "\x1c\x1d\x1e\x1f\x85\u2028\u2029",
    "lone surrogate \ud800 and pair \ud83d\ude00",
    "a" * 1000,
    "word " * 200,
    "!" * 300,
    "pneumonoultramicroscopicsilicovolcanoconiosis " * 20,
    *("dog " * n for n in range(73, 79)),
    *("dog " * n + "<end_of_text>" for n in range(73, 79)),
]
SPECIAL = "<start_of_text>|<end_of_text>|"
RANGES = [
    (0x20, 0x7F),
    (0x00, 0x100),
    (0xA0, 0x250),
    (0x250, 0x370),
    (0x370, 0x530),
    (0x590, 0x780),
    (0x900, 0xE80),
    (0x1E00, 0x2C00),
    (0x3000, 0x3200),
    (0x4E00, 0x5200),
    (0xAC00, 0xB000),
    (0xF900, 0x10000),
    (0x1D400, 0x1D800),
    (0x1F300, 0x1FB00),
    (0x00, 0x30000),
]
FRAGMENTS = [
    *(
        "'s",
        "'LL",
        " ",
        "  ",
        "&amp;",
        "&#",
        "&lt",
        ";",
        "<",
        "</w>",
        "<end_of_text>",
        "<START_OF_TEXT>",
        "a photo",
    ),
    *("\u0301", "\u200d", "é", "İ", "１", "_", "\t", "\n", "10", "cat", "Dog", ".", "…", "😀"),
]


def fuzz(count: int, seed: int) -> list[str]:
    """Strings of characters from one or two Unicode ranges, broken up by fragments that mean something."""
    rng = random.Random(seed)
    texts = []
    for _ in range(count):
        spans = rng.choices(RANGES, k=rng.randint(1, 2))
        parts = [
            rng.choice(FRAGMENTS) if rng.random() < 0.25 else chr(rng.randrange(*rng.choice(spans)))
            for _ in range(rng.randint(1, 60))
        ]
        texts.append("".join(parts))
    return texts


@pytest.fixture(scope="module")
def texts() -> list[str]:
    rng = random.Random(0)
    prompts = [rng.choice(OPENAI_IMAGENET_TEMPLATES)(name) for name in IMAGENET_CLASSNAMES]
    return [*HAND_WRITTEN, *IMAGENET_CLASSNAMES, *prompts, *fuzz(2500, seed=0)]


@pytest.fixture(scope="module")
def reference(texts) -> np.ndarray:
    """open_clip's ids of the texts, [N, 77]."""
    return SimpleTokenizer()(texts).numpy()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(tokenizer_spec("openai_bpe", 77))


def differing(mine: np.ndarray, reference: np.ndarray) -> int:
    return int((mine != reference).any(axis=1).sum())


@pytest.mark.parametrize(
    ("context_length", "clean"), [(77, "lower"), (16, "lower"), (77, "whitespace"), (64, "canonicalize")]
)
def test_ids_equal_open_clip(context_length, clean, texts):
    mine = load_tokenizer(tokenizer_spec("openai_bpe", context_length, clean)).encode(texts).ids
    reference = SimpleTokenizer(context_length=context_length, clean=clean)(texts).numpy()
    assert len(texts) >= 2000
    assert mine.shape == reference.shape
    assert mine.dtype == np.int32
    wrong = np.flatnonzero((mine != reference).any(axis=1))
    assert not len(wrong), [texts[i] for i in wrong[:5]]


def test_remembered_words_give_the_same_ids(texts, tokenizer, monkeypatch):
    first = tokenizer.encode(texts).ids
    monkeypatch.setattr(tokenizers, "_WORDS_REMEMBERED", 10)
    forgetful = Tokenizer(tokenizer.spec)
    np.testing.assert_array_equal(forgetful.encode(texts).ids, first)
    assert len(forgetful._words) <= 10
    np.testing.assert_array_equal(tokenizer.encode(texts[::-1]).ids, first[::-1])


def test_vocabulary_equals_open_clip(tokenizer):
    reference = SimpleTokenizer()
    _, vocabulary = tokenizers._read_merges("openai_bpe")
    assert vocabulary == reference.encoder
    assert (tokenizer.vocab_size, tokenizer.start_id, tokenizer.end_id) == (49408, 49406, 49407)


# Lengths and truncation


def test_lengths_are_where_the_reference_reads(texts, reference, tokenizer):
    tokens = tokenizer.encode(texts)
    np.testing.assert_array_equal(tokens.lengths, reference.argmax(axis=-1) + 1)
    np.testing.assert_array_equal(token_lengths(tokens.ids), tokens.lengths)
    assert (tokens.ids[np.arange(len(texts)), tokens.lengths - 1] == tokenizer.end_id).all()


def test_truncated_texts_are_marked_and_end_with_the_end(texts, tokenizer):
    tokens = tokenizer.encode(texts)
    encode = SimpleTokenizer().encode
    whole = [len(encode(text)) + 2 for text in texts[: len(HAND_WRITTEN)]]
    assert {77, 78} <= set(whole)
    np.testing.assert_array_equal(tokens.truncated[: len(whole)], np.array(whole) > 77)
    assert (tokens.ids[tokens.truncated, -1] == tokenizer.end_id).all()


def test_call_warns_how_many_were_cut(tokenizer):
    with pytest.warns(UserWarning, match="2 of 3 texts were cut to 77 tokens"):
        ids = tokenizer(["a " * 100, "a cat", "b " * 90])
    assert ids.shape == (3, 77)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(tokenizer("a cat"), [[49406, 320, 2368, 49407] + [0] * 73])
        assert tokenizer([]).shape == (0, 77)


# What the comparison must see


@pytest.mark.parametrize(
    ("target", "mutant"),
    [
        ("_lower", tokenizers._keep_case),
        ("_repair", lambda text: text.encode(errors="replace").decode()),
        ("_repair", ftfy.fix_text),
        ("_repair", lambda text: html.unescape(ftfy.fix_text(text))),
        (
            "_PIECES",
            re.compile(rf"{SPECIAL}'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|(?:[^\s\w]|_)+", re.IGNORECASE),
        ),
        ("_PIECES", regex.compile(tokenizers._PIECES.pattern.replace(r"[\p{N}]|", r"[\p{N}]+|"), regex.I)),
        ("_PIECES", regex.compile(tokenizers._PIECES.pattern)),
        ("_BYTE_LETTERS", [chr(0x100 + byte) for byte in range(256)]),
    ],
    ids=[
        "no lower case",
        "no repair",
        "no entities",
        "entities once",
        "re for regex",
        "numbers not cut",
        "case of contractions",
        "wrong byte letters",
    ],
)
def test_mistake_is_seen(target, mutant, texts, reference, monkeypatch):
    monkeypatch.setattr(tokenizers, target, mutant)
    if target == "_lower":
        monkeypatch.setitem(tokenizers._CLEANINGS, "lower", mutant)
    mine = Tokenizer(tokenizer_spec("openai_bpe", 77)).encode(texts).ids
    assert differing(mine, reference) > 0


def test_missing_end_of_word_or_truncation_is_seen(texts, reference, tokenizer):
    cut = tokenizer.encode(texts)
    without_end = np.where(cut.truncated[:, None] & (np.arange(77) == 76), 0, cut.ids)
    assert differing(without_end, reference) == cut.truncated.sum() > 5
    merges, vocabulary = tokenizers._read_merges("openai_bpe")
    no_suffix = Tokenizer(tokenizer.spec)
    no_suffix._words._bpe = BPE(vocab=vocabulary, merges=merges)
    assert differing(no_suffix.encode(texts).ids, reference) > 1000


# Specs and bad input


def test_spec_names_the_file_by_its_digest(tokenizer):
    spec = tokenizer_spec("openai_bpe", 77)
    assert dataclasses.asdict(spec) == {
        "name": "openai_bpe",
        "context_length": 77,
        "clean": "lower",
        "sha256": "2f8b2ced075ab272bf27eba898c2a8eaf5c6ee87b8ea686c40300de57dae2329",
    }
    assert tokenizer.sha256 == spec.sha256
    assert load_tokenizer(spec) is tokenizer
    with pytest.raises(
        DataError, match=r"openai_bpe\.txt is not the file that the model card names \(sha256 0000"
    ):
        load_tokenizer(dataclasses.replace(spec, sha256="0" * 64))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("openai_bp", 77), "unknown tokenizer 'openai_bp'; did you mean openai_bpe"),
        (("README", 77), "unknown tokenizer 'README'"),
        (("openai_bpe", 77, "lowercase"), "unknown text cleaning 'lowercase'; did you mean lower"),
        (("openai_bpe", 1), "context_length is 1"),
    ],
)
def test_spec_refuses_what_does_not_exist(arguments, message):
    with pytest.raises(UsageError, match=message):
        tokenizer_spec(*arguments)


@pytest.mark.parametrize("bad", [None, 3.5, float("nan"), b"bytes", ["nested"]])
def test_text_that_is_no_string_is_named(bad, tokenizer):
    with pytest.raises(DataError, match=r"text 1 is .* \((NoneType|float|bytes|list)\), not a string"):
        tokenizer(["a cat", bad])


def test_damaged_merges_file_is_named(monkeypatch):
    monkeypatch.setattr(tokenizers, "_merges_file", lambda name: b"# header\na b\na b c\n")
    tokenizers._read_merges.cache_clear()
    with pytest.raises(DataError, match=r"openai_bpe\.txt:3: expected two tokens"):
        tokenizers._read_merges("openai_bpe")


def test_imports_without_torch():
    code = "import sys, clipjax.data.tokenizers; assert not {'torch', 'open_clip', 'jax'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
