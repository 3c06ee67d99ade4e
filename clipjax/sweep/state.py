"""Which runs of a sweep are done, and what its stores hold.

A run is done if rows have its recipe. Weights and images are hashed for it, but not read into memory.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipjax.checkpoints.encoder import Encoder
from clipjax.embeddings.answers import answer_key
from clipjax.embeddings.compute import Compute
from clipjax.embeddings.keys import image_key
from clipjax.embeddings.pairs import pair_key
from clipjax.embeddings.params import AUTO, placements
from clipjax.errors import ClipjaxError
from clipjax.evaluation.asked import prompts_of_run
from clipjax.evaluation.collection import Loaded
from clipjax.evaluation.request import Request
from clipjax.evaluation.resolve import not_applicable, resolve
from clipjax.evaluation.rows import NO_STATS, Result, refused_recipe
from clipjax.evaluation.run import hash_images
from clipjax.evaluation.subject import NotApplicableError, Part, Subject
from clipjax.models.precision import Precision, known_precision
from clipjax.results.row import COMPARISON
from clipjax.results.store import ResultStore
from clipjax.storage.digests import sha256_json
from clipjax.storage.store import EntryInfo, Store, key_hash
from clipjax.sweep.models import opened
from clipjax.sweep.plan import Item, SweepPlan
from clipjax.sweep.predictions import recipe_of
from clipjax.tasks.task import find_task


class Done:
    def __init__(self, root: str | Path) -> None:
        self._store = ResultStore(root)
        self._store.check_root()
        self._read: set[str] = set()
        self._skipped: dict[str, bool] = {}  # recipe without `skipped` -> whether all its runs skipped some
        self.update()

    def update(self) -> None:
        for run_id in self._store.run_ids():
            if run_id not in self._read:
                self._read.add(run_id)
                self._note(self._store.shared(run_id).get("recipe"))

    def _note(self, recipe: Any) -> None:
        if isinstance(recipe, dict):  # imported rows do not share a recipe
            key = _identity(recipe)
            self._skipped[key] = bool(recipe.get("skipped")) and self._skipped.get(key, True)

    def has(self, recipe: Mapping[str, Any], *, skip: bool) -> bool:
        """Whether the recipe has results; `skip` accepts rows that lack unreadable images."""
        lacks = self._skipped.get(_identity(recipe))
        return lacks is not None and (skip or not lacks)


def _identity(recipe: Mapping[str, Any]) -> str:
    return sha256_json({key: value for key, value in recipe.items() if key != "skipped"})


@dataclass(frozen=True)
class Target:
    """A resolved run.

    Attributes:
        subject: None if the task does not apply, or for files of predictions.
        recipes: per result, the acceptable ones, one per placement of params.
    """

    subject: Subject | None
    recipes: Sequence[Sequence[Mapping[str, Any]]]


def target_of(model: Encoder | None, item: Item, loaded: Loaded, compute: Compute) -> Target:
    """Resolve one item for a model of `models.opened`; None: for files of predictions.

    Raises:
        UsageError, DataError: as the run itself before embedding.
    """
    if model is None:
        return Target(None, [[recipe_of(item, loaded)]])
    task, how = find_task(item.job.task), item.computed(compute)
    refused = refused_recipe(model, task, item.job.data.card.name)
    if not_applicable(model, task) is not None:
        return Target(None, [[refused]])
    request = loaded.request(item.job, item.request)
    try:
        subject = resolve(model, task, request)
    except NotApplicableError:
        return Target(None, [[refused]])
    for part in subject.parts:
        hash_images(part.manifest, how.progress)
    ways = placements(how.params)
    recipes = [[subject.recipe(each, (), way) for way in ways] for each in request.precisions]
    if request.compare_precision:
        recipes.append([{**recipe, "precision": COMPARISON} for recipe in recipes[0]])
    return Target(subject, recipes)


def is_done(target: Target, done: Done, item: Item) -> bool:
    skip = item.options.get("on_error") == "skip"
    return all(any(done.has(recipe, skip=skip) for recipe in those) for those in target.recipes)


class Stored:
    """A store's entries by name, as of this object's creation."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = root
        self.entries: dict[str, EntryInfo] = {info.name: info for info in Store(root).ls()}

    @property
    def bytes(self) -> int:
        return sum(info.bytes for info in self.entries.values())

    def share(self, name: str) -> float:
        """0 to 1."""
        info = self.entries.get(name)
        return 0.0 if info is None else info.shards_present / info.shards


def embedding_entries(
    model: Encoder | None, target: Target, request: Request, stored: Stored
) -> list[tuple[str, int]]:
    """Names and numbers of images of the entries that a run reads.

    If entries differ only in the placement of params, the stored one.
    """
    subject = target.subject
    if subject is None or model is None or model.card.fingerprint is None:
        return []
    entries = []
    for part in subject.parts:
        for precision in map(known_precision, request.precisions):
            names = [key_hash(_key(model, subject, part, precision, params)) for params in placements(AUTO)]
            name = next((name for name in names if name in stored.entries), names[0])
            pairs = None if subject.maps is None else part.manifest.pairs
            entries.append((name, len(part.manifest) if pairs is None else 2 * len(pairs)))
    return entries


def _key(model: Encoder, subject: Subject, part: Part, precision: Precision, params: str) -> dict[str, Any]:
    if subject.asking is not None:
        prompts, steps = prompts_of_run(subject), subject.asking.steps
        return answer_key(model.card, part.manifest, part.pixels, prompts, steps, precision, params)
    if subject.maps is not None:
        return pair_key(model.card, part.manifest, subject.matcher, subject.maps, precision, params)
    return image_key(model.card, part.manifest, part.pixels, precision, "embedding", params)


class Newest:
    """A folder's newest results by recipe, as of this object's creation."""

    def __init__(self, results: str | Path) -> None:
        self._store, by_recipe = ResultStore(results), {}
        for row in self._store.rows():
            by_recipe.setdefault(row["recipe_hash"], []).append(row)
        self._rows = {_identity(rows[0]["recipe"]): rows for rows in by_recipe.values()}

    def of(self, target: Target) -> list[Result]:
        """Also results that lack unreadable images."""
        results = []
        for those in target.recipes:
            if rows := next(filter(None, (self._rows.get(_identity(recipe)) for recipe in those)), None):
                run_id = rows[0]["run_id"]
                results.append(Result(rows, self._store.images(run_id), self._store.root / run_id, NO_STATS))
        return results


def results_of(plan: SweepPlan, results: str | Path) -> list[Result]:
    """The newest results, in order; items without results are left out."""
    plan.loaded.results = results
    newest, item_results = Newest(results), []
    for _, group in itertools.groupby(plan.items, key=lambda item: item.chosen.name):
        visit = list(group)
        model = opened(visit[0].chosen)
        for item in visit:
            item_results += newest.of(target_of(model, item, plan.loaded, Compute(progress=False)))
    return item_results


def lacking(
    plan: SweepPlan, items: Sequence[Item], results: str | Path, compute: Compute
) -> list[tuple[Item, str]]:
    """The items without results, each with the reason why it cannot be resolved, or ""."""
    plan.loaded.results = results
    done, missing = Done(results), []
    for _, group in itertools.groupby(items, key=lambda item: item.chosen.name):
        visit = list(group)
        try:
            model = opened(visit[0].chosen)
            _ = model and model.card.fingerprint
        except (ClipjaxError, OSError) as error:
            missing += [(item, str(error)) for item in visit]
            continue
        for item in visit:
            try:
                target = target_of(model, item, plan.loaded, compute)
            except ClipjaxError as error:
                missing.append((item, str(error)))
            else:
                missing += [] if is_done(target, done, item) else [(item, "")]
    return missing
