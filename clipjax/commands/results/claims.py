"""`clipjax claims`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from clipjax.commands.shared.exclusions import on_command_line, refuse_beside
from clipjax.commands.shared.options import (
    ClaimsOption,
    OutFileOption,
    PrecisionOption,
    PromptSetOption,
    ResultsOptions,
)
from clipjax.commands.shared.output import print_table, say
from clipjax.commands.shared.result_folder import check_choice, check_form, checked, emit, opened
from clipjax.errors import counted

if TYPE_CHECKING:
    from clipjax.analysis.claims.claims import Verdict
    from clipjax.analysis.claims.ledger import Claim, Ledger


@dataclass(frozen=True, kw_only=True)
class ClaimsOptions:
    PANELS: ClassVar = {
        "Statements": ("claim", "listed", "file", "level", "correct"),
        "Rows": ("results", "prompts", "precision"),
        "Output": ("rows", "form", "out"),
    }
    context: typer.Context
    where: ResultsOptions
    claim: Annotated[
        list[str] | None,
        typer.Option("--claim", "-c", help="Only this claim, with what is missing for it; may be repeated."),
    ] = None
    listed: Annotated[
        bool,
        typer.Option("--list", help="List the statements and the rows that each needs; reads no results."),
    ] = False
    rows: Annotated[bool, typer.Option("--rows", help="Also list every result row that was used.")] = False
    form: Annotated[
        str, typer.Option("--format", "-f", help="Form of the output: table, markdown or json (everything).")
    ] = "table"
    out: OutFileOption = None
    prompts: PromptSetOption = None
    precision: PrecisionOption = "parity"
    level: Annotated[
        float | None, typer.Option(help="Level of the intervals. Default: the file's, 0.95.")
    ] = None
    correct: Annotated[
        str, typer.Option(help="Correction for testing many statements at once: none or holm.")
    ] = "none"
    file: ClaimsOption = None

    def check(self) -> None:
        from clipjax.analysis.claims.verdicts import FORMATS

        check_form(self.form, self.out, FORMATS)

    def check_listing(self) -> None:
        """Refuse what is about results beside --list, which reads none. Raises UsageError."""
        has_folder = any(on_command_line(self.context, ["folder", "results"]).values())
        of_rows = {"--rows": self.rows, "--level": self.level, "--prompts": self.prompts}
        refuse_beside("--list", {"RESULTS": has_folder, **of_rows})
        refuse_beside("--list", {"--format markdown": self.form == "markdown"})


def claims(options: ClaimsOptions) -> None:
    """Test the study's statements on results: each holds, does not hold or is inconclusive, and why.

    A statistic holds if its whole interval is where the statement puts it. A statement holds if all its
    statistics hold, or as many as it needs.

    Examples:

        clipjax claims results

        clipjax claims results --claim ood_source --rows

        clipjax claims results --format json --out claims.json
    """
    if not options.listed:
        checked(options.where.path)
    from clipjax.analysis.claims.ledger import ledger
    from clipjax.analysis.claims.verdicts import export

    options.check()
    book = ledger(options.file)
    if options.listed:
        options.check_listing()
        listed = [book.claim(key) for key in options.claim] if options.claim else book.claims
        _list(listed, options.form, options.out)
        return
    verdicts = _verdicts(book, options)
    if options.form == "table":
        _show(verdicts, options.rows, whole=bool(options.claim))
    else:
        emit(export(verdicts, options.form, options.rows), options.out)


def _verdicts(book: Ledger, options: ClaimsOptions) -> list[Verdict]:
    from clipjax.analysis.claims.claims import check

    for key in options.claim or ():
        book.claim(key)  # a mistyped key is refused before results are read
    rows = opened(options.where.path).rows()
    check_choice(rows, prompts=options.prompts, precision=options.precision)
    return check(
        book,
        rows,
        claims=options.claim,
        level=options.level,
        prompts=options.prompts,
        precision=options.precision,
        correct=options.correct,
    )


def _list(claims: Sequence[Claim], form: str, out: Path | None) -> None:
    from clipjax.analysis.claims.verdicts import about, of_part

    records = [{**about(one), "parts": [of_part(part) for part in one.parts]} for one in claims]
    if form == "json":
        emit(json.dumps(records, indent=2, ensure_ascii=False) + "\n", out)
        return
    for one, record in zip(claims, records):
        say(f"{one.key} ({one.section})", bold=True)
        say(f"  {one.statement}.")
        for part in record["parts"]:
            say(f"  - {part['statistic']} of {part['of']}, {part['must_be']}")
        if one.needs < len(one.parts):
            say(f"  {one.needs} of these must hold")
        for name, words in {"beware": one.beware, "no task yet": one.no_task}.items():
            if words:
                say(f"  {name}: {words}")
        say(f"  rows: {'; '.join(dict.fromkeys(t for part in record['parts'] for t in part['terms']))}\n")


COLOURS = {"holds": "green", "does not hold": "red"}


def _show(found: Sequence[Verdict], rows: bool, whole: bool) -> None:
    """`whole` adds what is missing and what to beware of."""
    from clipjax.analysis.claims import verdicts

    print_table(*verdicts.summary(found), [COLOURS.get(verdict.word) for verdict in found])
    others = [verdicts.measured(found)]
    others += [verdicts.unmeasured(found)] if whole else []
    others += [verdicts.used(found)] if rows else []
    others.append(verdicts.left_out(found))
    for titles, cells in others:
        if cells:
            say()
            print_table(titles, cells)
    for verdict in found if whole else []:
        if verdict.claim.beware:
            say(f"\n{verdict.claim.key}: {verdict.claim.beware}")
    counts = Counter(verdict.word for verdict in found)
    listed = ", ".join(f"{word}: {count}" for word, count in counts.items())
    hint = "--claim KEY says what is missing, --list what is asked"
    say(f"\n{counted(len(found), 'claim')}, {listed}; {hint}", err=True)
