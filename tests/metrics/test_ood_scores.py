"""OOD scores against the oracle and SciPy; the direction of each; why float32."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp, softmax
from scipy.stats import entropy

from clipjax.metrics import ood_scores as o
from clipjax.metrics.detection import auroc

COSINES = np.array([[0.31, 0.27, 0.18, 0.05]], np.float32)
ALL = [o.mcm, o.msp, o.max_logit, o.energy, o.negative_entropy]


def test_oracle():
    expected = [
        (o.mcm(COSINES), 0.2770131863),
        (o.mcm(COSINES, 0.01), 0.9820116103),
        (o.msp(COSINES * 100), 0.9820116103),
        (o.energy(COSINES), 1.5936901699),
        (o.negative_entropy(COSINES), -1.3814917241),
        (o.max_logit(COSINES), 0.31),
    ]
    for got, value in expected:
        assert got[0] == pytest.approx(value, abs=1e-6)


@pytest.fixture(scope="module")
def cosines():
    """Of 300 images, half near a class, half at random, and 100 classes. float32 [300, 100]."""
    rng = np.random.default_rng(0)
    classes = rng.normal(size=(100, 32))
    images = np.concatenate(
        [classes[rng.integers(0, 100, 150)] + rng.normal(size=(150, 32)) * 0.8, rng.normal(size=(150, 32))]
    )
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (images, classes)]
    return (unit[0] @ unit[1].T).astype(np.float32)


@pytest.mark.parametrize("temperature", [1.0, 0.01, 2.0])
def test_scores_are_scipys(cosines, temperature):
    x = cosines.astype(np.float64) / temperature
    p = softmax(x, axis=1)
    for got, expected in (
        (o.mcm(cosines, temperature), p.max(axis=1)),
        (o.energy(cosines, temperature), temperature * logsumexp(x, axis=1)),
        (o.negative_entropy(cosines, temperature), -entropy(p, axis=1)),
    ):
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(np.asarray(got), expected, rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(
        np.asarray(o.msp(cosines * 100)), softmax(cosines * 100.0, axis=1).max(axis=1), rtol=5e-5
    )


@pytest.mark.parametrize("score", ALL)
def test_larger_is_more_in_distribution(cosines, score):
    values = np.asarray(score(cosines * 50))
    assert auroc(values[:150], values[150:]) > 0.9


@pytest.mark.parametrize("score", ALL)
def test_half_precision_input_is_computed_in_float32(cosines, score):
    got = np.asarray(score(jnp.asarray(cosines, jnp.bfloat16)))
    assert got.dtype == np.float32
    exact = np.asarray(score(np.asarray(jnp.asarray(cosines, jnp.bfloat16)).astype(np.float32)))
    np.testing.assert_array_equal(got, exact)


def test_mcm_in_half_precision_would_tie(cosines):
    values = np.asarray(o.mcm(cosines))
    assert len(np.unique(values)) > 295
    assert len(np.unique(np.asarray(jnp.asarray(values, jnp.bfloat16)).astype(np.float32))) < 100


def test_raw_cosines_are_not_logits(cosines):
    """MCM's trap: with the logit scale it is MSP, another order of the images."""
    assert (
        np.abs(np.argsort(np.asarray(o.mcm(cosines))) - np.argsort(np.asarray(o.mcm(cosines * 100)))).max()
        > 5
    )


@pytest.mark.parametrize("score", ALL)
def test_a_row_does_not_see_its_neighbours(cosines, score):
    """Padding rows change nothing."""
    padded = np.concatenate([cosines[:7], np.full((3, 100), 9.0, np.float32)])
    np.testing.assert_allclose(np.asarray(score(padded))[:7], np.asarray(score(cosines[:7])), rtol=1e-6)


def test_confident_logits_do_not_overflow():
    logits = np.array([[3e4, -3e4, 0.0]], np.float32)
    assert [float(score(logits)[0]) for score in ALL] == [1, 1, 3e4, 3e4, 0]
