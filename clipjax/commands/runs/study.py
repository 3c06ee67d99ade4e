"""`clipjax study`: fetch, sweep, analyze, claims and report, one after the other."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from clipjax.commands.datasets_fetch import check_accepted, check_source, print_plan, run_fetch, show
from clipjax.commands.results.analyze import AnalyzeOptions, analyze, drawn, specs_of
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
from clipjax.errors import ClipjaxError, DataError, UsageError, readable_bytes, unknown_name
from clipjax.options import AUTO

if TYPE_CHECKING:
    from clipjax.analysis.claims.ledger import Ledger
    from clipjax.analysis.figures.spec import Spec
    from clipjax.data.cards import DatasetCard
    from clipjax.downloads.bundles import Bundle
    from clipjax.evaluation.plans.collection import Shared
    from clipjax.sweep.data_sets import Job, NeededData
    from clipjax.sweep.suite import Suite

FETCHED = "fetched"


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

    @property
    def figures(self) -> AnalyzeOptions:
        where = ResultsOptions(folder=self.results)
        return AnalyzeOptions(where=where, figure=self.figure, prompts=self.prompts, out=self.out / "figures")

    def check_last(self, suite: Suite, jobs: Sequence[Job]) -> None:
        """Refuse what would stop the last steps, before anything is fetched or run.

        Raises:
            UsageError: no run of the suite, and no row of the results, has the prompt set.
            DataError: what they write to is a file, a folder or not writable.
        """
        from clipjax.results.store import ResultStore
        from clipjax.storage.reading import is_dir
        from clipjax.storage.remote.buckets import check_folder
        from clipjax.sweep.data_sets import prompt_sets_of

        (store := ResultStore(self.results)).check_root(written=True)
        check_folder(self.figures.out, "a folder for figures (--out)", written=True)
        for page in (self.out / "claims.md", self.out / "report.html"):
            if is_dir(page):
                raise DataError(f"{page} is a folder, and a page is written there; choose another --out")
        if self.prompts is None or self.prompts in (known := prompt_sets_of(jobs)):
            return
        if self.prompts not in {row["convention"].get("prompts") for row in store.rows()}:
            raise unknown_name(f"prompt set of {suite.name}", self.prompts, sorted(known))


def study(options: StudyOptions) -> None:
    r"""Fetch a suite's data sets, run it, and make its figures, tables, claims and report.

    Does what `clipjax datasets fetch`, `sweep`, `analyze`, `claims` and `report` do. Names the data sets that
    it cannot get, and what is left out without them, and runs the rest. Exit codes: 0 nothing is left, 1 the
    sweep left something or a step failed, 75 (SIGTERM) and 130 (Ctrl-C) interrupted: the same command goes
    on. Figures that lack rows are named, and are not failures.

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
    from clipjax.analysis.claims.ledger import ledger
    from clipjax.sweep.data_sets import data_sets_of, jobs_of

    specs, book = specs_of(options.figures), ledger(options.claims)  # what is wrong costs nothing yet
    shared: Shared = {}
    jobs = jobs_of(run.read_suite, shared)
    options.check_last(run.read_suite, jobs)
    needed = data_sets_of(run.read_suite, jobs)
    bundles = _bundles(options, run.read_suite, needed, root)
    if options.dry_run:
        _preview(run, root, bundles, shared)
        states = {card.name: _state(each, options.source) for each in bundles for card in each.cards}
        left = [each for each in needed if not each.is_there and states.get(each.card.name) != FETCHED]
    else:
        states = _fetched(options, root, bundles)
        left = [each for each in needed if not each.is_there]
    why = {each.card.name: _why_not_fetched(options, each.card) for each in left}
    _say_left_out(left, why | states, specs, book)
    if not options.dry_run:
        _finish(options, run, None if bundles else shared)  # what was fetched is read anew


def _bundles(options: StudyOptions, suite: Suite, needed: Sequence[NeededData], root: Path) -> list[Bundle]:
    """The bundles to fetch. Raises UsageError: a wrong --accept, or a data root that is a URL."""
    from clipjax.downloads.bundles import bundles_of
    from clipjax.storage.remote.buckets import refuse_url
    from clipjax.sweep.data_sets import cards_to_fetch

    bundles = bundles_of(cards_to_fetch(suite, needed).values(), root)
    check_accepted(options.accept or (), bundles)
    if options.no_fetch:
        return []
    refuse_url(root, "what is fetched")
    absent = {each.card.name for each in needed if not each.is_there}
    return [each for each in bundles if absent & {card.name for card in each.cards}]


def _why_not_fetched(options: StudyOptions, card: DatasetCard) -> str:
    if not card.files:
        return "its card names no files to fetch"
    return "--no-fetch" if options.no_fetch else "it belongs in a folder that the suite names"


def _state(bundle: Bundle, source: Path | None) -> str:
    """How the bundle's fetch would end, as far as that can be known beforehand."""
    if bundle.downloadable:
        return FETCHED
    return "by hand" if source is None else f"by hand, unless {source} has it"


def _preview(run: SweepOptions, root: Path, bundles: Sequence[Bundle], shared: Shared) -> None:
    from clipjax.downloads.bundles import bytes_unpacked
    from clipjax.storage.reading import exists

    swept(run, shared=shared)
    if not bundles:
        say("to fetch: nothing")
        return
    say("\nTo fetch:", bold=True)
    print_plan(bundles, root, as_json=False)
    disk = next(folder for folder in (root, *root.absolute().parents) if exists(folder))
    contents = readable_bytes(bytes_unpacked(bundle for bundle in bundles if bundle.downloadable))
    free = readable_bytes(shutil.disk_usage(disk).free)
    say(
        f"disk: {free} are free for {root}; the contents of files of known size take {contents}, and the "
        "files come beside them until they are unpacked"
    )


def _fetched(options: StudyOptions, root: Path, bundles: Sequence[Bundle]) -> dict[str, str]:
    """Fetch the bundles. Returns how that ended: name of a data set -> a few words.

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

    reasons = {each.card.name.partition(":")[0]: why[each.card.name] for each in absent}
    rows = [
        [each.family, reasons[each.family], *map(" ".join, (each.tasks, each.figures, each.claims))]
        for each in left_out(absent, specs, book.claims)
    ]
    say("\nThese data sets are not there, so these are left out or not whole:", bold=True)
    print_table(["data set", "why", "tasks", "figures and tables", "claims"], rows)
    say()


def _finish(options: StudyOptions, run: SweepOptions, shared: Shared | None) -> None:
    """Run the suite, and draw and test what there are rows of. What fails does not stop the rest.

    Raises at the end what failed or is left: the error itself, or a DataError with the words of several.
    """
    from clipjax.results.store import ResultStore

    problems = dict[str, ClipjaxError]()
    _attempt(lambda: swept(run, last=False, shared=shared), problems)
    if ResultStore(options.results).run_ids():
        for step in _drawing(options):
            _attempt(step, problems)
    if len(problems) == 1:
        raise next(iter(problems.values()))
    if problems:
        raise DataError("; also ".join(problems))


def _attempt(step: Callable[[], object], problems: dict[str, ClipjaxError]) -> None:
    try:
        step()
    except ClipjaxError as error:
        problems.setdefault(str(error), error)


def _drawing(options: StudyOptions) -> Iterator[Callable[[], object]]:
    """`clipjax analyze`, `claims` and `report` of the results, each as its own options state."""
    where, out = ResultsOptions(folder=options.results), options.out
    shared: dict[str, Any] = {"where": where, "prompts": options.prompts}
    page = ReportOptions(**shared, figure=options.figure, claims=options.claims, out=out / "report.html")
    ledger = ClaimsOptions(
        **shared, context=options.context, file=options.claims, form="markdown", out=out / "claims.md"
    )
    return iter((lambda: _draw(options.figures), lambda: claims(ledger), lambda: report(page)))


def _draw(figures: AnalyzeOptions) -> None:
    """Draw the figures. A study of a part may lack the rows of all of them: that is said, not raised."""
    if why := drawn(figures):
        say(f"no figure can be drawn: {why}", err=True)
