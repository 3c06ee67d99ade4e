"""Given predictions are compared in the dtype they came in; ties and numbers out of range are said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import _factors
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipjax.errors import DataError
from clipjax.evaluation.comparison.compare import compare_runs
from clipjax.evaluation.predictions.scoring import evaluate_predictions
from clipjax.evaluation.rows import Result
from clipjax.metrics import detection

pytestmark = pytest.mark.usefixtures("few_calibrated_models")

NEAR = np.array([[1.0, 1.0 + 1e-12, 0.0], [0.5 + 1e-12, 0.5, 0.0], [0.0, 1.0, 1.0 + 1e-12]])
TRUE = np.array([1, 0, 2])


def of(path: Path, task: str = "zeroshot", **arrays: Any) -> Result:
    np.savez(path / "p.npz", **arrays)
    return evaluate_predictions(task, path / "p.npz", dataset=None)


def top1(result: Result) -> Any:
    return next(each for each in result.rows if each["metric"] in ("top1", "accuracy") and not each["slice"])


@pytest.mark.parametrize(
    "logits",
    [NEAR, np.array([[2**24, 2**24 + 1, 0], [2**30 + 1, 2**30, 5], [1, 2**53 - 1, 2**53]])],
    ids=["float64", "int64"],
)
def test_logits_are_compared_in_their_dtype(tmp_path, logits):
    """In float32 the two largest of each row are equal, and the lowest index won: another top-1."""
    assert (logits.astype(np.float32).argmax(axis=1) != TRUE).any()
    found = top1(of(tmp_path, logits=logits, labels=TRUE))
    assert (found["value"], found["note"]) == (1.0, None)


def test_calibration_compares_in_float64(tmp_path):
    logits = np.tile(NEAR, (4, 1)) + 1.0
    result = of(tmp_path, "calibration", logits=logits, labels=np.tile(TRUE, 4))
    assert top1(result)["value"] == 1.0


def test_scores_of_ood_detection_are_of_float64(tmp_path):
    known, others = np.array([[1.0 + 1e-12, 0.0]] * 4), np.array([[1.0, 0.0]] * 3)
    known[:, 1] -= np.arange(4) * 1e-9
    others[:, 1] -= np.arange(3) * 1e-9
    result = of(tmp_path, "ood", id_logits=known, ood_logits=others)
    [found] = [r for r in result.rows if (r["metric"], r["slice"]) == ("auroc", "score:max_logit")]
    assert (found["value"], found["note"]) == (1.0, None)


def test_ties_are_counted_and_broken_by_the_lowest_class(tmp_path):
    logits = np.array([[1, 1, 0], [0, 2, 2], [3, 0, 0]], np.float32)
    result = of(tmp_path, logits=logits, labels=np.array([0, 2, 0]))
    found = top1(result)
    assert found["value"] == 2 / 3
    assert (
        found["note"]
        == "top-1 of 2 of 3 images is a tie: of equal largest scores the lowest class index is taken"
    )
    assert result.images["tied"].to_pylist() == [True, True, False]
    again = of(tmp_path, logits=logits + np.array([0, 0.5, 0], np.float32), labels=np.array([1, 1, 0]))
    assert top1(again)["note"] is None
    assert "tied" not in again.images.column_names


def test_minus_zero_ties_with_zero(tmp_path):
    """XLA's sort puts 0 before -0, an argmax does not."""
    logits = np.array([[-0.0, 0.0], [0.0, -0.0]])
    for each in (logits, logits.astype(np.float32)):
        result = of(tmp_path, logits=each, labels=np.array([0, 0]))
        assert (top1(result)["value"], result.images["tied"].to_pylist()) == (1.0, [True, True])


def test_classes_of_equal_names_tie_in_calibration_too(tmp_path):
    logits = np.tile([[1.0, 1.0, 0.0], [0.0, 2.0, 1.0]], (6, 1))
    result = of(tmp_path, "calibration", logits=logits, labels=np.tile([0, 2], 6))
    tied = result.images["tied"].to_pylist()
    assert top1(result)["note"].startswith(f"top-1 of {sum(tied)} of {len(tied)} images is a tie")
    assert 0 < sum(tied) < len(tied)


def test_ties_are_counted_among_the_images_of_a_number(tmp_path):
    """Of ImageNet-X: prototypes are left out of some numbers, images without annotation of all."""
    notes = _factors.write(tmp_path / "notes")
    (tmp_path / "letters.csv").write_text("id,name\na,a\nb,b\nc,c\n")
    logits = np.zeros((11, 3))
    np.savez(tmp_path / "p.npz", logits=logits, ids=np.array(list(_factors.IMAGES)))
    result = evaluate_predictions(
        "imagenet_x", tmp_path / "p.npz", labels=tmp_path / "letters.csv", annotations=notes, resamples=20
    )
    found: dict[Any, Any] = {r["slice"]: r for r in result.rows if r["metric"] == "average"}
    counts = {place: each["n"] for place, each in found.items()}
    assert counts[None] < counts["top/kept"]
    for place, n in counts.items():
        assert f"top-1 of {n} of {n} images is a tie" in found[place]["note"]


RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(24, 1000)).astype(np.float32)
LABELS = np.where(RNG.random(24) < 0.5, LOGITS[:, :113].argmax(axis=1), np.arange(24)).astype(np.int32)
IDS = np.array([f"wok/{row}.png" for row in range(24)])
GIVEN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "zeroshot": ({"logits": LOGITS, "labels": LABELS}, {"dataset": "imagenet_r", "labels": "imagenet"}),
    "imagenet_d": (
        {"logits": LOGITS, "labels": LABELS, "ids": IDS},
        {"dataset": "imagenet_d:texture", "labels": "imagenet"},
    ),
    "calibration": ({"logits": LOGITS[:, :30], "labels": LABELS % 30}, {}),
    "ood": (
        {"id_logits": LOGITS[:12, :9], "ood_logits": LOGITS[12:, :9]}
        | {"id_cosines": LOGITS[:12, :9] / 9, "ood_cosines": LOGITS[12:, :9] / 9},
        {},
    ),
}


@pytest.mark.parametrize("task", GIVEN)
def test_float64_changes_nothing_where_float32_suffices(tmp_path, task):
    """Every task, with a projection: selected classes, groups of classes."""
    arrays, settings = GIVEN[task]
    wide = {name: v.astype(np.float64) if v.dtype == np.float32 else v for name, v in arrays.items()}
    found = []
    for each in (arrays, wide):
        np.savez(tmp_path / "p.npz", **each)
        rows = evaluate_predictions(task, tmp_path / "p.npz", resamples=20, **settings).rows
        found.append({(row["metric"], row["slice"]): (row["value"], row["note"]) for row in rows})
    narrow, double = found
    assert narrow.keys() == double.keys()
    for key, (value, note) in narrow.items():
        assert double[key] == (value if value is None else pytest.approx(value, rel=1e-4, abs=1e-6), note)


def test_both_sides_of_ood_detection_are_scored_in_one_dtype(tmp_path):
    """float32 beside float64: the same logits tie, though their MSP differs by rounding in two dtypes."""
    known, other = LOGITS[:6, :9], np.concatenate([LOGITS[:6, :9], LOGITS[6:7, :9]])
    result = of(tmp_path, "ood", id_logits=known, ood_logits=other.astype(np.float64))
    scores = np.asarray(result.images["msp"])
    assert (scores[:6] == scores[6:12]).all()


def test_tables_with_and_without_the_column_are_read_and_compared(tmp_path):
    store = tmp_path / "runs"
    ids, labels = np.array(list("abc")), np.array([0, 1, 0])
    paths = []
    for k, logits in enumerate(([[1, 1], [0, 2], [3, 0]], [[1, 2], [0, 2], [3, 0]])):
        np.savez(tmp_path / "p.npz", logits=np.array(logits), labels=labels, ids=ids)
        made = evaluate_predictions(
            "zeroshot", tmp_path / "p.npz", model=f"m{k}", dataset=None, results=store
        )
        assert made.path is not None
        paths.append(made.path)
        file = made.path / "images.parquet"
        space = tmp_path / "two.csv"
        space.write_text("id,name\na,a\nb,b\n")
        again = evaluate_predictions("zeroshot", file, labels=space)
        assert [(r["value"], r["note"]) for r in again.rows] == [(r["value"], r["note"]) for r in made.rows]
    assert ["tied" in pq.read_schema(path / "images.parquet").names for path in paths] == [True, False]
    for one, other in (paths, paths[::-1]):
        found = {each.metric: each for each in compare_runs(one.name, other.name, store)}
        assert abs(found["top1"].difference) == pytest.approx(1 / 3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_logits_that_are_no_numbers_are_refused_by_row(tmp_path, value, dtype):
    logits = NEAR.astype(dtype)
    logits[2, 1] = value
    with pytest.raises(DataError, match=r"p.npz: row 2 of logits holds NaN or infinity"):
        of(tmp_path, logits=logits, labels=TRUE)


def test_whole_numbers_that_float64_rounds_are_refused(tmp_path):
    logits = np.array([[1, 2**53 + 1, 0]] * 3)
    logits[0, 1] = 7
    with pytest.raises(DataError, match=f"row 1 of logits holds {2**53 + 1}, which float64 may round"):
        of(tmp_path, logits=logits, labels=TRUE)
    with pytest.raises(DataError, match=f"row 0 of logits holds {2**64 - 1}, which float64 may round"):
        of(tmp_path, logits=np.full((3, 3), 2**64 - 1, np.uint64), labels=TRUE)


@pytest.mark.skipif(np.finfo(np.longdouble).nmant <= 52, reason="no longer float on this machine")
def test_longer_floats_are_refused_where_float64_rounds_them(tmp_path):
    logits = np.eye(3, dtype=np.longdouble)[TRUE]
    assert top1(of(tmp_path, logits=logits, labels=TRUE))["value"] == 1.0
    logits[2, 0] = np.nextafter(np.longdouble(1), np.longdouble(2))
    with pytest.raises(DataError, match=r"p.npz: row 2 of logits holds 1.0.*1.*, which float64 may round"):
        of(tmp_path, logits=logits, labels=TRUE)


@pytest.mark.parametrize(
    ("known", "others", "said"),
    [
        ([0.5] * 4, [0.5] * 4, "all scores are equal"),
        ([0.5, 0.9], [0.5, 0.1], "25.0% of the pairs of an ID and an OOD image have equal scores"),
        ([0.6, 0.9], [0.5, 0.1], None),
    ],
)
def test_scores_that_tie_are_said(tmp_path, known, others, said):
    table = {"in_distribution": [True] * len(known) + [False] * len(others), "msp": [*known, *others]}
    pq.write_table(pa.table(table), tmp_path / "o.parquet")
    rows = evaluate_predictions("ood", tmp_path / "o.parquet", dataset=None).rows
    notes = {r["note"] for r in rows if r["slice"] == "score:msp"}
    heads = {r["note"] for r in rows if r["slice"] is None}
    assert len(notes) == len(heads) == 1
    [note], [head] = notes, heads
    assert (note or "").startswith(said or "")
    assert (note is None) == (said is None)
    assert head == ("score: msp" if note is None else f"score: msp; {note}")


def test_tied_share_is_that_of_all_pairs():
    rng = np.random.default_rng(0)
    known, others = rng.integers(0, 5, 40) / 4, rng.integers(0, 5, 30) / 4
    expected = np.mean(known[:, None] == others[None])
    assert detection.tied_share(detection.rank(known, others)) == pytest.approx(expected)


@pytest.mark.parametrize("value", [np.nan, 7.0, -0.1, np.inf])
def test_a_confidence_is_a_probability(tmp_path, value):
    columns = {"in_distribution": [True, False], "msp": [0.5, 0.4], "confidence": [0.5, value]}
    pq.write_table(pa.table(columns), tmp_path / "c.parquet")
    with pytest.raises(
        DataError, match=r"c.parquet: confidence of row 1 is .*; it must be a finite number, 0 to 1"
    ):
        evaluate_predictions("ood", tmp_path / "c.parquet", dataset=None)


@pytest.mark.parametrize(
    ("name", "value"), [("msp", 1.5), ("mcm", -0.2), ("negative_entropy", 0.3), ("nll_before", -1.0)]
)
def test_other_columns_have_their_range(tmp_path, name, value):
    columns = {"in_distribution": [True, False], "msp": [0.5, 0.4]} | {name: [value, value]}
    pq.write_table(pa.table(columns), tmp_path / "c.parquet")
    with pytest.raises(
        DataError, match=f"c.parquet: {name} of row 0 is {value}; it must be a finite number, "
    ):
        evaluate_predictions("ood", tmp_path / "c.parquet", dataset=None)
