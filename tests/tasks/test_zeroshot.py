"""The zero-shot task on planted answers, and how tasks are found."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.errors import DataError, UsageError
from clipjax.heads import Head
from clipjax.labels import LabelSpace, Projection
from clipjax.metrics import intervals
from clipjax.tasks import Inputs, add_task, all_tasks, find_task, zeroshot


def space(k: int, name: str = "planted") -> LabelSpace:
    return LabelSpace(name, tuple(f"class {i}" for i in range(k)), tuple(f"n{i:04d}" for i in range(k)))


def planted(labels, predicted, k=8, normalize=True) -> Inputs:
    """Images that point at class `predicted`, then at its next neighbours, with an identity head."""
    features = np.stack([np.roll(1.0 / np.arange(1, k + 1), p) for p in predicted]).astype(np.float32)
    head = Head(jnp.eye(k), None, 10.0, normalize, space(k))
    ids = [f"{i}.png" for i in range(len(predicted))]
    return Inputs(ids, features, None if labels is None else np.asarray(labels, np.int32), head, space(k))


def measured(outcome) -> dict:
    return {(m.metric, m.slice): m for m in outcome.measures}


def test_planted_answers():
    labels = [0, 0, 0, 1, 1, 2, 7, 7]
    predicted = [0, 0, 1, 1, 0, 2, 3, 2]  # images 2, 4, 6, 7 are wrong; 1 -> 0 is second in image 4
    got = measured(zeroshot.TASK.run(planted(labels, predicted)))
    assert got["top1", None].value == 4 / 8
    assert got["top1", None].interval == intervals.wilson(4, 8)
    # Ranked by distance behind the predicted class: 0 after 1 is eighth, 1 after 0 second, 7 after 3 fifth,
    # 7 after 2 sixth.
    assert got["top5", None].value == 6 / 8
    assert got["mean_per_class", None].value == pytest.approx((2 / 3 + 1 / 2 + 1 + 0) / 4)
    assert got["mean_per_class", None].note == "4 of 8 classes have images"
    assert got["mean_per_class", None].aggregates == "classes"
    assert got["class_accuracy", "class:n0000"].value == 2 / 3
    assert got["class_accuracy", "class:n0000"].n == 3
    assert ("class_accuracy", "class:n0003") not in got


def test_images_table():
    images = zeroshot.TASK.run(planted([0, 1], [0, 2])).images
    assert images["prediction"].tolist() == [0, 2]
    assert images["prediction_name"].tolist() == ["class 0", "class 2"]
    assert images["top5"].tolist() == [[0, 1, 2, 3, 4], [2, 3, 4, 5, 6]]
    assert images["correct"].tolist() == [True, False]
    assert images["correct_top5"].tolist() == [True, False]
    unit = 10 / np.arange(1, 9) / np.linalg.norm(1 / np.arange(1, 9))
    assert images["confidence"] == pytest.approx(np.exp(unit[0]) / np.exp(unit).sum(), rel=1e-5)


def test_no_labels_no_numbers():
    outcome = zeroshot.TASK.run(planted(None, [3, 1]))
    assert [(m.metric, m.value) for m in outcome.measures] == [("top1", None)]
    assert outcome.measures[0].note == "not applicable: the data set has no labels"
    assert set(outcome.images) == {"prediction", "prediction_name", "confidence", "top5", "top5_names"}
    assert outcome.images["top5_names"][0].tolist() == [f"class {i}" for i in (3, 4, 5, 6, 7)]


def test_top5_of_few_classes_is_not_applicable():
    got = measured(zeroshot.TASK.run(planted([0, 1], [0, 1], k=5)))
    assert got["top5", None].value is None
    assert got["top5", None].note == "not applicable: there are 5 classes"


@pytest.mark.parametrize("label", [-1, 8])
def test_a_label_outside_the_space_names_the_image(label):
    with pytest.raises(DataError, match=rf"1\.png: label {label} is outside the 8 classes"):
        zeroshot.TASK.run(planted([0, label], [0, 1]))


def test_blocks_do_not_change_anything(monkeypatch):
    rng = np.random.default_rng(0)
    inputs = planted(rng.integers(0, 8, 101), rng.integers(0, 8, 101))
    whole = zeroshot.TASK.run(inputs)
    monkeypatch.setattr("clipjax.heads.SCORE_BLOCK", 8 * 10)
    blocks = zeroshot.TASK.run(inputs)
    assert whole.measures == blocks.measures
    assert all((whole.images[name] == blocks.images[name]).all() for name in whole.images)


def test_equal_classes_go_to_the_lower_index():
    """Two classes of one name, in a product wide enough that XLA may round its columns differently."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(512, 1001)).astype(np.float32)
    kernel[:, 1000] = kernel[:, 3]
    head = Head(jnp.asarray(kernel), None, 100.0, True, space(1001))
    features = np.repeat(kernel[:, 3][None], 7, 0) + rng.normal(size=(7, 512)).astype(np.float32) * 0.1
    inputs = Inputs([str(i) for i in range(7)], features, np.full(7, 1000, np.int32), head, space(1001))
    outcome = zeroshot.TASK.run(inputs)
    assert (outcome.images["top5"][:, :2] == [3, 1000]).all()
    assert measured(outcome)["top1", None].value == 0


def test_projection_by_mean_of_probabilities():
    """Where mean and maximum disagree: class x has one strong member of three, class y two middling ones."""
    logits = np.log(np.array([[0.40, 0.01, 0.01, 0.29, 0.29]], np.float32))
    head = Head(jnp.eye(5), None, 1.0, False, space(5))
    target = LabelSpace("xy", ("x", "y"), ("x", "y"))
    groups = Projection("planted", "xy", "mean_prob", ((0, 1, 2), (3, 4)))
    inputs = Inputs(["a"], logits, np.array([1], np.int32), head, target, groups)
    outcome = zeroshot.TASK.run(inputs)
    assert outcome.images["prediction_name"].tolist() == ["y"]
    assert outcome.images["confidence"][0] == pytest.approx(0.29, abs=1e-6)
    assert zeroshot.TASK.run(dataclasses.replace(inputs, labels=None)).images["top5"].tolist() == [[1, 0]]


def test_projection_by_selection_keeps_logits():
    head = Head(jnp.eye(4), None, 1.0, False, space(4))
    target = LabelSpace("sub", ("d", "a"), ("d", "a"))
    select = Projection("planted", "sub", "select", ((3,), (0,)))
    features = np.array([[1.0, 9.0, 9.0, 2.0]], np.float32)
    outcome = zeroshot.TASK.run(Inputs(["a"], features, np.array([0], np.int32), head, target, select))
    assert outcome.images["prediction"].tolist() == [0]
    assert outcome.images["confidence"][0] == pytest.approx(
        1 / (1 + np.exp(-1)), rel=1e-6
    )  # of the two alone


def test_no_images():
    inputs = planted([], [0])
    with pytest.raises(DataError, match="no images"):
        zeroshot.TASK.run(dataclasses.replace(inputs, features=inputs.features[:0]))


def test_tasks_are_found():
    assert find_task("zeroshot") is zeroshot.TASK
    with pytest.raises(UsageError, match="unknown task 'zero-shot'; did you mean zeroshot"):
        find_task("zero-shot")
    with pytest.raises(ValueError, match="two tasks are called 'zeroshot'"):
        add_task(dict(all_tasks()), zeroshot.TASK)
