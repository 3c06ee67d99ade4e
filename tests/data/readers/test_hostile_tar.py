"""Tar headers that no archiver writes: each ends in one sentence, and none without end."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from clipjax.data.readers.webdataset import walk_tar
from clipjax.errors import DataError


def _header(size: bytes, name: str = "a.png", kind: bytes = b"0") -> bytes:
    """A header block whose field of the size holds these 12 bytes."""
    info = tarfile.TarInfo(name)
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = size
    block[156:157] = kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def _base256(size: int) -> bytes:
    return (b"\xff" if size < 0 else b"\x80") + (size % 2**88).to_bytes(11, "big")


def _pax(size: str) -> bytes:
    """A member whose extended header gives another size than its own."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("a.png")
        info.pax_headers = {"size": size}
        tar.addfile(info)
    return archive.getvalue()


END = bytes(1024)
HOSTILE = {
    "negative": _header(_base256(-512)) + END,
    "minus one header": _header(b"00000000000\0", "b.png") + _header(_base256(-1024)) + END,
    "too large": _header(_base256(2**62)) + END,
    "larger than the file": _header(b"%011o\0" % 5000) + END,
    "negative by an extended header": _pax("-512") + END,
    "large by an extended header": _pax(str(2**70)) + END,
    "negative long name": _header(_base256(-512), "././@LongLink", b"L") + END,
    "headers nested without end": _header(b"%011o\0" % 0, "x", b"x") * 3000 + END,
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_header_is_one_sentence(case: str, tmp_path: Path) -> None:
    shard = tmp_path / "hostile.tar"
    shard.write_bytes(HOSTILE[case])
    with pytest.raises(DataError, match=r"hostile\.tar: not a whole tar file .*; copy it again"):
        list(walk_tar(shard))


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    shard = tmp_path / "x.tar"
    with tarfile.open(shard, "w", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("\udcff.png"))
    with pytest.raises(DataError, match="is not UTF-8"):
        list(walk_tar(shard))


def test_many_empty_members_are_members(tmp_path: Path) -> None:
    shard = tmp_path / "x.tar"
    with tarfile.open(shard, "w") as tar:
        for i in range(300):
            tar.addfile(tarfile.TarInfo(f"{i}.png"))
    assert len(list(walk_tar(shard))) == 300
