"""LoRA: gradients of PyTorch's and by algebra, fresh equals base, merged equals unmerged, every family."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import numpy as np
import PIL.Image
import pytest
from _drawn import drawn

from clipjax.checkpoints.identity.registry import model_card
from clipjax.checkpoints.model import Model
from clipjax.data.labels import LabelSpace, load_labels, load_prompts
from clipjax.data.manifest import FileOpener, Manifest
from clipjax.data.pixels.normalize import normalize_host
from clipjax.devices.sharding import make_mesh
from clipjax.errors import DataError, UsageError
from clipjax.finetune import finetune, low_rank
from clipjax.finetune.data.splits import TrainSplit, ValidationSplit
from clipjax.finetune.method import Settings, Setup
from clipjax.finetune.methods import lora
from clipjax.finetune.methods.flyp import caption_ids
from clipjax.finetune.methods.lora import FILE, METHOD
from clipjax.finetune.outcome import also_chosen
from clipjax.finetune.recipe import Recipe
from clipjax.finetune.training.optimizer import Optimizer
from clipjax.finetune.training.solve import TrainingResult, train
from clipjax.finetune.training.trees import Params, flatten, nest, split
from clipjax.models.arch import load_arch, narrow_arch
from clipjax.models.network import Network

pytest.importorskip("open_clip")

import torch
from _narrow import narrow_pair
from torch.func import functional_call
from torch.nn import functional as F

pytestmark = pytest.mark.usefixtures("one_device")

BATCH, RANK, SCALING = 8, 4, 2.0
LABELS = LabelSpace("things", tuple(f"thing {k}" for k in range(BATCH)), tuple(f"{k}" for k in range(BATCH)))
RECIPE = Recipe(
    "test", "test", "lora", BATCH, steps=4, optimizer=Optimizer(learning_rate=1e-2), prompts="single"
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Model]:
    return narrow_pair(tmp_path_factory.mktemp("narrow"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Two files of each class: noise around a colour."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    labels = np.arange(2 * BATCH, dtype=np.int32) % BATCH
    colours = rng.integers(40, 216, (BATCH, 3))
    names = tuple(f"{i:02}.png" for i in range(len(labels)))
    for name, label in zip(names, labels):
        pixels = np.clip(colours[label] + rng.normal(0, 20, (96, 96, 3)), 0, 255).astype(np.uint8)
        PIL.Image.fromarray(pixels).save(folder / name)
    return Manifest(names, FileOpener(str(folder), names), labels)


def setup_of(
    model: Model,
    images: Manifest | None = None,
    labels: LabelSpace = LABELS,
    folder: Path | None = None,
    **options: Any,
) -> Setup:
    images = Manifest((), FileOpener("", ()), np.zeros(0, np.int32)) if images is None else images
    assert images.labels is not None
    given = TrainSplit("things", images, images.labels, labels)
    held_out = ValidationSplit("things", images, images.labels, labels)
    settings = Settings(make_mesh(jax.devices()[:1]), folder=folder, progress=False)
    known = METHOD.options_of(
        dataclasses.replace(RECIPE, options={"rank": RANK, "alpha": RANK * SCALING, **options})
    )
    return Setup(model, given, held_out, RECIPE, 0, known, settings)


# ----------------------------------------------------------------------------------- against PyTorch


class Gradients(NamedTuple):
    """Factors with a `b` that is not zero, the loss there, and its gradients."""

    params: Params
    batch: dict[str, np.ndarray]
    loss: float
    of: dict[str, np.ndarray]


@pytest.fixture(scope="module")
def ours(pair: tuple[Any, Model]) -> Gradients:
    model, rng = pair[1], np.random.default_rng(0)
    problem = METHOD.prepare(setup_of(model))
    factors = {
        path: rng.normal(0, 0.02, leaf.shape).astype(np.float32) if path.endswith("/b") else leaf
        for path, leaf in flatten(problem.params["lora"]).items()
    }
    params = {**problem.params, "lora": nest(factors)}
    batch = {
        "pixels": rng.integers(0, 256, (BATCH, 96, 96, 3)).astype(np.uint8),
        "tokens": caption_ids(model, LABELS, load_prompts("single"))[:, 0],
        "label": np.arange(BATCH, dtype=np.int32),
    }
    run: Any = jax.jit(jax.value_and_grad(problem.loss, has_aux=True))
    (loss, _), gradients = run(params, batch, jax.random.key(0))
    return Gradients(params, batch, float(loss), {p: np.asarray(g) for p, g in flatten(gradients).items()})


def test_gradients_by_algebra(ours: Gradients) -> None:
    """With W' = W + s A B, the gradient of A is s G B^T and that of B is s A^T G, G being that of W."""
    factors, checked = flatten(ours.params["lora"]), 0
    for path in [path for path in factors if path.endswith("/a")]:
        stem = path.removesuffix("a")
        full, a, b = ours.of[f"{stem}kernel"], np.asarray(factors[path]), factors[f"{stem}b"]
        for name, expected in (
            ("a", SCALING * full @ b.swapaxes(-1, -2)),
            ("b", SCALING * a.swapaxes(-1, -2) @ full),
        ):
            gradient = ours.of[f"lora/{stem}{name}"]
            assert np.abs(gradient - expected).max() < 1e-5 * np.abs(expected).max(), f"{stem}{name}"
            checked += 1
    assert checked == 24  # a and b of six matrices of two towers


def torch_leaves(factors: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    return {path: torch.tensor(np.asarray(leaf), requires_grad=True) for path, leaf in factors.items()}


def run_torch(
    theirs: Any, model: Model, batch: dict[str, np.ndarray], leaves: Mapping[str, Any]
) -> tuple[Any, Any, Any]:
    """(image features, text features, loss) of open_clip's model with LoRA written out.

    A linear layer adds s (x A) B to what it gives; MultiheadAttention, which has no place for that, gets
    another weight.
    """
    weights: dict[str, torch.Tensor] = dict(theirs.named_parameters())
    hooks = []
    for tower, prefix in (("vision", "visual."), ("text", "")):
        for i in range(2):
            block = f"{prefix}transformer.resblocks.{i}"

            def update(name: str, tower: str = tower, i: int = i) -> torch.Tensor:
                stem = f"{tower}/blocks/{name}"
                return SCALING * (leaves[f"{stem}/a"][i] @ leaves[f"{stem}/b"][i]).T

            qkv = torch.cat([update(f"attn/{name}") for name in "qkv"])
            weights[f"{block}.attn.in_proj_weight"] = weights[f"{block}.attn.in_proj_weight"] + qkv
            weights[f"{block}.attn.out_proj.weight"] = weights[f"{block}.attn.out_proj.weight"] + update(
                "attn/out"
            )
            for name in ("c_fc", "c_proj"):
                a, b = (leaves[f"{tower}/blocks/mlp/{name}/{x}"][i] for x in "ab")
                linear = theirs.get_submodule(f"{block}.mlp.{name}")
                hooks.append(
                    linear.register_forward_hook(lambda module, x, y, a=a, b=b: y + SCALING * (x[0] @ a) @ b)
                )
    known = model.card.preprocess
    pixels = normalize_host(batch["pixels"], known.mean, known.std).transpose(0, 3, 1, 2)
    ids = np.pad(batch["tokens"], ((0, 0), (0, 77 - batch["tokens"].shape[1])))
    inputs = torch.from_numpy(np.ascontiguousarray(pixels)), torch.from_numpy(ids).long()
    image, text, scale = functional_call(theirs.train(), weights, inputs)
    for hook in hooks:
        hook.remove()
    logits, pairs = scale * image @ text.T, torch.arange(BATCH)
    return image, text, (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)) / 2


def test_equal_to_pytorch(pair: tuple[Any, Model], ours: Gradients) -> None:
    """Loss and gradients of an unmerged LoRA; and the features of the merged model are its features."""
    theirs, model = pair
    leaves = torch_leaves(flatten(ours.params["lora"]))
    image, text, loss = run_torch(theirs, model, ours.batch, leaves)
    loss.backward()
    assert ours.loss == pytest.approx(loss.item(), rel=1e-5)
    for path, leaf in leaves.items():
        assert leaf.grad is not None
        error = np.abs(ours.of[f"lora/{path}"] - leaf.grad.numpy()).max()
        assert error < 1e-5 * leaf.grad.abs().max().item(), path

    merged = METHOD.prepare(setup_of(model)).finish(ours.params).model
    pixels = normalize_host(ours.batch["pixels"], model.card.preprocess.mean, model.card.preprocess.std)
    np.testing.assert_allclose(merged.encode_image(pixels), image.detach(), atol=1e-5)
    np.testing.assert_allclose(merged.encode_text(ours.batch["tokens"]), text.detach(), atol=1e-5)
    assert np.abs(np.asarray(model.encode_image(pixels)) - image.detach().numpy()).max() > 1e-2


def test_fresh_equals_base(pair: tuple[Any, Model]) -> None:
    """To the bit: the weights are the same numbers."""
    model = pair[1]
    fresh = METHOD.prepare(setup_of(model))
    merged = flatten(fresh.finish(fresh.params).model.params)
    assert merged.keys() == flatten(model.params).keys()
    for path, leaf in flatten(model.params).items():
        np.testing.assert_array_equal(merged[path], leaf)


def test_factors_come_from_the_seed(pair: tuple[Any, Model]) -> None:
    model = pair[1]
    paths = low_rank.target_paths(model.params, ["vision"], "attention", "narrow")
    one, same, other = (low_rank.init(model.params, paths, RANK, seed) for seed in (0, 0, 1))
    a, again, different = (flatten(tree)["vision/blocks/attn/q/a"] for tree in (one, same, other))
    np.testing.assert_array_equal(a, again)
    assert not np.array_equal(a, different)
    assert not np.array_equal(a[0], a[1])
    assert not np.array_equal(a, flatten(one)["vision/blocks/attn/k/a"])
    assert 0.9 * 128**-0.5 < np.abs(a).max() <= 128**-0.5


# -------------------------------------------------------------------------------------- a whole run


def test_a_run_comes_out_as_a_model(pair: tuple[Any, Model], images: Manifest, tmp_path: Path) -> None:
    """Against the fixed head: the image tower's matrices change, nothing else, and they can be had alone."""
    model = pair[1]
    setup = setup_of(model, images, folder=tmp_path, objective="cross_entropy")
    problem = METHOD.prepare(setup)
    assert not problem.contrastive
    parts = split(problem.params, problem.trained, update_statistics=True)
    assert set(parts.trained) == {"lora"}
    assert set(parts.trained["lora"]) == {"vision"}
    trained = train(problem, setup).params
    outcome = problem.finish(trained)
    tuned = outcome.model
    before, after = flatten(model.params), flatten(tuned.params)
    changed = {path for path in before if not np.array_equal(before[path], after[path])}
    assert changed == {path for path in before if re.match(r"vision/blocks/(attn|mlp)/\w+/kernel", path)}

    also_chosen(outcome, {"learning_rate": 1.0}).beside[FILE](tmp_path / FILE)
    factors, scaling = low_rank.load(tmp_path / FILE, model.params)
    assert scaling == SCALING
    for path, leaf in flatten(low_rank.merged(model.params, factors, scaling)).items():
        np.testing.assert_array_equal(leaf, after[path])
    with pytest.raises(DataError, match="vision/blocks/attn/k/a does not fit the model"):
        low_rank.load(tmp_path / FILE, {"vision": {}})
    with pytest.raises(DataError, match="cannot be read"):
        low_rank.load(tmp_path / "nothing", model.params)
    assert problem.accuracy is not None
    assert 0 <= problem.accuracy(trained, setup.validation) <= 1  # type: ignore[arg-type]


def test_the_factors_lie_beside_the_model_where_a_rate_was_chosen(
    pair: tuple[Any, Model], images: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is trained here: each rate leaves what it starts with, and the first one wins."""
    monkeypatch.setattr(finetune, "train", lambda problem, _: TrainingResult(problem.params, {}))
    monkeypatch.setattr(lora, "accuracy", lambda *_: 0.5)
    setup = setup_of(pair[1], images, folder=tmp_path)
    recipe = dataclasses.replace(RECIPE, select=("learning_rate",), learning_rates=(1e-3, 1e-2))
    outcome = finetune.solve(dataclasses.replace(setup, recipe=recipe), METHOD)
    assert outcome.chosen["learning_rate"] == 1e-3
    finetune._save(outcome, tmp_path, {"seed": 1}, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == [FILE, "model", "run.json"]
    low_rank.load(tmp_path / FILE, pair[1].params)


# ------------------------------------------------------------------------- families, options, errors


@pytest.mark.parametrize(
    ("arch", "tower", "names"),
    [
        ("ViT-B-32", "vision", "q k v out c_fc c_proj"),
        ("ViT-B-16-SigLIP", "vision", "q k v out c_fc c_proj"),
        ("vit_base_patch16_clip_224", "vision", "q k v out c_fc c_proj"),
        ("EVA02-B-16", "vision", "q k v out gate c_fc c_proj"),
        ("ViT-B-32", "text", "q k v out c_fc c_proj"),
        ("coca_ViT-B-32", "text", "q k v out c_fc c_proj"),
        ("roberta-ViT-B-32", "text", "q k v out c_fc c_proj"),
    ],
)
def test_every_family_of_transformers(arch: str, tower: str, names: str) -> None:
    params = Network(load_arch(arch)).abstract_params()
    paths = low_rank.target_paths(params, [tower], "both", arch)
    branch = {name: "attn" if name in "q k v out" else "mlp" for name in names.split()}
    assert paths == sorted(f"{tower}/blocks/{branch[name]}/{name}/kernel" for name in names.split())
    attention, mlp = (low_rank.target_paths(params, [tower], kind, arch) for kind in ("attention", "mlp"))  # type: ignore[arg-type]
    assert sorted(attention + mlp) == paths


def abstract_model(name: str) -> Any:
    card = model_card(name)
    network = Network(card.arch)
    return SimpleNamespace(network=network, card=card, params=network.abstract_params(), adapter=None)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("rn50-openai", {}, "image tower of rn50-openai has none"),
        ("rn50-openai", {"towers": "image"}, "image tower of rn50-openai has none"),
        (
            "convnext_base_w-laion2b_s13b_b82k",
            {},
            "image tower of convnext_base_w-laion2b_s13b_b82k has none",
        ),
        ("vit_b_32-openai", {"towers": "all"}, "options.towers = 'all' is not one of"),
        ("vit_b_32-openai", {"targets": "norms"}, "options.targets = 'norms' is not one of"),
        ("vit_b_32-openai", {"objective": "hinge"}, "options.objective = 'hinge' is not one of"),
        ("vit_b_32-openai", {"rank": 0}, "rank 0 is not between 1 and 512"),
        ("vit_b_32-openai", {"objective": "cross_entropy", "towers": "both"}, "reads the image tower alone"),
    ],
)
def test_bad_input_is_named(model: str, options: dict[str, Any], message: str) -> None:
    for state in (METHOD.prepare, METHOD.outline):
        with pytest.raises(UsageError, match=message):
            state(setup_of(abstract_model(model), **options))


@pytest.mark.parametrize(
    "model_id", ["vit_base_patch32_clip_224.laion2b_ft_in1k", "deit_tiny_distilled_patch16_224.fb_in1k"]
)
def test_a_classifier_keeps_its_head(model_id: str) -> None:
    card = model_card(model_id)
    arch = dataclasses.replace(narrow_arch(card.arch), num_classes=1000)
    size = arch.vision.image_size
    sizes = dataclasses.replace(card.preprocess, image_size=size, resize_size=size)
    card = dataclasses.replace(card, arch=arch, preprocess=sizes)
    model = Model(card, drawn(Network(arch).abstract_params()))
    problem = METHOD.prepare(setup_of(model, labels=load_labels("imagenet")))
    assert not problem.contrastive
    batch: Any = {
        "pixels": jax.ShapeDtypeStruct((2, size, size, 3), np.uint8),
        "label": jax.ShapeDtypeStruct((2,), np.int32),
    }
    value, _ = jax.eval_shape(problem.loss, problem.params, batch, jax.random.key(0))
    assert value.shape == ()
    tuned = problem.finish(problem.params).model
    jax.tree.map(np.testing.assert_array_equal, tuned.params["head"], model.params["head"])
    with pytest.raises(UsageError, match="has other classes than things; cross_entropy gives it a new one"):
        METHOD.prepare(setup_of(model))
    with pytest.raises(UsageError, match="has no text tower for the contrastive objective"):
        METHOD.prepare(setup_of(model, objective="contrastive"))
