"""The cache of labelled features: affinities and the counts of the search, against NumPy loops."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.metrics import cache

REFERENCE_BETAS = np.array([0.1 + i * (7 - 0.1) / 200 for i in range(200)])
REFERENCE_ALPHAS = np.array([0.1 + i * (3 - 0.1) / 20 for i in range(20)])


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def world(shots, images=70, dim=12, seed=0):
    """Features, zero-shot logits, labels, keys, values: classes that overlap, so that the cache matters."""
    rng = np.random.default_rng(seed)
    centre = unit(rng.normal(size=(len(shots), dim)))
    labels = rng.integers(0, len(shots), images)
    values = rng.permutation(np.repeat(np.arange(len(shots)), shots))
    features = unit(centre[labels] + 1.2 * unit(rng.normal(size=(images, dim))))
    keys = unit(centre[values] + 1.2 * unit(rng.normal(size=(len(values), dim))))
    logits = 10 * features @ unit(centre + 1.5 * unit(rng.normal(size=centre.shape))).T
    return features, logits, labels, keys.T.copy(), values


def loop(features, logits, labels, keys, values, betas, alphas):
    """As the reference's loops have it: everything again for each pair."""
    counts = np.zeros((len(betas), len(alphas)), np.int64)
    one_hot = np.eye(logits.shape[1], dtype=np.float32)[values]
    for i, beta in enumerate(betas.astype(np.float32)):
        for j, alpha in enumerate(alphas.astype(np.float32)):
            scores = logits + alpha * (np.exp(-(beta - beta * (features @ keys))) @ one_hot)
            counts[i, j] = (scores.argmax(axis=1) == labels).sum()
    return counts


@pytest.mark.parametrize("shots", [[4] * 9, [1, 7, 0, 3, 2, 5, 4, 1]], ids=["equal", "unequal"])
def test_every_count_equals_the_loop(shots):
    features, logits, labels, keys, values = world(shots)
    expected = loop(features, logits, labels, keys, values, REFERENCE_BETAS, REFERENCE_ALPHAS)
    assert expected.max() - expected.min() >= 3, "a grid on which nothing changes tells nothing"
    blocks = [(features[at], logits[at], labels[at]) for at in (slice(0, 40), slice(40, 70))]
    found = cache.count_correct(blocks, keys, values, REFERENCE_BETAS, REFERENCE_ALPHAS)
    np.testing.assert_array_equal(found, expected)


def test_uneven_betas_zero_and_negative_alphas_and_padding():
    features, logits, labels, keys, values = world([3, 1, 2, 0, 3])
    betas, alphas = np.array([0.0, 0.3, 5.5, 60.0]), np.array([-1.0, 0.0, 0.7])
    expected = loop(features, logits, labels, keys, values, betas, alphas)
    labels = np.append(labels, -1)
    features, logits = (np.concatenate([part, part[:1]]) for part in (features, logits))
    found = cache.count_correct([(features, logits, labels)], keys, values, betas, alphas)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("rows", [1, 8])
def test_a_cpu_and_an_accelerator_take_the_images_differently_and_count_the_same(rows):
    features, logits, labels, keys, values = world([2] * 6, images=8)
    betas, alphas = np.linspace(0.5, 3, 4), np.linspace(0.1, 2, 3)
    arrays = cache._by_slot(keys, values, 6)
    coarse, fine = cache._summands(betas)
    images = jax.device_put((features, logits, labels.astype(np.int32)))
    found = cache._count(*images, *arrays, coarse, fine, alphas.astype(np.float32), rows=rows)
    np.testing.assert_array_equal(found, loop(features, logits, labels, keys, values, betas, alphas))


def test_of_equal_logits_the_first_class_wins():
    # One feature, whose key is of class 1: logits are [1, alpha, 1].
    feature, keys = np.ones((1, 1), np.float32), np.ones((1, 1), np.float32)
    logits, alphas = np.array([[1, 0, 1]], np.float32), np.array([0.5, 1.0, 1.5])

    def right(label, logits=logits):
        block = (feature, logits, np.array([label]))
        return cache.count_correct([block], keys, np.array([1]), np.array([1.0]), alphas)[0].tolist()

    assert right(0) == [1, 1, 0]
    assert right(1) == [0, 0, 1]
    assert right(2) == [0, 0, 0]
    # Class 2 comes after 1, and a tie of the two is the first's.
    assert right(2, np.array([[0, 0, 1]], np.float32)) == [1, 0, 0]
    assert right(1, np.array([[0, 0, 1]], np.float32)) == [0, 1, 1]


def test_evenly_spaced_betas_share_their_exponentials():
    coarse, fine = cache._summands(REFERENCE_BETAS)
    assert (len(coarse), len(fine)) == (15, 14)
    sums = (coarse[:, None].astype(float) + fine).ravel()[:200]
    np.testing.assert_allclose(sums, REFERENCE_BETAS, rtol=1e-6)
    assert len(cache._summands(np.array([0.0, 1.0, 3.0, 4.5]))[1]) == 1


@pytest.mark.parametrize("order", ["sorted", "shuffled"])
def test_affinities_and_their_gradient(order):
    features, logits, _, keys, values = world([3] * 5)
    if order == "sorted":
        values, keys = np.sort(values), keys[:, np.argsort(values, kind="stable")]
    one_hot = np.eye(5)[values]

    def summed(keys):
        found = cache.affinities(jnp.asarray(features), keys, values, 1.7, num_classes=5)
        return (found * jnp.asarray(logits)).sum(), found

    (_, found), gradient = jax.jit(jax.value_and_grad(summed, has_aux=True))(keys)
    terms = np.exp(-1.7 * (1 - features.astype(float) @ keys))
    np.testing.assert_allclose(found, terms @ one_hot, rtol=1e-5)
    expected = 1.7 * features.T.astype(float) @ (terms * (logits @ one_hot.T))
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-4)


def test_classes_outside_are_refused():
    features, logits, labels, keys, values = world([1, 1, 1])
    grid = np.array([1.0]), np.array([1.0])
    with pytest.raises(ValueError, match="row 1: the key's class is not among the 3"):
        cache.count_correct([(features, logits, labels)], keys, np.array([0, 3, 2]), *grid)
    with pytest.raises(ValueError, match="row 0: the label is not among the 3 classes"):
        cache.count_correct([(features, logits, np.full(70, 3))], keys, values, *grid)
