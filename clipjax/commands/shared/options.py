"""Options of several commands, each declared once, and the readers of their values."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from clipjax.commands.shared.output import say
from clipjax.errors import UsageError

if TYPE_CHECKING:
    from clipjax.checkpoints.card import Card

# The model.
_MODEL = typer.Option("--model", "-m", help="Model id, hub repository, folder or checkpoint.")
ModelOption = Annotated[str | None, _MODEL]
NeededModelOption = Annotated[str, _MODEL]
CardOption = Annotated[
    str | None,
    typer.Option(
        metavar="ID", help="Registered model that says how to load --model, if that is bare weights."
    ),
]
NameOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="What to call the model; default: the registered id if these are known to be its weights, else "
        "the name of the folder or file.",
    ),
]
FactsOfOption = Annotated[
    str | None,
    typer.Option(
        "--facts-of",
        metavar="ID",
        help="State that these are the weights of this registered model: its facts are shown as stated.",
    ),
]
FactOption = Annotated[
    list[str] | None,
    typer.Option(
        "--fact", metavar="KEY=VALUE", help="State a fact, e.g. train_source=LAION-2B; may be repeated."
    ),
]
FactsOption = Annotated[
    Path | None,
    typer.Option("--facts", metavar="FILE", help="State facts: a TOML file of the keys of --fact."),
]

# The data.
DatasetOption = Annotated[
    str | None,
    typer.Option("--dataset", "-d", help="Data set card (see `clipjax datasets list`) or a card's file."),
]
LabelsOption = Annotated[
    str | None,
    typer.Option(help="The classes, if no card names them: a label space (imagenet) or a CSV file."),
]
ValidationOption = Annotated[
    Path | None, typer.Option(help="Images to choose by (alpha, epoch, ...); never those tested on.")
]
ValidationDatasetOption = Annotated[str, typer.Option(help="Data set card of the --validation images.")]
SuiteOption = Annotated[
    str | None,
    typer.Option(help="Suite to evaluate the new models on, e.g. robustness; needs --data-root."),
]
SuiteRootOption = Annotated[
    Path | None,
    typer.Option("--data-root", help="Folder of the data sets for --evaluate (`clipjax datasets list`)."),
]

# How it is computed.
BatchSizeOption = Annotated[
    str,
    typer.Option(
        help="Images per device and step, unless a suite sets it; part of the store's layout. auto measures "
        "once what is fastest here."
    ),
]
WorkersOption = Annotated[
    str,
    typer.Option(
        help="Decoding processes; 0 decodes in threads of this process, auto measures once what is fastest "
        "here."
    ),
]
ParamsOption = Annotated[
    str,
    typer.Option(
        help="Parameters whole on each device (replicated), split over a process's devices (sharded), or as "
        "memory allows (auto)."
    ),
]
StoreOption = Annotated[
    Path | None,
    typer.Option("--store", help="Folder of the store, or its URL; default: the user's cache."),
]
PixelStoreOption = Annotated[
    Path | None,
    typer.Option(
        "--pixel-store",
        help="Keep decoded pixels in this folder ('cache': the user's cache), for models that share them.",
    ),
]
PixelBudgetOption = Annotated[
    str | None, typer.Option("--pixel-budget", help="The most that the pixel store may take; default 100GB.")
]
DistributedOption = Annotated[
    bool, typer.Option("--distributed", help="This is one of several processes: join them first.")
]

# Result rows, and what is made of them.
ResultsArgument = Annotated[
    Path, typer.Argument(metavar="RESULTS", help="Folder that `clipjax eval --results` wrote to.")
]
ResultsOption = Annotated[
    Path, typer.Option("--results", help="Folder that `clipjax eval --results` wrote to.")
]
PromptSetOption = Annotated[
    str | None,
    typer.Option(
        "--prompts",
        help="The prompt set to use if a number was measured with several. Default: the study's, openai_80; "
        "none in `clipjax results curation`.",
    ),
]
PrecisionOption = Annotated[
    str, typer.Option("--precision", help="Use numbers of this precision: parity or fast.")
]
FigureOption = Annotated[
    list[str] | None,
    typer.Option(
        "--figure",
        "-f",
        help="Only this figure or table, e.g. fig1, table2 or mine.toml; may be repeated. Default: all of "
        "the paper.",
    ),
]
HighlightOption = Annotated[
    list[str] | None,
    typer.Option("--highlight", help="A model to draw as a star with its name beside it; may be repeated."),
]
ClaimsOption = Annotated[
    Path | None,
    typer.Option("--claims", help="Your own claims: a file like configs/claims.toml."),
]
MetricOption = Annotated[
    list[str] | None, typer.Option("--metric", help="Only this metric, e.g. top1; may be repeated.")
]
LinesOption = Annotated[
    int, typer.Option("--limit", min=0, help="Print at most this many lines of a table; 0 for all.")
]
OutFileOption = Annotated[Path | None, typer.Option("--out", "-o", help="File to write; default: stdout.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print everything as JSON on stdout.")]


def workers_asked(text: str) -> int | Literal["auto"]:
    """The value of --workers. Raises UsageError unless it is a number or "auto"."""
    return number_or_auto(text, "--workers", "of processes")


def batch_asked(text: str) -> int | Literal["auto"]:
    """The value of --batch-size. Raises UsageError unless it is a number or "auto"."""
    return number_or_auto(text, "--batch-size", "of images")


def number_or_auto(text: str, option: str, of: str) -> int | Literal["auto"]:
    """A number, or "auto". Raises UsageError for anything else; `of` names what is counted."""
    if text == "auto":
        return text
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"{option}: a number {of}, or auto, not {text!r}") from None


def stated_options(
    name: str | None, facts_of: str | None, fact: list[str] | None, facts: Path | None
) -> dict[str, Any]:
    """--name, --facts-of, --fact and --facts as `load_model` takes them. Raises UsageError, DataError."""
    from clipjax.checkpoints.identity.facts import fact_table

    return {"name": name, "facts_of": facts_of, "facts": fact_table(fact, facts)}


def say_unknown_facts(source: str | Path | None, card: Card) -> None:
    """If foreign weights have no facts, say so on stderr in one sentence, with the option that helps."""
    from clipjax.storage.buckets import place

    if card.facts_origin != "unknown" or (place(source or "") / "card.json").is_file():
        return
    why = card.unknown.get("facts", "nobody stated them")
    say(
        f"{card.id}: no facts, as {why}; --facts-of ID says whose weights they are, --fact KEY=VALUE one",
        err=True,
    )
