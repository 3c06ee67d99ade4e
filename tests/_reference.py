"""Marks the tests that need the PyTorch reference, by what their file imports; leaves them out on request.

A whole file is marked `reference` if it imports one of LIBRARIES, `converters.golden` or a helper that does
so when it is loaded. Otherwise a test is marked if it does so itself, or uses a fixture or function that
does. A test that reaches the reference in another way (in its own process) carries `@pytest.mark.reference`.

Marked tests are left out by `-m "not reference"` and where torch is not installed. The libraries cannot be
imported then: a test that needs one and is not marked fails. Files marked as a whole are not imported: each
of their test functions counts once, like any other.
"""

from __future__ import annotations

import ast
import importlib.util
import itertools
import re
import sys
from collections.abc import Iterator
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parent
LIBRARIES = ("torch", "torchvision", "open_clip", "timm", "clip_benchmark")
_NEEDS_TORCH = (
    *LIBRARIES,
    "converters.golden",
)  # tests/test_imports.py: no other module of ours imports torch

Definition = ast.FunctionDef | ast.ClassDef | ast.Assign


# --------------------------------------------------------------------------------------------------- files

_IMPORT = re.compile(r"^( *)(?:(?:from|import) +|.*\bimportorskip\(\")([\w.]+)", re.MULTILINE)


@cache
def _imports(path: Path) -> tuple[tuple[bool, str], ...]:
    """(whether when the file is loaded, module) of each import and each `pytest.importorskip("...")`."""
    return tuple((not indent, name) for indent, name in _IMPORT.findall(path.read_text(encoding="utf-8")))


def _helper(name: str, beside: Path) -> Path | None:
    """The file of a test helper: in the folder of the test, or in tests/."""
    below = name.removeprefix("tests.").replace(".", "/")
    files = (folder / f"{below}.py" for folder in (beside.parent, TESTS))
    return next((file for file in files if file != beside and file.exists()), None)


def _reaches(name: str, beside: Path) -> bool:
    if any(name == library or name.startswith(library + ".") for library in _NEEDS_TORCH):
        return True
    helper = _helper(name, beside)
    return helper is not None and whole_file_needs_reference(helper)


@cache
def whole_file_needs_reference(path: Path) -> bool:
    return any(at_load and _reaches(name, path) for at_load, name in _imports(path))


# --------------------------------------------------------------------------------------------------- names


@cache
def names_that_need_reference(path: Path) -> frozenset[str]:
    """Top-level names of a file that import the reference when they are used, and imported ones that do."""
    lazy = [name for at_load, name in _imports(path) if not at_load and _reaches(name, path)]
    elsewhere = _names_from_elsewhere(path)
    if not lazy and not elsewhere:  # saves parsing most files
        return frozenset()
    text = path.read_text(encoding="utf-8")
    definitions = _definitions(ast.parse(text))
    need = elsewhere | {
        name
        for name, definition in definitions.items()
        if any(_reaches(module, path) for _, module in _IMPORT.findall(_source(text, definition)))
    }
    used = {name: _used(definition) for name, definition in definitions.items()}
    while more := {name for name in used.keys() - need if used[name] & need}:
        need |= more
    return frozenset(need)


def _names_from_elsewhere(path: Path) -> set[str]:
    """Names that come from helpers, and fixtures of conftest.py in the folder and in those around it."""
    names: set[str] = set()
    for module in {module for _, module in _imports(path)}:
        if helper := _helper(module, path):
            names |= names_that_need_reference(helper)
    if path.name.startswith("test_"):
        for folder in itertools.takewhile(lambda each: each != TESTS, path.parents):
            if (conftest := folder / "conftest.py").exists():
                names |= names_that_need_reference(conftest)
    return names


def _definitions(tree: ast.Module) -> dict[str, Definition]:
    """Top-level functions, classes and variables of a file."""
    found: dict[str, Definition] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign):
            found |= {target.id: node for target in node.targets if isinstance(target, ast.Name)}
    return found


def _source(text: str, definition: Definition) -> str:
    """The lines of a definition; `ast.get_source_segment` reads the whole file once for each."""
    return "\n".join(text.splitlines()[definition.lineno - 1 : definition.end_lineno])


def _used(definition: Definition) -> set[str]:
    """Names that a definition reads; of a test or a fixture also its arguments, which are fixtures."""
    nodes = list(ast.walk(definition))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    for node in nodes:
        if isinstance(node, ast.FunctionDef) and (node.name.startswith("test_") or _is_fixture(node)):
            names |= {argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)}
    return names


def _is_fixture(node: ast.FunctionDef) -> bool:
    return any("fixture" in ast.unparse(decorator) for decorator in node.decorator_list)


# --------------------------------------------------------------------------------------------------- pytest


def left_out(config: pytest.Config) -> bool:
    """Whether this run leaves out the tests that need the reference."""
    return "not reference" in config.option.markexpr or importlib.util.find_spec("torch") is None


class LeftOutFile(pytest.File):
    """A file that needs the reference, which is not imported: its test functions by name."""

    def collect(self) -> Iterator[pytest.Item]:
        for node in ast.walk(ast.parse(self.path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield LeftOutTest.from_parent(self, name=node.name)


class LeftOutTest(pytest.Item):
    def runtest(self) -> None:
        raise AssertionError("a test that is left out runs")


class FinderWithoutReference(PathFinder):
    """Python's own finder of modules, for which LIBRARIES are not installed."""

    @classmethod
    def find_spec(cls, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return None if fullname in LIBRARIES else super().find_spec(fullname, path, target)


class Reference:
    """The hooks, for `pluginmanager.register`."""

    def __init__(self, config: pytest.Config) -> None:
        self.absent = left_out(config)
        self.count = 0
        if self.absent:
            sys.meta_path[sys.meta_path.index(PathFinder)] = FinderWithoutReference

    def pytest_pycollect_makemodule(self, module_path: Path, parent: Any) -> pytest.Collector | None:
        if self.absent and whole_file_needs_reference(module_path):
            return LeftOutFile.from_parent(parent, path=module_path)
        return None

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        for item in items:
            name = item.nodeid.split("::")[1].partition("[")[0]
            if whole_file_needs_reference(item.path) or name in names_that_need_reference(item.path):
                item.add_marker("reference")
        marked = [item for item in items if item.get_closest_marker("reference")]
        if self.absent and marked:
            self.count = len({item.nodeid.partition("[")[0] for item in marked})
            items[:] = [item for item in items if item not in set(marked)]
            config.hook.pytest_deselected(items=marked)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if hasattr(session.config, "workeroutput"):  # of pytest-xdist
            session.config.workeroutput["reference"] = self.count  # type: ignore[attr-defined]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        self.count = max(self.count, getattr(node, "workeroutput", {}).get("reference", 0))

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.count:
            terminalreporter.line(f"left out: {self.count} tests that need the PyTorch reference")
