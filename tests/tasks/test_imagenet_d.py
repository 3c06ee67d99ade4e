"""ImageNet-D: 113 categories, and four of them chosen by a selection model."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pytest

import clipjax
from clipjax.checkpoints.card import Preprocess
from clipjax.data.labels import LabelSpace, load_labels, load_projection
from clipjax.errors import DataError
from clipjax.heads.head import identity_head
from clipjax.results.image_table import images_table
from clipjax.tasks import imagenet_d
from clipjax.tasks.inputs import ImageInputs

SPACE = load_labels("imagenet_d")
K, N = len(SPACE), 200
LABELS = np.random.default_rng(0).integers(0, K, N).astype(np.int32)
CSV = "id,category1,category2,category3\n"


def logits_of(seed: int, skill: float = 2.0) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(size=(N, K)).astype(np.float32)
    logits[np.arange(N), LABELS] += skill
    return logits


def inputs_of(logits: np.ndarray, **more: Any) -> ImageInputs:
    ids = [f"{SPACE.ids[label]}/{i}.png" for i, label in enumerate(LABELS[: len(logits)])]
    space = load_labels("imagenet") if logits.shape[1] == 1000 else SPACE
    projection, labels = load_projection(space, SPACE), LABELS[: len(logits)]
    return ImageInputs(
        ids=ids,
        features=logits,
        labels=labels,
        head=identity_head(space),
        label_space=SPACE,
        projection=projection,
        dataset="d",
        **more,
    )


def lists_of(logits: np.ndarray) -> list[list[int]]:
    """The three wrong categories of the highest logits, by a loop."""
    ranked = (np.argsort(-row, kind="stable") for row in logits)
    return [[int(k) for k in order if k != label][:3] for order, label in zip(ranked, LABELS)]


def share_right(logits: np.ndarray, lists: list[list[int]]) -> float:
    """Accuracy among the true category and the three of the list, by a loop."""
    right = [row[label] > max(row[wrong]) for row, label, wrong in zip(logits, LABELS, lists)]
    return float(np.mean(right))


def values(outcome: Any) -> dict[str, float | None]:
    return {m.metric: m.value for m in outcome.measures if m.slice is None}


def stored(path: Path, inputs: ImageInputs) -> Path:
    """A run's folder, as the result store writes it."""
    path.mkdir()
    images = imagenet_d.TASK.run(inputs).images
    pq.write_table(images_table({"id": inputs.ids, **images}), path / "images.parquet")
    (path / "run.json").write_text(json.dumps({"model": "rn50"}))
    return path


def test_with_the_models_own_lists_the_answer_is_the_best_of_all_categories():
    logits = logits_of(1)
    outcome = imagenet_d.TASK.run(inputs_of(logits))
    got = values(outcome)
    assert got["top1"] == np.mean(logits.argmax(axis=1) == LABELS)
    assert got["top1_4way_own"] == got["top1"] == share_right(logits, lists_of(logits))
    assert "top1_4way_list" not in got
    names = [[SPACE.ids[k] for k in wrong] for wrong in lists_of(logits)]
    assert outcome.images["failures"].tolist() == names


@pytest.mark.parametrize("how", ["folder of a run", "table of a run", "csv of names", "csv of ids"])
def test_lists_of_another_model(tmp_path, how):
    ours, theirs = logits_of(1), logits_of(2, skill=1.0)
    path = stored(tmp_path / "run", inputs_of(theirs))
    if how == "table of a run":
        path = path / "images.parquet"
    elif how.startswith("csv"):
        names = SPACE.classes if how.endswith("names") else SPACE.ids
        rows = zip(inputs_of(theirs).ids, lists_of(theirs))
        path = tmp_path / "lists.csv"
        path.write_text(CSV + "".join(f"{i},{','.join(names[k] for k in wrong)}\n" for i, wrong in rows))
    lists = imagenet_d.load_lists(path)
    outcome = imagenet_d.TASK.run(inputs_of(ours, annotations=lists))
    got = values(outcome)
    assert got["top1_4way_list"] == share_right(ours, lists_of(theirs))
    assert got["top1_4way_own"] == share_right(ours, lists_of(ours)) < share_right(ours, lists_of(theirs))
    assert lists.name == ("lists" if how.startswith("csv") else "rn50")
    [note] = [m.note for m in outcome.measures if m.metric == "top1_4way_list"]
    assert note == f"lists of {lists.name}"
    right = [answer == SPACE.ids[k] for answer, k in zip(outcome.images["answer_4way_list"], LABELS)]
    assert np.mean(right) == got["top1_4way_list"]


def test_the_digest_follows_the_lists(tmp_path):
    first, again, other = (
        imagenet_d.load_lists(stored(tmp_path / name, inputs_of(logits_of(seed)))).digest
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first == again != other
    assert imagenet_d.load_lists(None).digest not in (first, other)


def test_a_classifier_answers_through_its_thousand_classes(tmp_path):
    rng = np.random.default_rng(5)
    logits = rng.normal(size=(N, 1000)).astype(np.float32)
    inputs = inputs_of(logits)
    assert inputs.projection is not None
    groups = inputs.projection.groups
    for row, label in zip(logits, LABELS):
        row[rng.choice(groups[label])] += 3
    projected = np.stack([logits[:, group].max(axis=1) for group in groups], axis=1)
    lists = imagenet_d.load_lists(stored(tmp_path / "run", inputs_of(logits_of(2))))
    got = values(imagenet_d.TASK.run(dataclasses.replace(inputs, annotations=lists)))
    assert got["top1"] == np.mean(projected.argmax(axis=1) == LABELS)
    assert got["top1_full"] == np.mean([b in groups[k] for b, k in zip(logits.argmax(axis=1), LABELS)])
    assert got["top1_4way_own"] == share_right(projected, lists_of(projected)) == got["top1"]
    assert got["top1_4way_list"] == share_right(projected, lists_of(logits_of(2)))


def test_numbers_from_a_stored_table(tmp_path):
    lists = imagenet_d.load_lists(stored(tmp_path / "run", inputs_of(logits_of(2))))
    inputs = inputs_of(logits_of(1), annotations=lists)
    outcome = imagenet_d.TASK.run(inputs)
    table = images_table({"id": inputs.ids, **outcome.images}).to_pydict()
    assert imagenet_d.TASK.measure(table, inputs.about) == outcome.measures


def test_ties_go_to_the_lowest_category():
    outcome = imagenet_d.TASK.run(inputs_of(np.zeros((N, K), np.float32)))
    first = [SPACE.ids[k] for k in ((0, 1, 2) if LABELS[0] > 2 else (1, 2, 3))]
    assert outcome.images["failures"][0].tolist() == first
    assert values(outcome)["top1_4way_own"] == np.mean(LABELS == 0)
    options = np.array([[50, 3, 4, 2]] * N)
    assert imagenet_d.choose(inputs_of(np.zeros((N, K), np.float32)), options).tolist() == [2] * N


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CSV, r"lists\.csv: no category list for the image .*/0\.png"),
        ("id,category1\nx,wok\n", r"lists\.csv: expected the header `id,category1,category2,category3`"),
        (CSV + "a,wok,tv,tie\na,wok,tv,tie\n", r"lists\.csv:3: the image a has two lists"),
        (CSV + "a,wok,tv\n", r"lists\.csv:2: expected 4 cells"),
        (CSV + "{id},wok,tv,zebra\n", r"lists\.csv: .*/0\.png: 'zebra' is not a category of imagenet_d"),
        (CSV + "{id},wok,tv,tv\n", r"0\.png: its list must be 3 different categories beside the true one"),
        (CSV + "{id},wok,tv,{label}\n", r"must be 3 different categories beside the true one \({label}\)"),
    ],
)
def test_wrong_lists_name_the_line_or_the_image(tmp_path, text, message):
    path, label = tmp_path / "lists.csv", SPACE.ids[LABELS[0]]
    path.write_text(text.format(id=f"{label}/0.png", label=label))
    with pytest.raises(DataError, match=message.replace("{label}", label)):
        imagenet_d.TASK.run(inputs_of(logits_of(1)[:1], annotations=imagenet_d.load_lists(path)))


def test_wrong_files_and_data_sets(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.csv does not exist; give the images\.parquet"):
        imagenet_d.load_lists(tmp_path / "nowhere.csv")
    (tmp_path / "images.parquet").write_bytes(b"PAR")
    with pytest.raises(DataError, match=r"images\.parquet: not a whole Parquet file"):
        imagenet_d.load_lists(tmp_path)
    pq.write_table(images_table({"id": ["a"], "prediction": [0]}), tmp_path / "images.parquet")
    with pytest.raises(DataError, match=r"no columns `id` and `failures`: it is not of an imagenet_d run"):
        imagenet_d.load_lists(tmp_path)
    few = LabelSpace("few", ("a", "b", "c"), ("a", "b", "c"))
    inputs = ImageInputs(
        ids=["x"],
        features=np.eye(3)[:1],
        labels=np.array([0], np.int32),
        head=identity_head(few),
        label_space=few,
        dataset="few",
    )
    with pytest.raises(DataError, match=r"few: imagenet_d needs labels, of 4 categories or more"):
        imagenet_d.TASK.run(inputs)
    with pytest.raises(DataError, match=r"few: imagenet_d needs labels"):
        imagenet_d.TASK.run(dataclasses.replace(inputs, labels=None))


class Hashed:
    """A model that sees a random vector in each text, and in each image that of its brightness."""

    def __init__(self, name: str, seed: int) -> None:
        preprocess = Preprocess(8, 8, "shortest", "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        fields = {"id": name, "kind": "zero_shot", "fingerprint": None, "facts": {}, "classes": None}
        self.card = SimpleNamespace(**fields, logit_scale=10.0, logit_bias=None, preprocess=preprocess)
        self.seed = seed
        self.texts: list[str] = []

    def vectors(self, keys: Any) -> np.ndarray:
        rows = np.stack([np.random.default_rng([self.seed, *key]).normal(size=8) for key in keys])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    def encode_image(self, images: Any) -> np.ndarray:
        return self.vectors([[round(255 * float(image.mean()))] for image in np.asarray(images)])

    def encode_text(self, texts: list[str]) -> np.ndarray:
        self.texts += texts
        return self.vectors([list(text.encode()) for text in texts])


def test_one_model_answers_the_lists_of_another(tmp_path):
    root = tmp_path / "ImageNet-D" / "texture"
    for i, folder in enumerate(["wok", "tie", "t_shirt", "wok"]):
        (root / folder).mkdir(parents=True, exist_ok=True)
        PIL.Image.new("RGB", (8, 8), (9 * i,) * 3).save(root / folder / f"{i}.png")
    common = {"dataset": "imagenet_d:texture", "root": root, "results": tmp_path / "runs", "progress": False}
    selection = clipjax.evaluate(Hashed("selects", 1), "imagenet_d", **common)
    model = Hashed("answers", 2)
    answers = clipjax.evaluate(model, "imagenet_d", annotations=selection.path, **common)
    assert answers.value("top1_4way_list") is not None
    assert answers.images["list"].to_pylist() == selection.images["failures"].to_pylist()
    [row] = [row for row in answers.rows if row["metric"] == "top1_4way_list"]
    assert row["note"] == "lists of selects"
    assert row["dataset"] == "imagenet_d:texture"
    assert row["convention"]["variant"] == {"nuisance": "texture"}
    assert row["convention"]["prompts"] == "imagenet_d"
    assert "A photo of a t shirt" in model.texts
    assert answers.rows[0]["recipe"]["annotations"] != selection.rows[0]["recipe"]["annotations"]
