"""Worker processes that a test starts without the two seconds in which each imports grain."""

from __future__ import annotations

import multiprocessing

import pytest


@pytest.fixture
def forked_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are forked from a process that has imported what they import.

    All else is as in a process that is started: what a worker gets is pickled. `test_loader.py` and
    `_workers.py` start the workers of a pass in order and of training.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["grain", "pytest", "clipjax.data.pixels.loader", "tests.data._images"])
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: context)
