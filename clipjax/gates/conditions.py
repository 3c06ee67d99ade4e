"""The conditions of a gate, and the alpha that each checkpoint may spend. Imports no JAX.

    not_worse(top1, 0.005)                   less than half a point worse, on every data set that has top1
    better(top1, 0.005) on imagenet_a        better, and half a point would be found

All conditions must hold, so each has the whole alpha of its checkpoint (an intersection-union test): a model
that fails one of them passes with that probability at most.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from clipjax.analysis.rows.pivot import UNKNOWN, better_end, metric_ends
from clipjax.errors import UsageError, counted, unknown_name
from clipjax.metrics.uncertainty.margins import Aim

_FORM = re.compile(r"(not_worse|better)\(\s*([^(),]+?)\s*,\s*([^(),\s]+)\s*\)(?:\s+on\s+(\S+))?")


@dataclass(frozen=True)
class Condition:
    """One requirement.

    Attributes:
        kind: "not_worse": less than `margin` worse; "better": better at all, with power for `margin`.
        metric: a share of images, with its slice.
        margin: a fraction of images.
        dataset: None: every data set whose runs have the metric.
    """

    kind: str
    metric: str
    margin: float
    dataset: str | None = None

    @property
    def aim(self) -> Aim:
        return Aim(-self.margin, 0.0) if self.kind == "not_worse" else Aim(0.0, self.margin)

    def __str__(self) -> str:
        where = "" if self.dataset is None else f" on {self.dataset}"
        return f"{self.kind}({self.metric}, {self.margin:g}){where}"


def read_condition(text: str) -> Condition:
    """Raises UsageError: another form, an unknown metric, or one of which a higher number is not better."""
    if (match := _FORM.fullmatch(text.strip())) is None:
        raise UsageError(
            f"{text!r} is not a condition: write not_worse(top1, 0.005) or better(top1, 0.005), and ` on "
            "DATASET` after it for one data set alone"
        )
    kind, metric, number, dataset = match.groups()
    end = better_end(metric.partition(" ")[0])
    if end == UNKNOWN:
        raise unknown_name("metric", metric, list(metric_ends()))
    if end != "higher":
        raise UsageError(
            f"{text}: a gate takes shares of right answers, such as top1, and the better end of {metric} is "
            f"{end}: name another metric"
        )
    return Condition(kind, " ".join(metric.split()), _margin(text, number), dataset)


def _margin(text: str, number: str) -> float:
    try:
        margin = float(number)
    except ValueError:
        margin = 0.0
    if not 0 < margin < 1:
        raise UsageError(
            f"{text}: the margin is {number}; give a fraction of images above 0 and below 1, such as 0.005 "
            "for half a point"
        )
    return margin


@dataclass(frozen=True)
class Spending:
    """How alpha is divided over the checkpoints that a gate judges.

    Attributes:
        alpha: the probability that any of them passes without meeting a condition, at most.
        planned: the checkpoints that share it equally; None: a series, alpha / (k (k + 1)) for the k-th,
            whose sum over any number of checkpoints stays below alpha.

    Raises:
        UsageError: alpha is not above 0 and below .5, or fewer than one checkpoint is planned.
    """

    alpha: float = 0.05
    planned: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 0.5:
            raise UsageError(f"--alpha is {self.alpha:g}; give a probability above 0 and below 0.5")
        if self.planned is not None and self.planned < 1:
            raise UsageError(f"--planned is {self.planned}; a gate judges 1 checkpoint or more")

    @property
    def name(self) -> str:
        return "series" if self.planned is None else "equal"

    def share(self, number: int) -> float:
        """The alpha of the checkpoint of this number, from 1. Raises UsageError past the planned ones."""
        if self.planned is None:
            return self.alpha / (number * (number + 1))
        if number > self.planned:
            raise UsageError(
                f"the gate was planned for {counted(self.planned, 'checkpoint')} and has judged as many: its "
                "alpha is spent; begin another one (--out)"
            )
        return self.alpha / self.planned
