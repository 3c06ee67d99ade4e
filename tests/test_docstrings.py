"""Docstrings describe each parameter and each field by itself."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_NAME = r"`{0,2}\*{0,2}\w+`{0,2}(?: ?\[[^\]\n]*\]| \([^)\n]*\))?"
# "limit, seed:", "`hits` and `total`:" or "x [N], y [N]:", where a line or a sentence begins.
_JOINED = re.compile(
    rf"(?:^[ \t]*(?:\"\"\")?|\. )({_NAME}(?:(?:,\s+(?:and |or )?| and | or |/){_NAME})+):(?=\s|$)", re.M
)


def joined_names(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of each description that two or more parameters, or fields of a class, share."""
    if not _JOINED.search(source):  # parsing takes longer
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names = _own_names(node)
            for match in _JOINED.finditer(ast.get_docstring(node) or ""):
                words = re.findall(r"\w+", re.sub(r"\[.*?\]|\(.*?\)", "", match[1], flags=re.DOTALL))
                if len(names.intersection(words)) > 1:
                    yield node.lineno, match[1]


def _own_names(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> set[str]:
    if not isinstance(node, ast.ClassDef):
        return {each.arg for each in ast.walk(node.args) if isinstance(each, ast.arg)}
    names = {
        each.target.id
        for each in node.body
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
    }
    made_by = (each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__")
    return names.union(*map(_own_names, made_by))


def test_each_name_has_its_own_description() -> None:
    joined = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for top in ("clipjax", "converters")
        for path in sorted((ROOT / top).rglob("*.py"))
        for line, text in joined_names(path.read_text(encoding="utf-8"))
    ]
    assert joined == []


@pytest.mark.parametrize(
    "text",
    [
        "Draw.\n\n    Args:\n        limit, seed: of the draw.\n",
        "Draw.\n\n    Args:\n        `limit` and `seed`: of the draw.\n",
        "Draw.\n\n    Args:\n        limit [N], seed (int): of the draw.\n",
        "Draw.\n\n    Args:\n        limit,\n        seed: of the draw.\n",
        "Draw. limit, seed: of the draw.",
    ],
    ids=["listed", "quoted", "with shapes", "on two lines", "in the summary"],
)
def test_joined_names_are_found(text: str) -> None:
    function = f'def draw(limit: int, *, seed: int):\n    """{text}"""\n'
    fields = f'class Draw:\n    """{text}"""\n\n    limit: int\n    seed: int\n'
    assert [line for source in (function, fields) for line, _ in joined_names(source)] == [1, 1]


@pytest.mark.parametrize(
    "text",
    [
        "Draw.\n\n    Args:\n        limit: the most images.\n        seed: of the draw.\n",
        "Draw.\n\n    Raises:\n        UsageError, DataError: limit or seed are below 0.\n",
        "Draw.\n\n    Raises:\n        DataError: the set has another limit or seed: draw it again.\n",
    ],
    ids=["apart", "errors", "in a sentence"],
)
def test_names_by_themselves_pass(text: str) -> None:
    assert list(joined_names(f'def draw(limit: int, seed: int):\n    """{text}"""\n')) == []
