"""Help texts that fit a terminal of 80 columns, made from the docstrings of commands."""

from __future__ import annotations

import inspect
import re

import typer

WIDTH = 76  # columns of an example, with its indent
_INDENT, _DEEPER = " " * 4, " " * 8
_WORD = re.compile(r'"[^"]*"|\S+')
_ONE = re.compile(r"Example: +(?=clipjax )")


def shape_help(app: typer.Typer) -> None:
    """Shape the docstrings of all commands of an app and of its groups."""
    for command in app.registered_commands:
        if command.help is None and command.callback is not None:
            command.help = shaped(inspect.getdoc(command.callback) or "")
    for group in app.registered_groups:
        if group.typer_instance is not None:
            shape_help(group.typer_instance)


def shaped(text: str) -> str:
    """Paragraphs become one line each, which the terminal wraps.

    Examples (indented) are cut before an option, with a backslash, so that they can be copied.
    """
    paragraphs = _ONE.sub(f"Example:\n\n{_INDENT}", text).split("\n\n")
    return "\n\n".join(_example(each) if each.startswith(_INDENT) else _flowing(each) for each in paragraphs)


def _flowing(paragraph: str) -> str:
    return " ".join(paragraph.split())


def _example(line: str) -> str:
    """Cut lines end with ` \\`."""
    lines, indent = [""], _INDENT
    for part in _parts(_WORD.findall(line)):
        if lines[-1] and len(indent) + len(lines[-1]) + len(part) + 3 > WIDTH:
            lines.append("")
            indent = _DEEPER
        lines[-1] = f"{lines[-1]} {part}".strip()
    first, *others = lines
    return " \\\n".join([_INDENT + first, *(_DEEPER + each for each in others)])


def _parts(words: list[str]) -> list[str]:
    """The words of a command line; an option and its value are one part."""
    parts: list[str] = []
    for word in words:
        if parts and parts[-1].startswith("-") and " " not in parts[-1] and not word.startswith("-"):
            parts[-1] += f" {word}"
        else:
            parts.append(word)
    return parts
