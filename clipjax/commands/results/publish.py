"""`clipjax results publish`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from clipjax.commands.results.listing import RowOptions
from clipjax.commands.shared.exclusions import refuse_without
from clipjax.commands.shared.options import ResultsOptions
from clipjax.commands.shared.output import say
from clipjax.errors import UsageError, counted
from clipjax.guards import known_name

PLACES = ("hf", "eee")


@dataclass(frozen=True, kw_only=True)
class PublishOptions:
    PANELS: ClassVar = {
        "Where to": ("to", "benchmark", "by", "relation", "images"),
        "Which numbers": ("results", "every", "model", "task", "dataset", "metric"),
    }
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write.")]
    where: ResultsOptions
    to: Annotated[
        str,
        typer.Option(help="hf (files of the hub's model repositories), or eee (Every Eval Ever)."),
    ]
    benchmark: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NUMBER=BENCHMARK",
            help="With hf: a number that a registered benchmark of the hub asks for, as "
            "DATASET/METRIC=ORGANISATION/NAME:TASK; may be repeated.",
        ),
    ] = None
    by: Annotated[str | None, typer.Option(help="With eee: who measured the numbers.")] = None
    relation: Annotated[
        str | None,
        typer.Option(
            help="With eee: whose models they are: first_party (your own), third_party (the default), "
            "collaborative or other."
        ),
    ] = None
    images: Annotated[
        bool, typer.Option("--images", help="With eee: also a record of each image, for top1 and top5.")
    ] = False
    which: RowOptions


def publish(options: PublishOptions) -> None:
    r"""Write results in the form that another place collects; nothing leaves this machine.

    Look at the files, then upload them yourself. Each number has its interval, the number of images, its
    convention, the hash of its recipe and the digest of the model's parity record. Rows without a value are
    left out and counted.

    The folder of each model that is published is replaced; those of other models stay. A folder in which you
    changed or added a file is refused.

    Examples:

        clipjax results publish hub results --to hf --model "vit_b_32-*"

        clipjax results publish hub --to hf \
            --benchmark imagenet_r/top1=lab/imagenet-r:top1

        clipjax results publish eee results --to eee --by "A laboratory"
    """
    known_name("place", options.to, PLACES)
    from clipjax.analysis.publish.every_eval_ever import RELATIONS, Evaluator, records
    from clipjax.analysis.publish.model_cards import benchmark_from, hub_files
    from clipjax.analysis.publish.publishable import publishable
    from clipjax.analysis.publish.published_folder import write_files
    from clipjax.results.store import ResultStore

    refuse_without("--to hf", {"--benchmark": options.benchmark if options.to != "hf" else None})
    benchmarks = [benchmark_from(each) for each in options.benchmark or ()]
    if options.to == "hf":
        named = {"--by": options.by, "--relation": options.relation, "--images": options.images}
        refuse_without("--to eee", named)
    elif options.by is None:
        raise UsageError("say who measured the numbers, as Every Eval Ever asks: --by NAME")
    relation = options.relation or "third_party"
    known_name("relation", relation, RELATIONS)
    found = publishable(options.which.rows(options.where.path), measured=options.to == "hf")
    store = ResultStore(options.where.path)
    tables = (lambda run: store.images(run) if store.has_images(run) else None) if options.images else None
    if options.to == "hf":
        files = iter(hub_files(found.rows, benchmarks).items())
    else:
        files = records(found.rows, Evaluator(options.by or "", relation), found.left_out, tables)
    try:
        count, kept = write_files(options.out, files)
    finally:
        for why, rows in found.left_out.items():
            say(f"left out: {counted(rows, 'row')} {why}", err=True)
    others = f"; {counted(kept, 'file')} of other models stay" if kept else ""
    say(f"{options.out}: {counted(count, 'file')} of {counted(len(found.rows), 'model')}{others}")
