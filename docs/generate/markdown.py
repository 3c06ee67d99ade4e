"""Markdown of generated parts: tables, headings, and texts that show what they contain."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

# Code in a text, an option, or a sign that Markdown or HTML would read.
_SIGN = re.compile(r"`[^`]*`|(?<![\w-])--?[a-z][\w-]*|[\\*_<>\[\]{}#|~$]")


def text(plain: str) -> str:
    """A plain text for a page: options become code, `code` stays, and no other sign means anything."""

    def shown(found: re.Match[str]) -> str:
        sign = found[0]
        if sign.startswith("`"):
            return sign.replace("|", "\\|")
        return code(sign) if sign.startswith("-") else f"\\{sign}"

    return _SIGN.sub(shown, " ".join(plain.split()))


def code(plain: object) -> str:
    """A text as code, for a line or a cell of a table; empty for an empty text."""
    shown = " ".join(str(plain).split()).replace("`", "'").replace("|", "\\|")
    return f"`{shown}`" if shown else ""


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells are Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines) + "\n"


def section(title: str, *parts: str, level: int = 2) -> str:
    """A heading and what is below it; empty parts are left out."""
    return (
        "\n".join([f"{'#' * level} {title}\n", *(f"{part.rstrip()}\n" for part in parts if part.strip())])
        + "\n"
    )


def attributes(docstring: str | None) -> dict[str, str]:
    """The names below "Attributes:" or "Args:" of a docstring, and what it says about each."""
    found: dict[str, str] = {}
    body = re.search(r"^ *(?:Attributes|Args):\n(.*?)(?:\n\n|\Z)", docstring or "", re.MULTILINE | re.DOTALL)
    lines = body[1].splitlines() if body else []
    indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    name = ""
    for line in lines:
        begun = re.match(rf" {{{indent}}}(\w+): (.*)", line)
        if begun:
            name = begun[1]
        if name:
            found[name] = f"{found.get(name, '')} {begun[2] if begun else line.strip()}".strip()
    return found
