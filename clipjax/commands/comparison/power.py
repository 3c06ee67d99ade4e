"""`clipjax power`: how many images a comparison of two models needs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from clipjax.commands.shared.options import JsonOption
from clipjax.commands.shared.output import print_table, say
from clipjax.commands.shared.records import with_options
from clipjax.errors import DataError, UsageError

SIZES = (1000, 2500, 5000, 10_000, 25_000, 50_000)  # of a table without --images


def register(app: typer.Typer) -> None:
    app.command("power")(with_options(PowerOptions, power))


@dataclass(frozen=True, kw_only=True)
class PowerOptions:
    first: Annotated[
        str | None, typer.Argument(metavar="A", help="A model's id, a run id, or a run's folder.")
    ] = None
    second: Annotated[str | None, typer.Argument(metavar="B", help="The other one.")] = None
    results: Annotated[str, typer.Option(help="Folder of the runs of A and B.")] = "results"
    metric: Annotated[str, typer.Option("--metric", help="A share of images, of A and B.")] = "top1"
    discordance: Annotated[
        float | None,
        typer.Option(help="Instead of A and B: the share of images that only one of them gets right."),
    ] = None
    difference: Annotated[
        float | None, typer.Option(help="The difference of accuracy to find, a fraction.")
    ] = None
    images: Annotated[
        int | None, typer.Option(min=1, help="A number of images; default: those measured.")
    ] = None
    chance: Annotated[
        float, typer.Option("--power", min=0.05, max=0.999, help="The probability of finding the difference.")
    ] = 0.8
    as_json: JsonOption = False


def power(options: PowerOptions) -> None:
    """Tell how many images a difference needs, and which difference a number of images can tell.

    The test is McNemar's exact one at 5 %, as in `clipjax compare`. The discordance of two models is measured
    in the runs that it would take.

    Examples:

        clipjax power vit_b_32-openai vit_b_16-openai --difference 0.01

        clipjax power --discordance 0.05 --difference 0.01

        clipjax power --discordance 0.05 --images 10000
    """
    measured = options.discordance is None
    if measured and options.second is None:
        raise UsageError(
            "name two models, or give --discordance: the share of images that only one of them gets right"
        )
    if not measured and options.first is not None:
        raise UsageError("give two models or --discordance, not both")
    try:
        records = list(_measured(options) if measured else _stated(options))
    except ValueError as error:
        raise UsageError(str(error)) from None
    if options.as_json:
        say(json.dumps(records, indent=2))
        return
    wanted = [] if options.difference is None else [f"images for {options.difference:g}"]
    print_table(
        [*list(records[0])[: 6 if measured else 3], *wanted],
        [_cells(each, needed=bool(wanted)) for each in records],
    )


def _measured(options: PowerOptions) -> Iterator[dict[str, Any]]:
    from clipjax.evaluation.comparison.compare import compare_runs

    assert options.first is not None
    assert options.second is not None
    found = compare_runs(options.first, options.second, options.results, metrics=[options.metric])
    shares = [(each, each.gained, each.lost) for each in found]
    if any(gained is None for _, gained, _ in shares):
        raise UsageError(f"{options.metric} is not a share of images: give another --metric")
    if not any(gained or lost for _, gained, lost in shares):
        names = f"{options.first} and {options.second}"
        raise DataError(f"{names} are right about the same images everywhere: state a --discordance")
    for each, gained, lost in shares:
        place = {"task": each.task, "data set": each.dataset, "metric": each.metric}
        discordance = ((gained or 0) + (lost or 0)) / each.n
        yield place | _numbers(discordance, options.images or each.n, options)


def _stated(options: PowerOptions) -> Iterator[dict[str, Any]]:
    assert options.discordance is not None
    for n in [options.images] if options.images else SIZES:
        yield _numbers(options.discordance, n, options)


def _numbers(discordance: float, images: int, options: PowerOptions) -> dict[str, Any]:
    from clipjax.metrics.uncertainty.power import detectable, images_needed

    needed = told = None
    if options.difference is not None and not 0 < abs(options.difference) <= discordance:
        if options.discordance is not None:
            raise ValueError(f"--difference is not 0, and at most the discordance, {discordance:g}")
    elif options.difference is not None:
        needed = images_needed(discordance, options.difference, options.chance)
    if discordance:
        told = detectable(images, discordance, options.chance)
    return {"discordance": discordance, "images": images, "told difference": told, "needed": needed}


def _cells(record: dict[str, Any], *, needed: bool) -> list[str]:
    *place, discordance, images, told, enough = record.values()
    cells = [*place, f"{discordance:.4f}", f"{images:,}", "none" if told is None else f"{told:.4f}"]
    return [*cells, *(["none" if enough is None else f"{enough:,}"] if needed else [])]
