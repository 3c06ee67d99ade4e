"""Options that several commands have, said once."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from clipjax.errors import UsageError

DatasetOption = Annotated[
    str | None,
    typer.Option("--dataset", "-d", help="Data set card (see `clipjax datasets list`) or a card's file."),
]
LabelsOption = Annotated[
    str | None,
    typer.Option(help="What the classes are, where no card says: a name (imagenet) or a CSV file."),
]
WorkersOption = Annotated[
    str,
    typer.Option(
        help="Decoding processes; 0 decodes in threads of this one, auto tries once what is fastest here."
    ),
]
ParamsOption = Annotated[
    str,
    typer.Option(
        help="Params whole on each device (replicated), cut over those of a process (sharded), or as the "
        "memory allows (auto)."
    ),
]


def workers_asked(text: str) -> int | Literal["auto"]:
    """What --workers says. Raises UsageError for anything but a number and "auto"."""
    return number_or_auto(text, "--workers", "of processes")


def number_or_auto(text: str, option: str, of: str) -> int | Literal["auto"]:
    """A number, or "auto". Raises UsageError for anything else; `of` is what is counted."""
    if text == "auto":
        return text
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"{option}: a number {of}, or auto, not {text!r}") from None
