"""A fine-tuning method is a module of `clipjax.finetune.methods` with a `METHOD` record, or a plug-in."""

from __future__ import annotations

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
from clipjax.errors import DataError, UsageError
from clipjax.finetune.data.shots import Shots
from clipjax.finetune.data.splits import TrainSplit, ValidationSplit
from clipjax.finetune.method_names import METHODS
from clipjax.finetune.recipe import Recipe
from clipjax.finetune.training.step import Loss
from clipjax.finetune.training.trees import Params
from clipjax.storage.store import Store


@dataclass(frozen=True)
class Settings:
    """Settings of a run that change its numbers by rounding alone.

    Attributes:
        rules: placement of trained params and moments, DP or FSDP.
        folder: for resume points and logs; None: neither.
        every: steps between resume points.
        workers: decoding processes; 0: threads; "auto": the fastest here.
        track: trackers that show the training, besides TensorBoard.
    """

    mesh: Mesh
    rules: Rules = DP
    folder: Path | None = None
    every: int = 500
    store: Store | None = None
    workers: Workers = 0
    progress: bool = True
    track: tuple[str, ...] = ()


@dataclass(frozen=True)
class Setup:
    """A method's input.

    Attributes:
        train: already cut to `shots`.
        validation: the only images that a search may see.
        options: the method's, after the recipe's changes.
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
        """Refuse a model with an adapter, which training would lose (UsageError)."""
        if self.model.adapter is not None:
            base = self.model.card.id if self.model.base is None else self.model.base.id
            raise UsageError(f"{self.model.card.id} is {base} with an adapter: fine-tune {base} itself")

    @property
    def steps(self) -> int:
        return self.recipe.steps_of(len(self.train))


@dataclass(frozen=True)
class Outcome:
    """The result of a run.

    Attributes:
        chosen: by searches: {"alpha": 1.2, "validation_accuracy": 0.71}.
        beside: name of a file beside the model -> function that writes it.
    """

    model: Model
    chosen: Mapping[str, Any] = field(default_factory=dict)
    beside: Mapping[str, Callable[[Path], None]] = field(default_factory=dict)


@dataclass(frozen=True)
class Problem:
    """A fine-tuning run as `training/` solves it: params, the part that is trained, loss and batches.

    Attributes:
        params: all leaves that the loss reads, float32.
        trained: whether the leaf at a path is trained.
        batches: a fresh iterator over this process's batches: dicts of numpy arrays, including "row" int32
            [b] (rows of the training split).
        steps: 0: nothing is trained.
        finish: all params, with trained ones on the host -> the outcome.
        accuracy: of params on a validation split, to choose an epoch or learning rate; None: unsupported.
        contrastive: the loss compares examples, so batches cannot be accumulated.
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
    """A problem's shapes as `jax.ShapeDtypeStruct`; `loss` is None if nothing is trained.

    `batch` is what the loss reads of one image, without the batch axis.
    """

    params: Params
    trained: Callable[[str], bool]
    loss: Loss | None
    batch: Mapping[str, jax.ShapeDtypeStruct]


@dataclass(frozen=True)
class Method:
    """A fine-tuning method.

    Attributes:
        options: with defaults; a recipe may set only these.
        outline: of a setup with abstract params.
        searches: whether these options need a validation split.
    """

    name: str
    title: str
    paper: str
    options: Mapping[str, Any]
    prepare: Callable[[Setup], Problem]
    outline: Callable[[Setup], Outline]
    searches: Callable[[Mapping[str, Any]], bool] = lambda options: False

    def options_of(self, recipe: Recipe) -> dict[str, Any]:
        """The options with the recipe's changes. Raises DataError for an unknown name or wrong type."""
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


def all_methods() -> dict[str, Method]:
    """All methods by name. Raises the errors of `find_method`."""
    return METHODS.all(Method)


def find_method(name: str) -> Method:
    """Imports no other method. Raises as `Registry.find`."""
    return METHODS.find(name, Method)


def abstract(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def image_batch(setup: Setup) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of one image of `image_batches`, without captions."""
    side = setup.model.card.preprocess.image_size
    return {"pixels": abstract(side, side, 3, dtype=jnp.uint8), "label": abstract(dtype=jnp.int32)}


def feature_batch(setup: Setup) -> dict[str, jax.ShapeDtypeStruct]:
    width = setup.model.card.arch.vision.embed_dim
    return {"features": abstract(width), "label": abstract(dtype=jnp.int32)}


def abstract_head(setup: Setup) -> Params:
    width, classes = setup.model.card.arch.vision.embed_dim, len(setup.train.label_space)
    return {"kernel": abstract(width, classes), "bias": abstract(classes)}
