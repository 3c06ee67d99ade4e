"""Imports point only upstream: the rules of docs/architecture.md."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LEAVES = {
    f"clipjax.{name}"
    for name in (
        "errors",
        "config",
        "digests",
        "progress",
        "buckets",
        "bucket_files",
        "uploaded",
        "reading",
        "signals",
        *("escaping", "flags"),
        "facts",
    )
}

# package or module -> what else of ours it may import (itself and the leaves are understood)
ALLOWED = {
    "clipjax.errors": {"clipjax.escaping"},
    "clipjax.signals": {"clipjax.errors"},
    "clipjax.processes": {"clipjax.errors", "clipjax.signals"},
    "clipjax.config": {"clipjax.errors"},
    "clipjax.reading": {"clipjax.errors", "clipjax.buckets"},
    "clipjax.facts": {"clipjax.errors", "clipjax.reading"},
    "clipjax.pins": {*LEAVES, "clipjax.registry_rows", "clipjax.writing"},
    "clipjax.buckets": {"clipjax.errors"},
    "clipjax.bucket_files": {"clipjax.errors", "clipjax.buckets"},
    "clipjax.digests": {"clipjax.errors", "clipjax.buckets"},
    "clipjax.uploaded": {f"clipjax.{name}" for name in ("errors", "buckets", "bucket_files", "digests")},
    "clipjax.progress": set(),
    "clipjax.parity_record": LEAVES,
    "clipjax.metrics": set(),
    "clipjax.parquet_footer": set(),
    "clipjax.parquet": {*LEAVES, "clipjax.parquet_footer"},
    "clipjax.platforms": set(),
    "clipjax.models": {*LEAVES, "clipjax.platforms"},
    "clipjax.analysis": {
        *LEAVES,
        "clipjax.completeness",
        "clipjax.result_tables",
        "clipjax.results",
        "clipjax.references",
        "clipjax.writing",
    },
    "clipjax.row_check": set(),
    "clipjax.completeness": {*LEAVES, "clipjax.data"},
    "clipjax.escaping": set(),
    "clipjax.flags": set(),
    "clipjax.remarks": {"clipjax.errors"},
    "clipjax.run_files": {*LEAVES, "clipjax.remarks"},
    "clipjax.rows": {*LEAVES, "clipjax.row_check"},
    "clipjax.results": {
        *LEAVES,
        *(f"clipjax.{name}" for name in ("completeness", "rows", "remarks", "run_files")),
    },
    "clipjax.results_merge": {*LEAVES, "clipjax.results", "clipjax.run_files"},
    "clipjax.result_tables": {*LEAVES, "clipjax.completeness", "clipjax.results"},
    "clipjax.references": {*LEAVES, "clipjax.completeness"},
    "clipjax.data": {
        *LEAVES,
        *(
            f"clipjax.{name}"
            for name in ("files", "labels", "parquet", "platforms", "shard_file", "store", "writing")
        ),
    },
    "clipjax.files": LEAVES,
    "clipjax.store": {*LEAVES, "clipjax.files", "clipjax.shard_file"},
    "clipjax.sharding": LEAVES,
    "clipjax.writing": LEAVES,
    "clipjax.adapters": {
        *LEAVES,
        *(f"clipjax.{name}" for name in ("heads", "labels", "model", "models", "texts")),
    },
    "converters": {*LEAVES, "clipjax.models", "clipjax.parity_record"},
}


def modules() -> dict[str, Path]:
    files = [*ROOT.glob("clipjax/**/*.py"), *ROOT.glob("converters/**/*.py")]
    return {".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in files}


def imports(path: Path) -> list[tuple[str, bool]]:
    """(absolute module name, whether it is imported when the module is loaded) of every import statement."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    lazy: set[ast.AST] = set()
    for node in ast.walk(tree):
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if typing_only or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lazy.update(child for child in ast.walk(node) if child is not node)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node not in lazy) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the full name"
            found.append((node.module or "", node not in lazy))
            found += [(f"{node.module}.{alias.name}", node not in lazy) for alias in node.names]
    return found


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_only_upstream(package: str) -> None:
    known = modules()
    own = {name: path for name, path in known.items() if within(name, package)}
    assert own, f"{package} does not exist: correct this test"
    for name, path in own.items():
        for imported, _ in imports(path):
            ours = within(imported, "clipjax") or within(imported, "converters")
            if not ours or imported == "clipjax" or within(imported, package):
                continue
            assert any(within(imported, allowed) for allowed in ALLOWED[package]), (
                f"{name} imports {imported}"
            )


def test_converters_are_imported_inside_functions_only() -> None:
    for name, path in modules().items():
        if within(name, "clipjax"):
            for imported, at_load in imports(path):
                assert not (at_load and within(imported, "converters")), (
                    f"{name} imports {imported} at the top"
                )


def test_nothing_but_the_command_line_and_the_demo_imports_fine_tuning() -> None:
    above = ("clipjax.finetune", "clipjax.commands", "clipjax.cli", "clipjax.demo")
    for name, path in modules().items():
        if not any(within(name, package) for package in above):
            for imported, _ in imports(path):
                assert not within(imported, "clipjax.finetune"), f"{name} imports {imported}"


def test_only_golden_imports_torch() -> None:
    torch_like = ("torch", "torchvision", "open_clip", "timm")
    for name, path in modules().items():
        if not within(name, "converters.golden"):
            for imported, _ in imports(path):
                assert not any(within(imported, lib) for lib in torch_like), f"{name} imports {imported}"


@pytest.mark.parametrize(
    "module",
    [
        "clipjax",
        "clipjax.analysis",
        "clipjax.results",
        "clipjax.doctor",
        "clipjax.cli",
        "clipjax.sweep.suite",
    ],
)
def test_loads_without_jax(module: str) -> None:
    code = f"import {module}, sys; sys.exit(bool({{'jax', 'torch', 'tensorflow'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


WITHOUT_TORCH = """
import sys, importlib.abc
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "open_clip", "timm"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Block())
import clipjax.load, clipjax.evaluation, clipjax.embed, clipjax.verify
import clipjax.demo, clipjax.finetune.contrastive
import converters.sources, converters.engine, converters.foreign, converters.hub
sys.exit("tensorflow" in sys.modules)
"""


def test_the_whole_path_from_checkpoint_to_result_loads_without_torch() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
