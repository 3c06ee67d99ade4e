"""The names of the kinds of run, and the options of each. Imports no kind, and so no JAX."""

from __future__ import annotations

import functools

from clipjax.registry import Registry
from clipjax.tasks.task_names import keywords, literals

KINDS = Registry("kind of run", "KIND", group="kinds")


@functools.cache
def options_taken(kind: str) -> tuple[str, ...]:
    """`Kind.options` of one of clipjax's own kinds, read from its source.

    An option has no effect on a task if some kind takes it and none of the task's kinds does.
    """
    return literals(kind, keywords(KINDS.source(kind), "KIND"), "KIND", {"options": None})["options"]
