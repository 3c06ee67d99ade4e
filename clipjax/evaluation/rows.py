"""Result rows of one run: a task's numbers with their provenance."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import pyarrow as pa

from clipjax.checkpoints.encoder import Encoder, Framework
from clipjax.checkpoints.identity.registry_rows import file_of, registry
from clipjax.config import added_name
from clipjax.data.readers.reader import READERS
from clipjax.embeddings.compute import EmbedStats
from clipjax.errors import UsageError
from clipjax.evaluation.kinds.kind_names import KINDS
from clipjax.models.arch import Arch, family_plug_ins
from clipjax.results.image_table import images_table
from clipjax.results.provenance import provenance
from clipjax.results.published.protocols import with_protocols
from clipjax.results.published.references import with_references
from clipjax.results.row import Fields, Row
from clipjax.results.rows import validate_rows
from clipjax.results.store import SCHEMA_VERSION, ResultStore, model_facts, new_run_id
from clipjax.results.tables import as_html, summary_table
from clipjax.storage.digests import sha256_file, sha256_json
from clipjax.tasks.task import Measure, Task, TaskResult
from clipjax.tasks.task_names import TASKS, package_of

# Fields of rows without embedded images.
NOT_EMBEDDED: Fields = dict.fromkeys(
    ("sample", "part", "id_part", "precision", "skipped", "per_device_batch", "wall_time", "compile_count")
)
NO_STATS = EmbedStats(0, 0, 0, 0.0, 0.0, (), 0)


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of `evaluate`.

    Attributes:
        rows: as in `results.row`. With `compare_precision`: of both profiles and of the
            comparison.
        images: one row per image: id, label, prediction, confidence, ...
        path: None without `results`, and in all processes but the first.
        stats: of the embedding, also of in-distribution images.
        what: what was measured of what, in a line; "" for given predictions.
    """

    rows: list[Row]
    images: pa.Table
    path: Path | None
    stats: EmbedStats
    what: str = ""

    def value(self, metric: str, *, precision: str | None = None) -> float | None:
        """Over the whole data set."""
        return self._row(metric, precision)["value"]

    def interval(self, metric: str, *, precision: str | None = None) -> tuple[float, float] | None:
        """The limits; None without an interval."""
        interval = self._row(metric, precision)["interval"]
        return None if interval is None else (interval["lo"], interval["hi"])

    def _repr_html_(self) -> str:
        """A notebook's table of the rows of whole data sets, or of all rows if there are only slices."""
        whole = [row for row in self.rows if row["slice"] is None]
        return as_html(*summary_table(whole or self.rows))

    def _row(self, metric: str, precision: str | None) -> Row:
        for row in self.rows:
            if row["metric"] == metric and row["slice"] is None and precision in (None, row["precision"]):
                return row
        known = sorted({row["metric"] for row in self.rows if row["slice"] is None})
        raise UsageError(f"the result has no metric {metric!r}; it has {', '.join(known)}")


def identity(
    model: str, facts: Mapping[str, Any], task: Task, dataset: str, framework: Framework | None = None
) -> Fields:
    """The fields of a row that say which model, task and data set it is of, and what measured it.

    `framework`: what ran the model; None: no model did (people).
    """
    made = provenance()
    if framework is not None:
        made["versions"] = {**made["versions"], **framework.versions}
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": new_run_id(),
        "origin": "measured",
        "task": task.name,
        "task_version": task.version,
        "dataset": dataset,
        "model": model,
        "model_facts": dict(facts),
        "reference": None,
        "framework": framework and framework.name,
        **made,
        **made_by(task),
    }


def with_stored(versions: Mapping[str, str], made_with: Collection[tuple[str, str]]) -> dict[str, str]:
    """`versions` with those of JAX that made the stored embeddings, where they are others.

    with_stored({"jax": "0.12.0"}, {("jax", "0.11.0")}) == {"jax": "0.12.0", "jax of embeddings": "0.11.0"}
    """
    made: dict[str, list[str]] = {}
    for package, version in sorted(made_with):
        made.setdefault(package, []).append(version)
    others = {name: ", ".join(each) for name, each in made.items() if each != [versions.get(name)]}
    return {**versions, **{f"{name} of embeddings": each for name, each in others.items()}}


def made_by(
    task: Task, kind: str = "", arch: Arch | None = None, readers: Sequence[str | None] = ()
) -> Fields:
    """The field `plug_ins`: which plug-ins made a number; {} if clipjax made it alone.

    Args:
        kind: the kind of run; "": no model ran.
    """
    plug_ins = [TASKS.plug_ins().get(task.name), KINDS.plug_ins().get(kind)]
    plug_ins += [READERS.plug_ins().get(name or "") for name in readers]
    if arch is not None:
        plug_ins += family_plug_ins(arch).values()
    used = list(dict.fromkeys(filter(None, plug_ins)))
    return {"plug_ins": [plug_in.made_by for plug_in in used]} if used else {}


def from_configs(facts: Mapping[str, Any], cards: Mapping[str, Path | None]) -> Fields:
    """The field `configs`, which names the files of added config folders with the model's row or a card.

    Args:
        cards: data set -> the file of its card.

    Returns: {} if no such file was used.
    """
    files = {("data set", name): path for name, path in cards.items()}
    if (model := facts.get("facts_of")) in registry():
        files["model", str(model)] = file_of(str(model))
    used = [
        {"kind": kind, "name": name, "file": added, "sha256": sha256_file(path)}
        for (kind, name), path in files.items()
        if path is not None and (added := added_name(path)) is not None
    ]
    return {"configs": used} if used else {}


def refused(
    model: Encoder,
    task: Task,
    name: str,
    reason: str,
    results: str | Path | None,
    folder: str | None = None,
) -> Result:
    """The single row if the task is not defined for the model.

    Args:
        name: of the data set, as in a row.
        folder: of the data set, as in a row.
    """
    recipe = refused_recipe(model, task, name)
    common = {
        **identity(model.card.id, model_facts(model.card), task, name, model.framework),
        "recipe_hash": sha256_json(recipe),
        "recipe": recipe,
        "convention": dict(task.convention),
        **NOT_EMBEDDED,
        "folder": folder,
    }
    return finish(
        common, TaskResult([Measure(task.name, None, 0, note=reason)], {"id": []}), NO_STATS, results
    )


def refused_recipe(model: Encoder, task: Task, name: str) -> dict[str, Any]:
    run = {"task": task.name, "task_version": task.version, "model": model.card.id, "dataset": name}
    return run | package_of(task.name)


def finish(common: Fields, outcome: TaskResult, stats: EmbedStats, results: str | Path | None) -> Result:
    """Make and check rows; the first process writes them."""
    fields = [common | _fields(measure) for measure in outcome.measures]
    rows = validate_rows(with_protocols(with_references(fields)))
    path = None
    if results is not None and jax.process_index() == 0:
        path = ResultStore(results).add(rows, outcome.images)
    return Result(rows, images_table(outcome.images), path, stats)


def _fields(measure: Measure) -> Fields:
    return {
        "metric": measure.metric,
        "slice": measure.slice,
        "value": measure.value,
        "interval": None if measure.interval is None else measure.interval._asdict(),
        "n": measure.n,
        "aggregates": measure.aggregates,
        "note": measure.note,
    }
