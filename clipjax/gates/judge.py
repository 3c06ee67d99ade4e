"""Judge the difference of two models: does each condition hold, fail, or lack images?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from clipjax.errors import DataError, UsageError, unknown_name
from clipjax.evaluation.comparison.compare import Comparison, compare_runs
from clipjax.gates.conditions import Condition
from clipjax.gates.history import Measured, Verdict
from clipjax.metrics.uncertainty.margins import METHOD, Aim, MarginTest, images_to_show
from clipjax.metrics.uncertainty.power import POWER
from clipjax.results.row import Row

DRAWS = 100  # for numbers that a gate does not read; shares of images need no draws


def measure(
    runs: Sequence[tuple[Row, Row]], conditions: Sequence[Condition], alpha: float, results: Path
) -> tuple[Measured, ...]:
    """Measure each condition on each pair of runs that has its metric.

    Args:
        runs: a row of the reference's run, and one of the checkpoint's, of the same task and data set.
        alpha: error probability of each one-sided limit.

    Raises:
        UsageError: no run on a condition's data sets has its metric, or the metric is not a share of images.
        DataError: two runs have different images, or a condition's metric cannot be compared.
    """
    named = {condition.dataset for condition in conditions}
    compared = [
        (first, compare_runs(first["run_id"], second["run_id"], results, resamples=DRAWS))
        for first, second in runs
        if None in named or first["dataset"] in named
    ]
    return tuple(each for condition in conditions for each in _measured(condition, compared, alpha))


def verdict_of(measured: Sequence[Measured]) -> Verdict:
    """The verdict on all conditions together."""
    verdicts = {each.verdict for each in measured}
    return "fail" if "fail" in verdicts else "undecided" if "undecided" in verdicts else "pass"


def _measured(
    condition: Condition, compared: Sequence[tuple[Row, list[Comparison]]], alpha: float
) -> Iterator[Measured]:
    name, there = condition.metric, []
    for row, found in compared:
        if condition.dataset not in (None, row["dataset"]):
            continue
        if why := found[0].left_out.get(name):  # a condition must not pass because it was not measured
            where = f"{row['task']} on {row['dataset']}"
            raise DataError(f"{condition}: {name} of {where} cannot be compared: {why}")
        there += [(row, each) for each in found]
    own = [(row, each) for row, each in there if each.metric == name]
    if not own:
        raise unknown_name("metric of these runs", name, sorted({each.metric for _, each in there}))
    for row, each in own:
        yield _one(condition, row, each, alpha)


def _one(condition: Condition, row: Row, found: Comparison, alpha: float) -> Measured:
    if found.gained is None or found.lost is None:
        raise UsageError(
            f"{condition}: {found.metric} is not a share of images: name one that is, such as top1"
        )
    test = MarginTest(found.n, condition.aim.above, alpha)
    lower, upper = test.limits(found.gained, found.lost)
    # One more discordant image than was seen, because few images may show none.
    discordance = max((found.gained + found.lost + 1) / (found.n + 2), condition.margin)
    verdict, power, needed = decided(test, (lower, upper), discordance, condition.aim)
    return Measured(
        condition=str(condition),
        task=found.task,
        dataset=found.dataset,
        metric=found.metric,
        convention=row["convention"],
        precision=row["precision"],
        first=found.first,
        second=found.second,
        difference=found.difference,
        lower=lower,
        upper=upper,
        above=condition.aim.above,
        truth=condition.aim.truth,
        method=METHOD,
        n=found.n,
        gained=found.gained,
        lost=found.lost,
        power=power,
        needed=needed,
        verdict=verdict,
        recipe=row["recipe_hash"],
        runs=found.runs,
    )


def decided(
    test: MarginTest, limits: tuple[float, float], discordance: float, aim: Aim
) -> tuple[Verdict, float, int | None]:
    """The verdict on one condition, its power, and the images that it needs if it is undecided.

    It passes if the lower limit shows it. If not, it fails if the upper limit refutes it, or if a model that
    meets it (`aim.truth`) would have passed with a probability of .8; else there are too few images.
    """
    power = test.chance(discordance, aim.truth)
    if limits[0] > aim.above:
        return "pass", power, None
    if limits[1] < aim.above or power >= POWER:
        return "fail", power, None
    try:
        return "undecided", power, images_to_show(discordance, aim, test.alpha)
    except ValueError as error:  # more images than anyone has
        raise UsageError(str(error)) from None
