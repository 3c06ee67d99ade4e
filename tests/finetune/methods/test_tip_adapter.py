"""Tip-Adapter against NumPy, Tip-Adapter-F against the reference's loop in torch; towers of open_clip."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
import optax
import pytest
from _long import mostly_long

from clipjax.checkpoints.load import load_model
from clipjax.checkpoints.model import Model
from clipjax.data.labels import LabelSpace, load_labels, load_prompts
from clipjax.data.manifest import Manifest
from clipjax.data.pixels.normalize import normalize_host
from clipjax.devices.sharding import DP, make_mesh, shard_batch
from clipjax.errors import DataError, UsageError
from clipjax.finetune.data.batches import image_batches, view_batches
from clipjax.finetune.data.splits import TrainSplit, ValidationSplit
from clipjax.finetune.method import Settings, Setup
from clipjax.finetune.methods import tip_adapter, tip_adapter_f
from clipjax.finetune.recipe import recipe_from_dict
from clipjax.finetune.training.solve import train
from clipjax.finetune.training.step import init_state, make_step, state_shardings
from clipjax.finetune.training.trees import split
from clipjax.heads.adapters.base import adapter_of
from clipjax.heads.adapters.tip_adapter import TipAdapter
from clipjax.heads.head import logits
from clipjax.storage.store import Store

pytest.importorskip("open_clip")

import torch
from _narrow import narrow_pair

STEPS, BATCH = 20, 8
TOLERANCE = 1e-3  # of the losses, relative; a mistake must be ten times as far away
VIEW = {"scale": [0.5, 1.0], "flip": 0.5}
# A rate and a decay that twenty steps can see, and gradients small enough for eps to matter.
OPTIMIZER = {"learning_rate": 0.1, "weight_decay": 0.5, "eps": 1e-4}
WEIGHTS = {"alpha": 0.1, "beta": 3.0}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Model]:
    return narrow_pair(tmp_path_factory.mktemp("narrow"))


@pytest.fixture(scope="module")
def splits(manifest: Manifest) -> tuple[TrainSplit, ValidationSplit]:
    """Two images of each class to train on, the others to choose by, without classes that have fewer."""
    assert manifest.labels is not None
    known = load_labels("demo_shapes")
    kept = np.flatnonzero(np.bincount(manifest.labels, minlength=len(known)) >= 2)
    classes, ids = (tuple(names[k] for k in kept) for names in (known.classes, known.ids))
    labels = np.searchsorted(kept, manifest.labels).astype(np.int32)
    train_rows = np.sort(np.concatenate([np.flatnonzero(labels == k)[:2] for k in range(len(kept))]))
    others = np.setdiff1d(np.arange(len(labels)), train_rows)
    space = LabelSpace("shapes", classes, ids)
    first, second = (
        TrainSplit("demo", manifest, labels, space).select(train_rows),
        ValidationSplit("demo", manifest, labels, space).select(others),
    )
    return first, second


@pytest.fixture(scope="module")
def setup_of(
    pair: tuple[Any, Model], splits: tuple[TrainSplit, ValidationSplit], one_device: list[Any]
) -> Callable[..., Setup]:
    """A setup of a recipe with these options and other fields."""

    def make(options: dict[str, Any], store: Store | None = None, devices: int = 1, **fields: Any) -> Setup:
        record = {"name": "test", "title": "Test", "method": "tip_adapter_f", "prompts": "openai_7"}
        record |= {"batch_size": BATCH, "optimizer": OPTIMIZER, "options": options, **fields}
        record |= {} if "epochs" in fields else {"steps": STEPS}
        recipe = recipe_from_dict(record, "test")
        settings = Settings(make_mesh(one_device[:devices]), store=store, progress=False)
        whole = tip_adapter.METHOD.options_of(recipe)
        return Setup(pair[1], *splits, recipe, 1, whole, settings)

    return make


# ------------------------------------------------------------------------------------- the reference


def torch_features(theirs: Any, model: Model, pixels: np.ndarray) -> np.ndarray:
    """open_clip's features, not normalised, float64 [B, D]."""
    images = normalize_host(pixels, model.card.preprocess.mean, model.card.preprocess.std)
    with torch.no_grad():
        features = theirs.encode_image(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    return features.numpy().astype(np.float64)


def unit(x: np.ndarray, axis: int = -1) -> np.ndarray:
    return x / np.linalg.norm(x, axis=axis, keepdims=True)


def text_weights(theirs: Any, model: Model, names: tuple[str, ...]) -> np.ndarray:
    """float64 [D, K]: the mean over the seven templates of unit embeddings, of unit norm."""
    columns = []
    for name in names:
        ids = model.tokenizer([each.replace("{}", name) for each in load_prompts("openai_7").templates])
        with torch.no_grad():
            columns.append(
                unit(theirs.encode_text(torch.from_numpy(ids).long()).numpy().astype(float)).mean(0)
            )
    return unit(np.stack(columns, axis=1), axis=0)


@pytest.fixture(scope="module")
def views(pair: tuple[Any, Model], setup_of: Callable[..., Setup]) -> np.ndarray:
    """open_clip's features of two views of the training images, float64 [2, N, D]."""
    setup = setup_of({}, augmentation=VIEW)
    both = []
    for view in range(2):
        with view_batches(setup, view) as batches:
            parts = [(batch["row"], torch_features(*pair, batch["pixels"])) for batch in batches]
        rows, features = (np.concatenate(column) for column in zip(*parts))
        both.append(features[rows >= 0])
    return np.stack(both)


@pytest.fixture(scope="module")
def weights(pair: tuple[Any, Model], splits: tuple[TrainSplit, ValidationSplit]) -> np.ndarray:
    """The text classifier of the training classes, float64 [D, K]."""
    return text_weights(*pair, splits[0].label_space.classes)


# ------------------------------------------------------------------------------------- training-free


def test_training_free_equals_numpy(
    pair: tuple[Any, Model], setup_of: Callable[..., Setup], views: np.ndarray, weights: np.ndarray
) -> None:
    setup = setup_of({"views": 2, "search": False, "alpha": 13.0, "beta": 4.0}, augmentation=VIEW)
    problem = tip_adapter.prepare(setup)
    assert problem.steps == 0
    model = problem.finish({}).model
    adapter: Any = adapter_of(model)
    assert (adapter.alpha, adapter.beta, adapter.trained) == (13.0, 4.0, False)
    head = adapter.head(model, setup.train.label_space)
    noise = 0.02 * np.random.default_rng(0).normal(size=(9, views.shape[2]))
    features = unit(unit(views[0, :9]) + noise)
    scores = np.asarray(logits(head, features.astype(np.float32)))
    scale, one_hot = float(pair[0].logit_scale.detach().exp()), np.eye(weights.shape[1])[setup.train.labels]
    assert abs(scale - 100) > 10, "a scale of 100 would not show whose it is"

    def reference(keys: np.ndarray, alpha: float = 13.0, beta: float = 4.0, sign: int = -1):
        affinity = features @ keys.T
        return scale * features @ weights + alpha * np.exp(sign * beta * (1 - affinity)) @ one_hot

    mean = unit(views.mean(0))
    size = np.abs(scores).max()
    np.testing.assert_allclose(scores, reference(mean), rtol=0, atol=1e-5 * size)
    wrong = {
        "sign": reference(mean, sign=1),
        "swapped": reference(mean, alpha=4.0, beta=13.0),
        "keys not normalised": reference(views.mean(0)),
        "views normalised before their mean": reference(unit(unit(views).mean(0))),
        "one view": reference(unit(views[0])),
    }
    for name, other in wrong.items():
        assert np.abs(scores - other).max() > 1e-4 * size, name


def test_without_views_a_key_is_the_models_own_feature(setup_of: Callable[..., Setup]) -> None:
    setup = setup_of({"views": 0}, augmentation=VIEW)
    keys, values = tip_adapter.build_keys(setup), tip_adapter.values_of(setup)
    assert values.tolist() == np.repeat(np.arange(len(setup.train.label_space)), 2).tolist()
    order = np.argsort(setup.train.labels, kind="stable")
    expected = tip_adapter.split_features(setup, setup.train)[order].T
    np.testing.assert_array_equal(keys, expected)
    np.testing.assert_array_equal(keys, tip_adapter.build_keys(setup_of({"views": 3})))


def test_views_are_encoded_once_and_kept_in_the_store(
    setup_of: Callable[..., Setup], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, views: np.ndarray
) -> None:
    setup = setup_of({"views": 2}, Store(tmp_path), augmentation=VIEW, devices=8)
    first = tip_adapter.build_keys(setup)
    order = np.argsort(setup.train.labels, kind="stable")
    np.testing.assert_allclose(first, unit(views.mean(0))[order].T, rtol=0, atol=1e-5)

    def again(*_: Any) -> Any:
        raise AssertionError("the views were encoded again")

    monkeypatch.setattr(tip_adapter, "_mean_features", again)
    np.testing.assert_array_equal(tip_adapter.build_keys(setup), first)
    with pytest.raises(AssertionError):
        tip_adapter.build_keys(dataclasses.replace(setup, seed=2))


# ------------------------------------------------------------------------------------- trained keys


@dataclasses.dataclass
class Trace:
    losses: np.ndarray
    gradient: np.ndarray  # of step 1
    keys: np.ndarray  # after the last step


@pytest.fixture(scope="module")
def batches(setup_of: Callable[..., Setup]) -> list[dict[str, np.ndarray]]:
    """Two batches in turn: twenty steps learn them, though the towers have learned nothing."""
    source = image_batches(setup_of({}, augmentation=VIEW))
    two = [next(source), next(source)]
    source.close()
    return [two[i % 2] for i in range(STEPS)]


@pytest.fixture(scope="module")
def ours(setup_of: Callable[..., Setup], batches: list[dict[str, np.ndarray]]) -> Trace:
    """What `training.train` does, with the loss of every step, and AdamW's first moment after the first."""
    setup = setup_of({"views": 2, "search": False, **WEIGHTS}, augmentation=VIEW)
    problem, recipe, mesh = tip_adapter_f.prepare(setup), setup.recipe, setup.settings.mesh
    parts = split(problem.params, problem.trained, update_statistics=True)
    assert jax.tree.structure(parts.trained).num_leaves == 1
    tx = recipe.optimizer.transformation(recipe.rate(len(setup.train)))
    shardings = state_shardings(parts, tx, mesh, DP)
    state = init_state(parts, tx, shardings, setup.seed)
    step = make_step(problem.loss, tx, mesh, shardings, frozen=parts.frozen)
    losses, gradient = [], np.zeros(0)
    for batch in batches:
        state, metrics = step(state, shard_batch(batch, mesh))
        losses.append(float(metrics["loss"]))
        if len(losses) == 1:  # b1 is 0.9, so the moment is a tenth of the gradient
            gradient = 10 * np.asarray(optax.tree.get(state.opt_state, "mu")["cache"]["keys"])
    return Trace(np.array(losses), gradient, np.asarray(state.params["cache"]["keys"]))


@pytest.fixture(scope="module")
def loop(
    pair: tuple[Any, Model],
    splits: tuple[TrainSplit, ValidationSplit],
    views: np.ndarray,
    weights: np.ndarray,
    batches: list[dict[str, np.ndarray]],
) -> Callable[..., Trace]:
    """run_tip_adapter_F of the reference, in float32, on the same batches."""
    images = [unit(torch_features(*pair, batch["pixels"])).astype(np.float32) for batch in batches]
    labels = splits[0].labels
    order = np.argsort(labels, kind="stable")
    keys = torch.tensor(unit(views.mean(0))[order], dtype=torch.float32)
    values = torch.nn.functional.one_hot(torch.tensor(labels[order]).long()).float()
    text = float(pair[0].logit_scale.detach().exp()) * torch.tensor(weights, dtype=torch.float32)

    def run(eps: float = 1e-4, decay: float = 0.5, alpha: float = 0.1, annealed: bool = True) -> Trace:
        adapter = torch.nn.Linear(keys.shape[1], len(keys), bias=False)
        adapter.weight = torch.nn.Parameter(keys.clone())
        adamw = torch.optim.AdamW(adapter.parameters(), lr=0.1, eps=eps, weight_decay=decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adamw, STEPS if annealed else 10**9)
        losses, first = [], np.zeros(0)
        for batch, features in zip(batches, map(torch.tensor, images)):
            affinity = adapter(features)
            cache = ((-1) * (3.0 - 3.0 * affinity)).exp() @ values
            loss = torch.nn.functional.cross_entropy(
                features @ text + cache * alpha, torch.tensor(batch["label"]).long()
            )
            adamw.zero_grad()
            loss.backward()
            assert adapter.weight.grad is not None
            first = adapter.weight.grad.numpy().T.copy() if not losses else first
            adamw.step()
            schedule.step()
            losses.append(loss.item())
        return Trace(np.array(losses), first, adapter.weight.detach().numpy().T)

    return run


def distance(a: Trace, b: Trace) -> float:
    return float(np.max(np.abs(a.losses - b.losses) / b.losses))


def test_trained_keys_follow_torch(ours: Trace, loop: Callable[..., Trace]) -> None:
    theirs = loop()
    assert min(theirs.losses) < 0.5 * theirs.losses[0]
    assert distance(ours, theirs) < TOLERANCE
    np.testing.assert_allclose(
        ours.gradient, theirs.gradient, rtol=0, atol=1e-4 * np.abs(theirs.gradient).max()
    )
    np.testing.assert_allclose(ours.keys, theirs.keys, rtol=0, atol=1e-3 * np.abs(theirs.keys).max())


@pytest.mark.parametrize(
    "mistake",
    mostly_long(
        [{"eps": 1e-8}, {"decay": 0.0}, {"alpha": 0.12}, {"annealed": False}], keep=[{"annealed": False}]
    ),
    ids=str,
)
def test_a_mistake_does_not_follow(ours: Trace, loop: Callable[..., Trace], mistake: dict[str, Any]) -> None:
    assert distance(ours, loop(**mistake)) > 10 * TOLERANCE


# ------------------------------------------------------------------------------------- a whole run


@pytest.fixture(scope="module")
def whole_run(setup_of: Callable[..., Setup]) -> Callable[[], tuple[Any, dict[str, Any]]]:
    """A run on features, with the epoch and then alpha and beta chosen; on two devices."""

    def run() -> tuple[Any, dict[str, Any]]:
        options = {"views": 0, "search_step": [8, 5], **WEIGHTS}
        setup = setup_of(options, devices=2, epochs=2, select=["epoch"])
        problem = tip_adapter_f.prepare(setup)
        params, chosen = train(problem, setup)
        return problem.finish(params), dict(chosen)

    return run


def test_a_run_chooses_twice_on_the_validation_split_and_comes_out_as_a_model(
    whole_run: Callable[[], tuple[Any, dict[str, Any]]], tmp_path: Path
) -> None:
    outcome, chosen = whole_run()
    assert chosen["epoch"] in (1, 2)
    assert outcome.chosen["pairs"] == 40
    assert outcome.chosen["validation_accuracy"] >= 0.0
    model, adapter = outcome.model, cast(Any, adapter_of(outcome.model))
    assert adapter.trained
    assert (adapter.alpha, adapter.beta) == (outcome.chosen["alpha"], outcome.chosen["beta"])
    assert adapter.prompts == f"Tip-Adapter-F, {len(adapter.values)} keys, openai_7"
    from_disk = load_model(model.save(tmp_path / "model"))
    features = np.random.default_rng(0).normal(size=(3, len(adapter.keys))).astype(np.float32)
    before, after = (
        np.asarray(logits(cast(Any, adapter_of(each)).head(each, adapter.labels), features))
        for each in (model, from_disk)
    )
    np.testing.assert_array_equal(after, before)
    # The same seed again, to the bit.
    again, _ = whole_run()
    np.testing.assert_array_equal(again.model.adapter.tensors["keys"], adapter.keys)
    assert again.chosen == outcome.chosen


# ------------------------------------------------------------------------------------- the adapter alone


def small(**changes: Any) -> TipAdapter:
    labels = LabelSpace("pets", ("cat", "dog"), ("c", "d"))
    prompts = {"name": "openai_7", "digest": load_prompts("openai_7").digest}
    keys = np.eye(3, dtype=np.float32)
    adapter = TipAdapter(keys, np.array([0, 1, 1], np.int32), 1.0, 5.5, False, prompts, labels)
    return dataclasses.replace(adapter, **changes)


def test_an_adapter_is_its_tensors_and_facts() -> None:
    adapter = small()
    again = TipAdapter.from_parts(adapter.tensors, adapter.facts)
    assert again.facts == adapter.facts
    assert again.labels == adapter.labels


@pytest.mark.parametrize(
    ("changes", "facts", "message"),
    [
        ({"values": np.array([0, 1, 2], np.int32)}, {}, "values that are not indices into its 2 classes"),
        ({"values": np.array([0, 1], np.int32)}, {}, r"keys float32 \[3, 3\] and values \[2\]"),
        ({"alpha": float("nan")}, {}, "not finite numbers"),
        ({}, {"trained": 1}, "trained = 1"),
        ({}, {"prompts": {"name": "openai_7"}}, "without 'digest'"),
        ({}, {"classes": {"name": "x", "ids": ["c"], "names": ["cat"], "digest": "0"}}, "classes are not"),
        ({}, {"gamma": 1.0}, "facts alpha, beta, classes, prompts, trained, not .*gamma"),
    ],
    ids=str,
)
def test_parts_that_do_not_fit_are_refused(changes: dict, facts: dict, message: str) -> None:
    adapter = small(**changes)
    with pytest.raises(DataError, match=message):
        TipAdapter.from_parts(adapter.tensors, {**adapter.facts, **facts})


def test_other_classes_features_or_prompts_are_refused(pair: tuple[Any, Model]) -> None:
    adapter = small()
    with pytest.raises(UsageError, match=r"2 classes of 'pets' and cannot build a head over 'demo_shapes'"):
        adapter.head(pair[1], load_labels("demo_shapes"))
    with pytest.raises(UsageError, match="have 3 numbers, and features of narrow 96"):
        adapter.head(pair[1], adapter.labels)
    changed = small(prompt_set={"name": "openai_7", "digest": "0"})
    with pytest.raises(DataError, match="prompt set openai_7 has changed since this Tip-Adapter was made"):
        changed.head(pair[1], adapter.labels)
