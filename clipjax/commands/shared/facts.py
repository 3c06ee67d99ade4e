"""Options by which a user states facts about a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipjax.commands.shared.output import say

if TYPE_CHECKING:
    from clipjax.checkpoints.card import Card
    from clipjax.checkpoints.encoder import ModelCard


@dataclass(frozen=True, kw_only=True)
class FactOptions:
    facts_of: Annotated[
        str | None,
        typer.Option(
            "--facts-of",
            metavar="ID",
            help="State that the weights are those of this registered model: its facts are shown as stated.",
        ),
    ] = None
    fact: Annotated[
        list[str] | None,
        typer.Option(
            "--fact", metavar="KEY=VALUE", help="State a fact, e.g. train_source=LAION-2B; may be repeated."
        ),
    ] = None
    facts: Annotated[
        Path | None,
        typer.Option("--facts", metavar="FILE", help="State facts in a TOML file with the keys of --fact."),
    ] = None

    def stated(self, name: str | None = None) -> dict[str, Any]:
        """The facts and --name, as `load_model` takes them. Raises UsageError, DataError."""
        from clipjax.checkpoints.identity.facts import fact_table

        return {"name": name, "facts_of": self.facts_of, "facts": fact_table(self.fact, self.facts)}


def say_unknown_classes(card: Card) -> None:
    """Print on stderr that nothing names a classifier's outputs, if so, with the option that helps."""
    if card.arch.num_classes and card.classes is None:
        why = card.unknown.get("classes", "nobody stated them")
        say(
            f"{card.id}: no classes, as {why}; convert it with --classes LABELS to name its "
            f"{card.arch.num_classes} outputs",
            err=True,
        )


def say_unknown_facts(source: str | Path | None, card: Card | ModelCard) -> None:
    """Print on stderr that foreign weights have no facts, if so, with the option that helps."""
    from clipjax.storage.remote.buckets import as_path

    if card.facts_origin != "unknown" or (as_path(source or "") / "card.json").is_file():
        return
    why = card.unknown.get("facts", "nobody stated them")
    say(
        f"{card.id}: no facts, as {why}; --facts-of ID says whose weights they are, --fact KEY=VALUE one",
        err=True,
    )
