"""`python -m clipjax.demo`: what `make demo` runs."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from clipjax.errors import ClipjaxError

app = typer.Typer(add_completion=False)


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="Folder for everything that the demo makes.")] = Path("demo-out"),
    quick: Annotated[
        bool, typer.Option("--quick", help="Only show that it runs: tiny data, hardly any training.")
    ] = False,
) -> None:
    """Render a small world, train three CLIPs on it, evaluate them, and draw a figure.

    About four minutes on two cores. What is in --out already is not made again.
    """
    from clipjax.commands.output import print_table
    from clipjax.demo.run import FULL, QUICK, run, table
    from clipjax.demo.world import SHAPES

    try:
        demo = run(out, QUICK if quick else FULL)
    except ClipjaxError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        typer.echo("\ninterrupted; the same command goes on from here", err=True)
        sys.exit(75)
    chance = f"{len(SHAPES)} classes, chance {1 / len(SHAPES):.1%}"
    typer.echo(f"\nZero-shot accuracy on held-out images of the demo world ({chance})\n")
    titles, cells = table(demo.results)
    print_table(titles, cells)
    best, narrow = out / "models" / cells[-1][0], out / "models" / "demo-base-narrow"
    # `make demo` runs in an environment that the user's shell does not know.
    clipjax = (
        "clipjax" if shutil.which("clipjax") else os.path.relpath(Path(sys.executable).with_name("clipjax"))
    )
    typer.echo(f"""
figure   {", ".join(map(str, demo.figure))}
results  {out / "results"}: rows with provenance, and one row an image
models   {out / "models"}: load with clipjax.load_model("{best}")
images   {out / "world"}

Try next: all rows as a table; another prompt; the narrow model on images like those it learned from
  {clipjax} results list {out / "results"}
  {clipjax} eval zeroshot --model {best} --data {out}/world/val --dataset demo_val --prompts single
  {clipjax} eval zeroshot --model {narrow} --data {out}/world/narrow.jsonl --dataset demo_train
""")


if __name__ == "__main__":
    app()
