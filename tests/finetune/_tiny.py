"""The smallest problem with all that a run may lose: trained, frozen and running leaves, a key, an order.

A classifier of forty vectors: dropout (the step's key), a layer, BatchNorm (statistics), a frozen layer, a
head.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from clipjax.data.labels import LabelSpace
from clipjax.data.manifest import Manifest, Progress
from clipjax.devices.sharding import DP, Rules, make_mesh
from clipjax.finetune.data.batches import feature_batches
from clipjax.finetune.data.splits import TrainSplit, ValidationSplit
from clipjax.finetune.method import Outcome, Problem, Settings, Setup
from clipjax.finetune.recipe import Recipe
from clipjax.finetune.training.losses import accuracy, cross_entropy, head_logits
from clipjax.finetune.training.optimizer import Optimizer, Schedule
from clipjax.finetune.training.step import Aux
from clipjax.finetune.training.trees import Params
from clipjax.storage.digests import sha256_bytes

IMAGES, WIDTH, CLASSES = 40, 16, 4
RECIPE = Recipe(
    "tiny",
    "Tiny",
    "tiny",
    batch_size=8,
    steps=12,
    optimizer=Optimizer(learning_rate=1e-2, clip_norm=1.0),
    schedule=Schedule(warmup_steps=3),
)


def features() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(IMAGES, 8)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Vectors:
    """An opener whose images are the rows of `features`."""

    rows: tuple[int, ...]

    def open(self, i: int) -> bytes:
        return features()[self.rows[i]].tobytes()

    def where(self, i: int) -> str:
        return f"row {self.rows[i]}"

    def select(self, rows: Sequence[int]) -> Vectors:
        return Vectors(tuple(self.rows[i] for i in rows))

    def content_digests(self, progress: Progress | None = None) -> list[str]:
        return [sha256_bytes(self.open(i)) for i in range(len(self.rows))]


def _split(kind: Any, name: str) -> Any:
    ids = tuple(f"{name}{i:02}.png" for i in range(IMAGES))
    labels = (np.argmax(features()[:, :CLASSES], axis=1)).astype(np.int32)
    space = LabelSpace("tiny", tuple("abcd"), tuple("abcd"))
    return kind(name, Manifest(ids, Vectors(tuple(range(IMAGES))), labels), labels, space)


def tiny_setup(
    folder: Path | None = None,
    recipe: Recipe = RECIPE,
    *,
    seed: int = 1,
    devices: int | None = None,
    rules: Rules = DP,
    every: int = 4,
    progress: bool = False,
) -> Setup:
    mesh = make_mesh(jax.devices() if devices is None else jax.devices()[:devices])
    settings = Settings(mesh, rules, folder, every, progress=progress)
    model: Any = SimpleNamespace(card=SimpleNamespace(id="tiny", weights=None), adapter=None)
    train, validation = _split(TrainSplit, "train"), _split(ValidationSplit, "held-out")
    return Setup(model, train, validation, recipe, seed, {}, settings)


def tiny_params() -> Params:
    rng = np.random.default_rng(1)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(scale=0.3, size=shape).astype(np.float32)

    zeros, ones = np.zeros(WIDTH, np.float32), np.ones(WIDTH, np.float32)
    return {
        # No bias: in front of a BatchNorm its gradient is rounding alone, which AdamW would make a step of.
        "layer": {"kernel": normal(8, WIDTH)},
        "norm": {"scale": ones, "bias": zeros, "mean": zeros, "var": ones},
        "frozen": {"kernel": normal(WIDTH, WIDTH)},
        "head": {"kernel": normal(WIDTH, CLASSES), "bias": np.zeros(CLASSES, np.float32)},
    }


@dataclasses.dataclass(frozen=True)
class TinyLoss:
    """`keep`: this share of the features; 1.0 where the order in a batch is another, as the mask is not."""

    keep: float = 0.9

    def __call__(self, params: Params, batch: dict[str, Array], key: Array) -> tuple[Array, Aux]:
        x = batch["features"]
        x = x * jax.random.bernoulli(key, self.keep, x.shape).astype(x.dtype)
        x = jnp.matmul(x, params["layer"]["kernel"], precision="highest")
        norm, mean, var = params["norm"], x.mean(axis=0), x.var(axis=0)
        x = (x - mean) * jax.lax.rsqrt(var + 1e-5) * norm["scale"] + norm["bias"]
        x = jax.nn.gelu(jnp.matmul(x, params["frozen"]["kernel"], precision="highest"))
        logits = head_logits(params["head"], x, normalize=False)
        running = {"mean": 0.9 * norm["mean"] + 0.1 * mean, "var": 0.9 * norm["var"] + 0.1 * var}
        metrics = {"accuracy": accuracy(logits, batch["label"])}
        return cross_entropy(logits, batch["label"]), Aux(metrics, {"norm": running})


def _is_trained(path: str) -> bool:
    return not path.startswith("frozen")


def tiny_problem(setup: Setup, **changes: Any) -> Problem:
    """`changes`: of the problem's fields."""
    x = features()
    problem = Problem(
        params=tiny_params(),
        trained=_is_trained,
        loss=TinyLoss(),
        batches=lambda: feature_batches(setup, x),
        steps=setup.steps,
        finish=lambda params: Outcome(params),  # type: ignore[arg-type]
    )
    return dataclasses.replace(problem, **changes)


class Watched(grain.DatasetIterator[dict[str, Any]]):
    """Batches that call `on_batch` with the number of each, from 1, before they give it."""

    def __init__(self, batches: grain.DatasetIterator, on_batch: Callable[[int], None]) -> None:
        super().__init__()
        self._batches, self._on_batch = batches, on_batch
        self._count = 0

    def __next__(self) -> dict[str, Any]:
        self._count += 1
        self._on_batch(self._count)
        return next(self._batches)

    def get_state(self) -> dict[str, Any]:
        return self._batches.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        self._batches.set_state(state)
        self._count = state["batches"]

    def close(self) -> None:
        self._batches.close()


def watched(setup: Setup, on_batch: Callable[[int], None], **changes: Any) -> Problem:
    """A tiny problem whose batches tell when they are taken."""
    problem = tiny_problem(setup, **changes)
    return dataclasses.replace(problem, batches=lambda: Watched(problem.batches(), on_batch))


def same_bits(a: Any, b: Any) -> bool:
    return jax.tree.all(jax.tree.map(lambda x, y: np.array_equal(np.asarray(x), np.asarray(y)), a, b))
