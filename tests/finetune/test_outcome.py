"""What comes out of fine-tuning is a model: its parentage, on disk, evaluated, and in other libraries."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import PIL.Image
import pytest
from _drawn import drawn
from _long import mostly_long
from _narrow import narrow_pair
from _records import split
from _tuned import CLASSES, PROMPTS, make_setup, moved, renamed, with_head, write_images
from safetensors.numpy import load_file
from typer.testing import CliRunner

import clipjax
from clipjax.checkpoints.export import export_model
from clipjax.checkpoints.identity.registry import model_card
from clipjax.checkpoints.load import convert_model, load_model
from clipjax.checkpoints.model import Model
from clipjax.cli import app
from clipjax.data.cards import DatasetCard, load_dataset
from clipjax.data.labels import LabelSpace, load_labels, load_prompts
from clipjax.errors import DataError, UsageError
from clipjax.evaluation.data_folder import DataFolder
from clipjax.evaluation.plans.execute import execute
from clipjax.evaluation.plans.item import TaskOnData, items_of
from clipjax.evaluation.subject import NotApplicableError
from clipjax.finetune.data.shots import draw_shots
from clipjax.finetune.method import find_method
from clipjax.finetune.outcome import also_chosen, classifier, classifier_card, tuned
from clipjax.finetune.wise_ft import zero_shot_classifier
from clipjax.heads.build import classifier_head
from clipjax.heads.head import cosine_head, logits
from clipjax.models.arch import narrow_arch
from clipjax.models.network import Network
from clipjax.models.outputs import one_layer
from clipjax.results.store import ResultStore, model_facts
from clipjax.verification.verify import verify
from converters.sources import open_source

pytestmark = pytest.mark.usefixtures("one_device")

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "colours")


@pytest.fixture(scope="module")
def vit(tmp_path_factory) -> Any:
    """(open_clip's model, ours)."""
    return narrow_pair(tmp_path_factory.mktemp("vit"))


@pytest.fixture(scope="module")
def resnet(tmp_path_factory) -> Any:
    from reference import conditioned, narrow, save_folder

    config = narrow("RN50")
    theirs = conditioned(config)
    folder = save_folder(theirs, config, tmp_path_factory.mktemp("rn50"))
    return theirs, renamed(load_model(folder), "narrow-rn50")


def pixels(model: Any, n: int = 3) -> np.ndarray:
    size = model.card.preprocess.image_size
    return np.random.default_rng(5).normal(size=(n, size, size, 3)).astype(np.float32)


def their_features(visual: Any, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        features = visual(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
    return torch.nn.functional.normalize(features, dim=-1).numpy()


# --------------------------------------------------------------------------------------------- parentage


@pytest.mark.parametrize(
    ("origin", "of"), [("stated", "vit_b_32-openai"), ("registry", "vit_b_32-openai"), ("unknown", None)]
)
def test_a_tuned_model_has_its_bases_facts_and_where_they_come_from(vit, images, origin, of):
    _, ours = vit
    facts = {} if origin == "unknown" else dict(ours.card.facts)
    base = ours.with_card(dataclasses.replace(ours.card, facts=facts, facts_origin=origin, facts_of=of))
    card = tuned(make_setup(base, images), moved(ours.params)).model.card
    assert (card.facts_origin, card.facts_of) == (origin, of)
    assert card.facts.keys() - facts.keys() <= {"fine_tune", "parent"}
    assert model_facts(card)["facts_origin"] == origin


def test_a_tuned_model_says_where_it_comes_from(vit, images, tmp_path):
    base = vit[1]
    setup = make_setup(base, images, tmp_path / "seed2")
    shots = draw_shots(setup.train, 2, seed=2)
    setup = dataclasses.replace(setup, train=shots.of(setup.train), shots=shots)
    outcome = tuned(setup, moved(base.params), {"epoch": np.int64(1), "tried": (np.float32(0.5), 1.0)})
    again = load_model(outcome.model.save(tmp_path / "model")).card
    assert again.lineage == outcome.model.card.lineage
    assert again.id == "narrow-flyp"
    assert (again.facts["fine_tune"], again.facts["parent"]) == ("FLYP", "narrow")
    lineage: Any = again.lineage
    assert (lineage["method"], lineage["base"], lineage["seed"]) == ("flyp", "narrow", 2)
    assert lineage["base_sha256"] == base.card.weights.sha256
    assert lineage["prompts"] == load_prompts(setup.recipe.prompts).digest
    assert lineage["recipe"]["batch_size"] == 4
    assert lineage["train"]["digest"] == setup.train.manifest.digest
    assert (lineage["train"]["dataset"], lineage["train"]["images"]) == ("colours", 6)
    assert lineage["train"]["shots"] == {"per_class": 2, "seed": 2, "sha256": shots.sha256}
    assert lineage["chosen"] == {"epoch": 1, "tried": [0.5, 1.0]}
    facts = model_facts(again)
    assert facts["lineage"]["recipe"] == "short"
    assert facts["lineage"]["base_sha256"] == lineage["base_sha256"]
    # The next generation knows the one before; a model of other weights has its own logit scale.
    child = tuned(
        make_setup(load_model(tmp_path / "model"), images), moved(base.params), name="mine"
    ).model.card
    assert (child.id, child.facts["parent"]) == ("mine", "narrow-flyp")
    assert child.lineage is not None
    assert child.lineage["base_lineage"]["base"] == "narrow"
    assert child.logit_scale == pytest.approx(float(np.exp(moved(base.params)["logit_scale"])))
    assert child.fingerprint is None


def test_a_later_search_adds_to_what_was_chosen(vit, images):
    outcome = tuned(make_setup(vit[1], images), moved(vit[1].params), {"epoch": 3})
    outcome = also_chosen(outcome, {"learning_rate": np.float64(1e-3)})
    assert outcome.chosen == {"epoch": 3, "learning_rate": 1e-3}
    assert outcome.model.card.lineage is not None
    assert outcome.model.card.lineage["chosen"] == {"epoch": 3, "learning_rate": 1e-3}


# ---------------------------------------------------------------------------------------- other libraries


@pytest.mark.parametrize("kind", mostly_long(["vit", "resnet"], keep=["resnet"]))
def test_a_tuned_model_in_open_clip(kind, request, images, tmp_path):
    theirs, base = request.getfixturevalue(kind)
    model = tuned(make_setup(base, images), moved(base.params)).model
    direct = export_model(model, tmp_path / "direct.safetensors")
    saved = load_model(model.save(tmp_path / "model"))
    file = export_model(saved, tmp_path / "through.safetensors")
    assert file.read_bytes() == direct.read_bytes()
    reference = copy.deepcopy(theirs)
    state = {key: torch.from_numpy(tensor.copy()) for key, tensor in load_file(file).items()}
    assert set(state) == set(theirs.state_dict())  # num_batches_tracked of RN50 too
    reference.load_state_dict(state, strict=True)
    x = pixels(base)
    np.testing.assert_allclose(saved.encode_image(x), their_features(reference.visual, x), atol=2e-6)
    assert np.abs(saved.encode_image(x) - base.encode_image(x)).max() > 1e-3
    ids = np.tile(np.arange(base.card.arch.text.context_length), (2, 1)).astype(np.int32)
    with torch.no_grad():
        texts = reference.encode_text(torch.from_numpy(ids.astype(np.int64)), normalize=True).numpy()
    np.testing.assert_allclose(saved.encode_text(ids), texts, atol=2e-6)


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_a_tuned_tower_in_open_clip_and_its_head_in_torch(kind, request, images, tmp_path):
    theirs, base = request.getfixturevalue(kind)
    model = classifier(make_setup(base, images, method="cross_entropy"), with_head(base)).model
    folder = model.save(tmp_path / "model")
    command = ["export", str(folder), "--out", str(tmp_path / "out.safetensors")]
    said = CliRunner().invoke(app, command, catch_exceptions=False).stdout
    assert "out.safetensors: the image tower" in said
    assert "out.head.safetensors: the linear head" in said
    state = {
        key.removeprefix("visual."): torch.from_numpy(tensor.copy())
        for key, tensor in load_file(tmp_path / "out.safetensors").items()
        if key.startswith("visual.")
    }
    assert len(state) == len(load_file(tmp_path / "out.safetensors"))
    visual = copy.deepcopy(theirs).visual
    visual.load_state_dict(state, strict=True)
    head = load_file(tmp_path / "out.head.safetensors")
    linear = torch.nn.Linear(head["weight"].shape[1], head["weight"].shape[0])
    linear.load_state_dict({key: torch.from_numpy(tensor.copy()) for key, tensor in head.items()})
    loaded, x = load_model(folder), pixels(base)
    with torch.no_grad():
        expected = linear(torch.from_numpy(their_features(visual, x))).numpy()
    np.testing.assert_allclose(logits(classifier_head(loaded), loaded.encode_image(x)), expected, atol=2e-5)
    about = open_source(tmp_path / "out.head.safetensors").metadata
    assert json.loads(about["normalize"]) is True
    assert json.loads(about["classes"]) == list(CLASSES)


@pytest.mark.parametrize("library", [None, "open_clip", "timm", "transformers"])
def test_a_classifier_of_a_clip_has_no_counterpart_to_verify_it_against(own, library):
    with pytest.raises(UsageError, match=r"tuned from narrow, and no library .*: verify narrow, or compare"):
        verify(own, library)


def test_a_tower_that_was_trained_from_the_start_is_exported_as_the_layout_that_fits(vit, images, tmp_path):
    base = vit[1]
    model = classifier(make_setup(base, images), with_head(base)).model
    direct = export_model(model, tmp_path / "a.safetensors").read_bytes()
    model = Model(model.card, model.params)
    assert export_model(model, tmp_path / "b.safetensors").read_bytes() == direct


# ------------------------------------------------------------------------------------- classes of one's own


@pytest.fixture(scope="module")
def own(vit, images, tmp_path_factory) -> Path:
    """A classifier of the folder's classes, on disk."""
    model = classifier(make_setup(vit[1], images, method="cross_entropy"), with_head(vit[1])).model
    return model.save(tmp_path_factory.mktemp("own") / "model")


def test_a_classifier_takes_its_classes_along(own, tmp_path):
    assert (own / "labels.csv").read_text().splitlines()[:2] == ["id,name", '"blue, or navy","blue, or navy"']
    assert json.loads((own / "card.json").read_text())["classes"] == "labels.csv"
    for folder in (own, convert_model(own, tmp_path / "copy")[0], load_model(own).save(tmp_path / "again")):
        model = load_model(folder)
        head = classifier_head(model)
        assert (head.label_space.name, head.label_space.classes) == ("colours", CLASSES)
        assert (head.normalize, cosine_head(head)) == (True, None)
        assert (model.card.kind, model.card.tokenizer, model.card.normalize_features) == (
            "classifier",
            None,
            True,
        )
        assert model.card.fingerprint == load_model(own).card.fingerprint


def test_classes_that_have_a_name_are_not_copied(vit):
    imagenet = load_labels("imagenet")
    card = classifier_card(vit[1].card, imagenet)
    assert (card.classes, card.label_space) == ("imagenet", None)
    assert (card.arch.num_classes, card.arch.text) == (1000, None)
    fewer = LabelSpace("imagenet", imagenet.classes[:5], imagenet.ids[:5])
    card = classifier_card(vit[1].card, fewer)
    assert card.classes == "labels.csv"
    assert card.label_space is fewer


def test_a_head_over_two_tokens_is_kept_as_two(images, tmp_path):
    """Distilled DeiT: what was trained as one layer becomes two, and gives that layer again."""
    card = model_card("deit_tiny_distilled_patch16_224.fb_in1k")
    arch = narrow_arch(card.arch)
    params = drawn(Network(arch).abstract_params())
    base = Model(dataclasses.replace(card, arch=arch), params)
    setup = make_setup(base, images, method="linear_probe")
    rng = np.random.default_rng(0)
    shapes = {"kernel": (arch.vision.embed_dim, len(CLASSES)), "bias": (len(CLASSES),)}
    layer = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    model = load_model(
        classifier(setup, {"vision": params["vision"], "head": layer}).model.save(tmp_path / "tuned")
    )
    assert set(model.params["head"]) == {"class_token", "distillation_token"}
    head = classifier_head(model)
    np.testing.assert_array_equal(head.kernel, layer["kernel"])
    np.testing.assert_array_equal(head.bias, layer["bias"])
    again = classifier(setup, model.params | {"head": one_layer(model.params["head"])}).model
    jax.tree.map(np.testing.assert_array_equal, dict(again.params["head"]), model.params["head"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.unlink(), r"labels\.csv does not exist: the classes of the model are in it"),
        (
            lambda file: file.write_text(file.read_text().replace("green", "grün")),
            r"labels\.csv was changed after",
        ),
        (lambda file: file.write_text(file.read_text()[:-4]), r"labels\.csv was changed after"),
    ],
)
def test_classes_that_were_changed_are_refused(own, tmp_path, change, message):
    folder = load_model(own).save(tmp_path / "model")
    change(folder / "labels.csv")
    with pytest.raises(DataError, match=message):
        load_model(folder)


def test_it_is_evaluated_on_its_own_data_and_on_shifts(own, images, tmp_path):
    settings: Any = {"store": tmp_path / "store", "progress": False, "resamples": 10}
    model = load_model(own)
    result = clipjax.evaluate(model, dataset=images, **settings)
    head, embedded = classifier_head(model), []
    for name in result.images["id"].to_pylist():
        embedded.append(
            np.asarray(model.encode_image(model.preprocess(PIL.Image.open(images / name))[None]))[0]
        )
    scores = np.asarray(logits(head, np.stack(embedded)))
    assert result.images["prediction"].to_pylist() == scores.argmax(axis=1).tolist()
    recipe = result.rows[0]["recipe"]
    assert recipe["normalize_features"] is True
    assert recipe["prompts"] is None
    assert result.rows[0]["model_facts"]["fine_tune"] == find_method("cross_entropy").title
    assert result.rows[0]["convention"]["prompts"].startswith("not applicable: a classifier")
    # A shift with some of the classes: scored through a projection, from features of its own.
    shift = write_images(tmp_path / "shift", ("green", "red"))
    shifted = clipjax.evaluate(model, dataset=shift, **settings)
    assert shifted.rows[0]["convention"]["projection"] == "select from colours"
    assert set(shifted.images["prediction"].to_pylist()) <= {0, 1}
    # Out of distribution its logits are no cosines.
    ood: Any = clipjax.evaluate(
        model,
        "ood",
        dataset=write_images(tmp_path / "far", ("x", "y")),
        id_dataset=_card(images),
        id_root=images,
        **settings,
    )
    first = next(row for row in ood.rows if row["metric"] == "auroc" and row["slice"] is None)
    assert first["note"].partition("; ")[0] == "score: msp"
    mcm = next(row for row in ood.rows if row["slice"] == "score:mcm")
    assert mcm["value"] is None
    assert mcm["note"].startswith("not applicable")


def _card(folder: Path) -> DatasetCard:
    return DatasetCard(name=folder.name, title=folder.name, reader="folder", tasks=("zeroshot",))


@pytest.mark.long("finetune/test_wise_ft.py::test_alpha_0_of_a_classifier_gives_the_zero_shot_numbers")
def test_alpha_0_of_cross_entropy_is_the_zero_shot_model_to_the_bit(vit, images, tmp_path):
    """Accuracy, confidences and the scores of OOD detection, from the images on."""
    base, far = vit[1], write_images(tmp_path / "far", ("x", "y"), per_class=1)
    start = zero_shot_classifier(base, LabelSpace("colours", CLASSES, CLASSES), PROMPTS)
    settings: Any = {"progress": False, "resamples": 10}
    ood = {"task": "ood", "dataset": far, "id_dataset": load_dataset(_card(images), images)}
    for asked, columns in (({"dataset": images}, ("prediction", "confidence")), (ood, ("msp", "energy"))):
        ours = clipjax.evaluate(start, **asked, **settings)
        theirs = clipjax.evaluate(base, prompts=PROMPTS, **asked, **settings)
        for column in columns:
            assert ours.images[column].to_pylist() == theirs.images[column].to_pylist(), column


def test_other_classes_are_an_error_alone_and_a_row_among_many(own, images, tmp_path):
    model, other = load_model(own), write_images(tmp_path / "other", ("cat", "dog"), per_class=1)
    with pytest.raises(
        NotApplicableError, match="narrow-cross_entropy: a head over the classes of 'colours' cannot"
    ):
        clipjax.evaluate(model, dataset=other, progress=False)
    with pytest.raises(UsageError, match="is a classifier: prompts are not applicable"):
        clipjax.evaluate(model, dataset=images, prompts="single", progress=False)
    settings: Any = {"progress": False, "resamples": 10}
    jobs = [
        TaskOnData("zeroshot", DataFolder(_card(folder), folder), None, None) for folder in (other, images)
    ]
    request, compute, _ = split(**settings)
    done = list(execute(items_of(model, jobs, request), compute, tmp_path / "results"))
    assert [each.error for each in done] == [None, None]
    [row] = done[0].result.rows if done[0].result else []
    assert (row["value"], row["dataset"]) == (None, "other")
    assert str(row["note"]).startswith(
        "not applicable: narrow-cross_entropy: a head over the classes of 'colours'"
    )
    assert {row["dataset"] for row in ResultStore(tmp_path / "results").rows()} == {"other", "colours"}


def test_a_classifier_of_a_classifier_reads_features_as_its_base_does(own, images):
    tuned_base = load_model(own)
    card = classifier_card(tuned_base.card, LabelSpace("two", ("a", "b"), ("a", "b")))
    assert card.normalize_features
    plain = dataclasses.replace(tuned_base.card, normalize_features=False)
    assert not classifier_card(plain, LabelSpace("two", ("a", "b"), ("a", "b"))).normalize_features
