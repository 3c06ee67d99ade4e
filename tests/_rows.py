"""Result rows for tests."""

from __future__ import annotations

from typing import Any

from clipjax.results import Row


def row(run_id: str, **changed: Any) -> Row:
    """A complete row, with some fields changed."""
    interval = {"lo": 0.4, "hi": 0.6, "level": 0.95, "method": "wilson"}
    empty = ("aggregates", "note", "sample", "reference", "per_device_batch", "slice")
    fields = dict.fromkeys((*empty, "xla_flags", "device", "git_revision", "versions"))
    fields |= {
        "schema_version": 1,
        "run_id": run_id,
        "recipe_hash": "a" * 64,
        "recipe": {"prompts": "x"},
        "origin": "measured",
        "task": "zeroshot",
        "task_version": 1,
        "dataset": "demo_world",
        "model": "tiny_1",
        "model_facts": {"train_source": "demo"},
        "metric": "top1",
        "value": 0.5,
        "interval": interval,
        "n": 100,
        "convention": {"ties": "lowest class index"},
        "skipped": 0,
        "precision": "parity",
        "wall_time": 1.5,
        "compile_count": 3,
    }
    return fields | changed
