"""The commands that pages and docstrings show, and whether the command line takes them."""

from __future__ import annotations

import ast
import functools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from clipjax.cli import app

_FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
_SHELL = ("", "bash", "sh", "console", "text")
_INLINE = re.compile(r"`(clipjax [a-z][^`\n]*)`")
_END = re.compile(r"\s(?:#|\||&&|;|>|2>|<\()")  # a comment, or what the shell does with the command


def of_page(text: str) -> Iterator[tuple[str, bool]]:
    """Commands of a page; True: from a fence, so whole; False: a sentence mentions it."""
    for _, language, block in _FENCE.findall(text):
        if language in _SHELL:
            yield from ((command, True) for command in of_lines(block))
    yield from ((command, False) for command in _INLINE.findall(_FENCE.sub("", text)))


def of_source(source: str) -> Iterator[tuple[str, bool]]:
    """Commands in the docstrings of a module, likewise."""
    if "clipjax " not in source:  # most files: parsing one takes milliseconds
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            said = ast.get_docstring(node) or ""
            example = "\n".join(line for line in said.splitlines() if line.startswith(" "))
            yield from ((command, True) for command in of_lines(example))
            yield from ((command, False) for command in _INLINE.findall(said))


def of_lines(block: str) -> Iterator[str]:
    """The lines that begin with `clipjax COMMAND`, each with the lines that continue it."""
    for line in re.sub(r"\\\n\s*", " ", block).splitlines():
        begun = re.match(r"\s*(?:\$ )?(?:\w+=\S+ )*(?:\S*/bin/)?(clipjax [a-z-].*)", line)
        if begun and not re.search(r"  +\w+ \w+ \w+", begun[1].partition("#")[0]):  # a table of help
            yield begun[1]


def problem_of(command: str, whole: bool = True) -> str | None:
    """Why the command line refuses a command; None if it takes it. Nothing runs.

    Words in capitals stand for the reader's own; `...` for options that the text leaves out.

    Args:
        whole: whether nothing may be missing; else only the names of command and options are checked.
    """
    try:
        words = shlex.split(_END.split(f"{command} ")[0])[1:]
    except ValueError as error:
        return str(error)
    here: Any = _root()
    while words and hasattr(here, "commands"):
        name = words.pop(0)
        if name.startswith("-") or name not in here.commands:
            return None if name.startswith("-") or name.isupper() or name == "..." else f"no command {name}"
        here = here.commands[name]
    if hasattr(here, "commands"):
        return None  # a group that is named
    options = [word for word in words if word.startswith("--")]
    known = {name for each in here.params for name in each.opts} | {"--help"}
    if unknown := [option for option in options if option.partition("=")[0] not in known]:
        return f"no option {unknown[0]}"
    if not whole or "..." in words or any(re.match(r"[\[<{]|…", word) for word in words):
        return None
    try:
        # With the settings of the whole: a command keeps the names of its option for help, -h among them.
        settings = _root().context_settings
        here.make_context(here.name, [word for word in words if word != "--help"], **settings)
    except Exception as error:
        return str(getattr(error, "message", error) or error)
    return None


@functools.cache
def _root() -> Any:
    return typer.main.get_command(app)


def pages(root: Path) -> list[Path]:
    beside = [root / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")]
    return [*beside, *sorted((root / "docs").rglob("*.md"))]
