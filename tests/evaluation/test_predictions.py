"""Predictions of other frameworks: published numbers, those of features, and what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import _factors
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from _colours import ColourModel, paint
from typer.testing import CliRunner

import clipjax
from clipjax.cli import app
from clipjax.data.labels import load_labels, load_projection
from clipjax.errors import DataError, UsageError
from clipjax.evaluation.comparison.compare import compare_runs
from clipjax.evaluation.predictions.scoring import evaluate_predictions
from clipjax.evaluation.rows import Result
from clipjax.metrics import detection, ood_scores
from clipjax.metrics.confidence import calibration
from clipjax.metrics.uncertainty import intervals
from clipjax.results.store import ResultStore
from clipjax.tasks import imagenet_d

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(40, 6)).astype(np.float32) * 2
LABELS = np.where(RNG.random(40) < 0.6, LOGITS.argmax(1), RNG.integers(0, 6, 40))


def values(result: Result) -> dict[tuple[str, str | None], Any]:
    return {(row["metric"], row["slice"]): row["value"] for row in result.rows}


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def table(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


# Shape bias.


@pytest.mark.parametrize(
    ("model", "shape", "texture", "bias"), [("resnet50", 162, 572, 0.2207), ("vgg16", 84, 828, 0.0921)]
)
def test_published_decisions_give_the_published_bias(test_data, model, shape, texture, bias):
    file = test_data / "cue_conflict_decisions" / f"{model}.csv"
    result = evaluate_predictions("shape_bias", file, resamples=50)
    found: dict[Any, Any] = {(row["metric"], row["slice"]): row for row in result.rows}
    row = found["shape_bias", None]
    assert round(row["value"], 4) == bias
    assert (row["model"], row["dataset"], row["n"]) == (model, "cue_conflict", shape + texture)
    assert row["note"] == "80 images without conflict left out"
    assert found["shape_fraction", None]["value"] == shape / 1200
    assert sum(part is not None for _, part in found) == 16
    assert result.images["id"][0].as_py() == "airplane/airplane1-bicycle2.png"
    assert len(set(result.images["object"].to_pylist())) == 160


DECISION = {
    "subj": "subject-01", "session": 1, "trial": 1, "rt": "NaN", "object_response": "dog", "category": "dog",
    "condition": 0, "imagename": "0003_s5n_s01_0_dog_00_dog10-bicycle1.png",
}  # fmt: skip


def decisions(path: Path, *changes: dict[str, Any]) -> Path:
    second = {"category": "cat", "imagename": "0004_s5n_s01_0_cat_00_cat2-dog3.png"}
    return table(path, [DECISION | change for change in ({}, second, *changes)])


def test_a_person(tmp_path):
    """Names with the lab's prefix; "na" is no decision and counts among the others."""
    third = {"object_response": "na", "imagename": "0005_s5n_s01_0_dog_00_dog7-car2.png"}
    result = evaluate_predictions("shape_bias", decisions(tmp_path / "person.csv", third), resamples=20)
    found = values(result)
    assert found["shape_bias", None] == 1 / 2
    assert found["other_fraction", None] == 1 / 3
    assert result.images["decision"].to_pylist() == ["dog", "dog", "na"]
    assert result.images["id"].to_pylist()[0] == "dog/dog10-bicycle1.png"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"object_response": "wolf"}, r"p.csv:4: object_response says 'wolf', which is none of the 16"),
        ({"category": "wolf"}, r"p.csv:4: category says 'wolf'"),
        ({"imagename": "dog1-fur1.png"}, r"p.csv:4: imagename says 'fur'"),
        ({}, r"p.csv:4: 'dog/dog10-bicycle1.png' is in line 2, too; give each image once"),
        ({"subj": "subject-02"}, r"p.csv holds decisions of subject-01, subject-02"),
    ],
)
def test_wrong_decisions(tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        evaluate_predictions("shape_bias", decisions(tmp_path / "p.csv", change))


# ImageNet-X.


@pytest.fixture(scope="module")
def letters(tmp_path_factory) -> tuple[Path, Path]:
    """Annotations of 11 images, and a file of predictions: 1, 5 and 8 are wrong."""
    folder = tmp_path_factory.mktemp("letters")
    (folder / "letters.csv").write_text("id,name\na,a\nb,b\nc,c\n")
    rows = [
        {"file_name": name, "predicted_class": predicted, "predicted_probability": 0.5}
        for name, predicted in zip(_factors.IMAGES, [0, 1, 0, 0, 1, 2, 1, 1, 0, 2, 2])
    ]
    return _factors.write(folder / "notes"), table(folder / "mine.csv", rows)


def test_imagenet_xs_own_format(letters, tmp_path):
    notes, file = letters
    space = file.parent / "letters.csv"
    result = evaluate_predictions(
        "imagenet_x", file, labels=space, annotations=notes, resamples=20, results=tmp_path
    )
    assert result.value("average") == 6 / 9
    assert values(result)["accuracy", "top/filtered/factor:pose"] == 3 / 4
    row = result.rows[0]
    assert (row["model"], row["dataset"], row["origin"]) == ("mine", "imagenet_x", "measured")
    assert (row["precision"], row["sample"], row["skipped"]) == (None, None, None)
    assert row["convention"]["label_space"] == "letters"
    assert row["convention"]["predictions"] == "mine.csv"
    assert ResultStore(tmp_path).rows() == result.rows

    assert result.path is not None
    again = evaluate_predictions("imagenet_x", result.path / "images.parquet", labels=space, resamples=20)
    assert values(again) == values(result)
    assert again.rows[0]["model"] == "mine"


def test_imagenet_x_from_logits(letters, tmp_path):
    notes, file = letters
    logits = np.full((11, 3), np.log(0.25), np.float64)
    logits[np.arange(11), [0, 1, 0, 0, 1, 2, 1, 1, 0, 2, 2]] = np.log(0.5)
    made = npz(tmp_path / "mine.npz", logits=logits, ids=np.array(list(_factors.IMAGES)))
    settings: dict[str, Any] = {"labels": file.parent / "letters.csv", "annotations": notes, "resamples": 20}
    found, expected = (values(evaluate_predictions("imagenet_x", f, **settings)) for f in (made, file))
    assert {key: value for key, value in found.items() if key[0] != "ece"} == {
        key: value for key, value in expected.items() if key[0] != "ece"
    }
    assert found["ece", None] == pytest.approx(expected["ece", None], abs=1e-6)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("11.png,3,0.5", r"bad.csv:3: predicted_class is '3'; it must be 0..2 \(letters\)"),
        ("11.png,1.5,0.5", r"bad.csv:3: predicted_class is '1.5'"),
        ("11.png,cat,0.5", r"bad.csv:3: predicted_class is 'cat'"),
        ("11.png,1,nan", r"bad.csv:3: predicted_probability is 'nan'; it must be 0 to 1"),
        ("11.png,1,1.01", r"bad.csv:3: predicted_probability is '1.01'"),
        ("11.png,1", r"bad.csv:3: expected 3 cells"),
        ("0.png,1,0.5", r"bad.csv:3: '0.png' is in line 2, too; give each image once"),
    ],
)
def test_wrong_classes(letters, tmp_path, line, message):
    notes, file = letters
    (tmp_path / "bad.csv").write_text(
        f"file_name,predicted_class,predicted_probability\n0.png,1.0,0.5\n{line}\n"
    )
    with pytest.raises(DataError, match=message):
        evaluate_predictions(
            "imagenet_x", tmp_path / "bad.csv", labels=file.parent / "letters.csv", annotations=notes
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file_name,predicted_class\nx,1\n", r"has no column 'predicted_probability'"),
        (
            "file_name,predicted_class,predicted_probability,rank\nx,1,0.5,1\n",
            r"an unknown column 'rank'; its columns must be file_name,predicted_class,predicted_probability",
        ),
        ("file_name,predicted_class,predicted_probability\n", r"holds no predictions"),
        ("file_name,predicted_class,predicted_probability\nx,1,0.5\n", r"none of the 1 images \(x, ...\)"),
    ],
)
def test_wrong_columns(letters, tmp_path, text, message):
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        evaluate_predictions("imagenet_x", tmp_path / "bad.csv", annotations=letters[0])


# Logits.


def test_classification(tmp_path):
    result = evaluate_predictions("zeroshot", npz(tmp_path / "m.npz", logits=LOGITS, labels=LABELS))
    right = int((LOGITS.argmax(1) == LABELS).sum())
    assert result.value("top1") == right / 40
    assert result.interval("top1") == intervals.wilson(right, 40)[:2]
    order = np.argsort(-LOGITS, axis=1)[:, :5]
    assert result.value("top5") == np.mean((order == LABELS[:, None]).any(1))
    assert values(result)["class_accuracy", "class:2"] == np.mean(LOGITS.argmax(1)[LABELS == 2] == 2)
    assert (result.rows[0]["model"], result.rows[0]["dataset"]) == ("m", "m")


def test_predictions_of_a_folder_without_a_card(tmp_path):
    """Its name, class folders and number of images are those of a run on it."""
    root, names = tmp_path / "photos", ["blue", "green", "red"]
    ids = [f"{name}/{number}.png" for name in names for number in range(2)]
    for name in ids:
        paint(root / name, name.split("/")[0])
    labels = np.array([names.index(name.split("/")[0]) for name in ids])
    logits = np.eye(len(names), dtype=np.float32)[(labels + (np.arange(len(ids)) == 0)) % len(names)]
    file = npz(tmp_path / "mine.npz", ids=np.array(ids[:-1]), logits=logits[:-1], labels=labels[:-1])
    result = evaluate_predictions("zeroshot", file, root=root, resamples=20)
    assert result.value("top1") == 1 - 1 / (len(ids) - 1)
    assert {row["dataset"] for row in result.rows} == {"photos"}
    assert result.rows[0].get("part") == {"images": len(ids) - 1, "of": len(ids)}
    assert result.rows[0]["convention"]["label_space"] == "photos"
    npz(file, ids=np.array([*ids[1:], "other.png"]), logits=logits, labels=labels)
    with pytest.raises(DataError, match=r"'other\.png' is not an image of photos: name them by their paths"):
        evaluate_predictions("zeroshot", file, root=root, resamples=20)
    with pytest.raises(UsageError, match=r"says which images they are: leave root \(--data\) out"):
        evaluate_predictions("zeroshot", file, root=root, dataset="imagenet_a", resamples=20)


def test_a_card_restricts_logits_to_its_classes(tmp_path):
    """1000-way logits on a data set of 200 of the classes: as a classifier of ours is evaluated."""
    logits = np.zeros((3, 1000), np.float32)
    space = clipjax.data.labels.load_labels("imagenet_r")
    index = [clipjax.data.labels.load_labels("imagenet").ids.index(space.ids[k]) for k in (0, 7, 9)]
    logits[np.arange(3), index] = 1
    logits[:, 0] = 2  # tench, no class of ImageNet-R
    file = npz(tmp_path / "m.npz", logits=logits, labels=np.array([0, 7, 8]))
    result = evaluate_predictions("zeroshot", file, dataset="imagenet_r", labels="imagenet", model="mine")
    assert (result.value("top1"), result.value("top1_full")) == (2 / 3, 0)
    row = result.rows[0]
    assert (row["model"], row["dataset"]) == ("mine", "imagenet_r")
    assert row["convention"]["projection"] == "select from imagenet"


def test_outputs_under_a_registered_name_leave_its_published_numbers_alone(tmp_path):
    """A file does not show whose outputs it holds: the user states it, and the rows say so."""
    file = npz(tmp_path / "vit_b_32-openai.npz", logits=LOGITS, labels=LABELS)
    facts = evaluate_predictions("zeroshot", file, model="vit_b_32-openai").rows[0]["model_facts"]
    assert (facts["facts_origin"], facts["facts_of"]) == ("stated", "vit_b_32-openai")
    assert facts["train_source"] == "WIT"
    for model in (None, "vit_b_32-openai"):
        assert evaluate_predictions("zeroshot", file, model=model).rows[0]["model"] == (
            "vit_b_32-openai-unverified"
        )
    by_stem = evaluate_predictions("zeroshot", file).rows[0]["model_facts"]
    assert "facts_of" not in by_stem, "a file's name states nothing"


def test_imagenet_d_from_logits_of_a_classifier_makes_lists(tmp_path):
    """A framework's ResNet-50 over ImageNet's classes selects, as in the study's Table III."""
    logits = RNG.normal(size=(12, 1000)).astype(np.float32)
    ids = [f"wok/{row}.png" for row in range(12)]
    file = npz(tmp_path / "resnet50.npz", logits=logits, labels=np.full(12, 112), ids=ids)
    result = evaluate_predictions(
        "imagenet_d", file, labels="imagenet", dataset="imagenet_d:texture", results=tmp_path / "runs"
    )
    assert result.path is not None
    lists = imagenet_d.load_lists(result.path)
    assert lists.name == "resnet50"
    assert lists.wrong is not None
    groups = load_projection(load_labels("imagenet"), load_labels("imagenet_d"))
    assert groups is not None
    best = np.stack([logits[:, list(group)].max(axis=1) for group in groups.groups], axis=1)
    best[:, 112] = -np.inf  # the true category
    names = np.array(load_labels("imagenet_d").ids)
    assert lists.wrong["wok/3.png"] == names[np.argsort(-best[3])[:3]].tolist()


def test_a_table_of_a_sample_stays_a_sample(tmp_path):
    for colour in ("red", "blue"):
        for i in range(3):
            paint(tmp_path / "world" / colour / f"{i}.png", colour)
    run = clipjax.evaluate(
        ColourModel(),
        dataset=tmp_path / "world",
        prompts="single",
        limit=3,
        results=tmp_path / "r",
        progress=False,
    )
    assert run.path is not None
    assert run.rows[0]["sample"] == {"limit": 3, "seed": 0, "of": 6}
    (tmp_path / "two.csv").write_text("id,name\nblue,blue\nred,red\n")
    again = evaluate_predictions("zeroshot", run.path / "images.parquet", labels=tmp_path / "two.csv")
    for name in ("sample", "precision", "skipped"):
        assert again.rows[0][name] == run.rows[0][name], name


def test_calibration_by_marks_and_by_names(tmp_path):
    marks = np.arange(40) % 3 == 0
    result = evaluate_predictions(
        "calibration",
        npz(tmp_path / "m.npz", logits=LOGITS, labels=LABELS, calibration=marks),
        resamples=20,
    )
    temperature = calibration.fit_temperature(LOGITS[marks], LABELS[marks])
    assert result.value("temperature") == pytest.approx(temperature, rel=1e-6)
    scored = calibration.score(LOGITS[~marks], LABELS[~marks], temperature=temperature)
    assert result.value("nll_after") == pytest.approx(np.mean(scored.nll), rel=1e-6)
    assert result.images.num_rows == 40 - marks.sum()

    ids = np.array([f"x/{name}.png" for name in RNG.permutation(40)])
    result = evaluate_predictions(
        "calibration", npz(tmp_path / "n.npz", logits=LOGITS, labels=LABELS, ids=ids), resamples=20
    )
    fitted, tested = calibration.half_split(ids.tolist())
    expected = calibration.fit_temperature(LOGITS[fitted], LABELS[fitted])
    assert result.value("temperature") == pytest.approx(expected, rel=1e-6)
    assert sorted(result.images["id"].to_pylist()) == sorted(ids[tested])


def test_calibration_of_a_shift(tmp_path):
    """T comes from other images, all of which are marked."""
    arrays = {"id_logits": LOGITS[:25], "id_labels": LABELS[:25], "id_calibration": np.ones(25, bool)}
    file = npz(tmp_path / "m.npz", logits=LOGITS[25:], labels=LABELS[25:], **arrays)
    result = evaluate_predictions("calibration", file, resamples=20)
    expected = calibration.fit_temperature(LOGITS[:25], LABELS[:25])
    assert result.value("temperature") == pytest.approx(expected, rel=1e-6)
    assert result.images.num_rows == 15


def test_ood(tmp_path):
    inside, outside = LOGITS[:25], LOGITS[25:] / 2
    file = npz(tmp_path / "m.npz", id_logits=inside, ood_logits=outside)
    result = evaluate_predictions("ood", file, resamples=20)

    def auroc(score: Any, *sides: np.ndarray) -> float:
        ranking = detection.rank(*(np.asarray(score(jnp.asarray(side))) for side in sides))
        return float(detection.measures(ranking, ["auroc"])["auroc"][0])

    assert result.value("auroc") == pytest.approx(auroc(ood_scores.msp, inside, outside), abs=1e-9)
    found = values(result)
    assert found["auroc", "score:energy"] == pytest.approx(
        auroc(ood_scores.energy, inside, outside), abs=1e-9
    )
    assert found["auroc", "score:mcm"] is None
    cosines = {"id_cosines": np.tanh(inside), "ood_cosines": np.tanh(outside)}
    with_classes = np.array(["x", "y", "z"] * 5)
    file = npz(tmp_path / "c.npz", id_logits=inside, ood_logits=outside, ood_class=with_classes, **cosines)
    result = evaluate_predictions("ood", file, resamples=20)
    mcm = auroc(ood_scores.mcm, cosines["id_cosines"], cosines["ood_cosines"])
    assert result.value("auroc") == pytest.approx(mcm, abs=1e-9)
    assert values(result)["class_mean_auroc", "score:mcm"] is not None


GOOD = {"logits": LOGITS, "labels": LABELS}
OOD = {"id_logits": LOGITS[:25], "ood_logits": LOGITS[25:]}

COSINES = OOD | {"id_cosines": np.tanh(LOGITS[:25]), "ood_cosines": np.tanh(LOGITS[25:])}


def broken(array: np.ndarray, row: int, value: float) -> np.ndarray:
    array = array.copy()
    array[row] = value
    return array


@pytest.mark.parametrize(
    ("task", "arrays", "message"),
    [
        ("zeroshot", {"logits": LOGITS}, r"m.npz has no array 'labels'; those of 'zeroshot' are logits,"),
        ("zeroshot", GOOD | {"scores": LOGITS}, r"an unknown array 'scores'"),
        ("zeroshot", GOOD | {"logits": broken(LOGITS, 3, np.nan)}, r"m.npz: row 3 of logits holds NaN"),
        ("zeroshot", GOOD | {"logits": LOGITS[0]}, r"m.npz: logits is float32 of shape \(6,\)"),
        ("zeroshot", {"logits": LOGITS[:0], "labels": LABELS[:0]}, r"logits is float32 of shape \(0, 6\)"),
        ("zeroshot", GOOD | {"labels": broken(LABELS, 7, 6)}, r"m.npz: row 7 of labels is 6, outside the 6"),
        ("zeroshot", GOOD | {"labels": LABELS[:9]}, r"labels is int64 of shape \(9,\); give 40 whole"),
        ("zeroshot", GOOD | {"labels": LABELS / 2}, r"labels is float64"),
        ("zeroshot", GOOD | {"ids": np.array(["a"] * 40)}, r"m.npz: 'a' is in row 0 and in row 1"),
        ("zeroshot", GOOD | {"ids": np.array(["a"])}, r"ids has shape \(1,\); give one for each of 40"),
        ("zeroshot", GOOD | {"ids": np.array([None] * 40)}, r"m.npz is not an .npz of plain arrays"),
        ("ood", {"id_logits": LOGITS}, r"has no array 'ood_logits'"),
        ("ood", OOD | {"ood_logits": broken(LOGITS, 2, np.inf)}, r"row 2 of ood_logits holds NaN"),
        ("ood", OOD | {"id_cosines": COSINES["id_cosines"]}, r"there is no 'ood_cosines', but its other"),
        ("ood", OOD | {"id_cosines": LOGITS, "ood_cosines": LOGITS}, r"id_cosines has shape \(40, 6\)"),
        ("ood", OOD | {"ood_class": np.array(["x"])}, r"ood_class has shape \(1,\); give one"),
        ("calibration", GOOD | {"calibration": LABELS}, r"calibration is int64 of shape \(40,\)"),
        ("calibration", GOOD | {"calibration": np.ones(40, bool)}, r"m.npz: all images are marked for calib"),
        ("calibration", GOOD | {"calibration": np.zeros(40, bool)}, r"m.npz: no image is marked in cal"),
        ("zeroshot", GOOD | {"labels": LABELS.astype(str)}, r"m.npz: labels is <U21 of shape \(40,\); give"),
        ("ood", {"id_logits": LOGITS, "ood_logits": LOGITS}, r"m.npz: each row of ood_logits is a row of"),
        ("ood", {"id_logits": LOGITS, "ood_logits": LOGITS[9:3:-1]}, r"each row of ood_logits is a row of"),
        ("ood", OOD | {"ood_logits": LOGITS[25:, :5]}, r"m.npz: id_logits has 6 columns, but ood_logits 5;"),
        ("ood", COSINES | {"id_cosines": LOGITS[:25]}, r"m.npz: row 0 of id_cosines holds -?\d.*-1 to 1;"),
        (
            "ood",
            COSINES | {"ood_cosines": broken(COSINES["ood_cosines"], 2, -1.002)},
            r"row 2 of ood_cosines holds -1.002, and",
        ),
        (
            "ood",
            OOD | {"ood_class": np.array(["x"] * 7 + [" "] + ["y"] * 7)},
            r"m.npz: row 7 has an empty ood_class; name the class",
        ),
    ],
)  # fmt: skip
def test_wrong_arrays(tmp_path, task, arrays, message):
    with pytest.raises(DataError, match=message):
        evaluate_predictions(task, npz(tmp_path / "m.npz", **arrays))


def test_cosines_may_be_rounded(tmp_path):
    cosines = COSINES | {"ood_cosines": broken(COSINES["ood_cosines"], 2, 1.0009)}
    result = evaluate_predictions("ood", npz(tmp_path / "m.npz", **cosines), resamples=20)
    assert values(result)["auroc", "score:mcm"] is not None


@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_an_npz_that_is_cut_short(tmp_path, keep):
    whole = npz(tmp_path / "whole.npz", **GOOD).read_bytes()
    (tmp_path / "m.npz").write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(DataError, match=r"m.npz is not an .npz of plain arrays, or it is cut short; save it"):
        evaluate_predictions("zeroshot", tmp_path / "m.npz")


def test_an_npz_whose_compressed_bytes_are_damaged(tmp_path):
    file = tmp_path / "m.npz"
    np.savez_compressed(file, **GOOD)
    whole = bytearray(file.read_bytes())
    whole[100:160] = bytes(60)
    file.write_bytes(whole)
    with pytest.raises(
        DataError, match=r"m.npz is not an .npz of plain arrays: 'logits' is damaged or holds"
    ):
        evaluate_predictions("zeroshot", file)


def test_objects_and_a_single_array_are_no_npz(tmp_path):
    file = npz(tmp_path / "m.npz", **GOOD, ids=np.array([None] * 40))
    with pytest.raises(DataError, match=r"m.npz is not an .npz of plain arrays: 'ids' .* objects") as caught:
        evaluate_predictions("zeroshot", file)
    assert "allow_pickle" not in str(caught.value)
    np.save(tmp_path / "one.npy", LOGITS)
    (tmp_path / "one.npy").rename(file)
    with pytest.raises(DataError, match=r"m.npz is not an .npz of plain arrays but a single array \(.npy\)"):
        evaluate_predictions("zeroshot", file)


def test_logits_that_do_not_fit_their_classes(tmp_path):
    file = npz(tmp_path / "m.npz", **GOOD)
    with pytest.raises(DataError, match=r"m.npz: logits has 6 columns, but imagenet has 1000 classes"):
        evaluate_predictions("zeroshot", file, labels="imagenet")


# Our own tables.


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Result:
    """A run of a model of ours."""
    root = tmp_path_factory.mktemp("world")
    for folder, colours in {"red": ["red", "blue"], "blue": ["blue"]}.items():
        for i, colour in enumerate(colours):
            paint(root / "colours" / folder / f"{i}.png", colour)
    card = root / "colours.toml"
    card.write_text('name = "colours"\ntitle = "c"\nreader = "folder"\nclasses = ["red", "blue"]\n')
    return clipjax.evaluate(
        ColourModel(),
        dataset=card,
        root=root / "colours",
        prompts="single",
        results=root / "results",
        progress=False,
    )


def card_of(run: Result) -> Path:
    assert run.path is not None
    return run.path.parent.parent / "colours.toml"


def test_a_run_of_ours_gives_its_rows_again(run):
    again = evaluate_predictions("zeroshot", run.path / "images.parquet", dataset=card_of(run))
    keys = ("metric", "slice", "value", "interval", "n", "note", "model", "model_facts", "dataset")
    for one, other in zip(run.rows, again.rows, strict=True):
        assert {key: one[key] for key in keys} == {key: other[key] for key in keys}
    assert again.rows[0]["convention"]["prompts"] == "single"
    assert again.images.to_pylist() == run.images.to_pylist()
    assert again.rows[0]["recipe_hash"] != run.rows[0]["recipe_hash"]


def test_tables_of_others(tmp_path, run):
    columns = {"label": [0, 1, 1], "prediction": [0, 1, 0], "correct": [True, True, False]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    result = evaluate_predictions("zeroshot", tmp_path / "t.parquet", dataset=card_of(run))
    assert result.value("top1") == 2 / 3
    assert values(result)["top5", None] is None
    assert result.images["id"].to_pylist() == ["00000000", "00000001", "00000002"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": ["a", "a"], "label": [0, 1], "correct": [True, True]}, r"t.parquet: 'a' is in row 0 and"),
        ({"label": [0, 1]}, r"t.parquet: there is no column 'correct', which the task measures"),
        ({"label": [0, None], "correct": [True, True]}, r"t.parquet: row 1 has no value in 'label'"),
        ({"label": [], "correct": []}, r"t.parquet holds no images"),
        ({"label": [0, 2], "correct": [True, True]}, r"label of row 1 is 2; it must be 0..1 \(colo"),
        ({"label": [-1, 0], "correct": [True, True]}, r"label of row 0 is -1; it must be 0..1"),
        ({"label": [9, 9], "correct": [False, False]}, r"label of row 0 is 9"),
        ({"label": [0, np.nan], "correct": [True, True]}, r"t.parquet: label of row 1 is nan; it must be"),
        ({"label": [0, 0.5], "correct": [True, True]}, r"t.parquet: label of row 1 is 0.5; it must be 0..1"),
        ({"label": ["red", "blue"], "correct": [True, True]}, r"label of row 0 is 'red'; it must be 0..1"),
        ({"label": [0], "prediction": [500], "correct": [False]}, r"prediction of row 0 is 500; it must"),
        ({"label": [0], "prediction": [1], "correct": [True]}, r"row 0 says correct=True, .* is 1 and the"),
        ({"label": [0], "prediction": [0], "correct": [False]}, r"row 0 says correct=False, .* label is 0"),
        ({"label": [0, 1], "correct": [1, 0]}, r"t.parquet: correct of row 0 is 1; it must be a bool"),
        ({"label": [0, 1], "correct": [True, None]}, r"t.parquet: row 1 has no value in 'correct'"),
        ({"label": [0], "correct": [True], "correct_full": ["x"]}, r"correct_full of row 0 is 'x'; it must"),
        ({"label": [0], "correct": [True], "correct_top5": [False]}, r"row 0 is correct but not correct_t"),
        (
            {"label": [0], "prediction": [0], "accepted": [[1]], "correct": [True]},
            r"row 0 says correct=True, but the prediction is 0 and \[1\] are accepted",
        ),
    ],
)  # fmt: skip
def test_wrong_tables(tmp_path, run, columns, message):
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=message):
        evaluate_predictions("zeroshot", tmp_path / "t.parquet", dataset=card_of(run))


def test_an_image_may_be_right_by_another_label(tmp_path, run):
    """Said by the column `accepted`; in vid_robust the table need not say it."""
    columns = {"label": [0.0, 1.0], "prediction": [1, 1], "correct": [True, True]}
    pq.write_table(pa.table(columns | {"accepted": [[0, 1], [1]]}), tmp_path / "t.parquet")
    result = evaluate_predictions("zeroshot", tmp_path / "t.parquet", dataset=card_of(run))
    assert result.value("top1") == 1
    assert result.images["label"].to_pylist() == [0, 1]
    columns |= {"anchor": ["a", "b"], "offset": [0, 0], "set_size": [1, 1]}
    pq.write_table(pa.table(columns), tmp_path / "v.parquet")
    result = evaluate_predictions("vid_robust", tmp_path / "v.parquet", dataset=card_of(run), resamples=20)
    assert (result.value("benign"), result.value("top1_all_frames")) == (1, 0.5)
    pq.write_table(pa.table(columns | {"correct": [True, False]}), tmp_path / "v.parquet")
    with pytest.raises(
        DataError, match=r"v.parquet: row 1 says correct=False, but the prediction is 1 and the"
    ):
        evaluate_predictions("vid_robust", tmp_path / "v.parquet", dataset=card_of(run))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"msp": [0.5, np.nan]}, r"o.parquet: msp of row 1 is nan; it must be a finite number"),
        ({"msp": ["0.5", "x"]}, r"o.parquet: msp of row 0 is '0.5'; it must be a finite number"),
        ({"in_distribution": [1, 0]}, r"o.parquet: in_distribution of row 0 is 1; it must be a bool"),
        ({"in_distribution": [True, True]}, r"o.parquet: o: all 2 images are in distribution"),
        ({"ood_class": ["", ""]}, r"o.parquet: row 1 has an empty ood_class"),
    ],
)
def test_wrong_scores(tmp_path, change, message):
    pq.write_table(
        pa.table({"in_distribution": [True, False], "msp": [0.5, 0.4]} | change), tmp_path / "o.parquet"
    )
    with pytest.raises(DataError, match=message):
        evaluate_predictions("ood", tmp_path / "o.parquet")


def test_a_folder_is_no_file(tmp_path, run):
    with pytest.raises(DataError, match=rf"{run.path} is a folder; give {run.path}/images.parquet"):
        evaluate_predictions("zeroshot", run.path)
    with pytest.raises(DataError, match=r"is a folder; give a .parquet, .csv or .npz file"):
        evaluate_predictions("zeroshot", tmp_path)


def test_files_that_are_not_what_they_should_be(tmp_path):
    (tmp_path / "t.parquet").write_text("x")
    with pytest.raises(DataError, match=r"t.parquet: not a whole Parquet file"):
        evaluate_predictions("zeroshot", tmp_path / "t.parquet")
    (tmp_path / "t.npz").write_text("x")
    with pytest.raises(DataError, match=r"t.npz is not an .npz of plain arrays"):
        evaluate_predictions("zeroshot", tmp_path / "t.npz")
    with pytest.raises(DataError, match=r"none.csv does not exist"):
        evaluate_predictions("imagenet_x", tmp_path / "none.csv")


def test_combinations_that_do_not_exist(tmp_path):
    (tmp_path / "t.csv").write_text("x\n1\n")
    pq.write_table(pa.table({"label": [0]}), tmp_path / "t.parquet")
    cases: list[tuple[str, str, dict[str, Any], str]] = [
        ("zeroshot", "t.csv", {}, r"'zeroshot' takes predictions as .parquet, .npz"),
        ("retrieval", "t.csv", {}, r"'retrieval' takes predictions as .parquet"),
        ("zeroshot", "t.parquet", {}, r"dataset=CARD, or labels=NAME .*\(--dataset and --labels on"),
        ("zeroshot", "t.parquet", {"annotations": tmp_path}, r"'zeroshot' takes no annotations"),
        ("zeroshot", "t.parquet", {"resamples": 0}, r"needs 1 resample or more"),
        ("zeroshot", "t.parquet", {"seed": -1}, r"the seed must be at least 0, not -1"),
        ("zero", "t.parquet", {}, r"unknown task 'zero'"),
        ("zeroshot", "t.parquet", {"dataset": "imagenet_y"}, r"unknown data set 'imagenet_y'"),
    ]
    for task, name, settings, message in cases:
        with pytest.raises(UsageError, match=message):
            evaluate_predictions(task, tmp_path / name, **settings)


def test_a_negative_seed_is_refused_before_anything_is_read():
    for call in (lambda: clipjax.evaluate("no model", seed=-1), lambda: compare_runs("a", "b", seed=-1)):
        with pytest.raises(UsageError, match=r"the seed must be at least 0, not -1"):
            call()


# The command line.


def test_the_command_line(letters, tmp_path):
    notes, file = letters
    command = ["eval", "imagenet_x", "--predictions", file, "--annotations", notes, "--resamples", 100]
    command += ["--labels", file.parent / "letters.csv", "--model", "mine too", "--results", tmp_path / "r"]
    done = CliRunner().invoke(app, [*map(str, command), "--json"])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)
    assert (rows[0]["model"], rows[0]["metric"], rows[0]["value"]) == ("mine too", "average", 6 / 9)
    assert len(ResultStore(tmp_path / "r").run_ids()) == 1
    done = CliRunner().invoke(app, list(map(str, command)))
    assert "worst_factor_of_ten" in done.stdout
    assert "factor:pose" not in done.stdout


@pytest.mark.parametrize(("option", "value"), [("--resamples", "99"), ("--seed", "-1")])
def test_the_command_line_refuses_few_resamples_and_negative_seeds(tmp_path, option, value):
    command = ["eval", "zeroshot", "--predictions", str(tmp_path / "x.npz")]
    done = CliRunner().invoke(app, [*command, option, value])
    assert done.exit_code == 2
    assert f"Invalid value for '{option}'" in done.output


def test_the_command_line_says_no(tmp_path):
    (tmp_path / "x.csv").write_text("a\n1\n")
    done = CliRunner().invoke(app, ["eval", "shape_bias", "--predictions", str(tmp_path / "x.csv")])
    assert isinstance(done.exception, DataError)
    assert "x.csv has no column 'object_response'; its columns must be subj,session" in str(done.exception)
