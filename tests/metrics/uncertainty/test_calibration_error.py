"""The null band, the corrected ECE, its interval and a difference of two, by simulation and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
from _long import mostly_long
from scipy import stats
from scipy.special import expit, logit

from clipjax.metrics.confidence import calibration
from clipjax.metrics.uncertainty import calibration_error as ce

BINS = 15
EDGES = calibration.equal_width_edges(BINS)


def confidences(n, rng):
    return np.clip(rng.beta(2.0, 0.9, n), 0.02, 0.999)


def gaps(confidence, correct):
    return ce.gaps_of(confidence, correct, calibration.bin_of(confidence, EDGES), BINS)


def band_of(confidence, resamples=300):
    marks = np.eye(BINS)[calibration.bin_of(confidence, EDGES)]
    sums = ce.null_sums(confidence, marks, "d", resamples=resamples)
    return ce.null_band(np.abs(sums).sum(axis=1) / len(confidence))


def models(n, offset, groups=5, draws=60):
    """Groups share their images; each model is too sure by the offset. True ECE: the offset."""
    rng = np.random.default_rng([n, int(1000 * offset)])
    for _ in range(groups):
        confidence = np.clip(confidences(n, rng), offset + 0.001, 1)
        for _ in range(draws):
            yield gaps(confidence, rng.random(n) < confidence - offset), confidence


def banded(n, offset, groups=5, draws=60):
    """These models, each with the null band of its group."""
    every = list(models(n, offset, groups, draws))
    bands = [band_of(confidence) for _, confidence in every[::draws]]
    return [(each, bands[i // draws]) for i, (each, _) in enumerate(every)]


def test_gaps_by_hand():
    confidence, correct = np.array([0.5, 0.5, 0.75, 1.0]), np.array([True, False, True, True])
    got = ce.gaps_of(confidence, correct, np.array([0, 0, 2, 2]), 3)
    assert got.share.tolist() == [0.5, 0, 0.5]
    assert got.gap.tolist() == [0, 0, 0.125]
    # Squares about the mean, and one more image of variance c (1 - c): (2 / 4 + 1 / 4) / 2, by 2 images.
    assert got.error[0] == pytest.approx(np.sqrt((0.5 + 0.25) / 2 / 2))
    assert got.error[2] == pytest.approx(np.sqrt((2 * 0.125**2 + 0.1875 / 2) / 2 / 2))
    assert (ce.plug_in(got), got.images) == (0.0625, 4)


def test_the_plug_in_is_the_kernels_ece():
    rng = np.random.default_rng(0)
    confidence, correct = confidences(500, rng), rng.random(500) < 0.5
    expected = calibration.ece(calibration.reliability(confidence, correct, EDGES))
    assert ce.plug_in(gaps(confidence, correct)) == pytest.approx(expected, abs=1e-12)


def test_moments_of_the_folded_normal_against_scipy():
    """Mean and variance of |N(t, 1)|, bin by bin."""
    one = ce.Gaps(np.ones(1), np.zeros(1), np.full(1, 0.02), 10**12)
    for true in (0.0, 0.01, 0.05):
        mean, deviation = ce._moments(one, np.array([[true]]))
        expected = stats.foldnorm(true / 0.02, scale=0.02)
        assert mean[0] == pytest.approx(expected.mean(), rel=1e-9)
        assert deviation[0] == pytest.approx(expected.std(), rel=1e-6)


def test_null_sums_in_blocks_and_sparse_are_the_same():
    rng = np.random.default_rng(1)
    confidence = confidences(50, rng)
    marks = np.eye(BINS)[calibration.bin_of(confidence, EDGES)]
    whole = ce.null_sums(confidence, marks, "d", resamples=9, seed=3)
    assert whole.shape == (9, BINS)
    for other in (
        ce.null_sums(confidence, marks, "d", resamples=9, seed=3, block=100),
        ce.null_sums(confidence, scipy.sparse.csr_array(marks), "d", resamples=9, seed=3),
    ):
        np.testing.assert_allclose(other, whole, atol=1e-12)
    assert not np.allclose(ce.null_sums(confidence, marks, "e", resamples=9, seed=3), whole)
    assert not np.allclose(ce.null_sums(confidence, marks, "d", resamples=9, seed=4), whole)


def test_a_calibrated_model_lies_inside_the_band_and_has_no_interval():
    values = [(ce.plug_in(each), band, ce.interval(each, band)) for each, band in banded(1000, 0.0)]
    inside = [value <= band.hi for value, band, _ in values]
    assert 0.92 <= np.mean(inside) <= 0.98  # of 300; standard error .013
    assert all((limits is None) == within for within, (*_, limits) in zip(inside, values))
    plain, expected = np.mean([value for value, *_ in values]), np.mean([band.mean for _, band, _ in values])
    assert plain == pytest.approx(expected, rel=0.03)


COVERED = "metrics/uncertainty/test_calibration_error.py::test_the_interval_covers_where_it_is_given"
COVERING = [(1000, 0.03), (1000, 0.1), (5000, 0.01), (5000, 0.03)]


@pytest.mark.parametrize(("n", "offset"), mostly_long(COVERING, COVERING[2:3], COVERED))
def test_the_interval_covers_where_it_is_given(n, offset):
    """Also for those that are given by luck: without the condition the lower limits fail at small ECEs."""
    every = banded(n, offset)
    found = [ce.interval(each, band) for each, band in every]
    limits = [each for each in found if each is not None]
    assert np.mean([each.lo <= offset <= each.hi for each in limits]) >= 0.93
    if (n, offset) == (5000, 0.03):
        assert len(limits) >= 0.9 * len(found)
    if (n, offset) == (5000, 0.01):  # the condition: an interval that ignores it starts too high
        plain = [
            ce._lower(each, np.array([1.96]))[0] > offset
            for (each, _), limits in zip(every, found)
            if limits is not None
        ]
        assert np.mean(plain) > 0.05


def test_the_corrected_ece_is_much_less_biased():
    for offset, most in ((0.0, 0.006), (0.01, 0.004), (0.03, 0.004)):
        found = [(ce.plug_in(each), ce.corrected(each)) for each, _ in models(5000, offset, 5, 20)]
        plain, corrected = np.mean(found, axis=0) - offset
        assert abs(corrected) < most
        assert abs(corrected) < 0.75 * plain or offset == 0.03
    assert plain > 0  # the plug-in is never below


def test_few_images_have_no_interval():
    rng = np.random.default_rng(2)
    confidence = np.full(199, 0.9)
    wrong = gaps(confidence, np.zeros(199, bool))
    assert ce.plug_in(wrong) > band_of(confidence).hi
    assert ce.interval(wrong, band_of(confidence)) is None
    confidence = np.full(200, 0.9)
    limits = ce.interval(gaps(confidence, rng.random(200) < 0.2), band_of(confidence))
    assert limits is not None
    assert limits.lo < 0.7 < limits.hi


def test_images_that_are_certain_and_right():
    """No noise at all: nothing is divided by 0."""
    certain = gaps(np.ones(300), np.ones(300, bool))
    assert (ce.plug_in(certain), ce.corrected(certain)) == (0, 0)
    assert ce.interval(certain, band_of(np.ones(300))) is None
    wrong = gaps(np.ones(300), np.zeros(300, bool))
    assert ce.corrected(wrong) == pytest.approx(1)
    limits = ce.interval(wrong, band_of(np.ones(300)))
    assert limits is not None
    assert limits.lo <= 1 <= limits.hi


def runs(rng, n=5000):
    """A calibrated model and one with true ECE .020, on images whose difficulty they share."""
    difficulty = logit(np.clip(rng.beta(1.6, 0.8, n), 0.02, 0.998))
    level = rng.random(n)
    for shift, excess in ((0.0, 0.0), (0.3, 0.02)):
        chance = expit(difficulty + shift + rng.normal(size=n) / 2) * 0.98
        confidence, correct = chance + excess, level < chance
        yield ce.binned(confidence, correct, calibration.bin_of(confidence, EDGES), BINS)


def test_a_difference_of_two_eces_covers():
    rng = np.random.default_rng(3)
    limits, p_values, plain = [], [], []
    for _ in range(20):
        first, second = runs(rng)
        interval, p_value = ce.difference(first, second)
        limits.append(interval)
        p_values.append(p_value)
        plain.append(ce.plug_in(second.gaps) - ce.plug_in(first.gaps))
    assert np.mean(plain) < 0.015  # of .020: the reason for all this
    assert np.mean([each.lo <= 0.02 <= each.hi for each in limits]) >= 0.9
    excluded = [each.lo > 0 or each.hi < 0 for each in limits]
    assert excluded == [p <= 0.05 for p in p_values]
    assert 0 < np.mean(excluded) < 1


def test_a_difference_the_other_way_round_and_of_a_run_with_itself():
    first, second = runs(np.random.default_rng(4))
    (there, p), (back, same_p) = ce.difference(first, second), ce.difference(second, first)
    assert (back.lo, back.hi) == pytest.approx((-there.hi, -there.lo), abs=1e-9)
    assert same_p == pytest.approx(p)
    assert there.method == "mover_folded_normal"
    none, p = ce.difference(second, second)
    assert (none.lo, none.hi, p) == (pytest.approx(0, abs=0.01), pytest.approx(0, abs=0.01), 1)
    wide = ce.difference(first, second, level=0.99)[0]
    assert wide.lo < there.lo
    assert there.hi < wide.hi
