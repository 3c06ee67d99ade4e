"""Linear probe and LP-FT: where the head starts, that it learns as in torch, and what comes out."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import pytest
from _narrow import narrow_pair

from clipjax.checkpoints.model import Model
from clipjax.data.labels import LabelSpace, load_labels, load_prompts
from clipjax.data.manifest import Manifest
from clipjax.data.pixels.augment import Augmentation
from clipjax.devices.sharding import make_mesh, shard_batch
from clipjax.errors import UsageError
from clipjax.finetune import wise_ft
from clipjax.finetune.data import batches as data
from clipjax.finetune.data.splits import TrainSplit, ValidationSplit
from clipjax.finetune.linear_head import has_classes, initial_head
from clipjax.finetune.method import Settings, Setup, find_method
from clipjax.finetune.methods import linear_probe, lp_ft
from clipjax.finetune.outcome import classifier_card
from clipjax.finetune.recipe import Recipe
from clipjax.finetune.training.optimizer import Optimizer, Schedule
from clipjax.finetune.training.solve import train
from clipjax.heads import head as heads
from clipjax.heads.build import classifier_head, zeroshot_head
from tests.finetune.methods._torch_ce import cosine_lr

pytestmark = pytest.mark.usefixtures("one_device")

RECIPE = Recipe(
    "test",
    "Test",
    "linear_probe",
    batch_size=16,
    steps=20,
    prompts="single",
    optimizer=Optimizer(learning_rate=0.3, weight_decay=0.1, clip_norm=1.0),
    schedule=Schedule(warmup_steps=3),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return narrow_pair(tmp_path_factory.mktemp("narrow"))[1]


@pytest.fixture(scope="module")
def space() -> LabelSpace:
    return load_labels("demo_shapes")


@pytest.fixture(scope="module")
def labels(manifest: Manifest, space: LabelSpace) -> np.ndarray:
    """Of four classes, so that forty images have ten each."""
    return (np.arange(len(manifest)) % 4).astype(np.int32)


def setup_of(
    model: Model,
    manifest: Manifest,
    labels: np.ndarray,
    space: LabelSpace,
    recipe: Recipe = RECIPE,
    **options: Any,
) -> Setup:
    recipe = dataclasses.replace(recipe, options=options)
    settings = Settings(make_mesh(jax.devices()[:1]), progress=False)
    split = TrainSplit("demo", manifest, labels, space)
    return Setup(model, split, None, recipe, 1, find_method(recipe.method).options_of(recipe), settings)


@pytest.fixture(scope="module")
def setup(model: Model, manifest: Manifest, labels: np.ndarray, space: LabelSpace) -> Setup:
    return setup_of(model, manifest, labels, space)


def test_it_starts_as_the_zero_shot_classifier(setup: Setup, model: Model, space: LabelSpace) -> None:
    head = initial_head(setup)
    zero_shot = zeroshot_head(model, space, load_prompts("single"))
    np.testing.assert_array_equal(head["kernel"], np.float32(zero_shot.scale) * np.asarray(zero_shot.kernel))
    assert not head["bias"].any()
    endpoint = wise_ft.zero_shot_classifier(model, space, load_prompts("single"))
    np.testing.assert_array_equal(endpoint.params["head"]["kernel"], head["kernel"])


def test_it_learns_as_torchs_linear_layer(setup: Setup) -> None:
    """The same features, batches and optimiser: the trained head is torch's."""
    torch = pytest.importorskip("torch")
    problem = linear_probe.prepare(setup)
    features = data.split_features(setup, setup.train)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)

    layer = torch.nn.Linear(*problem.params["head"]["kernel"].shape)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(problem.params["head"]["kernel"].T))
        layer.bias.zero_()
    optimizer = RECIPE.optimizer
    adamw = torch.optim.AdamW(layer.parameters(), lr=1.0, weight_decay=optimizer.weight_decay)
    batches, losses = problem.batches(), []
    for step in range(20):
        batch = next(batches)
        adamw.param_groups[0]["lr"] = cosine_lr(step, optimizer.learning_rate, 3, 20)
        np.testing.assert_array_equal(batch["features"], features[batch["row"]])
        x = torch.nn.functional.normalize(torch.tensor(batch["features"]), dim=1)
        loss = torch.nn.functional.cross_entropy(layer(x), torch.tensor(batch["label"]).long())
        adamw.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
        adamw.step()
        losses.append(loss.item())
    batches.close()
    assert losses[-1] < 0.8 * losses[0]

    trained = train(problem, setup).params["head"]
    np.testing.assert_allclose(trained["kernel"], layer.weight.detach().numpy().T, rtol=0, atol=1e-4)
    np.testing.assert_allclose(trained["bias"], layer.bias.detach().numpy(), rtol=0, atol=1e-4)
    start = problem.params["head"]["kernel"]
    assert np.abs(trained["kernel"] - start).max() > 0.5, "the test could not tell"


@pytest.fixture(scope="module")
def trained(setup: Setup) -> Any:
    problem = linear_probe.prepare(setup)
    return problem, train(problem, setup).params


def test_it_comes_out_as_a_classifier(setup: Setup, trained: Any, model: Model) -> None:
    problem, params = trained
    tuned = problem.finish(params).model
    assert (tuned.card.kind, tuned.card.normalize_features) == ("classifier", True)
    assert tuned.params["vision"] is model.params["vision"]
    assert tuned.card.lineage["method"] == "linear_probe"
    head = classifier_head(tuned)
    features = data.split_features(dataclasses.replace(setup, model=tuned), setup.train)
    np.testing.assert_array_equal(features, data.split_features(setup, setup.train))
    right = np.argmax(heads.logits(head, features), axis=1) == setup.train.labels
    split = ValidationSplit("same", setup.train.manifest, setup.train.labels, setup.train.label_space)
    assert problem.accuracy(params, split) == right.mean()
    assert problem.accuracy(params, split) > problem.accuracy(problem.params, split)


def test_label_smoothing_is_torchs(setup: Setup, trained: Any) -> None:
    torch = pytest.importorskip("torch")
    problem, _ = trained
    loss = linear_probe.HeadLoss(True, 0.1)
    batches = problem.batches()
    batch = next(batches)
    batches.close()
    on_mesh = shard_batch(batch, setup.settings.mesh)
    value, _ = jax.jit(loss)(problem.params, on_mesh, jax.random.key(0))
    x = torch.nn.functional.normalize(torch.tensor(batch["features"]), dim=1)
    logits = x @ torch.tensor(problem.params["head"]["kernel"])
    wanted = torch.nn.functional.cross_entropy(
        logits, torch.tensor(batch["label"]).long(), label_smoothing=0.1
    )
    assert float(value) == pytest.approx(wanted.item(), rel=1e-5)


def test_a_classifier_starts_with_its_own_head(
    model: Model, manifest: Manifest, labels: np.ndarray, space: LabelSpace
) -> None:
    """Where it has the same classes; with zeros where it has others. Its head reads features as they are."""
    rng = np.random.default_rng(0)
    width = model.card.arch.vision.embed_dim
    own = {"kernel": rng.normal(size=(width, len(space))).astype(np.float32)}
    own["bias"] = rng.normal(size=len(space)).astype(np.float32)
    card = dataclasses.replace(classifier_card(model.card, space), normalize_features=False)
    classifier = Model(card, {"vision": model.params["vision"], "head": own})
    assert has_classes(classifier, space)
    setup = setup_of(classifier, manifest, labels, space)
    np.testing.assert_array_equal(initial_head(setup)["kernel"], own["kernel"])
    np.testing.assert_array_equal(initial_head(setup)["bias"], own["bias"])

    loss = linear_probe.prepare(setup).loss
    features = rng.normal(size=(8, width)).astype(np.float32)
    batch: Any = {"features": features, "label": labels[:8]}
    twice: Any = {**batch, "features": 2 * features}
    one, other = (float(loss({"head": own}, each, jax.random.key(0))[0]) for each in (batch, twice))
    assert one != other

    four = LabelSpace("four", tuple("abcd"), tuple("abcd"))
    assert not has_classes(classifier, four)
    head = initial_head(setup_of(classifier, manifest, labels, four))
    assert head["kernel"].shape == (width, 4)
    assert not head["kernel"].any()
    with pytest.raises(UsageError, match="is a classifier: prompts are not applicable"):
        initial_head(setup_of(classifier, manifest, labels, four, init="zeroshot"))


def test_bad_options_are_named(
    model: Model, manifest: Manifest, labels: np.ndarray, space: LabelSpace
) -> None:
    assert not initial_head(setup_of(model, manifest, labels, space, init="zeros"))["kernel"].any()
    with pytest.raises(UsageError, match="unknown init 'zeroshots'; did you mean zeroshot"):
        linear_probe.prepare(setup_of(model, manifest, labels, space, init="zeroshots"))
    augmented = dataclasses.replace(RECIPE, augmentation=Augmentation())
    with pytest.raises(UsageError, match="recipe test: linear_probe computes features once"):
        linear_probe.prepare(setup_of(model, manifest, labels, space, augmented))


def test_lp_ft_goes_on_from_the_probe(
    model: Model, manifest: Manifest, labels: np.ndarray, space: LabelSpace
) -> None:
    """Its second problem has the head of a linear probe with the options probe_*, and trains the tower.

    An epoch is chosen of the second phase alone: the probe asks for no validation split.
    """
    recipe = dataclasses.replace(
        RECIPE, method="lp_ft", augmentation=Augmentation(scale=(0.9, 1.0)), select=("epoch",)
    )
    options = {"probe_epochs": 8, "probe_learning_rate": 0.3, "probe_warmup_steps": 3}
    setup = setup_of(model, manifest, labels, space, recipe, **options)
    problem = lp_ft.prepare(setup)

    probe = dataclasses.replace(RECIPE, epochs=8, steps=None)
    alone = setup_of(model, manifest, labels, space, probe)
    assert alone.steps == 20
    wanted = train(linear_probe.prepare(alone), alone).params["head"]
    np.testing.assert_array_equal(problem.params["head"]["kernel"], wanted["kernel"])
    assert problem.params["vision"] is model.params["vision"]
    assert problem.trained("vision/proj")
    assert problem.steps == RECIPE.steps
    assert lp_ft.probe_setup(setup).recipe.schedule.warmup_steps == 3


def test_a_probes_warmup_is_checked_before_anything_runs(
    model: Model, manifest: Manifest, labels: np.ndarray, space: LabelSpace
) -> None:
    recipe = dataclasses.replace(RECIPE, method="lp_ft")
    asked = functools.partial(setup_of, model, manifest, labels, space, recipe, probe_epochs=8)
    assert set(lp_ft.outline(asked(probe_warmup_steps=19)).params) == {"vision", "head"}
    message = r"options\.probe_warmup_steps = 20 does not fit into the probe's 20 steps"
    for begin in (lp_ft.outline, lp_ft.prepare):
        with pytest.raises(UsageError, match=message):
            begin(asked(probe_warmup_steps=20))
    lp_ft.outline(asked(probe_epochs=0))
