"""The documents: what they point to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BESIDE = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "benchmarks/README.md")
DOCUMENTS = [*(ROOT / name for name in BESIDE), *sorted((ROOT / "docs").rglob("*.md"))]


def links(text: str) -> list[str]:
    """Relative targets of Markdown links and of HTML images, without their anchors; code is no link."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "code", text, flags=re.DOTALL)
    found = re.findall(r"\]\(([^)\s]+)[^)]*\)|<(?:img|a)\b[^>]*?(?:src|href)=\"([^\"]+)\"", text)
    targets = [markdown or html for markdown, html in found]
    return [target.partition("#")[0] for target in targets if not re.match(r"[a-z]+:|#", target)]


def test_links_are_found() -> None:
    text = '[a](b.md#c) ![d](e/f.png "g") [h](https://i) [j](#k) `[l](m)` <img src="n.png">'
    assert links(text) == ["b.md", "e/f.png", "n.png"]
    assert any(links(path.read_text()) for path in DOCUMENTS)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_relative_link_points_to_a_file(path: Path) -> None:
    gone = [target for target in links(path.read_text()) if not (path.parent / target).exists()]
    assert gone == []
