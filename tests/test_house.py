"""docs/architecture.md shows the layers that test_imports.py holds, and is short."""

from __future__ import annotations

from _house import PAGE, PICTURE, ROOMS, page, picture, text
from test_imports import HEIGHT

REDRAW = "draw it anew: make records"


def test_the_picture_shows_the_layers() -> None:
    assert set(ROOMS) == set(HEIGHT)
    assert PICTURE.read_text(encoding="utf-8") == picture(), REDRAW


def test_the_page_shows_the_layers_as_text() -> None:
    shown = PAGE.read_text(encoding="utf-8")
    assert shown == page(), REDRAW
    assert text() in shown
    assert len(shown.split()) <= 2400, "say it in fewer words"
