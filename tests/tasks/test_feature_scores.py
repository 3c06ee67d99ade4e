"""OOD scores of features in the task: of each kind of head, by hand; what they rest on; why one is absent."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from clipjax.data.labels import LabelSpace, Projection
from clipjax.errors import DataError
from clipjax.heads.head import CacheModel, Head
from clipjax.metrics.detection import MEASURES
from clipjax.results.image_table import images_table
from clipjax.tasks import ood
from clipjax.tasks.inputs import About, ImageInputs
from clipjax.tasks.measures.feature_scores import FEATURE_SCORES

K, D = 6, 16
SPACE = LabelSpace("planted", tuple(f"class {k}" for k in range(K)), tuple(f"n{k}" for k in range(K)))
RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(D, K)).astype(np.float32)
KERNEL /= np.linalg.norm(KERNEL, axis=0)
BIAS = RNG.normal(size=K).astype(np.float32)

HEADS = {
    "zero-shot": Head(jnp.asarray(KERNEL), None, 20.0, True, SPACE),
    "zero-shot with a bias": Head(jnp.asarray(KERNEL), jnp.full(K, -9.0, jnp.float32), 20.0, True, SPACE),
    "linear head": Head(jnp.asarray(3 * KERNEL), jnp.asarray(BIAS), 1.0, True, SPACE, directions=False),
    "classifier": Head(jnp.asarray(3 * KERNEL), jnp.asarray(BIAS), 1.0, False, SPACE, directions=False),
}


def images(head: Head, name: str, n: int, far: bool = False, **more: Any) -> ImageInputs:
    """Near their class's column, or anywhere."""
    rng = np.random.default_rng(len(name) + n)
    labels = (np.arange(n) % K).astype(np.int32)
    near = 2 * KERNEL.T[labels] + 0.25 * rng.normal(size=(n, D))
    features = (rng.normal(size=(n, D)) if far else near).astype(np.float32)
    ids = [f"{i}.png" for i in range(n)]
    fields = {"labels": None if far else labels, "label_space": None if far else SPACE, "head": head}
    return ImageInputs(ids=ids, features=features, dataset=name, **(fields | more))


def world(head: Head, fitted: int = 120, **more: Any) -> ImageInputs:
    fit = None if fitted == 0 else images(head, "train", fitted, **more)
    return images(head, "far", 25, far=True, id=images(head, "near", 30, **more), fit=fit, resamples=20)


def by_hand(inputs: ImageInputs) -> dict[str, np.ndarray]:
    """Plain float64, one image or class at a time."""
    head, fit = inputs.head, inputs.fit
    assert head is not None
    assert fit is not None
    assert inputs.id is not None

    def read(part: ImageInputs) -> np.ndarray:
        features = np.asarray(part.features, np.float64)
        return features / np.linalg.norm(features, axis=1, keepdims=True) if head.normalize else features

    x, t, labels = np.concatenate([read(inputs.id), read(inputs)]), read(fit), np.asarray(fit.labels)
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (x, t)]
    apart = ((unit[0][:, None] - unit[1]) ** 2).sum(axis=2)
    within = sum(np.cov(t[labels == k].T, bias=True) * (labels == k).mean() for k in range(K))
    means = [t[labels == k].mean(axis=0) for k in range(K)]
    inverse, whole = np.linalg.inv(within), np.linalg.inv(np.cov(t.T, bias=True))

    def distance(a: np.ndarray, mean: np.ndarray, precision: np.ndarray) -> np.ndarray:
        return np.einsum("nd,de,ne->n", a - mean, precision, a - mean)

    mahalanobis = np.max([-distance(x, mean, inverse) for mean in means], axis=0)
    weight, bias = head.scale * np.asarray(head.kernel, np.float64), np.zeros(K)
    if head.bias is not None and not head.directions:  # all classes share that of a zero-shot model
        bias = np.asarray(head.bias, np.float64)
    origin = -np.linalg.pinv(weight.T) @ bias
    vectors = np.linalg.eigh((t - origin).T @ (t - origin))[1][:, : D // 2]
    residual = [np.linalg.norm((each - origin) @ vectors, axis=1) for each in (x, t)]
    alpha = (t @ weight + bias).max(axis=1).mean() / residual[1].mean()
    return {
        "knn": -np.sort(apart, axis=1)[:, 49],
        "mahalanobis": mahalanobis,
        "relative_mahalanobis": mahalanobis + distance(x, t.mean(axis=0), whole),
        "vim": logsumexp(x @ weight + bias, axis=1) - alpha * residual[0],
    }


@pytest.mark.parametrize("kind", HEADS)
def test_scores_of_each_kind_of_head(kind: str) -> None:
    inputs = world(HEADS[kind])
    found, expected = ood.describe(inputs), by_hand(inputs)
    assert set(expected) == set(FEATURE_SCORES)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=2e-4, atol=2e-5, err_msg=name)
    rows = {each.slice: each for each in ood.TASK.run(inputs).measures if each.metric == "auroc"}
    assert rows["score:knn"].note == "neighbour 50 of 120 fit images"
    assert rows["score:mahalanobis"].note == "120 fit images of 6 classes, covariance of rank 16 of 16"
    assert str(rows["score:vim"].note).startswith("8 of 16 dimensions kept, alpha ")
    assert all((rows[f"score:{name}"].value or 0) > 0.9 for name in FEATURE_SCORES[1:])


@pytest.mark.parametrize("kind", ["zero-shot", "classifier"])
def test_other_numbers_are_those_without_training_images(kind: str) -> None:
    head = HEADS[kind]
    without, with_fit = (ood.TASK.run(world(head, n)).measures for n in (0, 120))
    kept = [each for each in with_fit if str(each.slice)[6:] not in FEATURE_SCORES]
    assert without == kept
    assert len(with_fit) - len(kept) == 4 * len(MEASURES)


def test_a_table_of_scores_gives_the_same_numbers() -> None:
    """Also where a score is absent; and a score of features alone is the headline."""
    for fitted in (120, 30):
        inputs = world(HEADS["classifier"], fitted)
        table = images_table(ood.describe(inputs)).to_pydict()
        about = About("far", None, resamples=20)
        assert ood.measure(table, about) == ood.TASK.run(inputs).measures
    alone = {name: table[name] for name in ("id", "in_distribution", "vim")}
    assert ood.measure(alone, about)[0].note == "score: vim"


def reasons(inputs: ImageInputs) -> dict[str, str]:
    """Of each score of features that there is not."""
    measures = ood.TASK.run(inputs).measures
    absent = [each for each in measures if each.value is None and str(each.slice)[6:] in FEATURE_SCORES]
    assert all(each.metric == "auroc" and each.n == 55 for each in absent)
    return {str(each.slice)[6:]: str(each.note) for each in absent}


def test_too_few_training_images_have_no_score() -> None:
    found = reasons(world(HEADS["zero-shot"], 3))
    assert found["knn"] == "not applicable: 3 fit images have no neighbour 50"
    assert found["vim"] == "not applicable: 3 fit images do not span the 8 dimensions to keep"
    for name in ("mahalanobis", "relative_mahalanobis"):
        within = "a covariance of 16 dimensions within 3 classes needs 19 fit images, and there are 3"
        assert found[name] == f"not applicable: {within}"
    assert set(reasons(world(HEADS["zero-shot"], 21))) == {"knn", "mahalanobis", "relative_mahalanobis"}
    assert set(reasons(world(HEADS["zero-shot"], 22))) == {"knn"}  # as many as a covariance needs
    assert reasons(world(HEADS["zero-shot"], 50)) == {}


def test_what_vim_is_not_defined_for() -> None:
    """Logits that are no linear function of the features, or that would reward a residual."""
    cache = CacheModel(jnp.asarray(KERNEL), jnp.arange(K, dtype=jnp.int32), 1.0, 5.5)
    cached = dataclasses.replace(HEADS["zero-shot"], cache=cache)
    linear = "not applicable: the logits are not linear in the features (a cache, or classes in groups)"
    assert reasons(world(cached)) == {"vim": linear}
    space = LabelSpace("groups", ("a", "b", "c"), ("a", "b", "c"))
    groups = Projection("planted", "groups", "max", ((0, 1), (2, 3), (4, 5)))
    grouped = world(HEADS["zero-shot"], label_space=space, projection=groups)
    assert reasons(grouped) == {"vim": linear}
    below = dataclasses.replace(HEADS["classifier"], bias=jnp.full(K, -99.0, jnp.float32))
    assert "have no positive largest logit on average" in reasons(world(below))["vim"]
    flat = world(HEADS["zero-shot"])
    assert flat.fit is not None
    features = np.where(np.arange(D) < 8, flat.fit.features, 0)
    flat = dataclasses.replace(flat, fit=dataclasses.replace(flat.fit, features=features))
    assert "the fit images have no residual (8 of 16 dimensions kept)" in reasons(flat)["vim"]


def test_selected_classes_are_those_of_the_head() -> None:
    space = LabelSpace("some", ("a", "b", "c"), ("a", "b", "c"))
    some = Projection("planted", "some", "select", ((0,), (2,), (5,)))
    kernel, bias = (jnp.asarray(each[..., [0, 2, 5]]) for each in (3 * KERNEL, BIAS))
    chosen = Head(kernel, bias, 1.0, False, space, directions=False)
    found = ood.describe(world(HEADS["classifier"], label_space=space, projection=some))
    expected = ood.describe(world(chosen, label_space=space))
    np.testing.assert_allclose(found["vim"], expected["vim"], rtol=1e-5)


def test_constant_features_are_refused() -> None:
    inputs = world(HEADS["classifier"])
    assert inputs.fit is not None
    same = dataclasses.replace(inputs.fit, features=np.ones((120, D), np.float32))
    with pytest.raises(
        DataError, match="train: all 120 images have the same features, and nothing can be fit"
    ):
        ood.describe(dataclasses.replace(inputs, fit=same))
    by_class = dataclasses.replace(inputs.fit, features=np.ascontiguousarray(KERNEL.T[np.arange(120) % K]))
    found = reasons(dataclasses.replace(inputs, fit=by_class))
    assert found["mahalanobis"] == "not applicable: the fit images of a class all have the same features"
    assert "knn" not in found
