"""`clipjax verify MODEL`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipjax.commands.shared.exclusions import refuse_beside, refuse_without
from clipjax.commands.shared.names import check_names
from clipjax.commands.shared.options import CARD_IDS, JsonOption
from clipjax.commands.shared.output import announce, say
from clipjax.commands.shared.records import with_options
from clipjax.errors import ClipjaxError, UsageError, counted

if TYPE_CHECKING:
    from clipjax.verification.verify import VerificationReport


def register(app: typer.Typer) -> None:
    app.command("verify")(with_options(VerifyOptions, verify))


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
            help=f"If MODEL is bare weights: {CARD_IDS}",
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
    as_json: JsonOption = False
    limit: Annotated[
        int | None, typer.Option(min=1, help="With --all: verify at most this many that are not up to date.")
    ] = None

    def check(self) -> None:
        from clipjax.verification.references import check_against

        if self.everything != self.random_init or self.everything == (self.model is not None):
            raise UsageError(
                "give a model to verify, or --all --random-init for every registered architecture"
            )
        if self.everything:
            of_one = {"--against": self.against, "--golden": self.golden, "--card": self.card}
            refuse_beside("--all", of_one)
            return
        refuse_beside(f"the model {self.model}", {"--record": self.record, "--limit": self.limit})
        if self.against == "golden" and self.golden is None:
            raise UsageError("--against golden needs the file of a golden run: --golden FILE.npz")
        if self.against != "golden":
            refuse_without("--against golden", {"--golden": self.golden})
        check_against(self.against, golden=True)
        check_names(models=(self.model,), card=self.card)


def verify(options: VerifyOptions) -> None:
    """Compare a model with the reference, stage by stage, and print what was found.

    --json prints the whole report, with every stage; it names the first that differs. Exit code: 0 the model
    passes, 1 it differs or could not be compared.

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

    announce(f"loading {name}")
    model = load_model(name, card=options.card)
    announce("running the reference and comparing: this takes a minute for a large model")
    report = verify(model, against=options.against, golden=options.golden)
    _emit(report.to_json(), _in_words(report), options)
    if not report.passed:
        raise ClipjaxError(f"{report.model} is not verified against {report.against}: {_why(report)}")


def _verify_all(options: VerifyOptions) -> None:
    from clipjax.verification.parity import sweep

    swept = sweep(options.record, limit=options.limit)
    verified = len(swept.entries) - len(swept.problems)
    of = counted(len(swept.entries), "architecture")
    lines = [
        f"{verified} of {of} verified; {len(swept.done)} compared now",
        f"{len(swept.missing)} not up to date (--limit)",
        f"record: {swept.path}",
    ]
    _emit(swept.to_json(), lines, options)
    if swept.problems:
        name, problem = next(iter(swept.problems.items()))
        more = f" and {len(swept.problems) - 1} more" if len(swept.problems) > 1 else ""
        raise ClipjaxError(f"{len(swept.entries)} architectures, not verified: {name} ({problem}){more}")


def _in_words(report: VerificationReport) -> list[str]:
    """Three lines: what was compared, how near it came, the verdict."""
    reference = " ".join(
        str(report.reference[key]) for key in ("version", "arch") if report.reference.get(key)
    )
    passed = [stage for stage in report.stages if stage.passed]
    return [
        f"{report.model} against {report.against} {reference}".rstrip(),
        f"{len(passed)} of {counted(len(report.stages), 'stage')} within their tolerances",
        "verified" if report.passed else f"not verified: {_why(report)}",
    ]


def _why(report: VerificationReport) -> str:
    return report.problem or f"it differs first at {report.first_difference}"


def _emit(report: str, lines: Sequence[str], options: VerifyOptions) -> None:
    from clipjax.storage.writing import write_bytes

    say(report if options.as_json else "\n".join(lines))
    if options.out is not None:
        write_bytes(options.out, f"{report}\n".encode())
