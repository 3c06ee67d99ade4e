"""Bundles: the data sets that come in the same files, and so are fetched, unpacked and checked together.

bundles_of(cards_named(["imagenet_c"], root), root)    # five: noise.tar has 15 of the 95 data sets
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from clipjax.data.card_files import CardFile
from clipjax.data.cards import DatasetCard, cards_in, data_folder, read_card, registered_cards
from clipjax.errors import UsageError, unknown_name
from clipjax.storage.digests import sha256_json
from clipjax.storage.reading import is_dir

ALL = "all"


@dataclass(frozen=True)
class Bundle:
    """Data sets that come in the same files.

    Attributes:
        cards: of the data sets; at least one.
        files: in the order in which they are unpacked.
    """

    cards: tuple[DatasetCard, ...]
    files: tuple[CardFile, ...]

    @property
    def key(self) -> str:
        """The bundle's name in the file system: equal where equal files are unpacked in the same way."""
        parts = [[file.identity, file.into, file.strip, file.only, file.arrange] for file in self.files]
        return f"{self.files[0].name}.{sha256_json(parts)[:8]}"

    @property
    def title(self) -> str:
        """The data sets in a few words: a name, two, or the first and the number of the others."""
        names = [card.name for card in self.cards]
        return ", ".join(names) if len(names) < 3 else f"{names[0]} and {len(names) - 1} more"

    @property
    def downloadable(self) -> bool:
        return all(file.downloadable for file in self.files)

    @property
    def asks(self) -> tuple[str, ...]:
        """The sentences that the user accepts before the first byte, each once."""
        return tuple(dict.fromkeys(file.ask for file in self.files if file.ask is not None))

    def folders(self, root: Path) -> list[tuple[DatasetCard, Path]]:
        """Each data set, and where it belongs below the data root."""
        return [(card, data_folder(root, card)) for card in self.cards]


def cards_named(names: Sequence[str], root: Path) -> list[DatasetCard]:
    """The cards of data sets, each once.

    Args:
        names: cards, families, files of cards (NAME.toml), or "all": every card with files.
        root: the data root, whose own cards (*.toml) come before registered ones of the same name.

    Raises:
        UsageError: an unknown name, or a card that names no files.
        DataError: as `cards_in`.
    """
    known = known_cards(root)
    cards: dict[str, DatasetCard] = {}
    for name in names:
        for card in _cards_of(name, known):
            cards.setdefault(card.name, card)
    return list(cards.values())


def known_cards(root: Path) -> dict[str, DatasetCard]:
    """Name -> card: the registered cards, and those in the data root. Raises DataError as `cards_in`."""
    own = cards_in(root) if is_dir(root) else []
    return {card.name: card for card in [*registered_cards(), *own]}


def _cards_of(name: str, known: dict[str, DatasetCard]) -> list[DatasetCard]:
    if name == ALL:
        return [card for card in known.values() if card.files]
    family = [card for card in known.values() if card.name == name or card.name.startswith(f"{name}:")]
    if not family and ".toml" in name:
        family = [read_card(name)]
    if not family:
        names = {card.name for card in known.values() if card.files}
        raise unknown_name(
            "data set", name, sorted({*names, *(each.partition(":")[0] for each in names), ALL})
        )
    if lacking := [card for card in family if not card.files]:
        raise UsageError(
            f"the card of {lacking[0].name} names no files to fetch "
            "([[files]], docs/how_to/getting_the_data.md): "
            f"{lacking[0].source or 'give a folder of yours with --data'}"
        )
    return family


def bytes_unpacked(bundles: Iterable[Bundle]) -> int:
    """About how many bytes the bundles contain, those of unknown size left out."""
    files = {file.identity: file for bundle in bundles for file in bundle.files}
    return sum(file.unpacked or file.size or 0 for file in files.values())


def bundles_of(cards: Iterable[DatasetCard], root: Path) -> list[Bundle]:
    """The cards' bundles, in the order of the cards.

    A bundle has all data sets of its files, also those that were not asked for: an archive is unpacked whole.

    Args:
        root: the data root, as in `cards_named`.

    Raises DataError as `cards_in`.
    """
    groups: dict[tuple[CardFile, ...], dict[str, DatasetCard]] = {}
    for card in cards:
        groups.setdefault(card.files, {})[card.name] = card
    for card in known_cards(root).values():
        if card.files in groups:
            groups[card.files].setdefault(card.name, card)
    return [Bundle(tuple(group.values()), files) for files, group in groups.items()]
