"""Run the items of a plan, one after another.

    for outcome in execute(items, Compute(store=Store("store")), "results"): ...

Each model is opened once and loaded once, and each item is resolved once. A failed item does not stop the
others; with `results` it leaves a record there (`results.runs.failed_runs`). Processes take the same steps:
the first decides what is skipped, and if a model fails to load on one, all drop it.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from clipjax.checkpoints.encoder import Encoder
from clipjax.devices.agreement import on_all
from clipjax.embeddings.compute import Compute, EmbedStats
from clipjax.embeddings.placements import dtype_to_load, mesh_to_load
from clipjax.errors import ClipjaxError, DataError, counted
from clipjax.evaluation.ahead import embed_ahead
from clipjax.evaluation.plans.item import Item
from clipjax.evaluation.plans.ready import ResolvedItem, StoredRecipes, file_of, ready, resolved
from clipjax.evaluation.predictions.scoring import measured_predictions
from clipjax.evaluation.rows import Result
from clipjax.evaluation.run import measured
from clipjax.results.runs.failed_runs import FailedRuns, reason_of

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ItemOutcome:
    """The outcome of an item: its result, its error, or neither.

    Attributes:
        items: one; or those of a model that were done before, or cannot run without it.
        ran: False where they were done before, failed before, or the model cannot be loaded.
    """

    items: Sequence[Item]
    result: Result | None = None
    error: Exception | None = None
    ran: bool = True

    @property
    def item(self) -> Item:
        return self.items[0]

    @property
    def what(self) -> str:
        """The item, or the model of several and their number."""
        several = f"{self.item.choice.title} ({counted(len(self.items), 'run')})"
        return str(self.item) if len(self.items) == 1 else several

    @property
    def reason(self) -> str:
        """The error; foreign ones with their type."""
        assert self.error is not None
        return reason_of(self.error)


def execute(
    items: Sequence[Item],
    compute: Compute,
    results: str | Path | None = None,
    *,
    done: StoredRecipes | None = None,
    retry: bool = True,
    announce: Callable[[int, int, Item], None] = lambda *_: None,
    catch: type[Exception] = ClipjaxError,
) -> Iterator[ItemOutcome]:
    """Run the items; adjacent ones of one model are ordered by their options.

    Small data sets are embedded first, in one stream; its cost is in the statistics of the first item that
    reads them. Where the model's own head has other classes, the result is a row "not applicable".

    Args:
        compute: settings that the items leave open.
        results: a folder for rows; None: they are not written.
        done: the results in that folder, which are not made again; None: all items run.
        retry: whether items run that have a record of a failure; else the outcome is that failure.
        announce: takes the item's number (from 1), the number of items, and the item, before it runs.
        catch: exceptions, besides ClipjaxError, that fail one item only.
    """
    failed = None if results is None else FailedRuns(results)
    runner = _Runner(compute, results, done, failed, announce, catch, len(items))
    for _, visit in itertools.groupby(items, key=lambda item: (id(item.choice), item.keep_pixels)):
        left, failures = runner.without_failures(list(visit), retry)
        yield from failures
        if not left:
            continue
        found, passed = runner.found(left)
        yield from passed
        lost = runner.load(found)
        yield from lost
        for part in [] if lost else _of_same_options(found):
            ahead = runner.ahead(part)
            for each in part:
                yield runner.outcome(each, ahead)


@dataclass
class _Runner:
    compute: Compute
    results: str | Path | None
    done: StoredRecipes | None
    failed: FailedRuns | None
    announce: Callable[[int, int, Item], None]
    catch: type[Exception]
    of: int
    number: int = 0
    model: Encoder | None = None

    def without_failures(self, items: list[Item], retry: bool) -> tuple[list[Item], list[ItemOutcome]]:
        """The items that are tried, and the outcomes of those that failed before and are not tried again."""
        if self.failed is None or retry:
            return items, []
        with on_all("read the records of failed runs"):
            records = [self.failed.find(item.key) for item in items]
        has_failed = _of_first([record is not None for record in records])
        tried, outcomes = [], []
        for item, record, failed in zip(items, records, has_failed):
            if not failed:
                tried.append(item)
                continue
            self.number += 1
            reason = "the first process has a record of its failure" if record is None else record.reason
            outcomes.append(ItemOutcome([item], error=DataError(f"{reason} (not tried again)"), ran=False))
        return tried, outcomes

    def found(self, items: Sequence[Item]) -> tuple[list[ResolvedItem], list[ItemOutcome]]:
        """The items of one model that run, and the outcome of the others."""
        self.model = None  # it leaves the memory before the next one is opened
        choice = items[0].choice
        try:
            with on_all(f"open {choice.title}", apart=choice.in_memory):
                model = choice.opened()
        except Exception as error:
            return [], [self.passed(items, error)]
        compute = None if self.done is None else self.compute
        # A foreign error, too, waits for the item's turn, where all processes hear of it.
        found = [ready(item, model, self.results, compute, Exception) for item in items]
        if self.done is None:
            return found, []
        known = list(zip(found, self.known(found, self.done)))
        passed = [each.item for each, is_known in known if is_known]
        return [each for each, is_known in known if not is_known], [self.passed(passed)] if passed else []

    def passed(self, items: Sequence[Item], error: Exception | None = None) -> ItemOutcome:
        """The outcome of items that do not run: they have results, or `error` prevents them."""
        self.number += len(items)
        self.record(items, error)
        return _logged(ItemOutcome(items, error=error, ran=False))

    def record(self, items: Sequence[Item], error: Exception | None) -> None:
        """Record failed items, or remove the records of items that have results now."""
        if self.failed is None or jax.process_index() != 0:
            return
        for item in items:
            if error is None:
                self.failed.forget(item.key)
            else:
                self.failed.keep(item.key, str(item), error)

    def known(self, found: Sequence[ResolvedItem], done: StoredRecipes) -> np.ndarray:
        """bool [items]: which have results."""
        with on_all("read the results"):
            done.update()
        return _of_first([done.has_all(each) for each in found])

    def load(self, found: Sequence[ResolvedItem]) -> list[ItemOutcome]:
        """Load the one model of these items; returns their outcome if it cannot be loaded, else nothing."""
        if not found:
            return []
        items = [each.item for each in found]
        choice = items[0].choice
        dtype = dtype_to_load({each for item in items for each in item.request.precisions})
        mesh_of = mesh_to_load(items[0].computed(self.compute).params)
        try:
            with on_all(f"load {choice.title}", apart=choice.in_memory):
                self.model = choice.loaded(dtype=dtype, mesh_of=mesh_of)
        except Exception as error:  # e.g. out of memory
            return [self.passed(items, error)]
        return []

    def ahead(self, part: Sequence[ResolvedItem]) -> dict[str, EmbedStats]:
        first, subjects = part[0].item, [each.subject for each in part if each.subject is not None]
        if self.model is None or first.job.alone:
            return {}
        return embed_ahead(self.model, subjects, first.request.precisions, first.computed(self.compute))

    def outcome(self, each: ResolvedItem, ahead: dict[str, EmbedStats]) -> ItemOutcome:
        item, model = each.item, self.model
        self.number += 1
        self.announce(self.number, self.of, item)
        try:
            if model is None:
                of, name = file_of(item, self.results), item.choice.title
                result = measured_predictions(item.job.task, *of, model=name, results=self.results)
            else:
                result = measured(self.settled(each, model), item.computed(self.compute), self.results)
        except Exception as error:
            self.record([item], error)
            if not isinstance(error, (ClipjaxError, self.catch)):
                raise
            return _logged(ItemOutcome([item], error=error))
        self.record([item], None)
        for data in filter(None, (item.job.data, item.job.id, item.job.fit)):
            if (stats := ahead.pop(data.card.name, None)) is not None:
                result = replace(result, stats=result.stats.plus(stats))
        return ItemOutcome([item], result)

    def settled(self, each: ResolvedItem, model: Encoder) -> ResolvedItem:
        """The item with the loaded model, on all processes. Raises the item's error."""
        item = each.item
        apart = item.computed(self.compute).store is None
        with on_all(f"prepare {item.job.task} on {item.job.data.card.name}", apart=apart):
            if item.reads_run:  # since it was resolved, another item may have made that run
                return resolved(item, model, self.results)
            if each.error is not None:
                raise each.error
            return each.with_model(model)


def _logged(outcome: ItemOutcome) -> ItemOutcome:
    """Log a foreign error's traceback. The error keeps none: its frames hold the model."""
    error: BaseException | None = outcome.error
    if error is not None and not isinstance(error, ClipjaxError):
        _log.error("a run failed", exc_info=error)
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
    return outcome


def _of_first(flags: Sequence[bool]) -> np.ndarray:
    """bool [N]: the first process's."""
    mine = np.array(flags)
    return mine if jax.process_count() == 1 else np.asarray(multihost_utils.broadcast_one_to_all(mine))


def _of_same_options(visit: Sequence[ResolvedItem]) -> list[list[ResolvedItem]]:
    groups: dict[str, list[ResolvedItem]] = {}
    for each in visit:
        groups.setdefault(each.item.settings, []).append(each)
    return list(groups.values())
