"""Imports go down: the rooms of docs/architecture.md, lowest first, and what each may not load."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Rooms of one line do not import each other; a line imports lower lines alone.
LAYERS = (
    ("errors", "progress", "metrics"),
    ("entry_points",),
    ("config",),
    ("storage",),
    ("devices",),
    ("models", "corruptions"),
    ("data", "converters"),
    ("checkpoints",),
    ("embeddings", "results"),
    ("heads", "analysis"),
    ("tasks",),
    ("evaluation",),
    ("finetune", "sweep", "doctor"),
    ("verification",),
    ("commands",),
    ("cli", "demo"),
    ("",),  # clipjax itself: the public names
)
HEIGHT = {room: k for k, line in enumerate(LAYERS) for room in line}

# (importing module, imported module): upward imports that are still to be cut.
UPWARD: set[tuple[str, str]] = set()
# Circles of files that are still to be cut, each by one of its files.
CIRCLES: set[str] = set()
# May import inside functions, so that a command starts fast; all others import when they are loaded.
LAZY_ROOMS = ("commands", "cli", "demo", "")
# `doctor.data` stays: a doctor that loaded JAX could not say that JAX is broken.
LAZY: set[tuple[str, str]] = {
    ("clipjax.doctor.data", "clipjax.checkpoints.identity.registry"),
    ("clipjax.doctor.data", "clipjax.evaluation.located"),
}


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
    """Every import statement; of `from a import b` the module a.b, or a where b is no module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    lazy: set[ast.AST] = set()
    typing_only: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            typing_only.update(ast.walk(node))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lazy.update(child for child in ast.walk(node) if child is not node)
    found = []
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the full name"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in modules() else str(node.module) for name in whole]
        found += [Import(name, node not in lazy | typing_only, node in typing_only) for name in names]
    return tuple(dict.fromkeys(found))


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


def test_every_room_has_a_place() -> None:
    assert {room(module) for module in modules()} == set(HEIGHT)


def test_imports_go_down() -> None:
    upward = {
        (module, imported.name)
        for module, imported in ours()
        if room(module) != room(imported.name) and HEIGHT[room(imported.name)] >= HEIGHT[room(module)]
    }
    assert upward == UPWARD


def test_no_two_files_reach_each_other() -> None:
    below: dict[str, set[str]] = {module: set() for module in modules()}
    for module, imported in ours():
        below[module].add(imported.name)

    def reached(start: str) -> set[str]:
        found, todo = set[str](), [start]
        while todo:
            fresh = below[todo.pop()] - found
            found |= fresh
            todo += fresh
        return found

    assert {module for module in below if module in reached(module)} == CIRCLES


def test_only_commands_import_inside_functions() -> None:
    lazy = {
        (module, imported.name)
        for module, imported in ours()
        if not (imported.at_load or imported.typing_only) and room(module) not in LAZY_ROOMS
    }
    assert lazy == LAZY


def test_only_golden_imports_torch() -> None:
    torch_like = ("torch", "torchvision", "open_clip", "timm")
    for module, path in modules().items():
        if not within(module, "converters.golden"):
            for imported in imports(path):
                assert not any(within(imported.name, lib) for lib in torch_like), f"{module}: {imported.name}"


def loads(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


WITHOUT_JAX = (
    "clipjax",
    "clipjax.analysis.figures.figure_set",
    "clipjax.analysis.claims.claims",
    "clipjax.results.store",
    "clipjax.doctor.examine",
    "clipjax.cli",
    "clipjax.sweep.suite",
    "clipjax.demo.run",
)


@pytest.mark.parametrize("module", WITHOUT_JAX)
def test_loads_without_jax(module: str) -> None:
    code = f"import {module}, sys; sys.exit(bool({{'jax', 'torch', 'tensorflow'}} & set(sys.modules)))"
    assert loads(code).returncode == 0


def test_a_suite_of_fine_tuning_is_read_without_importing_a_task() -> None:
    code = (
        "from clipjax.finetune.suites import load_suite; load_suite('robustness'); import sys; "
        "sys.exit('jax' in sys.modules or 'clipjax.tasks.zeroshot' in sys.modules)"
    )
    assert loads(code).returncode == 0


WITHOUT_TORCH = """
import sys, importlib.abc
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "open_clip", "timm"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Block())
import clipjax.checkpoints.load, clipjax.evaluation.run, clipjax.embeddings.images
import clipjax.verification.verify, clipjax.demo.report, clipjax.demo.tuning, clipjax.demo.training
import converters.sources, converters.engine, converters.foreign, converters.hub
sys.exit("tensorflow" in sys.modules)
"""


def test_the_whole_path_from_checkpoint_to_result_loads_without_torch() -> None:
    done = loads(WITHOUT_TORCH)
    assert done.returncode == 0, done.stderr
