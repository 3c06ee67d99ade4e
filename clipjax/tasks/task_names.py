"""The names of the tasks. Imports no task, and so no JAX."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any, NamedTuple

from clipjax.errors import DataError
from clipjax.registry import Registry

TASKS = Registry(
    "task",
    "TASK",
    group="tasks",
    elsewhere={
        "curation": "curation is not a task: it is made of the rows of others, by `clipjax results curation "
        "RESULTS`"
    },
)


IMAGES = "images"  # the kind of run of most tasks


class TaskListing(NamedTuple):
    """A task's fields, as in `Task`; `annotated`: whether the task reads annotations."""

    name: str
    section: str
    needs: tuple[str, ...]
    annotated: bool
    kinds: tuple[str, ...]


def package_of(name: str) -> dict[str, str]:
    """The package of a plug-in's task, for its recipe; {} for clipjax's own."""
    plug_in = TASKS.plug_ins().get(name)
    return {} if plug_in is None else {"task_package": plug_in.package}


def listing() -> list[TaskListing]:
    """Section, needs and kinds are read from the source."""
    return [listed(name) for name in TASKS.names()]


def listed(name: str) -> TaskListing:
    """Raises ValueError if one of them is not a literal; for a plug-in DataError."""
    plug_in = TASKS.plug_ins().get(name)
    try:
        record = "TASK" if plug_in is None else plug_in.record
        words = keywords(TASKS.source(name), record)
        fields = literals(name, words, record, {"section": None, "needs": None, "kinds": (IMAGES,)})
        return TaskListing(name, **fields, annotated="load_annotations" in words)
    except (SyntaxError, ValueError) as error:
        if plug_in is None:
            raise
        raise DataError(f"{plug_in.what} cannot be listed ({error})") from None


def literals(
    name: str, words: Mapping[str | None, ast.expr], record: str, keys: Mapping[str, Any]
) -> dict[str, Any]:
    """Fields of a record in a module's source.

    Args:
        name: of the module, for the message.
        words: the record's `keywords`.
        record: the name that the module gives it ("TASK"), for the message.
        keys: the fields, each with its default; None: it has none.

    Raises:
        ValueError: a field is absent or not a literal.
    """
    try:
        return {
            key: default if default is not None and key not in words else ast.literal_eval(words[key])
            for key, default in keys.items()
        }
    except (KeyError, ValueError):
        raise ValueError(f"{name}.py: write {', '.join(keys)} of {record} as literals") from None


def keywords(source: str, record: str) -> dict[str | None, ast.expr]:
    """The keywords with which a module's source makes the record of this name, as expressions."""
    set_here = [node for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    values = (node.value for node in set_here if ast.unparse(node.targets[0]) == record)
    return {word.arg: word.value for word in getattr(next(values, None), "keywords", ())}
