"""Ask the demo's vision-language model: beside its CLIP on the same lists, and about shuffled images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipjax.checkpoints.load import load_model
from clipjax.data.cards import load_dataset, read_card
from clipjax.demo.plan import LLAVA, Plan
from clipjax.demo.settings import settings
from clipjax.demo.sweeps import compute_in, swept
from clipjax.evaluation.request import Request
from clipjax.evaluation.rows import Result
from clipjax.evaluation.run import run
from clipjax.metrics.uncertainty.intervals import wilson
from clipjax.sweep.suite import SuiteRun
from clipjax.tasks.multiple_choice import TASK, rights

RULE = "parsed"
DEBIASED = f"top1_debiased@{RULE}"
STEPS = 3  # a letter, the end, and one to spare
CHANCE = 1 / 4


@dataclass(frozen=True)
class QuestionResults:
    """Results on one data set, of the same lists."""

    dataset: str
    clip: Result
    llava: Result
    shuffled: Result

    @property
    def beats_chance(self) -> bool:
        """Whether the interval's lower end, over all orders of the options, is above chance."""
        return _lowest(self.llava) > CHANCE

    @property
    def needs_images(self) -> bool:
        """Shuffled images give no more than chance."""
        return _lowest(self.shuffled) <= CHANCE


def by_order(results: Sequence[Result]) -> list[tuple[float, float]]:
    """Accuracy with the right option first, second, ..., and the lower end of its interval."""
    right = np.concatenate([rights(result.images.to_pydict())[RULE] for result in results])
    return [(hits / len(right), wilson(hits, len(right)).lo) for hits in right.sum(axis=0).tolist()]


def _lowest(result: Result) -> float:
    interval = result.interval(DEBIASED)
    assert interval is not None
    return interval[0]


def ask(plan: Plan, out: Path, results: Sequence[Result], progress: bool) -> list[QuestionResults]:
    """Ask on every set for which the last model made lists, among `results`; run only what is missing.

    Raises:
        DataError: a run failed.
    """
    lists = {
        result.rows[0]["dataset"]: str(result.path)
        for result in results
        if (result.rows[0]["task"], result.rows[0]["model"])
        == (settings().selection.task, plan.models[-1].id)
    }
    models = {plan.tower.id: {}, LLAVA: {"steps": STEPS}}
    runs = [
        SuiteRun(TASK.name, (str(out / "models" / model),), (dataset,), (), {"annotations": path, **options})
        for model, options in models.items()
        for dataset, path in lists.items()
    ]
    answers = {
        (result.rows[0]["model"], result.rows[0]["dataset"]): result for result in swept(out, runs, progress)
    }
    return [
        QuestionResults(
            name, answers[plan.tower.id, name], answers[LLAVA, name], _shuffled(out, name, path, plan.seed)
        )
        for name, path in lists.items()
    ]


def _shuffled(out: Path, name: str, lists: str, seed: int) -> Result:
    """The same questions about other images of the set: kept in the store, but no result of the demo."""
    place = read_card(name).place
    assert place is not None
    data = load_dataset(name, out / "world" / place)
    order = np.random.default_rng(seed).permutation(len(data.manifest))
    opener = data.manifest.opener.select([int(i) for i in order])
    shuffled = dataclasses.replace(data, manifest=dataclasses.replace(data.manifest, opener=opener))
    request = Request(dataset=shuffled, annotations=lists, steps=STEPS)
    return run(load_model(out / "models" / LLAVA), TASK.name, request, compute_in(out))
