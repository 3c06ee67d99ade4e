"""Trends after Taori et al. 2020: a line through models, and how far models or groups are above it.

    baseline = fit_points(standard)               # Huber's line, on the scales of the points' axes
    effective_robustness(clips, baseline)         # per model: y less the trend's y

Lines are straight in the axes' scales; results are in the metric's own units. Formulas: docs/study/trends.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from clipjax.analysis.rows.points import Point, coordinates
from clipjax.analysis.rows.scales import CLIPPING, FRACTIONS, inverse, on_scale, transform
from clipjax.analysis.trends.estimates import BoundedNumber, bootstrapped, difference_of, mean_of
from clipjax.analysis.trends.noise import too_noisy
from clipjax.analysis.trends.regression import COARSE, FINE, METHODS, K, Stop, lines
from clipjax.analysis.trends.resampling import (
    FEWEST,
    LEVEL,
    METHOD,
    METHOD_OF_UNITS,
    RESAMPLES,
    SEED,
    Estimate,
    check_settings,
    count_of,
    draw,
    draw_units,
    numbered,
)
from clipjax.errors import DataError, counted
from clipjax.guards import known_name

TOGETHER = 2**20  # models of all draws that are fitted together: a few arrays of 8 MB
REGRESSION = {"huber": f"Huber's M-estimator, k = {K}, scale MAD about 0", "ols": "least squares"}


@dataclass(frozen=True, eq=False)
class Fit:
    """A line through models: coordinate of y = intercept + slope * coordinate of x.

    Attributes:
        ends: smallest and largest x, in the metric's own units.
        weights: float64 [n], below 1 where Huber's loss downweights a model.
        draws: (slope, intercept) of the draws that have a line, [R, 2].
        undefined: number of other draws: all models have one x.
        units: that draws take: models, or units of models (`resampled` names which).
    """

    method: str
    scale_x: str
    scale_y: str
    slope: float
    intercept: float
    n: int
    ends: tuple[float, float]
    weights: np.ndarray
    draws: np.ndarray
    undefined: int
    level: float
    seed: int
    units: int
    resampled: str = METHOD

    @property
    def slope_estimate(self) -> Estimate:
        return self.estimate(self.slope, self.draws[:, 0])

    @property
    def intercept_estimate(self) -> Estimate:
        return self.estimate(self.intercept, self.draws[:, 1])

    def estimate(self, value: float, draws: np.ndarray) -> Estimate:
        """A number of the trend, with its values in the draws [R]."""
        return Estimate(value, self.units, draws, self.undefined, self.level, method=self.resampled)

    @property
    def slope_interval(self) -> dict[str, Any] | None:
        return self.slope_estimate.interval

    @property
    def convention(self) -> dict[str, Any]:
        resamples = len(self.draws) + self.undefined
        return _convention(self.method, self.scale_x, self.scale_y, resamples, self.seed, self.resampled)

    def predict(self, x: ArrayLike, n: ArrayLike | None = None) -> np.ndarray:
        """The trend's y at x, in the metric's own units. n: images per x, see `scales.transform`.

        Raises:
            UsageError, DataError: x is off its scale, or NaN.
        """
        return inverse(self.intercept + self.slope * transform(x, self.scale_x, n), self.scale_y)

    def predictions(self, x: ArrayLike, n: ArrayLike | None = None) -> np.ndarray:
        """`predict` for every draw: [R, ...]."""
        at = transform(x, self.scale_x, n)
        slope, intercept = (part.reshape(-1, *[1] * at.ndim) for part in self.draws.T)
        return inverse(intercept + slope * at, self.scale_y)

    def band(
        self, x: ArrayLike, level: float | None = None, n: ArrayLike | None = None
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Pointwise limits of `predict`; None without an interval."""
        if self.slope_interval is None:
            return None
        tail = (1 - (self.level if level is None else level)) / 2
        lo, hi = np.quantile(self.predictions(x, n), [tail, 1 - tail], axis=0)
        return lo, hi


@dataclass(frozen=True, eq=False)
class TrendPoints:
    """The checked models of a trend, and how to fit it: see `fit_all`.

    Attributes:
        across: the first coordinates, sorted by x, then y, [N].
        up: the second coordinates, in the same order, [N].
        order: where each of them was, [N].
        units: as `numbered`.
    """

    method: str
    scale_x: str
    scale_y: str
    across: np.ndarray
    up: np.ndarray
    order: np.ndarray
    ends: tuple[float, float]
    level: float
    resamples: int
    seed: int
    stream: int
    units: np.ndarray | None

    def drawn(self) -> np.ndarray:
        return draw(len(self.across), self.resamples, self.seed, self.stream)


def fit(x: ArrayLike, y: ArrayLike, **settings: Any) -> Fit:
    """The line through models; arguments and errors as `unfitted`."""
    [found] = fit_all([unfitted(x, y, **settings)])
    return found


def unfitted(
    x: ArrayLike,
    y: ArrayLike,
    *,
    method: str = "huber",
    scale: str = "probit",
    scale_y: str | None = None,
    n_x: ArrayLike | None = None,
    n_y: ArrayLike | None = None,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = SEED,
    stream: int = 0,
    units: Sequence[str] | None = None,
) -> TrendPoints:
    """Models, float [N] in the metric's own units, that a line can go through; x is exact.

    Args:
        scale: of x, and of y without `scale_y`.
        n_x: images per number of x; see `scales.transform`.
        n_y: images per number of y.
        resamples: 0 for no intervals.
        stream: see `draw`.
        units: of each model, if draws take whole units.

    Raises:
        UsageError: unknown method or scale, value off its scale, level outside 0 to 1, negative `resamples`.
        DataError: a value is NaN, fewer than two models, or one x.
    """
    known_name("regression", method, METHODS)
    check_settings(level, resamples)
    own, scale_y = np.asarray(x, np.float64), scale if scale_y is None else scale_y
    across, up = transform(own, scale, n_x), transform(y, scale_y, n_y)
    check_pairs(across, up)
    if np.ptp(across) == 0:
        raise DataError(
            f"all {counted(len(across), 'model')} have the same x ({own[0]:g}): no trend goes through them"
        )
    order = np.lexsort((up, across))  # sorted: the caller's order does not change the draws
    of = None if units is None else numbered([units[int(k)] for k in order])
    ends = (float(own.min()), float(own.max()))
    how = (level, resamples, seed, stream, of)
    return TrendPoints(method, scale, scale_y, across[order], up[order], order, ends, *how)


def fit_all(trends: Sequence[TrendPoints], stop: Stop = FINE) -> list[Fit]:
    """The lines of all trends, in their order.

    Trends of equally many models are fitted together: in less time, with equal bits.

    Args:
        stop: when the fit through all models of a trend ends; those of resamples end at `COARSE`.
    """
    alike: dict[Any, list[int]] = {}
    for k, each in enumerate(trends):
        alone = None if each.units is None else k
        batch = alike.setdefault((each.method, len(each.across), each.resamples, alone), [])
        batch.append(k)
    fits: dict[int, Fit] = {}
    for (method, n, resamples, _), batch in alike.items():
        size = max(1, TOGETHER // (n * max(1, resamples)))
        for some in (batch[at : at + size] for at in range(0, len(batch), size)):
            fits.update(zip(some, _fitted([trends[k] for k in some], method, stop), strict=True))
    return [fits[k] for k in range(len(trends))]


def _fitted(trends: Sequence[TrendPoints], method: str, stop: Stop) -> list[Fit]:
    """The fits of trends that all have the same number of models."""
    across, up = np.stack([each.across for each in trends]), np.stack([each.up for each in trends])
    through = lines(across, up, method, stop)
    if trends[0].units is not None:
        slope, intercept, weights = (part[0] for part in through)
        return [_fit(trends[0], slope, intercept, weights, _draws_of_units(trends[0], method))]
    drawn = np.stack([each.drawn() for each in trends])
    which = np.arange(len(trends))[:, None, None]
    x, y = (side[which, drawn].reshape(-1, side.shape[1]) for side in (across, up))
    again = lines(x, y, method, COARSE)
    draws = np.stack([again.slope, again.intercept], axis=1).reshape(*drawn.shape[:2], 2)
    return [
        _fit(each, slope, intercept, weights, own)
        for each, slope, intercept, weights, own in zip(trends, *through, draws, strict=True)
    ]


def _draws_of_units(trend: TrendPoints, method: str) -> np.ndarray:
    """(slope, intercept) of each draw, [R, 2]."""
    assert trend.units is not None
    draws = np.empty((trend.resamples, 2))
    for which, drawn in draw_units(trend.units, trend.resamples, trend.seed, trend.stream):
        again = lines(trend.across[drawn], trend.up[drawn], method, COARSE)
        draws[which] = np.stack([again.slope, again.intercept], axis=1)
    return draws


def _fit(
    of: TrendPoints, slope: float, intercept: float, sorted_weights: np.ndarray, draws: np.ndarray
) -> Fit:
    draws = draws[np.isfinite(draws).all(1)]
    weights = np.empty_like(sorted_weights)
    weights[of.order] = sorted_weights
    line = (float(slope), float(intercept), len(weights), of.ends, weights)
    undefined = of.resamples - len(draws)
    units, resampled = count_of(of.units, len(weights)), METHOD if of.units is None else METHOD_OF_UNITS
    how = (draws, undefined, of.level, of.seed, units, resampled)
    return Fit(of.method, of.scale_x, of.scale_y, *line, *how)


def check_pairs(x: np.ndarray, y: np.ndarray, at_least: int = 2) -> None:
    """Raises DataError unless both are [N] with N >= `at_least`."""
    if x.ndim != 1 or x.shape != y.shape:
        raise DataError(f"x has the shape {x.shape} and y {y.shape}: give a number of each for every model")
    if len(x) < at_least:
        raise DataError(f"a trend needs {at_least} models or more, here is {counted(len(x), 'model')}")


def fit_points(points: Sequence[Point], **settings: Any) -> Fit:
    """A trend through points, by default on the scales of their columns."""
    [found] = fit_all([unfitted_points(points, **settings)])
    return found


def unfitted_points(points: Sequence[Point], **settings: Any) -> TrendPoints:
    """A trend to be fitted to points, by default on the scales of their columns.

    Raises:
        UsageError, DataError: as `unfitted`; or x is too noisy.
    """
    x, y, n_x, n_y = coordinates(points)
    scales = {"scale": points[0].x.column.scale, "scale_y": points[0].y.column.scale} if points else {}
    models = unfitted(x, y, n_x=n_x, n_y=n_y, **{**scales, **settings})
    if words := too_noisy(points, models.scale_x):
        raise DataError(words)
    return models


@dataclass(frozen=True)
class Robustness:
    """A model's distance above a trend (negative: below), in the metric's own units.

    Attributes:
        interval: None if y or the trend has none.
        extrapolated: x is outside the range of the fitted models.
    """

    model: str
    value: float
    expected: float
    interval: dict[str, Any] | None
    extrapolated: bool


def effective_robustness(points: Sequence[Point], baseline: Fit) -> list[Robustness]:
    """Each model's effective robustness, in order. Raises UsageError for an x off the trend's scale.

    The interval combines those of y, of the trend, and of x (through the trend) if it has y's level. They add
    up as squares (MOVER, Zou & Donner 2008) as if independent: too wide for numbers from the same images.
    """
    bands = _bands(points, baseline)
    return [_robustness(point, baseline, bands.get(i)) for i, point in enumerate(points)]


def _bands(points: Sequence[Point], baseline: Fit) -> dict[int, tuple[float, float]]:
    """{index of a point whose y has an interval: the trend's limits there, at that level}."""
    bands: dict[int, tuple[float, float]] = {}
    levels = [None if point.y.interval is None else point.y.interval["level"] for point in points]
    for level in {*levels} - {None}:
        those = [i for i, own in enumerate(levels) if own == level]
        x, _, n, _ = coordinates([points[i] for i in those])
        if (band := baseline.band(x, level, n)) is not None:
            bands.update(zip(those, zip(*(limits.tolist() for limits in band))))
    return bands


def _robustness(point: Point, baseline: Fit, band: tuple[float, float] | None) -> Robustness:
    x, y = point.x.value, point.y.value
    assert x is not None
    assert y is not None
    expected = float(baseline.predict(x, point.x.n))
    interval = None if band is None else _interval(point, baseline, band, y - expected, expected)
    beyond = not baseline.ends[0] <= x <= baseline.ends[1]
    return Robustness(point.model, y - expected, expected, interval, beyond)


def _interval(
    point: Point, baseline: Fit, band: tuple[float, float], value: float, expected: float
) -> dict[str, Any]:
    of_y, of_x = point.y.interval, point.x.interval
    assert of_y is not None
    y = value + expected
    # y may be below (above) the measured value, and the expectation above (below) the fitted one.
    down, up = [y - of_y["lo"], band[1] - expected], [of_y["hi"] - y, expected - band[0]]
    names = "mover_y_trend"
    if of_x is not None and of_x["level"] == of_y["level"]:
        limits = on_scale([of_x["lo"], of_x["hi"]], baseline.scale_x)
        low, high = sorted(baseline.predict(limits, [point.x.n or np.nan] * 2))
        down.append(high - expected)
        up.append(expected - low)
        names += "_x"
    lo, hi = (math.hypot(*(max(0.0, part) for part in side)) for side in (down, up))
    return {"lo": value - lo, "hi": value + hi, "level": of_y["level"], "method": names}


def mean_robustness(
    points: Sequence[Point], baseline: Fit, units: Sequence[str] | None = None
) -> BoundedNumber:
    """Mean effective robustness of two or more models, none of which should be in the trend.

    Student's t over them (over their units, if given) and the bootstrap over the trend's add up as squares
    (MOVER), as independent.

    Raises:
        UsageError, DataError: an x is off the trend's scale, or fewer than two points.
    """
    x, y, n_x, _ = coordinates(points)
    check_pairs(x, y)
    expected = baseline.predict(x, n_x)
    moved = baseline.predictions(x, n_x).mean(1) - expected.mean()
    of_trend = bootstrapped(baseline.estimate(0.0, moved))
    return difference_of(of_trend, mean_of(y - expected, numbered(units)))


def too_little(points: Sequence[Point], fewest: int = FEWEST, scale: str | None = None) -> str | None:
    """Return why no trend fits the points on the scale of x (by default its column's), or None."""
    if len(points) < fewest:
        return needed(len(points), fewest)
    if len({point.x.value for point in points}) == 1:
        return "one x for all models"
    return too_noisy(points, scale)


def needed(n: int, fewest: int = FEWEST) -> str:
    return f"{counted(n, 'model')}, {fewest} are needed"


def _convention(
    method: str, scale_x: str, scale_y: str, resamples: int, seed: int, resampled: str
) -> dict[str, Any]:
    convention: dict[str, Any] = {"regression": REGRESSION[method], "scale_x": scale_x, "scale_y": scale_y}
    if {scale_x, scale_y} & set(FRACTIONS):
        convention["clipping"] = CLIPPING
    if resamples:
        convention |= {"interval": resampled, "resamples": resamples, "seed": seed}
    return convention
