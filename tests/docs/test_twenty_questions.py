"""docs/questions.md: each way is two clicks or fewer, and its last page holds the answer's words."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
from _pages import DOCS, anchors, links, section

PAGE = DOCS / "questions.md"
ROW = re.compile(r"^\| (\d+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", flags=re.MULTILINE)
Way = list[tuple[Path, str]]
FIRST = (DOCS / "index.md", "")


def ways() -> list[tuple[str, Way, str]]:
    """Question, pages of the way with their anchors, words of the answer."""
    rows = ROW.findall(PAGE.read_text(encoding="utf-8"))
    return [(question, _way(cell), words) for _, question, cell, words in rows]


def _way(cell: str) -> Way:
    """The pages of a cell, after the first page where it is left out."""
    parts = [target.partition("#") for target in re.findall(r"\]\(([^)]+)\)", cell)]
    way = [((PAGE.parent / name).resolve(), anchor) for name, _, anchor in parts]
    return way if way[0] == FIRST else [FIRST, *way]


def problem_of(way: Way, words: str) -> str | None:
    """Why a way does not answer; None if it does."""
    if way[0] != FIRST:
        return "it does not begin on the first page"
    if len(way) > 3:
        return f"it takes {len(way) - 1} clicks"
    for (here, _), there in pairwise(way):
        if there not in links(here):
            return f"{_shown(here)} has no link to {_shown(*there)}"
    page, anchor = way[-1]
    return None if words in section(page, anchor) else f"{_shown(page, anchor)} does not hold {words!r}"


def _shown(page: Path, anchor: str = "") -> str:
    name = page.relative_to(DOCS).as_posix()
    return f"{name}#{anchor}" if anchor else name


@pytest.mark.parametrize(("way", "words"), [pytest.param(way, words, id=name) for name, way, words in ways()])
def test_the_way_leads_to_the_answer(way: Way, words: str) -> None:
    assert problem_of(way, words) is None


def test_there_are_twenty_questions() -> None:
    numbers = [int(row[0]) for row in ROW.findall(PAGE.read_text(encoding="utf-8"))]
    assert numbers == list(range(1, 21))


@pytest.mark.parametrize(
    ("names", "words", "problem"),
    [
        (["concepts/index.md"], "", "does not begin"),
        (["index.md", "concepts/pixels.md"], "", "has no link to concepts/pixels.md"),
        (["index.md", "concepts/index.md", "concepts/pixels.md"], "no such word", "does not hold"),
        (["index.md", "concepts/index.md", "concepts/pixels.md", "how_to/crosscheck.md"], "", "3 clicks"),
    ],
)
def test_a_way_that_does_not_lead_there_is_named(names: list[str], words: str, problem: str) -> None:
    assert problem in (problem_of([(DOCS / name, "") for name in names], words) or "")


@pytest.mark.parametrize(
    "page", sorted(DOCS.rglob("*.md")), ids=lambda path: path.relative_to(DOCS).as_posix()
)
def test_every_anchor_is_a_heading(page: Path) -> None:
    targets = [(there, anchor) for there, anchor in links(page) if anchor and there.suffix == ".md"]
    assert [f"{there.name}#{anchor}" for there, anchor in targets if anchor not in anchors(there)] == []


def test_a_section_ends_at_the_next_heading_of_its_level(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A\n## B `c`\none\n```\n# no heading\n```\n### C\ntwo\n## D\nthree\n## D\nfour\n")
    assert section(page, "b-c").split() == ["one", "```", "#", "no", "heading", "```", "###", "C", "two"]
    assert anchors(page) == {"a", "b-c", "c", "d", "d-1"}
