"""`clipjax tasks`."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipjax.commands.shared.options import JsonOption
from clipjax.commands.shared.output import print_table, say

if TYPE_CHECKING:
    from clipjax.tasks.task import Task


def register(app: typer.Typer) -> None:
    app.command("tasks")(tasks)


def tasks(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Show the whole convention of this task.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the tasks of `clipjax eval` with what they need, and the collections for `--data-root`.

    NAME shows the convention of one task: what its numbers depend on.
    """
    if name is not None:
        from clipjax.tasks.task import find_task

        _show(_record(find_task(name)), as_json)
    elif as_json:
        _print_json()
    else:
        _print_tables()


def _print_json() -> None:
    from clipjax.tasks.collections import collections
    from clipjax.tasks.task import all_tasks

    of_tasks = [_record(task) for task in all_tasks().values()]
    of_collections = {name: dataclasses.asdict(each) for name, each in collections().items()}
    say(json.dumps({"tasks": of_tasks, "collections": of_collections}, indent=2))


def _print_tables() -> None:
    from clipjax.tasks.collections import collections
    from clipjax.tasks.task_names import listing

    of_tasks = [[*task[:2], *map(", ".join, (task.kinds, task.needs))] for task in listing()]
    of_collections = [[name, each.section, ", ".join(each.tasks)] for name, each in collections().items()]
    # Once both are read: a wrong file prints neither.
    print_table(["task", "section", "of", "needs"], of_tasks)
    say()
    print_table(["collection", "section", "tasks"], [*of_collections, ["all", "", "every task"]])
    say("\n`clipjax tasks NAME` shows the convention of a task")


def _record(task: Task) -> dict[str, Any]:
    keys = ("name", "version", "section", "kinds", "needs", "convention")
    return {key: _plain(getattr(task, key)) for key in keys} | {"headlines": _headlines(task)}


def _headlines(task: Task) -> list[str]:
    return [", else ".join(names) for names in task.headlines]


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def _show(record: dict[str, Any], as_json: bool) -> None:
    if as_json:
        say(json.dumps(record, indent=2))
        return
    for key, value in record.items():
        if isinstance(value, dict):
            say(f"{key}:")
            for what, words in value.items():
                text = f"{what.replace('_', ' ')}: {_words(words)}"
                say(textwrap.fill(text, 100, initial_indent="  ", subsequent_indent="    "))
        else:
            say(f"{key}: {_words(value)}")


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
