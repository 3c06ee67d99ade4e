"""Members of a zip that a password encrypts in the traditional way (ZipCrypto), many of them at once.

zipfile decrypts a byte at a time in Python, at 1.4 MB/s: the 50,000 images of ObjectNet would take days. The
key of a byte depends on all bytes before it, but members do not depend on each other. So a NumPy step
decrypts one byte of each of many members: 33 MB/s in all (benchmarks/data/unpack.py). The cipher is that of
APPNOTE.TXT of PKWARE, section 6.1.
"""

from __future__ import annotations

import resource
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np

from clipjax.downloads.members import MemberFile
from clipjax.errors import DataError

MOST = 512  # members at once, each an open file
FEW = 12  # fewer members are decrypted a byte at a time
_CHUNK = 2**14  # bytes of each member in a round
_STRONG = 0x40  # a member's flag of another encryption
_HEADER = 12  # random bytes before a member, the last of them known
_START = (0x12345678, 0x23456789, 0x34567890)
_FACTOR = 134775813


def _crc_table() -> list[int]:
    """The table of CRC-32, by the polynomial 0xEDB88320."""
    table = list(range(256))
    for _ in range(8):
        table = [value >> 1 ^ (0xEDB88320 if value & 1 else 0) for value in table]
    return table


_TABLE = _crc_table()
_CRC = np.array(_TABLE, "<u4")
_WORDS = np.arange(2**16, dtype="<u4") | 2
# The low 16 bits of the last key -> what changes the next byte.
_CHANGES = (_WORDS * (_WORDS ^ 1) >> 8).astype(np.uint8).tobytes()
_STREAM = np.frombuffer(_CHANGES, np.uint8)


def unpack_encrypted(
    path: Path,
    members: Iterable[tuple[zipfile.ZipInfo, MemberFile]],
    password: str,
    progress: Callable[[int], object],
) -> None:
    """Decrypt members into their files.

    Args:
        members: opened one after the other, so that few files are open at once.

    Raises:
        DataError: the password is wrong.
        zipfile.BadZipFile: a member is damaged.
        NotImplementedError: another encryption, or another compression than deflate.
    """
    keys = np.empty((3, 0), "<u4")
    start = np.array(_first_keys(password.encode()), "<u4")[:, None]
    lanes: list[_Lane] = []
    most = min(MOST, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
    todo = iter(members)
    try:
        with path.open("rb") as raw:
            while True:
                for info, file in islice(todo, most - len(lanes)):
                    lanes.append(_Lane(info, file, raw))
                    keys = np.concatenate([keys, start], 1)
                if not lanes:
                    return
                for lane, piece in zip(lanes, _decrypt(keys, [lane.read() for lane in lanes])):
                    lane.take(piece, path)
                    progress(len(piece))
                keys = np.ascontiguousarray(keys[:, [lane.left > 0 for lane in lanes]])
                lanes = [lane for lane in lanes if not lane.finish()]
    finally:
        for lane in lanes:
            lane.file.discard()


class _Lane:
    """A member on its way: `left` encrypted bytes are not read yet."""

    def __init__(self, info: zipfile.ZipInfo, file: MemberFile, raw: BinaryIO) -> None:
        self.file, self.left = file, info.compress_size
        self._info, self._raw = info, raw
        self._crc, self._at, self._begun = 0, 0, False
        self._inflate = zlib.decompressobj(-15) if info.compress_type == zipfile.ZIP_DEFLATED else None

    def read(self) -> bytes:
        """The next encrypted bytes."""
        self._raw.seek(self._at or self._first_byte())
        piece = self._raw.read(min(self.left, _CHUNK))
        self._at = self._raw.tell()
        if len(piece) < min(self.left, _CHUNK):
            raise zipfile.BadZipFile("it ends in a member")
        self.left -= len(piece)
        return piece

    def _first_byte(self) -> int:
        info = self._info
        if info.flag_bits & _STRONG or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise NotImplementedError("another encryption than ZipCrypto, unpack it with 7z")
        self._raw.seek(info.header_offset)
        header = self._raw.read(30)
        if header[:4] != b"PK\x03\x04" or len(header) < 30 or self.left < _HEADER:
            raise zipfile.BadZipFile("a member has no header")
        return info.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))

    def take(self, piece: bytes, path: Path) -> None:
        """Write what was decrypted."""
        if not self._begun:
            if piece[_HEADER - 1] != self._check_byte():
                raise DataError(f"{path}: the password is wrong; type it again")
            piece, self._begun = piece[_HEADER:], True
        try:
            data = piece if self._inflate is None else self._inflate.decompress(piece)
        except zlib.error as error:
            raise zipfile.BadZipFile(f"{error}, or the password is wrong") from None
        self._crc = zlib.crc32(data, self._crc)
        self.file.write(data)

    def finish(self) -> bool:
        """Close the file if the member is whole; whether it is."""
        if self.left:
            return False
        if self._crc != self._info.CRC:
            raise zipfile.BadZipFile(f"{self._info.filename} has another checksum, or the password is wrong")
        self.file.close()
        return True

    def _check_byte(self) -> int:
        if self._info.flag_bits & 0x8:  # written before its checksum was known: the time stands in for it
            hour, minute = self._info.date_time[3:5]
            return hour << 3 | minute >> 3
        return self._info.CRC >> 24


def _first_keys(password: bytes) -> tuple[int, int, int]:
    keys = _START
    for byte in password:
        keys = _next_keys(*keys, byte)
    return keys


def _next_keys(key0: int, key1: int, key2: int, byte: int) -> tuple[int, int, int]:
    """The keys after a decrypted byte."""
    key0 = key0 >> 8 ^ _TABLE[(key0 ^ byte) & 0xFF]
    key1 = ((key1 + (key0 & 0xFF)) * _FACTOR + 1) & 0xFFFFFFFF
    return key0, key1, key2 >> 8 ^ _TABLE[(key2 ^ key1 >> 24) & 0xFF]


def _decrypt(keys: np.ndarray, pieces: list[bytes]) -> Iterator[bytes]:
    """The next piece of each member, decrypted.

    Args:
        keys: uint32 [3, members], moved on in place; wrong after a piece that is shorter than others.
    """
    if len(pieces) < FEW:
        for lane, piece in enumerate(pieces):
            own = tuple(map(int, keys[:, lane]))
            keys[:, lane], plain = _decrypt_one(own, piece)
            yield plain
        return
    sizes = [len(piece) for piece in pieces]
    rows = np.zeros((len(pieces), max(sizes)), np.uint8)
    for row, piece in zip(rows, pieces):
        row[: len(piece)] = np.frombuffer(piece, np.uint8)
    block = np.ascontiguousarray(rows.T)
    _decrypt_block(keys, block)
    rows = np.ascontiguousarray(block.T)
    yield from (row[:size].tobytes() for row, size in zip(rows, sizes))


def _decrypt_one(keys: tuple[int, ...], piece: bytes) -> tuple[tuple[int, ...], bytes]:
    key0, key1, key2 = keys
    plain = bytearray()
    for byte in piece:
        byte ^= _CHANGES[key2 & 0xFFFF]
        plain.append(byte)
        key0, key1, key2 = _next_keys(key0, key1, key2, byte)
    return (key0, key1, key2), bytes(plain)


def _decrypt_block(keys: np.ndarray, block: np.ndarray) -> None:
    """Decrypt in place. `keys`: uint32 [3, members]; `block`: uint8 [bytes, members].

    `_next_keys` in NumPy: a view of a key's first or last byte takes the place of `& 0xFF` and `>> 24`, and
    every result goes where memory is already.
    """
    key0, key1, key2 = keys
    low0, high1, low2 = key0.view(np.uint8)[::4], key1.view(np.uint8)[3::4], key2.view(np.uint8)[::4]
    word2 = key2.view("<u2")[::2]
    stream, index, crc = np.empty_like(low0), np.empty_like(low0), np.empty_like(key0)
    eight, one, factor = np.uint32(8), np.uint32(1), np.uint32(_FACTOR)
    for row in block:
        _STREAM.take(word2, out=stream, mode="clip")  # faster than mode="raise"
        np.bitwise_xor(row, stream, out=row)
        np.bitwise_xor(low0, row, out=index)
        _CRC.take(index, out=crc, mode="clip")
        np.right_shift(key0, eight, out=key0)
        np.bitwise_xor(key0, crc, out=key0)
        np.add(key1, low0, out=key1)
        np.multiply(key1, factor, out=key1)
        np.add(key1, one, out=key1)
        np.bitwise_xor(low2, high1, out=index)
        _CRC.take(index, out=crc, mode="clip")
        np.right_shift(key2, eight, out=key2)
        np.bitwise_xor(key2, crc, out=key2)
