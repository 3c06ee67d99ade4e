"""The data sets that a suite names, and what is left out without some of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from clipjax.analysis.claims.ledger import Claim
from clipjax.analysis.figures.spec import Spec
from clipjax.analysis.rows.cells import Term
from clipjax.data.cards import DatasetCard, data_folder
from clipjax.estimates.cost import parts
from clipjax.evaluation.plans.collection import Shared
from clipjax.evaluation.plans.collection import plan as plan_jobs
from clipjax.evaluation.plans.item import TaskOnData
from clipjax.evaluation.prompts import prompts_name
from clipjax.storage.reading import exists, is_dir
from clipjax.sweep.suite import Suite, SuiteRun

Job = tuple[SuiteRun, TaskOnData]
"""A run of a suite, and one of its tasks on a data set."""


@dataclass(frozen=True)
class NeededData:
    """A data set that a suite names, or compares one of these with.

    Attributes:
        root: its folder.
        tasks: that read it.
    """

    card: DatasetCard
    root: Path
    tasks: tuple[str, ...]

    @property
    def is_there(self) -> bool:
        return exists(self.root)


@dataclass(frozen=True)
class LeftOut:
    """What cannot be whole without a family of data sets: names of tasks, figures and tables, and claims."""

    family: str
    tasks: tuple[str, ...]
    figures: tuple[str, ...]
    claims: tuple[str, ...]


def jobs_of(suite: Suite, shared: Shared | None = None) -> list[Job]:
    """A suite's runs with their tasks on data sets, also on those that are not there.

    Args:
        shared: gets the data sets that are read, for a plan of the same suite while its folders stay as
            they are.

    Raises DataError: a damaged card.
    """
    there = suite.data_root if suite.data_root is not None and is_dir(suite.data_root) else None
    shared, jobs = {} if shared is None else shared, []
    for run in suite.runs:
        how = {"only": run.datasets, "folders": suite.data, "absent": True, "needed": False}
        planned = plan_jobs(run.task, there, run.prompts, shared=shared, **how)
        jobs += [(run, job) for job in [*planned.jobs, *planned.absent]]
    return jobs


def data_sets_of(suite: Suite, jobs: Sequence[Job]) -> list[NeededData]:
    """The data sets that a suite names, each once, with those that they are compared with.

    A run that names none takes what is there, so it needs none. `jobs`: the suite's, of `jobs_of`.
    """
    tasks: dict[str, dict[str, None]] = {}
    found: dict[str, DatasetCard] = {}
    for job in (job for run, job in jobs if run.datasets):
        for data in parts(job):
            found[data.card.name] = data.card
            tasks.setdefault(data.card.name, {})[job.task] = None
    base = suite.data_root or Path()
    return [
        NeededData(card, suite.data.get(name, data_folder(base, card)), tuple(tasks[name]))
        for name, card in found.items()
    ]


def cards_to_fetch(suite: Suite, needed: Sequence[NeededData]) -> dict[str, DatasetCard]:
    """The cards of needed data sets that have files, and no folder that the suite names."""
    cards = {each.card.name: each.card for each in needed}
    return {name: card for name, card in cards.items() if card.files and name not in suite.data}


def prompt_sets_of(jobs: Sequence[Job]) -> set[str]:
    """The names of the prompt sets that a suite's runs are made with."""
    return {prompts_name(job.prompts, data.card) for _, job in jobs for data in parts(job)}


def left_out(absent: Iterable[NeededData], specs: Sequence[Spec], claims: Sequence[Claim]) -> list[LeftOut]:
    """What cannot be whole without these data sets, a family at a time."""
    families: dict[str, list[NeededData]] = {}
    for data in absent:
        families.setdefault(data.card.name.partition(":")[0], []).append(data)
    terms_of_claims = {
        claim.key: [term for part in claim.parts for column in part.columns() for term in column.terms]
        for claim in claims
    }
    return [
        LeftOut(
            family,
            tuple(dict.fromkeys(task for data in members for task in data.tasks)),
            tuple(spec.name for spec in specs if _reads(spec.terms, members)),
            tuple(key for key, terms in terms_of_claims.items() if _reads(terms, members)),
        )
        for family, members in families.items()
    ]


def _reads(terms: Iterable[Term], data: Sequence[NeededData]) -> bool:
    names = {each.card.name for each in data}
    return any(term.dataset in names for term in terms)
