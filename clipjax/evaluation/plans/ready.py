"""Items resolved before anything is computed, and which of them have results.

An item is done if rows have its recipe. Weights and images are hashed for it, but not read into memory.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from clipjax.checkpoints.encoder import Encoder
from clipjax.data.manifest import Manifest
from clipjax.embeddings.compute import Compute
from clipjax.embeddings.placements import placements
from clipjax.errors import ClipjaxError, UsageError
from clipjax.evaluation.kinds.kind import check_options, kind_of
from clipjax.evaluation.plans.item import Item
from clipjax.evaluation.predictions.scoring import predictions_recipe
from clipjax.evaluation.request import Request
from clipjax.evaluation.rows import NO_STATS, Result, refused_recipe
from clipjax.evaluation.subject import NotApplicableError, Subject
from clipjax.heads.adapters.base import adapter_of
from clipjax.models.precision import form_field
from clipjax.models.version import in_each_form
from clipjax.progress import progress_bar
from clipjax.results.row import COMPARISON, Row
from clipjax.results.store import ResultStore
from clipjax.storage.digests import sha256_json
from clipjax.storage.remote.buckets import as_path
from clipjax.tasks.task import Task, find_task, precision_tasks

Recipes = Sequence[Sequence[Mapping[str, Any]]]


@dataclass(frozen=True, eq=False)
class ResolvedItem:
    """An item with everything about its run that can be found before anything is computed.

    Attributes:
        model: None for files of predictions, and if it cannot be opened.
        subject: None without a model, with an error, and if the task is not defined for the model.
        reason: why it is not defined.
        recipes: per result, those that it may have, one per placement of params; () unless asked for.
        error: why the item cannot run.
    """

    item: Item
    model: Encoder | None
    subject: Subject | None = None
    reason: str = ""
    recipes: Recipes = ()
    error: Exception | None = None

    @property
    def lacks_model(self) -> bool:
        """Whether the model failed to load, so that all its items have this error."""
        return self.error is not None and self.model is None and self.item.choice.predictions is None

    def with_model(self, model: Encoder) -> ResolvedItem:
        """The item with the loaded model in place of the one that was only opened."""
        subject = self.subject
        if subject is not None and model is not self.model:
            subject = subject.with_model(model)
        return dataclasses.replace(self, model=model, subject=subject)


def resolved(item: Item, model: Encoder, results: str | Path | None) -> ResolvedItem:
    """An item whose data were found and whose options were checked; nothing is computed.

    Raises:
        UsageError: an option or a name that cannot be used.
        DataError: data that cannot be used.
    """
    job, request = item.job, item.request
    task = check_run(job.task, request, results)
    kind = kind_of(model, task)
    # First: of several tasks and models, each has the options of those that it is defined for.
    if (reason := kind.not_applicable(model, task)) is not None:
        return ResolvedItem(item, model, reason=reason)
    check_options(model, task, request)  # refused before any data is read
    adapter_of(model)  # an unknown kind is refused before anything is embedded
    try:
        subject = kind.resolve(model, task, job.data.dataset, job.request(request, results))
    except NotApplicableError as error:
        if job.alone:
            raise
        return ResolvedItem(item, model, reason=f"not applicable: {error}")
    return ResolvedItem(item, model, subject)


def check_run(task: str, request: Request, results: str | Path | None) -> Task:
    """Raises UsageError or DataError if the task cannot run or write."""
    definition = find_task(task)
    if results is not None:
        ResultStore(results).check_root(written=True)
    if request.compare_precision and (request.precision != "parity" or not definition.compares_precisions):
        tasks = " or ".join(precision_tasks())
        raise UsageError(
            f"compare_precision runs the task {tasks} in both profiles: leave precision (--precision) out"
        )
    if "id" not in definition.needs and not (request.id_dataset is None and request.id_root is None):
        raise UsageError(
            f"the task {task!r} compares with no in-distribution images: leave id_dataset and id_root "
            "(--id-dataset, --id-data) out"
        )
    return definition


def hash_images(manifest: Manifest, progress: bool) -> str:
    """The manifest's digest, with a bar: the first time reads all images."""
    shown = progress and jax.process_index() == 0
    with progress_bar(len(manifest), f"hashing {manifest.name}", "image", shown=shown, delay=1) as bar:
        return manifest.compute_digest(lambda _: bar.update())


def ready(
    item: Item,
    model: Encoder | None,
    results: str | Path | None,
    compute: Compute | None = None,
    catch: type[Exception] = ClipjaxError,
) -> ResolvedItem:
    """Like `resolved`, but an error becomes the item's.

    Args:
        model: of `ModelChoice.opened`.
        compute: to find the recipes, for which images are hashed.
        catch: other exceptions that are the item's error.
    """
    try:
        found = ResolvedItem(item, None) if model is None else resolved(item, model, results)
        if compute is not None:
            recipes = _recipes(found, item.computed(compute), results)
            found = dataclasses.replace(found, recipes=recipes)
    except (ClipjaxError, catch) as error:
        return ResolvedItem(item, model, error=error)
    return found


def _recipes(resolved_item: ResolvedItem, compute: Compute, results: str | Path | None) -> Recipes:
    """For each result of the run, the recipes that its rows may have: by placement of params and host.

    The run has a result per precision, and one that compares them. Hashes the images of all its data sets.
    """
    item, model, subject = resolved_item.item, resolved_item.model, resolved_item.subject
    job, request = item.job, item.request
    if model is None:
        return [[predictions_recipe(job.task, *file_of(item, results))]]
    if subject is None:
        return [[refused_recipe(model, find_task(job.task), job.data.card.name)]]
    for data in subject.data_sets:  # a recipe has their digests: hashed here, with a bar
        hash_images(data.manifest, compute.progress)
    ways = placements(compute.params)
    recipes = [[subject.recipe(each, (), way) for way in ways] for each in request.precisions]
    if request.compare_precision:
        compared = {**form_field("fast"), "precision": COMPARISON}
        recipes.append([{**recipe, **compared} for recipe in recipes[0]])
    # A run counts as done whichever form of "fast" the host had that made it.
    return [[form for each in those for form in in_each_form(each)] for those in recipes]


def file_of(item: Item, results: str | Path | None) -> tuple[Path, Request]:
    """The predictions of an item of a model that only has files of its outputs, and what is asked of them."""
    job, pattern = item.job, item.choice.predictions
    assert pattern is not None
    request = dataclasses.replace(job.request(item.request, results), dataset=job.data.card)
    return as_path(pattern.format(dataset=job.data.card.name, task=job.task)), request


def all_ready(items: Sequence[Item], results: str | Path, compute: Compute) -> Iterator[ResolvedItem]:
    """The items with their recipes, in order; each model is opened once."""
    for _, group in itertools.groupby(items, key=lambda item: id(item.choice)):
        visit = list(group)
        try:
            model = visit[0].choice.opened()
        except (ClipjaxError, OSError) as error:
            yield from (ResolvedItem(item, None, error=error) for item in visit)
        else:
            yield from (ready(item, model, results, compute) for item in visit)


class StoredRecipes:
    """The recipes of a folder's results."""

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

    def has_all(self, found: ResolvedItem) -> bool:
        """Whether an item has all its results; False if it cannot run, which its run reports."""
        skip = found.item.changes.get("on_error") == "skip"
        there = (any(self.has(recipe, skip=skip) for recipe in those) for those in found.recipes)
        return found.error is None and all(there)


def _identity(recipe: Mapping[str, Any]) -> str:
    return sha256_json({key: value for key, value in recipe.items() if key != "skipped"})


def results_of(items: Sequence[Item], results: str | Path) -> list[Result]:
    """The newest results, in order, also those that lack unreadable images; items without are left out.

    Raises ClipjaxError for an item that cannot run.
    """
    store, by_recipe = ResultStore(results), dict[str, list[Row]]()
    for row in store.rows():
        by_recipe.setdefault(row["recipe_hash"], []).append(row)
    newest = {_identity(rows[0]["recipe"]): rows for rows in by_recipe.values()}
    found = []
    for each in all_ready(items, results, Compute(progress=False)):
        if each.error is not None:
            raise each.error
        for those in each.recipes:
            if rows := next(filter(None, (newest.get(_identity(recipe)) for recipe in those)), None):
                run_id = rows[0]["run_id"]
                found.append(Result(rows, store.images(run_id), store.root / run_id, NO_STATS))
    return found
