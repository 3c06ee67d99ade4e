"""`make demo`."""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from clipjax.devices import signals
from clipjax.errors import ClipjaxError

app = typer.Typer(add_completion=False)


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="Folder for everything that the demo makes.")] = Path("demo-out"),
    quick: Annotated[
        bool, typer.Option("--quick", help="Only show that it runs: few images, hardly any training.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the world and of training from scratch.")] = 0,
) -> None:
    """Render a small world, train three CLIPs and a LLaVA on it, run all tasks, fine-tune by every method.

    About four minutes on two cores. What is in --out already is not made again.
    """
    from clipjax.demo.demo import run
    from clipjax.demo.plan import FULL, QUICK

    start = time.perf_counter()
    try:
        run(out, dataclasses.replace(QUICK if quick else FULL, seed=seed))
    except ClipjaxError as error:
        signals.check()
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    typer.echo(f"{time.perf_counter() - start:.0f} seconds", err=True)


if __name__ == "__main__":
    with signals.handled():
        app()
