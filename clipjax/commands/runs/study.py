"""`clipjax study`: fetch, sweep, analyze, claims and report, one after the other."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from clipjax.commands.datasets_fetch import check_accepted, check_source, print_plan, run_fetch, show
from clipjax.commands.results.analyze import AnalyzeOptions, analyze
from clipjax.commands.results.claims import ClaimsOptions, claims
from clipjax.commands.results.report import ReportOptions, report
from clipjax.commands.runs.sweep import sweep, swept
from clipjax.commands.runs.sweep_options import SweepOptions
from clipjax.commands.shared.exclusions import refuse_beside
from clipjax.commands.shared.options import (
    AcceptOption,
    ClaimsOption,
    FigureOption,
    ModelRootOption,
    NoPixelStoreOption,
    NoRetryOption,
    OnlyModelsOption,
    PromptSetOption,
    ResultsOptions,
    SampleOption,
    SourceOption,
    TrackOption,
)
from clipjax.commands.shared.output import print_table, say
from clipjax.commands.shared.records import FieldsOf, fields_of, with_options
from clipjax.commands.shared.stores import StoreOptions
from clipjax.embeddings.compute import Compute
from clipjax.errors import DataError, UsageError, readable_bytes
from clipjax.options import AUTO

if TYPE_CHECKING:
    from clipjax.analysis.claims.ledger import Ledger
    from clipjax.analysis.figures.spec import Spec
    from clipjax.downloads.bundles import Bundle
    from clipjax.sweep.data_sets import NeededData


def register(app: typer.Typer) -> None:
    """`clipjax study`, and the commands that it is made of."""
    app.command("sweep")(with_options(SweepOptions, sweep))
    app.command("analyze")(with_options(AnalyzeOptions, analyze))
    app.command("claims")(with_options(ClaimsOptions, claims))
    app.command("report")(with_options(ReportOptions, report))
    app.command("study")(with_options(StudyOptions, study))


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    PANELS: ClassVar = {
        "Where things are": ("data_root", "model_root", "out", "track"),
        "What is fetched": ("accept", "source", "no_fetch"),
        "What is run": ("models", "limit", "dry_run", "no_retry"),
        "What is drawn": ("figure", "claims", "prompts"),
        "Speed and storage": ("store", "pixel_store", "pixel_budget", "no_pixel_store"),
    }
    context: typer.Context
    suite: Annotated[str, typer.Argument(metavar="SUITE", help="As `clipjax sweep` takes it.")] = (
        "suite:study"
    )
    data_root: Annotated[
        Path | None,
        typer.Option(
            "--data-root",
            help="Folder of data sets; those that are not there are fetched into it. Default: the suite's.",
        ),
    ] = None
    model_root: ModelRootOption = None
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for results, figures, claims.md and report.html.")
    ] = Path("study")
    track: TrackOption = None
    accept: AcceptOption = None
    source: SourceOption = None
    no_fetch: Annotated[
        bool, typer.Option("--no-fetch", help="Download nothing: run on the data sets that are there.")
    ] = False
    models: OnlyModelsOption = None
    limit: SampleOption = None
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Fetch and run nothing: print what would be, and the bytes, hours and disk it takes.",
        ),
    ] = False
    no_retry: NoRetryOption = False
    figure: FigureOption = None
    claims: ClaimsOption = None
    prompts: PromptSetOption = None
    stores: StoreOptions
    no_pixel_store: NoPixelStoreOption = False
    how: Annotated[
        dict[str, Any],
        FieldsOf(*(Compute, "per_device_batch", "workers", "params"), per_device_batch=AUTO, workers=AUTO),
    ]

    def check(self) -> None:
        if self.no_fetch:
            refuse_beside("--no-fetch", {"--accept": self.accept, "--from": self.source})
        check_source(self.source)

    @property
    def results(self) -> Path:
        return self.out / "results"

    def specs(self) -> list[Spec]:
        """The figures and tables. Raises as `load_spec`."""
        from clipjax.analysis.figures.spec import load_spec, spec_names

        return [load_spec(name) for name in self.figure or spec_names()]

    def ledger(self) -> Ledger:
        from clipjax.analysis.claims.ledger import ledger

        return ledger(self.claims)


def study(options: StudyOptions) -> None:
    r"""Fetch a suite's data sets, run it, and make its figures, tables, claims and report.

    Does what `clipjax datasets fetch`, `sweep`, `analyze`, `claims` and `report` do. Names the data sets that
    it cannot get, and what is left out without them, and runs the rest. Interrupted anywhere, the same
    command goes on. Exit codes as those of `clipjax sweep`.

    Examples:

        clipjax study --data-root /data --dry-run

        clipjax study --data-root /data --out study --accept objectnet

        clipjax study --data-root /data --limit 1000 \
            --models vit_b_32-openai --models vit_b_16-openai
    """
    options.check()
    run = fields_of(SweepOptions, options, context=None)  # which only --submit asks
    run.check()
    root = run.read_suite.data_root
    if root is None:
        raise UsageError(f"say where the data sets of {options.suite} are, or go: --data-root FOLDER")
    specs, book = options.specs(), options.ledger()  # a wrong file of figures costs nothing yet
    from clipjax.downloads.bundles import bundles_of
    from clipjax.storage.buckets import refuse_url
    from clipjax.sweep.data_sets import data_sets_of

    if not options.no_fetch:
        refuse_url(root, "what is fetched")
    needed = data_sets_of(run.read_suite)
    absent = {each.card.name for each in needed if not each.is_there}
    own = run.read_suite.data  # folders that the user named: nothing is put there
    cards = [each.card for each in needed if each.card.files and each.card.name not in own]
    all_bundles = bundles_of(cards, root)
    check_accepted(options.accept or (), all_bundles)
    bundles = [each for each in all_bundles if absent & {card.name for card in each.cards}]
    bundles = [] if options.no_fetch else bundles
    if options.dry_run:
        _preview(run, root, bundles)
        return
    why = _fetched(options, root, bundles)
    _say_left_out([each for each in needed if not each.is_there], why, specs, book)
    _finish(options, run)


def _preview(run: SweepOptions, root: Path, bundles: Sequence[Bundle]) -> None:
    from clipjax.storage.reading import exists, is_dir

    swept(replace(run, data_root=root if is_dir(root) else None))
    if not bundles:
        say("to fetch: nothing")
        return
    say("\nTo fetch:", bold=True)
    print_plan(bundles, root, as_json=False)
    disk = next(folder for folder in (root, *root.absolute().parents) if exists(folder))
    files = {file for bundle in bundles for file in bundle.files if file.downloadable}
    contents = readable_bytes(sum(file.unpacked or file.size or 0 for file in files))
    free = readable_bytes(shutil.disk_usage(disk).free)
    say(
        f"disk: {free} are free for {root}; the contents of files of known size take {contents}, and the "
        "files come beside them until they are unpacked"
    )


def _fetched(options: StudyOptions, root: Path, bundles: Sequence[Bundle]) -> dict[str, str]:
    """Fetch the bundles. Returns why data sets are not there: name -> a few words.

    Raises DataError if the data root cannot be written to, or its disk has too little room.
    """
    if not bundles:
        return {}
    reports = run_fetch(bundles, root, options.source, options.accept or ())
    show(reports, root)
    return {card.name: report.state for report in reports for card in report.bundle.cards}


def _say_left_out(
    absent: Sequence[NeededData], why: Mapping[str, str], specs: Sequence[Spec], book: Ledger
) -> None:
    """Name the data sets that are not there, and what cannot be whole without them."""
    if not absent:
        return
    from clipjax.sweep.data_sets import left_out

    reasons = {
        each.card.name.partition(":")[0]: why.get(each.card.name)
        or ("not fetched" if each.card.files else "its card names no files to fetch")
        for each in absent
    }
    rows = [
        [each.family, reasons[each.family], *map(" ".join, (each.tasks, each.figures, each.claims))]
        for each in left_out(absent, specs, book.claims)
    ]
    say("\nThese data sets are not there, so these are left out or not whole:", bold=True)
    print_table(["data set", "why", "tasks", "figures and tables", "claims"], rows)
    say()


def _finish(options: StudyOptions, run: SweepOptions) -> None:
    """Run the suite, and draw and test what there are rows of. What fails does not stop the rest.

    Raises DataError, at the end, for everything that failed or is left.
    """
    from clipjax.results.store import ResultStore

    problems = list[str]()
    _attempt(lambda: swept(run, last=False), problems)
    if ResultStore(options.results).run_ids():
        for step in _drawing(options):
            _attempt(step, problems)
    if problems:
        raise DataError("; also ".join(problems))


def _attempt(step: Callable[[], object], problems: list[str]) -> None:
    try:
        step()
    except DataError as error:
        problems.append(str(error))


def _drawing(options: StudyOptions) -> Iterator[Callable[[], object]]:
    """`clipjax analyze`, `claims` and `report` of the results, each as its own options state."""
    where, out = ResultsOptions(folder=options.results), options.out
    shared: dict[str, Any] = {"where": where, "prompts": options.prompts}
    figures = AnalyzeOptions(**shared, figure=options.figure, out=out / "figures")
    page = ReportOptions(**shared, figure=options.figure, claims=options.claims, out=out / "report.html")
    ledger = ClaimsOptions(
        **shared, context=options.context, file=options.claims, form="markdown", out=out / "claims.md"
    )
    return iter((lambda: analyze(figures), lambda: claims(ledger), lambda: report(page)))
