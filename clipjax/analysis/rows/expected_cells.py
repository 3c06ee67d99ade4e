"""Does a model's number agree with its other numbers? ImageNet val, V2 and ReaL, from what is published.

    for each in expected_cells(rows):
        if each.beyond:
            print(each.model, each.dataset, each.value, each.expected, each.half_width)

Of published zero-shot CLIPs, and of classifiers apart, top-1 on one data set is predicted from top-1 on
others: ridge regression on the logits and their squares. A half-width holds 90 % of the errors of models
whose architecture family took no part in the fit (conformal over families). configs/expected_cells.json has
the fits (`tests/records.py expected_cells`).

A mistake in one number (other prompts, another label space or variant, a wrong data set) is found; one in all
numbers of a model (a wrong crop, a missing QuickGELU) moves them together, and is not. Models whose training
source has fewer than `FEWEST` published models are left out. Imports no JAX.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import scipy.special

from clipjax.analysis.rows.alike import has_own_prompts
from clipjax.config import config_dir
from clipjax.results.completeness import is_whole
from clipjax.results.row import Row
from clipjax.results.tables import model_name
from clipjax.storage.records import read

FILE = "expected_cells.json"
V2, REAL = "imagenet_v2:matched-frequency", "timm:imagenet-real"
# Data set -> the label space of its number, in which published models were measured.
LABELS = {
    "imagenet_val": "imagenet",
    V2: "imagenet",
    REAL: "imagenet",
    "imagenet_sketch": "imagenet",
    "imagenet_a": "imagenet_a",
    "imagenet_r": "imagenet_r",
    "objectnet": "objectnet",
}
TARGETS = ("imagenet_val", V2, REAL)
PROMPTS = "openai_80"
FEWEST = 5  # published models of a training source
LEAST = 3  # numbers that another is predicted from
LEVEL = 0.9
DIGITS = 5  # of the record: a logit moves by less than 1e-4
PENALTY = 1e-4  # per model, of standardised logits


@dataclass(frozen=True)
class CellFit:
    """One data set's number from others of the model, as configs/expected_cells.json has it.

    Attributes:
        kind: "zero_shot" or "classifier".
        inputs: the data sets that it is predicted from.
        constant: the prediction, as a logit, of a model at the `centre`.
        centre: the mean logit of each input, then the mean squared logit of each.
        scale: standard deviations of the same, in the same order.
        slopes: logits per standard deviation, in the same order.
        half_width: in points of accuracy.
        error: the median error of left-out families, in points.
        coverage: the fraction of models that lie within the half-width of the other families.
    """

    kind: str
    target: str
    inputs: tuple[str, ...]
    constant: float
    centre: tuple[float, ...]
    scale: tuple[float, ...]
    slopes: tuple[float, ...]
    half_width: float
    error: float
    coverage: float
    models: int
    families: int

    def predicted(self, cells: Mapping[str, float]) -> float:
        """The number that the others lead to, a fraction; `cells`: of each data set of `inputs`."""
        design = _design(np.array([[cells[name] for name in self.inputs]]))
        moved = (design - np.array(self.centre)) / np.array(self.scale)
        return float(scipy.special.expit(self.constant + moved @ np.array(self.slopes)).item())


@dataclass(frozen=True)
class ExpectedCell:
    """A number, and what the model's other numbers lead to; accuracies are fractions, `half_width` too."""

    model: str
    run: str
    dataset: str
    value: float
    expected: float
    half_width: float
    inputs: tuple[str, ...]

    @property
    def beyond(self) -> bool:
        return abs(self.value - self.expected) > self.half_width


def expected_cells(rows: Iterable[Row]) -> list[ExpectedCell]:
    """Each number that can be compared, by the fit with the most other numbers of the model."""
    models: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        if (kind := _kind(row)) is not None:
            models.setdefault((model_name(row), kind), {})[row["dataset"]] = row
    found = []
    for (model, kind), own in models.items():
        cells = {name: row["value"] for name, row in own.items() if row["value"] is not None}
        for target in TARGETS:
            fits = [fit for fit in _fits() if (fit.kind, fit.target) == (kind, target)]
            fits = [fit for fit in fits if target in cells and set(fit.inputs) <= cells.keys()]
            if fits:
                fit, row = max(fits, key=lambda fit: len(fit.inputs)), own[target]
                values = cells[target], fit.predicted(cells), fit.half_width / 100
                found.append(ExpectedCell(model, row["run_id"], target, *values, fit.inputs))
    return found


def in_words(cell: ExpectedCell) -> str:
    """E.g. "imagenet_val is 2.10 points above what ... lead to (0.6320 +- 0.0054)"."""
    points = 100 * (cell.value - cell.expected)
    side = "above" if points > 0 else "below"
    others = ", ".join(cell.inputs)
    return (
        f"{cell.model}: {cell.dataset} is {abs(points):.2f} points {side} what {others} lead to "
        f"({cell.expected:.4f} +- {cell.half_width:.4f}): one of these numbers may be measured otherwise "
        "than published ones"
    )


def _kind(row: Row) -> str | None:
    """The kind of fits that the row belongs to; None: it is not compared."""
    # 0 and 1 have no logit.
    usable = row["origin"] == "measured" and row["value"] is not None and 0 < row["value"] < 1
    if not usable or not is_whole(row) or (row["metric"], row["slice"]) != ("top1", None):
        return None
    if LABELS.get(row["dataset"]) != row["convention"].get("label_space"):
        return None
    kind = "classifier" if has_own_prompts(row) else "zero_shot"
    if kind == "zero_shot" and row["convention"].get("prompts") != PROMPTS:
        return None
    return kind if source_of(row["model_facts"]) in _record()["sources"][kind] else None


def source_of(facts: Mapping[str, Any]) -> str | None:
    """What a model was trained on, and fine-tuned on: models of one source are alike."""
    source, tuned = facts.get("train_source"), facts.get("fine_tune")
    if not source:
        return None
    return str(source) if tuned in (None, "none") else f"{source} + {tuned}"


# The fits.


def fitted(
    kind: str,
    target: str,
    inputs: Sequence[str],
    models: Sequence[Mapping[str, float]],
    families: Sequence[str],
) -> CellFit:
    """Fit one data set's number to others.

    Args:
        models: the numbers of each model by data set.
        families: the architecture family of each.
    """
    x = np.array([[each[name] for name in inputs] for each in models])
    y, of = np.array([each[target] for each in models]), np.array(families)
    errors = np.empty(len(y))
    for name in np.unique(of):
        out = of == name
        constant, centre, scale, slopes = _ridge(x[~out], y[~out])
        logits = constant + (_design(x[out]) - centre) / scale @ slopes
        errors[out] = 100 * np.abs(scipy.special.expit(logits) - y[out])
    held = [errors[of == name] <= _half_width(errors[of != name], of[of != name]) for name in np.unique(of)]
    constant, centre, scale, slopes = _ridge(x, y)
    return CellFit(
        kind,
        target,
        tuple(inputs),
        round(constant, DIGITS),
        centre=_rounded(centre),
        scale=_rounded(scale),
        slopes=_rounded(slopes),
        half_width=round(_half_width(errors, of), 4),
        error=round(float(np.median(errors)), 4),
        coverage=round(float(np.concatenate(held).mean()), 4),
        models=len(y),
        families=len(held),
    )


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    return tuple(round(float(value), DIGITS) for value in values)


def all_fits(kind: str, models: Sequence[Mapping[str, float]], families: Sequence[str]) -> list[CellFit]:
    """A fit for each target and each choice of `LEAST` or more other data sets that all models have."""
    names = [name for name in LABELS if all(name in each for each in models)]
    return [
        fitted(kind, target, inputs, models, families)
        for target in TARGETS
        if target in names
        for count in range(LEAST, len(names))
        for inputs in combinations([name for name in names if name not in (target, REAL)], count)
    ]


def _half_width(errors: np.ndarray, families: np.ndarray) -> float:
    """The error that 90 % of further families stay within: each family has one vote, one more is infinite."""
    _, index, sizes = np.unique(families, return_inverse=True, return_counts=True)
    order = np.argsort(errors)
    votes = np.cumsum((1 / sizes[index])[order])
    wanted = LEVEL * (len(sizes) + 1)
    return float(errors[order][min(np.searchsorted(votes, wanted), len(errors) - 1)])


def _ridge(x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    design, logits = _design(x), scipy.special.logit(y)
    centre, scale = design.mean(axis=0), design.std(axis=0)
    moved = (design - centre) / scale
    penalty = PENALTY * len(y) * np.eye(moved.shape[1])
    slopes = np.linalg.solve(moved.T @ moved + penalty, moved.T @ (logits - logits.mean()))
    return float(logits.mean()), centre, scale, slopes


def _design(x: np.ndarray) -> np.ndarray:
    logits = scipy.special.logit(x)
    return np.concatenate([logits, logits**2], axis=1)


@functools.cache
def _record() -> dict[str, Any]:
    return json.loads((config_dir() / FILE).read_text(encoding="utf-8"))


@functools.cache
def _fits() -> tuple[CellFit, ...]:
    return tuple(read(CellFit, each, f"configs/{FILE}") for each in _record()["fits"])
