"""CoOp: equal to a PyTorch loop, step by step; images, devices, a run that comes out as an adapted model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import pytest
from _long import mostly_long

from clipjax.checkpoints.model import Model
from clipjax.data.labels import LabelSpace
from clipjax.data.pixels.augment import Augmentation
from clipjax.data.pixels.normalize import normalize_host
from clipjax.devices.sharding import DP, make_mesh, shard_batch
from clipjax.errors import DataError, UsageError
from clipjax.finetune.data.splits import TrainSplit, ValidationSplit
from clipjax.finetune.method import Problem, Settings, Setup
from clipjax.finetune.methods import coop
from clipjax.finetune.recipe import Recipe
from clipjax.finetune.training.optimizer import Optimizer, Schedule
from clipjax.finetune.training.solve import train
from clipjax.finetune.training.step import init_state, make_step, state_shardings
from clipjax.finetune.training.trees import split
from clipjax.heads.adapters.base import adapter_of
from clipjax.heads.adapters.coop import CoOp
from clipjax.models.arch import load_arch
from clipjax.models.network import Network
from tests.data._images import memory_manifest

pytest.importorskip("open_clip")

IMAGES, BATCH, EPOCHS, VECTORS = 32, 8, 5, 4
STEPS = EPOCHS * IMAGES // BATCH
RATE, DECAY = 5e-3, 1.0
NAMES = ("tench", "great white shark", "coffee_mug", "jack-o'-lantern", "St. Bernard", "T.V.")
CLASSES = LabelSpace("things", NAMES, tuple("abcdef"))
RECIPE = Recipe(
    "test",
    "CoOp",
    "coop",
    BATCH,
    epochs=EPOCHS,
    optimizer=Optimizer("sgd", RATE, DECAY, momentum=0.9),
    schedule=Schedule("epoch_cosine", warmup_epochs=1, warmup_rate=1e-5),
)


class Run(NamedTuple):
    """Ours: losses [STEPS]; the first step's gradient of the context, the last context; the batches seen."""

    losses: np.ndarray
    gradient: np.ndarray
    context: np.ndarray
    batches: list[dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Model]:
    from _narrow import narrow_pair

    return narrow_pair(tmp_path_factory.mktemp("narrow"))


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, len(NAMES), IMAGES).astype(np.int32)


@pytest.fixture(scope="module", autouse=True)
def features(pair: tuple[Any, Model], labels: np.ndarray) -> Iterator[np.ndarray]:
    """What the split is said to have: features near the texts of a hidden context, which can be learned."""
    import torch

    rng = np.random.default_rng(3)
    width = pair[1].network.arch.text.width  # type: ignore[union-attr]
    hidden = torch.tensor(rng.normal(0, 0.2, (VECTORS, width)).astype(np.float32))
    with torch.no_grad():
        texts = torch.nn.functional.normalize(loop().class_features(pair[0], hidden), dim=-1).numpy()
    made = (texts[labels] + 0.02 * rng.normal(size=(IMAGES, texts.shape[1]))).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coop, "split_features", lambda setup, split: made)
        yield made


def loop(**changes: Any) -> Any:
    from tests.finetune.methods._torch_coop import Loop

    return Loop(NAMES, RATE, DECAY, IMAGES // BATCH, EPOCHS, **changes)


def setup_of(
    model: Model, labels: np.ndarray, devices: int = 1, recipe: Recipe = RECIPE, **options: Any
) -> Setup:
    recipe = dataclasses.replace(recipe, options={"n_ctx": VECTORS, **options})
    data = TrainSplit("train", memory_manifest(len(labels)), labels, CLASSES)
    settings = Settings(make_mesh(jax.devices()[:devices]), progress=False)
    return Setup(model, data, None, recipe, 1, coop.METHOD.options_of(recipe), settings)


def first_step(problem: Problem, setup: Setup, batch: dict[str, np.ndarray]) -> tuple[float, np.ndarray]:
    """The loss, and its gradient by the context."""
    rest = {name: leaf for name, leaf in problem.params.items() if name != "context"}

    def of(context: Any, batch: Any) -> Any:
        return problem.loss({"context": context, **rest}, batch, jax.random.key(0))[0]

    on_mesh = shard_batch(batch, setup.settings.mesh)
    step = jax.jit(jax.value_and_grad(of))
    value, gradient = step(np.asarray(problem.params["context"]), on_mesh)
    return float(value), np.asarray(gradient)


@pytest.fixture(scope="module")
def ours(pair: tuple[Any, Model], labels: np.ndarray, features: np.ndarray) -> Run:
    """The steps of `training.train`, with every loss."""
    setup = setup_of(pair[1], labels)
    problem, mesh = coop.prepare(setup), setup.settings.mesh
    parts = split(problem.params, problem.trained, update_statistics=True)
    rate = RECIPE.rate(IMAGES)
    tx = RECIPE.optimizer.transformation(rate)
    shardings = state_shardings(parts, tx, mesh, DP)
    options = problem.compiler_options
    step = make_step(
        problem.loss, tx, mesh, shardings, frozen=parts.frozen, rate=rate, compiler_options=options
    )
    state, source = init_state(parts, tx, shardings, setup.seed), problem.batches()
    batches = [next(source) for _ in range(STEPS)]
    losses, gradient = [], np.zeros(0)
    for batch in batches:
        state, metrics = step(state, shard_batch(batch, mesh))
        if not losses:  # the momentum after one step: the gradient and the decay
            momentum = optax.tree.get(state.opt_state, "trace")["context"]
            gradient = np.asarray(momentum) - DECAY * problem.params["context"]
        losses.append(float(metrics["loss"]))
    return Run(np.array(losses), gradient, np.asarray(state.params["context"]), batches)


def arrays(batches: list[dict[str, np.ndarray]]) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(batch["features"], batch["label"]) for batch in batches]


def off(actual: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference, relative to the largest number."""
    return float(np.abs(actual - wanted).max() / np.abs(wanted).max())


def test_twenty_steps_equal_pytorch(pair: tuple[Any, Model], labels: np.ndarray, ours: Run) -> None:
    start = coop.first_context(setup_of(pair[1], labels))
    theirs = loop().run(pair[0], start, arrays(ours.batches))
    epochs = theirs.losses.reshape(EPOCHS, -1).mean(axis=1)
    assert epochs[-1] < 0.5 * epochs[0]
    assert np.abs(ours.losses / theirs.losses - 1).max() < 1e-3
    assert off(ours.gradient, theirs.gradient) < 1e-4
    assert off(ours.context, theirs.context) < 1e-4


@pytest.mark.parametrize(
    "mistake",
    mostly_long(
        [
            {"weight_decay": 0.0},
            {"momentum": 0.0},
            {"decoupled": True},
            {"warmup": 0},
            {"warmup_rate": 0.0},
            {"cosine": "step"},
            {"full_stop": ""},
            {"position": "middle"},
            {"logit_scale": False},
        ],
        keep=[{"weight_decay": 0.0}, {"cosine": "step"}],
    ),
    ids=lambda mistake: next(iter(mistake)),
)
def test_a_mistake_would_show(
    pair: tuple[Any, Model], labels: np.ndarray, ours: Run, mistake: dict[str, Any]
) -> None:
    start = coop.first_context(setup_of(pair[1], labels))
    wrong = dataclasses.replace(loop(), **mistake).run(pair[0], start, arrays(ours.batches))
    assert np.abs(ours.losses / wrong.losses - 1).max() > 1e-2
    assert off(ours.context, wrong.context) > 1e-3


@pytest.mark.parametrize(
    "options",
    mostly_long(
        [{"position": "middle", "csc": True}, {"position": "front"}],
        keep=[{"position": "middle", "csc": True}],
        guard="heads/test_adapters_coop.py::test_prompts",
    ),
    ids=str,
)
def test_positions_and_class_specific_contexts(
    pair: tuple[Any, Model],
    labels: np.ndarray,
    features: np.ndarray,
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a mesh of four: six classes in groups, their activations computed again."""
    monkeypatch.setattr(coop, "LEAST_SAVED", 3)
    recipe = dataclasses.replace(RECIPE, remat=True)
    # An odd number of vectors: the smaller half comes first.
    setup = setup_of(pair[1], labels, devices=4, recipe=recipe, n_ctx=5, **options)
    problem = coop.prepare(setup)
    batch = {"features": features[:BATCH], "label": labels[:BATCH]}
    loss, gradient = first_step(problem, setup, batch)
    position = options.get("position", "end")
    theirs = loop(position=position).run(pair[0], problem.params["context"], arrays([batch]))
    assert gradient.shape == ((6, 5, 128) if "csc" in options else (5, 128))
    assert loss == pytest.approx(theirs.losses[0], rel=1e-5)
    assert off(gradient, theirs.gradient) < 1e-4


@pytest.mark.long("finetune/methods/test_coop.py::test_positions_and_class_specific_contexts")
def test_devices_share_the_classes(
    pair: tuple[Any, Model], labels: np.ndarray, ours: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six classes in groups on eight devices, their activations computed again, equal one device."""
    monkeypatch.setattr(coop, "LEAST_SAVED", 3)
    recipe = dataclasses.replace(RECIPE, remat=True)
    setup = setup_of(pair[1], labels, devices=8, recipe=recipe)
    loss, gradient = first_step(coop.prepare(setup), setup, ours.batches[0])
    assert loss == pytest.approx(ours.losses[0], rel=1e-5)
    assert off(gradient, ours.gradient) < 1e-5


def test_images_go_through_a_frozen_tower(pair: tuple[Any, Model], labels: np.ndarray) -> None:
    import torch

    recipe = dataclasses.replace(RECIPE, augmentation=Augmentation(flip=0.5))
    setup = setup_of(pair[1], labels, recipe=recipe)
    problem = coop.prepare(setup)
    batch = next(problem.batches())
    assert batch["pixels"].shape == (BATCH, 96, 96, 3)
    loss, gradient = first_step(problem, setup, batch)
    preprocess = pair[1].card.preprocess
    images = normalize_host(batch["pixels"], preprocess.mean, preprocess.std).transpose(0, 3, 1, 2)
    with torch.no_grad():
        encoded = pair[0].encode_image(torch.from_numpy(np.ascontiguousarray(images)))
    stored = {"features": encoded.numpy(), "label": batch["label"]}
    theirs = loop().run(pair[0], problem.params["context"], arrays([stored]))
    assert loss == pytest.approx(theirs.losses[0], rel=1e-5)
    assert off(gradient, theirs.gradient) < 1e-4
    parts = split(problem.params, problem.trained, update_statistics=True)
    assert (list(parts.trained), parts.statistics) == (["context"], {})
    assert "vision" not in coop.prepare(setup_of(pair[1], labels)).params


def test_a_run_comes_out_as_an_adapted_model(
    pair: tuple[Any, Model], labels: np.ndarray, features: np.ndarray, ours: Run
) -> None:
    model = pair[1]
    setup = setup_of(model, labels)
    problem = coop.prepare(setup)
    outcome = problem.finish(train(problem, setup).params)
    adapter: Any = adapter_of(outcome.model)
    assert isinstance(adapter, CoOp)
    assert off(adapter.context, ours.context) < 1e-5
    assert (adapter.position, adapter.init, adapter.csc) == ("end", "", False)
    assert outcome.model.card.lineage is not None
    assert outcome.model.card.lineage["method"] == "coop"
    assert outcome.model.params["text"] is model.params["text"]
    held_out = ValidationSplit("held out", setup.train.manifest, labels, CLASSES)
    assert problem.accuracy is not None
    learned = problem.accuracy({"context": adapter.context}, held_out)
    assert learned > max(0.9, problem.accuracy(problem.params, held_out))
    head = adapter.head(outcome.model, CLASSES, precision="parity", store=None, progress=False)
    cosines = features @ np.asarray(head.kernel) / np.linalg.norm(features, axis=1, keepdims=True)
    assert np.mean(cosines.argmax(axis=1) == labels) == learned


def test_the_seed_draws_the_context(pair: tuple[Any, Model], labels: np.ndarray) -> None:
    setup = setup_of(pair[1], labels, n_ctx=400)
    first = coop.first_context(setup)
    assert first.std() == pytest.approx(0.02, rel=0.02)
    assert np.array_equal(first, coop.first_context(setup))
    assert off(coop.first_context(dataclasses.replace(setup, seed=2)), first) > 0.1


def test_a_text_starts_the_context(pair: tuple[Any, Model], labels: np.ndarray) -> None:
    model = pair[1]
    table = np.asarray(model.params["text"]["token_embedding"])
    ids = model.tokenizer(["a photo of a"])[0, 1:5]
    context = coop.first_context(setup_of(model, labels, init="a_photo_of_a"))
    assert np.array_equal(context, table[ids])
    own = coop.first_context(setup_of(model, labels, init="a photo of a", csc=True))
    assert np.array_equal(own, np.stack([table[ids]] * len(NAMES)))


def test_what_is_refused(pair: tuple[Any, Model], labels: np.ndarray) -> None:
    model = pair[1]
    with pytest.raises(UsageError, match="n_ctx = 0"):
        coop.prepare(setup_of(model, labels, n_ctx=0))
    with pytest.raises(UsageError, match="unknown position 'ends'; did you mean end"):
        coop.prepare(setup_of(model, labels, position="ends"))
    with pytest.raises(DataError, match="class 'tench' does not fit into the 77 tokens"):
        coop.prepare(setup_of(model, labels, n_ctx=74))
    with pytest.raises(UsageError, match="has no tokens"):
        coop.prepare(setup_of(model, labels, init=" "))
    other: Any = SimpleNamespace(network=Network(load_arch("roberta-ViT-B-32")), adapter=None)
    with pytest.raises(UsageError, match=r"roberta-ViT-B-32.*'roberta'.*token ids only"):
        coop.prepare(dataclasses.replace(setup_of(model, labels), model=other))


def test_the_shipped_recipe() -> None:
    from clipjax.finetune.recipe import load_recipe

    recipe = load_recipe("coop_imagenet")
    rate = recipe.rate(16 * 1000)
    assert recipe.steps_of(16 * 1000) == 25000
    assert coop.METHOD.options_of(recipe) == coop.OPTIONS
    for step, wanted in ((0, 1e-5), (499, 1e-5), (500, 2e-3), (1000, 2e-3 * (1 + np.cos(np.pi / 50)) / 2)):
        assert float(rate(step)) == pytest.approx(wanted, rel=1e-5)
