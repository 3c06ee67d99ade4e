"""Visual factors: ImageNet-X's published numbers for ResNet-50, its own functions, and loops."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from clipjax.metrics import factors as f
from clipjax.metrics.classification import class_counts

# In the order of the package, which is not that of its files' keys.
FACTORS = [
    "pose", "background", "pattern", "color", "smaller", "shape", "partial_view", "subcategory", "texture",
    "larger", "darker", "object_blocking", "person_blocking", "style", "brighter", "multiple_objects",
]  # fmt: skip


@pytest.fixture(scope="module")
def tables() -> Path:
    """The annotation files of the package imagenet-x, which is not imported: it pulls in a plotting stack."""
    spec = importlib.util.find_spec("imagenet_x")
    assert spec is not None, "imagenet-x is not installed: pip install -e '.[dev]'"
    assert spec.origin is not None
    return Path(spec.origin).parent / "annotations"


@pytest.fixture(scope="module")
def resnet50(test_data) -> dict[str, int]:
    """file name -> predicted class."""
    with open(test_data / "imagenet_x" / "ResNet50.csv", encoding="utf-8") as file:
        return {row["file_name"]: int(row["predicted_class"]) for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def joined(tables, resnet50):
    """which, prototypes kept -> predicted [N], label [N], factors [N, 16], file names; in file order."""
    prototypes = set((tables / "prototypical_paths.csv").read_text().split())

    def join(which: str, keep_prototypes: bool = False):
        with open(tables / f"imagenet_x_val_{which}_factor.jsonl", encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        rows = [row for row in rows if keep_prototypes or row["file_name"] not in prototypes]
        names = [row["file_name"] for row in rows]
        predicted = np.array([resnet50[name] for name in names])
        marks = np.array([[row[name] for name in FACTORS] for row in rows])
        return predicted, np.array([row["class"] for row in rows]), marks, names

    kept = {which: join(which) for which in ("top", "multi")}
    return lambda which, keep=False: join(which, True) if keep else kept[which]


def named(counts: f.FactorCounts) -> dict[str, float]:
    return dict(zip(FACTORS, counts.accuracy.tolist()))


def test_resnet50_top_factor_oracle(joined):
    predicted, labels, marks, _ = joined("top")
    counts = f.count_factors(predicted == labels, marks)
    assert counts.total_all == 46110
    assert counts.average == pytest.approx(0.746693, abs=5e-7)
    expected = {
        "pose": 0.82402, "background": 0.71080, "pattern": 0.80459, "color": 0.69886, "smaller": 0.62069,
        "shape": 0.55817, "partial_view": 0.71317, "subcategory": 0.46667, "texture": 0.39362,
        "larger": 0.66667, "darker": 0.56557, "multiple_objects": 0.5,
    }  # fmt: skip
    accuracy = named(counts)
    assert {name: round(accuracy[name], 5) for name in expected} == expected
    ratio = dict(zip(FACTORS, counts.error_ratio))
    assert [round(ratio[name], 4) for name in ("pose", "texture", "larger")] == [0.6947, 2.3939, 1.3159]
    assert FACTORS[counts.worst()] == "texture"
    totals = [15064, 14751, 5972, 6150, 1450, 679, 638, 585, 282, 150, 122, 78, 60, 43, 44, 40]
    assert counts.total.tolist() == totals


def test_resnet50_multi_factor_oracle(joined):
    predicted, labels, marks, _ = joined("multi")
    counts = f.count_factors(predicted == labels, marks)
    assert counts.average == pytest.approx(0.746693, abs=5e-7)
    expected = {"pose": 0.76285, "texture": 0.43231, "larger": 0.68462, "style": 0.74915}
    assert {name: round(named(counts)[name], 5) for name in expected} == expected


def test_resnet50_with_prototypes_is_another_number(joined):
    predicted, labels, marks, _ = joined("top", True)
    counts = f.count_factors(predicted == labels, marks)
    assert (counts.total_all, round(counts.average, 6)) == (48868, 0.760989)
    assert [round(named(counts)[name], 4) for name in ("pose", "larger")] == [0.8351, 0.6815]


def test_factors_of_the_other_file_or_in_the_files_key_order_are_caught(joined):
    predicted, labels, top, _ = joined("top")
    multi = joined("multi")[2]
    right = f.count_factors(predicted == labels, top).accuracy
    assert abs(f.count_factors(predicted == labels, multi).accuracy - right).max() > 0.01
    assert abs(f.count_factors(predicted == labels, np.roll(top, 1, axis=1)).accuracy - right).max() > 0.01


def test_metaclass_and_real_correctness_against_the_tables(tables, joined):
    """Against dictionaries read straight from the package's files, image by image."""
    predicted, labels, marks, names = joined("top")
    with open(tables / "imagenet_1k_classes_to_100_metaclasses.csv", encoding="utf-8") as file:
        metaclass = [row["name"] for row in csv.DictReader(file)]
    group = np.unique(metaclass, return_inverse=True)[1]
    ours = f.correct_through(predicted, labels, group)
    assert ours.tolist() == [metaclass[p] == metaclass[c] for p, c in zip(predicted, labels)]
    real = json.loads((tables / "imagenet_real_labels.jsonl").read_text())
    accepted = [real[int(name[-13:-5]) - 1] for name in names]
    table = np.full((len(names), max(map(len, accepted))), -1)
    for row, among in zip(table, accepted):
        row[: len(among)] = among
    ours_real = f.correct_among(predicted, table)
    assert ours_real.tolist() == [int(p) in among for p, among in zip(predicted, accepted)]
    assert not ours_real[[not among for among in accepted]].any()
    plain = f.count_factors(predicted == labels, marks).average
    assert f.count_factors(ours, marks).average > plain
    assert f.count_factors(ours_real, marks).average != plain


def test_worst_classes_against_a_loop(joined):
    predicted, labels, _, _ = joined("top")
    hits, total = (np.asarray(part) for part in class_counts(labels, predicted == labels, num_classes=1000))
    worst, accuracy = f.worst_classes(hits, total, 100)
    assert len(worst) == 100
    assert 899 not in worst  # the class without a single annotated image
    ratio = {k: (predicted == labels)[labels == k].mean() for k in range(1000) if k != 899}
    expected = sorted(ratio, key=lambda k: (ratio[k], k))[:100]
    assert worst.tolist() == expected
    assert accuracy == pytest.approx((predicted == labels)[np.isin(labels, expected)].mean(), abs=1e-12)
    # Not the mean of the hundred accuracies: classes have 3 to 47 images.
    assert abs(accuracy - np.mean([ratio[k] for k in expected])) > 1e-4


def test_worst_classes_by_hand():
    hits, total = np.array([1, 0, 1, 0, 2]), np.array([2, 4, 2, 0, 2])
    assert f.worst_classes(hits, total, 2)[0].tolist() == [1, 0]  # 0 and 2 tie
    assert f.worst_classes(hits, total, 2)[1] == pytest.approx(1 / 6)
    assert f.worst_classes(hits, total, 99)[0].tolist() == [1, 0, 2, 4]
    with pytest.raises(ValueError, match="0 worst of 4 classes"):
        f.worst_classes(hits, total, 0)
    with pytest.raises(ValueError, match="1 worst of 0 classes"):
        f.worst_classes(np.zeros(2, int), np.zeros(2, int), 1)


@pytest.fixture
def small():
    rng = np.random.default_rng(0)
    return rng.random(200) < 0.6, rng.random((200, 5)) < 0.3


def test_counts_against_a_loop_and_parts_add_up(small):
    correct, marks = small
    counts = f.count_factors(correct, marks)
    for k in range(5):
        assert counts.accuracy[k] == pytest.approx(correct[marks[:, k]].mean(), abs=1e-12)
    assert counts.average == pytest.approx(correct.mean())
    added = f.count_factors(correct[:1], marks[:1]) + f.count_factors(correct[1:], marks[1:])
    for name in ("hits", "total"):
        assert (getattr(added, name) == getattr(counts, name)).all()
    assert (added.hits_all, added.total_all) == (counts.hits_all, counts.total_all)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = jax.device_put(marks, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))
    assert (f.count_factors(correct, sharded).hits == counts.hits).all()


def test_weights_are_a_mask_and_multiplicities(small):
    correct, marks = small
    times = np.random.default_rng(1).integers(0, 3, 200)
    rows = np.repeat(np.arange(200), times)
    dirty = np.where((times > 0)[:, None], marks.astype(int), 7)
    ours, repeated = (
        f.count_factors(correct, dirty, weights=times),
        f.count_factors(correct[rows], marks[rows]),
    )
    assert (ours.hits == repeated.hits).all()
    assert (ours.total_all, ours.average) == (repeated.total_all, repeated.average)


def test_factor_without_images_is_nan_and_never_the_worst():
    counts = f.count_factors(np.array([True, False]), np.array([[1, 0], [1, 0]]))
    np.testing.assert_array_equal(counts.accuracy, [0.5, np.nan])
    np.testing.assert_array_equal(counts.error_ratio, [1.0, np.nan])
    assert counts.worst() == 0
    perfect = f.count_factors(np.array([True]), np.array([[1, 1]]))
    assert np.isnan(perfect.error_ratio).all()
    assert perfect.worst() == 0
    with pytest.raises(ValueError, match="no image has any of the factors"):
        f.count_factors(np.array([True]), np.array([[0, 0]])).worst()


def test_the_worst_of_some_factors():
    counts = f.count_factors(np.array([True, False, False]), np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0]]))
    assert counts.worst() == counts.worst([False, True, True]) == 1
    assert counts.worst([True, False, True]) == 0
    with pytest.raises(ValueError, match="no image has any of the factors"):
        counts.worst([False, False, True])


def test_refusals():
    with pytest.raises(ValueError, match="row 1: a factor is neither 0 nor 1"):
        f.count_factors(np.array([True, True]), np.array([[1, 0], [2, 0]]))
    with pytest.raises(ValueError, match="row 0: a factor is neither 0 nor 1"):
        f.count_factors(np.array([True]), np.array([[np.nan, 0]]))
    with pytest.raises(ValueError, match="correct is float64"):
        f.count_factors(np.array([1.0]), np.array([[1, 0]]))
    with pytest.raises(ValueError, match="no image counts"):
        f.count_factors(np.zeros(0, bool), np.zeros((0, 3), bool))
    with pytest.raises(ValueError, match="one row for each of 2 images"):
        f.count_factors(np.array([True, True]), np.array([[1, 0]]))
    with pytest.raises(ValueError, match=r"row 1: its predicted class is outside 0\.\.2"):
        f.correct_through(np.array([0, 3]), np.array([0, 1]), np.array([0, 0, 1]))
    with pytest.raises(ValueError, match="row 0: its predicted class is below 0"):
        f.correct_among(np.array([-1]), np.array([[-1]]))
