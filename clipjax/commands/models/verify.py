"""`clipjax verify MODEL`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from clipjax.commands.shared.exclusions import refuse_beside, refuse_without
from clipjax.commands.shared.output import say
from clipjax.commands.shared.records import taking
from clipjax.errors import ClipjaxError, UsageError


def register(app: typer.Typer) -> None:
    app.command("verify")(taking(VerifyOptions, verify))


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="A clipjax folder, checkpoint, or model id.")
    ] = None
    against: Annotated[
        str | None,
        typer.Option(
            help="Reference: open_clip, timm, transformers (run as a subprocess; needs the `reference` "
            "extra) or golden. Default: the library that the model's card names."
        ),
    ] = None
    golden: Annotated[Path | None, typer.Option(help="The golden .npz file, with --against golden.")] = None
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also write the JSON report to this file.")
    ] = None
    card: Annotated[
        str | None,
        typer.Option(
            "--card",
            "--model",
            "-m",
            metavar="ID",
            help="Registered model to load MODEL as, if MODEL is bare weights.",
        ),
    ] = None
    everything: Annotated[
        bool, typer.Option("--all", help="Every registered architecture; needs --random-init.")
    ] = False
    random_init: Annotated[
        bool, typer.Option("--random-init", help="With --all: use random weights, at full and at small size.")
    ] = False
    record: Annotated[
        Path | None, typer.Option(help="With --all: the parity record; default configs/parity.json.")
    ] = None
    limit: Annotated[
        int | None, typer.Option(min=1, help="With --all: verify at most this many that are not up to date.")
    ] = None

    def check(self) -> None:
        if self.everything != self.random_init or self.everything == (self.model is not None):
            raise UsageError(
                "give a model to verify, or --all --random-init for every registered architecture"
            )
        if self.everything:
            of_one = {"--against": self.against, "--golden": self.golden, "--card": self.card}
            refuse_beside("--all", of_one)
            return
        refuse_beside(f"the model {self.model}", {"--record": self.record, "--limit": self.limit})
        if self.against != "golden":
            refuse_without("--against golden", {"--golden": self.golden})


def verify(options: VerifyOptions) -> None:
    """Compare a model with the reference, stage by stage, and print a JSON report.

    The report names the first stage that differs. Exit code: 0 the model passes, 1 it differs or could not be
    compared.

    --all --random-init needs no weights. For every registered architecture it compares keys and shapes with
    the reference's full-size tensors, and a small model number by number. It saves the record after each
    architecture, and skips what is up to date.
    """
    options.check()
    if options.everything:
        _verify_all(options)
    else:
        _verify_one(str(options.model), options)


def _verify_one(name: str, options: VerifyOptions) -> None:
    from clipjax.checkpoints.load import load_model
    from clipjax.verification.verify import verify

    model = load_model(name, card=options.card) if options.card else name
    report = verify(model, against=options.against, golden=options.golden)
    _emit(report.to_json(), options.out)
    if not report.passed:
        what = report.problem or f"it differs first at {report.first_difference}"
        raise ClipjaxError(f"{report.model} is not verified against {report.against}: {what}")


def _verify_all(options: VerifyOptions) -> None:
    from clipjax.verification.parity import sweep

    swept = sweep(options.record, limit=options.limit)
    _emit(swept.to_json(), options.out)
    if swept.problems:
        name, problem = next(iter(swept.problems.items()))
        more = f" and {len(swept.problems) - 1} more" if len(swept.problems) > 1 else ""
        raise ClipjaxError(f"{len(swept.entries)} architectures, not verified: {name} ({problem}){more}")


def _emit(report: str, out: Path | None) -> None:
    from clipjax.storage.writing import write_bytes

    say(report)
    if out is not None:
        write_bytes(out, f"{report}\n".encode())
