"""Training steps: clipjax against open_clip or timm with torch's AdamW, eager; float32, same weights.

    python benchmarks/finetune_steps.py                      # all four; some minutes
    python benchmarks/finetune_steps.py "RN50 CE" --rounds 15
    python benchmarks/finetune_steps.py --quick              # two rounds of small batches: does it run

A step is forward, backward and update: cross-entropy end to end (CE: the image tower and a head of 1,000
classes over unit features; a classifier's own head) or contrastive with captions (FLYP: both towers and the
temperature). The first losses of both sides are compared before timing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import common
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
import typer
from towers import card_of

import clipjax
from clipjax.devices.sharding import DP, make_mesh, shard_batch
from clipjax.finetune.contrastive import contrastive_loss
from clipjax.finetune.training.optimizer import Optimizer
from clipjax.finetune.training.step import Aux, Loss, init_state, make_step, state_shardings
from clipjax.finetune.training.trees import split
from clipjax.models.network import Network
from clipjax.models.training import Training

PLATFORM = jax.default_backend()  # training steps state where they run
CASES = {"ViT-B-32 CE": 32, "ViT-B-32 FLYP": 32, "RN50 CE": 8, "resnet50.tv_in1k CE": 8}  # case -> batch
CLASSES = 1000
RATE, DECAY = 1e-5, 0.1
CHECKED = 3  # steps whose losses are compared
LOSS_TOLERANCE = 1e-3
WORDS = 9  # tokens per caption, with start and end: "a photo of a red panda ."

Step = Callable[[], float]


def main(
    cases: Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(CASES)}; default: all.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images in a batch; default 32, 8 for ResNets.")] = None,
    rounds: Annotated[int, typer.Option(help="Paired rounds.")] = 9,
    quick: Annotated[bool, typer.Option("--quick", help="Two rounds of batches of 4.")] = False,
    json: common.Json = None,
) -> None:
    """Training steps: clipjax against open_clip or timm and torch's AdamW."""
    cores = common.use_all_cores()
    with common.reported("finetune_steps", json) as results:
        for case in cases or list(CASES):
            size = 4 if quick else batch or CASES[case]
            result = measure(case, size, 2 if quick else rounds)
            results[case] = result
            show(case, cores, result)


def measure(case: str, batch: int, rounds: int) -> dict[str, Any]:
    arch, method = case.split()
    with tempfile.TemporaryDirectory() as folder:
        weights, library = Path(folder) / "model.safetensors", "timm" if "." in arch else "open_clip"
        model = common.save_reference(arch, weights, library)
        card = arch if library == "timm" else card_of(arch)
        ours = clipjax.load_model(str(weights), card=card)
    arrays = data(ours.network.arch.vision.embed_dim, batch)
    sides = {
        library: torch_steps(model, method, arrays),
        "clipjax": jax_steps(ours.network, ours.params, method, arrays),
    }
    losses = {name: [step() for _ in range(CHECKED)] for name, step in sides.items()}
    difference = max(abs(a / b - 1) for a, b in zip(*losses.values()))
    if not difference <= LOSS_TOLERANCE:
        raise SystemExit(f"{case}: the losses differ, {losses}: there is nothing to compare")
    times = common.paired(sides, rounds)
    speed = common.ratio(times[library], times["clipjax"])
    return {
        "batch": batch,
        "library": library,
        "seconds": times,
        "speed": speed,
        "largest_difference": difference,
    }


def data(width: int, batch: int) -> dict[str, np.ndarray]:
    """Normalised images, labels, captions of `WORDS` tokens in the full context; the head's first kernel."""
    rng = np.random.default_rng(0)
    tokens = np.zeros((batch, 77), np.int32)
    tokens[:, :WORDS] = rng.integers(1, 49405, (batch, WORDS))
    tokens[:, 0], tokens[:, WORDS - 1] = 49406, 49407
    return {
        "images": rng.normal(size=(batch, 224, 224, 3)).astype(np.float32),
        "label": rng.integers(0, CLASSES, batch).astype(np.int32),
        "tokens": tokens,
        "head": rng.normal(size=(width, CLASSES)).astype(np.float32),
    }


# ------------------------------------------------------------------------------------------ open_clip


def torch_steps(model: Any, method: str, arrays: dict[str, np.ndarray]) -> Step:
    images = torch.from_numpy(arrays["images"]).permute(0, 3, 1, 2).contiguous()
    labels, tokens = (torch.from_numpy(arrays[name]).long() for name in ("label", "tokens"))
    model.train()
    cross_entropy = torch.nn.functional.cross_entropy
    dual = hasattr(model, "visual")
    head = torch.nn.Linear(len(arrays["head"]), CLASSES)
    if method == "CE" and dual:
        head.load_state_dict({"weight": torch.from_numpy(arrays["head"].T), "bias": torch.zeros(CLASSES)})
        trained = [*model.visual.parameters(), *head.parameters()]
    else:
        trained = list(model.parameters())
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=DECAY)

    def loss() -> torch.Tensor:
        if not dual:
            return cross_entropy(model(images), labels)
        features = model.encode_image(images, normalize=True)
        if method == "CE":
            return cross_entropy(head(features), labels)
        texts = model.encode_text(tokens, normalize=True)
        logits = model.logit_scale.exp() * features @ texts.T
        pairs = torch.arange(len(logits))
        return (cross_entropy(logits, pairs) + cross_entropy(logits.T, pairs)) / 2

    def step() -> float:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        return value.item()

    return step


# -------------------------------------------------------------------------------------------- clipjax


def jax_steps(network: Network, params: Any, method: str, arrays: dict[str, np.ndarray]) -> Step:
    params = jax.tree.map(jnp.asarray, params)
    if method == "CE" and "head" not in params:
        head = {"kernel": jnp.asarray(arrays["head"]), "bias": jnp.zeros(CLASSES)}
        params = {"vision": params["vision"], "head": head}
    mesh = make_mesh(jax.devices()[:1])
    parts = split(params, lambda _: True, update_statistics=True)
    tx = Optimizer(learning_rate=RATE, weight_decay=DECAY).transformation(optax.constant_schedule(RATE))
    shardings = state_shardings(parts, tx, mesh, DP)
    loss = {"CE": cross_entropy, "FLYP": contrastive}[method](network)
    step = make_step(loss, tx, mesh, shardings, frozen=parts.frozen)
    tokens = arrays["tokens"][:, :WORDS]  # the tower reads nothing after the end token
    batch = shard_batch({"images": arrays["images"], "label": arrays["label"], "tokens": tokens}, mesh)
    states = [init_state(parts, tx, shardings, 0)]

    def run() -> float:
        states[0], metrics = step(states[0], batch)
        jax.block_until_ready(states[0])
        return float(metrics["loss"])

    return run


def cross_entropy(network: Network) -> Loss:
    def loss(params: Any, batch: dict[str, jax.Array], key: jax.Array) -> tuple[jax.Array, Aux]:
        features, statistics = network.train_image(
            params,
            batch["images"],
            precision="parity",
            training=Training("batch"),
            platform=PLATFORM,
        )
        if network.arch.text is not None:
            features = features / jnp.linalg.norm(features, axis=-1, keepdims=True)
        logits = jnp.matmul(features, params["head"]["kernel"], precision="highest") + params["head"]["bias"]
        value = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()
        return value, Aux({}, statistics)

    return loss


def contrastive(network: Network) -> Loss:
    def loss(params: Any, batch: dict[str, jax.Array], key: jax.Array) -> tuple[jax.Array, Aux]:
        training = Training("batch")
        images, statistics = network.train_image(
            params, batch["images"], precision="parity", training=training, platform=PLATFORM
        )
        texts = network.train_text(
            params, batch["tokens"], precision="parity", training=training, platform=PLATFORM
        )
        value, metrics = contrastive_loss(images, texts, params["logit_scale"])
        return value, Aux(metrics, statistics)

    return loss


def show(case: str, cores: int, result: dict[str, Any]) -> None:
    times, speed = result["seconds"], result["speed"]
    print(f"\n{case}, batch {result['batch']}, {cores} cores, float32")
    rows = [(f"{name}, s a step", f"{common.median(times[name]):.3f}") for name in times]
    ratio = f"{speed['ratio']:.2f} (rounds {speed['lowest']:.2f}-{speed['highest']:.2f})"
    rows += [
        (f"clipjax / {result['library']}", ratio),
        ("largest difference of losses", f"{result['largest_difference']:.1e}"),
    ]
    common.table(rows)


if __name__ == "__main__":
    typer.run(main)
