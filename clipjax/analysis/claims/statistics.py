"""The statistics of parts: their samples, their trends, and the numbers that these give.

begun = begin(part, evidence, {"resamples": 2000})    # the models, and the trends to fit
begun.end(*fit_all(begun.trends))                     # the number, with an interval at any level
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from clipjax.analysis.claims.evidence import Evidence, ModelSample, TooLittleEvidence
from clipjax.analysis.claims.ledger import Part
from clipjax.analysis.claims.placebo import Pool
from clipjax.analysis.rows.points import Point, coordinates
from clipjax.analysis.rows.scales import checked
from clipjax.analysis.trends.correlation import FEWEST as FEWEST_CORRELATED
from clipjax.analysis.trends.correlation import correlation
from clipjax.analysis.trends.estimates import (
    BoundedNumber,
    bootstrapped,
    difference_of,
    mean_difference,
    mean_of,
    shift_of,
)
from clipjax.analysis.trends.group_differences import GroupDifference, compare_fits, shortcomings
from clipjax.analysis.trends.resampling import FEWEST as FEWEST_DRAWN
from clipjax.analysis.trends.resampling import numbered
from clipjax.analysis.trends.trends import Fit, TrendPoints, mean_robustness, unfitted_points
from clipjax.errors import ClipjaxError

FEWEST = 2  # models of a group, or pairs, for a mean
_Numbers = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class PartTrends:
    """A part with its samples.

    Attributes:
        end: makes its number from the fits of `trends`.
        n: default the samples'.
        pool: of both groups, for a placebo; None without two groups.
        baseline: the points of the group, and those of the trend that it is held against.
    """

    samples: tuple[ModelSample, ...]
    end: Callable[..., BoundedNumber]
    trends: Sequence[TrendPoints] = ()
    n: tuple[int, ...] = ()
    pool: Pool | None = None
    baseline: tuple[Sequence[Point], Sequence[Point]] | None = None


def begin(part: Part, evidence: Evidence, settings: Mapping[str, Any]) -> PartTrends:
    """`settings` of bootstraps. Raises TooLittle, or ClipjaxError for a number off the scale."""
    if part.pairs is not None:
        ones, others = evidence.pairs(part, FEWEST)
        change = others.values(part.y) - ones.values(part.than or part.y)
        of = shift_of if part.statistic == "paired_shift" else mean_of
        units = numbered(others.units)
        return PartTrends((ones, others), lambda: of(change, units), n=(len(change),))
    group = evidence.sample(part, part.group, _fewest(part))
    if part.statistic == "correlation":
        return PartTrends((group,), lambda: _correlation(part, group, settings))
    return _COMPARED[part.statistic](part, group, _against(part, evidence, group), settings)


def _fewest(part: Part) -> int:
    """The fewest models that the part's group may have."""
    if part.statistic in ("group_difference", "effective_robustness"):
        return FEWEST
    return FEWEST_CORRELATED if part.statistic.startswith("correlation") else FEWEST_DRAWN


def _against(part: Part, evidence: Evidence, group: ModelSample) -> ModelSample:
    """Models to compare the group with: not its own, unless their rows differ."""
    few = FEWEST_DRAWN if part.statistic == "effective_robustness" else _fewest(part)
    apart = part.group.convention != part.against.convention
    return evidence.sample(part, part.against, few, without=None if apart else group)


def _group_difference(
    part: Part, group: ModelSample, against: ModelSample, _: Mapping[str, Any]
) -> PartTrends:
    def end() -> BoundedNumber:
        first, second = (sample.values(part.y) for sample in (against, group))
        return mean_difference(first, second, numbered(against.units), numbered(group.units))

    return PartTrends((group, against), end, pool=_pool(part, group, against))


def _effective_robustness(
    part: Part, group: ModelSample, against: ModelSample, settings: Mapping[str, Any]
) -> PartTrends:
    points, others = _points(part, group), _points(part, against)
    trend = unfitted_points(others, **_scales(part), **settings, units=against.units)
    pool = _pool_of(points, others, group, against)

    def end(fit: Fit) -> BoundedNumber:
        return mean_robustness(points, fit, group.units)

    return PartTrends((group, against), end, (trend,), pool=pool, baseline=(points, others))


def _trend_offset(
    part: Part, group: ModelSample, against: ModelSample, settings: Mapping[str, Any]
) -> PartTrends:
    return _compared("offset", part, group, against, settings)


def _slope_difference(
    part: Part, group: ModelSample, against: ModelSample, settings: Mapping[str, Any]
) -> PartTrends:
    return _compared("slope", part, group, against, settings)


def _compared(
    name: str, part: Part, group: ModelSample, against: ModelSample, settings: Mapping[str, Any]
) -> PartTrends:
    groups = _points(part, group), _points(part, against)
    if reasons := shortcomings(*groups, part.scale):
        raise TooLittleEvidence("; ".join(reasons))
    trends = [
        unfitted_points(points, **_scales(part), **settings, stream=k, units=sample.units)
        for k, (points, sample) in enumerate(zip(groups, (group, against)))
    ]
    pool = _pool_of(*groups, group, against)
    return PartTrends(
        (group, against), lambda one, two: _told(compare_fits(one, two), name), trends, pool=pool
    )


def _told(difference: GroupDifference, name: str) -> BoundedNumber:
    estimate = getattr(difference, name)
    if estimate is None:
        raise TooLittleEvidence("; ".join(difference.reasons))
    return bootstrapped(estimate)


def _correlation(part: Part, group: ModelSample, settings: Mapping[str, Any]) -> BoundedNumber:
    assert part.x is not None
    x, y = group.values(part.x), group.values(part.y)
    estimate = correlation(x, y, kind="spearman", **settings, units=group.units)
    if math.isnan(estimate.value):
        raise TooLittleEvidence(f"all models of {part.group} have one value")
    return bootstrapped(estimate)


def _correlation_difference(
    part: Part, group: ModelSample, against: ModelSample, settings: Mapping[str, Any]
) -> PartTrends:
    def end() -> BoundedNumber:
        return difference_of(*(_correlation(part, sample, settings) for sample in (against, group)))

    return PartTrends((group, against), end, pool=_pool(part, group, against))


def _pool(part: Part, group: ModelSample, against: ModelSample) -> Pool | None:
    """The pool of a statistic that fits no line: it needs no numbers of images, and perhaps no x."""
    x, y = (
        np.full(len(group.models) + len(against.models), np.nan)
        if column is None
        else np.concatenate([sample.values(column) for sample in (group, against)])
        for column in (part.x, part.y)
    )
    unknown = np.full(len(y), np.nan)
    return _pooled((x, y, unknown, unknown), group, against)


def _pool_of(
    points: Sequence[Point], others: Sequence[Point], group: ModelSample, against: ModelSample
) -> Pool | None:
    return _pooled(coordinates([*points, *others]), group, against)


def _pooled(numbers: _Numbers, group: ModelSample, against: ModelSample) -> Pool | None:
    """The models of both sides in one pool, which a placebo splits at random.

    None if a model is on both sides: the sides then differ in rows, which no split of models shows.
    """
    if not {*group.models}.isdisjoint(against.models):
        return None
    runs, families = group.runs + against.runs, group.families + against.families
    return Pool(*numbers, runs, families, len(group.models))


def _points(part: Part, sample: ModelSample) -> list[Point]:
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
                raise TooLittleEvidence(f"{model}: {error}") from None
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
