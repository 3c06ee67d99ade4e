"""`clipjax models`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated

import typer

from clipjax.commands.shared.exclusions import refuse_beside
from clipjax.commands.shared.options import JsonOption
from clipjax.commands.shared.output import print_table, say
from clipjax.commands.shared.records import with_options


def register(app: typer.Typer) -> None:
    app.command("models")(with_options(ModelsOptions, models))


@dataclass(frozen=True, kw_only=True)
class ModelsOptions:
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Show one model's whole card.")] = None
    group: Annotated[
        str | None,
        typer.Option(
            help="Only this group: clip, clip_ft, curated, standard, more_data, contrastive, dense_baseline, "
            "probe3d, recent or example."
        ),
    ] = None
    by_family: Annotated[
        bool, typer.Option("--by-family", help="One line per pair of tower families, not per model.")
    ] = False
    as_json: JsonOption = False
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")] = False
    aot: Annotated[
        str | None,
        typer.Option(
            metavar="CHIPS",
            help="Compile the forward passes ahead of time for these TPU chips (v5e,v4,v5p,v6e) or GPUs "
            "(h100): minutes per model. Needs a compiler (`make tpu-env`, `make gpu-aot-env`), but no chip.",
        ),
    ] = None

    def check(self) -> None:
        forms = {"--by-family": self.by_family, "--markdown": self.as_markdown}
        if self.name is not None:
            refuse_beside(f"the model {self.name}", {"--group": self.group, **forms})
        if self.aot is not None:
            refuse_beside("--aot", forms)
        if self.as_json:
            refuse_beside("--json", forms)


def models(options: ModelsOptions) -> None:
    """List the registered models with what is verified of each, or show one model's card.

    "verified": the full-size tensors match the reference library's one to one, and a narrow model with the
    same flags gives the same numbers (`clipjax verify --all`).
    """
    from clipjax.checkpoints.identity.registry import model_card
    from clipjax.verification import coverage

    options.check()
    if options.aot is not None:
        rows = coverage.coverage(options.group)
        ids = [options.name] if options.name is not None else [row.id for row in rows]
        _compile_ahead(ids, options.aot.split(","), options.as_json)
    elif options.name is not None:
        say(json.dumps(model_card(options.name).to_dict(), indent=2))
    else:
        _list(options)


def _list(options: ModelsOptions) -> None:
    from clipjax.verification import coverage

    rows = coverage.coverage(options.group)
    if options.as_json:
        say(json.dumps(coverage.to_dict(rows), indent=2))
    elif options.as_markdown:
        say(coverage.markdown("families" if options.by_family else "models", rows))
    else:
        print_table(*(coverage.family_table if options.by_family else coverage.table)(rows))
        say(f"\n{coverage.summary(rows)}")


def _compile_ahead(ids: list[str], chips: list[str], as_json: bool) -> None:
    """Compile, and print each executable as JSON as soon as it is known."""
    from clipjax.estimates import aot_tables
    from clipjax.estimates.aot_targets import by_kind, count, rows_of
    from clipjax.progress import progress_through

    tpus, gpus = by_kind(chips)
    rows = progress_through(rows_of(ids, tpus, gpus), count(ids, tpus, gpus), "compiling", "program")
    if as_json:
        for row in rows:
            say(json.dumps(row.to_dict()))
        return
    done = list(rows)
    of_gpus = [row for row in done if row.chip in gpus]
    of_tpus = [row for row in done if row.chip not in gpus]
    if of_tpus:
        print_table(aot_tables.table_titles(), list(map(aot_tables.table_cells, of_tpus)))
        estimated = list(filter(None, map(aot_tables.estimate_cells, of_tpus)))
        print_table(aot_tables.estimate_titles(), estimated)
    if of_gpus:
        print_table(aot_tables.gpu_titles(), list(map(aot_tables.gpu_cells, of_gpus)))
