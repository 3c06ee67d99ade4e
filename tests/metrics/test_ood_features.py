"""OOD scores of features: equal to OpenOOD v1.5's, unlike wrong variants; blocks, ranks, what is refused."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from scipy.special import logsumexp

from clipjax.metrics import ood_features as o


@pytest.fixture(scope="module")
def oracle(test_data):
    with np.load(test_data / "statistics_oracles" / "ood.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def tested(oracle):
    return np.concatenate([oracle["id_features"], oracle["ood_features"]])


def vim_of(oracle, tested, kept):
    weight, bias = oracle["head_weight"], oracle["head_bias"]
    largest = (oracle["train_features"] @ weight.T + bias).max(axis=1)
    fit = o.fit_residual_space(oracle["train_features"], largest, weight.T, bias, kept)
    return fit, o.vim(tested, np.asarray(logsumexp(tested @ weight.T + bias, axis=1)), fit)


def ours(oracle, tested, score):
    """A score of the oracle's name: float64, as the key `ours64__` has it."""
    train, labels = oracle["train_features"], oracle["train_labels"]
    if score.startswith("knn"):
        with jax.enable_x64(True):
            return o.knn(tested, train, int(score[3:]))
    if score.startswith("vim"):
        return vim_of(oracle, tested, int(score[3:]))[1]
    fit, background = (o.fit_gaussians(train, each) for each in (labels, np.zeros_like(labels)))
    return o.mahalanobis(tested, fit) if score == "mds" else o.relative_mahalanobis(tested, fit, background)


SCORES = ("knn1", "knn10", "knn50", "mds", "rmds", "vim8", "vim16", "vim31")
TOLERANCE = {"knn": 1e-6, "mds": 1e-4, "rmds": 1e-4, "vim": 1e-4}  # of OpenOOD in float32


@pytest.mark.parametrize("score", SCORES)
def test_scores_are_those_of_openood(oracle, tested, score):
    kind = score.rstrip("0123456789")
    found = ours(oracle, tested, score)
    assert found.dtype == np.float64
    if (exact := oracle.get(f"ours64__{score}")) is not None:
        np.testing.assert_allclose(found, exact, rtol=1e-6 if kind == "vim" else 1e-9)
    np.testing.assert_allclose(found, oracle[f"f32__{score}"], rtol=0, atol=TOLERANCE[kind])
    wrong = [key for key in oracle if key.startswith((f"WRONG__{score}_", f"OTHER__{score}_"))]
    assert wrong or score == "vim31"
    for key in set(wrong) - {
        "WRONG__knn1_mean_of_k"
    }:  # the mean of one is that one; each other differs by more than what passes here
        assert np.abs(oracle[key] - oracle[f"f32__{score}"]).max() > 50 * TOLERANCE[kind], key


@pytest.mark.parametrize("neighbour", [1, 10, 50])
def test_neighbours_in_float32(oracle, tested, neighbour):
    narrow = tested.astype(np.float32), oracle["train_features"].astype(np.float32)
    found = o.knn(*narrow, neighbour)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, oracle[f"f32__knn{neighbour}"], rtol=0, atol=1e-6)


def test_the_fits_are_those_of_openood(oracle, tested):
    fit = o.fit_gaussians(oracle["train_features"], oracle["train_labels"])
    np.testing.assert_allclose(fit.means, oracle["ours64__mds_class_mean"], rtol=1e-9)
    precision = fit.whitening @ fit.whitening.T
    np.testing.assert_allclose(precision, oracle["ours64__mds_precision"], rtol=1e-9, atol=1e-12)
    for kept in (8, 16, 31):
        space = vim_of(oracle, tested, kept)[0]
        assert space.alpha == pytest.approx(oracle[f"f64__vim{kept}_alpha"], rel=1e-6)
        np.testing.assert_allclose(space.origin, oracle[f"f64__vim{kept}_origin"], rtol=1e-9)
        assert space.residual.shape == (32, 32 - kept)


def test_blocks_of_rows_change_nothing(oracle, tested, monkeypatch):
    """Fit images and images in several blocks, the last of them filled up."""
    whole = {score: ours(oracle, tested, score) for score in ("knn50", "mds", "rmds", "vim16")}
    monkeypatch.setattr(o, "_BLOCK", 7 * 512)
    monkeypatch.setattr(o, "_FIT_ROWS", 512)
    for score, expected in whole.items():
        np.testing.assert_allclose(ours(oracle, tested, score), expected, rtol=1e-9, err_msg=score)


def test_fewer_fit_images_in_a_block_than_neighbours(monkeypatch):
    features = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    whole = o.knn(features[:5], features, 20)
    monkeypatch.setattr(o, "_FIT_ROWS", 8)
    np.testing.assert_allclose(o.knn(features[:5], features, 20), whole, atol=1e-6)


def test_an_image_is_its_own_first_neighbour():
    features = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)
    found = o.knn(features, 3 * features, 1)
    assert found.max() <= 0  # rounding takes none above
    np.testing.assert_allclose(found, 0, atol=1e-6)
    zero = o.knn(np.zeros((1, 5), np.float32), features, 1)  # a zero feature has no direction: distance 1
    np.testing.assert_allclose(zero, -1, rtol=1e-6)


def test_more_neighbours_than_images_are_refused():
    with pytest.raises(ValueError, match="3 training images have no neighbour 50"):
        o.knn(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32))


def test_directions_without_variance_have_no_inverse():
    """A unit that is always 0, as after a ReLU: scikit-learn's pinvh leaves it out, an inverse would fail."""
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(60, 5)), np.arange(60) % 3
    dead = np.concatenate([features, np.zeros((60, 1))], axis=1)
    fit, with_dead = o.fit_gaussians(features, labels), o.fit_gaussians(dead, labels)
    assert (fit.rank, with_dead.rank) == (5, 5)
    moved = dead + np.eye(6)[5]  # only where nothing is known
    np.testing.assert_allclose(o.mahalanobis(moved, with_dead), o.mahalanobis(features, fit), rtol=1e-9)
    assert o.fit_gaussians(np.ones((9, 2)), np.arange(9) % 3).rank == 0


def test_class_numbers_are_names(oracle, tested):
    """Classes without images have no mean: neither zeros nor NaN."""
    some = oracle["train_labels"] < 4
    train, labels = oracle["train_features"][some], oracle["train_labels"][some]
    found = o.mahalanobis(tested, o.fit_gaussians(train, 7 + 3 * labels))
    np.testing.assert_allclose(found, o.mahalanobis(tested, o.fit_gaussians(train, labels)), rtol=1e-12)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_deficient_head_has_the_origin_of_exact_numbers(oracle, dtype):
    """Weights whose rows sum to zero: numpy's pinv (rcond 1e-15) inverts the rounding of float32."""
    weight, train = oracle["head_weight"] - oracle["head_weight"].mean(axis=0), oracle["train_features"]
    fits = [
        o.fit_residual_space(train, train[:, 0], each.T, oracle["head_bias"], 16)
        for each in (weight, weight.astype(dtype))
    ]
    exact = -np.linalg.pinv(weight, rcond=1e-9) @ oracle["head_bias"]
    np.testing.assert_allclose(fits[1].origin, exact, atol=1e-5 * float(np.linalg.norm(exact)))
    wrong = -np.linalg.pinv(weight.astype(np.float32)) @ oracle["head_bias"].astype(np.float32)
    assert np.linalg.norm(wrong - exact) > 0.1 * np.linalg.norm(exact)


def test_features_within_the_kept_dimensions_have_no_alpha():
    rng = np.random.default_rng(0)
    flat = (rng.normal(size=(40, 3)) @ rng.normal(size=(3, 8))).astype(np.float32)
    fit = o.fit_residual_space(flat, flat[:, 0] + 5, np.eye(8), None, 3)
    assert fit.alpha == np.inf
    assert np.isfinite(o.fit_residual_space(flat, flat[:, 0] + 5, np.eye(8), None, 2).alpha)
    np.testing.assert_array_equal(fit.origin, 0)
