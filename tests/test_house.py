"""docs/architecture.md shows the layers that test_imports.py holds, and is short."""

from __future__ import annotations

from _house import BLOCK, PAGE, PICTURE, ROOMS, picture, text
from test_imports import HEIGHT

REDRAW = "draw it anew: .venv/bin/python tests/_house.py"


def test_the_picture_shows_the_layers() -> None:
    assert set(ROOMS) == set(HEIGHT)
    assert PICTURE.read_text(encoding="utf-8") == picture(), REDRAW


def test_the_page_shows_the_layers_as_text() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert BLOCK.findall(page) == [text()], REDRAW
    assert len(page.split()) <= 2400, "say it in fewer words"
