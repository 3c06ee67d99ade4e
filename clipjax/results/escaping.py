"""Make text from data (names, notes, paths) harmless for its destination.

    terminal(text)   a terminal: control characters and changes of direction are shown, not obeyed
    csv_cell(value)  a spreadsheet: no text is a formula
    markdown(text)   a cell of a table in Markdown: no HTML, links, code or emphasis
    tex_row(cells)   a line of a LaTeX table: no commands
    xml(text)        what an SVG or an HTML page may contain

`clipjax.analysis.report.markup` escapes HTML.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from clipjax.errors import visible

_LINES = "\n\t"  # kept in terminals, SVGs, HTML and CSV


def terminal(text: str) -> str:
    return visible(text, _LINES)


def xml(text: str) -> str:
    """A text for XML, in which hidden characters are shown; markup is not escaped."""
    return visible(text, _LINES)


# CSV


def csv_cell(value: Any) -> Any:
    """Text that would be a formula gets a leading `'`.

    Numbers stay, also as text ("-0.0312", or "-0.1; +0.2"). Lines end with `\\n`.
    """
    if not isinstance(value, str):
        return value
    text = visible(value.replace("\r\n", "\n").replace("\r", "\n"), _LINES)
    formula = text.lstrip(" \t\n")[:1] in tuple("=+-@\uff1d\uff0b\uff0d\uff20") or text[:1] in ("\t", "\n")
    return f"'{text}" if formula and not _are_numbers(text) else text


def _are_numbers(text: str) -> bool:
    try:
        return bool([float(part) for part in text.split("; ")])
    except ValueError:
        return False


# Markdown

_MARKUP = re.compile(
    r"[\\`*<>\[\]|~$!]|&(?=[#\w])|(?<![^\W_])_|_(?![^\W_])|(?<=[A-Za-z]):(?=\S)|(?<=www)\.", re.ASCII
)
_INTERVAL = re.compile(r"(\[[-+]?[\d.]+, [-+]?[\d.]+\](?![(\[:]))")


def markdown(text: str) -> str:
    """A text as one line of Markdown without markup; intervals of numbers keep their brackets."""
    line = visible(" ".join(text.split()))
    parts = enumerate(_INTERVAL.split(line))  # odd parts are intervals
    return "".join(part if k % 2 else _unmarked(part) for k, part in parts)


def _unmarked(text: str) -> str:
    return _MARKUP.sub(lambda mark: "&amp;" if mark[0] == "&" else f"\\{mark[0]}", text)


# LaTeX

_TEX = {
    **{c: rf"\{c}" for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "|": r"\textbar{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
}


def tex(text: str) -> str:
    line = visible(" ".join(text.split()))
    return "".join(_TEX.get(character, character) for character in line)


def tex_row(cells: Sequence[str]) -> str:
    r"""Join cells to a row. LaTeX takes a leading `[` or `*` after `\\` or a rule for an argument."""
    line = " & ".join(map(tex, cells))
    return ("{}" if line.startswith(("[", "*")) else "") + line + r" \\"
