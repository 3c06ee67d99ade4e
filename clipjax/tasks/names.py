"""The names of the tasks. Imports no task, and so no JAX."""

from __future__ import annotations

import ast
from typing import NamedTuple

from clipjax.errors import DataError
from clipjax.registry import Registry

TASKS = Registry(
    "task",
    "clipjax.tasks",
    "TASK",
    group="tasks",
    elsewhere={
        "curation": "curation is not a task: it is made of the rows of others, by `clipjax results curation "
        "RESULTS`"
    },
)


class Listed(NamedTuple):
    """`annotated`: whether the task reads annotations."""

    name: str
    section: str
    needs: tuple[str, ...]
    annotated: bool


def package_of(name: str) -> dict[str, str]:
    """What the recipe of a plug-in's task has beside its name and version; {} for ours."""
    plug_in = TASKS.plug_ins().get(name)
    return {} if plug_in is None else {"task_package": plug_in.package}


def needs_of(name: str) -> tuple[str, ...]:
    """What a task needs, as `Task.needs`."""
    return listed(name).needs


def listing() -> list[Listed]:
    """Section and needs are read from the source."""
    return [listed(name) for name in TASKS.names()]


def listed(name: str) -> Listed:
    """Raises ValueError if section or needs is not a literal; for a plug-in DataError."""
    plug_in = TASKS.plug_ins().get(name)
    try:
        return _literals(name, TASKS.source(name), "TASK" if plug_in is None else plug_in.record)
    except (SyntaxError, ValueError) as error:
        if plug_in is None:
            raise
        raise DataError(f"{plug_in.what} cannot be listed ({error})") from None


def _literals(name: str, source: str, record: str) -> Listed:
    set_here = [node for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    values = (node.value for node in set_here if ast.unparse(node.targets[0]) == record)
    words = {word.arg: word.value for word in getattr(next(values, None), "keywords", ())}
    try:
        section, needs = (ast.literal_eval(words[key]) for key in ("section", "needs"))
    except (KeyError, ValueError):
        raise ValueError(f"{name}.py: write section and needs of {record} as literals") from None
    return Listed(name, section, needs, "load_annotations" in words)
