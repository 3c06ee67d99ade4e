"""Imports go down: the rooms of docs/developers/architecture.md, lowest first, and what each may not load."""

from __future__ import annotations

import re
import subprocess
import sys

from _imports import HEIGHT, imports, modules, ours, room, strings, within

from clipjax.registry import PACKAGES

# (importing module, imported module): upward imports that are still to be cut.
UPWARD: set[tuple[str, str]] = set()
# Circles of files that are still to be cut, each by one of its files.
CIRCLES: set[str] = set()
# May import inside functions, so that a command starts fast; all others import when they are loaded.
LAZY_ROOMS = ("commands", "cli", "demo", "")
# `doctor.data` stays: a doctor that loaded JAX could not say that JAX is broken.
LAZY: set[tuple[str, str]] = {
    ("clipjax.doctor.data", "clipjax.checkpoints.identity.registry"),
    ("clipjax.doctor.data", "clipjax.evaluation.data_folder"),
}


def test_every_room_has_a_place() -> None:
    assert {room(module) for module in modules()} == set(HEIGHT)


def is_above(module: str, other: str) -> bool:
    """Whether `other` is in a room that `module` may not import."""
    return room(module) != room(other) and HEIGHT[room(other)] >= HEIGHT[room(module)]


def test_imports_go_down() -> None:
    upward = {(module, imported.name) for module, imported in ours() if is_above(module, imported.name)}
    assert upward == UPWARD


def test_strings_name_no_higher_module() -> None:
    """A module that is found by its path is imported as well: `PACKAGES` alone lists such paths."""
    path = re.compile(r"\b(?:clipjax|converters)(?:[./]\w+)+")

    def higher(module: str, text: str) -> set[tuple[str, str]]:
        names = {found.replace("/", ".").removesuffix(".py") for found in path.findall(text)}
        return {(module, name) for name in names if name in modules() and is_above(module, name)}

    upward = {
        pair
        for module, file in modules().items()
        if higher(module, file.read_text(encoding="utf-8"))  # few files: finding strings takes seconds
        for text in strings(file)
        for pair in higher(module, text)
    }
    assert upward == {("clipjax.registry", package) for package in PACKAGES.values()}


def test_only_the_rooms_of_models_name_params() -> None:
    """A path of a param, such as "vision/blocks", is a fact of an architecture."""
    from clipjax.models.cut import STACKS

    for module, file in modules().items():
        if HEIGHT[room(module)] < HEIGHT["models"]:
            paths = (text for text in strings(file) if " " not in text)  # not sentences
            words = {word for text in paths for word in re.findall(r"\w+", text)}
            assert not words & {*STACKS, "logit_scale", "logit_bias", "vision", "decoder"}, module


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


def loads(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


WITHOUT_JAX = (
    "clipjax",
    "clipjax.data.text.tokenizers",
    "clipjax.data.pixels.preprocess",
    "clipjax.analysis.figures.tasks.accuracy",
    "clipjax.analysis.figures.tasks.scores",
    "clipjax.analysis.figures.figure_set",
    "clipjax.analysis.claims.claims",
    "clipjax.results.store",
    "clipjax.doctor.examine",
    "clipjax.cli",
    "clipjax.sweep.suite",
    "clipjax.demo.demo",
    "clipjax.downloads.downloads",
)


def test_a_suite_of_fine_tuning_is_read_without_importing_a_task() -> None:
    code = (
        "from clipjax.finetune.suites import load_suite; load_suite('robustness'); import sys; "
        "sys.exit('jax' in sys.modules or 'clipjax.tasks.zeroshot' in sys.modules)"
    )
    assert loads(code).returncode == 0


LOADED = """
import importlib, importlib.abc, sys
for module in sys.argv[1:]:
    importlib.import_module(module)
    if found := {"jax", "torch", "open_clip", "tensorflow"} & set(sys.modules):
        sys.exit(f"{module} loads {found}")

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
    """Before it, in the same process, what loads without JAX: the first module that loads it is named."""
    done = loads(LOADED, *WITHOUT_JAX)
    assert done.returncode == 0, done.stderr
