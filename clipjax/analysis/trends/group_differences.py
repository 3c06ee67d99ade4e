"""Differences between two groups' trends: slope, offset at a common x, angle (Fig. 8 of the paper).

    compare_groups(cnns, vits).slope.interval

Formulas: docs/study/trends.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from clipjax.analysis.rows.points import Point
from clipjax.analysis.rows.scales import inverse, transform
from clipjax.analysis.trends.resampling import FEWEST, METHOD, Estimate, estimate
from clipjax.analysis.trends.trends import Fit, fit_points, needed, too_little

ANGLE = (
    "tan(arctan(slope of a) - arctan(slope of b)) = (a - b) / (1 + a b), one unit of either axis of the same "
    "length, in the coordinates of the axes"
)


@dataclass(frozen=True)
class GroupDifference:
    """The trend of group a minus that of group b; `reasons` explain each None.

    Attributes:
        offset: difference of y at x = `at`.
        at: in the metric's own units; by default the middle, on x's scale, of the shared range.
        tan: tangent of the angle between the lines (`ANGLE`; tan(Delta_S) in the paper's Fig. 8).
    """

    a: Fit | None
    b: Fit | None
    reasons: tuple[str, ...]
    convention: Mapping[str, Any]
    slope: Estimate | None = None
    offset: Estimate | None = None
    at: float | None = None
    tan: Estimate | None = None


def compare_groups(
    a: Sequence[Point], b: Sequence[Point], *, at: float | None = None, **settings: Any
) -> GroupDifference:
    """Compare the trends of two groups, drawn independently. A model in both widens intervals.

    Results are None for a group with fewer than `FEWEST` models or one x. The offset is None where the groups
    share no x, or where `at` (in the metric's own units) is outside a group's range.

    Raises:
        UsageError, DataError: as `fit`.
    """
    fits = [
        None if too_little(points, scale=settings.get("scale")) else fit_points(points, **settings, stream=k)
        for k, points in enumerate((a, b))
    ]
    one, two = fits
    if one is not None and two is not None:
        return compare_fits(one, two, at=at)
    convention = dict(next((f.convention for f in fits if f is not None), {})) | {"angle": ANGLE}
    return GroupDifference(one, two, tuple(shortcomings(a, b, settings.get("scale"))), convention)


def shortcomings(a: Sequence[Point], b: Sequence[Point], scale: str | None = None) -> list[str]:
    """For each group without a trend, the reason; the scale of x is by default its column's."""
    short = (("a", too_little(a, scale=scale)), ("b", too_little(b, scale=scale)))
    return [f"group {name}: {why}" if ":" in why else f"group {name} has {why}" for name, why in short if why]


def compare_fits(one: Fit, two: Fit, *, at: float | None = None) -> GroupDifference:
    """Like `compare_groups`, for trends that are fitted; each needs its own `stream`."""
    convention = {**one.convention, "angle": ANGLE}
    reasons = [f"group {name} has {needed(f.n)}" for name, f in (("a", one), ("b", two)) if f.n < FEWEST]
    if reasons:
        return GroupDifference(one, two, tuple(reasons), convention)
    common = _common_x(one, two) if at is None else _within(at, one, two)
    offset = None if common is None else _offset(one, two, common)
    if common is None:
        reasons.append(_apart(one, two, at))
    draws = _paired(one.draws[:, 0], two.draws[:, 0])
    slope = _of_both(one, two, one.slope - two.slope, draws[0] - draws[1])
    tan = _of_both(one, two, float(tan_of_angle(one.slope, two.slope)), tan_of_angle(*draws))
    if math.isnan(tan.value):
        reasons.append("the lines are 90 degrees or more apart: their angle has no tangent to speak of")
        tan = None
    return GroupDifference(
        one, two, tuple(reasons), convention, slope=slope, offset=offset, at=common, tan=tan
    )


def tan_of_angle(first: ArrayLike, second: ArrayLike) -> np.ndarray:
    """Tangent of the angle from slope `second` to slope `first`.

    NaN from 90 degrees on, where it changes sign.
    """
    one, two = np.asarray(first, np.float64), np.asarray(second, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(1 + one * two > 0, (one - two) / (1 + one * two), np.nan)


def _common_x(one: Fit, two: Fit) -> float | None:
    low, high = max(one.ends[0], two.ends[0]), min(one.ends[1], two.ends[1])
    if low > high:
        return None
    return float(inverse(transform([low, high], one.scale_x).mean(), one.scale_x))


def _within(at: float, *fits: Fit) -> float | None:
    return at if all(fit.ends[0] <= at <= fit.ends[1] for fit in fits) else None


def _apart(one: Fit, two: Fit, at: float | None) -> str:
    have = " and ".join(f"{fit.ends[0]:.4g} to {fit.ends[1]:.4g}" for fit in (one, two))
    return f"x is {have}: " + ("no x in common" if at is None else f"{at:g} lies outside")


def _offset(one: Fit, two: Fit, at: float) -> Estimate:
    first, second = _paired(one.predictions(at), two.predictions(at))
    return _of_both(one, two, float(one.predict(at) - two.predict(at)), first - second)


def _paired(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    both = min(len(first), len(second))  # groups are independent: any pairing of draws is valid
    return first[:both], second[:both]


def _of_both(one: Fit, two: Fit, value: float, draws: np.ndarray) -> Estimate:
    if min(one.units, two.units) < FEWEST:
        draws = draws[:0]  # no interval: so few units do not show how much others would differ
    difference = estimate(value, one.n + two.n, draws, one.level)
    method = one.resampled if two.resampled == METHOD else two.resampled
    undefined = difference.undefined + max(one.undefined, two.undefined)
    return replace(difference, undefined=undefined, method=method)
