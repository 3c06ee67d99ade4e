"""The refusals of clipjax: every message that the code raises, read from the source.

    .venv/bin/python tests/_refusals.py           # writes tests/refusals.txt anew
    .venv/bin/python tests/_refusals.py FOLDER    # prints those of another checkout

A line is `Error: message`, with {} for what is filled in, or `helper: texts` for `raise helper(...)` and for
calls of `clipjax.guards` (of `known_name`: the `unknown_name` that it raises). It does not name the file, so
moving code changes nothing. A `Registry` that takes plug-ins refuses unknown names.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path

COMMAND = "write tests/refusals.txt anew: .venv/bin/python tests/_refusals.py"
GONE = f"refusals that are gone; if each has a successor, or no cause, {COMMAND}"
ROOT = Path(__file__).resolve().parent.parent
LIST = ROOT / "tests" / "refusals.txt"
_GUARDS = ast.parse((ROOT / "clipjax" / "guards.py").read_text(encoding="utf-8"))
GUARDS = {node.name for node in _GUARDS.body if isinstance(node, ast.FunctionDef)}


def refusals(root: Path) -> list[str]:
    """The distinct refusals of a checkout, sorted."""
    files = [*root.glob("clipjax/**/*.py"), *root.glob("converters/**/*.py")]
    return sorted({line for file in files for line in of_file(file)})


def listed() -> set[str]:
    """Those in tests/refusals.txt."""
    return set(LIST.read_text(encoding="utf-8").splitlines())


@cache  # of a thousand files in two seconds
def of_file(path: Path) -> tuple[str, ...]:
    return tuple(_of_file(path))


def _of_file(path: Path) -> Iterator[str]:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    raised = {node.exc for node in nodes if isinstance(node, ast.Raise)}
    for node in nodes:
        if isinstance(node, ast.Call):
            name = _called(node)
            if name == "option":
                yield from _of_option(node)
            if name == "Registry":
                yield from _of_registry(node)
            if node in raised or name.endswith("Error") or name in GUARDS:
                name = "unknown_name" if name == "known_name" else name
                for texts in product(*(_texts(argument) for argument in node.args)):
                    message = "; ".join(texts) if name.endswith("Error") else "; ".join(_said(texts))
                    if any(letter.isalpha() for letter in message):
                        yield f"{name}: {message}".encode("unicode_escape").decode()


def _called(node: ast.Call) -> str:
    """The last name of what is called. `ast.unparse` of every call took most of the time."""
    match node.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ast.unparse(node.func).rpartition(".")[2]


def _of_registry(node: ast.Call) -> Iterator[str]:
    words = {word.arg: word.value for word in node.keywords}
    if "group" in words:
        yield from (f"unknown_name: {noun}" for noun in _texts(node.args[0]))
    for elsewhere in getattr(words.get("elsewhere"), "values", ()):
        yield from (f"UsageError: {text}" for text in _texts(elsewhere))


def _of_option(node: ast.Call) -> Iterator[str]:
    """What `Option.check` raises."""
    about = {word.arg: word.value for word in node.keywords}
    if isinstance(bound := about.get("bound"), ast.Constant):
        yield f"UsageError: {bound.value}, not {{}}"
    if isinstance(called := about.get("called"), ast.Constant):
        yield f"unknown_name: {called.value}"


def _said(texts: tuple[str, ...]) -> list[str]:
    """The arguments of a helper that are texts."""
    return [text for text in texts if text != "{}"]


def _texts(node: ast.expr) -> list[str]:
    """What an expression may read, each hole as {}."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.JoinedStr(values=parts):
            return ["".join(choice) for choice in product(*(_texts(part) for part in parts))]
        case ast.IfExp(body=body, orelse=orelse):
            return [*_texts(body), *_texts(orelse)]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return ["".join(choice) for choice in product(_texts(left), _texts(right))]
    return ["{}"]


def main() -> None:
    if len(sys.argv) > 1:
        print("\n".join(refusals(Path(sys.argv[1]))))
    else:
        LIST.write_text("\n".join(refusals(ROOT)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
