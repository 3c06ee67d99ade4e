"""Many runs in one call: every task that the data sets below one folder are made for.

    for result in evaluate_all(model, "ood", "/data", store="store", results="results"): ...

A card says which tasks its data set is for and where it lies below the common folder (`place`). Collections
are names for several tasks: `shifts` is classification on every natural and synthetic shift, `prompts` repeats
accuracy, factors, OOD detection and calibration with one prompt set after another, from the same stored image
embeddings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipjax.data.cards import DatasetCard, dataset_names, read_card
from clipjax.errors import DataError, unknown_name
from clipjax.evaluation import Result, evaluate
from clipjax.subject import DEFAULT_ID
from clipjax.tasks import all_tasks, find_task


@dataclass(frozen=True)
class Collection:
    """Several tasks under one name.

    Attributes:
        tasks: which.
        prompts: the prompt sets that each is run with; None: each data set's own.
    """

    tasks: tuple[str, ...]
    section: str
    prompts: tuple[str, ...] | None = None


COLLECTIONS = {
    "shifts": Collection(("zeroshot", "vid_robust", "imagenet_d"), "III-B"),
    "prompts": Collection(
        ("zeroshot", "imagenet_x", "ood", "calibration"),
        "X-B",
        ("single", "mcm_5", "openai_7", "openai_30_of_80", "openai_80"),
    ),
}


@dataclass(frozen=True)
class Job:
    """One run to be: a task on a data set that lies at `root`, with a prompt set (None: the card's)."""

    task: str
    card: DatasetCard
    root: Path
    id_root: Path | None
    prompts: str | Path | None


def plan(
    name: str, data_root: str | Path, prompts: Sequence[str | Path] = (), cards: Sequence[DatasetCard] = ()
) -> tuple[list[Job], list[str]]:
    """The runs of a task or collection on what lies below `data_root`, and the data sets that do not.

    Args:
        name: of a task, a collection, or "all".
        prompts: prompt sets to repeat each run with; default the collection's, else the cards' own.
        cards: default those that ship with clipjax.

    Raises:
        UsageError: there is no task or collection of that name.
        DataError: none of its data sets is there; the message names the folders looked for.
    """
    base = Path(data_root).expanduser()
    tasks, sets = _tasks(name)
    sets = tuple(prompts) or sets or (None,)
    known = list(cards) or [read_card(card) for card in dataset_names()]
    jobs, missing = [], []
    for task in tasks:
        for card in (card for card in known if task in card.tasks):
            root, id_root = _place(base, card), _id_root(base, card, known)
            needed = [root, id_root] if "id" in find_task(task).needs else [root]
            if absent := [str(path) for path in needed if path is not None and not path.exists()]:
                missing.append(f"{task} on {card.name}: no {' and no '.join(absent)}")
            else:
                head = "head" in find_task(task).needs
                jobs += [Job(task, card, root, id_root, prompt) for prompt in (sets if head else (None,))]
    if not jobs:
        raise DataError(f"{base} holds no data set for {name!r}: {'; '.join(missing) or 'no card names it'}")
    return jobs, missing


def evaluate_all(model: Any, jobs: Sequence[Job], **settings: Any) -> Iterator[Result]:
    """Each job's result, in order; `settings` are those of `clipjax.evaluate`.

    A classifier has no prompts: jobs that differ in them alone are run once.
    """
    seen = set()
    for job in jobs:
        prompts = job.prompts if model.card.kind == "zero_shot" else None
        if (identity := (job.task, job.card.name, str(prompts))) in seen:
            continue
        seen.add(identity)
        needs_id = "id" in find_task(job.task).needs
        yield evaluate(
            model,
            job.task,
            dataset=job.card,
            root=job.root,
            id_root=job.id_root if needs_id else None,
            prompts=prompts,
            **settings,
        )


def _tasks(name: str) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    if name in COLLECTIONS:
        return COLLECTIONS[name].tasks, COLLECTIONS[name].prompts
    if name == "all":
        return tuple(all_tasks()), None
    if name not in all_tasks():
        raise unknown_name("task", name, [*all_tasks(), *COLLECTIONS, "all"])
    return (name,), None


def _place(base: Path, card: DatasetCard) -> Path:
    return base / (card.place or card.name)


def _id_root(base: Path, card: DatasetCard, known: Sequence[DatasetCard]) -> Path | None:
    """Where the in-distribution images lie that the card is compared with."""
    name = card.id or DEFAULT_ID
    found = next((other for other in known if other.name == name), None)
    return None if found is None else _place(base, found)
