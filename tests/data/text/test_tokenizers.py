"""Token ids against open_clip's SimpleTokenizer itself."""

from __future__ import annotations

import dataclasses
import functools
import html
import random
import re
import warnings
from collections.abc import Callable

import ftfy
import numpy as np
import pytest
import regex
from _long import mostly_long
from _texts import HAND_WRITTEN, fuzz
from open_clip import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES
from open_clip.tokenizer import SimpleTokenizer
from tokenizers.models import BPE

from clipjax.data.text import tokenizers
from clipjax.data.text.tokenizers import Tokenizer, load_tokenizer, tokenizer_spec
from clipjax.errors import DataError, UsageError

SPECIAL = "<start_of_text>|<end_of_text>|"


@pytest.fixture(scope="module")
def texts() -> list[str]:
    rng = random.Random(0)
    prompts = [rng.choice(OPENAI_IMAGENET_TEMPLATES)(name) for name in IMAGENET_CLASSNAMES]
    return [*HAND_WRITTEN, *prompts, *fuzz(1200, seed=0)]


@pytest.fixture(scope="module")
def references(texts) -> Callable[[int, str], np.ndarray]:
    """(context length, cleaning) -> open_clip's ids of the texts, [N, L]."""
    return functools.cache(
        lambda context, clean: SimpleTokenizer(context_length=context, clean=clean)(texts).numpy()
    )


@pytest.fixture(scope="module")
def reference(references) -> np.ndarray:
    """open_clip's own settings, [N, 77]."""
    return references(77, "lower")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(tokenizer_spec("openai_bpe", 77))


def words(tokenizer: Tokenizer) -> tokenizers._Words:
    """The remembered words of CLIP's tokenizer."""
    return tokenizer._bodies.__self__  # type: ignore[attr-defined]


def differing(mine: np.ndarray, reference: np.ndarray) -> int:
    return int((mine != reference).any(axis=1).sum())


ROBERTA_CLEANS = "data/text/test_tokenizers_hf.py::test_ids_equal_open_clip"  # in the same way


@pytest.mark.parametrize(
    ("context_length", "clean"),
    [
        *mostly_long(
            [(77, "lower"), (16, "lower"), (64, "canonicalize")], keep=[(77, "lower"), (64, "canonicalize")]
        ),
        pytest.param(77, "whitespace", marks=pytest.mark.long(ROBERTA_CLEANS)),
    ],
)
def test_ids_equal_open_clip(context_length, clean, texts, references):
    mine = load_tokenizer(tokenizer_spec("openai_bpe", context_length, clean)).encode(texts).ids
    reference = references(context_length, clean)
    assert len(texts) >= 2000
    assert mine.shape == reference.shape
    assert mine.dtype == np.int32
    wrong = np.flatnonzero((mine != reference).any(axis=1))
    assert not len(wrong), [texts[i] for i in wrong[:5]]


def test_remembered_words_give_the_same_ids(texts, tokenizer, monkeypatch):
    texts = texts[::3]
    first = tokenizer.encode(texts).ids
    monkeypatch.setattr(tokenizers, "_WORDS_REMEMBERED", 10)
    forgetful = Tokenizer(tokenizer.spec)
    np.testing.assert_array_equal(forgetful.encode(texts).ids, first)
    assert len(words(forgetful)) <= 10
    np.testing.assert_array_equal(tokenizer.encode(texts[::-1]).ids, first[::-1])


def test_vocabulary_equals_open_clip(tokenizer):
    reference = SimpleTokenizer()
    _, vocabulary = tokenizers._read_merges()
    assert vocabulary == reference.encoder
    assert (tokenizer.vocab_size, tokenizer.start, tokenizer.end) == (49408, (49406,), (49407,))


# Lengths and truncation


def test_lengths_are_those_without_padding(texts, reference, tokenizer):
    tokens = tokenizer.encode(texts)
    np.testing.assert_array_equal(tokens.lengths, 77 - (reference[:, ::-1] != 0).argmax(axis=1))
    assert (tokens.ids[np.arange(len(texts)), tokens.lengths - 1] == tokenizer.end).all()


def test_truncated_texts_are_marked_and_end_with_the_end(texts, tokenizer):
    tokens = tokenizer.encode(texts)
    encode = SimpleTokenizer().encode
    whole = [len(encode(text)) + 2 for text in texts[: len(HAND_WRITTEN)]]
    assert {77, 78} <= set(whole)
    np.testing.assert_array_equal(tokens.truncated[: len(whole)], np.array(whole) > 77)
    assert (tokens.ids[tokens.truncated, -1] == tokenizer.end).all()


def test_call_warns_how_many_were_cut(tokenizer):
    with pytest.warns(UserWarning, match="2 of 3 texts were cut to 77 tokens"):
        ids = tokenizer(["a " * 100, "a cat", "b " * 90])
    assert ids.shape == (3, 77)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(tokenizer("a cat"), [[49406, 320, 2368, 49407] + [0] * 73])
        assert tokenizer([]).shape == (0, 77)


# What the comparison must see


MISTAKES = [
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
]


@pytest.mark.parametrize(
    ("target", "mutant"),
    mostly_long(MISTAKES, keep=[MISTAKES[0], MISTAKES[6]]),
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
    merges, vocabulary = tokenizers._read_merges()
    no_suffix = Tokenizer(tokenizer.spec)
    words(no_suffix)._bpe = BPE(vocab=vocabulary, merges=merges)
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
    monkeypatch.setattr(tokenizers, "_merges_file", lambda: b"# header\na b\na b c\n")
    tokenizers._read_merges.cache_clear()
    with pytest.raises(DataError, match=r"openai_bpe\.txt:3: expected two tokens"):
        tokenizers._read_merges()
