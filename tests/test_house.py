"""docs/developers/architecture.md shows the layers that test_imports.py holds, and is short."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from _house import PAGE, PICTURE, ROOMS, page, picture, text
from _imports import HEIGHT

REDRAW = "draw it anew: make records"
ROOT = Path(__file__).parents[1]


def test_the_picture_shows_the_layers() -> None:
    assert set(ROOMS) == set(HEIGHT)
    assert PICTURE.read_text(encoding="utf-8") == picture(), REDRAW


def test_the_page_shows_the_layers_as_text() -> None:
    shown = PAGE.read_text(encoding="utf-8")
    assert shown == page(), REDRAW
    assert text() in shown
    assert len(shown.split()) <= 2400, "say it in fewer words"


def test_a_folder_of_many_files_has_folders() -> None:
    """At most 16 modules beside each other, as they are read at a glance."""
    files = [
        path.relative_to(ROOT)
        for top in ("clipjax", "converters", "benchmarks", "tests")
        for path in (ROOT / top).rglob("*.py")
        if path.name != "__init__.py" and "plugins" not in path.parts
    ]
    count = Counter(path.parent for path in files)
    around = {folder.parent for folder in count}
    assert [str(folder) for folder, n in count.items() if n > 16 and folder not in around] == []
