"""`clipjax results sync`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from clipjax.commands.shared.options import ResultsOptions
from clipjax.commands.shared.output import announce, say
from clipjax.errors import DataError, counted


@dataclass(frozen=True, kw_only=True)
class SyncOptions:
    place: Annotated[
        Path,
        typer.Argument(metavar="PLACE", help="Folder or bucket (gs://..., s3://...) that others use, too."),
    ]
    where: ResultsOptions
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be copied, and copy nothing.")
    ] = False


def sync(options: SyncOptions) -> None:
    r"""Exchange runs with a folder or bucket that several people use: each gets the runs that it lacks.

    Runs are checked by their digests and copied whole. None is changed or removed, so several machines may do
    this at once, and an interrupted exchange continues.

    Examples:

        clipjax results sync gs://lab/results

        clipjax results sync /shared/results mine --dry-run
    """
    from clipjax.results.runs.sync import sync_results
    from clipjax.storage.remote.buckets import as_path

    here, there = as_path(options.where.path), as_path(options.place)
    done = sync_results(here, there, dry_run=options.dry_run, progress=announce)
    would = "would be " if options.dry_run else ""
    say(f"{there}: {counted(len(done.sent), 'run')} {would}added")
    say(f"{here}: {counted(len(done.fetched), 'run')} {would}added")
    if problems := done.problems:
        more = f" (and {len(problems) - 1} more like it)" if len(problems) > 1 else ""
        raise DataError(f"{counted(len(problems), 'run')} not copied: {problems[0]}{more}")
