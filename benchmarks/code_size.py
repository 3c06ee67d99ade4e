"""Counts over Python files: lines of code, lengths of functions, names that a file mentions."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

_LAYOUT = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
# How shared code asks which kind of run it has.
KIND_FIELDS = ("maps", "asking", "matching")
KIND_NEEDS = ("pairs", "answers")


class Source(NamedTuple):
    """A Python file."""

    path: Path
    tree: ast.Module
    code: frozenset[int]  # numbers of the lines that hold code
    comments: frozenset[int]  # of those that hold a comment


def sources(folders: Iterable[Path]) -> list[Source]:
    """The Python files of some folders, in order."""
    return [read(path) for folder in folders for path in sorted(folder.rglob("*.py"))]


def read(path: Path) -> Source:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    code, comments = _token_lines(text)
    return Source(path, tree, frozenset(code - set(_docstring_lines(tree))), frozenset(comments))


def _token_lines(text: str) -> tuple[set[int], set[int]]:
    """Lines of code and docstrings, and lines with a comment. A string of several lines holds all of them."""
    lines: set[int] = set()
    comments: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            comments.add(token.start[0])
        elif token.type not in _LAYOUT:
            lines.update(range(token.start[0], token.end[0] + 1))
    return lines, comments


def _docstring_lines(tree: ast.Module) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            first = node.body[0]
            yield from range(first.lineno, (first.end_lineno or first.lineno) + 1)


def code_lines(files: Iterable[Source]) -> int:
    """Lines without blanks, comments and docstrings."""
    return sum(len(each.code) for each in files)


def function_lengths(files: Iterable[Source]) -> dict[str, int]:
    """Function -> its lines of code, decorators and functions inside it included."""
    return {place: len(each.code & lines) for each in files for place, _, lines in functions(each)}


def functions(file: Source) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef, set[int]]]:
    """For each function "file:line name", its definition, and the numbers of its lines with decorators."""
    for node in ast.walk(file.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            lines = set(range(first, (node.end_lineno or first) + 1))
            yield f"{file.path}:{first} {node.name}", node, lines


def fields_of(files: Iterable[Source], record: str) -> list[str]:
    """The fields of the dataclass of this name."""
    for each in files:
        for node in ast.walk(each.tree):
            if isinstance(node, ast.ClassDef) and node.name == record:
                statements = [line for line in node.body if isinstance(line, ast.AnnAssign)]
                return [line.target.id for line in statements if isinstance(line.target, ast.Name)]
    raise LookupError(f"no class {record}")


def mentions(file: Source) -> set[str]:
    """Every identifier, name of an argument, and string of a file."""
    words: set[str] = set()
    for node in ast.walk(file.tree):
        match node:
            case ast.Name(id=word) | ast.Attribute(attr=word) | ast.arg(arg=word):
                words.add(word)
            case ast.keyword(arg=str(word)) | ast.Constant(value=str(word)):
                words.add(word)
    return words


def kind_tests(file: Source) -> int:
    """How often a file asks which kind of run it has: a pair's, a question's, or one without a network."""
    return sum(_asks_kind(node) for node in ast.walk(file.tree))


def _asks_kind(node: ast.AST) -> bool:
    match node:
        case ast.Attribute(attr=name):
            return name in KIND_FIELDS
        case ast.Compare(left=left, ops=[ast.Is() | ast.IsNot()], comparators=[ast.Constant(value=None)]):
            return _last_name(left) == "network"
        case ast.Compare(left=ast.Constant(value=need), ops=[ast.In() | ast.NotIn()], comparators=[right]):
            return need in KIND_NEEDS and _last_name(right) == "needs"
    return False


def _last_name(node: ast.AST) -> str | None:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return None
