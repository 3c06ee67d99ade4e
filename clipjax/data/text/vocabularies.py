"""Vocabulary files that clipjax does not ship: SigLIP's, SigLIP 2's, RoBERTa's, XLM-RoBERTa's and XLM-V's.

Only vocabularies are read; the steps around them are those of transformers 5.24 (`T5Tokenizer`,
`XLMRobertaTokenizer`, `RobertaTokenizer`, `GemmaTokenizer`).
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, normalizers, pre_tokenizers
from tokenizers.models import BPE, Unigram

from clipjax.config import config_dir
from clipjax.data.text.sentencepiece_model import parse_model
from clipjax.errors import DataError
from clipjax.storage.digests import sha256_files, sha256_json
from clipjax.storage.reading import is_file, parse_json, read_json, read_text, read_toml

_MODELS = {
    "unigram": "Unigram",
    "byte_bpe": "BPE",
    "bpe": "BPE",
}  # `VocabularyRules.model` -> its name in a tokenizer.json
_OWN_SPECIALS = 3  # a sentencepiece model's own special tokens come first: unknown, start, end or pad


@dataclass(frozen=True)
class VocabularyRules:
    """Requirements on a vocabulary: one configs/tokenizers/NAME.toml.

    Attributes:
        model: "unigram" (sentencepiece), "byte_bpe" (GPT-2's) or "bpe" (sentencepiece's, as Gemma's).
        special: token -> id.
        start: the id before every text.
        end: the id after every text.
        pad: fills the rest of the context.
        files: alternative sets of files, the preferred first.
        repos: hub repositories with them.
    """

    name: str
    model: str
    clean: str
    vocab_size: int
    special: dict[str, int]
    start: tuple[int, ...]
    end: tuple[int, ...]
    pad: int
    files: tuple[tuple[str, ...], ...]
    repos: tuple[str, ...]


@functools.cache
def rules() -> dict[str, VocabularyRules]:
    return {
        path.stem: _rules(path.stem, read_toml(path))
        for path in sorted((config_dir() / "tokenizers").glob("*.toml"))
    }


def _rules(name: str, record: dict[str, Any]) -> VocabularyRules:
    special = record["special"]
    return VocabularyRules(
        name=name,
        **{
            **record,
            "start": tuple(special[token] for token in record["start"]),
            "end": tuple(special[token] for token in record["end"]),
            "pad": special[record["pad"]],
            "files": tuple(map(tuple, record["files"])),
            "repos": tuple(record["repos"]),
        },
    )


def files_in(folder: Path, names: Sequence[str]) -> tuple[Path, ...] | None:
    paths = tuple(folder / name for name in names)
    return paths if all(is_file(path) for path in paths) else None


def digest(files: Sequence[Path]) -> str:
    """SHA-256 of the one file, or of the files' digests in the order of `VocabularyRules.files`."""
    digests = sha256_files(files)
    return digests[0] if len(digests) == 1 else sha256_json(digests)


def missing(name: str, sha256: str | None = None) -> DataError:
    """`sha256`: of the files that the model's folder once had."""
    wanted = " or ".join(" and ".join(names) for names in rules()[name].files)
    if sha256 is not None:
        return DataError(
            f"the model's folder has lost the files of its tokenizer {name} (card.json has their sha256, "
            f"{sha256[:12]}...): put {wanted} back, from a copy of the folder or from "
            f"{rules()[name].repos[0]}; images and token ids work without them"
        )
    return DataError(
        f"the files of tokenizer {name} are not here: put {wanted} into the folder of the model's weights, "
        f"or download {rules()[name].repos[0]} into the hub's cache; images and token ids work without them"
    )


def read_vocabulary(own: VocabularyRules, files: Sequence[Path]) -> Callable[[list[str]], list[list[int]]]:
    """Cleaned texts -> ids, without start, end and padding.

    Raises:
        DataError: a file is unreadable, or another tokenizer's.
    """
    names = tuple(path.name for path in files)
    try:
        if names == ("tokenizer.json",):
            tokenizer = _from_json(own, read_json(files[0], object))
        elif names == ("vocab.json", "merges.txt"):
            tokenizer = _from_vocab_and_merges(own, *map(read_text, files))
        else:
            tokenizer = _from_sentencepiece(own, files[0].read_bytes())
    except DataError:
        raise
    except Exception as error:  # `tokenizers` raises bare Exceptions for a bad vocabulary
        why = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise DataError(f"{files[0]} is damaged, or no vocabulary of {own.name}: {why}") from None
    _check(own, tokenizer, files[0])
    return lambda texts: [e.ids for e in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


def _check(own: VocabularyRules, tokenizer: tokenizers.Tokenizer, path: Path) -> None:
    size = tokenizer.get_vocab_size()
    if size != own.vocab_size:
        raise DataError(
            f"{path} holds {size} ids, tokenizer {own.name} has {own.vocab_size}: another model's"
        )
    for token, number in own.special.items():
        if (token_id := tokenizer.token_to_id(token)) != number:
            raise DataError(f"{path}: {token} has the id {token_id}, in tokenizer {own.name} it has {number}")


# --- the steps around a vocabulary ---


def _unigram(
    own: VocabularyRules, pieces: list[tuple[str, float]], characters: bytes
) -> tokenizers.Tokenizer:
    """`characters`: sentencepiece's compiled table of normalisations."""
    tokenizer = tokenizers.Tokenizer(Unigram(pieces, unk_id=own.special["<unk>"], byte_fallback=False))
    if characters:
        tokenizer.normalizer = normalizers.Precompiled(characters)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always"),
        ]
    )
    return tokenizer


def _byte_bpe(vocabulary: dict[str, int], merges: list[Any]) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def _sentencepiece_bpe(vocabulary: dict[str, int], merges: list[Any]) -> tokenizers.Tokenizer:
    """A character without a piece becomes its bytes; no space is put before a text."""
    model = BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    return tokenizer


def _with_added(
    own: VocabularyRules, tokenizer: tokenizers.Tokenizer, added: dict[str, AddedToken]
) -> tokenizers.Tokenizer:
    """Special tokens, and the file's own, are cut out of a text before anything else."""
    special = {token: AddedToken(token, normalized=False, special=True) for token in own.special}
    tokenizer.add_tokens(list((special | added).values()))
    return tokenizer


# --- files ---


def _from_json(own: VocabularyRules, record: dict[str, Any]) -> tokenizers.Tokenizer:
    """Reads vocabulary and added tokens; not the steps."""
    if not isinstance(record, dict) or not isinstance(record.get("model"), dict):
        raise ValueError("it has no object 'model'")
    model, wanted = record["model"], _MODELS[own.model]
    kind = model.get("type") or (
        "Unigram" if isinstance(model["vocab"], list) else "BPE"
    )  # old files lack it
    if kind != wanted:
        raise ValueError(f"its model is {kind}, not {wanted}: bring the tokenizer.json of {own.repos[0]}")
    if own.model == "unigram":
        pieces = [(piece, float(score)) for piece, score in model["vocab"]]
        tokenizer = _unigram(own, pieces, _characters(record.get("normalizer")))
    else:
        merges = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"]]
        build = _byte_bpe if own.model == "byte_bpe" else _sentencepiece_bpe
        tokenizer = build(model["vocab"], merges)
    added = sorted(record["added_tokens"], key=lambda token: token["id"])
    return _with_added(own, tokenizer, {token["content"]: _added(token) for token in added})


def _added(token: dict[str, Any]) -> AddedToken:
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return AddedToken(token["content"], **{flag: token[flag] for flag in flags})


def _from_vocab_and_merges(own: VocabularyRules, vocabulary: str, merges: str) -> tokenizers.Tokenizer:
    lines = [line for line in merges.split("\n") if line and not line.startswith("#version")]
    tokenizer = _byte_bpe(parse_json(vocabulary, "vocab.json"), [tuple(line.split(" ")) for line in lines])
    return _with_added(own, tokenizer, {})


def _characters(normalizer: dict[str, Any] | None) -> bytes:
    if normalizer is None:
        return b""
    for step in normalizer.get("normalizers", [normalizer]):
        if step["type"] == "Precompiled":
            return base64.b64decode(step["precompiled_charsmap"])
    return b""


def _from_sentencepiece(own: VocabularyRules, data: bytes) -> tokenizers.Tokenizer:
    """Our special tokens replace the file's first pieces."""
    model = parse_model(data)
    pieces = [(piece.text, piece.score) for piece in model.pieces]
    foreign = {piece for piece, _ in pieces[:_OWN_SPECIALS]} - set(own.special)
    if foreign:
        raise ValueError(f"a vocabulary of {own.name} does not begin with {', '.join(sorted(foreign))}")
    rest = pieces[_OWN_SPECIALS:]
    special = sorted(own.special, key=own.special.__getitem__)
    # Special tokens with ids 0, 1, ... come before the pieces, the others (<mask>) after them.
    first = [token for number, token in enumerate(special) if own.special[token] == number]
    last = special[len(first) :]
    whole = [(token, 0.0) for token in first] + rest + [(token, 0.0) for token in last]
    return _with_added(own, _unigram(own, whole, model.characters), {})
