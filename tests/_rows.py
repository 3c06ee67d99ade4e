"""Result rows for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def row(run_id: str, **changed: Any) -> Any:
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


def as_older(run: Path) -> Path:
    """The run as an older clipjax wrote it: without digests of its files."""
    shared = json.loads((run / "run.json").read_text())
    shared.pop("files", None)
    (run / "run.json").write_text(json.dumps(shared, indent=1))
    return run
