"""The sources of the site, in a folder of their own: the pages of docs/, and some from beside it.

A page's links are plain relative paths, so that a code host follows them. Here a link to another file becomes
a link to a copy of the file. A line `<!-- generated: NAME -->`, with the paragraph below it, becomes what
`PARTS[NAME]` returns.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
# Pages outside docs/ that the site also has.
BESIDE = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "benchmarks/README.md")
# Folders of docs/ without pages.
APART = ("examples", "generate")
# The marker, and the paragraph below it, which a code host shows instead.
MARKER = re.compile(r"^<!-- generated: (\w+) -->\n(?:.+\n)*", re.MULTILINE)
# A fence, a link (image mark, text, path, anchor) or code in a line: whichever begins first.
_FENCE = r"^(?P<indent> *)(?P<fence>`{3,}|~{3,}).*?^(?P=indent)(?P=fence)`*$"
_TEXT = r"(?P<image>!?)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]"
_LINK = _TEXT + r"\((?![a-z]+:|#)(?P<path>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)"
_TOKEN = re.compile(rf"{_FENCE}|{_LINK}|`[^`\n]+`", re.MULTILINE | re.DOTALL)

Parts = Mapping[str, Callable[[], str]]


def pages() -> dict[str, Path]:
    """Path of a page in the site -> its file in the checkout."""
    inside = [path for path in DOCS.rglob("*.md") if path.relative_to(DOCS).parts[0] not in APART]
    found = {path.relative_to(DOCS).as_posix(): path for path in sorted(inside)}
    return found | {name: ROOT / name for name in BESIDE if (ROOT / name).is_file()}


def digest() -> str:
    """SHA-256 of the pages and of the code that makes the site: a site that records another one is stale."""
    files = {**pages(), **{path.name: path for path in sorted((DOCS / "generate").rglob("*.py"))}}
    content = ((name, hashlib.sha256(path.read_bytes()).hexdigest()) for name, path in files.items())
    return hashlib.sha256(repr(sorted(content)).encode()).hexdigest()


def stage(out: Path, parts: Parts) -> None:
    """Write the sources to a folder, and remove other files there.

    Raises ValueError for a marker without a part, or a link to a file that does not exist.
    """
    wanted: dict[str, bytes | Path] = {}
    for name, path in pages().items():
        whole = with_parts(path.read_text(encoding="utf-8"), parts, name)
        text, linked = with_links(whole, path, Path(name))
        wanted[name] = text.encode()
        wanted |= linked
    for name, content in wanted.items():
        _write(out / name, content)
    for path in list(_files(out)):
        if path.relative_to(out).as_posix() not in wanted:
            path.unlink()


def with_links(text: str, path: Path, name: Path) -> tuple[str, dict[str, Path]]:
    """A page's text with links as the site has them, and the files that it links: path in the site -> file.

    Args:
        path: the page's file in the checkout.
        name: its path in the site.
    """
    linked: dict[str, Path] = {}

    def link(token: re.Match[str]) -> str:
        if not token["path"]:
            return token[0]
        file = (path.parent / token["path"]).resolve()
        if not file.exists():
            raise ValueError(f"{path.relative_to(ROOT)}: the link to {token['path']} leads nowhere")
        if file.is_dir():
            return token["text"]
        place, anchor = place_of(file), token["anchor"] or ""
        if place not in pages():
            linked[place] = file
            anchor = ""
        return f"{token['image']}[{token['text']}]({os.path.relpath(place, name.parent)}{anchor})"

    return _TOKEN.sub(link, text), linked


def with_parts(text: str, parts: Parts, page: str) -> str:
    """A page's text with what is generated in the place of its markers."""

    def part(marker: re.Match[str]) -> str:
        if marker[1] not in parts:
            known = ", ".join(sorted(parts))
            raise ValueError(f"{page}: nothing generates {marker[1]}; {known} are generated")
        return parts[marker[1]]()

    return MARKER.sub(part, text)


def place_of(file: Path) -> str:
    """The path of a linked file in the site."""
    if file.is_relative_to(DOCS):
        return file.relative_to(DOCS).as_posix()
    within = file.relative_to(ROOT).as_posix()
    return within if within in BESIDE else f"files/{within}"


def _write(path: Path, content: bytes | Path) -> None:
    new = content.read_bytes() if isinstance(content, Path) else content
    if not path.is_file() or path.read_bytes() != new:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(new)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())
