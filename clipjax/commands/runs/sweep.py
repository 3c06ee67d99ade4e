"""`clipjax sweep SUITE`."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clipjax.commands.runs.sweep_options import ONLY_HERE, SweepOptions
from clipjax.commands.shared.exclusions import as_written
from clipjax.commands.shared.output import announce, print_table, say
from clipjax.commands.shared.processes import join, say_slow, say_waiting
from clipjax.devices import signals
from clipjax.embeddings.compute import Compute
from clipjax.errors import DataError, counted

if TYPE_CHECKING:
    from clipjax.estimates.hours import MachineRates
    from clipjax.evaluation.plans.collection import Shared
    from clipjax.sweep.execution import SweepReport
    from clipjax.sweep.plan import SweepItem, SweepPlan


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

        clipjax sweep suite.toml --submit xpk --dry-run \
            --data-root gs://lab/data --results gs://lab/results

        clipjax sweep suite.toml --results results --status

        clipjax sweep suite.toml --data-root /data --collect
    """
    swept(options)


def swept(options: SweepOptions, *, last: bool = True, shared: Shared | None = None) -> None:
    """Run a sweep, or say what `options` ask for.

    Args:
        last: nothing follows, so that a signal after the last run changes nothing.
        shared: as in `make_plan`.
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
        plan = _plan(options, compute, shared)
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
    """Hand the sweep to Slurm, or print the file for the queue."""
    from clipjax.sweep.job_files import MACHINES, job_file
    from clipjax.sweep.job_reports import duration
    from clipjax.sweep.slurm import SUBMITTED, array_for, logs_in, script, submit

    queue, arguments = str(options.submit), as_written(options.context, but=ONLY_HERE)
    [machine] = [each for each in machines if each.name == MACHINES.get(queue, SUBMITTED)]
    array, logs = array_for(plan, machine, options.shares), logs_in(options.results)
    if queue in MACHINES:
        say(job_file(queue, plan.suite.name, array, ["clipjax", "sweep", *arguments]))
        return
    status = ["clipjax", "sweep", str(options.suite), "--results", str(options.results), "--status"]
    text = script(
        plan.suite.name, array, [sys.executable, "-m", "clipjax", "sweep", *arguments], logs, status
    )
    if options.dry_run:
        say(text)
        return
    number, time = submit(text, logs), duration(60 * array.minutes)
    say(f"array {number}: {counted(array.parts, 'job')} of at most {time} and {array.gigabytes} GB")
    say(f"how far they are: {shlex.join(status)}")


def _show_status(options: SweepOptions) -> None:
    """Raises DataError if a run failed or a data set is missing."""
    from clipjax.results.runs.failed_runs import FailedRuns
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
    if found.failed or found.missing:
        names = f" (missing: {'; '.join(found.missing)})" if found.missing else ""
        raise DataError(
            f"the sweep is not whole, {counted(len(found.failed), 'run')} failed{names}: run it again when "
            "its jobs have ended; it does what is missing"
        )


def _plan(options: SweepOptions, compute: Compute, shared: Shared | None) -> SweepPlan:
    """The same in each process."""
    from clipjax.devices.agreement import on_all

    if not options.collect:
        announce(f"planning {options.suite}")
    from clipjax.sweep.plan import make_plan

    with on_all("make the plan of the sweep"):
        budget = None if compute.pixel_store is None else compute.pixel_store.budget
        absent = options.dry_run and options.submit is None
        return make_plan(options.read_suite, budget, absent=absent, shared=shared)


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
        from clipjax.results.runs.failed_runs import FailedRuns

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
    from clipjax.results.runs.merge import merge_results
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
