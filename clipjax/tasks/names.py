"""The names of the tasks. Imports no task, and so no JAX."""

from __future__ import annotations

import ast
import functools
from pathlib import Path
from typing import NamedTuple

import clipjax.tasks
from clipjax.config import plug_ins
from clipjax.entry_points import PlugIn, cached, plug_ins_of
from clipjax.errors import DataError, UsageError, unknown_name


class Listed(NamedTuple):
    """`annotated`: whether the task reads annotations."""

    name: str
    section: str
    needs: tuple[str, ...]
    annotated: bool


def task_names() -> tuple[str, ...]:
    """The modules of this folder that set `TASK`, and plug-ins of other packages."""
    return tuple(sorted({*own_tasks(), *task_plug_ins()}))


@cached
def task_plug_ins() -> dict[str, PlugIn]:
    """By name. Raises DataError for a name that is taken."""
    return plug_ins_of("tasks", own_tasks())


def package_of(name: str) -> dict[str, str]:
    """What the recipe of a plug-in's task has beside its name and version; {} for ours."""
    plug_in = task_plug_ins().get(name)
    return {} if plug_in is None else {"task_package": plug_in.package}


@functools.cache
def own_tasks() -> dict[str, str]:
    """Name -> dotted name of its module below this package."""
    return plug_ins(clipjax.tasks.__path__, "TASK")


def check_name(name: str) -> None:
    """Raises UsageError with the nearest names."""
    if name not in task_names():
        raise unknown_task(name, list(task_names()))


def unknown_task(name: str, known: list[str]) -> UsageError:
    if name == "curation":
        return UsageError(
            "curation is not a task: it is made of the rows of others, by `clipjax results curation RESULTS`"
        )
    return unknown_name("task", name, known)


def needs_of(name: str) -> tuple[str, ...]:
    """What a task needs, as `Task.needs`."""
    return listed(name).needs


def listing() -> list[Listed]:
    """Section and needs are read from the source."""
    return [listed(name) for name in task_names()]


def listed(name: str) -> Listed:
    """Raises ValueError if section or needs is not a literal; for a plug-in DataError."""
    plug_in = task_plug_ins().get(name)
    if plug_in is not None:
        try:
            return _literals(name, plug_in.source(), plug_in.record)
        except (SyntaxError, ValueError) as error:
            raise DataError(f"{plug_in.what} cannot be listed ({error})") from None
    file = Path(next(iter(clipjax.tasks.__path__)), *own_tasks()[name].split(".")).with_suffix(".py")
    return _literals(name, file.read_text(encoding="utf-8"), "TASK")


def _literals(name: str, source: str, record: str) -> Listed:
    set_here = [node for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    values = (node.value for node in set_here if ast.unparse(node.targets[0]) == record)
    words = {word.arg: word.value for word in getattr(next(values, None), "keywords", ())}
    try:
        section, needs = (ast.literal_eval(words[key]) for key in ("section", "needs"))
    except (KeyError, ValueError):
        raise ValueError(f"{name}.py: write section and needs of {record} as literals") from None
    return Listed(name, section, needs, "load_annotations" in words)
