"""Examples: the command line takes every command of pages and docstrings; Python names exist."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from _commands import of_page, of_source, pages, problem_of

ROOT = Path(__file__).parents[2]
PYTHON = re.compile(r"^( *)```(?:python|\{code-cell\} ipython3)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)


def test_the_command_line_takes_every_command_of_the_pages() -> None:
    shown = [(path, *each) for path in pages(ROOT) for each in of_page(path.read_text(encoding="utf-8"))]
    assert len(shown) > 300
    assert _problems(shown) == []


def test_the_command_line_takes_every_command_of_the_docstrings() -> None:
    files = [
        path for top in ("clipjax", "converters", "benchmarks") for path in sorted((ROOT / top).rglob("*.py"))
    ]
    shown = [(path, *each) for path in files for each in of_source(path.read_text(encoding="utf-8"))]
    assert len(shown) > 60
    assert _problems(shown) == []


def _problems(shown: list[tuple[Path, str, bool]]) -> list[str]:
    found = ((path, command, problem_of(command, whole)) for path, command, whole in shown)
    return [f"{path.relative_to(ROOT)}: {command}: {problem}" for path, command, problem in found if problem]


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("clipjax eval zeroshot --model a --dataset b | head", None),
        ("clipjax eval zeroshot --modell a", "no option --modell"),
        ("clipjax evaluate zeroshot", "no command evaluate"),
        ("clipjax results lst", "no command lst"),
        ("clipjax store gc --dry-run", "Missing parameter: budget"),
        ("clipjax finetune flyp ... --name mine", None),
        ("clipjax finetune flyp ... --nam mine", "no option --nam"),
        ("clipjax COMMAND --help", None),
    ],
)
def test_a_wrong_command_is_found(command: str, problem: str | None) -> None:
    assert problem_of(command) == problem


def test_a_mention_need_not_be_whole() -> None:
    page = "`clipjax store gc --dry-run`\n```\n$ clipjax store\\\n  list  # all\nclipjax-other x\n```\n"
    assert list(of_page(page)) == [("clipjax store list  # all", True), ("clipjax store gc --dry-run", False)]
    assert problem_of("clipjax store gc --dry-run", whole=False) is None


def imported_names(source: str) -> Iterator[tuple[str, str]]:
    """Module and name of what an example takes from clipjax."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in (
            "clipjax",
            "converters",
        ):
            yield from ((node.module or "", each.name) for each in node.names)
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "clipjax"
        ):
            yield "clipjax", node.attr


def test_python_examples_parse_and_name_what_exists() -> None:
    names = set()
    for path in pages(ROOT):
        for indent, block in PYTHON.findall(path.read_text(encoding="utf-8")):
            source = re.sub(rf"^{indent}", "", block, flags=re.MULTILINE)
            if "-> [" in source:  # signatures with shapes, no program
                continue
            names |= {(path.name, *each) for each in imported_names(source)}
    assert len(names) > 20
    assert [each for each in sorted(names) if not exists(*each[1:])] == []


def exists(module: str, name: str) -> bool:
    """Whether a module has a name, or a module of that name."""
    try:
        return hasattr(importlib.import_module(module), name) or bool(
            importlib.import_module(f"{module}.{name}")
        )
    except ModuleNotFoundError:
        return False


def test_a_name_that_is_gone_is_found() -> None:
    assert [exists(*each) for each in imported_names("import clipjax\nclipjax.evaluat\nclipjax.wrap")] == [
        False,
        True,
    ]
    assert [exists(*each) for each in imported_names("from clipjax.metrics import worst, best")] == [
        True,
        False,
    ]
