"""The zero-shot task on planted answers, and how tasks are found."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.data.labels import LabelSpace, Projection, load_labels, load_projection
from clipjax.errors import DataError, UsageError
from clipjax.heads.head import Head, identity_head
from clipjax.metrics.uncertainty import intervals
from clipjax.results.image_table import images_table
from clipjax.tasks import zeroshot
from clipjax.tasks.inputs import ImageInputs
from clipjax.tasks.task import find_task


def space(k: int, name: str = "planted") -> LabelSpace:
    return LabelSpace(name, tuple(f"class {i}" for i in range(k)), tuple(f"n{i:04d}" for i in range(k)))


def planted(labels, predicted, k=8, normalize=True) -> ImageInputs:
    """Images that point at class `predicted`, then at its next neighbours, with an identity head."""
    features = np.stack([np.roll(1.0 / np.arange(1, k + 1), p) for p in predicted]).astype(np.float32)
    head = Head(jnp.eye(k), None, 10.0, normalize, space(k))
    ids = [f"{i}.png" for i in range(len(predicted))]
    return ImageInputs(
        ids=ids,
        features=features,
        labels=None if labels is None else np.asarray(labels, np.int32),
        head=head,
        label_space=space(k),
    )


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


def test_one_class_is_always_right_and_says_so():
    got = measured(zeroshot.TASK.run(planted([0, 0], [0, 0], k=1)))
    assert got["top1", None].value == 1.0
    assert got["top1", None].note == "there is 1 class, so that every prediction is right"
    assert got["top5", None].note == "not applicable: there is 1 class"
    assert measured(zeroshot.TASK.run(planted([0, 1], [0, 0], k=2)))["top1", None].note is None


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
    monkeypatch.setattr("clipjax.heads.head.SCORE_BLOCK", 8 * 10)
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
    inputs = ImageInputs(
        ids=[str(i) for i in range(7)],
        features=features,
        labels=np.full(7, 1000, np.int32),
        head=head,
        label_space=space(1001),
    )
    outcome = zeroshot.TASK.run(inputs)
    assert (outcome.images["top5"][:, :2] == [3, 1000]).all()
    assert measured(outcome)["top1", None].value == 0


def test_projection_by_mean_of_probabilities():
    """Where mean and maximum disagree: class x has one strong member of three, class y two middling ones."""
    logits = np.log(np.array([[0.40, 0.01, 0.01, 0.29, 0.29]], np.float32))
    head = Head(jnp.eye(5), None, 1.0, False, space(5))
    target = LabelSpace("xy", ("x", "y"), ("x", "y"))
    groups = Projection("planted", "xy", "mean_prob", ((0, 1, 2), (3, 4)))
    inputs = ImageInputs(
        ids=["a"],
        features=logits,
        labels=np.array([1], np.int32),
        head=head,
        label_space=target,
        projection=groups,
    )
    outcome = zeroshot.TASK.run(inputs)
    assert outcome.images["prediction_name"].tolist() == ["y"]
    assert outcome.images["confidence"][0] == pytest.approx(0.29, abs=1e-6)
    assert zeroshot.TASK.run(dataclasses.replace(inputs, labels=None)).images["top5"].tolist() == [[1, 0]]


def test_projection_by_selection_keeps_logits():
    head = Head(jnp.eye(4), None, 1.0, False, space(4))
    target = LabelSpace("sub", ("d", "a"), ("d", "a"))
    select = Projection("planted", "sub", "select", ((3,), (0,)))
    features = np.array([[1.0, 9.0, 9.0, 2.0]], np.float32)
    outcome = zeroshot.TASK.run(
        ImageInputs(
            ids=["a"],
            features=features,
            labels=np.array([0], np.int32),
            head=head,
            label_space=target,
            projection=select,
        )
    )
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


def over_imagenet(logits: np.ndarray, labels, target: str, **more: Any) -> ImageInputs:
    """A 1,000-way classifier's logits on a data set with the label space `target`."""
    imagenet, wanted = load_labels("imagenet"), load_labels(target)
    ids = [f"{i}.png" for i in range(len(logits))]
    projection = load_projection(imagenet, wanted)
    labels = np.asarray(labels, np.int32)
    return ImageInputs(
        ids=ids,
        features=logits,
        labels=labels,
        head=identity_head(imagenet),
        label_space=wanted,
        projection=projection,
        **more,
    )


@pytest.mark.parametrize("target", ["objectnet", "imagenet_d", "imagenet_vid"])
def test_projection_by_the_largest_and_restriction_are_one_number(target):
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(600, 1000)).astype(np.float32)
    space = load_labels(target)
    labels = rng.integers(0, len(space), 600)
    inputs = over_imagenet(logits, labels, target)
    assert inputs.projection is not None
    groups = inputs.projection.groups
    for row, label in zip(logits[:400], labels):  # most are right, some of them only among the groups
        row[rng.choice(groups[label])] += rng.uniform(0, 8)
    got = measured(zeroshot.TASK.run(inputs))
    projected = np.stack([logits[:, group].max(axis=1) for group in groups], axis=1)
    members = sorted(index for group in groups for index in group)
    restricted = [members[k] for k in logits[:, members].argmax(axis=1)]
    full = logits.argmax(axis=1)
    assert got["top1", None].value == np.mean(projected.argmax(axis=1) == labels)
    assert got["top1_restricted", None].value == np.mean([b in groups[k] for b, k in zip(restricted, labels)])
    assert got["top1_full", None].value == np.mean([b in groups[k] for b, k in zip(full, labels)])
    assert got["top1_restricted", None].value == got["top1", None].value > got["top1_full", None].value > 0.1
    softmax = np.exp(projected) / np.exp(projected).sum(axis=1, keepdims=True)
    images = zeroshot.TASK.run(inputs).images
    assert images["confidence"] == pytest.approx(softmax.max(axis=1), rel=1e-5)
    assert images["prediction_restricted"].tolist() == restricted


@pytest.mark.parametrize("target", ["imagenet_r", "imagenet", "cue_conflict"])
def test_restriction_is_said_only_where_groups_are_compared_by_their_largest(target):
    got = measured(zeroshot.TASK.run(over_imagenet(np.eye(2, 1000, dtype=np.float32), [0, 1], target)))
    assert ("top1_restricted", None) not in got
    assert (("top1_full", None) in got) == (target != "imagenet")


def test_subset_of_the_classes_and_all_of_them():
    """ImageNet-R's classes begin with goldfish (1), great white shark (2) and hammerhead (4)."""
    logits = np.zeros((3, 1000), np.float32)
    logits[0, [0, 1]] = 9, 8  # tench is no class of ImageNet-R
    logits[1, [2, 4]] = 8, 9
    logits[2, 4] = 9
    outcome = zeroshot.TASK.run(over_imagenet(logits, [0, 1, 2], "imagenet_r"))
    assert outcome.images["correct"].tolist() == [True, False, True]
    assert outcome.images["correct_full"].tolist() == [False, False, True]
    assert outcome.images["prediction"].tolist() == [0, 2, 2]
    assert outcome.images["prediction_full"].tolist() == [0, 4, 4]
    expected = np.exp(8) / (np.exp(8) + 199)  # of the 200 alone
    assert outcome.images["confidence"][0] == pytest.approx(expected, rel=1e-5)


def test_classes_of_one_name_go_to_the_first():
    """657 and 744 are "missile", 836 and 837 "sunglasses": one embedding each, so the second never wins."""
    imagenet = load_labels("imagenet")
    kernel = np.random.default_rng(0).normal(size=(32, 1000)).astype(np.float32)
    kernel /= np.linalg.norm(kernel, axis=0)
    kernel[:, 744], kernel[:, 837] = kernel[:, 657], kernel[:, 836]
    twins = [657, 744, 836, 837]
    head = Head(jnp.asarray(kernel), None, 100.0, True, imagenet)
    whole = ImageInputs(
        ids=list("abcd"),
        features=kernel[:, twins].T,
        labels=np.array(twins, np.int32),
        head=head,
        label_space=imagenet,
    )
    assert zeroshot.TASK.run(whole).images["prediction"].tolist() == [657, 657, 836, 836]
    for target, class_id, right_of_all in (
        ("imagenet_r", imagenet.ids[657], True),
        ("objectnet", "sunglasses", False),  # stands for 837 alone, and of all classes 836 is taken
    ):
        space = load_labels(target)
        label = np.array([space.ids.index(class_id)], np.int32)
        features = kernel[:, [657 if target == "imagenet_r" else 837]].T
        projection = load_projection(imagenet, space)
        images = zeroshot.TASK.run(
            ImageInputs(
                ids=["a"],
                features=features,
                labels=label,
                head=head,
                label_space=space,
                projection=projection,
            )
        ).images
        assert images["correct"].tolist() == [True]
        assert images["correct_full"].tolist() == [right_of_all]


def test_any_accepted_label_is_right_and_the_first_is_the_class():
    inputs = planted([0, 1, 2, 3], [5, 1, 2, 0])
    accepted = [[0, 5], [1], [3, 4, 1], []]
    outcome = zeroshot.TASK.run(dataclasses.replace(inputs, columns={"accepted": accepted}))
    got = measured(outcome)
    assert outcome.images["correct"].tolist() == [True, True, False, False]
    assert outcome.images["correct_top5"].tolist() == [True, True, True, False]  # 2 is followed by 3 and 4
    assert got["top1", None].value == 2 / 4
    assert got["class_accuracy", "class:n0000"].value == 1.0
    wrong = dataclasses.replace(inputs, columns={"accepted": [[0], [1, 8], [2], [3]]})
    with pytest.raises(DataError, match=r"1\.png: label 8 is outside the 8 classes"):
        zeroshot.TASK.run(wrong)


def test_accepted_labels_through_a_projection():
    """bicycle (3) and car (6) are right: 444 and 817 are among theirs, 609 (jeep) too, 0 is nobody's."""
    logits = np.eye(1000, dtype=np.float32)[[444, 817, 609, 0, 404]] * 5
    inputs = over_imagenet(logits, [3] * 5, "imagenet_vid", columns={"accepted": [[3, 6]] * 5})
    images = zeroshot.TASK.run(inputs).images
    assert images["correct"].tolist() == [True, True, True, False, False]
    assert images["correct_full"].tolist() == [True, True, True, False, False]
    assert images["correct_restricted"].tolist() == [True, True, True, False, False]


def test_a_logit_that_is_not_a_number_is_named_also_outside_the_groups():
    inputs = over_imagenet(np.zeros((3, 1000), np.float32), [0, 0, 0], "objectnet")
    assert inputs.head is not None
    bias = jnp.zeros(1000).at[0].set(jnp.nan)  # of tench, which is in no group
    with pytest.raises(DataError, match=r"0\.png: its logits hold NaN or infinity"):
        zeroshot.TASK.run(dataclasses.replace(inputs, head=dataclasses.replace(inputs.head, bias=bias)))


def test_numbers_from_lists_are_those_from_arrays():
    logits = np.random.default_rng(0).normal(size=(50, 1000)).astype(np.float32)
    inputs = over_imagenet(logits, np.arange(50), "objectnet", dataset="objectnet")
    outcome = zeroshot.TASK.run(inputs)
    lists = images_table({"id": inputs.ids, **outcome.images}).to_pydict()
    assert zeroshot.TASK.measure(lists, inputs.about) == outcome.measures
