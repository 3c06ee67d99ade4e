"""Models with an adapter: on disk and back, with their base wherever it lies, evaluated beside it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _bucket import URL, FakeBucket
from _narrow import narrow_pair
from _records import split
from _tuned import CLASSES, PROMPTS, make_setup, moved, renamed, write_images

import clipjax
from clipjax.checkpoints import adapter_file
from clipjax.checkpoints.export import export_model
from clipjax.checkpoints.load import convert_model, load_model
from clipjax.checkpoints.model import Model
from clipjax.checkpoints.native import read_card_file
from clipjax.checkpoints.origin import AdapterParts, Location
from clipjax.checkpoints.resize import resize_model
from clipjax.data.cards import DatasetCard, load_dataset
from clipjax.data.labels import LabelSpace, load_prompts
from clipjax.errors import DataError, UsageError
from clipjax.evaluation.comparison.compare import compare_runs
from clipjax.evaluation.data_folder import DataFolder
from clipjax.evaluation.plans.execute import execute
from clipjax.evaluation.plans.item import TaskOnData, items_of
from clipjax.evaluation.subject import NotApplicableError
from clipjax.finetune.outcome import adapted as adapted_outcome
from clipjax.heads.adapters.base import Adapter, adapter_digest, adapter_of, all_adapters
from clipjax.heads.adapters.coop import CoOp
from clipjax.heads.adapters.tip_adapter import TipAdapter
from clipjax.heads.head import logits
from clipjax.results.store import ResultStore
from clipjax.storage.store import Store

pytestmark = pytest.mark.usefixtures("one_device")
SPACE = LabelSpace("colours", CLASSES, CLASSES)
KINDS = ("coop", "tip_adapter")
HOW: Any = {"precision": "parity", "store": None, "progress": False}


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "colours", per_class=2)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A zero-shot model as a checkpoint of ours."""
    return narrow_pair(tmp_path_factory.mktemp("vit"))[1].save(tmp_path_factory.mktemp("base") / "b32")


def an_adapter(model: Model, kind: str, csc: bool = False) -> Any:
    rng = np.random.default_rng(0)
    if kind == "coop":
        width = model.card.arch.text.width if model.card.arch.text else 0
        shape = (len(CLASSES), 4, width) if csc else (4, width)
        return CoOp.trained(rng.normal(scale=0.02, size=shape).astype(np.float32), "end", "", SPACE)
    keys = rng.normal(size=(model.card.arch.vision.embed_dim, 6)).astype(np.float32)
    keys /= np.linalg.norm(keys, axis=0)
    prompts = load_prompts("single")
    about = {"name": prompts.name, "digest": prompts.digest}
    return TipAdapter(keys, np.array([0, 0, 1, 1, 2, 2], np.int32), 1.17, 1.0, False, about, SPACE)


def built(model: Model) -> Adapter:
    adapter = adapter_of(model)
    assert adapter is not None
    return adapter


def make(base: Path | Model, kind: str, images: Path, **adapter: Any) -> Model:
    model = load_model(base) if isinstance(base, Path) else base
    setup = make_setup(model, images, method=kind)
    return adapted_outcome(setup, an_adapter(model, kind, **adapter), {"alpha": 1.17}).model


def record(folder: Path) -> Any:
    return json.loads((folder / "card.json").read_text())


def write(folder: Path, changed: Any) -> None:
    (folder / "card.json").write_text(json.dumps(changed))


# ------------------------------------------------------------------------------------------- on the disk


@pytest.mark.parametrize("kind", KINDS)
def test_it_comes_back_with_its_base(kind, base, images, tmp_path):
    model = make(base, kind, images)
    folder = model.save(tmp_path / "tuned")
    assert sorted(path.name for path in folder.iterdir()) == ["adapter.safetensors", "card.json"]
    found = record(folder)
    assert found["base"]["id"] == "narrow"
    assert found["base"]["sha256"] == record(base)["files"]["model.safetensors"]
    assert (folder / found["base"]["path"]).resolve() == base.resolve()
    again = load_model(folder)
    assert again.adapter is not None
    assert again.adapter.kind == kind
    assert adapter_digest(again.adapter) == adapter_digest(model.adapter)  # type: ignore[arg-type]
    assert again.card == model.card.stamped()
    assert (again.card.id, again.card.facts["parent"]) == (f"narrow-{kind}", "narrow")
    assert again.card.lineage == model.card.lineage
    assert again.card.lineage is not None
    assert again.card.lineage["base_sha256"] == found["base"]["sha256"]
    assert again.card.fingerprint == load_model(base).card.fingerprint
    features = np.random.default_rng(1).normal(size=(5, model.card.arch.vision.embed_dim))
    heads = [built(each).head(each, SPACE, **HOW) for each in (model, again)]
    assert (np.asarray(logits(heads[0], features)) == np.asarray(logits(heads[1], features))).all()
    second = load_model(again.save(tmp_path / "second"))  # what was loaded saves again, and over itself
    load_model(second.save(tmp_path / "second"))


def test_on_a_bucket_its_base_comes_along(base, images, tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "cache"))
    bucket = FakeBucket.made(monkeypatch)
    model = make(base, "coop", images)
    folder = model.save(f"{URL}/tuned")
    files = {"adapter.safetensors", "card.json", "base/card.json", "base/model.safetensors"}
    shutil.rmtree(tmp_path / "cache")
    for _ in range(2):
        assert {name.removeprefix("/bucket/tuned/") for name in bucket.names()} == files
        again = load_model(folder)
        assert adapter_digest(again.adapter) == adapter_digest(model.adapter)  # type: ignore[arg-type]
        assert again.card.fingerprint == load_model(base).card.fingerprint
        again.save(folder)  # over itself
    near = load_model(folder).save(tmp_path / "near")
    assert record(near)["base"]["source"] == f"{URL}/tuned/base"
    assert load_model(near).card.fingerprint == model.card.fingerprint
    with pytest.raises(
        UsageError, match=r"^fake://bucket/tuned holds an adapter and no weights: convert its"
    ):
        convert_model(folder, tmp_path / "converted")


def test_kinds_are_found_by_name():
    assert set(KINDS) <= set(all_adapters())
    assert all(kind.kind == name for name, kind in all_adapters().items())


def test_base_and_adapter_may_move(base, images, tmp_path):
    shutil.copytree(base, tmp_path / "one" / "b32")
    make(tmp_path / "one" / "b32", "coop", images).save(tmp_path / "one" / "tuned")
    shutil.move(tmp_path / "one", tmp_path / "two")  # both: the way from one to the other is the same
    load_model(tmp_path / "two" / "tuned")
    shutil.move(tmp_path / "two" / "tuned", tmp_path / "far" / "tuned")
    found = record(tmp_path / "far" / "tuned")
    with pytest.raises(
        DataError, match=r"the base of .*tuned, narrow, is not at \.\./b32 .* put it back, or write"
    ):
        load_model(tmp_path / "far" / "tuned")
    found["base"]["path"] = str(tmp_path / "two" / "b32")  # as the sentence says
    write(tmp_path / "far" / "tuned", found)
    load_model(tmp_path / "far" / "tuned")
    load_model(tmp_path / "far" / "tuned").save(tmp_path / "mended")
    assert str(tmp_path) not in json.dumps(record(tmp_path / "mended"))  # a folder may be published
    shutil.move(tmp_path / "mended", tmp_path / "elsewhere" / "mended")  # the adapter alone
    load_model(tmp_path / "elsewhere" / "mended")


def test_a_base_of_another_library_is_found_with_its_card(images, tmp_path):
    """Its card was an object, as for weights without any configuration beside them."""
    _, model = narrow_pair(tmp_path)
    folder = make(model, "coop", images).save(tmp_path / "tuned")
    assert record(folder)["base"]["path"] == "../model.safetensors"
    again = load_model(folder)
    assert again.card.fingerprint == model.card.fingerprint
    assert (again.base and again.base.id, again.card.id) == ("narrow", "narrow-coop")


def test_a_base_from_the_hub_is_named(base, images, tmp_path, monkeypatch):
    """It is loaded again by its registered id: nothing on the disk is named."""
    model = load_model(base)
    model = model.with_location(Location("vit_b_32-openai", file="weights.bin", image_size=96))
    folder = make(model, "coop", images).save(tmp_path / "tuned")
    wanted = {"source": "vit_b_32-openai", "file": "weights.bin", "image_size": 96}
    assert record(folder)["base"].items() >= wanted.items()
    file = adapter_file.read_adapter_file(read_card_file(folder))
    assert adapter_file.find_base(file) == "vit_b_32-openai"
    none = dict.fromkeys(("card", "position_rule", "name", "facts_of", "facts"))
    assert adapter_file.base_settings(file) == {**none, "file": "weights.bin", "image_size": 96}


def test_a_base_that_is_no_file_is_saved_with_it(base, images, tmp_path):
    model = load_model(base)
    model = model.with_params(moved(model.params))
    assert model.location is None
    changed = make(renamed(model, "changed"), "tip_adapter", images)
    folder = changed.save(tmp_path / "tuned")
    assert record(folder)["base"]["path"] == "base"
    again = load_model(folder)
    assert again.base is not None
    assert again.base.id == "changed"
    for each in (base, folder):
        with pytest.raises(UsageError, match="has no decoder, and only a decoder is held in bfloat16"):
            load_model(each, dtype="bfloat16")
    x = np.random.default_rng(0).normal(size=(2, 96, 96, 3)).astype(np.float32)
    assert (np.asarray(again.encode_image(x)) == np.asarray(changed.encode_image(x))).all()
    before = (folder / "base" / "model.safetensors").read_bytes()
    again.save(folder)  # the base lies in the folder that is replaced: it is written anew
    assert (folder / "base" / "model.safetensors").read_bytes() == before
    shutil.move(folder, tmp_path / "moved")
    load_model(tmp_path / "moved")


def test_the_base_must_be_the_very_same(base, images, tmp_path):
    shutil.copytree(base, tmp_path / "b32")
    folder = make(tmp_path / "b32", "coop", images).save(tmp_path / "tuned")
    trained_on = record(tmp_path / "b32")["files"]["model.safetensors"]
    other = load_model(tmp_path / "b32")
    other = other.with_params(moved(other.params))
    other.save(tmp_path / "b32")
    now = record(tmp_path / "b32")["files"]["model.safetensors"]
    with pytest.raises(
        DataError, match=rf"trained on narrow .* {trained_on}, but .* has {now}: bring the base of"
    ):
        load_model(folder)
    shutil.copyfile(base / "model.safetensors", tmp_path / "b32" / "model.safetensors")
    with pytest.raises(DataError, match="was changed after it was written"):  # the base itself is damaged
        load_model(folder)


@pytest.fixture(scope="module")
def saved(base, images, tmp_path_factory) -> Path:
    return make(base, "tip_adapter", images).save(tmp_path_factory.mktemp("saved") / "tuned")


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))


def _in_card(*path: str, value: Any) -> Any:
    def change(folder: Path) -> None:
        found = record(folder)
        inner = found
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        write(folder, found)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: _flip(f / "adapter.safetensors"), r"adapter\.safetensors was truncated or changed"),
        (
            lambda f: (f / "adapter.safetensors").write_bytes((f / "adapter.safetensors").read_bytes()[:-8]),
            r"adapter\.safetensors was truncated or changed",
        ),
        (lambda f: (f / "adapter.safetensors").unlink(), r"adapter\.safetensors does not exist"),
        (_in_card("adapter", "facts", "alpha", value=3.0), "`adapter` was changed after it was written"),
        (_in_card("adapter", "kind", value="coop"), "`adapter` was changed after it was written"),
        (_in_card("files", value={}), "does not say what the adapter and its base are"),
        (_in_card("adapter", value=None), "does not say what the adapter and its base are"),
        (_in_card("preprocess", "mean", value=[0.5, 0.5, 0.5]), "preprocess is not that of the base, narrow"),
        (_in_card("logit_scale", value=7.0), "logit_scale is not that of the base"),
        (_in_card("lineage", value=[]), "lineage = .* must be an object or null"),
    ],
)
def test_what_was_changed_is_refused(change, message, saved, tmp_path):
    shutil.copytree(saved, tmp_path / "tuned")
    change(tmp_path / "tuned")
    with pytest.raises(DataError, match=message):
        load_model(tmp_path / "tuned")


def test_what_an_adapted_model_cannot(saved, images, tmp_path):
    model = load_model(saved)
    for asked in (
        lambda: load_model(saved, image_size=128),
        lambda: load_model(saved, card="vit_b_32-openai"),
    ):
        with pytest.raises(UsageError, match="holds an adapter, which belongs to its base as it is"):
            asked()
    with pytest.raises(UsageError, match="has an adapter, which was trained at 96 pixels: resize its base"):
        resize_model(model, 128)
    with pytest.raises(
        UsageError, match=r"is narrow with an adapter \(tip_adapter\).*: export narrow; the adapter is"
    ):
        export_model(model, tmp_path / "out.safetensors")
    with pytest.raises(UsageError, match="holds an adapter and no weights: convert its base"):
        convert_model(saved, tmp_path / "converted")
    with pytest.raises(
        UsageError, match="narrow-tip_adapter is narrow with an adapter: fine-tune narrow itself"
    ):
        make_setup(model, images)
    with pytest.raises(UsageError, match=r"has words of its own .*: prompts are not applicable"):
        clipjax.evaluate(model, dataset=images, prompts="single", progress=False)
    assert not list(tmp_path.iterdir())


# -------------------------------------------------------------------------------------------- evaluation


def test_it_shares_the_bases_images_and_is_compared_with_it(base, images, tmp_path):
    """Not one forward pass of the image tower: features are the base's, and what differs is the head."""
    store, results = Store(tmp_path / "store"), tmp_path / "results"
    settings: Any = {
        "dataset": images,
        "store": store,
        "results": results,
        "progress": False,
        "resamples": 10,
    }
    first = clipjax.evaluate(load_model(base), prompts=PROMPTS, **settings)
    assert first.stats.forward_passes > 0
    recipes = {first.rows[0]["recipe_hash"]}
    for kind in KINDS:
        tuned = load_model(make(base, kind, images).save(tmp_path / kind))
        result = clipjax.evaluate(tuned, **settings)
        assert result.stats.forward_passes == 0
        row = result.rows[0]
        assert row["convention"]["prompts"] == built(tuned).prompts
        assert row["recipe"]["adapter"] == adapter_digest(built(tuned))
        assert row["recipe"]["model"] == first.rows[0]["recipe"]["model"]
        assert (row["recipe"]["prompts"], row["recipe"]["tokenizer"] is None) == (None, False)
        assert (row["model"], row["model_facts"]["parent"]) == (f"narrow-{kind}", "narrow")
        recipes.add(row["recipe_hash"])
        compared = compare_runs(first.rows[0]["run_id"], row["run_id"], results)
        assert "top1" in {each.metric for each in compared}
    assert len(recipes) == 3
    stored = {row["model"] for row in ResultStore(results).rows()}
    assert stored == {"narrow", "narrow-coop", "narrow-tip_adapter"}
    # The cache is an adapter's own: other alphas are another recipe.
    model = make(base, "tip_adapter", images)
    assert model.adapter is not None
    parts = AdapterParts("tip_adapter", model.adapter.tensors, {**model.adapter.facts, "alpha": 0.5})
    model = model.with_adapter(parts, model.card)
    assert clipjax.evaluate(model, **settings).rows[0]["recipe_hash"] not in recipes


def test_an_unknown_kind_is_refused_before_anything_is_embedded(base, images, tmp_path):
    model = load_model(base)
    model = model.with_adapter(AdapterParts("lens", {"x": np.zeros(1, np.float32)}, {}), model.card)
    folder = model.save(tmp_path / "lens")
    known = "this clipjax knows no adapter of the kind 'lens'; known: coop, tip_adapter$"
    with pytest.raises(DataError, match=f"^narrow: {known}"):
        clipjax.evaluate(model, dataset=images, progress=False)
    with pytest.raises(DataError, match=rf"^{folder / 'card.json'}: {known}"):
        load_model(folder)


def test_other_params_are_not_those_of_the_registered_base(base, images):
    model = make(base, "coop", images)
    assert model.base is not None
    registered = dataclasses.replace(model.base, facts_origin="registry")
    changed = dataclasses.replace(model, base=registered).with_params(moved(model.params))
    assert changed.base is not None
    assert (changed.base.facts_origin, changed.base.weights) == ("stated", None)
    assert (registered.facts_origin, changed.card.weights) == ("registry", None)


def test_ood_of_a_cache_is_without_cosines_and_of_coop_with(base, images, tmp_path):
    far = write_images(tmp_path / "far", ("x", "y"), per_class=1)
    settings: Any = {
        "dataset": far,
        "id_dataset": load_dataset(_card(images), images),
        "store": Store(tmp_path / "store"),
        "progress": False,
        "resamples": 10,
    }
    for kind, score in (("coop", "mcm"), ("tip_adapter", "msp")):
        rows: list[Any] = clipjax.evaluate(make(base, kind, images), "ood", **settings).rows
        note = next(row["note"] for row in rows if row["metric"] == "auroc" and not row["slice"])
        assert note.partition("; ")[0] == f"score: {score}"  # then the share of equal scores
        value = next(row["value"] for row in rows if row["slice"] == "score:mcm" and row["metric"] == "auroc")
        assert (value is None) == (score == "msp")


def _card(folder: Path) -> DatasetCard:
    return DatasetCard(name=folder.name, title=folder.name, reader="folder", tasks=("zeroshot",))


def test_other_classes(base, images, tmp_path):
    """CoOp's one context takes any; a cache, and contexts of classes, know their own: an error for one data
    set, a row among several."""
    other = write_images(tmp_path / "other", ("cat", "dog"), per_class=1)
    fewer = write_images(tmp_path / "fewer", ("green", "red"), per_class=1)
    settings: Any = {"store": Store(tmp_path / "store"), "progress": False, "resamples": 10}
    coop = make(base, "coop", images)
    assert clipjax.evaluate(coop, dataset=other, **settings).rows[0]["convention"]["label_space"] == "other"
    tip, specific = make(base, "tip_adapter", images), make(base, "coop", images, csc=True)
    with pytest.raises(
        NotApplicableError, match="narrow-tip_adapter: a head over the classes of 'colours' cannot"
    ):
        clipjax.evaluate(tip, dataset=other, **settings)
    with pytest.raises(NotApplicableError, match="narrow-coop: a head over the classes of 'colours'"):
        clipjax.evaluate(specific, dataset=other, **settings)
    # Some of its classes: the cache of all of them, and a projection.
    for model in (tip, specific):
        row = clipjax.evaluate(model, dataset=fewer, **settings).rows[0]
        assert row["convention"]["projection"] == "select from colours"
    jobs = [
        TaskOnData("zeroshot", DataFolder(_card(each), each), None, prompts)
        for each in (other, images)
        for prompts in (PROMPTS, None)
    ]
    for model in (tip, specific):
        request, compute, _ = split(**settings)
        done = list(execute(items_of(model, jobs, request), compute))
        assert [each.item.job.data.root for each in done] == [other, images]  # once, whatever the prompts
        first, second = (each.result for each in done)
        assert first is not None
        assert second is not None
        assert [row["value"] for row in first.rows] == [None]
        assert str(first.rows[0]["note"]).startswith(f"not applicable: {model.card.id}: ")
        assert second.value("top1") is not None


def test_retrieval_is_the_bases(base, images, tmp_path):
    """Captions are no classes: the same numbers, under a recipe of its own."""
    lines = [
        json.dumps({"path": path.relative_to(images).as_posix(), "captions": [f"a {path.parent.name} thing"]})
        for path in sorted(images.rglob("*.png"))
    ]
    (images / "captions.jsonl").write_text("\n".join(lines) + "\n")
    settings: Any = {
        "task": "retrieval",
        "dataset": images / "captions.jsonl",
        "progress": False,
        "resamples": 10,
    }
    first = clipjax.evaluate(load_model(base), **settings)
    tuned = clipjax.evaluate(make(base, "coop", images), **settings)
    keys = ("metric", "slice", "value", "interval", "convention")
    assert [[row[key] for key in keys] for row in tuned.rows] == [
        [row[key] for key in keys] for row in first.rows
    ]
    assert tuned.rows[0]["recipe_hash"] != first.rows[0]["recipe_hash"]
