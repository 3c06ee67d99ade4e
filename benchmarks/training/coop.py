"""A CoOp step: clipjax against the reference's in eager PyTorch; float32, same weights, features and batch.

    python benchmarks/training/coop.py                         # ViT-B-32's text tower, 100 classes; minutes
    python benchmarks/training/coop.py --classes 1000 --rounds 3
    python benchmarks/training/coop.py --classes 4 --rounds 2  # does it run

A step sends the prompts of all classes through the text tower, forward and backward, and updates the 16
vectors of the context. Both sides start from image features. The reference sends 77 tokens per class
(KaiyangZhou/CoOp, `trainers/coop.py`, here on open_clip's tower). clipjax sends the tokens up to the end of
the prompts, in up to three groups of similar length, and the tokens that all prompts begin with (start and
context) once per group. The first losses of both sides are compared before timing.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import open_clip
import torch
import typer
from torch.nn import functional as F

import clipjax
from benchmarks import common
from clipjax.checkpoints.identity.registry import model_card
from clipjax.data.labels import LabelSpace, load_labels
from clipjax.devices.sharding import DP, make_mesh, shard_batch
from clipjax.finetune.data.splits import TrainSplit
from clipjax.finetune.method import Settings, Setup
from clipjax.finetune.methods import coop
from clipjax.finetune.recipe import Recipe
from clipjax.finetune.training.optimizer import Optimizer, Schedule
from clipjax.finetune.training.step import init_state, make_step, state_shardings
from clipjax.finetune.training.trees import split
from clipjax.heads.adapters.coop import by_length, class_prompts
from clipjax.models.arch import load_arch

CARD = "vit_b_32-laion2b_s34b_b79k"  # its tokenizer is used
VECTORS, RATE, DECAY, MOMENTUM = 16, 2e-3, 5e-4, 0.9
CHECKED = 3  # steps whose losses are compared
LOSS_TOLERANCE = 1e-3

Step = Callable[[], float]


def main(
    arch: Annotated[str, typer.Option(help="Architecture of the text tower.")] = "ViT-B-32",
    classes: Annotated[int, typer.Option(help="Classes: ImageNet's first ones.")] = 100,
    batch: Annotated[int, typer.Option(help="Images in a batch.")] = 32,
    rounds: Annotated[int, typer.Option(help="Paired rounds.")] = 5,
    json: common.Json = None,
) -> None:
    """A CoOp step: clipjax against PyTorch."""
    cores = common.use_all_cores()
    with common.reported("coop", json) as results:
        results |= measure(arch, classes, batch, rounds)
        show(arch, cores, results)


def measure(arch: str, classes: int, batch: int, rounds: int) -> dict[str, Any]:
    labels = load_labels("imagenet")
    labels = LabelSpace("imagenet", labels.classes[:classes], labels.ids[:classes])
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "model.safetensors"
        theirs = common.save_reference(arch, weights)
        card = dataclasses.replace(common.card_of(load_arch(arch)), tokenizer=model_card(CARD).tokenizer)
        ours = clipjax.load_model(str(weights), card=card)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(batch, ours.network.arch.vision.embed_dim)).astype(np.float32)
    data = {
        "features": features / np.linalg.norm(features, axis=1, keepdims=True),
        "label": rng.integers(0, classes, batch).astype(np.int32),
    }
    setup = setup_of(ours, labels, batch)
    context = coop.first_context(setup)
    prompts = class_prompts(ours, labels.classes, VECTORS, "end", csc=False)
    groups = [prompts.rows(rows).ids.shape for rows in by_length(prompts, coop.LEAST_SAVED)]
    sides = {
        "pytorch": torch_step(theirs, labels, context, data),
        "clipjax": jax_step(setup, context, data),
    }
    losses = {name: [step() for _ in range(CHECKED)] for name, step in sides.items()}
    difference = max(abs(a / b - 1) for a, b in zip(*losses.values()))
    if not difference <= LOSS_TOLERANCE:
        raise SystemExit(f"{arch}: the losses differ, {losses}: there is nothing to compare")
    times = common.paired(sides, rounds)
    return {
        "classes": classes,
        "batch": batch,
        "tokens": {
            "clipjax": sum(prompts.shared + rows * (length - prompts.shared) for rows, length in groups),
            "pytorch": 77 * classes,
        },
        "seconds": times,
        "largest_difference": difference,
        "speed": common.ratio(times["pytorch"], times["clipjax"]),
    }


def setup_of(model: Any, labels: LabelSpace, batch: int) -> Setup:
    """CoOp's reference recipe; images are never read."""
    optimizer = Optimizer("sgd", RATE, DECAY, momentum=MOMENTUM)
    recipe = Recipe(
        "coop", "CoOp", "coop", batch, epochs=50, optimizer=optimizer, schedule=Schedule("constant")
    )
    manifest: Any = None
    train = TrainSplit("none", manifest, np.zeros(batch, np.int32), labels)
    settings = Settings(make_mesh())
    return Setup(model, train, None, recipe, 1, coop.METHOD.options_of(recipe), settings)


def jax_step(setup: Setup, context: np.ndarray, data: dict[str, np.ndarray]) -> Step:
    mesh, recipe, params = setup.settings.mesh, setup.recipe, setup.model.params
    whole = {"context": context, "text": params["text"], "logit_scale": params["logit_scale"]}
    parts = split(whole, lambda path: path == "context", update_statistics=False)
    tx = recipe.optimizer.transformation(recipe.schedule.of(RATE, 1, None))
    shardings = state_shardings(parts, tx, mesh, DP)
    options = setup.model.network.compiler_options("text", setup.recipe.precision)
    loss = coop.coop_loss(setup, VECTORS)
    step = make_step(loss, tx, mesh, shardings, frozen=parts.frozen, compiler_options=options)
    state, batch = init_state(parts, tx, shardings, setup.seed), shard_batch(data, mesh)

    def run() -> float:
        nonlocal state
        state, metrics = step(state, batch)
        return float(jax.block_until_ready(metrics["loss"]))

    return run


def torch_step(model: Any, labels: LabelSpace, context: np.ndarray, data: dict[str, np.ndarray]) -> Step:
    """CoOp's PromptLearner and TextEncoder, position "end"."""
    model.requires_grad_(False)
    ids = open_clip.tokenize([" ".join(["X"] * VECTORS) + f" {name}." for name in labels.classes])
    words, end = model.token_embedding(ids), ids.argmax(dim=-1)
    vectors = torch.nn.Parameter(torch.tensor(context))
    optimizer = torch.optim.SGD([vectors], lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)
    features, target = torch.from_numpy(data["features"]), torch.from_numpy(data["label"]).long()

    def run() -> float:
        own = vectors.expand(len(ids), -1, -1)
        prompts = torch.cat([words[:, :1], own, words[:, 1 + VECTORS :]], dim=1) + model.positional_embedding
        x = model.ln_final(model.transformer(prompts, attn_mask=model.attn_mask))
        texts = F.normalize(x[torch.arange(len(ids)), end] @ model.text_projection, dim=-1)
        loss = F.cross_entropy(model.logit_scale.exp() * features @ texts.T, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return run


def show(arch: str, cores: int, result: dict[str, Any]) -> None:
    speed, tokens = result["speed"], result["tokens"]
    rows = [
        (f"{name}, s/step", f"{common.median(result['seconds'][name]):.3f}") for name in result["seconds"]
    ]
    rows += [
        ("clipjax / pytorch", f"{speed['ratio']:.2f} (rounds {speed['lowest']:.2f}-{speed['highest']:.2f})"),
        ("tokens", f"{tokens['clipjax']}, pytorch {tokens['pytorch']}"),
        ("largest difference of losses", f"{result['largest_difference']:.1e}"),
    ]
    print(f"\n{arch}, {result['classes']} classes, batch {result['batch']}, {cores} cores, float32")
    common.table(rows)


if __name__ == "__main__":
    typer.run(main)
