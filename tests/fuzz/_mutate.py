"""Damage to files, drawn from a seed: of bytes, of text, and of the formats that state sizes of their own."""

from __future__ import annotations

import io
import pickletools
import random
import re
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable

TOKEN = re.compile(rb'"(?:[^"\\\n]|\\.)*"|-?\d+(?:\.\d+)?|[A-Za-z_]+|[\[\]{},:=\n]')
# What a value may be replaced by: other types, numbers without bounds, text that breaks lines or encodings.
VALUES = [
    *(b"null true false 0 -1 1e999 -0.0 NaN Infinity 1.5 [] {} [[]] [null] {'a':1} nan".split()),
    *(b"9" * n for n in (19, 40, 400, 5000)),
    *(b'"%s"' % text for text in (b"", b"a", b"\\u0000", b"\\ud800", b"../x", b"/etc", b"a" * 9000)),
    *(
        b"[" * 3000,
        b'{"a":' * 3000,
        b"\xff",
        b"\xef\xbb\xbf",
        b"\x00",
        b"\r",
        b'"',
        b"'",
        b"\\",
        b",",
        b"\n\n",
    ),
]
NUMBERS = [0, 1, 2, 127, 128, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1]


def mutate(seed: str, data: bytes, kind: str) -> bytes:
    """`data` with one to three injuries.

    Args:
        kind: what the file is; a key of `KINDS`, else "text" or "bytes".
    """
    rng = random.Random(seed)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        edits = KINDS.get(kind, [])
        plain = TEXT if kind == "text" else BYTES
        data = rng.choice(edits if edits and rng.random() < 0.6 else plain)(rng, data)
    return data


# --- bytes ---


def flip(rng: random.Random, data: bytes) -> bytes:
    raw = bytearray(data or b"\0")
    for _ in range(rng.choice((1, 1, 4, 16))):
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    return bytes(raw)


def cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def drop(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start + rng.choice((1, 2, 4, 8, 64, 512)) :]


def insert(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + rng.randbytes(rng.choice((1, 2, 8, 512))) + data[start:]


def splice(rng: random.Random, data: bytes) -> bytes:
    """A piece of the file again, somewhere else in it."""
    start, place = rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)
    return data[:place] + data[start : start + rng.choice((1, 8, 64, 512, len(data)))] + data[place:]


def number(rng: random.Random, data: bytes) -> bytes:
    """A field of one to eight bytes set to a number of the kind that overflows something."""
    width = rng.choice((1, 2, 4, 8))
    start = rng.randrange(len(data) + 1)
    value = (rng.choice(NUMBERS) % 256**width).to_bytes(width, rng.choice(("little", "big")))
    return data[:start] + value + data[start + width :]


def blank(rng: random.Random, data: bytes) -> bytes:
    start, length = rng.randrange(len(data) + 1), rng.choice((1, 16, 512))
    piece = data[start : start + length]
    return data[:start] + rng.choice((b"\0", b"\xff")) * len(piece) + data[start + length :]


BYTES = [flip, cut, drop, insert, splice, number, blank]


# --- text ---


def token(rng: random.Random, data: bytes) -> bytes:
    """A name, number, string or bracket replaced by something else."""
    found = list(TOKEN.finditer(data))
    if not found:
        return data + rng.choice(VALUES)
    place = rng.choice(found)
    other = rng.choice(found).group() if rng.random() < 0.4 else rng.choice(VALUES)
    return data[: place.start()] + other + data[place.end() :]


def value(rng: random.Random, data: bytes) -> bytes:
    """What stands behind a colon, an equals sign or a comma replaced by a value of another type."""
    found = list(re.finditer(rb'[:=,]\s*("(?:[^"\\]|\\.)*"|[-\w.]+)', data))
    if not found:
        return token(rng, data)
    place = rng.choice(found)
    return data[: place.start(1)] + rng.choice(VALUES) + data[place.end(1) :]


def lines(rng: random.Random, data: bytes) -> bytes:
    """A line dropped, doubled or moved."""
    rows = data.split(b"\n")
    taken = rows.pop(rng.randrange(len(rows)))
    for _ in range(rng.choice((0, 1, 2))):
        rows.insert(rng.randrange(len(rows) + 1), taken)
    return b"\n".join(rows)


def digit(rng: random.Random, data: bytes) -> bytes:
    found = list(re.finditer(rb"\d", data))
    if not found:
        return data
    place = rng.choice(found).start()
    return data[:place] + b"%d" % rng.randrange(10) + data[place + 1 :]


TEXT = [token, token, value, value, lines, digit, flip, cut, drop, insert, splice]


# --- formats ---


def zip_entries(rng: random.Random, data: bytes) -> bytes:
    """The archive written anew with one entry injured, renamed, doubled, left out or compressed."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except (zipfile.BadZipFile, zlib.error, ValueError, OSError, RuntimeError, EOFError, struct.error):
        return flip(rng, data)
    if not entries:
        return data
    place = rng.randrange(len(entries))
    name, content = entries[place]
    match rng.randrange(6):
        case 0 | 1:
            edits = [opcodes, *BYTES] if name.endswith(".pkl") else [npy_header, *BYTES]
            entries[place] = (name, rng.choice(edits)(rng, content))
        case 2:
            entries[place] = (rng.choice(["../x", "/x", "", "a/data.pkl", name * 50]), content)
        case 3:
            entries.append((name, content))
        case 4:
            del entries[place]
        case _:
            entries[place] = (name, bytes(rng.choice((0, 10, 10**6))))
    buffer = io.BytesIO()
    method = rng.choice((zipfile.ZIP_STORED,) * 4 + (zipfile.ZIP_DEFLATED,))
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(buffer, "w", method) as archive:
        for entry, raw in entries:
            info = zipfile.ZipInfo(entry or "x")
            info.compress_type = method
            archive.writestr(info, raw)
    return buffer.getvalue()


def zip_fields(rng: random.Random, data: bytes) -> bytes:
    """A field of a header of the archive or of its directory."""
    signature, length = rng.choice([(b"PK\x01\x02", 46), (b"PK\x03\x04", 30), (b"PK\x05\x06", 22)])
    found = [m.start() for m in re.finditer(re.escape(signature), data)]
    if not found:
        return number(rng, data)
    start = rng.choice(found)
    return data[:start] + number(rng, data[start : start + length])[:length] + data[start + length :]


def npy_header(rng: random.Random, data: bytes) -> bytes:
    """The text of an array's header, its stated length unchanged."""
    if data[:6] != b"\x93NUMPY":
        return flip(rng, data)
    end = data.find(b"\n") + 1
    header = token(rng, data[10:end])[: end - 10].ljust(end - 10)
    return data[:10] + header + data[end:]


def tar_fields(rng: random.Random, data: bytes) -> bytes:
    """A field of one member's header, with a checksum that fits again."""
    starts = range(0, len(data) - 511, 512)
    blocks = [start for start in starts if data[start + 257 : start + 262] == b"ustar"]
    if not blocks:
        return flip(rng, data)
    start = rng.choice(blocks)
    header = bytearray(data[start : start + 512])
    at, width = rng.choice([(0, 100), (124, 12), (124, 12), (156, 1), (157, 100), (329, 8), (345, 155)])
    choices = {
        1: [b"0", b"1", b"2", b"3", b"5", b"L", b"K", b"x", b"g", b"S", b"\0", b"7"],
        12: [b"77777777777\0", b"0\0", b"-1\0", b"\x80" + b"\xff" * 11, b"\xff" * 12, b"x" * 12],
    }
    texts = [b"../x", b"/x", b"a.jpg", b"a" * width, b"\xff\xfe", b"a/./b.png", b"", b"\n"]
    piece = rng.choice(choices.get(width, texts))[:width].ljust(width, b"\0")
    header[at : at + width] = piece
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return data[:start] + bytes(header) + data[start + 512 :]


def tar_members(rng: random.Random, data: bytes) -> bytes:
    """The archive written anew with a member injured, doubled, left out, or made a link."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            files = [(info, archive.extractfile(info)) for info in archive if info.isfile()]
            members = [(info, file.read()) for info, file in files if file]
    except (tarfile.TarError, OSError, ValueError, EOFError, OverflowError):
        return flip(rng, data)
    if not members:
        return data
    place = rng.randrange(len(members))
    info, content = members[place]
    match rng.randrange(4):
        case 0:
            members[place] = (info, rng.choice([*BYTES, *TEXT])(rng, content))
        case 1:
            members.append((info, content))
        case 2:
            del members[place]
        case _:
            info.type, info.linkname = rng.choice((tarfile.SYMTYPE, tarfile.LNKTYPE)), "../../etc/passwd"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for each, raw in members:
            each.size = len(raw) if each.isfile() else 0
            archive.addfile(each, io.BytesIO(raw))
    return buffer.getvalue()


def safetensors_header(rng: random.Random, data: bytes) -> bytes:
    """The header's JSON injured, its stated length mended."""
    length = int.from_bytes(data[:8], "little")
    if length > len(data):
        return flip(rng, data)
    header = rng.choice(TEXT)(rng, data[8 : 8 + length])
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def opcodes(rng: random.Random, data: bytes) -> bytes:
    """Opcodes of a pickle dropped, doubled, moved, or changed for others."""
    try:
        places = [place for _, _, place in pickletools.genops(data)]
    except Exception:  # a pickle injured before
        return flip(rng, data)
    if len(places) < 3:
        return flip(rng, data)
    first = rng.randrange(len(places) - 1)
    start, stop = places[first], places[min(first + rng.choice((1, 1, 2, 8)), len(places) - 1)]
    piece, to = data[start:stop], rng.choice(places)
    match rng.randrange(5):
        case 0:
            return data[:start] + data[stop:]
        case 1:
            return data[:to] + piece + data[to:]
        case 2:
            return data[:start] + rng.choice(PICKLED) + data[start:]
        case 3:
            return data[:start] + rng.choice(PICKLED) + data[stop:]
        case _:
            return data[:start] + piece * rng.choice((2, 50)) + data[stop:]


PICKLED = [
    *(
        b"N",
        b")",
        b"]",
        b"}",
        b"(",
        b"0",
        b"1",
        b"2",
        b"t",
        b"R",
        b"Q",
        b"b",
        b"s",
        b"u",
        b"a",
        b"e",
        b"\x81",
    ),
    *(b"cos\nsystem\n", b"cbuiltins\neval\n", b"ctorch\nFloatStorage\n", b"ccollections\nOrderedDict\n"),
    *(
        b"K\x00",
        b"J\xff\xff\xff\xff",
        b"\x8a\x08" + b"\xff" * 7 + b"\x7f",
        b"\x8a\x00",
        b"X\x01\x00\x00\x00a",
    ),
    *(b")" + b"2\x86" * 40, b"\x8c\x02os\x8c\x06system\x93", b"h\x00", b"r\xff\xff\xff\xff", b"\x82\x01"),
]

Edit = Callable[[random.Random, bytes], bytes]


def front(rng: random.Random, data: bytes) -> bytes:
    """An injury of the first 4,096 bytes, where a small file's header is."""
    return rng.choice(BYTES)(rng, data[:4096]) + data[4096:]


KINDS: dict[str, list[Edit]] = {
    "zip": [zip_entries, zip_entries, zip_fields],
    "tar": [tar_fields, tar_fields, tar_members],
    "safetensors": [safetensors_header],
    "pickle": [opcodes],
    "front": [front],
}
