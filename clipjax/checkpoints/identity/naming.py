"""Names and facts of weights: a registered model's only if the weights are known to be its own.

They are its own if they come from the row's hub repository or have its SHA-256. `card=ROW` alone only tells
how to load them.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipjax.checkpoints.card import Card
from clipjax.checkpoints.identity.facts import REGISTRY, STATED, UNKNOWN, check_facts
from clipjax.checkpoints.identity.library_names import is_library_name
from clipjax.checkpoints.identity.pins import check_download, is_known
from clipjax.checkpoints.identity.registry import model_card, part_row
from clipjax.checkpoints.identity.registry_rows import model_ids, registry
from clipjax.config import config_dir
from clipjax.entry_points import cached
from clipjax.errors import UsageError
from clipjax.storage.reading import read_csv
from converters.hub import LocalCheckpoint

_NOT_ITS_OWN = "-unverified"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class StatedIdentity:
    """A user's statements about weights.

    Attributes:
        facts_of: the registered model whose weights they are.
        facts: or single facts: columns of configs/models.csv.
        fallback: if the model needs its own name and `name` is None.

    Raises:
        UsageError: an unknown id or fact, an empty name, or both `facts_of` and `facts`.
    """

    name: str | None = None
    facts_of: str | None = None
    facts: Mapping[str, Any] | None = None
    fallback: str | None = None

    def __post_init__(self) -> None:
        if self.name is not None and (not isinstance(self.name, str) or not self.name.strip()):
            raise UsageError(f"the name is {self.name!r}: give a text (--name NAME on the command line)")
        if self.facts_of is not None and self.facts is not None:
            raise UsageError(
                "facts_of and facts both state the facts (--facts-of, --fact, --facts): give one"
            )
        if self.facts_of is not None:
            model_card(self.facts_of)
        if self.facts is not None:
            object.__setattr__(self, "facts", check_facts(self.facts))

    @property
    def states_facts(self) -> bool:
        return self.facts_of is not None or self.facts is not None


NOTHING = StatedIdentity()


def identified(card: Card, resolved: LocalCheckpoint, stated: StatedIdentity, fallback: str) -> Card:
    """The card of foreign weights, with their own name and facts.

    Args:
        fallback: name for weights that are not a registered model's.

    Raises:
        UsageError: the statement contradicts what is known, or takes a published name.
        DataError: the file in the row's own repository has changed.
    """
    row = card.facts_of if card.facts_origin == REGISTRY else None
    known = row is not None and _is_own(row, card, resolved) and _parts_are_own(card)
    if row is not None and not known:
        card = _without_facts(card, row)
    if not known and (card.id in taken_names() or is_library_name(card.id)):
        card = dataclasses.replace(card, id=own_name(fallback))
    return restated(card, stated)


def restated(card: Card, stated: StatedIdentity) -> Card:
    """The card with the name and facts that the user states.

    Raises:
        UsageError: the weights are known to be another model's, have another architecture than `facts_of`, or
            were fine-tuned by clipjax; or the name is a published model's.
    """
    if stated.states_facts and not _is_known_as(card, stated):
        card = _with_facts(card, stated)
    if stated.name is None or stated.name == card.id:
        return card
    if stated.name in taken_names() and (card.facts_origin, card.facts_of) != (REGISTRY, stated.name):
        raise UsageError(
            f"--name {stated.name} is a published model, and the weights are not known to be its: choose "
            f"another name, and add --facts-of {stated.name} if they are"
        )
    return dataclasses.replace(card, id=stated.name)


def edited(card: Card, where: Path) -> Card:
    """The card after card.json (`where`) was edited by hand: all facts count as stated."""
    card = disowned(card)
    _LOG.warning(
        "%s was changed after it was written: the model is called %s, and its facts count as stated",
        where,
        card.id,
    )
    return card


def disowned(card: Card) -> Card:
    """The card of weights other than the registered model's: it is renamed, its facts count as stated."""
    return dataclasses.replace(card, id=own_name(card.id), facts_origin=STATED, facts_of=None)


def default_name(source: str | Path, *, is_file: bool = False) -> str:
    """A file's stem, or the name of a folder or repository.

    default_name("org/model") == "model"; default_name("w/vit.safetensors.index.json", is_file=True) == "vit"
    """
    path = Path(source)
    name = path.name if path.name not in ("", "..") else path.resolve().name
    return Path(name.removesuffix(".index.json")).stem if is_file else name or "model"


def own_name(name: str) -> str:
    """A published model's name gets a suffix: "vit_b_32-openai" -> "vit_b_32-openai-unverified"."""
    return f"{name}{_NOT_ITS_OWN}" if name in taken_names() else name


@cached
def taken_names() -> frozenset[str]:
    """Names that a user's model cannot have: those of registered models and of published scores."""
    published = read_csv(config_dir() / "reference_scores.csv")
    return frozenset(model_ids()) | {row["model"] for row in published}


def _is_own(row: str, card: Card, resolved: LocalCheckpoint) -> bool:
    """Raises DataError if the row's hub repository changed since first seen."""
    assert card.weights is not None
    weights, record = card.weights, registry()[row]
    file = resolved.file or weights.files[0].name
    if resolved.repo and resolved.repo == record["hub_repo"] and file == (record["hub_file"] or file):
        check_download(row, file, resolved.revision, weights.sha256)
        return True
    return is_known(row, lambda: weights.sha256)


def _parts_are_own(card: Card) -> bool:
    """Whether all parts in separate files are those that the model was trained with. Raises as `_is_own`."""
    assert card.weights is not None
    for name, part in card.parts.items():
        row, weights = part_row(card, name), card.weights.beside[name]
        if part.repo is not None and part.repo == registry()[row]["hub_repo"]:
            check_download(row, str(part.file), part.revision, weights.sha256)
        elif not is_known(row, lambda weights=weights: weights.sha256):
            return False
    return True


def _without_facts(card: Card, row: str) -> Card:
    unknown = {name: why for name, why in card.unknown.items() if not name.startswith("facts.")}
    unknown["facts"] = f"the weights are not known to be those of {row}"
    source = dataclasses.replace(card.source, repo=None, file=None, url=None, revision=None)
    return dataclasses.replace(
        card, facts={}, facts_origin=UNKNOWN, facts_of=None, unknown=unknown, source=source
    )


def _is_known_as(card: Card, stated: StatedIdentity) -> bool:
    """Whether the weights are known to be those of the model that `stated.facts_of` names.

    Raises:
        UsageError: nothing may be stated about the weights.
    """
    if card.lineage is not None:
        raise UsageError(
            f"{card.id} was fine-tuned with clipjax, and its facts are its base's: state them of the base "
            f"(--facts-of), and leave them out here"
        )
    if card.facts_origin != REGISTRY:
        return False
    if stated.facts_of != card.facts_of:
        raise UsageError(
            f"the weights are known to be those of {card.facts_of}: leave out --facts-of, --fact and --facts"
        )
    return True


def _with_facts(card: Card, stated: StatedIdentity) -> Card:
    unknown = {name: why for name, why in card.unknown.items() if name.split(".")[0] != "facts"}
    if stated.facts is not None:
        return dataclasses.replace(
            card, facts=dict(stated.facts), facts_origin=STATED, facts_of=None, unknown=unknown
        )
    row = model_card(str(stated.facts_of))
    if card.arch != row.arch:
        raise UsageError(
            f"facts_of {row.id} (--facts-of): it has the architecture {row.arch.name}, the weights that of "
            f"{card.arch.name}: name the model that they are, or state single facts (--fact)"
        )
    unknown |= {name: why for name, why in row.unknown.items() if name.startswith("facts.")}
    return dataclasses.replace(card, facts=row.facts, facts_origin=STATED, facts_of=row.id, unknown=unknown)
