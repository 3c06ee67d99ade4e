"""A listing reads tasks without importing them: it agrees with their records."""

from __future__ import annotations

from clipjax.tasks.task import all_tasks
from clipjax.tasks.task_names import listing


def test_a_listing_agrees_with_the_records() -> None:
    records = [
        (task.name, task.section, task.needs, task.load_annotations is not None, task.kinds)
        for task in all_tasks().values()
    ]
    assert [tuple(each) for each in listing()] == records
