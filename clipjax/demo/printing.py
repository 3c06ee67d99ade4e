"""The demo's last lines: tables, and commands to try next."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from clipjax.analysis.claims.claims import check
from clipjax.analysis.claims.ledger import ledger
from clipjax.commands.shared.output import print_table
from clipjax.demo import report
from clipjax.demo.analysis import CLAIMS, FIGURES, PROMPTS, claim_tables
from clipjax.demo.plan import LLAVA, Plan
from clipjax.demo.reading import Demo
from clipjax.demo.tuning import QUICK_SHOTS
from clipjax.results.store import ResultStore


def print_tables(demo: Demo, plan: Plan) -> None:
    names = [model.id for model in plan.models]
    typer.echo(
        f"\n{len(names)} models of the demo world, {len(demo.results)} runs; 95 % intervals in brackets"
    )
    tables = (
        *report.tables(demo.rows, names),
        report.answers_table(demo.answers, plan.tower.id),
        report.tuning_table(demo.tuned),
        *claim_tables(check(ledger(CLAIMS), ResultStore(demo.out / "results").rows())),
    )
    for heading, titles, cells in tables:
        typer.echo(f"\n{heading}\n")
        print_table(titles, cells)
    typer.echo(_next_steps(demo.out, names, plan))


def _next_steps(out: Path, names: Sequence[str], plan: Plan) -> str:
    pictures = [*report.pictures(), *(f"{figure.stem}.png" for figure in FIGURES)]
    figures = " ".join(f"--figure {figure}" for figure in FIGURES)
    best = out / "models" / names[-1]
    # `make demo` uses an environment whose commands the user's shell does not find.
    clipjax = (
        "clipjax" if shutil.which("clipjax") else os.path.relpath(Path(sys.executable).with_name("clipjax"))
    )
    fewer = f" --set {QUICK_SHOTS}" if plan.quick else ""
    return f"""
figures  {", ".join(str(out / name) for name in pictures)} (and .pdf)
report   {out / "report.html"}: open it in a browser, it needs no network
gallery  {out / "gallery.html"}: images that models disagree on, that are hard for all, by factor
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
      --dataset demo_train --out {out}/flyp --dry-run{fewer}
"""
