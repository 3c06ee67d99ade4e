"""Kinds of run: which one a run is of, whose options it refuses, and that shared code never asks for it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _colours import ColourModel, paint
from _imports import modules, ours, within
from _installed import install_package
from _tiny_language import TinyVisionLanguage

import clipjax
from clipjax.errors import UsageError
from clipjax.evaluation.kinds.kind import find_kind, kind_of, refuse_options, stated
from clipjax.evaluation.kinds.kind_names import KINDS, options_taken
from clipjax.evaluation.own_model import encoder_of
from clipjax.evaluation.request import Request
from clipjax.tasks.task import Task, find_task
from clipjax.tasks.task_names import TASKS, listed

HOME = "clipjax.evaluation.kinds"
# May name one kind: what is only of that kind, and the two entries that draw its matches.
OF_ONE_KIND = ("clipjax.verification.crosscheck", "clipjax.commands.runs.matches", "clipjax")
SHARED = ("clipjax.evaluation", "clipjax.sweep", "clipjax.commands", "clipjax.finetune", "clipjax.demo")
# What only one kind's subject has, and what tasks of single kinds once needed.
OWN = {"maps", "matcher", "matching", "asking", "turns", "pairs_of"}


def kind_folder(module: str) -> str | None:
    """The kind whose folder a module is in."""
    parts = module.removeprefix(f"{HOME}.").split(".")
    return parts[0] if module.startswith(f"{HOME}.") and len(parts) > 1 else None


def test_no_module_outside_a_kinds_folder_imports_from_it() -> None:
    strangers = {
        (module, imported.name)
        for module, imported in ours()
        if (kind := kind_folder(imported.name)) is not None and kind_folder(module) != kind
    }
    assert {
        pair
        for pair in strangers
        if not any(pair[0] == each or (each != "clipjax" and within(pair[0], each)) for each in OF_ONE_KIND)
    } == set()


def shared() -> Iterator[tuple[str, ast.AST]]:
    for module, path in modules().items():
        if kind_folder(module) is None and any(within(module, room) for room in SHARED):
            yield from ((module, node) for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def test_shared_code_never_asks_which_kind_it_has() -> None:
    asked = []
    for module, node in shared():
        if isinstance(node, ast.Attribute) and node.attr in OWN:
            asked.append((module, node.lineno, node.attr))
        if isinstance(node, ast.Compare):
            words = {each.value for each in ast.walk(node) if isinstance(each, ast.Constant)}
            named = {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)}
            if words & {*KINDS.own(), "answers"} and named & {"needs", "kinds", "kind", "name"}:
                asked.append((module, node.lineno, ast.unparse(node)))
    assert asked == []


def test_every_task_names_kinds_that_there_are() -> None:
    for name in TASKS.names():
        assert listed(name).kinds == find_task(name).kinds
        assert set(find_task(name).kinds) <= set(KINDS.names())


def test_the_options_of_a_kind_are_read_without_an_import() -> None:
    for name in KINDS.own():
        assert options_taken(name) == find_kind(name).options


def reason(model: Any, task: Task) -> str | None:
    return kind_of(model, task).not_applicable(model, task)


def test_the_first_kind_that_takes_the_model_is_used() -> None:
    clip, answering = encoder_of(ColourModel()), TinyVisionLanguage()
    choice = find_task("multiple_choice")
    assert (kind_of(clip, choice).name, kind_of(answering, choice).name) == ("images", "questions")
    assert reason(clip, find_task("zeroshot")) is None
    assert "which this task cannot ask" in str(reason(answering, find_task("zeroshot")))
    assert "it has no maps of features" in str(reason(clip, find_task("correspondence")))


@pytest.mark.parametrize(
    ("task", "options", "says"),
    [
        (
            "zeroshot",
            {"layers": "last", "positions": "library"},
            "reads no maps of features: leave layers and positions",
        ),
        ("zeroshot", {"steps": 3}, r"the task 'zeroshot' gives no answers: leave steps \(--steps\) out"),
        ("correspondence", {"decode": "jpeg_scaled"}, "prepares its images itself: leave decode"),
        ("multiple_choice", {"layers": "last"}, "the task 'multiple_choice' reads no maps"),
        ("multiple_choice", {"steps": 3, "prompts": "single"}, None),
        ("zeroshot", {"limit": 3, "seed": 1, "labels": "imagenet"}, None),
    ],
)
def test_options_of_other_kinds_are_refused(task: str, options: dict[str, Any], says: str | None) -> None:
    request = Request(**options)
    assert sorted(stated(request)) == sorted(options)
    if says is None:
        refuse_options(find_task(task), stated(request))
    else:
        with pytest.raises(UsageError, match=says):
            refuse_options(find_task(task), stated(request))


def test_a_refusal_names_the_flag_of_the_command_line() -> None:
    """Which is not the field's name with dashes."""
    with pytest.raises(UsageError, match=r"leave per_device_batch and workers \(--batch-size, --workers\)"):
        refuse_options(find_task("correspondence"), ["per_device_batch", "workers"])


def test_a_model_of_another_kind_is_named() -> None:
    with pytest.raises(UsageError, match=r"^colours gives no answers: leave rotations"):
        refuse_options(find_task("multiple_choice"), ["rotations"], encoder_of(ColourModel()))


KIND = """
import dataclasses
from clipjax.evaluation.kinds.images.images import KIND as IMAGES
INTERFACE = 2
KIND = dataclasses.replace(IMAGES, name="probed")
"""
TASK = """
import dataclasses
from clipjax.tasks.zeroshot import TASK as ZEROSHOT
INTERFACE = 2
TASK = dataclasses.replace(ZEROSHOT, name="probe", kinds=("probed",))
"""


def test_a_row_names_another_packages_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_package(tmp_path, monkeypatch, KIND, "probed = {module}:KIND", "kinds", "kind")
    install_package(tmp_path, monkeypatch, TASK, "probe = {module}:TASK", "tasks", "task")
    paint(tmp_path / "data" / "red" / "0.png", "red")
    result = clipjax.evaluate(ColourModel(), "probe", root=tmp_path / "data", progress=False)
    assert result.rows[0].get("plug_ins") == [
        {"kind": "task", "name": "probe", "package": "task", "version": "2.1"},
        {"kind": "kind of run", "name": "probed", "package": "kind", "version": "2.1"},
    ]
