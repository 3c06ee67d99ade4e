"""`clipjax tasks`: what can be evaluated, what each task needs, and which collections there are."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from clipjax.commands.output import print_table


def register(app: typer.Typer) -> None:
    app.command("tasks")(tasks)


def tasks(
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON on stdout.")] = False,
) -> None:
    """List the tasks of `clipjax eval` and what they need, and the collections of `--data-root`."""
    from clipjax.collection import COLLECTIONS
    from clipjax.tasks import all_tasks

    found = [all_tasks()[name] for name in sorted(all_tasks())]
    if as_json:
        keys = ("name", "version", "section", "needs", "convention")
        of_tasks = [{key: _plain(getattr(task, key)) for key in keys} for task in found]
        of_collections = {name: dataclasses.asdict(each) for name, each in COLLECTIONS.items()}
        typer.echo(json.dumps({"tasks": of_tasks, "collections": of_collections}, indent=2))
        return
    rows = [[task.name, task.section, ", ".join(task.needs), _short(task.convention)] for task in found]
    print_table(["task", "section", "needs", "convention"], rows)
    typer.echo()
    rows = [[name, each.section, ", ".join(each.tasks)] for name, each in COLLECTIONS.items()]
    print_table(["collection", "section", "tasks"], [*rows, ["all", "", "every task"]])


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def _short(convention: Mapping[str, Any], most: int = 80) -> str:
    """The convention in one line; a result row has all of it."""
    words = "; ".join(
        f"{key}: {', '.join(map(str, value)) if isinstance(value, list | tuple) else value}"
        for key, value in convention.items()
    )
    return words if len(words) <= most else f"{words[: most - 3].rstrip()}..."
