"""What `make demo` says about its models, in worlds and trainings of several seeds.

    python benchmarks/demo_claims.py --seeds 5

The table has a line for each statement and a column for each seed. The statements are the claims of
configs/claims_demo.toml, and what README.md and the demo's tables tell a user. `--out FOLDER` keeps demos,
and goes on with those that are there already.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import common
from clipjax.analysis.claims.claims import HOLDS, check
from clipjax.analysis.claims.ledger import ledger
from clipjax.demo.analysis import CLAIMS
from clipjax.demo.demo import run
from clipjax.demo.llava.asking import CHANCE, by_order
from clipjax.demo.plan import FULL
from clipjax.demo.reading import Demo, demo_of
from clipjax.demo.settings import DemoColumn
from clipjax.results.store import ResultStore

NARROW, SMALL, DIVERSE = (model.id for model in FULL.models)
MODELS = (NARROW, SMALL, DIVERSE)
Statement = tuple[str, bool, str]
"""What is said, whether it holds, and the numbers that tell it."""


def main(
    seeds: Annotated[int, typer.Option(help="Demos, of the seeds 0, 1, ...")] = 5,
    first: Annotated[int, typer.Option(help="The first of them.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder that keeps the demos, one a seed.")] = None,
    json: common.Json = None,
) -> None:
    with tempfile.TemporaryDirectory() as scratch, common.reported("demo_claims", json) as report:
        report["seeds"] = {}
        for seed in range(first, first + seeds):
            start = time.perf_counter()
            plan = dataclasses.replace(FULL, seed=seed)
            run(folder := (out or Path(scratch)) / f"seed{seed}", plan, progress=False)
            seen = report["seeds"][seed] = list(statements(demo_of(plan, folder)))
            print(f"seed {seed}: {time.perf_counter() - start:.0f} s", flush=True)
            common.table([(f"{said}: {numbers}", "yes" if holds else "NO") for said, holds, numbers in seen])
    columns = list(report["seeds"].values())
    common.table(
        [(row[0][0], " ".join("yes" if holds else "NO" for _, holds, _ in row)) for row in zip(*columns)]
    )


def statements(demo: Demo) -> Iterator[Statement]:
    """The same ones in the same order for every demo."""
    for verdict in check(ledger(CLAIMS), ResultStore(demo.out / "results").rows()):
        value = ", ".join(f"{finding.value:.3g}" for finding in verdict.findings if finding.value is not None)
        yield verdict.claim.statement, verdict.word == HOLDS, f"{verdict.word} ({value})"
    yield from _of_surroundings(demo)
    yield from _of_shifts(demo)
    yield from _of_language(demo)


def _of_surroundings(demo: Demo) -> Iterator[Statement]:
    narrow, diverse = (
        _value(demo, model, "shape_bias", "demo_cues", "shape_bias") for model in (NARROW, DIVERSE)
    )
    yield "the narrow model goes by colour and background", narrow < 0.5, f"shape bias {narrow:.2f}"
    yield "the diverse one goes by shape", diverse > 0.5, f"shape bias {diverse:.2f}"
    usual, misleading = (_top1(demo, NARROW, name) for name in ("demo_val", "demo_a"))
    said = "misleading surroundings cost the narrow model accuracy"
    yield said, misleading < usual, f"{usual:.2f}, {misleading:.2f}"


def _of_shifts(demo: Demo) -> Iterator[Statement]:
    names = ("demo_r", "demo_a", "demo_sketch")
    pairs = [[_top1(demo, model, name) for model in (NARROW, DIVERSE)] for name in names]
    told = "; ".join(f"{narrow:.2f}, {diverse:.2f}" for narrow, diverse in pairs)
    yield (
        "the narrow model is worse on cartoons, surroundings and sketches",
        all(a < b for a, b in pairs),
        told,
    )
    blur, fog, *depth = (
        [[_top1(demo, model, f"{name}:{k}") for k in (1, 5)] for model in MODELS]
        for name in ("demo_corrupted:blur", "demo_corrupted:fog", "demo_3dcc:fog_3d", "demo_3dcc:flash")
    )
    told = "; ".join(f"{a:.2f}, {b:.2f}" for a, b in (*blur, *fog))
    holds = all(a >= b for a, b in blur) and all(a > b for a, b in fog)
    yield "fog costs every model accuracy, and blur helps none", holds, told
    pairs = [*depth[0], *depth[1]]
    told = "; ".join(f"{a:.2f}, {b:.2f}" for a, b in pairs)
    yield "fog and flash by depth cost every model accuracy", all(a > b for a, b in pairs), told


def _of_language(demo: Demo) -> Iterator[Statement]:
    lows = [each.llava.interval("top1_debiased@parsed") for each in demo.answers]
    told = ", ".join(f"{low[0]:.2f}" for low in lows if low is not None)
    yield "the LLaVA beats chance on every set", all(each.beats_chance for each in demo.answers), told
    orders = by_order([each.llava for each in demo.answers])
    told = ", ".join(f"{share:.2f}" for share, _ in orders)
    yield "it does so in every order of the options", all(low > CHANCE for _, low in orders), told
    shuffled = [each.shuffled.interval("top1_debiased@parsed") for each in demo.answers]
    told = ", ".join(f"{low[0]:.2f}" for low in shuffled if low is not None)
    yield (
        "with other images it is right by chance alone",
        all(each.needs_images for each in demo.answers),
        told,
    )


def _top1(demo: Demo, model: str, dataset: str) -> float:
    return _value(demo, model, "zeroshot", dataset, "top1")


def _value(demo: Demo, model: str, task: str, dataset: str, metric: str) -> float:
    row = DemoColumn("", task, dataset, metric).find(demo.rows, model)
    assert row is not None
    assert row["value"] is not None
    return row["value"]


if __name__ == "__main__":
    typer.run(main)
