"""`python -m clipjax.demo`: what `make demo` runs."""

from __future__ import annotations

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

    try:
        demo = run(out, QUICK if quick else FULL)
    except ClipjaxError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    typer.echo("\nZero-shot accuracy on held-out images of the demo world, 12 classes (chance: 8.3%)\n")
    print_table(*table(demo.results))
    best = out / "models" / table(demo.results)[1][-1][0]
    typer.echo(f"""
figure   {", ".join(map(str, demo.figure))}
results  {out / "results"}: rows with provenance, and one row an image
models   {out / "models"}: load with clipjax.load_model("{best}")
images   {out / "world"}

Try next:
  clipjax results list {out / "results"}
  clipjax eval zeroshot --model {best} --data {out / "world" / "val"} --dataset demo_val --prompts single
  clipjax eval zeroshot --model {best} --data {out / "world" / "narrow.jsonl"} --dataset demo_train""")


if __name__ == "__main__":
    app()
