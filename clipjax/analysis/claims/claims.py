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

from clipjax.analysis.claims.evidence import Evidence, TooLittleEvidence
from clipjax.analysis.claims.ledger import Claim, Ledger, Part
from clipjax.analysis.claims.placebo import FEWEST_SPLITS, Placebo, Pool, placebo
from clipjax.analysis.claims.statistics import PartTrends, begin
from clipjax.analysis.rows.cells import RowIndex
from clipjax.analysis.rows.points import coordinates
from clipjax.analysis.trends.curvature import Curvature, curvature
from clipjax.analysis.trends.estimates import BoundedNumber
from clipjax.analysis.trends.resampling import RESAMPLES
from clipjax.analysis.trends.trends import Fit, fit_all
from clipjax.errors import ClipjaxError, UsageError
from clipjax.metrics.uncertainty.bootstrap import draws_for
from clipjax.results.row import Row

RULE = (
    "A part holds if the whole interval of its statistic is on the claimed side, does not hold if the whole "
    "interval is on the other side, and is otherwise inconclusive. A part about two groups is inconclusive, "
    "too, if its placebo forbids the verdict: a difference is not asserted where more than 5 % of random "
    "splits of the models' families differ as much, nor its absence where half of them differ by more than "
    "the margin. A claim holds if enough of its parts "
    "hold: all of them, unless it states how many. It does not hold if too few parts can hold, and is "
    "otherwise inconclusive."
)
HOLDS, FAILS, UNKNOWN = "holds", "does not hold", "inconclusive"
CORRECTIONS = ("none", "holm")
_T = TypeVar("_T")
NO_INTERVAL = "no interval of this level: too few models, units, pairs or draws, or all draws agree"


@dataclass(frozen=True)
class Finding:
    """One part's statistic as the rows give it, and the verdict on the part.

    Attributes:
        word: HOLDS, FAILS or UNKNOWN.
        value: None if not computed.
        lo: None if not computed.
        hi: None if not computed.
        method: None if not computed.
        n: models of each group, or pairs.
        left_out: numbers not of whole data sets, with model and images.
        absent: no model, or pair, has rows of every number.
        units: of those, by the part's `unit`.
        placebo: of a statistic of two groups.
        bend: of the trend that effective robustness is held against.
        extrapolated: number of the group's models with an x outside the range of that trend's models.
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
    units: tuple[int, ...] = ()
    placebo: Placebo | None = None
    bend: Curvature | None = None
    extrapolated: int | None = None

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
        """Whether nothing was measured for any part; the claim is then inconclusive."""
        return all(each.absent for each in self.findings)


@dataclass(frozen=True)
class _Measured:
    part: Part
    number: BoundedNumber | None = None
    n: tuple[int, ...] = ()
    rows: tuple[Row, ...] = ()
    why: str | None = None
    left_out: tuple[str, ...] = ()
    absent: bool = False
    units: tuple[int, ...] = ()
    pool: Pool | None = None
    placebo: Placebo | None = None
    bend: Curvature | None = None
    extrapolated: int | None = None


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
    tested = book.claims if claims is None else [book.claim(key) for key in dict.fromkeys(claims)]
    level = book.level if level is None else level
    if correct not in CORRECTIONS:
        raise UsageError(f"unknown correction {correct!r}; known: {', '.join(CORRECTIONS)}")
    if not 0 < level < 1:
        raise UsageError(f"the level is {level:g}, not between 0 and 1")
    evidence = Evidence(rows, prompts or book.prompts, precision)
    parts = [(claim, part) for claim in tested for part in claim.parts]
    measured = _measure(parts, evidence, {"resamples": resamples})
    tests = sum(each.number is not None for each in measured)
    # Holm's first step has the strictest level; its interval needs draws beyond each end.
    draws = draws_for(tests, level)
    if correct == "holm" and draws > resamples:
        measured = _measure(parts, evidence, {"resamples": draws})
    measured = [_with_placebo(each) for each in measured]
    findings = iter(_decide(measured, level, correct, tests))
    verdicts = []
    for claim in tested:
        of_claim = tuple(next(findings) for _ in claim.parts)
        verdicts.append(Verdict(claim, conjoin(claim.needs, [each.word for each in of_claim]), of_claim))
    return verdicts


def conjoin(needs: int, words: Sequence[str]) -> str:
    """The word for a claim of which `needs` parts must hold."""
    if words.count(HOLDS) >= needs:
        return HOLDS
    return FAILS if len(words) - words.count(FAILS) < needs else UNKNOWN


def decide(lo: float, hi: float, part: Part) -> str:
    """Whether an interval decides a part: HOLDS, FAILS or UNKNOWN. configs/claims.toml defines the sides."""
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
    if each.placebo is not None and word != UNKNOWN and (doubt := doubted(word, each.part, each.placebo)):
        word, why = UNKNOWN, doubt
    more = {"left_out": each.left_out, "units": each.units, "placebo": each.placebo}
    more |= {"bend": each.bend, "extrapolated": each.extrapolated}
    of = (each.n, each.rows, why)
    return Finding(each.part, word, each.number.value, lo, hi, level, each.number.method, *of, **more)


def doubted(word: str, part: Part, found: Placebo) -> str | None:
    """Return why the placebo forbids a verdict that the interval alone would give; None if it does not.

    A verdict that asserts a difference needs one that random splits seldom have. One that asserts none
    needs a margin that random splits do not usually exceed.
    """
    if found.few:
        names = {"family": "families", "run": "runs"}[found.of]
        return f"{found.families} {names} have fewer than {FEWEST_SPLITS} splits: no placebo tells an effect"
    if part.side in ("above", "below") or (word == HOLDS) == (part.side == "apart"):
        ordinary = f"{found.share:.0%} of random splits by {found.of} are as far off: an ordinary offset"
        return ordinary if found.ordinary else None
    if part.margin < found.spread:
        return f"the margin is below what random splits by {found.of} differ by ({found.spread:.4f})"
    return None


def _with_placebo(each: _Measured) -> _Measured:
    if each.pool is None or each.number is None:
        return each
    return replace(each, placebo=placebo(each.part, each.pool, each.number.value))


def _measure(
    parts: Sequence[tuple[Claim, Part]], evidence: Evidence, settings: Mapping[str, Any]
) -> list[_Measured]:
    """All parts: their samples first, then all their trends at once, then their statistics."""
    begun = [_tried(claim, part, lambda part: begin(part, evidence, settings)) for claim, part in parts]
    fits = iter(fit_all([trend for each in begun if isinstance(each, PartTrends) for trend in each.trends]))
    measured = []
    for (claim, part), each in zip(parts, begun, strict=True):
        if isinstance(each, PartTrends):
            trends = [next(fits) for _ in each.trends]
            each = _tried(claim, part, functools.partial(_resting_on, begun=each, trends=trends))
        measured.append(each)
    return measured


def _tried(claim: Claim, part: Part, step: Callable[[Part], _T]) -> _T | _Measured:
    try:
        return step(part)
    except (TooLittleEvidence, ClipjaxError) as error:  # ClipjaxError: e.g. a number off the scale
        why = f"no task yet: {claim.no_task}" if claim.no_task else str(error)
        return _Measured(part, why=why, absent=isinstance(error, TooLittleEvidence) and not error.some)


def _resting_on(part: Part, begun: PartTrends, trends: Sequence[Fit]) -> _Measured:
    number, samples = begun.end(*trends), begun.samples
    n = begun.n or tuple(len(sample.models) for sample in samples)
    units = tuple(len(set(sample.units)) for sample in samples[: len(n)])
    rows = tuple(row for sample in samples for row in sample.rows())
    left_out = dict.fromkeys(each for sample in samples for each in sample.left_out)
    measured = _Measured(part, number, n, rows, left_out=tuple(left_out), units=units, pool=begun.pool)
    if begun.baseline is None:
        return measured
    (trend,), (group, others) = trends, begun.baseline
    low, high = trend.ends
    beyond = sum(not low <= x <= high for x in coordinates(group)[0])
    return replace(measured, bend=curvature(others, trend), extrapolated=beyond)
