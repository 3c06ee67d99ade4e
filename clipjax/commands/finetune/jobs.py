"""The runs of `clipjax finetune METHOD`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from clipjax.commands.shared.exclusions import refuse_beside
from clipjax.errors import DataError, UsageError

if TYPE_CHECKING:
    from clipjax.commands.finetune.finetune_options import FinetuneOptions
    from clipjax.finetune.recipe import Recipe


class FinetuneJob(NamedTuple):
    """One recipe for one model, and the folder to write."""

    model: str
    recipe: Recipe
    out: Path


def jobs_of(options: FinetuneOptions) -> list[FinetuneJob]:
    from clipjax.storage.remote.buckets import as_path

    out = as_path(options.out or Path())
    if options.runs is not None:
        return _of_suite(options, options.runs, out)
    if options.model is None:
        raise UsageError("say which model: --model ID, hub repository, folder or checkpoint")
    return [FinetuneJob(options.model, _recipe(options, options.method, options.recipe), out)]


def _of_suite(options: FinetuneOptions, name: str, out: Path) -> list[FinetuneJob]:
    from clipjax.finetune.suites import load_suite

    refuse_beside(options.method, {"--model": options.model, "--recipe": options.recipe})
    suite = load_suite(name)
    if not suite.runs:
        raise UsageError(f"the suite {suite.name} lists no fine-tuning [[runs]]; use it with --evaluate")
    jobs = []
    for each in suite.runs:
        recipe = _recipe(options, None, each.recipe)
        model = each.model.strip("/").replace("/", "_")  # a hub repository, a folder
        jobs.append(FinetuneJob(each.model, recipe, out / f"{recipe.name}-{model}"))
    return jobs


def _recipe(options: FinetuneOptions, method: str | None, name: str | None) -> Recipe:
    """The recipe with --set, --seed and --shots applied."""
    from clipjax.finetune.recipe import default_recipe, load_recipe

    changes = options.changes or []
    recipe = load_recipe(name or default_recipe(str(method)), changes)
    if method not in (None, recipe.method):
        raise UsageError(f"the recipe {recipe.name} is one of {recipe.method}, not of {method}")
    _check_method_options(recipe, changes)
    if options.seeds:
        recipe = dataclasses.replace(recipe, seeds=tuple(options.seeds))
    if options.shots is not None and options.file_of_shots is None:
        shots = None if options.shots == "all" else int(options.shots)
        recipe = dataclasses.replace(recipe, shots=shots)
    return recipe


def _check_method_options(recipe: Recipe, changes: Sequence[str]) -> None:
    """Refuse options that the method does not have.

    Raises:
        UsageError: from --set.
        DataError: from the recipe's file.
    """
    from clipjax.finetune.method import find_method

    try:
        find_method(recipe.method).options_of(recipe)
    except DataError as error:
        if of_method := [each for each in changes if each.startswith("options.")]:
            raise UsageError(f"--set {' --set '.join(of_method)}: {error}") from None
        raise
