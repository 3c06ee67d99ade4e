"""What `clipjax compare` tests, task by task."""

from __future__ import annotations

from clipjax.tasks.task import Task, all_tasks
from docs.generate.markdown import code, table


def comparisons_part() -> str:
    """A line for each task whose runs can be compared: its headline metrics, and its shares of images."""
    heads = ["task", "headline metrics", "shares of images (McNemar)"]
    compared = (each for _, each in sorted(all_tasks().items()) if each.paired is not None)
    return table(heads, ([code(each.name), _headlines(each), _shares(each)] for each in compared))


def _headlines(task: Task) -> str:
    """Each headline metric, and the metric that replaces it if a run lacks it."""
    return ", ".join(" else ".join(map(code, names)) for names in task.headlines) or "all metrics"


def _shares(task: Task) -> str:
    return ", ".join(map(code, task.proportions or ())) or "none"
