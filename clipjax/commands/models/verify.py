"""`clipjax verify MODEL`: is this the same model as the reference?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipjax.commands.shared.exclusions import refuse_beside, refuse_without
from clipjax.commands.shared.output import say
from clipjax.errors import ClipjaxError, UsageError


def register(app: typer.Typer) -> None:
    app.command("verify")(verify)


def verify(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="A clipjax folder, checkpoint, or model id.")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            help="open_clip, timm, transformers (run as a subprocess; needs the `reference` extra), golden. "
            "Default: the library that the model's card names."
        ),
    ] = None,
    golden: Annotated[Path | None, typer.Option(help="The golden .npz file, with --against golden.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also write the JSON report to this file.")
    ] = None,
    card: Annotated[
        str | None,
        typer.Option(
            "--card",
            "--model",
            "-m",
            metavar="ID",
            help="Registered model that says how to load MODEL, if that is bare weights.",
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every registered architecture; needs --random-init.")
    ] = False,
    random_init: Annotated[
        bool, typer.Option("--random-init", help="With --all: on random weights, at full and at small size.")
    ] = False,
    record: Annotated[
        Path | None, typer.Option(help="With --all: the parity record; default configs/parity.json.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="With --all: verify at most this many that are not up to date.")
    ] = None,
) -> None:
    """Is this the same model as the reference? Compare stage by stage and print a JSON report.

    The report names the first stage that differs. Exit code 0 if the model passes, 1 if it does not or if
    anything could not be compared.

    --all --random-init needs no weights. For every registered architecture it matches the keys and shapes of
    the reference library's full-size tensors, and compares a small model with the same flags number by
    number. The record is written after each architecture; what is up to date is not done again.
    """
    if everything != random_init or everything == (model is not None):
        raise UsageError("give a model to verify, or --all --random-init for every registered architecture")
    if everything:
        refuse_beside("--all", {"--against": against, "--golden": golden, "--card": card})
        _verify_all(record, limit, out)
        return
    refuse_beside(f"the model {model}", {"--record": record, "--limit": limit})
    if against != "golden":
        refuse_without("--against golden", {"--golden": golden})
    from clipjax.checkpoints.load import load_model
    from clipjax.storage.writing import write_bytes
    from clipjax.verification.verify import verify as run

    report = run(load_model(str(model), card=card) if card else str(model), against=against, golden=golden)
    text = report.to_json()
    say(text)
    if out is not None:
        write_bytes(out, f"{text}\n".encode())
    if not report.passed:
        what = report.problem or f"it differs first at {report.first_difference}"
        raise ClipjaxError(f"{report.model} is not verified against {report.against}: {what}")


def _verify_all(record: Path | None, limit: int | None, out: Path | None) -> None:
    """Verify the whole registry; an architecture unlike its reference is a failure."""
    from clipjax.storage.writing import write_bytes
    from clipjax.verification.parity import sweep

    swept = sweep(record, limit=limit)
    text = swept.to_json()
    say(text)
    if out is not None:
        write_bytes(out, f"{text}\n".encode())
    if swept.problems:
        name, problem = next(iter(swept.problems.items()))
        more = f" and {len(swept.problems) - 1} more" if len(swept.problems) > 1 else ""
        raise ClipjaxError(f"{len(swept.entries)} architectures, not verified: {name} ({problem}){more}")
