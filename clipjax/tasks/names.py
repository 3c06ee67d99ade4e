"""The names of the tasks. Imports no task, and so no JAX."""

from __future__ import annotations

import ast
import functools
from pathlib import Path
from typing import NamedTuple

import clipjax.tasks
from clipjax.config import plug_ins
from clipjax.errors import UsageError, unknown_name


class Listed(NamedTuple):
    """`annotated`: whether the task reads annotations."""

    name: str
    section: str
    needs: tuple[str, ...]
    annotated: bool


@functools.cache
def task_names() -> tuple[str, ...]:
    """The modules of this folder that set `TASK`."""
    return plug_ins(clipjax.tasks.__path__, "TASK")


def check_name(name: str) -> None:
    """Raises UsageError with the nearest names."""
    if name not in task_names():
        raise unknown_task(name, list(task_names()))


def unknown_task(name: str, known: list[str]) -> UsageError:
    if name == "curation":
        return UsageError(
            "curation is no task: it is made of the rows of others, by `clipjax results curation RESULTS`"
        )
    return unknown_name("task", name, known)


def needs_of(name: str) -> tuple[str, ...]:
    """What a task needs, as `Task.needs`."""
    return listed(name).needs


def listing() -> list[Listed]:
    """Section and needs are read from the source."""
    return [listed(name) for name in task_names()]


def listed(name: str) -> Listed:
    """Raises ValueError if section or needs is not a literal."""
    source = Path(next(iter(clipjax.tasks.__path__)), f"{name}.py").read_text(encoding="utf-8")
    set_here = [node for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    task = next(node.value for node in set_here if ast.unparse(node.targets[0]) == "TASK")
    words = {word.arg: word.value for word in getattr(task, "keywords", ())}
    try:
        section, needs = (ast.literal_eval(words[key]) for key in ("section", "needs"))
    except (KeyError, ValueError):
        raise ValueError(f"{name}.py: write section and needs of TASK as literals") from None
    return Listed(name, section, needs, "load_annotations" in words)
