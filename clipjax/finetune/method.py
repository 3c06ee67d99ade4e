"""The contract of a fine-tuning method: pretrained model and data to problem, its solution to a model.

A method is a module of `clipjax.finetune.methods` with a `METHOD` record. `prepare` states the problem:
params, which are trained, the loss, the batches. `clipjax.finetune.training.solve.train` solves any problem
(sharded, resumable, logged). `Problem.finish` turns the trained params into an ordinary `Model`.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from clipjax.checkpoints.model import Model
from clipjax.data.pixels.decoders import Workers
from clipjax.devices.sharding import DP, Rules
from clipjax.errors import DataError, UsageError, unknown_name
from clipjax.finetune import methods
from clipjax.finetune.data.shots import Shots
from clipjax.finetune.data.splits import TrainSplit, ValidationSplit
from clipjax.finetune.recipe import Recipe
from clipjax.finetune.training.step import Loss
from clipjax.finetune.training.trees import Params
from clipjax.storage.store import Store


@dataclass(frozen=True)
class Settings:
    """Where and how a run is computed; numbers depend on it only through rounding.

    Attributes:
        mesh: the devices of all processes.
        rules: placement of trained params and moments, DP or FSDP.
        folder: this run's, for resume points and logs; None: neither.
        every: steps between resume points.
        store: embeddings, for methods that read only features.
        workers: decoding processes; 0: threads; "auto": the fastest decoding here.
        progress: bars on stderr.
    """

    mesh: Mesh
    rules: Rules = DP
    folder: Path | None = None
    every: int = 500
    store: Store | None = None
    workers: Workers = 0
    progress: bool = True


@dataclass(frozen=True)
class Setup:
    """A method's input.

    Attributes:
        model: the pretrained model.
        train: the training images, cut to any shots; their classes are the task's.
        validation: what a search may see, if anything.
        recipe: how to train.
        seed: the recipe's seed of this run.
        options: the method's, after the recipe's changes.
        shots: the list that cut `train`, if any.
    """

    model: Model
    train: TrainSplit
    validation: ValidationSplit | None
    recipe: Recipe
    seed: int
    options: Mapping[str, Any]
    settings: Settings
    shots: Shots | None = None

    def __post_init__(self) -> None:
        """Raise UsageError for a model with an adapter, which the trained model would lose."""
        if self.model.adapter is not None:
            base = self.model.card.id if self.model.base is None else self.model.base.id
            raise UsageError(f"{self.model.card.id} is {base} with an adapter: fine-tune {base} itself")

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.recipe.steps_of(len(self.train))


@dataclass(frozen=True)
class Outcome:
    """The result of a run.

    Attributes:
        model: the fine-tuned model.
        chosen: choices of searches and what they saw: {"alpha": 1.2, "validation_accuracy": 0.71}.
        beside: files to put beside the model, by name, each as a function that writes it to a path.
    """

    model: Model
    chosen: Mapping[str, Any] = field(default_factory=dict)
    beside: Mapping[str, Callable[[Path], None]] = field(default_factory=dict)


@dataclass(frozen=True)
class Problem:
    """What is optimised.

    Attributes:
        params: all leaves that the loss reads, float32.
        trained: whether the leaf at a path is.
        loss: see `clipjax.finetune.training.step.Loss`.
        batches: a fresh iterator of this process's batches, from the first: dicts of numpy arrays, including
            "row" int32 [b] (rows of the training split).
        steps: of the optimiser; 0: nothing is trained.
        finish: all params, the trained ones on the host -> the outcome.
        accuracy: all params and a validation split -> accuracy, to choose an epoch or learning rate. None:
            the method cannot.
        constrain: brings trained params back into bounds after a step.
        contrastive: the examples of a batch see each other, so it cannot be accumulated.
        compiler_options: for the whole training step.
    """

    params: Params
    trained: Callable[[str], bool]
    loss: Loss
    batches: Callable[[], grain.DatasetIterator]
    steps: int
    finish: Callable[[Params], Outcome]
    accuracy: Callable[[Params, ValidationSplit], float] | None = None
    constrain: Callable[[Params], Params] | None = None
    contrastive: bool = False
    compiler_options: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Outline:
    """A problem's shapes, which `--dry-run` counts without weights or images.

    Attributes:
        params: all leaves that the loss reads, as `jax.ShapeDtypeStruct`.
        trained: whether the leaf at a path is.
        loss: None if nothing is trained.
        batch: what the loss reads of one image, as `jax.ShapeDtypeStruct` without the batch axis.
    """

    params: Params
    trained: Callable[[str], bool]
    loss: Loss | None
    batch: Mapping[str, jax.ShapeDtypeStruct]


@dataclass(frozen=True)
class Method:
    """A fine-tuning method.

    Attributes:
        name: what users type.
        title: its name in tables and figures.
        paper: its source.
        options: its own, with defaults; a recipe may set only these.
        prepare: states the problem.
        outline: its shapes, for a setup whose model has abstract params.
        searches: whether, with these options, it chooses something on a validation split.
    """

    name: str
    title: str
    paper: str
    options: Mapping[str, Any]
    prepare: Callable[[Setup], Problem]
    outline: Callable[[Setup], Outline]
    searches: Callable[[Mapping[str, Any]], bool] = lambda options: False

    def options_of(self, recipe: Recipe) -> dict[str, Any]:
        """The options after the recipe's changes. Raises DataError for an unknown name or wrong type."""
        for name, value in recipe.options.items():
            if name not in self.options:
                known = ", ".join(self.options) or "none"
                raise DataError(f"recipe {recipe.name}: {self.name} has no option {name!r}; known: {known}")
            default = self.options[name]
            number = isinstance(default, float) and type(value) is int
            if default is not None and type(value) is not type(default) and not number:
                kind = type(default).__name__
                raise DataError(f"recipe {recipe.name}: options.{name} = {value!r} must be of type {kind}")
        return {**self.options, **recipe.options}


@functools.cache
def all_methods() -> dict[str, Method]:
    """Every method by name."""
    found: dict[str, Method] = {}
    for module in pkgutil.iter_modules(methods.__path__):
        record = getattr(importlib.import_module(f"{methods.__name__}.{module.name}"), "METHOD", None)
        if record is None:
            continue
        if record.name in found:
            raise DataError(f"two methods have the name {record.name!r}")
        found[record.name] = record
    return found


def find_method(name: str) -> Method:
    """The method of that name. Raises UsageError with the nearest matches."""
    if name not in all_methods():
        raise unknown_name("method", name, list(all_methods()))
    return all_methods()[name]


def abstract(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    """A shape without an array."""
    return jax.ShapeDtypeStruct(shape, dtype)


def image_batch(setup: Setup) -> dict[str, jax.ShapeDtypeStruct]:
    """One image's part of `image_batches`, without captions."""
    side = setup.model.card.preprocess.image_size
    return {"pixels": abstract(side, side, 3, dtype=jnp.uint8), "label": abstract(dtype=jnp.int32)}


def feature_batch(setup: Setup) -> dict[str, jax.ShapeDtypeStruct]:
    """One image's part of `feature_batches`."""
    width = setup.model.card.arch.vision.embed_dim
    return {"features": abstract(width), "label": abstract(dtype=jnp.int32)}


def abstract_head(setup: Setup) -> Params:
    """Shapes of a linear head over the training classes."""
    width, classes = setup.model.card.arch.vision.embed_dim, len(setup.train.label_space)
    return {"kernel": abstract(width, classes), "bias": abstract(classes)}
