"""`clipjax results show`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from clipjax.commands.shared.options import JsonOption, LinesOption, ResultsOptions, RunArgument
from clipjax.commands.shared.output import print_table, say
from clipjax.commands.shared.result_folder import opened, run_in


@dataclass(frozen=True, kw_only=True)
class ShowOptions:
    run: RunArgument
    where: ResultsOptions
    limit: LinesOption = 100
    as_json: JsonOption = False


def show(options: ShowOptions) -> None:
    """Show everything that is known of a run: its recipe, where it was made, and its numbers.

    Examples:

        clipjax results show 20260101T120000
    """
    from clipjax.results.tables import summary_table

    store = opened(options.where.path)
    run = run_in(store, options.run)
    rows = store.run(run)
    if options.as_json:
        say(json.dumps(rows, indent=2))
        return
    shared = store.shared(run)
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
