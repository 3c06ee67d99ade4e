"""Many runs in one call: every task on the data sets below one folder.

    planned = plan("ood", "/data")
    compute = Compute(store=Store("store"))
    for done in evaluate_all(model, planned.jobs, Request(), compute, results="results"): ...

A data set's card names its tasks and its folder (`place`).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from clipjax.checkpoints.encoder import Encoder
from clipjax.data.cards import Dataset, DatasetCard, load_dataset
from clipjax.data.labels import PromptSet, load_prompts
from clipjax.devices.agreement import on_all
from clipjax.embeddings.compute import Compute, EmbedStats
from clipjax.errors import ClipjaxError, DataError
from clipjax.evaluation.ahead import embed_ahead
from clipjax.evaluation.located import Located, cards_below, data_folder, id_card
from clipjax.evaluation.own_model import encoder_of
from clipjax.evaluation.request import Request
from clipjax.evaluation.resolve import has_own_head, prompts_name
from clipjax.evaluation.rows import Result, refused
from clipjax.evaluation.run import run
from clipjax.evaluation.subject import NotApplicableError
from clipjax.results.run_of import annotations_at
from clipjax.storage.buckets import place
from clipjax.storage.reading import exists
from clipjax.tasks.collections import collection
from clipjax.tasks.task import find_task

NAMED = 3  # missing data sets that an error names


@dataclass(frozen=True)
class Job:
    """One planned run; `prompts` None: the data set's own."""

    task: str
    data: Located
    id: Located | None
    prompts: PromptSet | None

    def __str__(self) -> str:
        prompts = "" if self.prompts is None else f", prompts {self.prompts.name}"
        return f"{self.task} on {self.data.card.name}{prompts}"


@dataclass(frozen=True)
class CollectionPlan:
    """`absent`: the jobs whose data sets are not there; none unless they were asked for."""

    jobs: list[Job]
    missing: list[str]
    absent: list[Job] = field(default_factory=list)


@dataclass(frozen=True)
class Done:
    job: Job
    result: Result | None
    error: Exception | None = None


class Loaded:
    """Each data set is read and hashed once."""

    def __init__(self) -> None:
        self.results: str | Path | None = None  # where annotations by runs are looked up
        self._datasets: dict[tuple[str, Path], Dataset] = {}

    def dataset(self, data: Located) -> Dataset:
        """Raises UsageError or DataError if the reader refuses it."""
        key = (data.card.name, data.root)
        if key not in self._datasets:
            self._datasets[key] = load_dataset(data.card, data.root)
        return self._datasets[key]

    def request(self, job: Job, request: Request) -> Request:
        """Annotations go only to tasks that read some, on data sets whose cards name none."""
        task, name = find_task(job.task), job.data.card.name
        annotations = None
        if task.load_annotations is not None and job.data.card.annotations is None:
            prompts = functools.partial(prompts_name, job.prompts, job.data.card)
            annotations = annotations_at(request.annotations, task.annotated_by, name, self.results, prompts)
        return replace(
            request,
            dataset=self.dataset(job.data),
            id_dataset=None if job.id is None else self.dataset(job.id),
            prompts=job.prompts,
            annotations=annotations,
        )


def plan(
    name: str,
    data_root: str | Path | None,
    prompts: Sequence[str | Path] = (),
    *,
    only: Sequence[str] = (),
    folders: Mapping[str, Path] | None = None,
    absent: bool = False,
    needed: bool = True,
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

    Raises:
        UsageError: no task, collection or prompt set has that name.
        DataError: none does; a damaged card.
    """
    chosen = collection(name)
    sets = _prompt_sets(prompts or chosen.prompts)  # first: a wrong name costs nothing
    base = Path() if data_root is None else place(data_root).expanduser()
    jobs, not_there, missing = [], [], _Missing()
    folders, located = folders or {}, cards_below(None if data_root is None else base)
    for task in map(find_task, chosen.tasks):
        # Captions take a template, too, but only if the user names the task and the prompts.
        repeated = "head" in task.needs or (name == task.name and bool(prompts))
        for data in (data for data in located if chosen.takes(data.card, task.name)):
            if only and not {data.card.name, data.card.name.partition(":")[0]}.intersection(only):
                continue
            data = data._replace(root=folders.get(data.card.name, data.root))
            id_ = _id_of(base, data.card, folders) if "id" in task.needs else None
            own = [Job(task.name, data, id_, prompt) for prompt in (sets if repeated else [None])]
            roots = [
                where.root
                for where in (data, id_)
                if where is not None
                and not ((data_root is not None or where.card.name in folders) and exists(where.root))
            ]
            if roots and data.card.demo and not only:
                continue  # a demo data set: its absence is not reported
            if roots:
                missing.add(data, task.name, roots, id_)
                not_there += own if absent and (only or data_root is None) else []
            else:
                jobs += own
    if needed and not jobs and not not_there:
        untasked = _without_tasks(located, base, chosen.tasks[0])
        raise DataError(f"{base} holds no data set for {name!r}: {missing.sentence()}{untasked}")
    return CollectionPlan(jobs, missing.lines(), not_there)


def _without_tasks(located: Sequence[Located], base: Path, task: str) -> str:
    """What to add to the first of the user's cards that no task runs on."""
    own = [card for card, _ in located if card.path is not None and card.path.parent == base]
    paths = [card.path for card in own if not card.tasks]
    return f'; {paths[0]} has no `tasks`: add `tasks = ["{task}"]` to it' if paths else ""


def evaluate_all(
    model: object,
    jobs: Sequence[Job],
    request: Request,
    compute: Compute,
    *,
    results: str | Path | None = None,
    announce: Callable[[int, int, Job], None] | None = None,
    loaded: Loaded | None = None,
    catch: type[Exception] = ClipjaxError,
) -> Iterator[Done]:
    """Run the jobs in order; a failed job does not stop the others.

    Small data sets are embedded first, in one stream; its cost is in the statistics of the first job that
    reads them. Where the model's own head has other classes, the result is a row "not applicable".

    Args:
        model: not a name. With its own head, jobs that differ only in prompts run once.
        request: the jobs override its data sets and prompts.
        announce: takes the job's number (from 1), the number of jobs, and the job.
        catch: exceptions, besides ClipjaxError, that fail one job only.
    """
    encoder = encoder_of(model)
    chosen = distinct(jobs, own_head=has_own_head(encoder))
    read = Loaded() if loaded is None else loaded
    read.results = results
    ahead = _embed_ahead(encoder, chosen, read, request, compute)
    for number, job in enumerate(chosen, 1):
        if announce is not None:
            announce(number, len(chosen), job)
        try:
            ask = functools.partial(read.request, job, request)
            own = on_all(ask, f"read the data of {job}", apart=compute.store is None)
            result = run(encoder, job.task, own, compute, results=results)
        except NotApplicableError as error:
            reason = f"not applicable: {error}"
            task, name = find_task(job.task), job.data.card.name
            yield Done(job, refused(encoder, task, name, reason, results))
        except (ClipjaxError, catch) as error:
            yield Done(job, None, error)
        else:
            for data in filter(None, (job.data, job.id)):
                if (stats := ahead.pop(data.card.name, None)) is not None:
                    result = replace(result, stats=result.stats.plus(stats))
            yield Done(job, result)


def _embed_ahead(
    model: Encoder, jobs: Sequence[Job], read: Loaded, request: Request, compute: Compute
) -> dict[str, EmbedStats]:
    if compute.store is None:
        return {}
    runs = []
    for job in jobs:
        with contextlib.suppress(ClipjaxError):  # its own run reports it
            runs.append((job.task, read.request(job, request)))
    return embed_ahead(model, runs, compute)


def distinct(jobs: Iterable[Job], own_head: bool) -> list[Job]:
    unique: dict[tuple[str, str, str | None], Job] = {}
    for job in jobs:
        if own_head and "head" in find_task(job.task).needs:
            job = replace(job, prompts=None)
        unique.setdefault((job.task, job.data.card.name, job.prompts and job.prompts.digest), job)
    return list(unique.values())


def _prompt_sets(names: Sequence[str | Path]) -> list[PromptSet | None]:
    return [load_prompts(name) for name in names] or [None]


def _id_of(base: Path, card: DatasetCard, folders: Mapping[str, Path]) -> Located:
    id_set = id_card(card)
    return Located(id_set, folders.get(id_set.name, data_folder(base, id_set)))


@dataclass
class _Missing:
    """One line for each family of data sets."""

    tasks: dict[str, dict[str, None]] = field(default_factory=dict)
    folders: dict[str, dict[Path, None]] = field(default_factory=dict)
    near: dict[str, str] = field(default_factory=dict)  # families that only lack their in-distribution set

    def add(self, data: Located, task: str, absent: Sequence[Path], id_: Located | None) -> None:
        card, root = data
        family = card.name.partition(":")[0]
        self.tasks.setdefault(family, {})[task] = None
        self.folders.setdefault(family, {}).update(dict.fromkeys(absent))
        if root not in absent and id_ is not None:
            why = "" if card.id is not None else ", as its card has no `id`"
            self.near[family] = f": the images of {id_.card.name}, which {family} is compared with{why}"

    def lines(self) -> list[str]:
        """First the families that lack only their in-distribution set."""
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
