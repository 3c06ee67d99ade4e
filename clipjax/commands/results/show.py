"""`clipjax results show`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from clipjax.commands.shared.options import JsonOption, LinesOption, ResultsOption
from clipjax.commands.shared.output import print_table, say
from clipjax.commands.shared.result_folder import opened
from clipjax.errors import UsageError, unknown_name


@dataclass(frozen=True, kw_only=True)
class ShowOptions:
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="Id of a run (`clipjax results list --runs`), or the beginning of one."
        ),
    ]
    folder: ResultsOption = Path("results")
    limit: LinesOption = 100
    as_json: JsonOption = False


def show(options: ShowOptions) -> None:
    """Show everything that is known of a run: its recipe, where it was made, and its numbers.

    Examples:

        clipjax results show 20260101T120000
    """
    from clipjax.results.tables import summary_table

    store = opened(options.folder)
    runs = store.run_ids()
    matching = [options.run] if options.run in runs else [run for run in runs if run.startswith(options.run)]
    if len(matching) > 1:
        raise UsageError(
            f"{len(matching)} runs begin with {options.run!r}, such as {matching[0]}: give more of one "
            "(`clipjax results list --runs`)"
        )
    if not matching:
        raise unknown_name("run", options.run, runs)
    rows = store.run(matching[0])
    if options.as_json:
        say(json.dumps(rows, indent=2))
        return
    shared = store.shared(matching[0])
    for key, value in _lines(shared):
        say(f"{key}: {value}")
    say()
    print_table(*summary_table(rows[: options.limit or None]))
    if options.limit and (more := len(rows) - options.limit) > 0:
        say(f"not shown: {more} more rows (--limit 0 shows all)", err=True)


def _lines(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested keys joined by dots; what is unknown is left out."""
    for key, value in record.items():
        if isinstance(value, Mapping) and value:
            yield from _lines(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)
