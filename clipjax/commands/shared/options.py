"""Options that several commands have, said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from clipjax.commands.shared.output import say
from clipjax.errors import UsageError
from clipjax.storage.buckets import place

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


NameOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="What to call the model; default: a registered id where the weights are known to be its, else "
        "the name of the folder or file.",
    ),
]
FactsOfOption = Annotated[
    str | None,
    typer.Option(
        "--facts-of",
        metavar="ID",
        help="You state that these are the weights of this registered model: its facts are shown as stated.",
    ),
]
FactOption = Annotated[
    list[str] | None,
    typer.Option("--fact", metavar="KEY=VALUE", help="State a fact, as train_source=LAION-2B (repeatable)."),
]
FactsOption = Annotated[
    Path | None, typer.Option("--facts", metavar="FILE", help="State facts: a TOML file of such keys.")
]


def stated_options(
    name: str | None, facts_of: str | None, fact: list[str] | None, facts: Path | None
) -> dict[str, Any]:
    """--name, --facts-of, --fact and --facts as `load_model` takes them. Raises UsageError, DataError."""
    from clipjax.checkpoints.facts import fact_table

    return {"name": name, "facts_of": facts_of, "facts": fact_table(fact, facts)}


def say_unknown_facts(source: str | Path | None, card: Any) -> None:
    """One sentence on stderr where foreign weights have no facts, with the option that helps."""
    if card.facts_origin != "unknown" or (place(source or "") / "card.json").is_file():
        return
    why = card.unknown.get("facts", "nobody stated them")
    say(
        f"{card.id}: no facts, as {why}; --facts-of ID says whose weights they are, --fact KEY=VALUE one",
        err=True,
    )
