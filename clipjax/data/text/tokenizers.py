"""Token ids equal to the reference: CLIP's byte-level BPE, SigLIP's and (XLM-)RoBERTa's tokenizers.

CLIP's (Radford et al. 2021, section 2.4) follows `open_clip.tokenizer.SimpleTokenizer` (open_clip 3.3). The
`tokenizers` library only merges bytes: its splitting differs on some Unicode text. The others follow
`open_clip.tokenizer.HFTokenizer` over transformers' tokenizers; their files come with the weights.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import html
import string
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import regex
from tokenizers.models import BPE

from clipjax.config import config_dir
from clipjax.data.text import vocabularies
from clipjax.errors import DataError, UsageError
from clipjax.guards import known_name

_OPENAI = "openai_bpe"
START, END = "<start_of_text>", "<end_of_text>"
_PIECES = regex.compile(
    rf"{START}|{END}|'s|'t|'re|'ve|'m|'ll|'d|[\p{{L}}]+|[\p{{N}}]|[^\s\p{{L}}\p{{N}}]+", regex.IGNORECASE
)
_WORDS_REMEMBERED = 2**18  # about 60 MB; the cache is emptied when full


@dataclass(frozen=True)
class TokenizerSpec:
    """Everything that decides a text's ids.

    Attributes:
        name: "openai_bpe", or a file in configs/tokenizers without its ending.
        context_length: ids per text, with start, end and padding.
        clean: "lower", "whitespace" (keeps case), "canonicalize" (lower case, no ASCII punctuation) or
            "canonicalize_hf" (transformers' variant).
        sha256: of the vocabulary's files; None until files that come with weights are read.
    """

    name: str
    context_length: int
    clean: str
    sha256: str | None


class Tokens(NamedTuple):
    """Ids int32 [N, context_length]; lengths int32 [N] without padding; truncated bool [N]."""

    ids: np.ndarray
    lengths: np.ndarray
    truncated: np.ndarray


def tokenizer_spec(name: str, context_length: int, clean: str | None = None) -> TokenizerSpec:
    """The spec, before files that come with weights are read; `clean` defaults to that of training.

    Raises:
        UsageError: an unknown name or cleaning, or a context too short for start and end.
    """
    known_tokenizer(name)
    if clean is None:
        clean = "lower" if name == _OPENAI else vocabularies.rules()[name].clean
    known_name("text cleaning", clean, _CLEANINGS)
    if context_length < 2:
        raise UsageError(f"context_length is {context_length}; start and end of text alone take 2")
    sha256 = hashlib.sha256(_merges_file()).hexdigest() if name == _OPENAI else None
    return TokenizerSpec(name, context_length, clean, sha256)


def vocab_size(name: str) -> int:
    """The number of tokens, special ones included; raises UsageError for an unknown name."""
    known_tokenizer(name)
    return len(_read_merges()[1]) if name == _OPENAI else vocabularies.rules()[name].vocab_size


def known_tokenizer(name: str) -> str:
    """The name. Raises UsageError for an unknown one, with the nearest."""
    known = [_OPENAI, *vocabularies.rules()]
    known_name("tokenizer", name, known)
    return name


@functools.cache
def load_tokenizer(spec: TokenizerSpec, files: tuple[Path, ...] = ()) -> Tokenizer:
    """`files` hold the vocabulary, if it comes with weights (see `vocabularies.Rules.files`).

    Raises:
        UsageError: as `tokenizer_spec`.
        DataError: files missing, damaged, or not the spec's.
    """
    own = tokenizer_spec(spec.name, spec.context_length, spec.clean)
    if spec.name == _OPENAI:
        if own.sha256 != spec.sha256:
            raise _other_file(f"configs/tokenizers/{_OPENAI}.txt", spec)
        return Tokenizer(own)
    if not files:
        raise vocabularies.missing(spec.name, spec.sha256)
    own = dataclasses.replace(own, sha256=vocabularies.digest(files))
    if spec.sha256 not in (None, own.sha256):
        raise _other_file(str(files[0]), spec)
    return Tokenizer(own, files)


def _other_file(path: str, spec: TokenizerSpec) -> DataError:
    return DataError(
        f"{path} is not the file that the model card names (sha256 {str(spec.sha256)[:12]}...); bring "
        "back the one of the card, or convert the checkpoint again"
    )


class Tokenizer:
    """Texts to ids: `tokenizer(["a photo of a cat"])` -> int32 [1, context_length].

    Attributes:
        start, end: ids around every text; (49406,) and (49407,) for CLIP, () and (1,) for SigLIP.
        pad_id: fills the rest of the context; 0 for CLIP, 1 for the others.
    """

    def __init__(self, spec: TokenizerSpec, files: tuple[Path, ...] = ()) -> None:
        self.spec = spec
        self.sha256 = spec.sha256
        self.files = files
        self._clean = _CLEANINGS[spec.clean]
        if spec.name == _OPENAI:
            merges, vocabulary = _read_merges()
            self.vocab_size = len(vocabulary)
            self.start, self.end, self.pad_id = (vocabulary[START],), (vocabulary[END],), 0
            bpe = BPE(vocab=vocabulary, merges=merges, end_of_word_suffix="</w>")
            self._bodies: Callable[[list[str]], Iterable[Sequence[int]]] = _Words(bpe, vocabulary).bodies
        else:
            own = vocabularies.rules()[spec.name]
            self.vocab_size, self.start, self.end, self.pad_id = own.vocab_size, own.start, own.end, own.pad
            self._bodies = vocabularies.read_vocabulary(own, files)

    def __call__(self, texts: str | Sequence[str]) -> np.ndarray:
        """Ids int32 [N, context_length]; warns if texts are cut. Raises as `encode`."""
        tokens = self.encode(texts)
        if cut := int(tokens.truncated.sum()):
            warnings.warn(
                f"{cut} of {len(tokens.ids)} texts were cut to {self.spec.context_length} tokens",
                stacklevel=2,
            )
        return tokens.ids

    def encode(self, texts: str | Sequence[str]) -> Tokens:
        """`Tokens`, without a warning. A cut text keeps its first tokens and its end tokens.

        Raises:
            DataError: a text is not a string.
        """
        texts = [texts] if isinstance(texts, str) else texts
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise DataError(f"text {i} is {text!r} ({type(text).__name__}), not a string")
        room = self.spec.context_length - len(self.start) - len(self.end)
        truncated = np.zeros(len(texts), bool)
        rows = []
        for i, body in enumerate(self._bodies([self._clean(text) for text in texts])):
            truncated[i] = len(body) > room
            rows.append((*self.start, *body[:room], *self.end))
        lengths = np.fromiter(map(len, rows), np.int32, len(rows))
        ids = np.full((len(rows), self.spec.context_length), self.pad_id, np.int32)
        # The mask takes the flat ids row by row.
        ids[np.arange(self.spec.context_length) < lengths[:, None]] = np.fromiter(
            chain.from_iterable(rows), np.int32
        )
        return Tokens(ids, lengths, truncated)


class _Words(dict[str, tuple[int, ...]]):
    """Cleaned word without spaces -> ids, cached: no step looks across a space."""

    def __init__(self, bpe: BPE, vocabulary: dict[str, int]) -> None:
        super().__init__()
        self._bpe = bpe
        self._special = {token: vocabulary[token] for token in (START, END)}

    def bodies(self, texts: list[str]) -> Iterable[Sequence[int]]:
        return (tuple(chain.from_iterable(map(self.__getitem__, text.split()))) for text in texts)

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
    """GPT-2's letter for each byte: itself if printable Latin-1, else the next from U+0100."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in visible else chr(next(others)) for byte in range(256)]


_BYTE_LETTERS = _byte_letters()


@functools.cache
def _merges_file() -> bytes:
    return (config_dir() / "tokenizers" / f"{_OPENAI}.txt").read_bytes()


@functools.cache
def _read_merges() -> tuple[list[tuple[str, str]], dict[str, int]]:
    """(merges by rank, {token: id}).

    Ids in order: visible bytes, other bytes, both again as word ends, merges, start of text, end of text.
    """
    merges = []
    for number, line in enumerate(_merges_file().decode().splitlines()[1:], start=2):
        match line.split():
            case [left, right]:
                merges.append((left, right))
            case _:
                raise DataError(
                    f"configs/tokenizers/{_OPENAI}.txt:{number}: expected two tokens; reinstall clipjax"
                )
    letters = sorted(_BYTE_LETTERS)
    tokens = [*letters, *(letter + "</w>" for letter in letters), *(a + b for a, b in merges), START, END]
    return merges, {token: i for i, token in enumerate(tokens)}


def _repair(text: str) -> str:
    """ftfy, then HTML entities twice. Neither changes printable ASCII without an ampersand."""
    if text.isascii() and text.isprintable() and "&" not in text:
        return text
    import ftfy  # loaded late: most texts need no repair

    return html.unescape(html.unescape(ftfy.fix_text(text)))


def _keep_case(text: str) -> str:
    return " ".join(_repair(text).split())


def _lower(text: str) -> str:
    return _keep_case(text).lower()


def _canonicalize(text: str) -> str:
    """big_vision's canonical text: lower case, no ASCII punctuation, underscores become spaces."""
    return " ".join(_repair(text).replace("_", " ").translate(_NO_PUNCTUATION).lower().split())


def _canonicalize_hf(text: str) -> str:
    """transformers' `SiglipTokenizer`: repairs nothing, drops underscores."""
    return " ".join(text.encode(errors="replace").decode().lower().translate(_NO_PUNCTUATION).split())


_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CLEANINGS: dict[str, Callable[[str], str]] = {
    "lower": _lower,
    "whitespace": _keep_case,
    "canonicalize": _canonicalize,
    "canonicalize_hf": _canonicalize_hf,
}
