"""What the models of result rows cost, by the architecture that the rows name. Imports no JAX.

    costs = model_costs(ResultStore("results").rows())
    costs.find("operations").numbers["vit_b_32-openai"]      # 8.8 GFLOP

A cost is never mixed: numbers that were measured on different devices or in different precisions, and
estimates, are costs of their own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from clipjax.analysis.cost.arch_costs import ArchCost, EstimatedRate, recorded_cost
from clipjax.analysis.cost.measured_rates import MeasuredRate
from clipjax.config import config_dir
from clipjax.errors import UsageError, some_of, unknown_name
from clipjax.results.row import Row
from clipjax.results.rows import of_people
from clipjax.results.tables import model_name
from clipjax.storage.reading import read_csv

OPERATIONS, PARAMS, MODEL_PARAMS = "operations", "params", "model_params"
MEASURED, ESTIMATED = "images_per_second", "estimated_images_per_second"
COUNTED = "two per multiply-add of dots and convolutions, without heads, adapters and texts"
NAMED = 5  # models named for one reason, at most
NO_ESTIMATE = "no estimate is recorded of its architecture (configs/estimated_rates.csv)"
LANGUAGE = "it answers with a language model, whose operations depend on the question"


@dataclass
class Cost:
    """One cost of all models.

    Attributes:
        name: as commands take it, such as "operations" or "images_per_second cpu parity".
        title: with the unit.
        cheaper: which end costs less.
        numbers: model -> its number.
        absent: model -> why it has none.
        marks: model -> a remark on its number.
    """

    name: str
    title: str
    cheaper: Literal["lower", "higher"]
    numbers: dict[str, float] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    marks: dict[str, str] = field(default_factory=dict)

    def effort(self, model: str) -> float:
        """The number, or its inverse where more is cheaper: the model with less costs less."""
        number = self.numbers[model]
        return number if self.cheaper == "lower" else 1 / number

    def text(self, model: str) -> str:
        """The number in a table, with its mark; "" without one."""
        if model not in self.numbers:
            return ""
        number, mark = self.numbers[model], self.marks.get(model)
        digits = f"{number:,.0f}" if number >= 1000 else f"{number:.4g}"
        return f"{digits} ({mark})" if mark else digits


class ModelCosts:
    """The costs of models by name; those that no model has are left out."""

    def __init__(self, models: Sequence[str], costs: Iterable[Cost]) -> None:
        self.models = tuple(models)
        self.costs = {cost.name: cost for cost in costs if cost.numbers}

    def find(self, name: str) -> Cost:
        """Raises UsageError for a cost that no model has; names the nearest."""
        if name.startswith(MEASURED) and not any(each.startswith(MEASURED) for each in self.costs):
            raise UsageError(
                f"no model has the cost {name!r}: name the folder of records that --batch-size auto wrote, "
                "--rates ~/.cache/clipjax/batch_sizes"
            )
        if name not in self.costs:
            raise unknown_name("cost", name, sorted(self.costs))
        return self.costs[name]


Trace = Callable[[str, int | None], ArchCost | None]


def model_costs(
    rows: Iterable[Row], measured: Sequence[MeasuredRate] = (), trace: Trace | None = None
) -> ModelCosts:
    """The costs of the models of result rows.

    Args:
        measured: images a second, of `clipjax.analysis.cost.measured_rates.measured_rates`.
        trace: (architecture, image size) -> its cost where none is recorded, such as
            `clipjax.estimates.flops.traced_cost`, which loads JAX; None: such models have no cost.
    """
    facts = {model_name(row): (row["model"], row["model_facts"]) for row in rows if not of_people(row)}
    archs = {model: _arch_of(name, of, trace) for model, (name, of) in facts.items()}
    costs = [_operations(archs), *_params(archs, facts), *_measured(archs, measured), *_estimated(archs)]
    return ModelCosts([*facts], costs)


def _arch_of(name: str, facts: Mapping[str, Any], trace: Trace | None) -> ArchCost | str:
    """The cost of the model's architecture, or why it is not known."""
    arch = facts.get("arch") or _published_arch(name, facts.get("image_size"))
    if arch is None:
        return "its rows name no architecture of clipjax's"
    cost, size = recorded_cost(arch), facts.get("image_size")
    if cost is not None and size in (None, cost.image_size):
        return cost
    if trace is not None and (traced := trace(arch, size)) is not None:
        return traced
    if cost is None:
        return f"no cost is known of its architecture {arch}, which is not one of configs/archs"
    return f"its images have {size} pixels, and {arch} is recorded for {cost.image_size}"


def _published_arch(name: str, image_size: int | None) -> str | None:
    """The architecture of a published model that is not registered, by the library's name of it.

    "open_clip:ViT-B-32:laion400m" and "timm:resnet50.a1_in1k@224px" are of registered architectures.
    """
    library, _, rest = name.partition(":")
    if library not in ("open_clip", "timm") or not rest:
        return None
    arch = rest.partition(":")[0] if library == "open_clip" else rest.partition(".")[0].partition("@")[0]
    size = None if library == "open_clip" else image_size
    names = _library_archs().get((library, arch, size), ())
    towers = {(cost.operations, cost.image_params): each for each in names if (cost := recorded_cost(each))}
    return next(iter(towers.values())) if len(towers) == 1 else None


@functools.cache
def _library_archs() -> dict[tuple[str, str, int | None], set[str]]:
    """(library, its name, image size) -> architectures with outputs. open_clip's name decides the size."""
    archs: dict[tuple[str, str, int | None], set[str]] = {}
    for row in read_csv(config_dir() / "models.csv"):
        size = int(row["crop_size"]) if row["library"] == "timm" else None
        archs.setdefault((row["library"], row["library_arch"], size), set()).add(row["arch"])
    return archs


def absent_in_words(absent: Mapping[str, str]) -> list[str]:
    """Models that are left out, one line a reason: "a, b are left out: why"."""
    by_reason: dict[str, list[str]] = {}
    for model, why in absent.items():
        by_reason.setdefault(why, []).append(model)
    lines = []
    for why, models in by_reason.items():
        named = some_of(models, NAMED)
        many = f"{len(models)} models ({named})" if len(models) > NAMED else named
        lines.append(f"{many} {'is' if len(models) == 1 else 'are'} left out: {why}")
    return lines


Archs = Mapping[str, ArchCost | str]
"""Model -> the cost of its architecture, or why it is not known."""


def _operations(archs: Archs) -> Cost:
    cost = Cost(OPERATIONS, "operations of an image (GFLOP)", "lower")
    for model, arch in archs.items():
        if isinstance(arch, str) or arch.operations is None:
            cost.absent[model] = arch if isinstance(arch, str) else LANGUAGE
        else:
            cost.numbers[model] = arch.operations / 1e9
    return cost


def _params(archs: Archs, facts: Mapping[str, tuple[str, Mapping[str, Any]]]) -> tuple[Cost, Cost]:
    image = Cost(PARAMS, "params of the image tower (millions)", "lower")
    whole = Cost(MODEL_PARAMS, "params of the model (millions)", "lower")
    for model, arch in archs.items():
        if not isinstance(arch, str):
            image.numbers[model] = arch.image_params / 1e6
            whole.numbers[model] = arch.model_params / 1e6
            continue
        name, of = facts[model]
        image.absent[model] = whole.absent[model] = arch
        # A source states those of the image tower; a user's own fact may count the whole model.
        if ":" in name and "arch" not in of and of.get("params_m"):
            image.numbers[model], image.marks[model] = of["params_m"], "published"
            del image.absent[model]
    return image, whole


def _measured(archs: Archs, measured: Sequence[MeasuredRate]) -> list[Cost]:
    costs = {
        each.where: Cost(f"{MEASURED} {each.where}", _title(each.where, "measured"), "higher")
        for each in measured
    }
    rates = {(each.where, each.arch, each.image_size): each.images_per_second for each in measured}
    for where, cost in costs.items():
        for model, arch in archs.items():
            if isinstance(arch, str):
                cost.absent[model] = arch
            elif (rate := rates.get((where, arch.name, arch.image_size))) is not None:
                cost.numbers[model] = rate
            else:
                cost.absent[model] = f"its architecture {arch.name} was not measured on {where}"
    return list(costs.values())


def _estimated(archs: Archs) -> list[Cost]:
    costs: dict[str, Cost] = {}
    for model, arch in archs.items():
        for rate in () if isinstance(arch, str) else arch.rates:
            where = f"{rate.chip} {rate.precision}"
            cost = costs.setdefault(where, Cost(f"{ESTIMATED} {where}", _title(where, "estimate"), "higher"))
            cost.numbers[model], cost.marks[model] = rate.images_per_second, _basis(rate)
    for cost in costs.values():
        absent = [model for model in archs if model not in cost.numbers]
        whys = {model: each if isinstance(each := archs[model], str) else NO_ESTIMATE for model in absent}
        cost.absent.update(whys)
    return list(costs.values())


def _title(where: str, how: str) -> str:
    return f"images a second, {where} ({how})"


def _basis(rate: EstimatedRate) -> str:
    return "estimate" if rate.basis == "estimated" else f"estimate, {rate.basis}"
