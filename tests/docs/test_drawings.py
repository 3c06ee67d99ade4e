"""docs/pictures/: the drawings of the concepts are those that docs/drawings.py makes."""

from __future__ import annotations

import runpy
from xml.etree import ElementTree

import pytest
from _pages import DOCS

DRAWN = {draw.__name__: draw for draw in runpy.run_path(str(DOCS / "drawings.py"))["DRAWINGS"]}


@pytest.mark.parametrize("name", DRAWN)
def test_the_drawing_is_the_one_that_the_code_makes(name: str) -> None:
    text = (DOCS / "pictures" / f"{name}.svg").read_text(encoding="utf-8")
    assert text == DRAWN[name](), "run: .venv/bin/python docs/drawings.py"
    assert ElementTree.fromstring(text)[0].text  # a title, for those who do not see it


@pytest.mark.parametrize("name", DRAWN)
def test_a_page_of_the_concepts_shows_it(name: str) -> None:
    pages = (DOCS / "concepts").glob("*.md")
    assert any(f"](../pictures/{name}.svg)" in page.read_text(encoding="utf-8") for page in pages)


def test_one_interval_of_the_twenty_misses() -> None:
    """As docs/concepts/intervals.md says of its picture."""
    drawing = DRAWN["interval"]()
    assert drawing.count('circle class="first"') == 19
    assert drawing.count('circle class="second"') == 1


def test_no_picture_is_large() -> None:
    """docs/palette.py makes a PNG smaller; a JPEG may have fewer pixels."""
    pictures = [path for path in (DOCS / "pictures").rglob("*") if path.is_file()]
    assert len(pictures) > 30
    assert [path.name for path in pictures if path.stat().st_size > 150_000] == []
