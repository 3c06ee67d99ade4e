"""Encrypted zips: what Python's zipfile decrypts, byte for byte, many members at once or few."""

from __future__ import annotations

import os
import random
import resource
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
from _encrypted import encrypted_zip

from clipjax.downloads import zip_crypto
from clipjax.downloads.archives import Unpacked, unpack
from clipjax.errors import DataError

RANDOM = random.Random(0)
# Sizes around a round's, and members that end in the rounds of others.
SIZES = [0, 1, 5, 499, 500, 501, 1000, 1500, 37, 2500, 3, 700, 1488, 1489, 60]
FILES = {f"set/{number % 3}/{number}.png": RANDOM.randbytes(size) for number, size in enumerate(SIZES)}
PASSWORD = "pässword"


@pytest.fixture(autouse=True)
def small_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zip_crypto, "_CHUNK", 500)


def unpacked(path: Path, **options: Any) -> dict[str, bytes]:
    to = path.with_suffix(".to")
    counts: list[int] = []
    done = unpack(path, to, progress=counts.append, **options)
    files = {str(p.relative_to(to)): p.read_bytes() for p in to.rglob("*") if p.is_file()}
    assert done == Unpacked(len(files), sum(map(len, files.values())))
    assert sum(counts) == path.stat().st_size
    return files


@pytest.mark.parametrize(("most", "few"), [(512, 3), (4, 1), (4, 100), (1, 100)])
@pytest.mark.parametrize("options", [{}, {"stored": True}, {"late": True}], ids=str)
def test_the_files_are_decrypted(
    most: int, few: int, options: dict[str, bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By NumPy alone, a byte at a time alone, and changing between them."""
    monkeypatch.setattr(zip_crypto, "MOST", most)
    monkeypatch.setattr(zip_crypto, "FEW", few)
    path = encrypted_zip(tmp_path / "x.zip", FILES, PASSWORD, **options)
    assert unpacked(path, password=PASSWORD) == FILES


def test_only_what_is_wanted_is_decrypted(tmp_path: Path) -> None:
    path = encrypted_zip(tmp_path / "x.zip", FILES, PASSWORD)
    names = {name: data for name, data in FILES.items() if name.startswith("set/1/")}
    files = unpacked(path, password=PASSWORD, only=("set/1/*",), strip=1)
    assert files == {name.removeprefix("set/"): data for name, data in names.items()}


def test_no_more_files_are_open_than_the_system_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (8, 8))
    opened, close, most = set(), os.close, [0]
    open_file = os.open

    def opening(path: str, flags: int, mode: int = 0o777, **more: Any) -> int:
        descriptor = open_file(path, flags, mode, **more)
        opened.add(descriptor)
        most[0] = max(most[0], len(opened))
        return descriptor

    monkeypatch.setattr(os, "open", opening)
    monkeypatch.setattr(os, "close", lambda fd: (opened.discard(fd), close(fd)))
    assert unpacked(encrypted_zip(tmp_path / "x.zip", FILES, PASSWORD), password=PASSWORD) == FILES
    assert (most[0], opened) == (4, set())


@pytest.mark.parametrize("password", [None, ""])
def test_a_password_is_asked_for(password: str | None, tmp_path: Path) -> None:
    path = encrypted_zip(tmp_path / "x.zip", FILES, PASSWORD)
    with pytest.raises(DataError, match=r"x\.zip is encrypted: give the password that its owners publish"):
        unpacked(path, password=password)


@pytest.mark.parametrize("late", [False, True])
def test_a_wrong_password(late: bool, tmp_path: Path) -> None:
    path = encrypted_zip(tmp_path / "x.zip", FILES, PASSWORD, late=late)
    with pytest.raises(DataError, match=r"x\.zip: the password is wrong; type it again") as error:
        unpacked(path, password="secret words")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("stored", [False, True])
def test_a_wrong_password_that_passes_the_only_check_byte(stored: bool, tmp_path: Path) -> None:
    """One in 256 does: then the data or their checksum are wrong."""
    path = encrypted_zip(tmp_path / "x.zip", {"a.png": RANDOM.randbytes(3000)}, PASSWORD, stored=stored)
    with zipfile.ZipFile(path) as archive:
        check = archive.infolist()[0].CRC >> 24
    header = path.read_bytes()[35:47]
    passing = (
        str(number)
        for number in range(10_000)
        if zip_crypto._decrypt_one(zip_crypto._first_keys(b"%d" % number), header)[1][-1] == check
    )
    with pytest.raises(DataError, match="or the password is wrong"):
        unpacked(path, password=next(passing))


def _damaged(path: Path, **fields: int) -> None:
    raw = bytearray(path.read_bytes())
    at = raw.find(b"PK\x01\x02")
    places = {"flags": (8, "<H"), "method": (10, "<H"), "crc": (16, "<I"), "offset": (42, "<I")}
    for name, value in fields.items():
        struct.pack_into(places[name][1], raw, at + places[name][0], value)
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": 99}, "another encryption than ZipCrypto, unpack it with 7z"),
        ({"method": 12}, "another encryption than ZipCrypto"),
        ({"flags": 0x41}, "another encryption than ZipCrypto"),
        ({"offset": 7}, "a member has no header"),
        ({"offset": 10**6}, "a member has no header"),
    ],
    ids=str,
)
def test_other_encryptions_and_damage(fields: dict[str, int], message: str, tmp_path: Path) -> None:
    path = encrypted_zip(tmp_path / "x.zip", FILES, PASSWORD)
    _damaged(path, **fields)
    with pytest.raises(DataError, match=rf"x\.zip: not a whole zip file \({message}"):
        unpacked(path, password=PASSWORD)


def test_changed_bytes_are_noticed(tmp_path: Path) -> None:
    path = encrypted_zip(tmp_path / "x.zip", FILES, PASSWORD, stored=True)
    with zipfile.ZipFile(path) as archive:
        at = archive.getinfo("set/0/6.png").header_offset
    raw = bytearray(path.read_bytes())
    raw[at + 500] ^= 1
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"set/0/6\.png has another checksum, or the password is wrong"):
        unpacked(path, password=PASSWORD)


def test_a_password_for_an_archive_without_one_is_no_harm(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a", b"aaa")
    assert unpacked(tmp_path / "x.zip", password=PASSWORD) == {"a": b"aaa"}
