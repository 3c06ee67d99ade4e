"""The imports of clipjax and converters, file by file, and the rooms of docs/developers/architecture.md."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent

# Rooms of one line do not import each other; a line imports lower lines alone.
LAYERS = (
    ("errors", "progress", "metrics"),
    ("entry_points", "guards", "options"),
    ("config", "registry"),
    ("storage",),
    ("devices",),
    ("models", "corruptions", "served"),
    ("data", "converters"),
    ("checkpoints",),
    ("embeddings", "results", "downloads"),
    ("heads", "analysis"),
    ("tasks",),
    ("evaluation",),
    ("finetune", "doctor"),
    ("estimates",),
    ("sweep", "verification"),
    ("gates",),
    ("commands",),
    ("cli", "demo"),
    ("",),  # clipjax itself: the public names
)
HEIGHT = {room: k for k, line in enumerate(LAYERS) for room in line}


class Import(NamedTuple):
    name: str  # of a module, or of a name in one
    at_load: bool
    typing_only: bool


@cache
def modules() -> dict[str, Path]:
    files = [*ROOT.glob("clipjax/**/*.py"), *ROOT.glob("converters/**/*.py")]
    return {".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in files}


@cache
def imports(path: Path) -> tuple[Import, ...]:
    """What a file imports. Only statements are looked at, which are a tenth of all nodes."""
    found: list[Import] = []
    # Each node, whether it is inside a function, and whether type checkers alone read it.
    todo: list[tuple[ast.AST, bool, bool]] = [(_parsed(path), False, False)]
    for node, lazy, typing_only in todo:  # grows
        if isinstance(node, ast.Import | ast.ImportFrom):
            found += [Import(name, not (lazy or typing_only), typing_only) for name in _imported(node)]
            continue
        lazy = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        typing_only = typing_only or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        for field in ("body", "handlers", "orelse", "finalbody", "cases"):
            todo += [(child, lazy, typing_only) for child in getattr(node, field, ())]
    return tuple(dict.fromkeys(found))


@cache
def strings(path: Path) -> tuple[str, ...]:
    """The strings of a file but docstrings."""
    alone, constants = set(), []
    for node in ast.walk(_parsed(path)):
        if isinstance(node, ast.Expr):
            alone.add(node.value)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            constants.append(node)
    return tuple(node.value for node in constants if node not in alone)


def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _imported(node: ast.Import | ast.ImportFrom) -> list[str]:
    """Modules of an import statement; of `from a import b` the module a.b, or a where b is no module."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    assert node.level == 0, f"relative import of {node.module}: write the full name"
    whole = [f"{node.module}.{alias.name}" for alias in node.names]
    return [name if name in modules() else str(node.module) for name in whole]


def ours() -> Iterator[tuple[str, Import]]:
    """(module, what it imports of ours)."""
    for module, path in modules().items():
        for imported in imports(path):
            if imported.name in modules() and imported.name != module:
                yield module, imported


def room(module: str) -> str:
    """`python -m clipjax` is the command line."""
    parts = [*module.split("."), ""]
    return parts[0] if parts[0] == "converters" else parts[1].replace("__main__", "cli")


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")
