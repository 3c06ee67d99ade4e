"""Run a suite with a checkpoint and the pinned reference, and judge the checkpoint.

    gate = Gate(suite, "vit_b_32-openai", conditions, Spending(0.05), Path("gate"))
    judgement, is_new = gate.judge("checkpoints/epoch_3", compute)

Both run as `clipjax sweep` runs them: images are decoded once, and runs with results are skipped. An
interrupted gate has recorded nothing and spent no alpha; the same call goes on.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clipjax.checkpoints.model import Model
from clipjax.embeddings.compute import Compute
from clipjax.errors import ClipjaxError, DataError, UsageError, counted
from clipjax.evaluation.plans.ready import results_of
from clipjax.gates.conditions import Condition, Spending
from clipjax.gates.history import (
    History,
    Judgement,
    Pinned,
    Terms,
    add_judgement,
    check_reference,
    history_under,
)
from clipjax.gates.judge import measure, verdict_of
from clipjax.gates.picture import draw_history
from clipjax.gates.runs_to_judge import plan_to_judge, suite_to_judge
from clipjax.heads.adapters.base import adapter_digest, adapter_of
from clipjax.results.provenance import git_revision, versions
from clipjax.results.row import Row
from clipjax.results.store import ResultStore
from clipjax.storage.digests import sha256_json
from clipjax.sweep.execution import complete, run_sweep
from clipjax.sweep.model_choice import choose
from clipjax.sweep.plan import SweepItem, SweepPlan, make_plan
from clipjax.sweep.suite import Suite


class GateFailed(ClipjaxError):
    """A condition of the gate does not hold."""

    exit_code = 3


class GateUndecided(ClipjaxError):
    """A condition of the gate is not shown, and its images are too few to show it."""

    exit_code = 4


class SameWeights(UsageError):
    """The checkpoint is the pinned reference itself."""


@dataclass(frozen=True)
class Gate:
    """A gate: its terms, and the folder of its record.

    Attributes:
        suite: its data sets, tasks and options; its models do not run.
        against: the pinned reference; a name or path as for `clipjax sweep`.
        folder: gets gate.json, history.svg and results/.
        tell: called with lines about what runs.
    """

    suite: Suite
    against: str
    conditions: Sequence[Condition]
    spending: Spending
    folder: Path
    tell: Callable[[str], None] = field(default=lambda _: None)

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def judge(self, model: str, compute: Compute, file: str | None = None) -> tuple[Judgement, bool]:
        """The verdict on a model, and whether it is new.

        Args:
            model: as `clipjax sweep` takes it.
            compute: has a store; its pixel store keeps decoded images for all checkpoints.
            file: for the record, see `Judgement`.

        Raises:
            UsageError: no such model; it is the reference itself; alpha is spent; or as `measure`.
            DataError: the reference, its images or the terms changed, a run failed, a data set is missing, or
                as `measure`.
            Interrupted: a signal came; nothing is recorded.
        """
        pinned, weights = self._identity(self.against), self._identity(model)
        if weights.weights == pinned.weights:
            raise SameWeights(
                f"{model} has the weights of {self.against}, the reference: name another checkpoint"
            )
        planned = self._plan(model, compute)
        history = history_under(self._terms(pinned, planned), self.folder)
        if (before := history.verdict_on(weights.weights)) is not None:
            return before, False
        number = len(history.judged) + 1
        alpha = self.spending.share(number)
        measured = measure(self._runs(model, planned, compute), self.conditions, alpha, self.results)
        check_reference(history, measured, self.folder)
        judgement = Judgement(
            number=number,
            model=weights.model,
            weights=weights.weights,
            alpha=alpha,
            verdict=verdict_of(measured),
            measured=measured,
            time=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            versions=versions(),
            git_revision=git_revision(),
            file=file,
        )
        draw_history(add_judgement(history, judgement, self.folder), self.folder)
        return judgement, True

    def history(self, compute: Compute) -> History:
        """The record so far, after checking that reference and terms are those that it was begun with."""
        pinned = self._identity(self.against)
        return history_under(self._terms(pinned, self._plan(self.against, compute)), self.folder)

    def _identity(self, model: str) -> Pinned:
        opened = choose(model, self.suite.model_root).opened()
        if not isinstance(opened, Model) or opened.card.weights is None:
            raise UsageError(
                f"{model} has no file of weights whose digest a gate can record: convert it first (`clipjax "
                "convert`)"
            )
        adapter, digest = adapter_of(opened), opened.card.weights.identity
        whole = digest if adapter is None else sha256_json([digest, adapter_digest(adapter)])
        return Pinned(opened.card.id, whole)

    def _plan(self, model: str, compute: Compute) -> SweepPlan:
        suite = suite_to_judge(self.suite, self.conditions, tuple(dict.fromkeys((self.against, model))))
        budget = None if compute.pixel_store is None else compute.pixel_store.budget
        return plan_to_judge(make_plan(suite, budget), self.conditions)

    def _terms(self, pinned: Pinned, plan: SweepPlan) -> Terms:
        # Models of other pixel recipes come in another order.
        runs = sorted(map(_in_words, self._of(self.against, plan)))
        return Terms(
            pinned=pinned,
            suite=self.suite.name,
            runs=tuple(runs),
            conditions=tuple(map(str, self.conditions)),
            alpha=self.spending.alpha,
            spending=self.spending.name,
            planned=self.spending.planned,
        )

    def _of(self, model: str, plan: SweepPlan) -> list[SweepItem]:
        return [item for item in plan.items if item.choice.name == model]

    def _runs(self, model: str, plan: SweepPlan, compute: Compute) -> list[tuple[Row, Row]]:
        """Run what has no results, and pair the runs of both models."""
        ResultStore(self.results).check_root(written=True)
        for line in plan.missing_lines:
            self.tell(line)
        complete(run_sweep(plan, plan.items, compute, self.results, tell=self.tell), plan)
        first, second = (
            [found.rows[0] for found in results_of(self._of(name, plan), self.results)]
            for name in (self.against, model)
        )
        return [(row, _partner(row, second)) for row in first]


def _in_words(item: SweepItem) -> str:
    """What the item's key has beside its model: "zeroshot on many, prompts single 1a2b3c4d, limit 20"."""
    prompts = item.job.prompts
    named = [] if prompts is None else [f"prompts {prompts.name} {prompts.digest[:8]}"]
    options = [f"{name} {value}" for name, value in sorted(item.options.items())]
    return ", ".join([f"{item.job.task} on {item.job.data.card.name}", *named, *options])


def _partner(row: Row, others: Sequence[Row]) -> Row:
    """The run of the same data. A head of its own has no prompts: its run stands beside each prompt set's.

    Raises DataError without one: a condition that is not measured would pass unseen.
    """
    there = [
        each for each in others if all(each[key] == row[key] for key in ("task", "dataset", "precision"))
    ]
    prompts = row["convention"].get("prompts")
    same = [each for each in there if each["convention"].get("prompts") == prompts] or there
    if len(same) != 1:
        what = f"{row['task']} on {row['dataset']} with prompts {prompts}"
        raise DataError(
            f"{what}: the checkpoint has {counted(len(same), 'run')} to compare with {row['model']}"
        )
    return same[0]


def raise_unless_passed(judgement: Judgement) -> None:
    """Raise GateFailed or GateUndecided with the first condition that does not hold."""
    if judgement.verdict == "pass":
        return
    not_met = [each for each in judgement.measured if each.verdict == judgement.verdict]
    worst = max(not_met, key=lambda each: each.needed or 0)
    what = f"{judgement.model}: {worst.condition}, {worst.task} on {worst.dataset}"
    seen = f"the difference is {worst.difference:+.4f}, its lower limit {worst.lower:+.4f}"
    if judgement.verdict == "fail":
        raise GateFailed(f"{what}: {seen}, which must be above {worst.above:g} (n = {worst.n:,})")
    raise GateUndecided(
        f"{what}: too few to tell, {counted(worst.n, 'image')} ({seen}): it needs "
        f"{counted(worst.needed or 0, 'image')} for a power of 0.8"
    )
