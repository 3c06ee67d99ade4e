"""Zips that a password encrypts, which Python's zipfile reads and does not write."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path


class _Keys:
    """The cipher as APPNOTE.TXT of PKWARE writes it, section 6.1."""

    def __init__(self, password: bytes) -> None:
        self.keys = [0x12345678, 0x23456789, 0x34567890]
        for byte in password:
            self.update(byte)

    def update(self, byte: int) -> None:
        self.keys[0] = _crc32(self.keys[0], byte)
        self.keys[1] = (self.keys[1] + (self.keys[0] & 0xFF)) & 0xFFFFFFFF
        self.keys[1] = (self.keys[1] * 134775813 + 1) & 0xFFFFFFFF
        self.keys[2] = _crc32(self.keys[2], self.keys[1] >> 24)

    def encrypt(self, data: bytes) -> bytes:
        encrypted = bytearray()
        for byte in data:
            word = (self.keys[2] | 2) & 0xFFFF
            encrypted.append(byte ^ (word * (word ^ 1) >> 8 & 0xFF))
            self.update(byte)
        return bytes(encrypted)


def _crc32(key: int, byte: int) -> int:
    return zlib.crc32(bytes([byte]), key ^ 0xFFFFFFFF) ^ 0xFFFFFFFF


def encrypted_zip(
    path: Path, files: dict[str, bytes], password: str, *, stored: bool = False, late: bool = False
) -> Path:
    """Write a zip, whose members of equal contents are encrypted once.

    Args:
        stored: not compressed.
        late: with the flag that checksums follow the members, so that the time is what a password is
            checked by.
    """
    directory, body, done = bytearray(), bytearray(), dict[bytes, bytes]()
    flags, time = (0x809 if late else 0x801), 12 << 11 | 34 << 5 | 28
    for name, data in files.items():
        deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
        packed = data if stored else deflate.compress(data) + deflate.flush()
        crc = zlib.crc32(data)
        check = time >> 8 if late else crc >> 24
        if data not in done:
            done[data] = _Keys(password.encode()).encrypt(bytes([*range(11), check]) + packed)
        encrypted = done[data]
        sizes = (crc, len(encrypted), len(data), len(name.encode()), 0)
        fields = struct.pack("<HHHHHIIIHH", 20, flags, 0 if stored else 8, time, 0x21, *sizes)
        entry = struct.pack("<HHHII", 0, 0, 0, 0, len(body))
        directory += b"PK\x01\x02" + struct.pack("<H", 20) + fields + entry + name.encode()
        body += b"PK\x03\x04" + fields + name.encode() + encrypted
    count, at = len(files), len(body)
    end = struct.pack("<HHHHIIH", 0, 0, count, count, len(directory), at, 0)
    path.write_bytes(body + directory + b"PK\x05\x06" + end)
    with zipfile.ZipFile(path) as archive:  # the standard library reads it
        for name, data in list(files.items())[:20]:
            assert archive.read(name, password.encode()) == data
    return path
