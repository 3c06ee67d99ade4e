"""`make demo`."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipjax.devices import signals
from clipjax.errors import ClipjaxError

if TYPE_CHECKING:
    from clipjax.demo.plan import Plan
    from clipjax.demo.run import Demo

app = typer.Typer(add_completion=False)


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="Folder for everything that the demo makes.")] = Path("demo-out"),
    quick: Annotated[
        bool, typer.Option("--quick", help="Only show that it runs: few images, hardly any training.")
    ] = False,
) -> None:
    """Render a small world, train three CLIPs and a LLaVA on it, run all tasks, fine-tune by every method.

    About four minutes on two cores. What is in --out already is not made again.
    """
    from clipjax.demo.plan import FULL, QUICK
    from clipjax.demo.run import run

    start, plan = time.perf_counter(), QUICK if quick else FULL
    try:
        demo = run(out, plan)
        _report(demo, plan)
    except ClipjaxError as error:
        signals.check()
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    typer.echo(f"{time.perf_counter() - start:.0f} seconds", err=True)


def _report(demo: Demo, plan: Plan) -> None:
    from clipjax.commands.shared.output import print_table
    from clipjax.demo import report
    from clipjax.demo.analysis import analyse

    analysis = analyse(demo.out)
    drawn = [*report.figures(demo), *report.tuning_figures(demo.tuned, demo.out), *analysis.figures]
    names = [model.id for model in plan.models]
    typer.echo(
        f"\n{len(names)} models of the demo world, {len(demo.results)} runs; 95 % intervals in brackets"
    )
    tables = (
        *report.tables(demo.rows, names),
        report.asked_table(demo.asked, plan.tower.id),
        report.tuning_table(demo.tuned),
        *analysis.tables(),
    )
    for heading, titles, cells in tables:
        typer.echo(f"\n{heading}\n")
        print_table(titles, cells)
    typer.echo(_next_steps(demo.out, names, drawn, analysis.report))


def _next_steps(out: Path, names: Sequence[str], drawn: Sequence[Path], report: Path) -> str:
    from clipjax.demo.analysis import CLAIMS, FIGURES, PROMPTS
    from clipjax.demo.plan import LLAVA

    figures = " ".join(f"--figure {figure}" for figure in FIGURES)
    best = out / "models" / names[-1]
    # `make demo` uses an environment whose commands the user's shell does not find.
    clipjax = (
        "clipjax" if shutil.which("clipjax") else os.path.relpath(Path(sys.executable).with_name("clipjax"))
    )
    return f"""
figures  {", ".join(str(path) for path in drawn if path.suffix in (".png", ".jpg"))} (and .pdf)
report   {report}: open it in a browser, it needs no network
results  {out / "results"}: rows with provenance, and one row per image
models   {out / "models"}: load with clipjax.load_model("{best}"); {LLAVA} answers questions
tuned    {out / "finetuned"}: a folder per method, with its model, log and few-shot list
images   {out / "world"}

Try next: all rows as a table; two models, paired; the report, and what its claims rest on; a task on every
data set; what fine-tuning would take
  {clipjax} results list {out / "results"}
  {clipjax} compare {names[0]} {names[-1]} --metric top1 --results {out / "results"}
  {clipjax} report {out / "results"} {figures} --claims {CLAIMS} --prompts {PROMPTS}
  {clipjax} claims {out / "results"} --claims {CLAIMS} --rows
  {clipjax} eval ood --model {best} --data-root {out}/world
  {clipjax} finetune flyp --recipe demo_flyp --model {best} --data {out}/world/narrow.jsonl \\
      --dataset demo_train --out {out}/flyp --dry-run
"""


if __name__ == "__main__":
    signals.run(app)
