"""A sentencepiece model file: its pieces and how it splits (sentencepiece's sentencepiece_model.proto)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # kinds of pieces, GGUF's too
UNIGRAM, BPE = 1, 2


@dataclass(frozen=True)
class Piece:
    text: str
    score: float
    kind: int = NORMAL


@dataclass(frozen=True)
class SentencePieceModel:
    """Attributes:
    kind: UNIGRAM, BPE or another number.
    characters: the compiled table of normalisations; empty for none.
    prefix: a space is put before a text.
    squeezes: repeated spaces become one.
    special: ids of "unk", "bos", "eos" and "pad"; -1 for none.
    """

    pieces: list[Piece]
    kind: int
    characters: bytes
    prefix: bool
    squeezes: bool
    special: dict[str, int]


def parse_model(data: bytes) -> SentencePieceModel:
    """Raises ValueError, KeyError, IndexError, TypeError, AttributeError or struct.error for damage."""
    pieces: list[Piece] = []
    training: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    for field, value in fields(data):
        if field == 1:
            piece = dict(fields(value))
            pieces.append(Piece(piece[1].decode(), struct.unpack("<f", piece[2])[0], piece.get(3, NORMAL)))
        elif field == 2:
            training = dict(fields(value))
        elif field == 3:
            normalizer = dict(fields(value))
    special = {name: _signed(training.get(40 + n, n)) for n, name in enumerate(("unk", "bos", "eos"))}
    special["pad"] = _signed(training.get(43, -1))
    return SentencePieceModel(
        pieces,
        training.get(3, UNIGRAM),
        normalizer.get(2, b""),
        bool(normalizer.get(3, 1)),
        bool(normalizer.get(4, 1)),
        special,
    )


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of a protobuf message's fields; a varint's value is an int, any other's bytes."""
    offset = 0
    while offset < len(data):
        tag, offset = _varint(data, offset)
        kind = tag & 7
        if kind == 0:
            value, offset = _varint(data, offset)
        else:
            size, offset = _varint(data, offset) if kind == 2 else ({1: 8, 5: 4}[kind], offset)
            value = data[offset : offset + size]
            offset += size
        yield tag >> 3, value


def _varint(data: bytes, offset: int) -> tuple[int, int]:
    """(number, offset after it): seven bits a byte, lowest first; the top bit means more follow."""
    number = shift = 0
    while True:
        byte = data[offset]
        number |= (byte & 0x7F) << shift
        offset, shift = offset + 1, shift + 7
        if byte < 0x80:
            return number, offset
