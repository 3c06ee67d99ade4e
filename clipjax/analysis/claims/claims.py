"""Verdicts on the claims ledger from result rows: holds, does not hold, or is inconclusive.

    for verdict in check(ledger(), ResultStore("results").rows()):
        print(verdict.claim.key, verdict.word, verdict.findings)

Each part is a test at the ledger's level: chance decides about one of twenty false ones. `correct="holm"`
bounds that risk for all parts together (Holm 1979): it tests at the level for all, then at the level for
those undecided, until no more are decided.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from clipjax.analysis.claims.evidence import Evidence, Sample, TooLittle
from clipjax.analysis.claims.ledger import Claim, Ledger, Part
from clipjax.analysis.rows.cells import RowIndex
from clipjax.analysis.rows.points import Point
from clipjax.analysis.rows.scales import checked
from clipjax.analysis.trends.correlation import FEWEST as FEWEST_CORRELATED
from clipjax.analysis.trends.correlation import correlation
from clipjax.analysis.trends.estimates import (
    Bounded,
    bootstrapped,
    difference_of,
    mean_difference,
    mean_of,
    shift_of,
)
from clipjax.analysis.trends.group_differences import GroupDifference, compare_fits, shortcomings
from clipjax.analysis.trends.resampling import FEWEST as FEWEST_DRAWN
from clipjax.analysis.trends.resampling import RESAMPLES
from clipjax.analysis.trends.trends import Fit, Unfitted, fit_all, mean_robustness, unfitted_points
from clipjax.errors import ClipjaxError, UsageError
from clipjax.metrics.uncertainty.bootstrap import draws_for
from clipjax.results.row import Row

RULE = (
    "A part holds if the whole interval of its statistic is on the claimed side, does not hold if the whole "
    "interval is on the other side, and is otherwise inconclusive. A claim holds if enough of its parts "
    "hold: all of them, unless it states how many. It does not hold if too few parts can hold, and is "
    "otherwise inconclusive."
)
HOLDS, FAILS, UNKNOWN = "holds", "does not hold", "inconclusive"
CORRECTIONS = ("none", "holm")
_T = TypeVar("_T")
FEWEST = 2  # models of a group, or pairs, for a mean
NO_INTERVAL = "no interval of this level: too few models, pairs or draws, or all draws agree"


@dataclass(frozen=True)
class Finding:
    """What rows show for one part.

    Attributes:
        word: HOLDS, FAILS or UNKNOWN.
        value, lo, hi, method: None if not computed.
        n: models of each group, or pairs.
        left_out: numbers not of whole data sets, with model and images.
        absent: no model, or pair, has rows of every number.
    """

    part: Part
    word: str
    value: float | None
    lo: float | None
    hi: float | None
    level: float
    method: str | None
    n: tuple[int, ...]
    rows: tuple[Row, ...]
    why: str | None
    left_out: tuple[str, ...] = ()
    absent: bool = False

    @property
    def measured(self) -> bool:
        return self.value is not None

    def runs(self) -> list[str]:
        return sorted({row["run_id"] for row in self.rows})


@dataclass(frozen=True)
class Verdict:
    claim: Claim
    word: str
    findings: tuple[Finding, ...]

    @property
    def absent(self) -> bool:
        """Whether nothing of it was measured; then it is inconclusive."""
        return all(each.absent for each in self.findings)


@dataclass(frozen=True)
class _Measured:
    part: Part
    number: Bounded | None = None
    n: tuple[int, ...] = ()
    rows: tuple[Row, ...] = ()
    why: str | None = None
    left_out: tuple[str, ...] = ()
    absent: bool = False


@dataclass(frozen=True)
class _Begun:
    """A part with its samples. `end` makes its number from the fits of `trends`; n: default the samples'."""

    samples: tuple[Sample, ...]
    end: Callable[..., Bounded]
    trends: Sequence[Unfitted] = ()
    n: tuple[int, ...] = ()


def check(
    book: Ledger,
    rows: Iterable[Row] | RowIndex,
    *,
    claims: Sequence[str] | None = None,
    level: float | None = None,
    prompts: str | None = None,
    precision: str = "parity",
    correct: str = "none",
    resamples: int = RESAMPLES,
) -> list[Verdict]:
    """Check claims against result rows.

    Args:
        claims: keys; default all.
        level: default the ledger's.
        prompts: if the claim names none; default the ledger's.
        resamples: Holm's correction may take more.

    Raises:
        UsageError: unknown claim or correction, or a level not between 0 and 1.
    """
    chosen = book.claims if claims is None else [book.claim(key) for key in dict.fromkeys(claims)]
    level = book.level if level is None else level
    if correct not in CORRECTIONS:
        raise UsageError(f"unknown correction {correct!r}; known: {', '.join(CORRECTIONS)}")
    if not 0 < level < 1:
        raise UsageError(f"the level is {level:g}, not between 0 and 1")
    evidence = Evidence(rows, prompts or book.prompts, precision)
    parts = [(claim, part) for claim in chosen for part in claim.parts]
    measured = _measure(parts, evidence, {"resamples": resamples})
    tests = sum(each.number is not None for each in measured)
    # Holm's first step has the strictest level; its interval needs draws beyond each end.
    draws = draws_for(tests, level)
    if correct == "holm" and draws > resamples:
        measured = _measure(parts, evidence, {"resamples": draws})
    findings = iter(_decide(measured, level, correct, tests))
    verdicts = []
    for claim in chosen:
        of_claim = tuple(next(findings) for _ in claim.parts)
        verdicts.append(Verdict(claim, conjoin(claim.needs, [each.word for each in of_claim]), of_claim))
    return verdicts


def conjoin(needs: int, words: Sequence[str]) -> str:
    """The word for a claim of which `needs` parts must hold."""
    if words.count(HOLDS) >= needs:
        return HOLDS
    return FAILS if len(words) - words.count(FAILS) < needs else UNKNOWN


def decide(lo: float, hi: float, part: Part) -> str:
    """configs/claims.toml defines the sides."""
    low, high = part.at - part.margin, part.at + part.margin
    claimed, other = {
        "above": (lo > part.at, hi < part.at),
        "below": (hi < part.at, lo > part.at),
        "not_above": (hi < high, lo > high),
        "not_below": (lo > low, hi < low),
        "within": (low < lo and hi < high, hi < low or lo > high),
        "apart": (hi < low or lo > high, low < lo and hi < high),
    }[part.side]
    return HOLDS if claimed else FAILS if other else UNKNOWN


def _decide(measured: Sequence[_Measured], level: float, correct: str, tests: int) -> list[Finding]:
    if correct == "none" or not tests:
        return [_finding(each, level) for each in measured]
    decided = 0
    while True:  # each decided part relaxes the level of the others, which may decide more
        findings = [_finding(each, 1 - (1 - level) / (tests - decided)) for each in measured]
        now = sum(each.word != UNKNOWN for each in findings)
        if now in (decided, tests):
            return findings
        decided = now


def _finding(each: _Measured, level: float) -> Finding:
    if each.number is None:
        none = (None, None, None, level, None)
        return Finding(each.part, UNKNOWN, *none, each.n, each.rows, each.why, absent=each.absent)
    lo, hi = each.number.at(level)
    word, why = decide(lo, hi, each.part), None if math.isfinite(lo + hi) else NO_INTERVAL
    of = (each.n, each.rows, why, each.left_out)
    return Finding(each.part, word, each.number.value, lo, hi, level, each.number.method, *of)


def _measure(
    parts: Sequence[tuple[Claim, Part]], evidence: Evidence, settings: Mapping[str, Any]
) -> list[_Measured]:
    """All parts: their samples first, then all their trends at once, then their statistics."""
    begun = [_tried(claim, part, lambda part: _begin(part, evidence, settings)) for claim, part in parts]
    fits = iter(fit_all([trend for each in begun if isinstance(each, _Begun) for trend in each.trends]))
    measured = []
    for (claim, part), each in zip(parts, begun, strict=True):
        if isinstance(each, _Begun):
            trends = [next(fits) for _ in each.trends]
            each = _tried(claim, part, functools.partial(_resting_on, begun=each, trends=trends))
        measured.append(each)
    return measured


def _tried(claim: Claim, part: Part, step: Callable[[Part], _T]) -> _T | _Measured:
    try:
        return step(part)
    except (TooLittle, ClipjaxError) as error:  # ClipjaxError: e.g. a number off the scale
        why = f"no task yet: {claim.no_task}" if claim.no_task else str(error)
        return _Measured(part, why=why, absent=isinstance(error, TooLittle) and not error.some)


def _begin(part: Part, evidence: Evidence, settings: Mapping[str, Any]) -> _Begun:
    if part.pairs is not None:
        ones, others = evidence.pairs(part, FEWEST)
        change = others.values(part.y) - ones.values(part.than or part.y)
        of = shift_of if part.statistic == "paired_shift" else mean_of
        return _Begun((ones, others), lambda: of(change), n=(len(change),))
    group = evidence.sample(part, part.group, _fewest(part))
    if part.statistic == "correlation":
        return _Begun((group,), lambda: _correlation(part, group, settings))
    return _COMPARED[part.statistic](part, group, _against(part, evidence, group), settings)


def _fewest(part: Part) -> int:
    """Models of its group."""
    if part.statistic in ("group_difference", "effective_robustness"):
        return FEWEST
    return FEWEST_CORRELATED if part.statistic.startswith("correlation") else FEWEST_DRAWN


def _against(part: Part, evidence: Evidence, group: Sample) -> Sample:
    """Without the group's own models, unless their rows differ."""
    few = FEWEST_DRAWN if part.statistic == "effective_robustness" else _fewest(part)
    apart = part.group.convention != part.against.convention
    return evidence.sample(part, part.against, few, without=None if apart else group)


def _resting_on(part: Part, begun: _Begun, trends: Sequence[Fit]) -> _Measured:
    number, samples = begun.end(*trends), begun.samples
    n = begun.n or tuple(len(sample.models) for sample in samples)
    rows = tuple(row for sample in samples for row in sample.rows())
    left_out = dict.fromkeys(each for sample in samples for each in sample.left_out)
    return _Measured(part, number, n, rows, left_out=tuple(left_out))


def _group_difference(part: Part, group: Sample, against: Sample, _: Mapping[str, Any]) -> _Begun:
    return _Begun((group, against), lambda: mean_difference(against.values(part.y), group.values(part.y)))


def _effective_robustness(part: Part, group: Sample, against: Sample, settings: Mapping[str, Any]) -> _Begun:
    trend = unfitted_points(_points(part, against), **_scales(part), **settings)
    return _Begun((group, against), lambda fit: mean_robustness(_points(part, group), fit), (trend,))


def _trend_offset(part: Part, group: Sample, against: Sample, settings: Mapping[str, Any]) -> _Begun:
    return _compared("offset", part, group, against, settings)


def _slope_difference(part: Part, group: Sample, against: Sample, settings: Mapping[str, Any]) -> _Begun:
    return _compared("slope", part, group, against, settings)


def _compared(name: str, part: Part, group: Sample, against: Sample, settings: Mapping[str, Any]) -> _Begun:
    groups = _points(part, group), _points(part, against)
    if reasons := shortcomings(*groups):
        raise TooLittle("; ".join(reasons))
    trends = [
        unfitted_points(points, **_scales(part), **settings, stream=k) for k, points in enumerate(groups)
    ]
    return _Begun((group, against), lambda one, two: _told(compare_fits(one, two), name), trends)


def _told(difference: GroupDifference, name: str) -> Bounded:
    estimate = getattr(difference, name)
    if estimate is None:
        raise TooLittle("; ".join(difference.reasons))
    return bootstrapped(estimate)


def _correlation(part: Part, group: Sample, settings: Mapping[str, Any]) -> Bounded:
    assert part.x is not None
    estimate = correlation(group.values(part.x), group.values(part.y), kind="spearman", **settings)
    if math.isnan(estimate.value):
        raise TooLittle(f"all models of {part.group} have one value")
    return bootstrapped(estimate)


def _correlation_difference(
    part: Part, group: Sample, against: Sample, settings: Mapping[str, Any]
) -> _Begun:
    def end() -> Bounded:
        return difference_of(*(_correlation(part, sample, settings) for sample in (against, group)))

    return _Begun((group, against), end)


def _points(part: Part, sample: Sample) -> list[Point]:
    assert part.x is not None
    points = []
    for model, cells in zip(sample.models, sample.cells):
        up = cells[part.y]
        if part.than is not None:
            less = cells[part.than].value
            assert up.value is not None
            assert less is not None
            up = replace(up, value=up.value - less, interval=None)
        for cell in (cells[part.x], up):
            try:
                checked(np.array([cell.value], float), part.scale)
            except ClipjaxError as error:
                raise TooLittle(f"{model}: {error}") from None
        points.append(Point(model, {}, cells[part.x], up))
    return points


def _scales(part: Part) -> dict[str, str]:
    return {"scale": part.scale, "scale_y": part.scale}


_COMPARED = {
    "effective_robustness": _effective_robustness,
    "trend_offset": _trend_offset,
    "slope_difference": _slope_difference,
    "slope_growth": _slope_difference,
    "correlation_difference": _correlation_difference,
    "group_difference": _group_difference,
}
