"""The functions of clipjax and converters that are hardest to read, by two counts.

    python benchmarks/code_hard.py              # sixty by each count
    python benchmarks/code_hard.py --top 10

Branches are McCabe's cyclomatic complexity: one, plus each branch, loop, condition of a comprehension and
`and` or `or`. Operators are calls, subscripts, arithmetic, comparisons, lambdas and loops of comprehensions.
Functions inside a function count in both.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from benchmarks import code_size, common

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("clipjax", "converters")
TOP = 60

_BRANCHES = (
    ast.If,
    ast.IfExp,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.ExceptHandler,
    ast.Assert,
    ast.match_case,
)
_OPERATORS = (
    *(ast.BinOp, ast.UnaryOp, ast.Compare, ast.IfExp, ast.NamedExpr),
    *(ast.Call, ast.Subscript, ast.Lambda, ast.Starred),
)


class Function(NamedTuple):
    """One function's counts."""

    place: str  # "file:line name"
    branches: int
    operators: int  # on its busiest line
    busiest: int  # that line's number
    mean: float  # operators of a line that has some
    lines: int  # of code
    comments: int


def main(
    top: Annotated[int, typer.Option(min=1, help="This many functions by each count.")] = TOP,
    json: common.Json = None,
) -> None:
    """List the functions with the most branches, and those with the most operators on a line."""
    files = code_size.sources(ROOT / folder for folder in FOLDERS)
    found = list(functions(files))
    with common.reported("code_hard", json) as results:
        for count in ("branches", "operators"):
            rows = sorted(found, key=lambda each: -getattr(each, count))[:top]
            results[count] = [row._asdict() for row in rows]
            show(f"most {count}{'' if count == 'branches' else ' on a line'}", rows)
        comments, code = (sum(map(len, lines)) for lines in zip(*((x.comments, x.code) for x in files)))
        results["comments"] = 100 * comments / code
        print(f"{comments:,} lines with a comment, {results['comments']:.2f} per 100 of {code:,} code lines")


def show(title: str, rows: list[Function]) -> None:
    print(f"{title}:\nbranches  operators (line)  mean  lines  comments  function")
    for row in rows:
        line = f"{row.branches:8}  {row.operators:9} {f'({row.busiest})':<6}  {row.mean:4.1f}  {row.lines:5}"
        print(f"{line}  {row.comments:8}  {row.place.removeprefix(f'{ROOT}/')}")
    print()


def functions(files: list[code_size.Source]) -> Iterator[Function]:
    """Count every function of these files."""
    for file in files:
        for place, node, lines in code_size.functions(file):
            counts = operators(node)
            busiest = max(counts, key=lambda line: counts[line], default=node.lineno)
            mean = counts.total() / max(1, len(counts))
            code, comments = len(lines & file.code), len(lines & file.comments)
            yield Function(place, branches(node), counts[busiest], busiest, mean, code, comments)


def branches(function: ast.AST) -> int:
    """Cyclomatic complexity."""
    count = 1
    for node in ast.walk(function):
        if isinstance(node, _BRANCHES):
            count += 1
        elif isinstance(node, ast.comprehension):
            count += 1 + len(node.ifs)
        elif isinstance(node, ast.BoolOp):
            count += len(node.values) - 1
    return count


def operators(function: ast.AST) -> Counter[int]:
    """Line number -> operators that begin there."""
    counts: Counter[int] = Counter()
    for node in ast.walk(function):
        if isinstance(node, _OPERATORS):
            counts[node.lineno] += 1
        elif isinstance(node, ast.comprehension):
            counts[node.target.lineno] += 1 + len(node.ifs)
        elif isinstance(node, ast.BoolOp):
            counts[node.lineno] += len(node.values) - 1
    return counts


if __name__ == "__main__":
    typer.run(main)
