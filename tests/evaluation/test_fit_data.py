"""`--fit-data`: which images scores of features are fitted on, what rows state of them, what is refused."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from _colours import COLOURS, ColourModel
from typer.testing import CliRunner

import clipjax
from clipjax.cli import app
from clipjax.data.cards import load_dataset, read_card
from clipjax.data.labels import LabelSpace
from clipjax.embeddings.compute import Compute
from clipjax.errors import ClipjaxError, DataError, UsageError
from clipjax.evaluation.plans.collection import plan
from clipjax.evaluation.plans.item import items_of
from clipjax.evaluation.plans.ready import all_ready
from clipjax.evaluation.predictions.scoring import evaluate_predictions
from clipjax.evaluation.request import Request
from clipjax.evaluation.rows import Result
from clipjax.metrics import ood_features
from clipjax.results.store import ResultStore
from clipjax.tasks.measures.feature_scores import FEATURE_SCORES

CARD = """
name = "{name}"
title = "{name}"
reader = "{reader}"
prompts = "single"
id = "val"
tasks = {tasks}
{more}
"""
CLASSES = 'label_space = "colours.csv"\n'


def tint(path: Path, colour: str, seed: int) -> None:
    """An image of one colour, about the named one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rgb = 38 + 0.7 * np.array(COLOURS[colour]) + np.random.default_rng(seed).normal(0, 25, 3)
    PIL.Image.new("RGB", (10, 12), tuple(int(value) for value in np.clip(rgb, 0, 255))).save(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ID images, OOD images and training images of all colours: 3 and 8 of each, and 9."""
    root = tmp_path_factory.mktemp("world")
    for i, colour in enumerate(COLOURS):
        for n in range(8):
            tint(root / "train" / colour / f"{n}.png", colour, 100 * i + n)
        for n in range(3):
            tint(root / "val" / colour / f"{n}.png", colour, 100 * i + 50 + n)
    for n in range(9):
        tint(root / "odd" / f"{n}.png", "black", 1000 + n)
    cards = {
        "val": ("folder", '["zeroshot"]', CLASSES),
        "odd": ("flat", '["ood"]', ""),
        "train": ("folder", "[]", CLASSES + 'split = "train"\n'),
    }
    for name, (reader, tasks, more) in cards.items():
        text = CARD.format(name=name, reader=reader, tasks=tasks, more=more)
        (root / f"{name}.toml").write_text(text)
    (root / "colours.csv").write_text("id,name\n" + "".join(f"{name},{name}\n" for name in COLOURS))
    return root


@pytest.fixture
def data(whole: Path, tmp_path: Path) -> Path:
    """A copy, to be changed."""
    return Path(shutil.copytree(whole, tmp_path / "data"))


def run(data: Path, model: Any = None, task: str = "ood", **settings: Any) -> Result:
    settings = {"fit_root": data / "train", "resamples": 20, "progress": False} | settings
    if task == "ood":
        settings = {"dataset": data / "odd.toml", "root": data / "odd", "id_root": data / "val"} | settings
    return clipjax.evaluate(model or ColourModel(), task, **settings)


def areas(result: Result) -> dict[str, Any]:
    scores = {str(row["slice"])[6:]: row["value"] for row in result.rows if row["metric"] == "auroc"}
    return {name: scores[name] for name in FEATURE_SCORES}


def encoded(data: Path, model: ColourModel, name: str) -> np.ndarray:
    """The embeddings of the images of a folder, in the order of their names."""
    images = [PIL.Image.open(path).convert("RGB") for path in sorted((data / name).rglob("*.png"))]
    pixels = np.stack([np.asarray(image.resize((8, 8)), np.float32) for image in images])
    return model.encode_image(pixels / 127.5 - 1)


def test_scores_are_fitted_on_the_training_images(whole: Path) -> None:
    result, model = run(whole), ColourModel()
    train, val, odd = (encoded(whole, model, name) for name in ("train", "val", "odd"))
    fit = ood_features.fit_gaussians(train, np.repeat(np.arange(8), 8))
    expected = ood_features.mahalanobis(np.concatenate([val, odd]), fit)
    np.testing.assert_allclose(result.images["mahalanobis"].to_numpy(), expected, rtol=1e-3)
    expected = ood_features.knn(np.concatenate([val, odd]), train)
    np.testing.assert_allclose(result.images["knn"].to_numpy(), expected, atol=1e-5)
    assert all(value is not None for value in areas(result).values())


def test_a_row_states_what_it_was_fitted_on(whole: Path) -> None:
    row: Any = run(whole, fit_per_class=7, seed=3).rows[0]
    fit = row["convention"]["fit"]
    assert fit.pop("sha256") == row["recipe"]["fit"]["images"]
    assert fit == {
        "data": "train",
        "images": 56,
        "images_per_class": 7,
        "sample": {"per_class": 7, "seed": 3, "of": 64},
    }
    assert row["convention"]["fit_convention"]["version"] == 1
    assert row["recipe"]["fit"]["fit_convention"] == row["convention"]["fit_convention"]
    assert row["sample"] is None


def test_without_training_images_nothing_changes(whole: Path) -> None:
    """The recipe has no new key, and the other numbers are those beside scores of features."""
    without, with_fit = run(whole, fit_root=None), run(whole)
    assert not any("fit" in key for key in (*without.rows[0]["recipe"], *without.rows[0]["convention"]))
    recipe = {key: value for key, value in with_fit.rows[0]["recipe"].items() if key != "fit"}
    assert recipe == without.rows[0]["recipe"]
    values = [
        {(row["metric"], row["slice"]): row["value"] for row in each.rows} for each in (without, with_fit)
    ]
    assert values[0].items() <= values[1].items()
    assert without.images.column_names == [
        name for name in with_fit.images.column_names if name.removeprefix("note_") not in FEATURE_SCORES
    ]


def test_samples_of_a_class_are_nested_and_seeded(whole: Path) -> None:
    manifest = load_dataset("folder", whole / "train").manifest
    some, more = manifest.sample_per_class(2, 1), manifest.sample_per_class(5, 1)
    assert set(some.ids) < set(more.ids)
    assert np.bincount(np.asarray(some.labels)).tolist() == [2] * 8
    assert list(some.ids) == sorted(some.ids)
    assert some.ids != manifest.sample_per_class(2, 0).ids
    assert manifest.sample_per_class(8) is manifest
    fewer = manifest.select([row for row in range(64) if row not in (0, 1, 2)])
    assert np.bincount(np.asarray(fewer.sample_per_class(6).labels)).tolist() == [5, *[6] * 7]
    with pytest.raises(UsageError, match="at least 1 image of each class, not 0"):
        manifest.sample_per_class(0)
    unlabelled = dataclasses.replace(manifest, labels=None)
    with pytest.raises(DataError, match="has no labels: images of each class cannot be drawn"):
        unlabelled.sample_per_class(2)


def test_training_images_are_embedded_once(whole: Path, tmp_path: Path) -> None:
    """In the store of all evaluations: another precision of nothing, another seed of the bootstrap."""
    model, store = ColourModel(fingerprint="colours"), tmp_path / "store"
    first = run(whole, model, store=store)
    assert first.stats.images == 64 + 24 + 9
    again = run(whole, model, store=store, resamples=30)
    assert again.stats.images == 0
    assert areas(again) == areas(first)
    assert run(whole, model, store=store, fit_per_class=7).stats.images == 56  # other images


def test_the_stored_table_gives_the_same_numbers(whole: Path, tmp_path: Path) -> None:
    """As predictions of any framework do: a column a score, and a note."""
    result = run(whole, results=tmp_path / "results")
    assert result.path is not None
    again = evaluate_predictions("ood", result.path / "images.parquet", dataset=whole / "odd.toml")
    assert areas(again) == areas(result)
    notes = [{row["slice"]: row["note"] for row in each.rows} for each in (again, result)]
    assert notes[0] == notes[1]


def test_on_eight_devices_as_on_one(whole: Path, tmp_path: Path) -> None:
    """The tests have eight; one is what `one_device` leaves of them."""
    import jax

    assert jax.device_count() == 8
    eight = run(whole)
    with pytest.MonkeyPatch.context() as patch:
        first = jax.devices()[:1]
        for name in ("devices", "local_devices"):
            patch.setattr(jax, name, lambda *_: first)
        for name in ("device_count", "local_device_count"):
            patch.setattr(jax, name, lambda *_: 1)
        one = run(whole)
    assert one.images.equals(eight.images)
    assert [row["value"] for row in one.rows] == [row["value"] for row in eight.rows]


def test_a_card_and_a_list_name_their_classes(data: Path) -> None:
    """In another order than the ID images' too."""
    expected = areas(run(data))
    assert areas(run(data, fit_dataset=data / "train.toml")) == expected
    assert (
        areas(run(data, fit_dataset=load_dataset(data / "train.toml", data / "train"), fit_root=None))
        == expected
    )
    lines = [f"{colour}/{n}.png,{colour}" for colour in reversed(COLOURS) for n in range(8)]
    (data / "train" / "list.csv").write_text("\n".join(["path,label", *lines]) + "\n")
    assert areas(run(data, fit_root=data / "train" / "list.csv")) == pytest.approx(expected)


def test_only_tasks_that_fit_something_take_them(whole: Path, tmp_path: Path) -> None:
    """Of a folder's tasks those; alone another task refuses them."""
    request, compute = Request(fit_root=whole / "train", resamples=20), Compute(progress=False)
    jobs = [job for name in ("zeroshot", "ood") for job in plan(name, whole, request=request).jobs]
    assert [job.fit and job.fit.card.name for job in jobs] == [None, "train"]
    ready = list(all_ready(items_of(ColourModel(), jobs, request), tmp_path, compute))
    assert [each.error for each in ready] == [None, None]
    assert ["fit" in each.recipes[0][0] for each in ready] == [False, True]
    both = plan("ood", whole, request=request).jobs * 2
    assert both[0].fit is both[1].fit
    with pytest.raises(UsageError, match="'zeroshot' fits nothing on training images: leave fit_root"):
        run(whole, task="zeroshot", dataset=whole / "val.toml", root=whole / "val")


def test_the_command_line(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(
        "from _colours import ColourModel\n\ndef build():\n    return ColourModel(id='mine')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    common = [
        "eval",
        "ood",
        "--model",
        "mine:build",
        "--data-root",
        str(data),
        "--results",
        "results",
        "--store",
        "store",
    ]
    done = CliRunner().invoke(app, [*common, "--fit-data", str(data / "train"), "--fit-per-class", "7"])
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.stdout.splitlines()]
    shown = {word: line for line in lines for word in line if word.startswith("score:") and word[6:]}
    assert shown.keys() == {f"score:{name}" for name in FEATURE_SCORES}
    assert "neighbour 50 of 56 fit images" in " ".join(shown["score:knn"])
    rows = ResultStore(tmp_path / "results").rows()
    assert {row["convention"]["fit"]["images_per_class"] for row in rows} == {7}
    wrong = CliRunner().invoke(app, [*common, "--fit-data", str(data / "trian")])
    assert wrong.exit_code != 0
    assert "trian does not exist" in str(wrong.exception)


# ---------------------------------------------------------------------------------------------- bad input


def refused(data: Path, says: str, error: type[ClipjaxError] = DataError, **settings: Any) -> None:
    model = ColourModel()
    with pytest.raises(error, match=says):
        run(data, model, **settings)
    assert model.calls == 0  # before anything is embedded


def test_copies_of_test_images_are_refused(data: Path) -> None:
    """By their contents, under any name; of the ID and of the OOD images."""
    shutil.copy(data / "val" / "red" / "1.png", data / "train" / "red" / "mine.png")
    refused(data, r"train contains 1 test image of val, among them red/mine.png: take them out")
    (data / "train" / "red" / "mine.png").unlink()
    for n in range(2):
        shutil.copy(data / "odd" / f"{n}.png", data / "train" / "blue" / f"odd{n}.png")
    refused(data, r"train contains 2 test images of odd, among them blue/odd0.png")


def test_the_folder_of_test_images_is_refused(data: Path) -> None:
    """Also where a sample of them is tested and another one would be fitted on."""
    refused(data, "val contains 24 test images of val", fit_root=data / "val")
    says = r"val contains \S+png, a test image of odd or val: give other images to fit on"
    refused(data, says, fit_root=data / "val", limit=4, fit_per_class=2)
    (data / "other").symlink_to(data / "val")
    refused(data, says, fit_root=data / "other", limit=4, fit_per_class=2)
    assert areas(run(data, limit=4, fit_per_class=7))


def test_cards_of_test_images_are_refused(data: Path) -> None:
    says = r'val cannot be fitted on: its card has no split = "train"; give training images'
    refused(data, says, UsageError, fit_root=data / "val", fit_dataset=data / "val.toml")
    assert read_card("imagenet_val").split is None
    assert read_card("imagenet_train").split == "train"


def test_classes_without_images_are_refused(data: Path) -> None:
    shutil.rmtree(data / "train" / "red")
    refused(data, r"train has no images of 1 class of 'colours', as of 'red': give training images of all 8")
    for colour in set(COLOURS) - {"red", "blue"}:
        shutil.rmtree(data / "train" / colour)
    refused(data, r"train has no images of 7 classes of 'colours', as of 'black'")


def test_other_classes_are_refused(data: Path) -> None:
    (data / "train" / "red").rename(data / "train" / "scarlet")
    refused(data, r"train: the class 'scarlet' is not in the label space 'colours'")


def test_one_class_is_refused(data: Path) -> None:
    (data / "colours.csv").write_text("id,name\nred,red\n")
    for folder in ("train", "val"):
        for colour in set(COLOURS) - {"red"}:
            shutil.rmtree(data / folder / colour)
    refused(data, "train has one class: scores of features compare classes, give two or more")


def test_images_without_labels_are_refused(data: Path) -> None:
    flat = data / "flat"
    flat.mkdir()
    shutil.copy(data / "train" / "red" / "1.png", flat / "1.png")
    refused(data, "flat has no labels, or the in-distribution images have no classes", fit_root=flat)


def test_a_sample_without_images_is_refused(data: Path) -> None:
    says = r"say where the training images to fit on are: fit_root=FOLDER \(--fit-data FOLDER\)"
    refused(data, says, UsageError, fit_root=None, fit_per_class=3)
    refused(data, says, UsageError, fit_root=None, fit_dataset="imagenet_train")
    with pytest.raises(UsageError, match="a fit needs at least 1 image of each class, not 0"):
        run(data, fit_per_class=0)


def test_constant_features_are_refused(data: Path) -> None:
    """By a model that sees nothing, and of training images of one colour."""
    for path in (data / "train").rglob("*.png"):
        shutil.copy(
            data / "train" / "red" / "0.png", path
        ) if path.name != "0.png" or path.parent.name != "red" else 0
    with pytest.raises(DataError, match="train: all 64 images have the same features"):
        run(data)


def test_three_training_images_have_reasons(data: Path) -> None:
    (data / "colours.csv").write_text("id,name\nred,red\nblue,blue\n")
    for folder in ("train", "val"):
        for colour in set(COLOURS) - {"red", "blue"}:
            shutil.rmtree(data / folder / colour)
    for n in range(2, 8):
        (data / "train" / "red" / f"{n}.png").unlink()
    for n in range(1, 8):
        (data / "train" / "blue" / f"{n}.png").unlink()
    result = run(data)
    notes = {str(row["slice"])[6:]: str(row["note"]) for row in result.rows if row["value"] is None}
    assert notes["knn"] == "not applicable: 3 fit images have no neighbour 50"
    assert notes["mahalanobis"].endswith("within 2 classes needs 6 fit images, and there are 3")
    assert result.rows[0]["convention"]["fit"]["images_per_class"] == "1 to 2"
    assert result.rows[0]["value"] is not None


def test_a_classifier_of_ones_own(whole: Path) -> None:
    """Its logits are its features, which its head leaves as they are."""
    kernel = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    how: dict[str, Any] = {"name": "linear", "image_size": 8, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    space = LabelSpace("colours", tuple(COLOURS), tuple(COLOURS))
    model = clipjax.wrap(lambda pixels: np.asarray(pixels).mean(axis=(1, 2)) @ kernel, classes=space, **how)
    result = run(whole, model)
    assert {str(row["note"]) for row in result.rows if row["slice"] == "score:vim"} == {
        "not applicable: the fit images have no residual (4 of 8 dimensions kept)"  # of three colours
    }
    assert areas(result)["mahalanobis"] is not None
