"""Fine-tuning recipes, from configs/finetune/*.toml or a user's file."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from clipjax.data.labels import DEFAULT_PROMPTS
from clipjax.data.pixels.augment import Augmentation
from clipjax.errors import DataError, UsageError
from clipjax.finetune.method_names import recipe_file, recipe_names
from clipjax.finetune.training.optimizer import Optimizer, Schedule
from clipjax.guards import multiple_of
from clipjax.storage.digests import sha256_json
from clipjax.storage.reading import parse_toml, read_toml
from clipjax.storage.records import AtLeast, read

BatchNormMode = Literal["batch", "per_device", "frozen"]


@dataclass(frozen=True)
class Recipe:
    """One fine-tuning protocol.

    Attributes:
        name: the file's stem.
        title: the name in tables.
        epochs: passes over the training data; None if `steps` is given.
        steps: optimiser steps; None if `epochs` is given.
        batch_size: images in the global batch.
        augmentation: None: the model's own preprocessing.
        prompts: of zero-shot heads and captions.
        batch_norm: training statistics: of the global "batch" (updates the running ones), of each device's
            part ("per_device", as the references' DataParallel), or "frozen".
        precision: of the towers, "parity" or "fast" (bfloat16; params stay float32).
        accumulate: parts of a batch, one after the other.
        remat: recompute activations, to save memory.
        shots: training images per class; None: all.
        select: chosen by validation accuracy: "epoch", "learning_rate" (among `learning_rates`).
        file: that it was read from, for messages.
    """

    name: str
    title: str
    method: str
    batch_size: Annotated[int, AtLeast(1)]
    epochs: Annotated[int | None, AtLeast(0)] = None
    steps: Annotated[int | None, AtLeast(0)] = None
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    augmentation: Augmentation | None = None
    prompts: str = DEFAULT_PROMPTS
    batch_norm: BatchNormMode = "batch"
    precision: Literal["parity", "fast"] = "parity"
    accumulate: Annotated[int, AtLeast(1)] = 1
    remat: bool = False
    shots: Annotated[int | None, AtLeast(1)] = None
    seeds: tuple[int, ...] = (1, 2, 3)
    select: tuple[str, ...] = ()
    learning_rates: tuple[float, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    file: str = field(default="", compare=False)

    def steps_of(self, images: int) -> int:
        """Optimiser steps on this many training images.

            100 images, batch_size 32, 2 epochs: 2 * 100 // 32 = 6

        At least 1, except with 0 epochs or 0 steps.
        """
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return max(1, self.epochs * images // self.batch_size) if self.epochs else 0

    def rate(self, images: int) -> Any:
        """step (from 0) -> learning rate. Raises UsageError as `Schedule.of`; it begins with the file."""
        try:
            return self.schedule.of(self.optimizer.learning_rate, self.steps_of(images), self.epochs)
        except UsageError as error:
            raise UsageError(f"{self.file or self.name}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """All but the file."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "file"}

    @property
    def digest(self) -> str:
        """SHA-256 of all but name, title and seeds."""
        record = self.to_dict()
        return sha256_json({key: record[key] for key in record if key not in ("name", "title", "seeds")})


def default_recipe(method: str) -> str:
    """The method's ImageNet recipe. Raises UsageError if none ships."""
    for name in recipe_names():
        if name.endswith("_imagenet") and load_recipe(name).method == method:
            return name
    raise UsageError(f"no recipe of {method} ships with clipjax: give one, --recipe FILE.toml")


def load_recipe(name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe by name, or from a .toml file.

    Args:
        overrides: "key=value" in TOML, dots for tables ("optimizer.learning_rate=1e-5"). Setting steps
            removes epochs, and the reverse.

    Raises:
        UsageError: no such recipe or file, or invalid overrides.
        DataError: an unknown, missing or mistyped key; names file and key.
    """
    path = recipe_file(name)
    record = {"name": path.stem, **read_toml(path)}
    if not overrides:
        return recipe_from_dict(record, str(path))
    try:
        where = f"--set {' --set '.join(overrides)}"
        return recipe_from_dict(_overridden(record, overrides), where, str(path))
    except DataError as error:
        recipe_from_dict(record, str(path))  # a mistake of the file's own is a DataError
        raise UsageError(str(error)) from None


def _overridden(record: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    changed = copy.deepcopy(dict(record))
    keys = {_override(changed, each) for each in overrides}
    for key, other in (("steps", "epochs"), ("epochs", "steps")):
        if key in keys and other not in keys:
            changed.pop(other, None)
    return changed


def recipe_from_dict(record: Mapping[str, Any], where: str, file: str | None = None) -> Recipe:
    """Raises DataError that begins with `where`; `file` is the recipe's, if another."""
    recipe = read(Recipe, record, where, given={"file": file or where})
    if (recipe.epochs is None) == (recipe.steps is None):
        raise DataError(f"{where}: give one of 'epochs' and 'steps'")
    multiple_of(f"{where}: batch_size", recipe.batch_size, recipe.accumulate, "accumulate", DataError)
    if not recipe.seeds or len(set(recipe.seeds)) != len(recipe.seeds) or min(recipe.seeds) < 0:
        raise DataError(
            f"{where}: seeds must be one or more different numbers from 0 on, not {list(recipe.seeds)}"
        )
    if any(rate <= 0 for rate in recipe.learning_rates):
        raise DataError(f"{where}: learning_rates = {list(recipe.learning_rates)} must be above 0")
    if unknown := set(recipe.select) - {"epoch", "learning_rate"}:
        raise DataError(f"{where}: select knows 'epoch' and 'learning_rate', not {min(unknown)!r}")
    if ("learning_rate" in recipe.select) != bool(recipe.learning_rates):
        raise DataError(f"{where}: select 'learning_rate' and a list learning_rates go together")
    return recipe


def _override(record: dict[str, Any], override: str) -> str:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set {override}: write KEY=VALUE, e.g. optimizer.learning_rate=1e-5")
    try:
        value = parse_toml(f"value = {text}", "--set")["value"]
    except DataError:
        value = text  # a bare word is a string
    *tables, last = key.strip().split(".")
    for table in tables:
        record = record.setdefault(table, {})
        if not isinstance(record, dict):
            raise UsageError(f"--set {override}: {table} is not a table")
    record[last] = value
    return key.strip()
