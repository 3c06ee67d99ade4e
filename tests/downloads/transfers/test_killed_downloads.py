"""A download that is killed at random moments goes on, and only the whole file ever has the name."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
from _file_server import Content, FileServer

from tests.downloads.transfers._getting import sha256

SCRIPT = Path(__file__).with_name("_killed.py")


def kill(folder: Path, kills: int, size: int, seed: int) -> tuple[int, list[str]]:
    """How many kills left a part, and the ranges that later downloads asked for."""
    data = random.Random(seed).randbytes(size)
    folder.mkdir()
    with FileServer({"/set.tar": Content(data, rate=10 * size)}) as server:
        arguments = (f"{server.url}/set.tar", folder / "set.tar", size, sha256(data), kills, seed)
        done = subprocess.run(
            [sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return int(done.stdout), [each for each in server.asked("Range") if each]


def test_ten_kills(tmp_path: Path) -> None:
    partly, ranges = kill(tmp_path / "downloads", 10, 4_000_000, seed=1)
    assert partly >= 3
    assert ranges


@pytest.mark.slow
def test_two_hundred_kills(tmp_path: Path) -> None:
    partly, ranges = kill(tmp_path / "downloads", 200, 12_000_000, seed=2)
    assert partly >= 100
    assert len(set(ranges)) >= 15
