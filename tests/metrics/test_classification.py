"""Classification kernels against scikit-learn, NumPy loops and hand-worked cases."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from sklearn.metrics import top_k_accuracy_score

from clipjax.metrics import classification as c


@pytest.fixture
def scores():
    return np.random.default_rng(0).normal(size=(211, 13)).astype(np.float32)


@pytest.fixture
def labels():
    return np.random.default_rng(1).integers(0, 13, 211).astype(np.int32)


@pytest.mark.parametrize("k", [1, 5, 12])
def test_top_k_accuracy_is_sklearns(scores, labels, k):
    hits = np.asarray(c.in_top_k(c.top_k(scores, k=k), labels))
    assert hits.sum() == top_k_accuracy_score(labels, scores, k=k, labels=np.arange(13), normalize=False)


def test_top_k_order_and_ties_by_hand():
    scores = np.array([[1, 3, 3, 2], [0, 0, 0, 0], [2, 1, 2, 2]], np.float32)
    assert c.top_k(scores, k=3).tolist() == [[1, 2, 3], [0, 1, 2], [0, 2, 3]]


def test_ties_are_broken_as_argmax_does():
    scores = np.random.default_rng(2).integers(0, 3, (500, 40)).astype(np.float32)
    assert (np.asarray(c.top_k(scores, k=1))[:, 0] == scores.argmax(axis=1)).all()
    stable = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    assert (np.asarray(c.top_k(scores, k=5)) == stable).all()


def test_class_counts_against_a_loop(labels):
    correct = np.random.default_rng(3).random(211) < 0.4
    hits, total = c.class_counts(labels, correct, num_classes=15)
    for k in range(15):
        assert int(total[k]) == sum(1 for label in labels if label == k)
        assert int(hits[k]) == sum(1 for label, ok in zip(labels, correct) if label == k and ok)
    assert hits.dtype == total.dtype == np.int32


def test_padding_counts_nowhere():
    hits, total = c.class_counts(np.array([0, -1, 1, 5], np.int32), np.array([True] * 4), num_classes=2)
    assert hits.tolist() == total.tolist() == [1, 1]


def test_softmax_is_accurate_at_clips_scale():
    from scipy.special import softmax

    logits = np.random.default_rng(4).normal(size=(50, 1000)).astype(np.float32) * 30
    expected = softmax(logits.astype(np.float64), axis=1)
    np.testing.assert_allclose(np.asarray(c.softmax(logits)), expected, rtol=2e-5, atol=1e-12)


def test_group_mean_against_a_loop(scores):
    groups = [[3], [0, 12, 5], [7, 3]]
    columns = np.array([i for group in groups for i in group], np.int32)
    owner = np.array([0, 1, 1, 1, 2, 2], np.int32)
    got = np.asarray(c.group_mean(scores, columns, owner, num_groups=3))
    for n in range(len(scores)):
        for k, group in enumerate(groups):
            assert got[n, k] == pytest.approx(np.mean([scores[n, i] for i in group]), abs=1e-6)


def test_group_mean_is_no_sum_and_no_maximum():
    probabilities = np.array([[0.4, 0.4, 0.2, 0.0]], np.float32)
    got = c.group_mean(
        probabilities, np.array([0, 2, 3], np.int32), np.array([0, 1, 1], np.int32), num_groups=2
    )
    np.testing.assert_allclose(np.asarray(got), [[0.4, 0.1]], atol=1e-7)


def test_take_classes(scores):
    assert (np.asarray(c.take_classes(scores, np.array([4, 1]))) == scores[:, [4, 1]]).all()


def test_numpys_arrays_are_counted_as_jaxs(scores, labels):
    rounded, labels = (
        scores.round(1),
        np.concatenate([labels[:200], np.array([-1, 13, 99] * 4, np.int32)[:11]]),
    )
    correct = np.random.default_rng(5).random(211) < 0.4
    ours, theirs = c.is_tied(rounded), c.is_tied(jax.device_put(rounded))
    assert isinstance(ours, np.ndarray)
    assert ours.any()
    assert np.array_equal(ours, theirs)
    for kind in (np.int32, np.int64):
        given = (labels.astype(kind), correct)
        for own, other in zip(
            c.class_counts(*given, num_classes=13), c.class_counts(*jax.device_put(given), num_classes=13)
        ):
            assert own.dtype == other.dtype
            assert np.array_equal(own, other)
