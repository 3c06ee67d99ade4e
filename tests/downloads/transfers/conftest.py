"""Fixtures of the tests of one file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from _file_server import FileServer

from clipjax.downloads import transfer
from tests.downloads.transfers._getting import Getting


@pytest.fixture
def getting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Getting:
    monkeypatch.setattr(transfer, "ATTEMPTS", 3)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    return Getting(tmp_path / "downloads")


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer({}) as found:
        yield found
