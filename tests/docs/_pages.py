"""Pages of docs/ as Markdown, with what is generated: their links, headings and sections."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from docs.generate.parts import PARTS
from docs.generate.stage import Parts, with_parts

DOCS = Path(__file__).resolve().parents[2] / "docs"
# Every page and test of this process shares them: all take four seconds.
MADE_ONCE: Parts = {name: cache(part) for name, part in PARTS.items()}
_CODE = re.compile(r"^```.*?^```", flags=re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"^#{1,6} (.+)$", flags=re.MULTILINE)


@cache
def text_of(page: Path) -> str:
    return with_parts(page.read_text(encoding="utf-8"), MADE_ONCE, page.name)


def links(page: Path) -> list[tuple[Path, str]]:
    """Relative links of a page outside of code: the file, and the anchor or ""."""
    text = re.sub(r"`[^`\n]*`", "code", _CODE.sub("", text_of(page)))
    targets = re.findall(r"\]\(([^)\s]+)[^)]*\)", text)
    parts = [target.partition("#") for target in targets if not re.match(r"[a-z]+:", target)]
    return [((page.parent / name).resolve() if name else page, anchor) for name, _, anchor in parts]


def anchor_of(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    return re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    """Anchors of all headings; a heading that is repeated has a number behind its anchor."""
    found: dict[str, int] = {}
    for heading in _HEADING.findall(_CODE.sub("", text_of(page))):
        anchor = anchor_of(heading)
        found[anchor] = found.get(anchor, 0) + 1
    repeated = {f"{anchor}-{n}" for anchor, times in found.items() for n in range(1, times)}
    return {*found, *repeated}


def section(page: Path, anchor: str) -> str:
    """The text from a heading to the next of its level or above; the whole page for ""."""
    text = text_of(page)
    if not anchor:
        return text
    for match in re.finditer(r"^(#{1,6}) (.+)$", text, flags=re.MULTILINE):
        if anchor_of(match[2]) == anchor:
            rest = text[match.end() :]
            end = re.search(rf"^#{{1,{len(match[1])}}} ", _blank_code(rest), flags=re.MULTILINE)
            return rest[: end.start()] if end else rest
    raise LookupError(f"{page} has no heading #{anchor}")


def _blank_code(text: str) -> str:
    """The text with its blocks of code as spaces: every place stays."""
    return _CODE.sub(lambda block: " " * len(block[0]), text)
