"""Detection measures against scikit-learn, loops over thresholds, the published oracle, and mutations."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import sklearn.metrics as sk
from _long import mostly_long
from scipy.stats import binom, norm

from clipjax.metrics import curves
from clipjax.metrics import detection as d
from clipjax.metrics.uncertainty.intervals import wilson

ORACLE = (
    np.array([(37 * i) % 101 / 101 for i in range(1, 21)]),
    np.array([0.8 * ((53 * i) % 97) / 97 for i in range(1, 16)]),
)
KINDS = ("distinct", "rounded", "tied", "saturated", "even")


def draw(kind: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    n, m = rng.integers(20, 150, 2)
    if kind == "distinct":
        return rng.normal(1, 1, n).astype(np.float32), rng.normal(0, 1, m).astype(np.float32)
    if kind == "rounded":  # many small ties
        return rng.normal(1, 1, n).round(1), rng.normal(0, 1, m).round(1)
    if kind == "tied":
        return rng.integers(1, 7, n).astype(np.float32), rng.integers(0, 6, m).astype(np.float32)
    if kind == "saturated":  # MSP in float32: most images at exactly 1
        return np.minimum(rng.normal(2, 1, n), 1).astype(np.float32), np.minimum(rng.normal(1, 1, m), 1)
    return rng.integers(0, 20, 20) / 4, rng.integers(0, 20, 40) / 4  # a recall of exactly 19/20 is common


CASES = [ORACLE, *(draw(kind, s) for kind in KINDS for s in range(12))]
STEPS = d._steps
CORNERS = {
    "perfect": ([3.0, 4.0], [1.0, 2.0, 2.0]),
    "hopeless": ([1.0, 2.0], [3.0, 4.0, 4.0]),
    "constant": ([5.0] * 4, [5.0] * 3),
    "one and one": ([1.0], [0.0]),
    "one OOD image": ([1.0, 2.0, 3.0, 3.0], [3.0]),
    "one ID image": ([2.0], [1.0, 2.0, 3.0]),
}


def reference(id_scores, ood_scores):
    """Every measure, from scikit-learn or a loop over all thresholds."""
    labels = np.r_[np.ones(len(id_scores)), np.zeros(len(ood_scores))]
    scores = np.r_[id_scores, ood_scores].astype(np.float64)
    fpr, tpr, _ = sk.roc_curve(1 - labels, -scores, drop_intermediate=False)
    area = {}
    for side, is_positive, score in (("in", labels, scores), ("out", 1 - labels, -scores)):
        precision, recall, _ = sk.precision_recall_curve(is_positive, score)
        area[f"aupr_{side}"] = sk.average_precision_score(is_positive, score)
        area[f"aupr_{side}_trapezoid"] = sk.auc(recall, precision)
    threshold = np.quantile(np.asarray(id_scores, np.float64), 1 - 0.95)
    return area | {
        "auroc": sk.roc_auc_score(labels, scores),
        "fpr95_mos": closest(id_scores, ood_scores),
        "fpr95_imagenet_o": closest(-np.asarray(ood_scores), -np.asarray(id_scores)),
        "fpr95_openood": fpr[np.argmax(tpr >= 0.95)],
        "fpr95_ninco": np.mean(np.asarray(ood_scores) >= threshold),
    }


def closest(positive, negative):
    """Thresholds from full recall upwards; the first whose recall is nearest to 0.95."""
    positive, negative = np.asarray(positive, np.float64), np.asarray(negative, np.float64)
    best, rate = np.inf, np.nan
    for threshold in np.unique(np.r_[positive, negative]):
        distance = abs(np.sum(positive >= threshold) / len(positive) - 0.95)
        if threshold >= positive.min() and distance < best:
            best, rate = distance, np.mean(negative >= threshold)
    return rate


@functools.cache
def expected():
    """The reference of each case."""
    return [reference(*pair) for pair in CASES]


def error(measure):
    """The largest error of a measure over the cases."""
    got = [d.detection(*pair, [measure])[measure] for pair in CASES]
    return max(abs(value - case[measure]) for value, case in zip(got, expected()))


@pytest.mark.parametrize("measure", d.MEASURES)
def test_every_measure_is_the_references(measure):
    assert error(measure) < 1e-12


@pytest.mark.parametrize("corner", CORNERS)
def test_corners(corner):
    pair = CORNERS[corner]
    assert d.detection(*pair) == pytest.approx(reference(*pair), abs=1e-12)


def test_published_oracle():
    got = d.detection(*ORACLE)
    expected = {"auroc": 0.65, "aupr_in": 0.762312, "fpr95_mos": 0.933333, "fpr95_ninco": 0.8}
    expected |= {"fpr95_openood": 0.75, "aupr_in_trapezoid": 0.755504, "aupr_out_trapezoid": 0.570610}
    for name, value in expected.items():
        assert got[name] == pytest.approx(value, abs=1e-6), name
    assert d._threshold(d.rank(*ORACLE), np.arange(21)[None])[0] == pytest.approx(0.0955445545, abs=1e-9)


def test_openood_as_it_runs_agrees_where_scores_are_distinct():
    """Its roc_curve drops points on straight pieces, which the definition does not."""
    for seed in range(20):
        id_scores, ood_scores = draw("distinct", seed)
        labels = np.r_[np.zeros(len(id_scores)), np.ones(len(ood_scores))]
        fpr, tpr, _ = sk.roc_curve(labels, -np.r_[id_scores, ood_scores])
        assert d.detection(id_scores, ood_scores)["fpr95_openood"] == fpr[np.argmax(tpr >= 0.95)]


def test_a_recall_as_far_below_as_above():
    """9/10 and 1 are as far from 0.95, but not in float64: the reference takes 9/10."""
    positive = np.arange(10.0)
    assert abs(9 / 10 - 0.95) < abs(1 - 0.95)
    assert d.detection(positive, [-1.0, 0.0, 0.5, 1.5])["fpr95_mos"] == 0.5  # just above 0: two of four
    # Of 50, 47 and 48 are as far even in float64: the higher recall, just above 1.
    assert abs(47 / 50 - 0.95) == abs(48 / 50 - 0.95)
    assert d.detection(np.arange(50.0), [-1.0, 1.5])["fpr95_mos"] == closest(np.arange(50), [-1, 1.5]) == 0.5


def test_the_quantile_is_numpys_to_the_bit():
    rng = np.random.default_rng(0)
    for n in (*range(1, 400), 4999):
        scores = rng.normal(size=n)
        got = d._threshold(d.rank(scores, [0.0]), np.arange(n + 1)[None])[0]
        assert got == np.quantile(scores, 1 - 0.95)


def test_integers_floats_and_signed_zero():
    assert d.auroc(np.array([0, 1, 2]), np.array([0, 1])) == d.auroc([0.0, 1.0, 2.0], [-0.0, 1.0])
    assert d.auroc(np.array([0.1], np.float32), np.array([0.1])) == 1.0  # 0.1f is above 0.1


@pytest.mark.parametrize(
    ("id_scores", "ood_scores", "message"),
    [
        ([], [1.0], "needs ID and OOD images, there are 0 ID and 1 OOD"),
        ([1.0, 2.0], [], "there are 2 ID and 0 OOD"),
        ([1.0, np.nan, np.nan], [1.0], "2 ID scores are not finite, the first is nan at 1"),
        ([1.0], [0.0, -np.inf], "1 OOD scores are not finite, the first is -inf at 1"),
        ([[1.0]], [0.0], r"one number per image, their shape is \(1, 1\)"),
    ],
)
def test_what_has_no_measure(id_scores, ood_scores, message):
    with pytest.raises(ValueError, match=message):
        d.detection(id_scores, ood_scores)


def test_unknown_measures_and_unfit_weights():
    ranking = d.rank([1.0, 2.0], [0.0])
    with pytest.raises(ValueError, match="there is no measure 'fpr95'; there are auroc"):
        d.measures(ranking, ["fpr95"])
    for bad in (np.ones((1, 3), int), np.ones(2, int), np.ones((1, 2))):
        with pytest.raises(ValueError, match=r"whole numbers \[B, 2\]"):
            d.measures(ranking, ["auroc"], bad)
    with pytest.raises(ValueError, match="row 1 of the weights counts no image"):
        d.measures(ranking, ["auroc"], np.array([[1, 0], [0, 0]]))


# Weights.


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_the_resampled_multiset(kind):
    for seed in range(4):
        id_scores, ood_scores = draw(kind, seed)
        rng = np.random.default_rng(seed)
        id_weights = rng.poisson(0.8, (5, len(id_scores)))
        ood_weights = rng.poisson(0.8, (5, len(ood_scores)))
        got = d.measures(d.rank(id_scores, ood_scores), d.MEASURES, id_weights, ood_weights)
        for row in range(5):
            expected = reference(
                np.repeat(id_scores, id_weights[row]), np.repeat(ood_scores, ood_weights[row])
            )
            for name, value in expected.items():
                assert got[name][row] == pytest.approx(value, abs=1e-12), name


def test_weights_of_one_side_and_masks():
    id_scores, ood_scores = draw("tied", 3)
    keep = np.random.default_rng(0).random(len(id_scores)) < 0.5
    got = d.measures(d.rank(id_scores, ood_scores), id_weights=np.stack([keep, ~keep]))
    for name in d.MEASURES:
        for row, mask in enumerate((keep, ~keep)):
            assert got[name][row] == d.detection(id_scores[mask], ood_scores)[name]
    got = d.measures(d.rank(ood_scores, id_scores), ood_weights=np.stack([keep, ~keep]))
    assert got["fpr95_ninco"][0] == d.detection(ood_scores, id_scores[keep])["fpr95_ninco"]
    assert got["fpr95_mos"][1] == d.detection(ood_scores, id_scores[~keep])["fpr95_mos"]


def test_the_order_of_images_is_nothing():
    id_scores, ood_scores = draw("tied", 5)
    rng = np.random.default_rng(1)
    assert d.detection(id_scores, ood_scores) == d.detection(
        rng.permutation(id_scores), rng.permutation(ood_scores)
    )


# Classes.


@pytest.fixture
def classed():
    rng = np.random.default_rng(7)
    classes = rng.permutation(np.repeat(np.arange(6), [1, 30, 4, 11, 25, 9]))
    ood_scores = np.round(rng.normal(0.2 * classes, 1), 1)
    return np.round(rng.normal(1, 1, 200), 1), ood_scores, classes


def test_class_means_against_a_loop_over_classes(classed):
    id_scores, ood_scores, classes = classed
    values = d.class_values(d.rank(id_scores, ood_scores), classes)
    expected = [reference(id_scores, ood_scores[classes == c]) for c in range(6)]
    for name in ("auroc", "fpr95_ninco"):
        np.testing.assert_allclose(values[name][0], [each[name] for each in expected], atol=1e-12)
        pooled = d.detection(id_scores, ood_scores)[name]
        assert abs(d.class_mean(values[name])[0] - pooled) > 0.01
        assert d.class_mean(values[name])[0] == pytest.approx(np.mean([each[name] for each in expected]))


def test_resampled_classes_against_a_loop(classed):
    id_scores, ood_scores, classes = classed
    rng = np.random.default_rng(8)
    id_weights = rng.multinomial(200, np.full(200, 1 / 200), 4)
    class_weights = rng.multinomial(6, np.full(6, 1 / 6), 4)
    values = d.class_values(d.rank(id_scores, ood_scores), classes, id_weights)
    for name in values:
        got = d.class_mean(values[name], class_weights)
        for row in range(4):
            drawn = np.repeat(np.arange(6), class_weights[row])
            id_drawn = np.repeat(id_scores, id_weights[row])
            each = [reference(id_drawn, ood_scores[classes == c])[name] for c in drawn]
            assert got[row] == pytest.approx(np.mean(each), abs=1e-12)


def test_classes_must_cover():
    with pytest.raises(ValueError, match=r"2 classes for 3 OOD scores"):
        d.class_values(d.rank([1.0], [0.0, 1.0, 2.0]), np.array([0, 1]))
    with pytest.raises(ValueError, match=r"without an image: \[1\]"):
        d.class_values(d.rank([1.0], [0.0, 1.0]), np.array([0, 2]))


# The interval.


def slow_delong(id_scores, ood_scores):
    wins = np.array([[(x > y) + 0.5 * (x == y) for y in ood_scores] for x in id_scores])
    by_id, by_ood = wins.mean(axis=1), wins.mean(axis=0)
    return by_id.var(ddof=1) / len(id_scores) + by_ood.var(ddof=1) / len(ood_scores)


@pytest.mark.parametrize("kind", KINDS)
def test_delong_against_all_pairs(kind):
    for seed in range(3):
        pair = draw(kind, seed)
        assert d.auroc_variance(d.rank(*pair)) == pytest.approx(slow_delong(*pair), rel=1e-10)


def test_the_interval_by_hand():
    ranking = d.rank(*ORACLE)
    got = d.auroc_interval(ranking, 0.9)
    half = norm.ppf(0.95) * np.sqrt(slow_delong(*ORACLE)) / (0.65 * 0.35)
    odds = np.exp(np.log(0.65 / 0.35) + np.array([-half, half]))
    assert got[:2] == pytest.approx(tuple(odds / (1 + odds)))
    assert got[2:] == (0.9, "delong_logit")


@pytest.mark.parametrize("corner", CORNERS)
def test_no_interval_shrinks_to_a_point(corner):
    pair = CORNERS[corner]
    got = d.auroc_interval(d.rank(*pair))
    assert got.method == "wilson_pairs"
    assert 0 <= got.lo <= d.auroc(*pair) <= got.hi <= 1
    assert got.hi - got.lo > 0.3


COVERING = [(60, 40, 0.5), (40, 30, 2.0), (300, 50, 1.0)]


@pytest.mark.parametrize(("n", "m", "shift"), mostly_long(COVERING, keep=[COVERING[1]]))
def test_the_interval_covers(n, m, shift):
    rng = np.random.default_rng(n)
    truth, inside = norm.cdf(shift / np.sqrt(2)), 0
    for _ in range(400):
        got = d.auroc_interval(d.rank(rng.normal(shift, 1, n), rng.normal(0, 1, m)))
        inside += got.lo <= truth <= got.hi
    assert 0.92 <= inside / 400 <= 0.985


# Mutations: each must be seen by the comparison with the reference.


def one_step_per_image(scores, others):
    place = np.arange(len(scores))
    left = np.searchsorted(others, scores)
    return d._Steps(place, place + 1, left, np.searchsorted(others, scores, side="right"))


def worst_first(scores, others):
    """ID images lose their ties, whichever side is positive."""
    steps = STEPS(scores, others)
    return steps._replace(right=steps.left)


def best_first(scores, others):
    steps = STEPS(scores, others)
    return steps._replace(left=steps.right)


def wrong_direction(id_scores, ood_scores):
    return d.Ranking(-np.asarray(id_scores), -np.asarray(ood_scores))


@pytest.mark.parametrize(
    ("name", "replacement", "seen"),
    [
        ("_steps", worst_first, ["auroc", "aupr_out", "aupr_in_trapezoid", "fpr95_openood", "fpr95_mos"]),
        ("_steps", best_first, ["auroc", "aupr_in", "aupr_out_trapezoid", "fpr95_imagenet_o"]),
        ("_steps", one_step_per_image, ["aupr_in", "aupr_out", "aupr_in_trapezoid", "aupr_out_trapezoid"]),
        ("rank", wrong_direction, d.MEASURES),
    ],
)
def test_mutations_are_caught(monkeypatch, name, replacement, seen):
    monkeypatch.setattr(d, name, replacement)
    for measure in seen:
        assert error(measure) > 0.01, measure


@pytest.mark.parametrize("measure", [name for name in d._OF_COUNTS if name != "auroc"])
def test_the_wrong_positive_class_is_caught(monkeypatch, measure):
    side, kernel = d._OF_COUNTS[measure]
    other = d._ood_positive if side is d._id_positive else d._id_positive
    monkeypatch.setitem(d._OF_COUNTS, measure, (other, kernel))
    assert error(measure) > 0.01


@pytest.mark.parametrize(
    ("measure", "kernel"),
    [
        ("fpr95_mos", curves.fpr_first),
        ("fpr95_openood", curves.fpr_closest),
        ("aupr_in", curves.trapezoidal_precision),
        ("aupr_out_trapezoid", curves.average_precision),
    ],
)
def test_one_convention_for_another_is_caught(monkeypatch, measure, kernel):
    monkeypatch.setitem(d._OF_COUNTS, measure, (d._OF_COUNTS[measure][0], kernel))
    assert error(measure) > 0.01


def test_a_ranking_is_not_for_writing():
    with pytest.raises(dataclasses.FrozenInstanceError):
        d.rank([1.0], [0.0]).id_scores = np.zeros(1)  # type: ignore[misc]


FEW_ID_IMAGES = [(200, 1000), (200, 50), (5000, 100)]


@pytest.mark.parametrize(("known", "others"), mostly_long(FEW_ID_IMAGES, keep=[FEW_ID_IMAGES[1]]))
def test_the_interval_of_a_class_rate_covers_with_few_id_images(known, others):
    """Wilson's, which takes the threshold as fixed, does not."""
    rng = np.random.default_rng(known + others)
    shift = -norm.ppf(0.5) - norm.ppf(0.05)  # half of the OOD images pass
    ours, fixed = [], []
    for _ in range(300):
        ranking = d.rank(rng.normal(shift, 1, known), rng.normal(0, 1, others))
        limits = d.fpr95_interval(ranking)
        rate = d.measures(ranking, ["fpr95_ninco"])["fpr95_ninco"][0]
        assert 0 <= limits.lo <= rate <= limits.hi <= 1
        plain = wilson(rate * others, others)
        ours.append(limits.lo <= 0.5 <= limits.hi)
        fixed.append(plain.lo <= 0.5 <= plain.hi)
    assert np.mean(ours) >= 0.93
    if others > known:
        assert np.mean(fixed) < 0.6


def test_limits_of_the_threshold_are_order_statistics():
    """Their chance, by scipy's binomial: at most 2.5 % on each side, and more one image further in."""
    scores = np.arange(200.0)
    low, high = d._threshold_limits(scores, 0.95)
    below = binom(200, 0.05)
    assert (
        below.cdf(low) <= 0.025 < below.cdf(low + 1)
    )  # score k is above the quantile: at most k images are below it
    assert below.sf(high) <= 0.025 < below.sf(high - 1)
    assert (low, high) == (3, 16)
    assert d._threshold_limits(scores[:20], 0.95)[0] == -np.inf
    one = d.fpr95_interval(d.rank(np.zeros(1), np.zeros(1)))
    assert (one.lo, one.hi) == (0, 1)
