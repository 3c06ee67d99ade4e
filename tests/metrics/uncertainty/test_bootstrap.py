"""The bootstrap against a loop over its own resamples; what its weights promise; intervals."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from clipjax.metrics import detection as d
from clipjax.metrics.cores import usable_cores
from clipjax.metrics.uncertainty import bootstrap as b
from clipjax.metrics.uncertainty.intervals import wilson
from clipjax.metrics.uncertainty.paired import holm

CLUSTERS = np.array([0, 1, 1, 2, 2, 2, 3, 0, 4, 4, 4, 4])
NAMES = ["auroc", "aupr_out", "fpr95_ninco"]


def weights(data: b.Resampling, rows: int = 7) -> np.ndarray:
    return np.concatenate(list(data.blocks(rows)))


@pytest.fixture
def scores():
    rng = np.random.default_rng(0)
    return np.round(rng.normal(1, 1, 80), 1), np.round(rng.normal(0, 1, 50), 1)


def test_values_are_those_of_a_loop_over_the_same_resamples(scores):
    ranking = d.rank(*scores)
    data = b.Resampling("id", 80, resamples=60), b.Resampling("ood", 50, resamples=60)
    got = b.bootstrap(lambda x, y: d.measures(ranking, NAMES, x, y), *data, block=130 * 8)
    for row, (x, y) in enumerate(zip(weights(data[0]), weights(data[1]))):
        drawn = np.repeat(scores[0], x), np.repeat(scores[1], y)
        labels = np.repeat([1, 0], [80, 50])
        assert got["auroc"][row] == pytest.approx(roc_auc_score(labels, np.concatenate(drawn)), abs=1e-12)
        average = average_precision_score(1 - labels, -np.concatenate(drawn))
        assert got["aupr_out"][row] == pytest.approx(average, abs=1e-12)
        threshold = np.quantile(drawn[0], 1 - 0.95)
        assert got["fpr95_ninco"][row] == np.mean(drawn[1] >= threshold)
    assert got["auroc"].shape == (60,)
    assert got["auroc"].std() > 0.01


def test_threads_and_blocks_change_no_number(scores):
    ranking = d.rank(*scores)
    data = b.Resampling("id", 80, resamples=23), b.Resampling("ood", 50, resamples=23)

    def drawn(**how):
        return b.bootstrap(lambda x, y: d.measures(ranking, d.MEASURES, x, y), *data, **how)

    whole = drawn(threads=1)
    for how in ({"threads": 3, "block": 130}, {"threads": 5, "block": 130 * 4}):
        got = drawn(**how)
        assert all((got[name] == whole[name]).all() for name in d.MEASURES)


def test_a_failing_statistic_is_raised():
    def fail(weights):
        raise ValueError("no such number")

    with pytest.raises(ValueError, match="no such number"):
        b.bootstrap(fail, b.Resampling("x", 12), block=24)


def test_mean_on_each_resample():
    values = np.random.default_rng(1).random(12)
    drawn = weights(b.Resampling("x", 12, clusters=CLUSTERS, resamples=20))
    for row, mean in zip(drawn, b.weighted_mean(values, drawn)):
        assert mean == pytest.approx(np.repeat(values, row).mean(), abs=1e-12)


def test_blocks_change_no_number():
    for clusters in (None, CLUSTERS):
        data = b.Resampling("x", 12, clusters=clusters, resamples=23)
        whole = weights(data, 23)
        assert whole.shape == (23, 12)
        for rows in (1, 2, 5, 22, 100):
            assert (weights(data, rows) == whole).all()


def test_weights_depend_on_data_set_and_seed_alone():
    first = weights(b.Resampling("val", 40))
    assert first.shape == (b.RESAMPLES, 40) == (1000, 40)
    assert (first == weights(b.Resampling("val", 40))).all()
    assert (first[:10] == weights(b.Resampling("val", 40, resamples=10))).all()
    for other in (b.Resampling("sun", 40), b.Resampling("val", 40, seed=1)):
        assert abs(np.corrcoef(first.ravel(), weights(other).ravel())[0, 1]) < 0.02


def test_weights_are_multinomial():
    drawn = weights(b.Resampling("x", 50, resamples=4000))
    assert (drawn.sum(axis=1) == 50).all()
    assert drawn.mean() == 1
    assert drawn.var() == pytest.approx(1 - 1 / 50, rel=0.02)
    assert np.abs(drawn.mean(axis=0) - 1).max() < 0.08
    assert np.cov(drawn.T)[np.triu_indices(50, 1)].mean() == pytest.approx(-1 / 50, rel=0.02)


def test_clusters_are_drawn_whole():
    drawn = weights(b.Resampling("x", 12, clusters=CLUSTERS, resamples=500))
    for cluster in range(5):
        members = drawn[:, cluster == CLUSTERS]
        assert (members == members[:, :1]).all()
    first = [np.flatnonzero(cluster == CLUSTERS)[0] for cluster in range(5)]
    assert (drawn[:, first].sum(axis=1) == 5).all()
    assert len(np.unique(drawn.sum(axis=1))) > 3


def test_crossed_factors_are_drawn_on_their_own_and_multiplied():
    """Twelve images of five shapes and three textures: each weight is a product of two draws."""
    textures = np.arange(12) % 3
    crossed = b.Resampling("x", 12, clusters=CLUSTERS, resamples=4000, crossed=(textures,))
    drawn = weights(crossed, 500)
    shapes = weights(b.Resampling("x", 12, clusters=CLUSTERS, resamples=4000), 500)  # one factor: as before
    assert (drawn[shapes == 0] == 0).all()
    ratio = np.where(shapes > 0, drawn / np.maximum(shapes, 1), -1)
    of_texture = np.stack([ratio[:, textures == k].max(axis=1) for k in range(3)], axis=1)
    assert (drawn == shapes * of_texture[:, textures]).all()
    seen = (of_texture >= 0).all(axis=1)  # a texture none of whose shapes is drawn cannot be told
    assert seen.mean() > 0.9
    assert (of_texture[seen].sum(axis=1) == 3).all()
    # Two independent multinomials of R and C units: a cell's mean is 1, its variance (2 - 1/R) (2 - 1/C) - 1.
    assert drawn.mean() == pytest.approx(1, abs=0.03)
    assert drawn.var() == pytest.approx((2 - 1 / 5) * (2 - 1 / 3) - 1, rel=0.05)


def test_factors_of_one_size_are_drawn_differently():
    """Three by three cells: with one stream for both factors a weight on the diagonal would be a square."""
    rows, columns = np.divmod(np.arange(9), 3)
    drawn = weights(b.Resampling("x", 9, rows, 4000, crossed=(columns,)), 1000)
    assert drawn[:, [0, 4, 8]].mean() == pytest.approx(1, abs=0.05)
    assert (drawn[:, 0] == 2).any()


def test_blocks_change_no_number_of_crossed_factors():
    codes = (np.arange(12) % 3, np.arange(12) // 6)
    data = b.Resampling("x", 12, resamples=23, crossed=codes)
    whole = weights(data, 23)
    assert all((weights(data, rows) == whole).all() for rows in (1, 5, 22))
    assert data.units == 2


def test_crossed_factors_hold_no_more_memory():
    rng, peaks = np.random.default_rng(4), []
    codes = rng.permutation(np.arange(20_000) % 160), rng.permutation(np.arange(20_000) % 48)
    for resamples in (40, 160):
        data = b.Resampling("x", 20_000, codes[0], resamples, crossed=codes[1:])
        tracemalloc.start()
        b.bootstrap(lambda w: {"mean": w.sum(axis=1) / 1.0}, data, threads=2)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]
    assert peaks[0] < 8 * b.BLOCK * 8


def test_clusters_widen_the_interval():
    rng = np.random.default_rng(2)
    clusters = np.repeat(np.arange(20), 30)
    values = np.repeat(rng.normal(size=20), 30) + rng.normal(size=600) * 0.1
    width = {}
    for name, given in (("images", None), ("clusters", clusters)):
        data = b.Resampling("x", 600, clusters=given)
        draws = b.bootstrap(lambda w: {"mean": b.weighted_mean(values, w)}, data)["mean"]
        width[name] = draws.std()
    assert width["clusters"] == pytest.approx(
        values.reshape(20, 30).mean(axis=1).std() / np.sqrt(20), rel=0.1
    )
    assert width["clusters"] > 4 * width["images"]


def test_two_scores_share_resamples(scores):
    """The difference of two nearly equal scores is known far better than either."""
    noise = np.random.default_rng(3).normal(0, 0.05, 80)
    one, two = d.rank(*scores), d.rank(scores[0] + noise, scores[1])
    data = b.Resampling("id", 80), b.Resampling("ood", 50)

    def both(x, y):
        return {str(i): d.measures(each, ["auroc"], x, y)["auroc"] for i, each in enumerate((one, two))}

    draws = b.bootstrap(both, *data)
    assert (draws["0"] - draws["1"]).std() < 0.25 * draws["0"].std()


def test_bootstrap_of_auroc_agrees_with_delong():
    rng = np.random.default_rng(5)
    ranking = d.rank(rng.normal(1, 1, 400), rng.normal(0, 1, 300))
    data = b.Resampling("id", 400), b.Resampling("ood", 300)
    draws = b.bootstrap(lambda x, y: d.measures(ranking, ["auroc"], x, y), *data)["auroc"]
    assert draws.std() == pytest.approx(np.sqrt(d.auroc_variance(ranking)), rel=0.1)
    got, expected = b.percentile_interval(draws), d.auroc_interval(ranking)
    assert got[:2] == pytest.approx(expected[:2], abs=0.006)


def test_percentile_interval():
    draws = np.random.default_rng(6).permutation(np.arange(1001.0))
    got, clustered = b.percentile_interval(draws), b.percentile_interval(draws, 0.5, clustered=True)
    assert got[:2] == pytest.approx((25, 975))
    assert clustered[:2] == pytest.approx((250, 750))
    assert got[2:] == (0.95, "bootstrap_1001")
    assert clustered[2:] == (0.5, "cluster_bootstrap_1001")
    with pytest.raises(ValueError, match="1 of 3 resamples have no value"):
        b.percentile_interval(np.array([0.0, np.nan, 1.0]))


def test_interval_of_a_mean_covers():
    inside = 0
    for seed in range(200):
        values = np.random.default_rng(seed).normal(size=60)
        data = b.Resampling("x", 60, seed=seed)
        got = b.percentile_interval(b.bootstrap(lambda w, v=values: {"m": b.weighted_mean(v, w)}, data)["m"])
        inside += got.lo <= 0 <= got.hi
    assert 0.9 <= inside / 200 <= 0.98


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "x: a bootstrap needs two images or more, there are 0"),
        ({"size": 1}, "two images or more, there are 1"),
        ({"size": 3, "clusters": np.zeros(3, int)}, "two clusters or more, there are 1"),
        ({"size": 3, "clusters": np.array([0, 2, 2])}, "without a gap"),
        ({"size": 3, "clusters": np.array([0, 1])}, "one for each image"),
        ({"size": 3, "crossed": (np.zeros(3, int),)}, "two clusters or more, there are 1"),
        ({"size": 3, "crossed": (np.array([0, 2, 2]),)}, "without a gap"),
        ({"size": 3, "crossed": (np.array([0, 1]),)}, "one for each image"),
        ({"size": 3, "resamples": 0}, "one resample or more, not 0"),
    ],
)
def test_what_cannot_be_resampled(arguments, message):
    with pytest.raises(ValueError, match=message):
        b.Resampling("x", **arguments)


def test_data_sets_of_one_bootstrap():
    with pytest.raises(ValueError, match="same number of times"):
        b.bootstrap(lambda x, y: {}, b.Resampling("a", 3), b.Resampling("b", 3, resamples=10))
    with pytest.raises(ValueError, match="would not be independent"):
        b.bootstrap(lambda x, y: {}, b.Resampling("a", 3), b.Resampling("a", 4))


def test_memory_does_not_grow_with_the_resamples():
    peaks = []
    for resamples in (40, 160):
        data = b.Resampling("x", 20_000, resamples=resamples)
        tracemalloc.start()
        b.bootstrap(lambda w: {"mean": w.sum(axis=1) / 1.0}, data)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]
    assert peaks[0] < 8 * b.BLOCK * 8


def test_a_mean_without_draws_that_differ_has_wilsons_interval():
    wide = wilson(0.9 * 10, 10)._replace(method="wilson_pairs")
    nearly = np.append(np.full(99, 0.9), 0.8)  # the percentiles do not see the one that differs
    for draws in (None, np.empty(0), np.full(20, 0.9), nearly):
        assert b.interval_of_mean(0.9, draws, 10, "pairs") == wide
    draws = np.linspace(0.8, 1.0, 21)
    expected = b.percentile_interval(draws, clustered=True)
    assert b.interval_of_mean(0.9, draws, 10, "pairs", clustered=True) == expected
    with pytest.raises(ValueError, match="no value"):
        b.interval_of_mean(0.9, np.array([0.9, np.nan]), 10, "pairs")


def test_a_system_that_does_not_tell_the_cores_of_a_process(scores, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 2, 5}, raising=False)
    assert usable_cores() == 3
    monkeypatch.delattr("os.sched_getaffinity")
    monkeypatch.setattr("os.cpu_count", lambda: None)
    assert usable_cores() == 1
    data = b.Resampling("id", 80, resamples=20)
    got = b.bootstrap(lambda x: {"mean": x @ scores[0] / 80}, data)
    assert got["mean"].shape == (20,)


@pytest.mark.parametrize("tests", [1, 2, 13, 54, 400])
def test_draws_suffice_for_the_number_of_tests(tests):
    """Where every draw is beyond 0, Holm rejects the first of the tests, with a draw or so to spare."""
    p = b.two_sided_p(np.ones(b.draws_for(tests)))
    assert holm([p, *[1.0] * (tests - 1)])[0] < 0.05
    fewer = b.two_sided_p(np.ones(b.draws_for(tests) // 2 - 1))
    assert holm([fewer, *[1.0] * (tests - 1)])[0] >= 0.05
    assert b.draws_for(tests, 0.99) == pytest.approx(5 * b.draws_for(tests), abs=1)


def test_a_two_sided_p_counts_the_sample_itself():
    assert b.two_sided_p(np.array([-0.1, 0.2, 0.3, 0.4])) == pytest.approx(2 * 2 / 5)
    assert b.two_sided_p(np.zeros(9)) == 1
    assert b.two_sided_p(np.ones(1000)) == pytest.approx(2 / 1001)
