"""`clipjax.evaluate` from images on disk to rows, with planted answers and with a real (narrow) network."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pyarrow as pa
import pytest
from _colours import COLOURS, PREPROCESS, ColourModel
from _kept_programs import programs_kept
from _rows import row

import clipjax
from clipjax.data.cards import load_dataset
from clipjax.data.labels import LabelSpace, PromptSet, load_labels
from clipjax.data.manifest import Manifest
from clipjax.errors import DataError, UsageError
from clipjax.evaluation.rows import NO_STATS, Result
from clipjax.metrics.uncertainty import intervals
from clipjax.results.store import ResultStore
from clipjax.storage import shard
from clipjax.tasks import zeroshot
from clipjax.tasks.inputs import About

pytestmark = pytest.mark.usefixtures("one_device")

PLANTED = {  # folder -> colours of the images in it
    "black": ["black", "black", "black"],
    "blue": ["blue", "blue", "red"],
    "green": ["green", "yellow", "green"],
    "pink": ["white", "white", "white"],
    "red": ["red"],
    "teal": ["teal", "teal"],
    "white": ["white"],
    "yellow": ["yellow", "yellow", "yellow"],
}


@pytest.fixture
def world(tmp_path: Path) -> Path:
    for folder, colours in PLANTED.items():
        (tmp_path / "world" / folder).mkdir(parents=True)
        for i, colour in enumerate(colours):
            PIL.Image.new("RGB", (10, 12), COLOURS[colour]).save(tmp_path / "world" / folder / f"{i}.png")
    return tmp_path / "world"


def run(world: Any, **settings: Any) -> Result:
    settings = {"model": ColourModel(), "dataset": world, "prompts": "single", "progress": False} | settings
    return clipjax.evaluate(**settings)


def test_planted_answers(world):
    result = run(world)
    right = sum(colour == folder for folder, colours in PLANTED.items() for colour in colours)
    n = sum(map(len, PLANTED.values()))
    assert (right, n) == (14, 19)
    assert result.value("top1") == right / n
    assert result.interval("top1") == intervals.wilson(right, n)[:2]
    accuracy: dict[str | None, Any] = {
        row["slice"]: row["value"] for row in result.rows if row["metric"] == "class_accuracy"
    }
    assert accuracy["class:pink"] == 0
    assert accuracy["class:blue"] == 2 / 3
    assert result.value("mean_per_class") == pytest.approx(np.mean(list(accuracy.values())))
    images = {row["id"]: row for row in result.images.to_pylist()}
    assert images["blue/2.png"]["prediction_name"] == "red"
    assert images["blue/2.png"]["label"] == 1
    assert images["blue/2.png"]["correct"] is False


def test_rows_say_where_they_come_from(world):
    row: Any = run(world).rows[0]
    assert (row["model"], row["dataset"], row["task"], row["precision"]) == (
        "colours",
        "world",
        "zeroshot",
        "parity",
    )
    assert row["model_facts"] == {"train_source": "none", "arch": None, "kind": "zero_shot", "image_size": 8}
    assert row["convention"]["prompts"] == "single"
    assert row["convention"]["ties"] == "lowest class index"
    assert row["device"]["platform"] == "cpu"
    assert row["versions"]["jax"]
    assert row["wall_time"] > 0
    assert (row["sample"], row["skipped"], row["reference"], row["origin"]) == (None, 0, None, "measured")


def test_what_looks_like_an_image_and_is_not_read_is_named(world):
    (world / "blue" / "3.png").mkdir()
    with pytest.warns(UserWarning, match=r"^world: 1 image is left out, blue/3\.png: of a format"):
        assert run(world).rows[0]["n"] == 19
    (world / "black" / "3.HEIC").touch()
    with pytest.warns(UserWarning, match=r"^world: 2 images are left out, black/3\.HEIC, blue/3\.png: "):
        run(world, limit=3)


def test_rows_on_corrupted_copies_say_so(world):
    plain = run(world).rows[0]
    assert "made" not in plain["convention"]
    record = {"corruption": "fog", "severity": 3, "version": 1, "seed": 0, "format": "PNG", "inputs": {}}
    (world / "corruption.json").write_text(json.dumps(record | {"approximate": "", "convention": "ours"}))
    row = run(world).rows[0]
    made = "clipjax corrupt, not the published images: fog (version 1), severity 3, seed 0, PNG; ours"
    assert row["convention"]["made"] == made
    assert (row["recipe_hash"], row["value"]) == (plain["recipe_hash"], plain["value"])


def test_every_number_can_be_made_again_from_parquet(world, tmp_path):
    result = run(world, results=tmp_path / "results")
    store = ResultStore(tmp_path / "results")
    assert store.rows() == result.rows
    images = store.images(result.rows[0]["run_id"]).to_pydict()
    space = LabelSpace("world", tuple(COLOURS), tuple(COLOURS))
    again = zeroshot.TASK.measure(images, About("world", space))
    assert [(m.metric, m.slice, m.value, m.n) for m in again] == [
        (row["metric"], row["slice"], row["value"], row["n"]) for row in result.rows
    ]
    assert np.array_equal(np.array(images["prediction"]) == np.array(images["label"]), images["correct"])


def test_a_rerun_is_a_second_run_of_one_recipe(world, tmp_path):
    first = run(world, results=tmp_path / "results")
    assert first.path is not None
    before = {path.name: path.read_bytes() for path in first.path.iterdir()}
    second = run(world, results=tmp_path / "results")
    assert first.rows[0]["recipe_hash"] == second.rows[0]["recipe_hash"]
    assert {path.name: path.read_bytes() for path in first.path.iterdir()} == before
    store = ResultStore(tmp_path / "results")
    assert store.rows() == second.rows
    assert len(store.rows(every=True)) == 2 * len(second.rows)


def recipe(result: Any) -> str:
    [value] = {row["recipe_hash"] for row in result.rows}
    return value


def test_the_recipe_hash_follows_what_decides_the_number(world, tmp_path):
    hashes = {"as it was": recipe(run(world))}
    hashes["template"] = recipe(run(world, prompts="single_no_period"))
    names = tuple(name.upper() if name == "red" else name for name in COLOURS)
    labels = LabelSpace("loud", names, tuple(COLOURS))
    shouting = PromptSet("say", sentences={name: (f"a photo of a {name.lower()}.",) for name in names})
    hashes["label set"] = recipe(run(world, labels=labels, prompts=shouting))
    hashes["other model"] = recipe(run(world, model=ColourModel(id="others")))
    hashes["logit scale"] = recipe(run(world, model=ColourModel(logit_scale=10.0)))
    crop = dataclasses.replace(PREPROCESS, resize_size=9)
    hashes["crop"] = recipe(run(world, model=ColourModel(preprocess=crop)))
    hashes["sample"] = recipe(run(world, limit=10))
    hashes["seed"] = recipe(run(world, limit=10, seed=1))
    PIL.Image.new("RGB", (10, 12), (1, 0, 0)).save(world / "red" / "0.png")
    hashes["one pixel value"] = recipe(run(world))
    assert len(set(hashes.values())) == len(hashes)


def test_the_recipe_hash_ignores_place_time_and_speed(world, tmp_path, monkeypatch):
    first = recipe(run(world))
    shutil.copytree(world, tmp_path / "elsewhere" / "world")
    elsewhere = {"versions": {"jax": "9"}, "xla_flags": None, "device": None, "git_revision": None}
    monkeypatch.setattr("clipjax.evaluation.rows.provenance", lambda: elsewhere)
    assert (
        recipe(run(tmp_path / "elsewhere" / "world", per_device_batch=2, store=tmp_path / "store")) == first
    )


def test_limit_is_a_recorded_sample(world):
    result = run(world, limit=7, seed=3)
    row = result.rows[0]
    assert row["sample"] == {"limit": 7, "seed": 3, "of": 19}
    assert row["n"] == 7
    assert result.images.num_rows == 7
    right = sum(result.images["correct"].to_pylist())
    assert result.interval("top1") == intervals.wilson(right, 7)[:2]
    assert run(world, limit=7, seed=3).images.equals(result.images)
    assert run(world, limit=7, seed=4).images["id"] != result.images["id"]
    assert run(world, limit=100).rows[0]["sample"] is None


def test_photographs_without_labels(world, tmp_path):
    for path in sorted(world.glob("*/0.png")):
        shutil.copy(path, tmp_path / f"{path.parent.name}.png")
    shutil.rmtree(world)
    (tmp_path / "__pycache__").mkdir()  # as in scikit-image's folder: it makes no folder of class folders
    labels = LabelSpace("colours", tuple(COLOURS), tuple(COLOURS))
    result = run(tmp_path, labels=labels)
    assert [(row["metric"], row["value"], row["n"]) for row in result.rows] == [("top1", None, 8)]
    assert result.rows[0]["note"] == "not applicable: the data set has no labels"
    images = {row["id"]: row for row in result.images.to_pylist()}
    assert images["teal.png"]["top5_names"][0] == "teal"
    assert "correct" not in result.images.column_names
    with pytest.raises(UsageError, match="does not say what its classes are: give labels="):
        run(tmp_path)


def test_labels_of_a_larger_space_are_matched_by_folder_name(world):
    """The folders are some of the classes of a space, in another order."""
    names = ("orange", *reversed(COLOURS))
    prompts = PromptSet(
        "say", sentences={name: (f"a {name}" if name != "orange" else "black",) for name in names}
    )
    result = run(world, labels=LabelSpace("more", names, names), prompts=prompts)
    assert result.value("top1") == (14 - 3) / 19  # black images tie with orange, which has the lower index
    with pytest.raises(DataError, match="the class 'black' is not in the label space 'few'"):
        run(world, labels=LabelSpace("few", ("red",), ("red",)))


class Classifier(ColourModel):
    """1000-way: red is an airplane (404), green is spread over 21 classes, most of them birds."""

    def __init__(self) -> None:
        super().__init__(kind="classifier", classes="imagenet", logit_scale=None, id="classifier")
        kernel = np.full((4, 1000), -20.0, np.float32)
        kernel[0, 404] = 3.0
        kernel[1, 80:101] = 1.0
        self.params = {"head": {"kernel": kernel, "bias": np.zeros(1000, np.float32)}}

    def encode_image(self, images: Any) -> np.ndarray:
        colour = (np.asarray(images).mean(axis=(1, 2)) > 0).astype(np.float32)
        return np.concatenate([colour, np.zeros_like(colour[:, :1])], axis=1)


@pytest.fixture
def conflict(tmp_path):
    """The layout of cue-conflict: red airplanes and one green one, the rest green birds."""
    classes = load_labels("cue_conflict").ids
    for name in classes:
        (tmp_path / "cue" / name).mkdir(parents=True)
        colours = ["red", "green"] if name == "airplane" else ["green"]
        for i, colour in enumerate(colours):
            PIL.Image.new("RGB", (8, 8), COLOURS[colour]).save(
                tmp_path / "cue" / name / f"{name}{i}-bird1.png"
            )
    return tmp_path / "cue"


def test_a_classifier_through_a_projection(conflict):
    result = clipjax.evaluate(Classifier(), dataset="cue_conflict", root=conflict, progress=False)
    assert result.value("top1") == 2 / 17
    images = {row["id"]: row["prediction_name"] for row in result.images.to_pylist()}
    assert images["airplane/airplane0-bird1.png"] == "airplane"
    assert images["airplane/airplane1-bird1.png"] == images["bird/bird0-bird1.png"] == "bird"
    convention = result.rows[0]["convention"]
    assert convention["projection"] == "mean_prob from imagenet"
    assert convention["prompts"] == "not applicable: a classifier has its own head"


def test_prompts_do_not_apply_to_a_classifier(conflict):
    with pytest.raises(UsageError, match="prompts are not applicable"):
        clipjax.evaluate(Classifier(), dataset="cue_conflict", root=conflict, prompts="single")


def test_a_classifier_on_photographs_names_its_own_classes(conflict):
    flat = conflict / "airplane"
    result = clipjax.evaluate(Classifier(), dataset=flat, progress=False)
    first = result.images.to_pylist()[0]
    assert first["prediction_name"] == load_labels("imagenet").classes[404]
    assert first["confidence"] == pytest.approx(1.0, abs=1e-5)


def test_what_is_not_applicable_is_so_for_a_data_set_that_is_there(conflict, tmp_path):
    settings = {"task": "retrieval", "results": tmp_path / "results", "progress": False}
    with pytest.raises(UsageError, match="unknown data set 'nosuch'"):
        clipjax.evaluate(Classifier(), dataset="nosuch", root=conflict, **settings)
    with pytest.raises(DataError, match="gone does not exist"):
        clipjax.evaluate(Classifier(), dataset="cue_conflict", root=tmp_path / "gone", **settings)
    assert not (tmp_path / "results").exists()
    [row] = clipjax.evaluate(Classifier(), dataset="cue_conflict", root=conflict, **settings).rows
    assert (row["dataset"], row["value"]) == ("cue_conflict", None)


@pytest.mark.parametrize("prompts", [3, ["a photo of a {}."]])
def test_prompts_are_a_name_or_a_set(world, prompts):
    with pytest.raises(TypeError, match=f"not {type(prompts).__name__}"):
        run(world, prompts=prompts)


def test_labels_outside_the_classes_are_refused_before_images_are_read(world, tmp_path, monkeypatch):
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("images were embedded")

    monkeypatch.setattr("clipjax.evaluation.kinds.images.image_subject.embed_images", never)
    (world / "m.csv").write_text("path,label\nred/0.png,4\nteal/0.png,2000\n")
    says = r"label 2000 of the image teal/0\.png is outside the 1000 classes"
    for model, labels in ((Classifier(), None), (ColourModel(), "imagenet")):
        with pytest.raises(DataError, match=says):
            run(world / "m.csv", model=model, labels=labels, prompts=None)


def test_unreadable_images_stop_or_are_counted(world):
    (world / "red" / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"red/0\.png.*--on-error skip"):
        run(world)
    result = run(world, on_error="skip")
    assert result.rows[0]["skipped"] == 1
    assert result.rows[0]["n"] == 18
    assert result.value("top1") == 13 / 18
    assert "red/0.png" not in result.images["id"].to_pylist()


def test_bad_arguments(world, tmp_path):
    with pytest.raises(UsageError, match="unknown task 'zeroshoot'; did you mean zeroshot"):
        run(world, task="zeroshoot")
    with pytest.raises(UsageError, match="say where the folder of 'imagenet_val' is"):
        run("imagenet_val")
    with pytest.raises(UsageError, match="say where a data set is"):
        run(None)
    with pytest.raises(UsageError, match="unknown data set 'imagenet-val'"):
        run("imagenet-val", root=world)
    with pytest.raises(DataError, match="none does not exist"):
        run(None, root=tmp_path / "none")
    with pytest.raises(UsageError, match=r"leave precision .--precision. out"):
        run(world, compare_precision=True, precision="fast")
    with pytest.raises(UsageError, match="no metric 'top2'; it has mean_per_class, top1, top5"):
        run(world).value("top2")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"per_device_batch": -3}, "batch size must be at least 1"),
        ({"per_device_batch": 0}, "batch size must be at least 1"),
        ({"workers": -1}, "workers must be at least 0"),
        ({"on_error": "ignore"}, "on_error must be"),
        ({"model": ColourModel(logit_scale=None)}, "set logit_scale on the card of colours"),
    ],
)
def test_bad_settings_leave_no_store(world, tmp_path, settings, message):
    with pytest.raises(UsageError, match=message):
        run(world, store=tmp_path / "store", **settings)
    assert not (tmp_path / "store").exists()


def test_a_results_folder_that_is_a_file_is_said_before_anything_runs(world, tmp_path):
    (tmp_path / "afile").touch()
    for results in (tmp_path / "afile", tmp_path / "afile" / "below"):
        with pytest.raises(DataError, match="afile is a file, not a folder of results"):
            run(world, model="no model is looked for", results=results)


def test_results_among_class_folders_are_refused(world):
    for settings in ({}, {"dataset": None, "root": world}, {"model": "no model is looked for"}):
        with pytest.raises(UsageError, match="where each folder is a class: give another folder"):
            run(world, results=world / "results", **settings)


def test_a_stray_image_does_not_drop_the_labels(world):
    PIL.Image.new("RGB", (10, 12)).save(world / "stray.png")
    with pytest.raises(
        UsageError, match=r"an image \(stray\.png\) beside folders of images \(black\): .*folder"
    ):
        run(world)
    assert run("folder", dataset="folder", root=world).value("top1") == 14 / 19
    (world / "stray.png").rename(world / ".stray.png")
    assert run(world).value("top1") == 14 / 19


def test_a_folders_name_may_have_a_dot(world):
    assert run(world.rename(world.with_name("world.v2"))).rows[0]["dataset"] == "world.v2"


def test_rows_say_the_batch_that_was_used(world, network, tmp_path):
    batches = [
        run(world, model=network[1], store=tmp_path / "store", per_device_batch=batch).rows[0][
            "per_device_batch"
        ]
        for batch in (2, 4)
    ]
    assert batches == [2, 2], "a stored entry keeps its own"


def test_wordnet_ids_make_no_prompts(world):
    for i, folder in enumerate(sorted(world.iterdir())):
        folder.rename(world / f"n0000000{i}")
    with pytest.raises(UsageError, match=r"WordNet ids .* make no prompt"):
        run(world)


def test_a_dataset_object_is_taken_as_it_is(world):
    dataset = load_dataset("folder", world)
    assert run(dataset).value("top1") == 14 / 19


def test_a_full_disk_loses_no_embeddings_and_writes_no_half_result(world, tmp_path, monkeypatch):
    def full(*_args: Any, **_kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("clipjax.results.store.pq.write_table", full)
    with pytest.raises(DataError, match="No space left"):
        run(world, results=tmp_path / "results")
    assert list((tmp_path / "results").iterdir()) == []


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    pytest.importorskip("open_clip")
    from _narrow import narrow_pair

    return narrow_pair(tmp_path_factory.mktemp("narrow"))


def test_jax_is_configured_as_before(network, world, tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "cache"))
    with programs_kept():
        jax.clear_caches()
        before = dict(jax.config.values)
        run(world, model=network[1])
        assert jax.config.values == before
        kept = set((tmp_path / "cache" / "xla").iterdir())
        jax.jit(lambda x: jnp.cumsum(x) * 3)(np.arange(777.0))  # a program of the caller's own
        assert set((tmp_path / "cache" / "xla").iterdir()) == kept != set()


def test_rows_name_the_versions_that_made_stored_embeddings(network, world, tmp_path, monkeypatch):
    def versions(store: str, **settings: Any) -> list[dict[str, str]]:
        done = run(world, model=network[1], store=tmp_path / store, **settings)
        return [row["versions"] or {} for row in done.rows]

    own = versions("own")[0]
    assert versions("own")[0] == own  # from the store, of the same versions
    assert not any("embeddings" in name for name in own)
    with monkeypatch.context() as older:
        older.setattr(shard, "making", lambda: {"jax": "0.9.1", "jaxlib": "0.9.0"})
        versions("older")
    expected = {**own, "jax of embeddings": "0.9.1", "jaxlib of embeddings": "0.9.0"}
    assert versions("older") == [expected] * len(versions("older"))
    assert versions("older", compare_precision=True)[-1] == expected  # the comparison's row


def test_other_prompts_run_no_forward_pass(network, world, tmp_path):
    first = run(world, model=network[1], store=tmp_path / "store")
    second = run(world, model=network[1], store=tmp_path / "store", prompts="openai_7")
    assert first.stats.forward_passes > 0 == second.stats.forward_passes
    assert recipe(first) != recipe(second)
    assert first.rows[0]["recipe"]["model"] == network[1].card.fingerprint


def test_cut_params_are_in_the_recipe_and_change_no_number(network, world, tmp_path):
    whole, cut = (
        run(world, model=network[1], store=tmp_path / "store", params=params)
        for params in ("replicated", "sharded")
    )
    assert cut.stats.forward_passes > 0
    assert recipe(cut) != recipe(whole)
    assert cut.rows[0]["recipe"] == whole.rows[0]["recipe"] | {"params": "sharded"}
    assert cut.images == whole.images
    with pytest.raises(UsageError, match="unknown placement of params 'cut'"):
        run(world, params="cut")


def test_the_network_predicts_what_open_clip_predicts(network, world):
    import open_clip
    import torch

    result = run(world, model=network[1], prompts="openai_7")
    size = network[1].card.preprocess.image_size
    transform: Any = open_clip.image_transform(size, is_train=False)
    pixels = [transform(PIL.Image.open(world / name)) for name in result.images["id"].to_pylist()]
    kernel = open_clip.build_zero_shot_classifier(
        network[0], open_clip.get_tokenizer("ViT-B-32"), list(COLOURS), open_clip.SIMPLE_IMAGENET_TEMPLATES
    )
    with torch.no_grad():
        features = network[0].encode_image(torch.stack(pixels), normalize=True)  # type: ignore[arg-type]
        logits = network[0].logit_scale.exp() * features @ kernel
    assert logits.argmax(dim=1).tolist() == result.images["prediction"].to_pylist()
    confidence = logits.softmax(dim=1).max(dim=1).values.numpy()
    np.testing.assert_allclose(result.images["confidence"], confidence, rtol=1e-4)


def test_compare_precision(network, world, tmp_path):
    result = run(
        world, model=network[1], compare_precision=True, results=tmp_path / "r", store=tmp_path / "s"
    )
    store = ResultStore(tmp_path / "r")
    assert len(store.run_ids()) == 3
    profiles = {row["precision"]: row["recipe_hash"] for row in store.rows()}
    assert len(set(profiles.values())) == 3
    parity, fast = (
        next(store.images(row["run_id"]) for row in store.rows() if row["precision"] == name)
        for name in ("parity", "fast")
    )
    flips = sum(a != b for a, b in zip(parity["prediction"].to_pylist(), fast["prediction"].to_pylist()))
    assert result.value("flips") == flips / 19
    assert result.images["flipped"].to_pylist().count(True) == flips
    top1 = [result.value("top1", precision=name) or 0 for name in ("parity", "fast")]
    assert result.value("top1_change") == pytest.approx(top1[1] - top1[0])
    lo, hi = result.interval("top1_change") or (1, -1)
    assert lo <= top1[1] - top1[0] <= hi
    # The profiles did differ: bfloat16 moves every confidence.
    assert parity["confidence"] != fast["confidence"]


def test_the_function_is_not_hidden_by_a_module():
    """A module `clipjax.evaluate` would replace the function of that name once it is imported."""
    import importlib

    importlib.import_module("clipjax.evaluation.run")
    assert callable(clipjax.evaluate)
    assert callable(clipjax.evaluate)


def test_a_notebook_shows_whole_data_sets_or_else_the_slices() -> None:
    whole, part = row("1", value=0.25), row("1", value=0.75, slice="score:mcm")

    def shown(*rows: Any) -> str:
        return Result(list(rows), pa.table({}), None, NO_STATS)._repr_html_()

    assert "0.2500" in shown(whole, part)
    assert "0.7500" not in shown(whole, part)
    assert "0.7500" in shown(part)


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_images_that_change_during_a_run_leave_nothing_in_the_store(world, tmp_path, monkeypatch, on_error):
    compute, files = Manifest.compute_digest, sorted(world.rglob("*.png"))
    before = {file: file.read_bytes() for file in files}

    def rewritten(manifest, *progress):
        """The images are hashed, then another program writes them."""
        digest = compute(manifest, *progress)
        for file in files:
            PIL.Image.new("RGB", (10, 12), COLOURS["red"]).save(file)
        return digest

    model = ColourModel(fingerprint="f" * 64)
    where = {"model": model, "store": tmp_path / "store", "on_error": on_error}
    own = run(world, model=model)
    with monkeypatch.context() as patch:
        patch.setattr(Manifest, "compute_digest", rewritten)
        with pytest.raises(DataError, match=r"\.png changes while it is read: run again when it is written"):
            run(world, **where)
    for file, data in before.items():
        file.write_bytes(data)
    assert run(world, **where).value("top1") == own.value("top1")
