"""FLYP: equal to a PyTorch loop step by step, collisions by hand, and a run that comes out as a model."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import PIL.Image
import pytest
from _long import mostly_long

from clipjax.checkpoints.export import export_model
from clipjax.checkpoints.load import load_model
from clipjax.checkpoints.model import Model
from clipjax.data.labels import LabelSpace, PromptSet, load_prompts
from clipjax.data.manifest import FileOpener, Manifest
from clipjax.data.pixels.normalize import normalize_host
from clipjax.devices.sharding import DP, make_mesh, shard_batch
from clipjax.errors import DataError, UsageError
from clipjax.finetune.contrastive import MAX_LOGIT_SCALE, collisions, contrastive_loss
from clipjax.finetune.data.splits import TrainSplit, ValidationSplit
from clipjax.finetune.method import Settings, Setup
from clipjax.finetune.methods.cross_entropy import end_to_end
from clipjax.finetune.methods.flyp import METHOD, caption_ids, flyp_loss
from clipjax.finetune.recipe import Recipe
from clipjax.finetune.training.optimizer import Optimizer, Schedule
from clipjax.finetune.training.solve import train
from clipjax.finetune.training.step import init_state, make_step, state_shardings
from clipjax.finetune.training.trees import flatten, is_statistic, merge, split
from clipjax.models.arch import load_arch
from converters.engine import export
from converters.table import load_table

pytest.importorskip("open_clip")

import reference
import torch
from _narrow import narrow_pair
from _torch_flyp import Loop, Trace
from safetensors.torch import load_file

pytestmark = pytest.mark.usefixtures("one_device")

STEPS, CLASSES = 20, 16
LOOP = Loop(learning_rate=1e-5, weight_decay=100.0, warmup=3, steps=STEPS)
RECIPE = Recipe(
    name="test",
    title="test",
    method="flyp",
    batch_size=CLASSES,
    steps=STEPS,
    optimizer=Optimizer(learning_rate=1e-5, weight_decay=100.0),
    schedule=Schedule(warmup_steps=3),
    prompts="openai_7",
)
NAMES = [f"{a} {b}" for a in ("red", "old", "tiny", "wet") for b in ("dog", "van", "pear", "hat")]
LABELS = LabelSpace("things", tuple(NAMES), tuple(f"{k:02}" for k in range(CLASSES)))
VOCABULARY = 100
TOLERANCE = 1e-4  # of the losses, relative; a mistake must be ten times as far away


def warm(theirs: Any, ours: Model) -> tuple[Any, Model]:
    """With a temperature at which twenty steps learn."""
    theirs.logit_scale.data.fill_(math.log(10.0))
    return theirs, ours.with_params({**ours.params, "logit_scale": jnp.float32(math.log(10.0))})


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Model]:
    """A narrow open_clip ViT-B-32 and ours."""
    return warm(*narrow_pair(tmp_path_factory.mktemp("narrow")))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Model]:
    """A pair with the few ids of `batches`: a step takes a fifth of the time."""
    theirs, ours = warm(*narrow_pair(tmp_path_factory.mktemp("small"), VOCABULARY))
    return theirs, captioned(ours)


def captioned(model: Model) -> Model:
    """A model without a tokenizer, whose captions come as ids."""
    ids = property(lambda _: lambda texts: np.ones((len(texts), 16), np.int32))
    object.__setattr__(model, "__class__", type("Captioned", (Model,), {"tokenizer": ids}))
    return model


@pytest.fixture(scope="module")
def batches(pair: tuple[Any, Model]) -> list[dict[str, np.ndarray]]:
    """Two batches in turn, an image of each class: its pattern and noise, and one of its captions.

    The ids of the captions are numbered anew, in their order: the end token stays the largest.
    """
    rng = np.random.default_rng(0)
    ids = caption_ids(pair[1], LABELS, load_prompts("openai_7"))
    known, ids = np.unique(ids, return_inverse=True)
    assert known[0] == 0
    assert len(known) <= VOCABULARY
    two = []
    for _ in range(2):
        label = rng.permutation(CLASSES).astype(np.int32)
        tokens = ids[label, rng.integers(ids.shape[1], size=CLASSES)].astype(np.int32)
        pixels = np.stack([picture(k, pair[1], rng) for k in label])
        two.append({"pixels": pixels, "tokens": tokens, "label": label, "row": label})
    return [two[i % 2] for i in range(STEPS)]


def picture(label: int, model: Model, rng: np.random.Generator) -> np.ndarray:
    pattern = np.random.default_rng(label).integers(0, 256, (6, 6, 3))
    cells = np.arange(model.card.preprocess.image_size) * 6 // model.card.preprocess.image_size
    large = pattern[cells][:, cells]
    return np.clip(large + rng.normal(0, 40, large.shape), 0, 255).astype(np.uint8)


def setup_of(model: Model, labels: LabelSpace = LABELS, **options: Any) -> Setup:
    """A setup without images: the batches come from elsewhere."""
    none = TrainSplit("none", Manifest((), FileOpener("", ())), np.zeros(0, np.int32), labels)
    settings = Settings(make_mesh(jax.devices()[:1]), progress=False)
    return Setup(model, none, None, RECIPE, 0, {**METHOD.options, **options}, settings)


def torch_batches(
    model: Model, batches: Sequence[Mapping[str, np.ndarray]]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(images [B,3,S,S], ids [B,L] of the whole context), the ids not cut."""
    known, pairs = model.card.preprocess, []
    context = model.card.arch.text.context_length  # type: ignore[union-attr]
    for batch in batches:
        images = normalize_host(batch["pixels"], known.mean, known.std).transpose(0, 3, 1, 2)
        ids = np.pad(batch["tokens"], ((0, 0), (0, context - batch["tokens"].shape[1])))
        pairs.append((np.ascontiguousarray(images), ids))
    return pairs


def torch_features(
    theirs: Any, model: Model, batch: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """open_clip's features of unit norm."""
    [(images, ids)] = torch_batches(model, [batch])
    with torch.no_grad():
        image = theirs.encode_image(torch.from_numpy(images), normalize=True)
        text = theirs.encode_text(torch.from_numpy(ids).long(), normalize=True)
    return image.numpy(), text.numpy()


def by_key(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return export(flatten(params), load_table("open_clip_vit"))


def follow(
    setup: Setup,
    batches: list[dict[str, np.ndarray]],
    by_key: Callable[[Mapping[str, Any]], dict[str, np.ndarray]] = by_key,
) -> Trace:
    """What `training.train` does, with the loss of every step, and AdamW's first moment after the first."""
    problem, recipe, mesh = METHOD.prepare(setup), setup.recipe, setup.settings.mesh
    parts = split(problem.params, problem.trained, update_statistics=True)
    rate = recipe.schedule.of(recipe.optimizer.learning_rate, problem.steps, None)
    tx = recipe.optimizer.transformation(rate)
    shardings = state_shardings(parts, tx, mesh, DP)
    state = init_state(parts, tx, shardings, setup.seed)
    options = problem.compiler_options
    step = make_step(
        problem.loss, tx, mesh, shardings, problem.constrain, rate=rate, compiler_options=options
    )
    losses, gradients = [], {}
    for batch in batches:
        state, metrics = step(state, shard_batch(batch, mesh))
        losses.append(float(metrics["loss"]))
        if len(losses) == 1:  # b1 is 0.9, so the moment is a tenth of the gradient
            moment = optax.tree.get(state.opt_state, "mu")
            moment = merge(jax.device_get(moment), parts.statistics)
            gradients = {key: 10 * value for key, value in by_key(moment).items()}
    return Trace(np.array(losses), gradients, by_key(jax.device_get(merge(state.params, state.statistics))))


@pytest.fixture(scope="module")
def ours(small: tuple[Any, Model], batches: list[dict[str, np.ndarray]]) -> Trace:
    return follow(setup_of(small[1]), batches)


def farthest(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a / b - 1).max())


def test_twenty_steps_follow_pytorch(
    small: tuple[Any, Model], batches: list[dict[str, np.ndarray]], ours: Trace
) -> None:
    theirs = LOOP.run(small[0], torch_batches(small[1], batches))
    assert theirs.losses[-1] < 0.5 * theirs.losses[0], "the run learns"
    assert farthest(ours.losses, theirs.losses) < TOLERANCE
    assert set(ours.gradients) == set(theirs.gradients)
    for key, gradient in theirs.gradients.items():
        error = np.abs(ours.gradients[key] - gradient).max()
        assert error < 1e-4 * np.abs(gradient).max(), key
        wrong, right = without_key_bias(key, ours.weights[key]), without_key_bias(key, theirs.weights[key])
        # A hundredth of one step at the full rate, and float32's rounding of twenty.
        assert rms(wrong - right) < 0.01 * LOOP.learning_rate + 3e-7 * rms(right), key


def without_key_bias(key: str, weight: np.ndarray) -> np.ndarray:
    """It moves no softmax: its gradient is rounding alone, which AdamW scales to whole steps."""
    if not key.endswith("in_proj_bias"):
        return weight
    q, _, v = np.split(weight, 3)
    return np.concatenate([q, v])


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x))))


@pytest.mark.parametrize(
    ("mistake", "steps"),
    mostly_long(
        [
            ({"weight_decay": 0.0}, 8),
            ({"decay": "matrices"}, 8),
            ({"b2": 0.98}, 12),
            ({"eps": 1e-4}, STEPS),
            ({"clip_norm": 1.0}, 6),
            ({"one_way": True}, 4),
            ({"normalize": False}, 1),
        ],
        keep=[({"normalize": False}, 1)],
    ),
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_a_mistake_is_seen(
    small: tuple[Any, Model],
    batches: list[dict[str, np.ndarray]],
    ours: Trace,
    mistake: dict[str, Any],
    steps: int,
) -> None:
    wrong = dataclasses.replace(LOOP, **mistake).run(small[0], torch_batches(small[1], batches[:steps]))
    assert farthest(ours.losses[:steps], wrong.losses) > 10 * TOLERANCE


# ----------------------------------------------------------------------------------------- collisions


def masked_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """The definition, pair by pair."""
    total = 0.0
    for i in range(len(labels)):
        for row in (logits[i], logits[:, i]):
            others = [row[j] for j in range(len(labels)) if j == i or labels[j] != labels[i]]
            total += math.log(sum(math.exp(x) for x in others)) - row[i]
    return total / (2 * len(labels))


def test_collisions_are_no_negatives() -> None:
    rng = np.random.default_rng(0)
    labels = np.array([3, 1, 3, 0, 1, 3], np.int32)
    image, text = (rng.normal(size=(6, 5)) for _ in range(2))
    logits = 4.0 * (image / np.linalg.norm(image, axis=1)[:, None])
    logits = logits @ (text / np.linalg.norm(text, axis=1)[:, None]).T
    given = [jnp.asarray(x, jnp.float32) for x in (image, text, math.log(4.0))]

    @jax.jit
    def value(excluded: jax.Array, *given: jax.Array) -> Any:
        def of(image: jax.Array, text: jax.Array, scale: jax.Array) -> jax.Array:
            return contrastive_loss(image, text, scale, excluded)[0]

        return jax.value_and_grad(of, argnums=(0, 1, 2))(*given)

    masked, gradients = value(collisions(jnp.asarray(labels)), *given)
    assert masked == pytest.approx(masked_loss(logits, labels), rel=1e-6)
    plain, _ = value(jnp.zeros((6, 6), bool), *given)
    assert plain == pytest.approx(masked_loss(logits, np.arange(6)), rel=1e-6)
    assert plain - masked > 0.1
    # No gradient is lost in the mask.
    assert all(np.isfinite(np.asarray(g)).all() and np.any(np.asarray(g)) for g in gradients)


def test_masking_is_an_option_and_off(small: tuple[Any, Model], batches: list[dict[str, np.ndarray]]) -> None:
    """Of a batch with two images of one class, before the first step."""
    assert METHOD.options["mask_collisions"] is False
    theirs, model = small
    batch = batches[0] | {"label": np.arange(CLASSES, dtype=np.int32) // 2}
    problem = METHOD.prepare(setup_of(model, mask_collisions=True))
    value = float(jax.jit(problem.loss)(problem.params, batch, jax.random.key(0))[0])  # type: ignore[arg-type]
    image, text = torch_features(theirs, model, batch)
    logits = 10.0 * image @ text.T
    assert value == pytest.approx(masked_loss(logits, batch["label"]), rel=1e-5)
    assert abs(value - masked_loss(logits, np.arange(CLASSES))) > 0.01


# -------------------------------------------------------------------------------- options, captions


def test_what_is_trained_and_bounded(pair: tuple[Any, Model]) -> None:
    plain = METHOD.prepare(setup_of(pair[1]))
    assert all(map(plain.trained, flatten(plain.params)))
    assert plain.constrain is None
    assert plain.contrastive
    assert not plain.trained("logit_bias"), "no softmax sees it"
    assert not METHOD.prepare(setup_of(pair[1], freeze_logit_scale=True)).trained("logit_scale")
    constrain = METHOD.prepare(setup_of(pair[1], clamp_logit_scale=True)).constrain
    assert constrain is not None
    assert float(constrain({"logit_scale": jnp.float32(5.0)})["logit_scale"]) == pytest.approx(
        MAX_LOGIT_SCALE
    )


def test_captions_are_cut_behind_the_longest(pair: tuple[Any, Model]) -> None:
    model, prompts = pair[1], load_prompts("openai_7")
    ids = caption_ids(model, LABELS, prompts)
    texts = [text for name in LABELS.classes for text in prompts.of_class(name)]
    whole = model.tokenizer(texts).reshape(CLASSES, 7, 77)
    np.testing.assert_array_equal(ids, whole[..., : ids.shape[2]])
    assert not whole[..., ids.shape[2] :].any()
    assert (ids[..., -1] == whole.max()).any(), "the longest ends with its end token"


def test_towers_that_need_the_context_get_it() -> None:
    for name in ("ViT-B-16-SigLIP", "coca_ViT-B-32"):
        text: Any = load_arch(name).text
        network = SimpleNamespace(arch=SimpleNamespace(text=text))
        model: Any = SimpleNamespace(
            network=network, tokenizer=lambda texts, n=text.context_length: np.ones((len(texts), n), np.int32)
        )
        assert caption_ids(model, LABELS, load_prompts("single")).shape == (16, 1, text.context_length)


def test_bad_input_is_named(pair: tuple[Any, Model]) -> None:
    ragged = PromptSet("mine", sentences={name: ("a",) * (1 + (name == "old van")) for name in NAMES})
    with pytest.raises(DataError, match="mine has 1 prompts for 'red dog' and 2 for 'old van'"):
        caption_ids(pair[1], LABELS, ragged)
    network = SimpleNamespace(arch=SimpleNamespace(text=None))
    classifier: Any = SimpleNamespace(network=network, card=SimpleNamespace(id="my-resnet"), adapter=None)
    with pytest.raises(UsageError, match="my-resnet has no text tower"):
        METHOD.prepare(setup_of(classifier))


# ------------------------------------------------------------------------------------------ BatchNorm


@pytest.fixture(scope="module")
def resnets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Model]:
    """A narrow RN50 of a block a stage on images of 32 pixels, and ours; see test_cross_entropy.py."""
    config = reference.narrow("RN50", image_size=32, layers=[1, 1, 1, 1])
    theirs = reference.conditioned(config)
    theirs.logit_scale.data.fill_(math.log(10.0))
    ours = load_model(reference.save_folder(theirs, config, tmp_path_factory.mktemp("resnet")))
    return theirs, captioned(ours)


def test_batch_norm_is_the_recipes(resnets: tuple[Any, Model]) -> None:
    """Of both methods that tune a ResNet; nothing is compiled. A step: models/test_training.py."""
    model = resnets[1]
    size, rows = model.card.preprocess.image_size, jax.ShapeDtypeStruct((CLASSES,), np.int32)
    pixels = jax.ShapeDtypeStruct((CLASSES, size, size, 3), np.uint8)
    batch = {"pixels": pixels, "label": rows, "tokens": jax.ShapeDtypeStruct((CLASSES, 16), np.int32)}
    width = resnets[0].visual.output_dim
    head = {"kernel": np.ones((width, CLASSES), np.float32), "bias": np.ones(CLASSES, np.float32)}
    every = {path for path in flatten(model.params) if is_statistic(path)}
    assert every
    for mode, wanted in (("batch", every), ("frozen", set())):
        recipe = dataclasses.replace(RECIPE, batch_norm=mode)
        setup = dataclasses.replace(setup_of(model, label_smoothing=0.0), recipe=recipe)
        classes = end_to_end(setup, head)
        for loss, params in ((flyp_loss(setup), model.params), (classes.loss, classes.params)):
            _, aux = jax.eval_shape(loss, params, batch, jax.random.key(0))
            assert set(flatten(aux.statistics)) == wanted


@pytest.mark.long("finetune/methods/test_flyp.py::test_batch_norm_is_the_recipes")
def test_batch_norm_follows_pytorch(resnets: tuple[Any, Model]) -> None:
    """In train mode: losses, and running statistics after five steps. A frozen one is another run."""
    theirs, model = resnets
    rng, text = np.random.default_rng(0), theirs.token_embedding.num_embeddings
    ids = reference.token_ids(text, 16, CLASSES, seed=0)
    batches = []
    for _ in range(5):
        label = rng.permutation(CLASSES).astype(np.int32)
        pixels = np.stack([picture(k, model, rng) for k in label])
        batches.append({"pixels": pixels, "tokens": ids[label], "label": label, "row": label})
    ours = follow(setup_of(model), batches, resnet_by_key)
    right, frozen = (
        dataclasses.replace(LOOP, frozen=frozen).run(theirs, torch_batches(model, batches))
        for frozen in (False, True)
    )
    assert right.losses[-1] < 0.9 * right.losses[0], "the run learns"
    assert farthest(ours.losses, right.losses) < TOLERANCE
    assert farthest(ours.losses, frozen.losses) > 10 * TOLERANCE
    statistics = [key for key in right.weights if "running_" in key]
    assert statistics
    for key in statistics:
        size = np.abs(right.weights[key]).max()
        assert np.abs(ours.weights[key] - right.weights[key]).max() < TOLERANCE * size, key
        assert np.abs(ours.weights[key] - frozen.weights[key]).max() > 10 * TOLERANCE * size, key


def resnet_by_key(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return export(flatten(params), load_table("open_clip_resnet"))


# ------------------------------------------------------------------------------------------ a whole run


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, pair: tuple[Any, Model]) -> Manifest:
    """32 files, two of each class."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(1)
    labels = np.arange(2 * CLASSES, dtype=np.int32) % CLASSES
    names = tuple(f"{i:02}.png" for i in range(len(labels)))
    for name, label in zip(names, labels):
        PIL.Image.fromarray(picture(int(label), pair[1], rng)).save(folder / name)
    return Manifest(names, FileOpener(str(folder), names), labels)


@pytest.mark.long("finetune/test_recipes_run.py::test_a_short_run_of_every_recipe_makes_a_model")
def test_a_run_comes_out_as_a_model(pair: tuple[Any, Model], images: Manifest, tmp_path: Path) -> None:
    theirs, model = pair
    assert images.labels is not None
    assert isinstance(images.opener, FileOpener)
    held_out = ValidationSplit("things", images, images.labels, LABELS)
    given = TrainSplit("things", images, images.labels, LABELS)
    recipe = dataclasses.replace(RECIPE, steps=4)
    setup = dataclasses.replace(setup_of(model), train=given, validation=held_out, recipe=recipe)
    problem = METHOD.prepare(setup)
    trained = train(problem, setup)
    tuned = problem.finish(trained.params).model
    assert tuned.card.logit_scale == pytest.approx(math.exp(trained.params["logit_scale"]))

    again = load_model(tuned.save(tmp_path / "model"))
    export_model(again, tmp_path / "open_clip.safetensors")
    tensors = load_file(tmp_path / "open_clip.safetensors")
    for key, weight in by_key(trained.params).items():
        np.testing.assert_array_equal(tensors[key], weight)
    exported = copy.deepcopy(theirs)
    exported.load_state_dict(tensors, strict=True)
    files = [Path(images.opener.root) / name for name in images.ids]
    pixels = np.stack([np.asarray(PIL.Image.open(file)) for file in files])
    prompts = caption_ids(model, LABELS, load_prompts("openai_7")).reshape(7 * CLASSES, -1)
    image, text = torch_features(exported, model, {"pixels": pixels, "tokens": prompts})
    assert problem.accuracy is not None
    classes = text.reshape(CLASSES, 7, -1).mean(axis=1)
    classes /= np.linalg.norm(classes, axis=1, keepdims=True)
    expected = np.mean((image @ classes.T).argmax(axis=1) == images.labels)
    assert problem.accuracy(trained.params, held_out) == pytest.approx(expected)
    assert 0 < expected < 1
