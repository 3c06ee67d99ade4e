"""Tokenizers of language models, built from their vocabularies with the `tokenizers` library.

Sources: sentencepiece's BPE with transformers' steps around it (transformers 5.24 `LlamaTokenizer`); GPT-2's
byte-level BPE, and SmolLM2's tokenizer.json, which splits digits first.
"""

from __future__ import annotations

from collections.abc import Sequence

import tokenizers
from tokenizers import AddedToken, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from clipjax.data.text.sentencepiece_model import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Piece,
)

_LONGEST = 512  # characters of a piece; the longest of Llama's are 16 spaces
_SPACE = "▁"
# llama.cpp's name of a splitting -> whether every digit is split off first.
DIGITS_FIRST = {"smollm": True, "gpt-2": False}


def byte_level_bpe(
    pieces: Sequence[Piece], merges: Sequence[str], *, digits_first: bool
) -> tokenizers.Tokenizer:
    """GPT-2's splitting and merges; scores are not used. Raises ValueError for a damaged vocabulary."""
    vocabulary = _vocabulary(pieces)
    pairs = [tuple(merge.split(" ")) for merge in merges]
    if wrong := [merge for merge, pair in zip(merges, pairs) if len(pair) != 2]:
        raise ValueError(f"{wrong[0][:80]!r} is not a merge of two tokens")
    tokenizer = tokenizers.Tokenizer(BPE(vocab=vocabulary, merges=pairs))  # type: ignore[arg-type]
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = [pre_tokenizers.Digits(individual_digits=True)] if digits_first else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*digits, words])
    tokenizer.decoder = decoders.ByteLevel()
    return _with_added(tokenizer, pieces)


def sentencepiece_bpe(
    pieces: Sequence[Piece], *, unknown: int, prefix: bool, characters: bytes = b""
) -> tokenizers.Tokenizer:
    """Merges in the order of the pieces' scores; a character without a piece becomes its bytes.

    Args:
        unknown: the id of the unknown piece.
        prefix: a space is put before a text.
        characters: sentencepiece's compiled table of normalisations.

    Raises:
        ValueError: a damaged vocabulary.
    """
    vocabulary = _vocabulary(pieces)
    if not 0 <= unknown < len(pieces):
        raise ValueError(f"the unknown piece has the id {unknown}")
    has_bytes = any(piece.kind == BYTE for piece in pieces)
    model = BPE(
        vocab=vocabulary,
        merges=_merges(pieces, vocabulary),
        unk_token=pieces[unknown].text,
        fuse_unk=True,
        byte_fallback=has_bytes,
    )
    tokenizer = tokenizers.Tokenizer(model)
    steps = [normalizers.Precompiled(characters)] if characters else []
    steps += [normalizers.Prepend(_SPACE)] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    after = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *after]
    )
    return _with_added(tokenizer, pieces)


def _merges(pieces: Sequence[Piece], vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """Every pair (left, right) of pieces that joins to a piece: the order in which BPE merges.

    Sorted by the joined piece's score, highest first; pairs that join to one piece, by their own ids.
    """
    scored = []
    for piece in pieces:
        if piece.kind not in (NORMAL, USER_DEFINED, UNUSED):
            continue
        splits = [(piece.text[:i], piece.text[i:]) for i in range(1, len(piece.text))]
        known = [(left, right) for left, right in splits if left in vocabulary and right in vocabulary]
        known.sort(key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
        scored += [(-piece.score, pair) for pair in known]
    return [pair for _, pair in sorted(scored, key=lambda item: item[0])]


def _vocabulary(pieces: Sequence[Piece]) -> dict[str, int]:
    vocabulary = {piece.text: i for i, piece in enumerate(pieces)}
    if len(vocabulary) != len(pieces):
        doubled = next(piece.text for i, piece in enumerate(pieces) if vocabulary[piece.text] != i)
        raise ValueError(f"the token {doubled[:80]!r} appears twice")
    if long := [piece.text for piece in pieces if len(piece.text) > _LONGEST]:
        raise ValueError(f"a token has {len(long[0])} characters")
    return vocabulary


def _with_added(tokenizer: tokenizers.Tokenizer, pieces: Sequence[Piece]) -> tokenizers.Tokenizer:
    """Control tokens, and the user's own, are cut out of a text before anything else."""
    special = (CONTROL, UNKNOWN)
    tokenizer.add_tokens(
        [
            AddedToken(piece.text, normalized=False, special=piece.kind in special)
            for piece in pieces
            if piece.kind in (*special, USER_DEFINED) and piece.text
        ]
    )
    return tokenizer
