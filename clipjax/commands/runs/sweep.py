"""`clipjax sweep SUITE`."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from clipjax.commands.shared.exclusions import as_written, refuse_beside, refuse_without
from clipjax.commands.shared.options import (
    DistributedOption,
    ModelRootOption,
    NoPixelStoreOption,
    OnlyModelsOption,
    SampleOption,
    TrackOption,
)
from clipjax.commands.shared.output import announce, print_table, say
from clipjax.commands.shared.processes import join, say_slow, say_waiting
from clipjax.commands.shared.records import FieldsOf
from clipjax.commands.shared.stores import CACHE, StoreOptions
from clipjax.devices import signals
from clipjax.embeddings.compute import Compute
from clipjax.errors import DataError, counted, unknown_name
from clipjax.options import AUTO
from clipjax.results.tracking.tracker import check_trackers

if TYPE_CHECKING:
    from clipjax.estimates.hours import MachineRates
    from clipjax.sweep.execution import SweepReport
    from clipjax.sweep.plan import SweepItem, SweepPlan
    from clipjax.sweep.suite import Suite


QUEUES = ("slurm",)
ONLY_HERE = ("submit", "shares", "dry_run", "share_of_peak")  # not of the jobs that --submit makes


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    PANELS: ClassVar = {
        "Where things are": ("data_root", "model_root", "results", "track"),
        "What is run": (
            *("models", "limit", "dry_run", "share_of_peak", "no_retry", "status", "collect", "from_"),
        ),
        "In parts": ("shares", "shard", "submit", "distributed"),
        "Speed and storage": (
            *("store", "pixel_store", "pixel_budget", "no_pixel_store", "no_compile_cache", "keep_maps"),
        ),
    }
    context: typer.Context
    suite: Annotated[
        str,
        typer.Argument(metavar="SUITE", help="A TOML file, or suite:NAME for one that ships with clipjax."),
    ]
    data_root: Annotated[
        Path | None, typer.Option("--data-root", help="Folder of data sets, in place of the suite's.")
    ] = None
    model_root: ModelRootOption = None
    models: OnlyModelsOption = None
    limit: SampleOption = None
    results: Annotated[
        Path, typer.Option(help="Folder for result rows; runs that have rows there are skipped.")
    ] = Path("results")
    track: TrackOption = None
    stores: StoreOptions
    no_pixel_store: NoPixelStoreOption = False
    no_compile_cache: Annotated[
        bool, typer.Option("--no-compile-cache", help="Keep no compiled programs between runs.")
    ] = False
    how: Annotated[
        dict[str, Any],
        FieldsOf(
            *(Compute, "per_device_batch", "workers", "params", "keep_maps"),
            per_device_batch=AUTO,
            workers=AUTO,
        ),
    ]
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Run part I of N, for the jobs of an array.")
    ] = None
    shares: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="With --dry-run: print what each of N parts would take. With --submit: the number of jobs.",
        ),
    ] = None
    submit: Annotated[
        str | None,
        typer.Option(
            metavar="QUEUE",
            help="Run nothing here: hand the parts to slurm as the jobs of an array, with time and memory "
            "from their cost. With --dry-run: print the script.",
        ),
    ] = None
    no_retry: Annotated[
        bool,
        typer.Option(
            "--no-retry",
            help="Leave runs alone that failed before and have a record below --results. Default: they run "
            "again.",
        ),
    ] = False
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Evaluate nothing: print what would be run, what it takes and what exists. Models of torch: "
            "and module:function are opened.",
        ),
    ] = False
    share_of_peak: Annotated[
        float | None,
        typer.Option(
            "--share-of-peak",
            metavar="SHARE",
            help="With --dry-run or --submit: the share of its peak that a GPU is assumed to reach; default: "
            "as in configs/machines.toml.",
        ),
    ] = None
    status: Annotated[
        bool,
        typer.Option(
            "--status",
            help="Run nothing: print what the sweep's jobs have done, what failed and why, and the time "
            "left. Reads --results alone, so it works on any machine that sees that folder.",
        ),
    ] = False
    collect: Annotated[
        bool, typer.Option("--collect", help="Run nothing: list the runs without results.")
    ] = False
    from_: Annotated[
        list[Path] | None,
        typer.Option("--from", help="With --collect: folders of results to copy into --results first."),
    ] = None
    distributed: DistributedOption = False

    def check(self) -> None:
        stores = self.stores
        if self.no_pixel_store:
            pixels = {"--pixel-store": stores.pixel_store, "--pixel-budget": stores.pixel_budget}
            refuse_beside("--no-pixel-store", pixels)
        shown = {"--collect": self.collect, "--dry-run": self.dry_run, "--status": self.status}
        to_run: dict[str, object] = {"--distributed": self.distributed}
        if self.submit is None:
            to_run |= {"--no-retry": self.no_retry, "--track": self.track}
        else:  # its jobs take these
            self._check_submit()
        for main in (name for name, is_given in shown.items() if is_given):
            others = {name: is_given for name, is_given in shown.items() if name != main}
            refuse_beside(main, {**others, **to_run})
        if self.status:
            refuse_beside("--status", {"--shard": self.shard, "--models": self.models, "--limit": self.limit})
        if not self.collect:
            refuse_without("--collect", {"--from": self.from_})
        if not self.dry_run and self.submit is None:
            asked = {"--shares": self.shares, "--share-of-peak": self.share_of_peak}
            refuse_without("--dry-run", asked)
        check_trackers(self.track or ())
        if not self.distributed:  # there all processes read it, and end together
            _ = self.read_suite

    def _check_submit(self) -> None:
        if self.submit not in QUEUES:
            raise unknown_name("queue", str(self.submit), list(QUEUES))
        beside = {"--collect": self.collect, "--status": self.status, "--shard": self.shard}
        refuse_beside("--submit", {**beside, "--distributed": self.distributed})

    @functools.cached_property
    def read_suite(self) -> Suite:
        """Imports no JAX: a mistake in the file is found at once."""
        from clipjax.sweep.subset import subset
        from clipjax.sweep.suite import load_suite

        whole = load_suite(self.suite, data_root=self.data_root, model_root=self.model_root)
        return subset(whole, self.models or (), self.limit)

    def compute(self) -> Compute:
        """The options of computing; by default the user's cache keeps pixels."""
        pixels = None if self.no_pixel_store else self.stores.pixel_store or CACHE
        return replace(self.stores, pixel_store=pixels).compute(**self.how)


def sweep(options: SweepOptions) -> None:
    r"""Run a suite: every model on every data set with every task that it names.

    Runs with results are skipped, and failures are named at the end. Options that the suite sets come before
    these, but for --limit, of which the smaller one counts. Exit codes: 0 nothing is left, 1
    something failed or is missing, 75 interrupted: run it again. A failed run leaves its reason and its
    traceback in RESULTS/.failed until it succeeds.

    Examples:

        clipjax sweep suite:study --dry-run

        clipjax sweep suite.toml --data-root /data --dry-run

        clipjax sweep suite.toml --data-root /data

        clipjax sweep suite:study --data-root /data --limit 1000 \
            --models vit_b_32-openai --models vit_b_16-openai

        clipjax sweep suite.toml --data-root /data --shard 3/8

        clipjax sweep suite.toml --data-root /data --submit slurm --dry-run

        clipjax sweep suite.toml --results results --status

        clipjax sweep suite.toml --data-root /data --collect
    """
    swept(options)


def swept(options: SweepOptions, *, last: bool = True) -> None:
    """Run a sweep, or say what `options` ask for.

    last: nothing follows, so that a signal after the last run changes nothing.
    """
    options.check()
    if options.status:
        _show_status(options)
        return
    from clipjax.estimates.hours import load_machines
    from clipjax.sweep.shards import cut, read_shard
    from converters.hub import only_cached

    part = None if options.shard is None else read_shard(options.shard)
    machines = load_machines(options.share_of_peak) if options.dry_run or options.submit else []
    join(options.distributed)
    compute = options.compute()
    _use_compile_cache(not options.no_compile_cache)
    offline = options.dry_run or options.collect or options.submit is not None
    with only_cached() if offline else contextlib.nullcontext():
        plan = _plan(options, compute)
        items = plan.items if part is None else cut(plan.items, part.of)[part.number - 1]
        if options.submit is not None:
            _submit(plan, options, machines)
        elif options.collect:
            _collect(plan, items, compute, options.results, options.from_ or [])
        elif options.dry_run:
            shards = options.shares or (part.of if part else 1)
            _preview(plan, items, compute, options.results, shards, machines)
        else:
            _run(plan, items, compute, options, last)


def _submit(plan: SweepPlan, options: SweepOptions, machines: Sequence[MachineRates]) -> None:
    """Hand the sweep to Slurm, or print the script."""
    from clipjax.sweep.slurm import SUBMITTED, array_for, logs_in, script, submit

    [machine] = [each for each in machines if each.name == SUBMITTED]
    array, logs = array_for(plan, machine, options.shares), logs_in(options.results)
    given = as_written(options.context, but=ONLY_HERE)
    text = script(plan.suite.name, array, [sys.executable, "-m", "clipjax", "sweep", *given], logs)
    if options.dry_run:
        say(text)
        return
    number, time = submit(text, logs), f"{array.minutes // 60} h {array.minutes % 60:02d} min"
    say(
        f"array {number}: {counted(array.parts, 'job')} of at most {time} and {array.gigabytes} GB; stopped "
        f"ones go on; see clipjax sweep {options.suite} --results {options.results} --status"
    )


def _show_status(options: SweepOptions) -> None:
    from clipjax.results.failed_runs import FailedRuns
    from clipjax.sweep.status import HEADER, status

    found = status(options.read_suite.name, options.results)
    print_table(HEADER, found.rows)
    if found.failed:
        say(f"\n{len(found.failed)} failed, with tracebacks in {FailedRuns(options.results).folder}:")
        for each in found.failed:
            say(f"  {each.run}: {each.reason} ({each.time} on {each.host})")
    say()
    for line in found.lines:
        say(line)


def _plan(options: SweepOptions, compute: Compute) -> SweepPlan:
    """The same in each process."""
    from clipjax.devices.agreement import on_all

    if not options.collect:
        announce(f"planning {options.suite}")
    from clipjax.sweep.plan import make_plan

    with on_all("make the plan of the sweep"):
        budget = None if compute.pixel_store is None else compute.pixel_store.budget
        return make_plan(options.read_suite, budget, absent=options.dry_run and options.submit is None)


def _run(
    plan: SweepPlan, items: Sequence[SweepItem], compute: Compute, options: SweepOptions, last: bool
) -> None:
    import jax

    from clipjax.devices.agreement import on_all
    from clipjax.results.store import ResultStore
    from clipjax.sweep.execution import complete, run_sweep

    def tell(line: str) -> None:
        if jax.process_index() == 0:
            say(line, err=True)

    assert compute.store is not None
    results = options.results
    how = {"part": options.shard or "1/1", "retry": not options.no_retry, "track": options.track or ()}
    with on_all("use the folders of the sweep"):
        ResultStore(results).check_root(written=True)
        compute.store.check_root()
    for line in plan.missing_lines:
        tell(line)
    if jax.process_index() == 0 and any(item.options.get("precision") == "fast" for item in items):
        say_slow("fast")
    report = run_sweep(plan, items, compute, results, **how, tell=tell)
    if last:
        signals.done()
    if jax.process_index() == 0:
        _show(report, results, jax.process_count())
    complete(report, plan)


def _show(report: SweepReport, results: Path, processes: int) -> None:
    say(f"{counted(report.runs, 'run')} done now, {report.skipped} before", err=True)
    if processes > 1:
        say(f"of the first of {processes} processes:", err=True)
    say_waiting(report.stats)
    if report.compiles:
        rows = [[*program, count] for program, count in report.compiles.items()]
        print_table(["architecture", "tower", "size", "batch", "precision", "compiled"], rows)
    if report.failures:
        from clipjax.results.failed_runs import FailedRuns

        say(f"\n{len(report.failures)} failed, with tracebacks in {FailedRuns(results).folder}:")
        for failure in report.failures:
            say(f"  {failure.what}: {failure.reason}")


def _preview(
    plan: SweepPlan,
    items: Sequence[SweepItem],
    compute: Compute,
    results: Path,
    shards: int,
    machines: Sequence[MachineRates],
) -> None:
    from clipjax.sweep.preview import preview

    found = preview(plan, items, compute, results, shards, machines)
    parts = [found.shards] if shards > 1 else []
    for table in (found.models, found.recipes, found.absent, *parts, found.hours):
        if table.rows:
            print_table(table.header, table.rows)
            say()
    for line in found.lines:
        say(line)


def _collect(
    plan: SweepPlan, items: Sequence[SweepItem], compute: Compute, results: Path, folders: Sequence[Path]
) -> None:
    """Raises DataError if anything is missing."""
    from clipjax.results.merge import merge_results
    from clipjax.results.store import ResultStore
    from clipjax.sweep.state import lacking

    if folders:
        added = merge_results(folders, results)
        say(f"{counted(added, 'run')} copied to {results}", err=True)
    ResultStore(results).rows()  # names a run that is damaged, and has no results then
    left = lacking(items, results, compute)
    for item, reason in left:
        say(f"{item}{': ' + reason if reason else ''}")
    named = {missing.family for missing in plan.missing if missing.named}
    for line in plan.missing_line(named=True):
        say(f"missing: {line}")
    say(f"{len(items) - len(left)} of {counted(len(items), 'run')} have results", err=True)
    if left or named:
        raise DataError(
            f"{counted(len(left), 'run')} and {counted(len(named), 'data set')} are missing from "
            f"{results}: run the sweep again, with --shard or without; it does what is missing"
        )


def _use_compile_cache(kept: bool) -> None:
    """The user's cache, unless JAX has another place."""
    import jax

    from clipjax.devices.programs import enable_compile_cache

    if kept:
        enable_compile_cache()
    else:
        jax.config.update("jax_enable_compilation_cache", False)
