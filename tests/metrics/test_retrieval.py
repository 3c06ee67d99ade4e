"""Retrieval against CLIP_benchmark's own function, scikit-learn's average precision, and a NumPy sort."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import torch
from clip_benchmark.metrics import zeroshot_retrieval
from sklearn.metrics import average_precision_score

from clipjax.metrics import retrieval as r

K = (1, 5, 10)


def unit(x):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def pairs(images, captions, seed=0, noise=1.5):
    """Embeddings of images with as many captions each as given, in order."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(images), captions)
    image = unit(rng.normal(size=(images, 32)))
    text = unit(image[owner] + noise * unit(rng.normal(size=(len(owner), 32))))
    return image, text, owner


def sorted_ranks(scores, positives, row):
    """Ranks of the partners in a stable sort of -scores."""
    return np.flatnonzero(np.isin(np.argsort(-scores[row], kind="stable"), positives))


def check_against_sort(ranks, image, text, owner):
    scores = image @ text.T
    for i in range(len(image)):
        mine = ranks.image_to_text[i]
        assert mine[mine != r.ABSENT].tolist() == sorted_ranks(scores, np.flatnonzero(owner == i), i).tolist()
    for t in range(len(text)):
        assert ranks.text_to_image[t].tolist() == sorted_ranks(scores.T, [owner[t]], t).tolist()


class Stored:
    """A model of CLIP_benchmark that returns stored embeddings: images and tokens are rows."""

    def __init__(self, image, text):
        self.image, self.text = torch.from_numpy(image), torch.from_numpy(text)

    def encode_image(self, rows):
        return self.image[rows]

    def encode_text(self, rows):
        return self.text[rows]


def clip_benchmark(image, text, owner, ks, batch=64):
    """`evaluate` of CLIP_benchmark, unchanged."""
    of_image = [np.flatnonzero(owner == i).tolist() for i in range(len(image))]
    batches = [
        (torch.arange(start, min(start + batch, len(image))), of_image[start : start + batch])
        for start in range(0, len(image), batch)
    ]
    return zeroshot_retrieval.evaluate(
        Stored(image, text), batches, torch.tensor, "cpu", amp=False, recall_k_list=list(ks)
    )


@pytest.mark.parametrize("noise", [0.5, 1.5, 4.0])
def test_recall_is_clip_benchmarks(noise):
    captions = np.random.default_rng(1).integers(1, 8, 150)
    image, text, owner = pairs(150, captions, noise=noise)
    expected = clip_benchmark(image, text, owner, K)
    ranks = r.rank_partners(image, text, owner, block=64)
    for k in K:
        found = r.found_in_top_k(ranks.text_to_image, k).mean()
        assert found == pytest.approx(expected[f"image_retrieval_recall@{k}"], abs=1e-6)
        found = r.found_in_top_k(ranks.image_to_text, k).mean()
        assert found == pytest.approx(expected[f"text_retrieval_recall@{k}"], abs=1e-6)


def test_any_caption_is_enough():
    """Not the share of an image's captions that are found, which the reference names and does not report."""
    ranks = np.array([[0, 90, 91], [4, 5, r.ABSENT], [5, 6, 7]])
    assert r.found_in_top_k(ranks, 5).tolist() == [True, True, False]


@pytest.mark.parametrize("block", [16, 64, 1024])
def test_ranks_against_a_sort_in_any_block_and_order(block):
    image, text, owner = pairs(40, np.random.default_rng(2).integers(1, 8, 40))
    shuffled = np.random.default_rng(3).permutation(len(text))
    text, owner = text[shuffled], owner[shuffled]
    check_against_sort(r.rank_partners(image, text, owner, block=block), image, text, owner)


def test_ties_go_to_the_first_index():
    """Scores are whole numbers, so that they tie often and exactly."""
    rng = np.random.default_rng(4)
    image, text = (rng.integers(-1, 2, (n, 6)).astype(np.float32) for n in (30, 90))
    owner = rng.permutation(np.repeat(np.arange(30), 3))
    ranks = r.rank_partners(image, text, owner, block=16)
    check_against_sort(ranks, image, text, owner)
    kind_to_itself = (image @ text.T > (image @ text.T)[owner, np.arange(90)]).sum(axis=0)
    assert (ranks.text_to_image[:, 0] > kind_to_itself).any()


def test_equal_captions_have_equal_scores_wherever_they_stand():
    image, text, owner = pairs(50, np.full(50, 4))
    text[::2] = text[0]
    ranks = r.rank_partners(image, text, owner, block=32)
    for i in range(50):
        # Of the hundred equal captions, image i owns the two at 2 i and 2 i + 1: neighbours in the ranking.
        assert 1 in np.diff(ranks.image_to_text[i])


def test_everything_ties():
    ranks = r.rank_partners(np.ones((3, 4)), np.ones((6, 4)), np.array([0, 0, 1, 1, 2, 2]), block=4)
    assert ranks.image_to_text.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert ranks.text_to_image[:, 0].tolist() == [0, 0, 1, 1, 2, 2]


def test_average_precision_is_sklearns():
    image, text, owner = pairs(40, np.random.default_rng(5).integers(1, 8, 40))
    ranks, scores = r.rank_partners(image, text, owner, block=32), image @ text.T
    ours = r.average_precision(ranks.image_to_text)
    theirs = [average_precision_score(owner == i, scores[i]) for i in range(40)]
    np.testing.assert_allclose(ours, theirs, atol=1e-12)
    theirs = [average_precision_score(np.arange(40) == owner[t], scores[:, t]) for t in range(len(text))]
    np.testing.assert_allclose(r.average_precision(ranks.text_to_image), theirs, atol=1e-12)


def test_average_precision_by_hand():
    ranks = np.array([[0, 2, r.ABSENT], [3, r.ABSENT, r.ABSENT], [r.ABSENT] * 3], np.int32)
    np.testing.assert_allclose(r.average_precision(ranks), [(1 + 2 / 3) / 2, 0.25, np.nan])


def test_padding_is_not_there():
    image, text, owner = pairs(20, np.full(20, 3))
    expected = r.rank_partners(image, text, owner, block=16)
    nan = np.full((1, 32), np.nan, np.float32)
    padded = np.concatenate([image[:5], nan, image[5:], nan])
    moved = np.where(owner >= 5, owner + 1, owner)
    mask = ~np.isnan(padded[:, 0])
    ranks = r.rank_partners(
        padded, np.concatenate([nan, text]), np.concatenate([[-1], moved]), image_mask=mask, block=16
    )
    np.testing.assert_array_equal(ranks.image_to_text[mask], expected.image_to_text)
    np.testing.assert_array_equal(ranks.text_to_image[1:], expected.text_to_image)
    assert (ranks.image_to_text[~mask] == r.ABSENT).all()
    assert ranks.text_to_image[0, 0] == r.ABSENT
    assert not r.found_in_top_k(ranks.text_to_image, 20)[0]


def test_counts_add_up_over_shards_of_the_gallery():
    """The kernel's sums over parts of the gallery, and over devices, are those over the whole."""
    rng = np.random.default_rng(6)
    scores = rng.integers(0, 9, (64, 16)).astype(np.float32)
    own, place, index = scores[7], np.full(16, 7, np.int32), np.arange(64, dtype=np.int32)
    whole = np.asarray(r._above_image(scores, own, place, index))
    parts = [r._above_image(scores[a : a + 32], own, place, index[a : a + 32]) for a in (0, 32)]
    assert (np.asarray(parts[0]) + np.asarray(parts[1]) == whole).all()
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = jax.device_put(scores, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))
    assert (np.asarray(r._above_image(sharded, own, place, index)) == whole).all()


def test_one_image_and_half_precision():
    ranks = r.rank_partners(np.ones((1, 4), np.float16), np.ones((1, 4), np.float16), [0], block=8)
    assert ranks.image_to_text.tolist() == ranks.text_to_image.tolist() == [[0]]
    assert r.found_in_top_k(ranks.image_to_text, 10).tolist() == [True]


def test_refusals():
    image, text, owner = pairs(6, np.full(6, 2))
    with pytest.raises(ValueError, match="row 4: the image has no caption"):
        r.rank_partners(image, text[:8], owner[:8])
    with pytest.raises(ValueError, match="row 10: the caption's image is not among the 5"):
        r.rank_partners(image[:5], text, owner)
    with pytest.raises(ValueError, match="row 2: the caption's image is padding"):
        r.rank_partners(image, text, owner, image_mask=np.arange(6) != 1)
    with pytest.raises(ValueError, match="there is no image to search with"):
        r.rank_partners(image[:0], text[:0], owner[:0])
    with pytest.raises(ValueError, match="6 images and 12 captions, but image_of_text"):
        r.rank_partners(image, text, owner[:3])
    with pytest.raises(ValueError, match="recall at 0"):
        r.found_in_top_k(np.array([[0]]), 0)
    text[3] = np.nan
    with pytest.raises(ValueError, match="row 3: the caption's embedding holds NaN"):
        r.rank_partners(image, text, owner)
