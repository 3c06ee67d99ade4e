"""The runs of a sweep, in the cheapest order.

Models of one pixel recipe are adjacent, to decode images once; among them, those of one architecture, to
compile once. If a recipe's pixels exceed the store's budget, its data sets come in waves that fit. The plan
does not depend on what is stored: all processes and shards make the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from clipjax.checkpoints.identity.registry import check_added_rows
from clipjax.data.pixels.preprocess import PixelRecipe
from clipjax.embeddings.compute import Compute
from clipjax.errors import DataError, UsageError
from clipjax.estimates import cost
from clipjax.evaluation.data_folder import in_one_line
from clipjax.evaluation.plans.collection import CollectionPlan, Shared
from clipjax.evaluation.plans.collection import plan as plan_jobs
from clipjax.evaluation.plans.item import ModelChoice, TaskOnData, distinct
from clipjax.evaluation.request import Request
from clipjax.options import by_field
from clipjax.storage.digests import canonical_json, sha256_json
from clipjax.storage.reading import is_dir
from clipjax.sweep.model_choice import choose
from clipjax.sweep.suite import Suite, SuiteRun


@dataclass(frozen=True, eq=False)
class SweepItem(cost.CostedItem):
    """One planned run of a suite; `options` are the suite's."""

    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> list[Any]:
        """A key of the item, equal in all processes and shards."""
        options = {name: str(value) for name, value in self.options.items()}
        prompts = self.job.prompts and self.job.prompts.digest
        return [self.choice.name, self.job.task, self.job.data.card.name, prompts, options]


@dataclass(frozen=True)
class MissingRun:
    """`named`: the suite names the data set, so the sweep is incomplete without it."""

    line: str
    named: bool

    @property
    def family(self) -> str:
        """The family of data sets that the line begins with. Several tasks may miss it, each with a line."""
        return self.line.partition(" (")[0]


@dataclass(frozen=True)
class SweepPlan:
    """`absent`: runs on data sets that are not there, only to be shown; their cards have the sizes."""

    suite: Suite
    items: Sequence[SweepItem]
    missing: Sequence[MissingRun] = ()
    absent: Sequence[SweepItem] = ()

    @property
    def digest(self) -> str:
        """A digest that is equal for equal plans, across processes and shards."""
        return sha256_json([item.key for item in self.items])

    @property
    def missing_lines(self) -> list[str]:
        """The missing data sets: at most one line for those that the suite names, and one for others."""
        return [
            *(f"missing: {line}" for line in self.missing_line(named=True)),
            *(f"left out: {line}" for line in self.missing_line(named=False)),
        ]

    def missing_line(self, *, named: bool) -> list[str]:
        """One line about the missing data sets that the suite names (or does not name); none if none is."""
        lines = {each.family: each.line for each in self.missing if each.named is named}
        return in_one_line(list(lines.values()), self.suite.data_root)


def make_plan(
    suite: Suite, pixel_budget: int | None, *, absent: bool = False, shared: Shared | None = None
) -> SweepPlan:
    """Plan a suite.

    Args:
        pixel_budget: bytes for the pixel store, None without one.
        absent: also list the runs on data sets that are not there. Then none needs to be, nor their folder.
        shared: the data sets that were read for this suite before, as of `clipjax.sweep.data_sets.jobs_of`.

    Raises:
        UsageError: no folder of data sets is given.
        DataError: no data set or no folder of models exists; as `check_added_rows`.
    """
    check_added_rows()
    if suite.data_root is None and not suite.data and not absent:
        raise UsageError(
            f"say where the data sets of {suite.name} are: --data-root FOLDER, or data_root or [data] in its "
            "file"
        )
    if suite.model_root is not None and not is_dir(suite.model_root):
        raise DataError(
            f"{suite.model_root} is not a folder; --model-root, or model_root in the file of {suite.name}, "
            "holds checkpoints by model id"
        )
    items, not_there, missing = _listed(suite, absent, {} if shared is None else shared)
    if not items and not not_there:
        none, where = SweepPlan(suite, [], missing), suite.data_root or "its [data]"
        raise DataError(
            f"none of the data sets of {suite.name} is in {where}: {'; '.join(none.missing_lines)}"
        )
    sizes = cost.DataSizes()
    # Entries of a suite may overlap: each run is planned once.
    ordered = list(_in_order(_each_once(items), sizes, pixel_budget))
    # Runs that read another run as annotations come after all that may be it.
    ordered.sort(key=lambda item: item.reads_run)
    needed: set[cost.ImageWork | cost.TextWork] = set()
    heads = cost.Heads()
    costed = cost.with_work(ordered, sizes, heads, needed)
    lacking = cost.with_work(_each_once(not_there), cost.CardSizes(), heads, needed)
    return SweepPlan(suite, costed, list(dict.fromkeys(missing)), lacking)


def _listed(
    suite: Suite, absent: bool, shared: Shared
) -> tuple[list[SweepItem], list[SweepItem], list[MissingRun]]:
    """The suite's items, those whose data sets are not there, and the missing data sets."""
    models = {
        name: choose(name, suite.model_root, suite.stated.get(name), suite.predictions.get(name))
        for name in suite.models
    }
    items, not_there, missing = [], [], []
    root = suite.data_root
    if absent and root is not None and not is_dir(root):
        root = None  # a folder to be
    for run in suite.runs:
        part = _planned(suite, run, root, absent, shared)
        if root is not None or not absent:
            missing += [MissingRun(line, bool(run.datasets)) for line in part.missing]
        for name in run.models:
            items += _items(models[name], run, part.jobs)
            not_there += _items(models[name], run, part.absent)
    return items, not_there, missing


def _planned(suite: Suite, run: SuiteRun, root: Path | None, absent: bool, shared: Shared) -> CollectionPlan:
    try:
        return plan_jobs(
            run.task,
            root,
            run.prompts,
            only=run.datasets,
            folders=suite.data,
            absent=absent,
            needed=False,
            shared=shared,
            request=Request(**by_field(Request, run.options)),
        )
    except DataError as error:
        return CollectionPlan([], [str(error)])


def _items(choice: ModelChoice, run: SuiteRun, jobs: Sequence[TaskOnData]) -> Iterator[SweepItem]:
    request = Request(**by_field(Request, run.options))
    changes = by_field(Compute, run.options)
    for job in distinct(jobs, own_head=choice.own_head):
        yield SweepItem(choice, job, request, changes, options=run.options)


def _each_once(items: Sequence[SweepItem]) -> list[SweepItem]:
    return list({canonical_json(item.key): item for item in items}.values())


def _in_order(items: Sequence[SweepItem], sizes: cost.DataSizes, budget: int | None) -> Iterator[SweepItem]:
    """Sort by recipe, wave, architecture and model, each in the suite's order; unusable models last."""
    recipes = dict.fromkeys(item.choice.recipe for item in items)
    for recipe in sorted(recipes, key=lambda recipe: recipe is None):
        of_recipe = [item for item in items if item.choice.recipe == recipe]
        for wave in _waves(of_recipe, recipe, sizes, budget):
            names = dict.fromkeys((_arch(item.choice), item.choice.name) for item in wave.items)
            archs = list(dict.fromkeys(arch for arch, _ in names))
            for _, name in sorted(names, key=lambda pair: archs.index(pair[0])):
                for item in wave.items:
                    if item.choice.name == name:
                        yield item if wave.keep_pixels else _without_pixels(item)


def _without_pixels(item: SweepItem) -> SweepItem:
    return dataclasses.replace(item, changes={**item.changes, "pixel_store": None})


def _arch(choice: ModelChoice) -> str:
    return "" if choice.card is None else choice.card.arch.name


class _Wave(NamedTuple):
    items: list[SweepItem]
    keep_pixels: bool


def _waves(
    items: Sequence[SweepItem], recipe: PixelRecipe | None, sizes: cost.DataSizes, budget: int | None
) -> Iterator[_Wave]:
    if recipe is None or budget is None:
        yield _Wave(list(items), budget is not None)
        return

    wave: list[SweepItem] = []
    held: dict[str, int] = {}
    for group in connected(items):
        needs: dict[str, int] = {}
        for item in group:
            for data in cost.pixels_of(item.job):
                count = sizes.of(data, cost.limit_of(item.job, data, item.request))
                folder = str(data.root)
                # Items may take different limits of one data set: the largest counts.
                needs[folder] = max(needs.get(folder, 0), cost.pixel_bytes(recipe, count))
        if max(needs.values(), default=0) > budget:  # can never fit: not kept
            yield _Wave(group, False)
            continue
        if wave and sum((held | needs).values()) > budget:
            yield _Wave(wave, True)
            wave, held = [], {}
        wave, held = wave + group, held | needs
    if wave:
        yield _Wave(wave, True)


def connected(items: Sequence[SweepItem]) -> list[list[SweepItem]]:
    """Groups of items that share images, in order.

    Items of data sets {a}, {b}, {a, c}, {c} give the groups [{a}, {a, c}, {c}] and [{b}].
    """
    group_of: dict[str, int] = {}
    groups: list[list[int]] = []
    for i, item in enumerate(items):
        folders = [str(data.root) for data in cost.parts(item.job)]
        own_groups = sorted({group_of[folder] for folder in folders if folder in group_of})
        home = own_groups[0] if own_groups else len(groups)
        if not own_groups:
            groups.append([])
        # This item joins groups that were separate.
        for other in own_groups[1:]:
            groups[home] += groups[other]
            groups[other] = []
        for folder, group in group_of.items():
            group_of[folder] = home if group in own_groups else group
        group_of |= dict.fromkeys(folders, home)
        groups[home].append(i)
    return [[items[i] for i in sorted(group)] for group in groups if group]
