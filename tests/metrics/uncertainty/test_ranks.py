"""Rank intervals: equal to the R package csranks on the same draws, and wrong variants are told apart."""

from __future__ import annotations

import numpy as np
import pytest

from clipjax.metrics.uncertainty import ranks
from clipjax.metrics.uncertainty.ranks import PairedMeans, decide_ranks, paired_means


@pytest.fixture(scope="module")
def oracle(test_data):
    with np.load(test_data / "statistics_oracles" / "ranks.npz") as file:
        return dict(file)


def sample(oracle, case, rows=slice(None)):
    correct = oracle[f"{case}_correct"][rows]
    errors = ranks.errors_of_differences(ranks.covariance_of_means(correct))
    return PairedMeans(correct.mean(axis=1), errors, oracle[f"{case}_draws"][:, rows])


SIDES = {"both": "twosided", "best": "lower", "worst": "upper"}


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("step_down", [True, False])
def test_as_csranks_on_its_draws(oracle, side, step_down):
    found = decide_ranks([sample(oracle, "A")], side=side, step_down=step_down)
    name = f"A_{SIDES[side]}_{'step' if step_down else 'single'}"
    [got] = found.ranks
    assert got.lo.tolist() == oracle[f"{name}_L"].tolist()
    assert got.hi.tolist() == oracle[f"{name}_U"].tolist()
    np.testing.assert_allclose(found.critical, oracle[f"{name}_crit"], rtol=0, atol=1e-10)


def test_statistics_have_the_variance_of_a_sample(oracle):
    own = sample(oracle, "A")
    differences = own.means[:, None] - own.means
    with np.errstate(invalid="ignore"):
        got = differences / own.errors
    off = ~np.eye(6, dtype=bool)
    np.testing.assert_allclose(got[off], oracle["A_tstat"][off], rtol=1e-6)
    assert not np.allclose(got[off], oracle["A_WRONG_ddof0_tstat"][off], rtol=1e-6)


@pytest.mark.parametrize("wrong", ["drop_both_directions", "percentile", "pairwise196"])
def test_wrong_variants_differ(oracle, wrong):
    [got] = decide_ranks([sample(oracle, "A")]).ranks
    bounds = oracle[f"A_WRONG_{wrong}_L"], oracle[f"A_WRONG_{wrong}_U"]
    assert int(np.sum(got.lo != bounds[0]) + np.sum(got.hi != bounds[1])) == 3


def test_the_best_are_those_that_none_beats(oracle):
    [got] = decide_ranks([sample(oracle, "A")]).ranks
    assert (got.lo == 1).tolist() == oracle["A_taubest1"].tolist()
    assert (got.lo <= 3).tolist() == oracle["A_taubest3"].tolist()
    assert (got.hi == 6).tolist() == oracle["A_tauworst1"].tolist()


def test_own_draws_agree(oracle):
    own = paired_means(oracle["A_correct"], 20_000, np.random.default_rng(0))
    found = decide_ranks([own])
    assert found.ranks[0].lo.tolist() == oracle["A_twosided_step_L"].tolist()
    assert found.ranks[0].hi.tolist() == oracle["A_twosided_step_U"].tolist()
    np.testing.assert_allclose(found.critical, oracle["A_twosided_step_R100000_crit"], atol=0.05)


def test_models_without_a_chance_of_their_own(oracle):
    """Rows 0 and 1 are always right, 6 is always wrong, 3 and 4 are identical."""
    found = decide_ranks([sample(oracle, "C")])
    [got] = found.ranks
    assert got.lo.tolist() == oracle["C_twosided_step_L"].tolist()
    assert got.hi.tolist() == oracle["C_twosided_step_U"].tolist()
    np.testing.assert_allclose(found.critical, oracle["C_twosided_step_crit"], atol=1e-10)
    [part] = decide_ranks([sample(oracle, "C", oracle["Csub_rows"])]).ranks
    assert part.lo.tolist() == oracle["Csub_twosided_step_L"].tolist()


def test_identical_rows_have_no_error_in_any_order():
    """Rounding of a matrix product must not become a standard error."""
    rng = np.random.default_rng(0)
    row = rng.random(50_000) < 0.7
    scores = np.stack([row, rng.random(50_000) < 0.71, row, rng.random(50_000) < 0.2, row])
    errors = ranks.errors_of_differences(ranks.covariance_of_means(scores))
    assert errors[0, 2] == errors[2, 4] == errors[4, 0] == 0
    other = row.copy()
    other[0] = not other[0]  # the smallest difference that there is
    assert ranks.errors_of_differences(ranks.covariance_of_means(np.stack([row, other])))[0, 1] > 0


@pytest.mark.parametrize("right", [False, True])
def test_models_that_are_all_right_or_all_wrong_are_all_first(right):
    found = decide_ranks([paired_means(np.full((3, 50), right), 100, np.random.default_rng(0))])
    assert (found.ranks[0].lo == 1).all()
    assert (found.ranks[0].hi == 3).all()
    assert found.critical == []


def test_a_second_data_set_joins_the_family():
    """More tests have a higher critical value, and each set keeps its own ranks."""
    rng = np.random.default_rng(0)
    accuracy = np.array([0.8, 0.6, 0.4])[:, None]
    first, second = (paired_means(rng.random((3, 400)) < accuracy, 4000, rng) for _ in range(2))
    alone, both = decide_ranks([first]), decide_ranks([first, second])
    assert both.critical[0] > alone.critical[0] + 0.1
    assert [each.lo.tolist() for each in both.ranks] == [[1, 2, 3], [1, 2, 3]]


@pytest.mark.parametrize("models", [2, 12])
def test_the_intervals_of_equal_models_hold_together(models):
    """A joint error of .05; of 12 equal models, all of 12 intervals must be 1 to 12."""
    rng = np.random.default_rng(models)
    held = 0
    for _ in range(200):
        difficulty = rng.normal(size=500)
        right = rng.normal(size=(models, 500)) + difficulty > 0
        [got] = decide_ranks([paired_means(right, 500, rng)]).ranks
        held += not got.better.any()
    assert 0.91 <= held / 200 <= 0.985


@pytest.mark.parametrize(
    ("shape", "why"),
    [((1, 100), "two models or more, there is 1"), ((4, 3), "30 images or more, there are 3")],
)
def test_too_little_is_refused(shape, why):
    with pytest.raises(ValueError, match=why):
        paired_means(np.zeros(shape, bool), 100, np.random.default_rng(0))


def test_other_values_are_refused():
    with pytest.raises(ValueError, match="NaN or infinity"):
        paired_means(np.full((2, 40), np.nan), 100, np.random.default_rng(0))
    with pytest.raises(ValueError, match="give both, best or worst"):
        decide_ranks([], side="upper")
