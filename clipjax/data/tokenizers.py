"""Token ids equal to the reference: CLIP's byte-level BPE (Radford et al. 2021, section 2.4).

Follows `open_clip.tokenizer.SimpleTokenizer` (open_clip 3.3): repair and clean the text, cut it into
letters, single digits and punctuation with `regex`, then merge bytes. The merges run in the `tokenizers`
library, which is not asked to split: its own splitting differs from `regex` on some Unicode text. No step
looks across a space, so the ids of a space-separated word are computed once and remembered.
"""

from __future__ import annotations

import functools
import hashlib
import html
import string
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import ftfy
import numpy as np
import regex
from tokenizers.models import BPE

from clipjax.config import config_dir
from clipjax.errors import DataError, UsageError, unknown_name

START, END = "<start_of_text>", "<end_of_text>"
_PIECES = regex.compile(
    rf"{START}|{END}|'s|'t|'re|'ve|'m|'ll|'d|[\p{{L}}]+|[\p{{N}}]|[^\s\p{{L}}\p{{N}}]+", regex.IGNORECASE
)
_WORDS_REMEMBERED = 2**18  # about 60 MB; the memory is emptied when it is full


@dataclass(frozen=True)
class TokenizerSpec:
    """What decides the ids of a text; part of the model card and of the key of stored text embeddings.

    Attributes:
        name: file in configs/tokenizers, without its ending.
        context_length: number of ids a text becomes, start, end and padding included.
        clean: "lower", "whitespace" (case is kept) or "canonicalize" (lower case without ASCII punctuation).
        sha256: digest of the merges file.
    """

    name: str
    context_length: int
    clean: str
    sha256: str


class Tokens(NamedTuple):
    """Ids int32 [N, context_length]; lengths int32 [N] up to and with the end token; truncated bool [N]."""

    ids: np.ndarray
    lengths: np.ndarray
    truncated: np.ndarray


def tokenizer_spec(name: str, context_length: int, clean: str = "lower") -> TokenizerSpec:
    """The spec of a tokenizer that ships with clipjax.

    Raises:
        UsageError: unknown name or cleaning, with the nearest ones, or a context too short for start and end.
    """
    if clean not in _CLEANINGS:
        raise unknown_name("text cleaning", clean, list(_CLEANINGS))
    if context_length < 2:
        raise UsageError(f"context_length is {context_length}; start and end of text alone take 2")
    return TokenizerSpec(name, context_length, clean, hashlib.sha256(_merges_file(name)).hexdigest())


@functools.cache
def load_tokenizer(spec: TokenizerSpec) -> Tokenizer:
    """The tokenizer of a spec (from `tokenizer_spec` or a card).

    Raises:
        UsageError: as `tokenizer_spec`.
        DataError: the merges file is not the one that the spec was made with.
    """
    if tokenizer_spec(spec.name, spec.context_length, spec.clean).sha256 != spec.sha256:
        raise DataError(
            f"configs/tokenizers/{spec.name}.txt is not the file that the model card names (sha256 "
            f"{spec.sha256[:12]}...); install the clipjax that wrote the card or convert the checkpoint again"
        )
    return Tokenizer(spec)


class Tokenizer:
    """Texts to ids: `tokenizer(["a photo of a cat"])` -> int32 [1, context_length], padded with 0.

    Attributes:
        spec: what was loaded.
        sha256: digest of the merges file.
        vocab_size, start_id, end_id: 49408, 49406 and 49407 for OpenAI's merges.
    """

    def __init__(self, spec: TokenizerSpec) -> None:
        self.spec = spec
        self.sha256 = spec.sha256
        merges, vocabulary = _read_merges(spec.name)
        self.vocab_size = len(vocabulary)
        self.start_id, self.end_id = vocabulary[START], vocabulary[END]
        self._clean = _CLEANINGS[spec.clean]
        self._words = _Words(BPE(vocab=vocabulary, merges=merges, end_of_word_suffix="</w>"), vocabulary)

    def __call__(self, texts: str | Sequence[str]) -> np.ndarray:
        """Ids of the texts, int32 [N, context_length]; warns with a count when texts were cut to fit.

        Raises:
            DataError: a text is not a string.
        """
        tokens = self.encode(texts)
        if cut := int(tokens.truncated.sum()):
            warnings.warn(
                f"{cut} of {len(texts)} texts were cut to {self.spec.context_length} tokens",
                stacklevel=2,
            )
        return tokens.ids

    def encode(self, texts: str | Sequence[str]) -> Tokens:
        """Ids, lengths and which texts were cut, without a warning.

        A text that is too long keeps its first tokens, the last of them replaced by the end of text.

        Raises:
            DataError: a text is not a string.
        """
        texts = [texts] if isinstance(texts, str) else texts
        limit = self.spec.context_length
        truncated = np.zeros(len(texts), bool)
        rows = []
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise DataError(f"text {i} is {text!r} ({type(text).__name__}), not a string")
            row = [
                self.start_id,
                *chain.from_iterable(map(self._words.__getitem__, self._clean(text).split())),
            ]
            truncated[i] = len(row) >= limit
            rows.append([*row[: limit - 1], self.end_id])
        ids = np.zeros((len(rows), limit), np.int32)
        filled = np.arange(limit) < np.fromiter(map(len, rows), np.int32, len(rows))[:, None]
        ids[filled] = np.fromiter(chain.from_iterable(rows), np.int32)
        return Tokens(ids, token_lengths(ids), truncated)


def token_lengths(ids: np.ndarray) -> np.ndarray:
    """Where a causal text tower reads: position of the highest id, which is the end of text, plus one.

    Ids beyond `token_lengths(ids).max()` change no embedding of the batch. A text that spells out the end
    token ends there, as it does for the reference's argmax.

    Args:
        ids: integers [N, L].

    Returns: int32 [N].
    """
    return ids.argmax(axis=-1).astype(np.int32) + 1


class _Words(dict[str, tuple[int, ...]]):
    """Ids of a cleaned word without spaces, computed on first use."""

    def __init__(self, bpe: BPE, vocabulary: dict[str, int]) -> None:
        super().__init__()
        self._bpe = bpe
        self._special = {token: vocabulary[token] for token in (START, END)}

    def __missing__(self, word: str) -> tuple[int, ...]:
        ids: list[int] = []
        for piece in _PIECES.findall(word):
            if piece in self._special:
                ids.append(self._special[piece])
            else:
                letters = "".join(map(_BYTE_LETTERS.__getitem__, piece.encode()))
                ids.extend(token.id for token in self._bpe.tokenize(letters))
        if len(self) >= _WORDS_REMEMBERED:
            self.clear()
        self[word] = tuple(ids)
        return self[word]


def _byte_letters() -> list[str]:
    """One visible letter for each byte (GPT-2): itself if printable Latin-1, else the next from U+0100 on."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in visible else chr(next(others)) for byte in range(256)]


_BYTE_LETTERS = _byte_letters()


@functools.cache
def _merges_file(name: str) -> bytes:
    folder = config_dir() / "tokenizers"
    known = sorted(path.stem for path in folder.glob("*.txt"))
    if name not in known:
        raise unknown_name("tokenizer", name, known)
    return (folder / f"{name}.txt").read_bytes()


@functools.cache
def _read_merges(name: str) -> tuple[list[tuple[str, str]], dict[str, int]]:
    """(merges by rank, {token: id}).

    Ids in order: visible bytes, the other bytes, both again as word ends, merges, start of text, end of text.
    """
    merges = []
    for number, line in enumerate(_merges_file(name).decode().splitlines()[1:], start=2):
        match line.split():
            case [left, right]:
                merges.append((left, right))
            case _:
                raise DataError(
                    f"configs/tokenizers/{name}.txt:{number}: expected two tokens; reinstall clipjax"
                )
    letters = sorted(_BYTE_LETTERS)
    tokens = [*letters, *(letter + "</w>" for letter in letters), *(a + b for a, b in merges), START, END]
    return merges, {token: i for i, token in enumerate(tokens)}


def _repair(text: str) -> str:
    """ftfy, then HTML entities twice. Neither changes printable ASCII without an ampersand."""
    if text.isascii() and text.isprintable() and "&" not in text:
        return text
    return html.unescape(html.unescape(ftfy.fix_text(text)))


def _keep_case(text: str) -> str:
    return " ".join(_repair(text).split())


def _lower(text: str) -> str:
    return _keep_case(text).lower()


def _canonicalize(text: str) -> str:
    """big_vision's canonical text: no ASCII punctuation (an underscore is a space), lower case."""
    return " ".join(_repair(text).replace("_", " ").translate(_NO_PUNCTUATION).lower().split())


_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CLEANINGS: dict[str, Callable[[str], str]] = {
    "lower": _lower,
    "whitespace": _keep_case,
    "canonicalize": _canonicalize,
}
