"""The task `selective`: its numbers from planted probabilities, by hand, and where it cannot tell."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import softmax

from clipjax.data.labels import LabelSpace
from clipjax.errors import DataError
from clipjax.evaluation.predictions.scoring import evaluate_predictions
from clipjax.heads.head import identity_head
from clipjax.metrics.confidence import conformal, selective
from clipjax.tasks import selective as task
from clipjax.tasks.inputs import About, ImageInputs
from clipjax.tasks.task import find_task

pytestmark = pytest.mark.usefixtures("few_calibrated_models")

N, K = 400, 5
SPACE = LabelSpace("two", ("one", "other"), ("n0", "n1"))
NAMES = [f"{k:03}.png" for k in range(N)]


def logits(seed, n=N, shift=0.0):
    """Logits whose softmax is the truth, but for images of a shift."""
    rng = np.random.default_rng(seed)
    values = 2 * rng.normal(size=(n, K))
    labels = np.array([rng.choice(K, p=row) for row in softmax(values, axis=1)])
    return (values + shift * rng.normal(size=values.shape)).astype(np.float32), labels


def evaluated(tmp_path, name="selective.npz", **arrays):
    np.savez(tmp_path / name, **arrays)
    return evaluate_predictions("selective", tmp_path / name, resamples=100)


@pytest.fixture(scope="module")
def shifted(tmp_path_factory):
    """Images of a shift, with thresholds of 200 in-distribution images."""
    known, known_labels = logits(0)
    own, labels = logits(1, shift=2.0)
    arrays = {"logits": own, "labels": labels, "ids": NAMES}
    arrays |= {"id_logits": known, "id_labels": known_labels, "id_ids": [f"id_{name}" for name in NAMES]}
    arrays["id_calibration"] = np.arange(N) < 200
    folder = tmp_path_factory.mktemp("shifted")
    return arrays, evaluated(folder, **arrays)


def value(result, metric, part=None) -> Any:
    [row] = [row for row in result.rows if (row["metric"], row["slice"]) == (metric, part)]
    return row


def test_areas_are_those_of_the_confidences(shifted):
    arrays, result = shifted
    shares = softmax(arrays["logits"].astype(np.float64), axis=1)
    found = selective.curves(selective.ordered(shares.max(axis=1), shares.argmax(axis=1) != arrays["labels"]))
    for name, of in (
        ("aurc", selective.aurc),
        ("augrc", selective.augrc),
        ("excess_aurc", selective.excess_aurc),
    ):
        row = value(result, name)
        assert row["value"] == pytest.approx(of(found)[0], abs=1e-12)
        assert row["interval"]["lo"] < row["value"] < row["interval"]["hi"]
    assert value(result, "selective_risk", "coverage:1")["value"] == pytest.approx(
        1 - value(result, "accuracy")["value"], abs=1e-12
    )
    assert value(result, "selective_coverage", "risk:0.2")["value"] < 1


@pytest.mark.parametrize("method", conformal.METHODS)
def test_thresholds_are_of_the_calibration_images_alone(shifted, method):
    arrays, result = shifted
    u = {side: conformal.uniforms([*map(str, arrays[f"{side}ids"])]) for side in ("", "id_")}
    shares = {side: softmax(arrays[f"{side}logits"].astype(np.float64), axis=1) for side in ("", "id_")}
    scores = conformal.scores(shares["id_"], u["id_"], method)[np.arange(N), arrays["id_labels"]]
    threshold = np.sort(scores[:200])[conformal.rank_of_threshold(200, 0.1) - 1]
    sets = conformal.scores(shares[""], u[""], method) <= threshold
    assert value(result, f"set_size_{method}")["value"] == sets.sum(axis=1).mean()
    covered = sets[np.arange(N), arrays["labels"]]
    row = value(result, f"set_coverage_{method}")
    assert row["value"] == covered.mean() < 0.87, "the shift breaks the promise"
    assert row["note"].startswith("200 calibration images: between 0.85")
    of_class = covered[arrays["labels"] == 3].mean()
    assert value(result, f"class_set_coverage_{method}", "class:3")["value"] == of_class


def test_sets_keep_their_promise_without_a_shift():
    """The mean over draws of calibration and test images is 1 - alpha, by every method."""
    rng, found = np.random.default_rng(0), {method: [] for method in conformal.METHODS}
    for seed in range(60):
        values, labels = logits(seed, 200)
        shares, u = softmax(values, axis=1), rng.random(200)
        for method, shown in found.items():
            own = conformal.scores(shares, u, method)[np.arange(200), labels]
            shown.append(np.mean(own[100:] <= conformal.threshold(own[:100], 0.1)))
    assert {method: np.mean(shown) for method, shown in found.items()} == pytest.approx(
        dict.fromkeys(found, 0.905), abs=0.02
    )


def test_a_calibrated_model_and_a_shifted_one(shifted, tmp_path):
    _, result = shifted
    null = value(result, "null_smooth_ece")
    assert value(result, "smooth_ece")["value"] > 2 * null["interval"]["hi"]
    own, labels = logits(3)
    calm = evaluated(tmp_path, logits=own, labels=labels, ids=NAMES)
    assert value(calm, "smooth_ece")["value"] < 1.3 * value(calm, "null_smooth_ece")["interval"]["hi"]
    row = value(calm, "set_coverage_aps")
    assert (row["n"], row["note"][:22]) == (200, "200 calibration images"), "halves of one set"
    assert row["value"] == pytest.approx(0.9, abs=0.06)


def test_without_in_distribution_images_there_are_no_sets():
    columns = {
        "label": [0, 1],
        "correct": [True, False],
        "confidence": [0.9, 0.8],
        "calibration_images": [0] * 2,
    }
    found = {each.metric: each for each in task.measure(columns, About("d", None, resamples=20))}
    assert (found["set_coverage_lac"].value, found["set_coverage_lac"].note) == (None, task.NO_ID)
    assert found["aurc"].value is not None


def test_averages_of_probabilities_are_not_logits():
    [row] = task.measure({"label": [0, 1]}, About("d", None))
    assert (row.value, str(row.note)[:14]) == (None, "not applicable")
    assert task.paired({"label": [0, 1]}, About("d", None)).right == {}


@pytest.mark.parametrize("part", ["own", "id"])
def test_images_without_labels_are_refused_by_this_task(part):
    def images(name, labels, **more):
        shown = {"features": np.eye(2, dtype=np.float32), "label_space": SPACE, "head": identity_head(SPACE)}
        return ImageInputs(ids=["a", "b"], labels=labels, dataset=name, **shown, **more)

    known = images("id", None if part == "id" else [0, 1])
    inputs = images("own", None if part == "own" else [0, 1], id=known)
    with pytest.raises(DataError, match=f"{part} has no labels: the task selective needs them"):
        task.describe(inputs)


def test_few_calibration_images_give_full_sets(tmp_path):
    own, labels = logits(0, 40)
    few = {"id_logits": own[:12], "id_labels": labels[:12], "id_ids": [f"i{k}" for k in range(12)]}
    result = evaluated(tmp_path, logits=own, labels=labels, ids=NAMES[:40], **few)
    row = value(result, "set_coverage_lac")
    assert row["value"] == 1
    assert row["note"].endswith("every set is full: too few calibration images")
    assert value(result, "set_size_lac")["value"] == K


@pytest.mark.parametrize("right", [True, False])
def test_constant_confidence_and_answers(tmp_path, right):
    labels = np.zeros(30, int)
    same = np.tile([[1.0, 0.0]] if right else [[0.0, 1.0]], (30, 1)).astype(np.float32)
    result = evaluated(tmp_path, logits=same, labels=labels)
    assert value(result, "aurc")["value"] == (0 if right else 1)
    assert value(result, "aurc")["note"] == "no interval: no resample of the images differs"
    assert value(result, "selective_coverage", "risk:0.01")["value"] == (1 if right else 0)


def test_rows_of_the_table_give_the_same_numbers(shifted):
    """The per-image table alone, as a later run reads it."""
    _, result = shifted
    columns = {name: result.images[name].to_pylist() for name in result.images.column_names}
    again = task.measure(columns, About(result.rows[0]["dataset"], None, resamples=100))
    known = {(row["metric"], row["slice"]): row["value"] for row in result.rows}
    assert {(each.metric, each.slice): each.value for each in again}.items() <= known.items()


def test_what_is_compared(shifted):
    _, result = shifted
    columns = {name: result.images[name].to_pylist() for name in result.images.column_names}
    found = task.paired(columns, About("d", None))
    assert found.resampled is not None
    assert set(found.right) == {"accuracy", *(f"set_coverage_{name}" for name in conformal.METHODS)}
    assert set(found.untested) == {"smooth_ece", "classwise_ece_15"}
    assert find_task("selective").headlines_among(found.resampled(np.ones((1, N), int))) == ("augrc",)
