"""Calibration against scikit-learn, scipy, NumPy loops and the published code's numbers."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest
import scipy.optimize
import scipy.special
from _long import mostly_long
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss
from sklearn.model_selection import train_test_split

from clipjax.metrics.confidence import calibration as c
from clipjax.metrics.uncertainty import intervals

# From the reference functions: confidences on the edges of bins, and which images were right.
CONFIDENCE = np.array([0.2, 1 / 3, 0.4, 0.55, 0.6, 2 / 3, 0.8, 0.9, 1.0, 0.05])
CORRECT = np.array([0, 1, 0, 1, 1, 0, 1, 1, 1, 0], bool)


@pytest.fixture(scope="module")
def wave():
    """Logits and labels with a known optimum: T* = 1.0857390."""
    i, j = np.arange(400)[:, None], np.arange(10)
    logits = 3 * np.sin(1.7 * i + 2.3 * j + 0.11 * i * j)
    rows = np.arange(400)
    return logits, np.where(rows % 5 == 0, (7 * rows) % 10, logits.argmax(axis=1))


@pytest.fixture(scope="module")
def clip_like():
    """Float32 logits at CLIP's scale: right for about 70 %, very confident."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(700, 50)) * 2
    labels = rng.integers(0, 50, 700)
    logits[np.arange(700), labels] += rng.normal(6, 3, 700)
    return (logits * 2).astype(np.float32), labels.astype(np.int32)


def ece_loop(confidence, correct, edges, right_closed=True):
    total = 0.0
    for lo, hi in itertools.pairwise(edges):
        inside = (confidence > lo) & (confidence <= hi)
        if not right_closed:
            inside = (confidence >= lo) & (confidence < hi)
        if inside.any():
            total += inside.mean() * abs(confidence[inside].mean() - correct[inside].mean())
    return total


def ece_of(confidence, correct, bins):
    return c.ece(c.reliability(confidence, correct, c.equal_width_edges(bins)))


def test_ece_oracles():
    assert ece_of(CONFIDENCE, CORRECT, 15) == pytest.approx(0.3133333, abs=1e-7)
    assert ece_of(CONFIDENCE, CORRECT, 10) == pytest.approx(0.2333333, abs=1e-7)


def test_bins_are_right_closed():
    confidence, correct = np.array([0.2, 0.25]), np.array([True, False])
    assert ece_of(confidence, correct, 5) == pytest.approx(0.525)
    assert ece_loop(confidence, correct, np.linspace(0, 1, 6), right_closed=False) == pytest.approx(0.275)


@pytest.mark.parametrize("bins", [1, 15, 25])
def test_ece_and_mce_against_a_loop(clip_like, bins):
    scored = c.score(*clip_like)
    table = c.reliability(scored.confidence, scored.correct, c.equal_width_edges(bins))
    assert c.ece(table) == pytest.approx(
        ece_loop(scored.confidence, scored.correct, np.linspace(0, 1, bins + 1)), abs=1e-12
    )
    place = np.ceil(scored.confidence * bins)
    gaps = [
        abs((scored.confidence - scored.correct)[place == b].mean()) for b in range(1, bins + 1) if b in place
    ]
    assert c.mce(table) == pytest.approx(max(gaps), abs=1e-12)


def test_15_and_25_bins_are_told_apart(clip_like):
    scored = c.score(*clip_like)
    of = [ece_of(scored.confidence, scored.correct, bins) for bins in (15, 25)]
    assert abs(of[0] - of[1]) > 1e-4


@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
def test_reliability_diagram_is_sklearns(strategy):
    rng = np.random.default_rng(1)
    confidence = rng.beta(5, 2, 600)
    correct = rng.random(600) < confidence**2
    edges = c.equal_width_edges(15) if strategy == "uniform" else c.equal_mass_edges(confidence, 15)
    table = c.diagram(c.reliability(confidence, correct, edges))
    accuracy, mean = calibration_curve(correct, confidence, n_bins=15, strategy=strategy)
    np.testing.assert_allclose(table["accuracy"], accuracy, atol=1e-12)
    np.testing.assert_allclose(table["confidence"], mean, atol=1e-12)
    np.testing.assert_allclose(table["gap"], accuracy - mean, atol=1e-12)
    assert table["n"].sum() == 600
    first = intervals.wilson(round(accuracy[0] * table["n"][0]), int(table["n"][0]))
    assert (table["accuracy_lo"][0], table["accuracy_hi"][0]) == first[:2]


def test_bins_of_equal_mass_hold_equally_many_and_keep_ties_together():
    confidence = np.random.default_rng(2).permutation(np.linspace(0.1, 0.9, 60))
    for bins in (4, 15, 60):
        table = c.reliability(confidence, confidence > 0.5, c.equal_mass_edges(confidence, bins))
        assert (table.count == 60 / bins).all()
    tied = np.array([0.3, 0.3, 0.3, 0.3, 0.8, 0.9])
    table = c.reliability(tied, tied > 0.5, c.equal_mass_edges(tied, 3))
    assert table.count.tolist() == [4, 0, 2]
    few = c.reliability(tied[4:], tied[4:] > 0, c.equal_mass_edges(tied[4:], 15))
    assert few.count.sum() == 2


def test_float32_confidences_are_compared_exactly_with_the_edges():
    """0.6 in float32 lies above the edge at 3/5, and 0.8 below the one at 4/5, or the reverse: as it lies."""
    confidence = np.linspace(0, 1, 26, dtype=np.float32)
    table = c.reliability(confidence, confidence > 2, c.equal_width_edges(25))
    exact = confidence.astype(np.float64)
    expected = np.histogram(-exact, bins=-np.linspace(0, 1, 26)[::-1])[0][::-1]
    assert table.count.tolist() == expected.tolist()


def test_nll_and_brier_are_sklearns(clip_like):
    logits, labels = clip_like
    for temperature in (1.0, 2.5):
        scored = c.score(logits, labels, temperature=temperature)
        p = scipy.special.softmax(logits.astype(np.float64) / temperature, axis=1)
        classes = np.arange(p.shape[1])
        assert c.mean(scored.nll) == pytest.approx(log_loss(labels, p, labels=classes), abs=1e-9)
        brier = np.sum((p - (labels[:, None] == classes)) ** 2, axis=1)
        np.testing.assert_allclose(scored.brier, brier, atol=1e-14)
        np.testing.assert_allclose(scored.confidence, p.max(axis=1), rtol=1e-12)
        assert (scored.correct == (logits.argmax(axis=1) == labels)).all()


def test_brier_of_two_classes_is_twice_sklearns(clip_like):
    logits, right = clip_like[0][:, :2], clip_like[1] % 2
    p = scipy.special.softmax(logits.astype(np.float64), axis=1)[:, 1]
    ours = c.mean(c.score(logits, right).brier)
    assert ours == pytest.approx(2 * brier_score_loss(right, p), abs=1e-14)


def test_nll_does_not_clip_hopeless_images():
    scored = c.score(np.array([[0.0, 2000.0]], np.float32), np.array([0]))
    assert scored.nll[0] == pytest.approx(2000)
    assert scored.confidence[0] == 1
    assert scored.brier[0] == 2


def test_temperature_oracle(wave):
    logits, labels = wave
    temperature = c.fit_temperature(logits, labels)
    before, after = c.score(logits, labels), c.score(logits, labels, temperature=temperature)
    assert temperature == pytest.approx(1.0857390, abs=1e-7)
    assert before.correct.mean() == after.correct.mean() == 0.825
    assert (c.mean(before.nll), c.mean(after.nll)) == pytest.approx((1.5862368, 1.5840652), abs=1e-7)
    eces = [ece_of(scored.confidence, scored.correct, 15) for scored in (before, after)]
    assert eces == pytest.approx([0.4617783, 0.4767648], abs=1e-7)


@pytest.mark.parametrize("scale", [0.01, 1.0, 40.0])
def test_temperature_is_scipys_optimum_at_any_scale(clip_like, scale):
    logits, labels = clip_like[0] * np.float32(scale), clip_like[1]

    def nll(log_t):
        log_p = scipy.special.log_softmax(logits.astype(np.float64) / np.exp(log_t), axis=1)
        return -log_p[np.arange(len(labels)), labels].mean()

    best = scipy.optimize.minimize_scalar(nll, bracket=(-1, 1), tol=1e-10)
    fitted = c.fit_temperature(logits, labels)
    assert nll(np.log(fitted)) <= best.fun + 1e-14
    assert fitted == pytest.approx(np.exp(best.x), rel=1e-6)


def test_temperature_of_a_narrow_bracket_would_bind(clip_like):
    """Hendrycks's bounds [0.2, 5] do not hold the optimum of badly scaled logits; ours is not bounded."""
    assert c.fit_temperature(clip_like[0] * np.float32(40), clip_like[1]) > 5


def test_temperature_without_an_optimum(wave):
    logits, _ = wave
    with pytest.raises(ValueError, match="falls all the way to T = 0"):
        c.fit_temperature(logits, logits.argmax(axis=1))
    with pytest.raises(ValueError, match="never rises as T grows"):
        c.fit_temperature(logits, logits.argmin(axis=1))
    # Each of equal logits is the largest, but NLL is the same for every T.
    with pytest.raises(ValueError, match="never rises as T grows"):
        c.fit_temperature(logits[:, :1], np.zeros(400, int))
    with pytest.raises(ValueError, match="never rises as T grows"):
        c.fit_temperature(np.full((400, 5), 3.0, np.float32), np.arange(400) % 5)


def test_no_optimum_says_where_nll_falls_to(wave):
    for labels, limit in ((wave[0].argmax(axis=1), 0.0), (wave[0].argmin(axis=1), np.inf)):
        with pytest.raises(c.NoOptimumError) as raised:
            c.fit_temperature(wave[0], labels)
        assert raised.value.temperature == limit


def test_the_error_of_a_temperature_is_that_of_a_loop(wave):
    logits, labels = wave
    fitted = c.fit_temperature(logits, labels)
    slope, curvature = 0.0, 0.0
    for z, label in zip(logits, labels):
        p = scipy.special.softmax(z / fitted)
        slope += (p @ z - z[label]) ** 2
        curvature += p @ (z - p @ z) ** 2
    expected = np.sqrt(slope) / curvature * fitted
    assert c.temperature_error(logits, labels, fitted) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("factor", mostly_long([1.0, 30.0], keep=[1.0]))
def test_the_interval_of_a_temperature_covers(factor):
    """Labels drawn from softmax(logits / 1.7): T is known. A factor on the logits is one on T."""
    rng, inside = np.random.default_rng(0), 0
    for _ in range(120):
        logits = 3 * rng.normal(size=(150, 6))
        labels = (logits / 1.7 + rng.gumbel(size=logits.shape)).argmax(axis=1)
        logits *= factor
        fitted = c.fit_temperature(logits, labels)
        got = c.temperature_interval(fitted, c.temperature_error(logits, labels, fitted))
        assert got.lo < fitted < got.hi
        inside += got.lo <= 1.7 * factor <= got.hi
    assert 0.89 <= inside / 120 <= 0.99


@pytest.mark.parametrize("edges", [c.equal_width_edges(15), c.equal_mass_edges(CONFIDENCE, 4)])
def test_sums_of_resamples_are_those_of_the_resampled_images(edges):
    weights = np.random.default_rng(0).poisson(1.0, (6, 10))
    weights[:, 0] += 1
    sums = np.tensordot(weights.astype(float), c.bin_columns(CONFIDENCE, CORRECT, edges), 1)
    for row, each in zip(weights, sums):
        bins = c.reliability(CONFIDENCE, CORRECT, edges, weights=row)
        np.testing.assert_allclose(each, [bins.count, bins.confidence, bins.correct], atol=1e-12)
        assert c.ece_of_sums(each[None])[0] == pytest.approx(c.ece(bins))
        assert c.mce_of_sums(each[None])[0] == pytest.approx(c.mce(bins))


def test_half_split_is_the_recorded_permutation():
    names = [f"n{k % 7}/ILSVRC2012_val_{k + 1:08d}.JPEG" for k in range(50_000)]
    calibration, test = c.half_split(names)
    assert calibration[:5].tolist() == [21526, 45186, 14032, 2506, 6145]
    assert test[:5].tolist() == [13475, 20728, 6417, 22455, 36361]
    assert len(calibration) == len(test) == 25_000
    # The rows of a data set that is ordered by folder: the same files, wherever they stand.
    by_folder = sorted(range(50_000), key=names.__getitem__)
    moved, _ = c.half_split([names[k] for k in by_folder])
    assert [by_folder[k] for k in moved[:5]] == calibration[:5].tolist()


@pytest.mark.parametrize("n", [2, 7, 100])
def test_half_split_is_sklearns_with_the_halves_exchanged(n):
    calibration, test = c.half_split([f"{k:03d}.png" for k in range(n)])
    first, second = train_test_split(np.arange(n), test_size=0.5, random_state=333)
    assert (calibration == second).all()
    assert (test == first).all()
    other = train_test_split(np.arange(n), test_size=0.5, random_state=334)[1]
    assert n == 2 or (calibration != other).any()


def test_half_split_orders_one_file_name_by_its_folders():
    """Class folders may number their images alike; then the order of rows must still not matter."""
    names = [f"{folder}/{k}.png" for folder in "cab" for k in range(4)]
    ordered = sorted(names, key=lambda name: (name.split("/")[1], name))
    calibration, _ = c.half_split(names)
    dealt = np.random.RandomState(333).permutation(12)
    assert [names[row] for row in calibration] == [ordered[k] for k in dealt[:6]]


def test_half_split_refuses():
    with pytest.raises(ValueError, match=r"two images are called 'x/a\.png'"):
        c.half_split(["x/a.png", "b.png", "x/a.png"])
    with pytest.raises(ValueError, match="1 images; a split needs two"):
        c.half_split(["a.png"])


def test_parts_add_up_and_devices_do_not_matter(clip_like):
    logits, labels = clip_like
    whole = c.score(logits, labels)
    edges = c.equal_width_edges(15)
    table = c.reliability(whole.confidence, whole.correct, edges)
    parts = [c.score(logits[a:b], labels[a:b]) for a, b in ((0, 1), (1, 400), (400, 700))]
    sums = [c.reliability(part.confidence, part.correct, edges) for part in parts]
    added = sums[0] + sums[1] + sums[2]
    assert (added.count == table.count).all()
    assert c.ece(added) == pytest.approx(c.ece(table), abs=1e-14)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = jax.device_put(logits, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))
    for ours, theirs in zip(c.score(sharded, labels), whole):
        np.testing.assert_allclose(ours, theirs, atol=1e-14)
    assert c.fit_temperature(sharded, labels) == pytest.approx(c.fit_temperature(logits, labels), rel=1e-12)
    with pytest.raises(ValueError, match="different edges"):
        _ = table + c.reliability(whole.confidence, whole.correct, c.equal_width_edges(25))


def test_weights_are_a_mask_and_multiplicities(clip_like):
    logits, labels = clip_like[0][:90], clip_like[1][:90]
    times = np.random.default_rng(3).integers(0, 4, 90)
    rows = np.repeat(np.arange(90), times)
    # What stands in a row that does not count may be anything.
    dirty, marks = logits.copy(), labels.copy()
    dirty[times == 0], marks[times == 0] = np.nan, -1
    scored, repeated = c.score(dirty, marks, weights=times), c.score(logits[rows], labels[rows])
    assert c.mean(scored.nll, times) == pytest.approx(c.mean(repeated.nll), abs=1e-13)
    edges = c.equal_mass_edges(scored.confidence, 7, times)
    np.testing.assert_array_equal(edges, c.equal_mass_edges(repeated.confidence, 7))
    ours = c.reliability(scored.confidence, scored.correct, edges, weights=times)
    assert c.ece(ours) == pytest.approx(
        c.ece(c.reliability(repeated.confidence, repeated.correct, edges)), abs=1e-14
    )
    assert c.fit_temperature(dirty, marks, weights=times) == pytest.approx(
        c.fit_temperature(logits[rows], labels[rows]), rel=1e-10
    )
    assert c.mean(scored.brier, times > 0) == pytest.approx(scored.brier[times > 0].mean())


def test_one_image_one_bin_and_confidence_zero():
    one = c.score(np.array([[0.0, 1.0]]), np.array([1]))
    assert ece_of(one.confidence, one.correct, 15) == pytest.approx(1 - one.confidence[0])
    assert ece_of(np.array([0.0]), np.array([True]), 15) == 1.0


def test_a_tie_of_the_best_class_goes_to_the_lowest_index():
    scored = c.score(np.zeros((2, 4)), np.array([0, 1]))
    assert scored.correct.tolist() == [True, False]


def test_refusals(clip_like):
    logits, labels = clip_like
    broken = logits.copy()
    broken[7, 3] = np.nan
    with pytest.raises(ValueError, match="row 7: its logits hold NaN"):
        c.score(broken, labels)
    with pytest.raises(ValueError, match="row 7: its logits hold NaN"):
        c.fit_temperature(broken, labels)
    with pytest.raises(ValueError, match=r"row 0: its label is outside 0\.\.9"):
        c.score(logits[:1, :10], np.array([10]))
    with pytest.raises(ValueError, match="no image counts"):
        c.score(logits[:0], labels[:0])
    with pytest.raises(ValueError, match="temperature is 0"):
        c.score(logits, labels, temperature=0)
    with pytest.raises(ValueError, match="row 1: its confidence is not a probability"):
        ece_of(np.array([0.5, np.nan]), np.array([True, True]), 15)
    with pytest.raises(ValueError, match="correct is int64; give bools"):
        ece_of(np.array([0.5]), np.array([1]), 15)
    with pytest.raises(ValueError, match="0 bins"):
        c.equal_width_edges(0)
    with pytest.raises(ValueError, match="weights are float64"):
        c.mean(np.ones(2), np.array([0.5, 0.5]))
    with pytest.raises(ValueError, match="row 1: its weight is negative"):
        c.mean(np.ones(2), np.array([1, -1]))
    with pytest.raises(ValueError, match="but there are 2 images"):
        c.mean(np.ones(2), np.array([1]))
