"""Fewer images: equal to ppi-python and to stored numbers of the estimator; coverage, width and gain."""

from __future__ import annotations

import numpy as np
import pytest
from _long import mostly_long

from benchmarks.metrics.fewer_images import WORLDS, World, answers, estimated, simulated
from clipjax.metrics.uncertainty import difference_estimator as de

CASES = ("good", "biased", "useless", "adverse")


@pytest.fixture(scope="module")
def oracle(test_data):
    with np.load(test_data / "statistics_oracles" / "ppi.npz") as file:
        return dict(file)


def case(oracle, name):
    """y and f of the labelled images, and f of all."""
    f = oracle[f"{name}__f_all"]
    return oracle[f"{name}__y_labelled"].astype(float), f[oracle[f"{name}__labelled_index"]], f


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", ["lam1", "tuned"])
def test_as_stored(oracle, name, kind):
    y, f, every = case(oracle, name)
    weight = 1.0 if kind == "lam1" else de.tuned_weight(y, f)
    found = de.corrected_mean(y, f, every.mean(), len(every), weight)
    stored = [
        oracle[f"{name}__difference_{kind}_{key}"] for key in ("point", "se_finite", "se_superpopulation")
    ]
    np.testing.assert_allclose(found, stored, rtol=0, atol=1e-12)
    assert weight == pytest.approx(oracle[f"{name}__difference_{kind}_lambda"], abs=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_points_of_ppi_python(oracle, name):
    """Its point from all images is ours; with its point from the others, ours weighs in the labelled."""
    y, f, every = case(oracle, name)
    n, of = len(y), len(every)
    for key, weight in (("lam1", 1.0), ("lam05", 0.5), ("lam0", 0.0)):
        ours = de.corrected_mean(y, f, every.mean(), of, weight).value
        assert ours == pytest.approx(oracle[f"{name}__all_{key}_point"], abs=1e-12)
        others = oracle[f"{name}__unlabelled_{key}_point"]
        assert ours == pytest.approx(n / of * y.mean() + (1 - n / of) * others, abs=1e-12)


@pytest.mark.parametrize("name", ["good", "biased"])
def test_errors_count_both_parts_at_95_percent(oracle, name):
    """Its interval for an infinite population at weight 1; neither the rectifier's part alone nor 90 %."""
    y, f, every = case(oracle, name)
    error = de.corrected_mean(y, f, every.mean(), len(every), 1.0).error_beyond
    lo, hi = oracle[f"{name}__all_lam1_ci95"]
    assert 1.96 * error == pytest.approx((hi - lo) / 2, rel=0.03)
    alone = (y - f).std(ddof=1) / np.sqrt(len(y))
    assert error > alone * 1.0001
    assert 1.96 * error > 1.1 * 0.839 * (hi - lo) / 2


def test_a_tuned_weight_is_not_theirs_and_may_be_negative(oracle):
    """Theirs is shrunk by 1 + n/N and clipped; in an estimate ours is clipped, too."""
    y, f, _ = case(oracle, "good")
    assert de.tuned_weight(y, f) > oracle["good__all_lambda"] + 0.03
    assert de.tuned_weight(*case(oracle, "adverse")[:2]) < -1
    assert de.tuned_weight(*case(oracle, "biased")[:2]) > 1.2
    assert de.tuned_weight(y, np.zeros(len(y))) == 0


def drawn(name, n, of, seed=0, **changed):
    rng = np.random.default_rng(seed)
    world = WORLDS[name]._replace(**changed)
    right = answers(rng, world, of)
    return right, rng.choice(of, n, replace=False), world, rng


def test_predictions_never_come_from_their_own_images():
    """Noise that one fit of all images would explain in part is not explained."""
    rng = np.random.default_rng(0)
    y, helpers = rng.random(100) < 0.5, rng.random((100, 60)) < 0.5
    f, _ = de.cross_fitted(y.astype(float), helpers, np.full(60, 0.5), 1000, rng)
    assert np.corrcoef(y, f)[0, 1] < 0.2
    x = helpers - 0.5
    own = x @ de._ridge(x - x.mean(axis=0), y - y.mean())
    once = x @ np.linalg.lstsq(x, y - y.mean(), rcond=None)[0]
    assert np.corrcoef(y, once)[0, 1] > 0.7
    assert np.corrcoef(y, own)[0, 1] >= np.corrcoef(y, f)[0, 1]


def test_the_mean_prediction_is_that_of_all_images():
    right, measured, _, _ = drawn("like the helpers", 105, 1000)
    helpers = right[1:]
    args = helpers[:, measured].T, helpers.mean(axis=1), 1000
    f, mean = de.cross_fitted(right[0, measured].astype(float), *args, np.random.default_rng(1))
    fold = np.random.default_rng(1).permutation(105) % de.FOLDS
    x = (helpers - helpers.mean(axis=1, keepdims=True)).T
    slopes = [de._ridge(x[measured][fold != k], right[0, measured][fold != k] * 1.0) for k in range(de.FOLDS)]
    every = x @ np.average(slopes, axis=0, weights=np.bincount(fold))
    every[measured] = f
    assert mean == pytest.approx(every.mean(), abs=1e-12)


SIMULATED = {
    # world, images -> the least and the most median gain.
    ("like the helpers", 200, 1000): (1.4, 1.8),
    ("better than all", 200, 1000): (1.15, 1.45),
    ("a copy helps, 1 % off", 200, 1000): (6, 20),
    ("difference, first on all", 200, 1000): (1.5, 2.2),
    ("better than all", 40, 1000): (1, 1),
}


@pytest.mark.parametrize(("name", "n", "of"), mostly_long(SIMULATED, keep=["like the helpers"]))
def test_intervals_cover_and_are_not_wider(name, n, of):
    """Of 150 draws, .95 - 3.4 standard errors; without the missed image a copy's cover .84."""
    found = simulated(WORLDS[name], n, of, 150, np.random.default_rng(0))
    assert min(found["all"], found["beyond"]) >= 0.89
    least, most = SIMULATED[name, n, of]
    assert least <= found["gain"] <= most
    if n >= 200:
        assert found["wider"] <= 0.05


def test_helpers_correct_an_easy_sample():
    right, _, world, rng = drawn("very like them", 200, 2000)
    hard = right[1:].mean(axis=0) + rng.normal(0, 0.3, 2000)
    easy = np.sort(np.argsort(-hard)[: 2000 - 400][rng.permutation(1600)[:200]])
    estimate, alone = estimated(right, easy, world, rng)
    assert alone.value > right[0].mean() + 0.08
    assert abs(estimate.value - right[0].mean()) < 0.5 * (alone.value - right[0].mean())
    assert de.distance_of_sample(right[1:].mean(axis=0), easy) > 4
    assert de.distance_of_sample(right[1:].mean(axis=0), rng.choice(2000, 200, replace=False)) < 4
    assert de.distance_of_sample(np.ones(2000), easy) == 0


def test_the_beyond_interval_is_wider_and_both_are_within_0_and_1():
    right, measured, world, rng = drawn("accurate", 1000, 2000)
    estimate, alone = estimated(right, measured, world, rng)
    for each in (estimate, alone):
        here, beyond = each.interval, each.interval_beyond
        assert 0 <= beyond.lo < here.lo < each.value < here.hi < beyond.hi <= 1
        assert here.level == beyond.level == 0.95
    assert estimate.interval.method == "difference_estimator_wilson_t"


@pytest.mark.parametrize("right", [True, False])
def test_a_target_without_a_mistake_has_no_gain(right):
    rng = np.random.default_rng(0)
    helpers = rng.random((3, 400)) < 0.7
    estimate, alone = de.share_of_all(np.full(40, right), helpers[:, :40].T, helpers.mean(axis=1), 400, rng)
    assert (estimate.value, estimate.weight, estimate.gain) == (alone.value, 0, 1) == (float(right), 0, 1)
    assert estimate.interval.lo < estimate.interval.hi


def test_models_that_never_differ_differ_by_nothing():
    rng = np.random.default_rng(0)
    helpers, own = rng.random((3, 400)) < 0.7, rng.random(40) < 0.5
    estimate, _ = de.share_of_all(own, helpers[:, :40].T, helpers.mean(axis=1), 400, rng, minus=own)
    assert estimate.value == 0
    assert estimate.interval.lo < 0 < estimate.interval.hi


def test_a_copy_that_was_right_about_every_measured_image_is_not_believed_blindly():
    """Without the image that predictions miss, the interval of a copy has no width: coverage .3."""
    rng = np.random.default_rng(0)
    world = World((0.72,), copy=0.001)
    right = answers(rng, world, 1000)
    estimate, _ = estimated(right, np.arange(40), world, rng)
    assert estimate.interval.hi - estimate.interval.lo > 2 / 40


@pytest.mark.parametrize(
    ("n", "of", "helpers", "why"),
    [
        (3, 400, 2, "30 measured images or more, there are 3"),
        (40, 40, 2, "all 40 images are measured: their number is known, not estimated"),
        (40, 400, 0, "no model can help: measure another one on all images"),
    ],
)
def test_too_little_is_refused(n, of, helpers, why):
    rng = np.random.default_rng(0)
    every = rng.random((helpers, of)) < 0.5
    with pytest.raises(ValueError, match=why):
        de.share_of_all(np.arange(n) % 2 == 0, every[:, :n].T, every.mean(axis=1), of, rng)


def test_constant_helpers_are_refused_and_those_constant_by_chance_are_not():
    rng = np.random.default_rng(0)
    own = np.arange(40) % 2 == 0
    with pytest.raises(ValueError, match="every helper gives one answer to all images"):
        de.share_of_all(own, np.array([[True, False]] * 40), np.array([1.0, 0.0]), 400, rng)
    estimate, alone = de.share_of_all(own, np.array([[True, False]] * 40), np.array([0.99, 0.0]), 400, rng)
    assert (estimate.value, estimate.gain) == (alone.value, 1)


def noise(seed, n=40):
    """Helpers that have nothing in common with a model that is right about every second image."""
    rng = np.random.default_rng(seed)
    every = rng.random((6, 400)) < 0.5
    return de.share_of_all(np.arange(n) % 2 == 0, every[:, :n].T, every.mean(axis=1), 400, rng)


def test_the_weight_stays_within_0_and_1():
    """Cross-fitted predictions of noise turn against y: a negative weight would call that a gain."""
    found = [noise(seed)[0] for seed in range(12)]
    assert all(0 <= each.weight <= 1 for each in found)
    assert sum(each.weight == 0 for each in found) > 4


def test_forty_images_take_students_t():
    """Without any gain the interval is Wilson's with t of 39 degrees of freedom: 3 % wider than with 1.96."""
    [estimate, plain] = next(pair for pair in map(noise, range(12)) if pair[0].weight == 0)
    wide, narrow = (each.interval.hi - each.interval.lo for each in (estimate, plain))
    assert 1.02 < wide / narrow < 1.04


def test_an_interval_is_never_wider_than_the_samples_own():
    wide, narrow = de.Interval(0.4, 0.9, 0.95, "wilson"), de.Interval(0.1, 0.35, 0.95, "wilson")
    drawn_together = de._not_wider(0.6, wide, narrow)
    assert drawn_together[:2] == pytest.approx((0.5, 0.75))
    assert de._not_wider(0.2, narrow, wide)[:2] == narrow[:2]
