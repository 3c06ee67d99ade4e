"""Every change of a resume point's files is seen."""

from __future__ import annotations

from pathlib import Path

import pytest
from _long import mostly_long

from clipjax.finetune.training.point_files import SIZES, damage, write_contents


@pytest.fixture
def point(tmp_path: Path) -> Path:
    for name, data in {"state/d/0123": b"weights", "identity": b"{}", "empty": b""}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    write_contents(tmp_path)
    assert damage(tmp_path) is None
    assert (tmp_path / SIZES).is_file()
    return tmp_path


@pytest.mark.parametrize("bit", mostly_long(range(8), keep=[0, 5]))  # of digits, and of letters' case
def test_every_flipped_bit_is_found(point: Path, bit: int) -> None:
    flipped = 0
    for file in [path for path in point.rglob("*") if path.is_file()]:
        whole = file.read_bytes()
        for byte in range(len(whole)):
            raw = bytearray(whole)
            raw[byte] ^= 1 << bit
            file.write_bytes(raw)
            said = damage(point)
            assert said is not None, (file.name, byte)
            assert file.name in said or file.name == SIZES, (file.name, byte)
            flipped += 1
        file.write_bytes(whole)
    assert flipped > 250


@pytest.mark.parametrize("name", ["state/d/0123", "empty"])
def test_a_missing_file_is_named(name: str, point: Path) -> None:
    (point / name).unlink()
    assert name in str(damage(point))
