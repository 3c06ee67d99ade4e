"""The runs of a task or a collection: every task on the data sets below one folder.

    runs = plan("ood", "/data")
    items = items_of(model, runs.jobs, Request())
    for outcome in execute(items, Compute(store=Store("store")), "results"): ...

A data set's card names its tasks and its folder (`as_path`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clipjax.data.cards import DatasetCard, data_folder
from clipjax.data.labels import PromptSet, load_prompts
from clipjax.data.readers.reader import CLASS_FOLDERS, find_reader
from clipjax.devices.agreement import on_all
from clipjax.embeddings.compute import Compute
from clipjax.errors import DataError, UsageError
from clipjax.evaluation.data_folder import DataFolder, cards_below, id_card
from clipjax.evaluation.data_set import dataset_of
from clipjax.evaluation.fit_data import fit_folder
from clipjax.evaluation.kinds.kind import refuse_options, stated
from clipjax.evaluation.plans.item import TaskOnData
from clipjax.evaluation.plans.ready import check_run
from clipjax.evaluation.request import Request
from clipjax.evaluation.run_data import id_dataset
from clipjax.storage.reading import exists
from clipjax.storage.remote.buckets import BucketPath, as_path
from clipjax.tasks.collections import collection
from clipjax.tasks.task import Task, find_task

NAMED = 3  # missing data sets that an error names
Shared = dict[tuple[str, Path], DataFolder]


@dataclass(frozen=True)
class CollectionPlan:
    """`absent`: the jobs whose data sets are not there; none unless they were asked for."""

    jobs: list[TaskOnData]
    missing: list[str]
    absent: list[TaskOnData] = field(default_factory=list)


def plan(
    name: str,
    data_root: str | Path | None,
    prompts: Sequence[str | Path] = (),
    *,
    only: Sequence[str] = (),
    folders: Mapping[str, Path] | None = None,
    absent: bool = False,
    needed: bool = True,
    shared: Shared | None = None,
    request: Request | None = None,
) -> CollectionPlan:
    """The runs of a task or collection on the data sets below `data_root`, and the missing ones.

    Args:
        name: a task, a collection, or "all".
        data_root: None, with `absent`: only `folders` are there.
        prompts: repeat each run; default: the collection's, else the cards' own.
        only: names of data sets or of families; empty: all.
        folders: of data sets that are elsewhere, by name.
        absent: also plan runs on data sets that are not there: on those in `only`, or without `data_root` on
            all.
        needed: whether one must exist, or be planned as absent.
        shared: of several plans, whose data sets are read once.
        request: names training images for the tasks that fit something; None: there are none.

    Raises:
        UsageError: no task, collection or prompt set has that name.
        DataError: none does; a damaged card.
    """
    tasks = collection(name)
    # First: a wrong name costs nothing.
    sets = [load_prompts(each) for each in prompts or tasks.prompts] or [None]
    base = None if data_root is None else as_path(data_root).expanduser()
    where = _Folders(base, folders or {}, {} if shared is None else shared)
    below = cards_below(base)
    jobs, not_there, missing = [], [], _Missing()
    for task in map(find_task, tasks.tasks):
        # Captions take a template, too, but only if the user names the task and the prompts.
        repeated = "head" in task.needs or (name == task.name and bool(prompts))
        for data in below:
            if not tasks.takes(data.card, task.name) or not _is_among(only, data.card.name):
                continue
            data = where.of(data.card, data.root)
            id_ = where.of_id(data.card) if "id" in task.needs else None
            fit = where.of_fit(request) if task.fits is not None else None
            own = [
                TaskOnData(task.name, data, id_, prompt, fit=fit) for prompt in (sets if repeated else [None])
            ]
            roots = where.absent(data, id_)
            if not roots:
                jobs += own
            elif only or not data.card.demo:  # unless asked for, a demo data set's absence is not reported
                missing.add(data, task.name, roots, id_)
                if absent and (only or base is None):
                    not_there += own
    if needed and not jobs and not not_there:
        untasked = _without_tasks(below, base, tasks.tasks[0])
        raise DataError(f"{base or '.'} holds no data set for {name!r}: {missing.sentence()}{untasked}")
    return CollectionPlan(jobs, missing.lines(), not_there)


@dataclass(frozen=True)
class _Folders:
    """Folders of data sets: below `base`, or elsewhere by name. Each data set is read once for all plans."""

    base: Path | None
    elsewhere: Mapping[str, Path]
    shared: Shared

    def of(self, card: DatasetCard, root: Path) -> DataFolder:
        root = self.elsewhere.get(card.name, root)
        return self.shared.setdefault((card.name, root), DataFolder(card, root))

    def of_id(self, card: DatasetCard) -> DataFolder:
        """The in-distribution set of a data set."""
        id_set = id_card(card)
        return self.of(id_set, data_folder(self.base or Path(), id_set))

    def of_fit(self, request: Request | None) -> DataFolder | None:
        fit = None if request is None else fit_folder(request)
        return fit and self.shared.setdefault((fit.card.name, fit.root), fit)

    def absent(self, *folders: DataFolder | None) -> list[Path]:
        return [each.root for each in folders if each is not None and not self._exists(each)]

    def _exists(self, folder: DataFolder) -> bool:
        """Whether a folder is there; without a base, only those elsewhere are."""
        is_known = self.base is not None or folder.card.name in self.elsewhere
        return is_known and exists(folder.root)


def _is_among(only: Sequence[str], name: str) -> bool:
    family = name.partition(":")[0]  # "imagenet_c" of "imagenet_c:fog:1"
    return not only or name in only or family in only


def _without_tasks(folders: Sequence[DataFolder], base: Path | None, task: str) -> str:
    """Words for the first of the user's cards that no task runs on."""
    cards = [each.card for each in folders]
    own = [card for card in cards if card.path is not None and card.path.parent == base]
    paths = [card.path for card in own if not card.tasks]
    return f'; {paths[0]} has no `tasks`: add `tasks = ["{task}"]` to it' if paths else ""


def job_of(task: str, request: Request, compute: Compute, results: str | Path | None) -> TaskOnData:
    """The request's job, with its data read: mistakes are refused before a model is loaded, or downloaded.

    Raises UsageError or DataError if the task cannot run, its data cannot be read, or `results` not written.
    """
    definition = check_run(task, request, results)
    refuse_options(definition, stated(request))
    with on_all(f"read the data of {task}", apart=compute.store is None):
        job = _read(definition, request)
    _refuse_among_classes(request, job.data.card.reader, results)
    return job


def _read(task: Task, request: Request) -> TaskOnData:
    data, prompts = dataset_of(request), request.prompts
    id_data = id_dataset(data.card, request) if "id" in task.needs else None
    if prompts is not None and not isinstance(prompts, PromptSet):
        prompts = load_prompts(prompts)
    fit = fit_folder(request)
    if fit is not None and task.fits is None:
        raise UsageError(
            f"the task {task.name!r} fits nothing on training images: leave fit_root (--fit-data) out"
        )
    return TaskOnData(
        task.name,
        DataFolder.of(data),
        id_data and DataFolder.of(id_data),
        prompts,
        alone=True,
        fit=fit and DataFolder.of(fit.dataset),
    )


def _refuse_among_classes(request: Request, reader: str, results: str | Path | None) -> None:
    """Raises UsageError for results that the next run would read as a class folder."""
    root = request.dataset if request.root is None else request.root
    if not isinstance(root, str | Path) or results is None or find_reader(reader).layout != CLASS_FOLDERS:
        return
    images, folder = as_path(root), as_path(results)
    if isinstance(images, BucketPath) or isinstance(folder, BucketPath):
        return
    if images.resolve() in (folder.resolve(), *folder.resolve().parents):
        raise UsageError(
            f"{results} is inside {root}, where each folder is a class: give another folder for the results "
            "(--results FOLDER)"
        )


@dataclass
class _Missing:
    """One line for each family of data sets."""

    tasks: dict[str, dict[str, None]] = field(default_factory=dict)
    folders: dict[str, dict[Path, None]] = field(default_factory=dict)
    near: dict[str, str] = field(default_factory=dict)  # families that only lack their in-distribution set

    def add(self, data: DataFolder, task: str, absent: Sequence[Path], id_: DataFolder | None) -> None:
        family = data.card.name.partition(":")[0]
        self.tasks.setdefault(family, {})[task] = None
        self.folders.setdefault(family, {}).update(dict.fromkeys(absent))
        if data.root not in absent and id_ is not None:
            why = "" if data.card.id is not None else ", as its card has no `id`"
            self.near[family] = f": the images of {id_.card.name}, which {family} is compared with{why}"

    def lines(self) -> list[str]:
        """The missing data sets as lines, first the families that lack only their in-distribution set."""
        lines = []
        for family, tasks in sorted(self.tasks.items(), key=lambda entry: entry[0] not in self.near):
            first, *others = self.folders[family]
            more = f", nor {others[0]}" if len(others) == 1 else f", nor do {len(others)} more"
            more = more if others else self.near.get(family, "")
            lines.append(f"{family} ({', '.join(tasks)}): {first} does not exist{more}")
        return lines

    def sentence(self) -> str:
        lines = self.lines()
        more = f"; and {len(lines) - NAMED} more" if len(lines) > NAMED else ""
        return "; ".join(lines[:NAMED]) + more or "no card names it"
