"""Choosing by accuracy, only on a validation split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from clipjax.errors import UsageError
from clipjax.finetune.data.splits import Split, TestSplit, ValidationSplit

T = TypeVar("T")


class SearchResult(NamedTuple):
    """The best candidate (the first of ties), its accuracy, and all accuracies in order."""

    best: Any
    accuracy: float
    tried: tuple[float, ...]


def validation_split(split: Split | None, what: str) -> ValidationSplit:
    """The split, if it is for validation; `what` names the choice in messages ("alpha and beta").

    Raises:
        UsageError: None, or a test or training split.
    """
    if isinstance(split, ValidationSplit):
        return split
    if split is None:
        raise UsageError(
            f"{what} cannot be chosen without a validation split: hold some training images out "
            "(--hold-out N), or name other ones (--validation DIR)"
        )
    kind = "test" if isinstance(split, TestSplit) else "training"
    raise UsageError(
        f"{what} cannot be chosen on the {kind} split {split.name}: what is reported on it would no longer "
        "be a test; give a validation split (--hold-out N, or --validation DIR)"
    )


def choose(
    candidates: Sequence[T], accuracy: Callable[[T, ValidationSplit], float], split: Split | None, what: str
) -> SearchResult:
    """The most accurate candidate; errors as `validation_split`."""
    held_out = validation_split(split, what)
    tried = tuple(accuracy(candidate, held_out) for candidate in candidates)
    best = max(range(len(tried)), key=tried.__getitem__)
    if jax.process_count() > 1:  # processes may differ in the last bit, but must agree
        best = int(multihost_utils.broadcast_one_to_all(np.int32(best)))
    return SearchResult(candidates[best], tried[best], tried)
