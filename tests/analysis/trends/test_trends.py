"""Trends: the references' lines on every scale, what they expect, and how far models lie off them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.stats as typed_stats
import statsmodels.api as typed_sm
from _points import points_of, study

from clipjax.analysis.rows.points import coordinates
from clipjax.analysis.rows.scales import UNKNOWN_N
from clipjax.analysis.trends.regression import K
from clipjax.analysis.trends.resampling import FEWEST, METHOD, draw
from clipjax.analysis.trends.trends import (
    effective_robustness,
    fit,
    fit_all,
    fit_points,
    mean_robustness,
    unfitted,
)
from clipjax.errors import ClipjaxError, DataError, UsageError

sm: Any = typed_sm  # their stubs do not know all that they have
stats: Any = typed_stats
SCALES = {
    "probit": stats.norm.ppf,
    "logit": lambda a: np.log(a / (1 - a)),
    "log": np.log,
    "linear": np.asarray,
}


def reference(x: np.ndarray, y: np.ndarray, method: str = "huber") -> Any:
    design = sm.add_constant(x)
    if method == "ols":
        return sm.OLS(y, design).fit()
    norm = sm.robust.norms.HuberT(t=K)
    return sm.RLM(y, design, M=norm).fit(conv="coefs", tol=1e-13, maxiter=5000)


# ------------------------------------------------------------------------------------------------------ lines


@pytest.mark.parametrize("method", ["huber", "ols"])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("scale_y", [None, "linear", "probit"])
def test_the_line_is_the_references(scale: str, scale_y: str | None, method: str) -> None:
    x, y = study(40)
    found = fit(x, y, method=method, scale=scale, scale_y=scale_y, resamples=0)
    theirs = reference(SCALES[scale](x), SCALES[scale_y or scale](y), method)
    np.testing.assert_allclose([found.intercept, found.slope], theirs.params, rtol=0, atol=1e-8)
    weights = theirs.weights if method == "huber" else np.ones(40)
    np.testing.assert_allclose(found.weights, weights, atol=1e-6)
    assert (found.n, found.ends) == (40, (x.min(), x.max()))


@pytest.mark.parametrize("method", ["huber", "ols"])
def test_each_draw_is_the_references_line_through_the_models_drawn(method: str) -> None:
    x, y = study(12)
    found = fit(x, y, method=method, resamples=60, seed=3)
    order = np.argsort(x)
    drawn = order[draw(12, 60, 3)]
    for (slope, intercept), models in zip(found.draws, drawn):
        theirs = reference(stats.norm.ppf(x[models]), stats.norm.ppf(y[models]), method)
        np.testing.assert_allclose([intercept, slope], theirs.params, rtol=0, atol=2e-4)
    for interval, values in zip((found.slope_interval, found.intercept_estimate.interval), found.draws.T):
        lo, hi = map(pytest.approx, np.quantile(values, [0.025, 0.975]))
        assert interval == {"lo": lo, "hi": hi, "level": 0.95, "method": METHOD}


def test_the_interval_is_scipys() -> None:
    """Of least squares, with draws of their own: equal but for the chance of either."""
    x, y = study(30)
    across, up = stats.norm.ppf(x), stats.norm.ppf(y)

    def slopes(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
        a, b = (each - each.mean(axis, keepdims=True) for each in (a, b))
        return (a * b).sum(axis) / (a * a).sum(axis)

    assert slopes(across, up, 0) == pytest.approx(stats.linregress(across, up).slope)
    theirs = stats.bootstrap(
        (across, up),
        slopes,
        paired=True,
        vectorized=True,
        n_resamples=3000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    found = fit(x, y, method="ols", resamples=20_000).slope_interval
    assert found is not None
    width = theirs.high - theirs.low
    np.testing.assert_allclose([found["lo"], found["hi"]], [theirs.low, theirs.high], atol=0.05 * width)


@pytest.mark.parametrize("method", ["huber", "ols"])
def test_the_order_of_the_models_is_no_matter(method: str) -> None:
    x, y = study(25)
    x[3], y[3] = x[4], y[4]  # two alike
    y[5] = y[6]  # and a tie
    mixed = np.random.default_rng(1).permutation(25)
    one, other = fit(x, y, method=method), fit(x[mixed], y[mixed], method=method)
    assert (one.slope, one.intercept) == (other.slope, other.intercept)
    np.testing.assert_array_equal(one.draws, other.draws)
    np.testing.assert_array_equal(one.weights[mixed], other.weights)


def test_trends_that_are_fitted_together_are_each_as_alone() -> None:
    sizes = {"huber": (9, 12, 9, 9, 2), "ols": (9, 12)}
    trends = [
        unfitted(*study(n, seed=k), method=method, resamples=300, stream=k % 2)
        for method, ns in sizes.items()
        for k, n in enumerate(ns)
    ]
    for each, found in zip(trends, fit_all(trends)):
        [alone] = fit_all([each])
        assert (found.slope, found.intercept) == (alone.slope, alone.intercept)
        assert (found.n, found.ends, found.undefined) == (alone.n, alone.ends, alone.undefined)
        np.testing.assert_array_equal(found.weights, alone.weights)
        np.testing.assert_array_equal(found.draws, alone.draws)
    assert fit_all([]) == []


def test_draws_are_seeded() -> None:
    x, y = study(25)
    one, same, other = (fit(x, y, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.draws, same.draws)
    assert not np.array_equal(one.draws, other.draws)
    assert one.slope == other.slope
    apart = fit(x, y, stream=1)
    assert not np.array_equal(one.draws, apart.draws)


def test_the_convention_says_how() -> None:
    x, y = study(9)
    said = fit(x, y, scale_y="linear", resamples=50, seed=4).convention
    assert said["regression"] == "Huber's M-estimator, k = 1.345, scale MAD about 0"
    assert (said["scale_x"], said["scale_y"]) == ("probit", "linear")
    assert (said["interval"], said["resamples"], said["seed"]) == (METHOD, 50, 4)
    assert "50,000" in said["clipping"]
    said = fit(x, y, scale="linear", method="ols", resamples=0).convention
    assert said == {"regression": "least squares", "scale_x": "linear", "scale_y": "linear"}


# --------------------------------------------------------------------------------------- edges of the scales


def test_nought_and_one_lie_half_an_image_from_the_end() -> None:
    x, y = study(12)
    x[0], y[0], y[1] = 0.0, 0.0, 1.0
    n = np.full(12, 200.0)
    moved_x, moved_y = (np.clip(side, 0.0025, 0.9975) for side in (x, y))
    found = fit(x, y, n_x=n, n_y=n, resamples=0)
    theirs = reference(stats.norm.ppf(moved_x), stats.norm.ppf(moved_y))
    np.testing.assert_allclose([found.intercept, found.slope], theirs.params, atol=1e-8)
    assert found.ends[0] == 0.0
    half = 0.5 / UNKNOWN_N
    theirs = reference(*(stats.norm.ppf(np.clip(side, half, 1 - half)) for side in (x, y)))
    found = fit(x, y, resamples=0)
    np.testing.assert_allclose([found.intercept, found.slope], theirs.params, atol=1e-8)


def test_points_bring_their_scales_and_images() -> None:
    x, y = study(12)
    y[0] = 0.0
    n = np.full(12, 200.0)
    found, plain = fit_points(points_of(x, y, n=200)), fit(x, y, n_x=n, n_y=n)
    assert (found.slope, found.intercept) == (plain.slope, plain.intercept)
    linear = fit_points(points_of(x, y, scale="linear"))
    assert (linear.scale_x, linear.scale_y) == ("linear", "linear")
    assert fit_points(points_of(x, y), scale="logit", scale_y="logit").scale_y == "logit"


# ------------------------------------------------------------------------------------------------ predictions


def test_what_a_trend_expects() -> None:
    x, y = study(20)
    found = fit(x, y)
    at = np.array([0.5, 0.8])
    theirs = stats.norm.cdf(found.intercept + found.slope * stats.norm.ppf(at))
    np.testing.assert_allclose(found.predict(at), theirs, rtol=1e-12)
    every = [stats.norm.cdf(b + a * stats.norm.ppf(at)) for a, b in found.draws]
    np.testing.assert_allclose(found.predictions(at), every, rtol=1e-12)
    assert found.predictions(0.5).shape == (len(found.draws),)
    for level in (0.95, 0.8):
        band = found.band(at, level)
        assert band is not None
        np.testing.assert_allclose(band, np.quantile(every, [(1 - level) / 2, (1 + level) / 2], axis=0))
    assert found.predict(1.0, 100) < found.predict(1.0) <= 1


def test_a_band_is_narrowest_where_the_models_are() -> None:
    x, y = study(40)
    band = fit(x, y, scale="linear").band([x.min(), x.mean(), x.max()])
    assert band is not None
    low, middle, high = band[1] - band[0]
    assert middle < min(low, high)


@pytest.mark.parametrize("settings", [{"resamples": 0}, {}])
def test_without_an_interval_there_is_no_band(settings: dict[str, int]) -> None:
    x, y = study(FEWEST if settings else FEWEST - 1)
    found = fit(x, y, **settings)  # type: ignore[arg-type]
    assert found.slope_interval is None
    assert found.intercept_estimate.interval is None
    assert found.band([0.5]) is None
    off = effective_robustness(points_of([0.5], [0.5], widths=(None, 0.01)), found)
    assert off[0].interval is None


def test_models_on_one_line_have_it_and_no_interval() -> None:
    """All residuals are rounding: the scale comes to nothing, and draws tell nothing."""
    x = np.linspace(0.2, 0.8, 9)
    found = fit(x, 0.9 - 0.5 * x, scale="linear")
    assert (found.slope, found.intercept) == (pytest.approx(-0.5, abs=1e-12), pytest.approx(0.9, abs=1e-12))
    np.testing.assert_array_equal(found.weights, 1)
    assert found.slope_interval is None
    same = fit(x, x, scale="linear")
    assert (same.slope, same.predict(0.3)) == (pytest.approx(1), pytest.approx(0.3))
    flat = fit(x, np.full(9, 0.4))
    assert (flat.slope, flat.predict(0.3), flat.slope_interval) == (0.0, pytest.approx(0.4), None)


def test_draws_of_one_model_have_no_line() -> None:
    x, y = study(5)
    found = fit(x, y, resamples=9000)
    single = np.ptp(draw(5, 9000, 0), axis=1) == 0
    assert 0 < found.undefined == single.sum()
    assert len(found.draws) == 9000 - found.undefined
    assert found.convention["resamples"] == 9000


@pytest.mark.parametrize(
    ("x", "y", "settings", "error", "says"),
    [
        ([0.5], [0.5], {}, DataError, "needs 2 models or more, here is 1 model"),
        ([], [], {}, DataError, "here is 0 models"),
        ([0.5, 0.5, 0.5], [0.1, 0.2, 0.3], {}, DataError, r"all 3 models have the same x \(0.5\)"),
        ([0.5, 0.6], [0.1, 0.2, 0.3], {}, DataError, r"shape \(2,\) and y \(3,\)"),
        ([[0.5, 0.6]], [[0.1, 0.2]], {}, DataError, "give a number of each for every model"),
        ([0.5, math.nan], [0.1, 0.2], {}, DataError, "nan is not a value"),
        ([0.5, 0.6], [0.1, math.inf], {}, DataError, "inf is not a value"),
        ([50.0, 60.0], [0.1, 0.2], {}, UsageError, r"50 has no place on a probit scale.*not percent"),
        ([0.5, 0.6], [0.1, 0.0], {"scale_y": "log"}, UsageError, "0 has no place on a log scale"),
        ([0.5, 0.6], [0.1, 0.2], {"scale": "probitt"}, UsageError, "unknown scale 'probitt'.*probit"),
        ([0.5, 0.6], [0.1, 0.2], {"method": "hubr"}, UsageError, "unknown regression 'hubr'.*huber"),
        ([0.5, 0.6], [0.1, 0.2], {"level": 95.0}, UsageError, "level of intervals is 95"),
        ([0.5, 0.6], [0.1, 0.2], {"resamples": -1}, UsageError, "-1 resamples"),
    ],
)
def test_refused(x: Any, y: Any, settings: dict[str, Any], error: type[ClipjaxError], says: str) -> None:
    with pytest.raises(error, match=says):
        fit(x, y, **settings)


def test_two_models_have_a_line_and_no_interval() -> None:
    found = fit([0.2, 0.6], [0.1, 0.5], scale="linear")
    assert (found.slope, found.intercept) == (pytest.approx(1), pytest.approx(-0.1))
    assert found.slope_interval is None


# --------------------------------------------------------------------------------------- effective robustness


def test_effective_robustness_is_y_less_what_the_trend_expects() -> None:
    x, y = study(30)
    baseline = fit(x, y)
    a, b = np.array([0.6, 0.7, 0.99, 0.02]), np.array([0.7, 0.5, 0.9, 0.1])
    found = effective_robustness(points_of(a, b), baseline)
    expected = stats.norm.cdf(baseline.intercept + baseline.slope * stats.norm.ppf(a))
    np.testing.assert_allclose([each.expected for each in found], expected, rtol=1e-12)
    np.testing.assert_allclose([each.value for each in found], b - expected, rtol=1e-12)
    assert [each.model for each in found] == ["m000", "m001", "m002", "m003"]
    assert [each.extrapolated for each in found] == [False, False, True, True]
    assert [each.interval for each in found] == [None] * 4


@pytest.mark.parametrize("slope", [1.0, -0.7])
def test_its_interval_adds_up_what_errs(slope: float) -> None:
    """Of y, of the trend, and of x through the trend, which may go down."""
    x, y = study(30, slope=slope)
    baseline = fit(x, y)
    [plain] = effective_robustness(points_of([0.6], [0.7], widths=(None, 0.02)), baseline)
    band = baseline.band(0.6)
    assert band is not None
    assert plain.interval is not None
    above, below = band[1] - plain.expected, plain.expected - band[0]
    assert plain.interval == {
        "lo": pytest.approx(plain.value - math.hypot(0.02, above)),
        "hi": pytest.approx(plain.value + math.hypot(0.02, below)),
        "level": 0.95,
        "method": "mover_y_trend",
    }
    [whole] = effective_robustness(points_of([0.6], [0.7], widths=(0.03, 0.02)), baseline)
    low, high = sorted(float(baseline.predict(end)) for end in (0.57, 0.63))
    assert whole.interval == {
        "lo": pytest.approx(whole.value - math.hypot(0.02, above, high - whole.expected)),
        "hi": pytest.approx(whole.value + math.hypot(0.02, below, whole.expected - low)),
        "level": 0.95,
        "method": "mover_y_trend_x",
    }


def test_an_x_of_another_level_is_left_out_and_the_method_says_so() -> None:
    baseline = fit(*study(30))
    points = points_of([0.6], [0.7], widths=(0.03, 0.02))
    interval = points[0].x.interval
    assert interval is not None
    interval["level"] = 0.9
    [found] = effective_robustness(points, baseline)
    assert found.interval is not None
    assert found.interval["method"] == "mover_y_trend"


def test_models_at_the_ends_of_the_scale() -> None:
    baseline = fit(*study(30))
    for found in effective_robustness(
        points_of([0.0, 1.0], [0.0, 1.0], n=100, widths=(0.03, 0.03)), baseline
    ):
        assert found.interval is not None
        assert found.interval["lo"] < found.value < found.interval["hi"]
        assert found.extrapolated


def test_a_group_off_the_trend_is_found_by_a_trend_without_it() -> None:
    """0.5 above on the probit scale; a least-squares trend with the group in it is pulled towards it."""
    standard, clip = points_of(*study(40), name="s"), points_of(*study(15, offset=0.5, seed=1), name="c")
    without, within = (fit_points(some, method="ols") for some in (standard, standard + clip))
    off = [float(np.mean([each.value for each in effective_robustness(clip, t)])) for t in (without, within)]
    truth = np.mean([stats.norm.cdf(stats.norm.ppf(p.x.value) + 0.5) - p.x.value for p in clip])
    assert off[0] == pytest.approx(truth, abs=0.015)
    assert off[1] < 0.85 * truth
    assert max(abs(each.value) for each in effective_robustness(standard[:5], without)) < 0.1


def test_the_mean_of_a_group_is_students_and_the_trends_bootstrap() -> None:
    baseline = fit(*study(40))
    clip = points_of(*study(9, offset=0.4, seed=2))
    found = mean_robustness(clip, baseline)
    each = np.array([one.value for one in effective_robustness(clip, baseline)])
    assert found.value == pytest.approx(each.mean())
    student = stats.ttest_1samp(each, 0).confidence_interval(0.95)
    x = coordinates(clip)[0]
    of_trend = baseline.predictions(x).mean(1)
    low, high = np.quantile(of_trend, [0.025, 0.975]) - baseline.predict(x).mean()
    lo, hi = found.at(0.95)
    assert lo == pytest.approx(found.value - math.hypot(found.value - student.low, high))
    assert hi == pytest.approx(found.value + math.hypot(student.high - found.value, low))
    wider = found.at(0.99)
    assert wider[0] < lo < hi < wider[1]


def test_a_mean_needs_two_models_and_a_trend_with_an_interval() -> None:
    baseline = fit(*study(40))
    with pytest.raises(DataError, match="2 models or more, here is 1 model"):
        mean_robustness(points_of([0.5], [0.5]), baseline)
    found = mean_robustness(points_of([0.5, 0.6], [0.5, 0.7]), fit(*study(4)))
    assert found.at(0.95) == (-math.inf, math.inf)
