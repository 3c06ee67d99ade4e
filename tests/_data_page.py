"""The table of docs/how_to/getting_the_data.md, made from the data cards; `make records` writes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clipjax.data.card_files import CardFile
from clipjax.data.cards import DatasetCard, registered_cards
from clipjax.data.file_words import checksum_kind, total_words, way

PAGE = Path(__file__).resolve().parent.parent / "docs" / "how_to" / "getting_the_data.md"
BEGIN, END = "<!-- files: begin -->\n", "<!-- files: end -->\n"


def page() -> str:
    """The page with its table made again."""
    text = PAGE.read_text(encoding="utf-8")
    return f"{text.partition(BEGIN)[0]}{BEGIN}{table()}{END}{text.partition(END)[2]}"


def table() -> str:
    """A line for each card or family; those that come in the same files share one."""
    families: dict[str, list[DatasetCard]] = {}
    for card in sorted(registered_cards(), key=lambda card: card.name.partition(":")[0]):
        if card.files:
            families.setdefault(card.name.partition(":")[0], []).append(card)
    groups: dict[tuple[CardFile, ...], list[list[DatasetCard]]] = {}
    for family in families.values():
        files = tuple(dict.fromkeys(file for card in family for file in card.files))
        groups.setdefault(files, []).append(family)
    lines = ["| data set | files | size | checksum | licence | get |", "|---|---|---|---|---|---|"]
    lines += [_line(files, group) for files, group in groups.items()]
    return "".join(f"{line}\n" for line in lines)


def _line(files: Sequence[CardFile], families: Sequence[Sequence[DatasetCard]]) -> str:
    names = [
        f"`{cards[0].name.partition(':')[0]}{f':*` ({len(cards)})' if len(cards) > 1 else '`'}"
        for cards in families
    ]
    published = [file for file in files if file.needs != "made"]
    listed = ", ".join(file.name for file in published) if len(published) < 3 else f"{len(published)} files"
    kinds = dict.fromkeys(map(checksum_kind, published))
    cells = ", ".join(names), listed, total_words(published), ", ".join(kinds)
    return f"| {' | '.join(cells)} | {families[0][0].licence} | {way(files)} |"
