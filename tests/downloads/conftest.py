"""The fixture of a server of archives and a data root."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from _file_server import FileServer

from tests.downloads._fetch_world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with FileServer({}) as server:
        yield World(tmp_path / "data", server)
