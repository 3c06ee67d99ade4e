"""Published numbers as result rows. Loads JAX: the registry has the facts of registered models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from clipjax.checkpoints.identity.registry import model_card
from clipjax.metrics.uncertainty.intervals import LEVEL, clopper_pearson_limits
from clipjax.results.published.numbers import PublishedNumber
from clipjax.results.published.references import Score
from clipjax.results.row import Fields
from clipjax.results.store import SCHEMA_VERSION, model_facts, new_run_id
from clipjax.storage.digests import sha256_json

METHOD = "clopper_pearson_of_rounded"  # for the image count nearest to the published value


def published_rows(numbers: Sequence[PublishedNumber]) -> list[Fields]:
    """Rows of one run; unknown fields are null."""
    unknown = (
        "task_version",
        "aggregates",
        "sample",
        "skipped",
        "reference",
        "precision",
        "per_device_batch",
    )
    unknown += ("versions", "xla_flags", "device", "git_revision", "wall_time", "compile_count")
    common = {
        **dict.fromkeys(unknown),
        "schema_version": SCHEMA_VERSION,
        "run_id": new_run_id(),
        "origin": "published",
    }
    known: dict[str, Mapping[str, Any]] = {}
    rows = []
    for number, interval in zip(numbers, _intervals(numbers)):
        score = number.score
        if score.model not in known:
            own = model_facts(model_card(score.model)) if number.facts is None else number.facts
            known[score.model] = own
        rows.append(
            common | _fields(score) | {"n": number.n, "interval": interval, "model_facts": known[score.model]}
        )
    return rows


def _fields(score: Score) -> Fields:
    task, dataset, part, metric = score.key[1:]
    recipe = {"source": score.source, "model": score.model, "task": task, "dataset": dataset}
    recipe |= {"slice": part, "metric": metric, "convention": score.convention}
    return {
        "recipe_hash": sha256_json(recipe),
        "recipe": recipe,
        "task": task,
        "dataset": dataset,
        "slice": part,
        "model": score.model,
        "metric": metric,
        "value": score.value,
        "note": score.note,
        "convention": {"source": score.source} | score.pairs,
    }


def _intervals(numbers: Sequence[PublishedNumber]) -> Iterator[dict[str, Any] | None]:
    """Intervals of the nearest counts, because published values are rounded."""
    n = np.array([number.n or 1 for number in numbers])
    values = np.array([number.score.value for number in numbers])
    limits = clopper_pearson_limits(np.rint(values * n), n)
    for number, lo, hi in zip(numbers, *(side.tolist() for side in limits)):
        known = {"lo": lo, "hi": hi, "level": LEVEL, "method": METHOD}
        yield None if number.n is None else known
