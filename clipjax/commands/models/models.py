"""`clipjax models`: the registered models, and what is verified of each."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from clipjax.commands.shared.exclusions import refuse_beside
from clipjax.commands.shared.options import JsonOption
from clipjax.commands.shared.output import print_table, say


def register(app: typer.Typer) -> None:
    app.command("models")(models)


def models(
    name: Annotated[str | None, typer.Argument(help="Show one model's whole card.")] = None,
    group: Annotated[
        str | None,
        typer.Option(help="Only this group: clip, clip_ft, curated, dense_baseline or example."),
    ] = None,
    by_family: Annotated[
        bool, typer.Option("--by-family", help="One line per pair of tower families, not per model.")
    ] = False,
    as_json: JsonOption = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")] = False,
    aot: Annotated[
        str | None,
        typer.Option(
            metavar="CHIPS",
            help="Compile the forward passes ahead of time for these TPU chips (v5e,v4,v5p,v6e): minutes per "
            "model. Needs the extra `tpu`, but no TPU.",
        ),
    ] = None,
) -> None:
    """List the registered models with what is verified of each, or show one model's card.

    "verified": its full-size tensors match those of the reference library one to one, and a narrow model with
    the same flags gives the same numbers (see `clipjax verify --all`).
    """
    from clipjax.checkpoints.identity.registry import model_card
    from clipjax.verification import coverage

    forms = {"--by-family": by_family, "--markdown": as_markdown}
    if name is not None:
        refuse_beside(f"the model {name}", {"--group": group, **forms})
    if aot is not None:
        refuse_beside("--aot", forms)
    if as_json:
        refuse_beside("--json", forms)
    if aot is not None:
        ids = [name] if name is not None else [row.id for row in coverage.coverage(group)]
        _compile_ahead(ids, aot.split(","), as_json)
        return
    if name is not None:
        say(json.dumps(model_card(name).to_dict(), indent=2))
        return
    rows = coverage.coverage(group)
    if as_json:
        say(json.dumps(coverage.to_dict(rows), indent=2))
        return
    if as_markdown:
        say(coverage.markdown("families" if by_family else "models", rows))
        return
    print_table(*(coverage.family_table if by_family else coverage.table)(rows))
    say(f"\n{coverage.summary(rows)}")


def _compile_ahead(ids: list[str], chips: list[str], as_json: bool) -> None:
    """Print what each executable reports; as JSON, one line as soon as it is known."""
    from clipjax.progress import progress_through
    from clipjax.verification.aot import aot_table, programs, table_cells, table_titles

    total = len(programs(ids)) * len(chips)
    rows = progress_through(aot_table(ids, chips), total, "compiling", "program")
    if as_json:
        for row in rows:
            say(json.dumps(row.to_dict()))
        return
    print_table(table_titles(), [table_cells(row) for row in rows])
