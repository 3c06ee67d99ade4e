"""The data sets, from their cards: what each contains, its licence, its size, and how to get it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from clipjax.data.card_files import CardFile
from clipjax.data.cards import DatasetCard, registered_cards
from clipjax.data.file_words import checksum_kind, total_words, way, way_lines
from docs.generate.markdown import code, section, table, text
from docs.generate.samples import LIKE, sample_of

DEMO = "Made by the demo"


def data_sets_part() -> str:
    """A section for each published data set or family of them, then one for those of the demo."""
    families = by_family(registered_cards())
    parts = [section(name, *_family(name, cards)) for name, cards in families.items() if not cards[0].demo]
    shown = {demo: f"[`{name}`](#{name})" for name, demo in reversed(LIKE.items())}
    demo = [
        [code(name), text(cards[0].title), _join(cards[0].tasks), shown.get(name, "")]
        for name, cards in families.items()
        if cards[0].demo
    ]
    return "".join(parts) + section(DEMO, table(["data set", "what it is", "tasks", "picture at"], demo))


def places_part() -> str:
    """A line for each published data set or family: its folder below the data root, and its tasks."""
    families = by_family(card for card in registered_cards() if not card.demo and card.source)
    heads = ["data set", "folder below the data root", "classes", "tasks"]
    return table(heads, (_place(name, cards) for name, cards in families.items()))


def _place(name: str, cards: Sequence[DatasetCard]) -> list[str]:
    first = cards[0]
    place = first.place or first.name
    for axis, value in first.variant.items() if len(cards) > 1 else ():
        name, place = f"{name}:{axis.upper()}", place.replace(str(value), axis.upper())
    many = f"{code(name)} ({len(cards)})" if len(cards) > 1 else code(name)
    return [many, code(place), code(first.label_space or ""), _join(first.tasks)]


def files_part() -> str:
    """A line for each data set or family that has files; those that come in the same files share one."""
    groups: dict[tuple[CardFile, ...], list[list[DatasetCard]]] = {}
    for family in by_family(card for card in registered_cards() if card.files).values():
        files = tuple(dict.fromkeys(file for card in family for file in card.files))
        groups.setdefault(files, []).append(family)
    heads = ["data set", "files", "size", "checksum", "licence", "get"]
    return table(heads, (_files(files, families) for files, families in groups.items()))


def _files(files: Sequence[CardFile], families: Sequence[Sequence[DatasetCard]]) -> list[str]:
    counts = {cards[0].name.partition(":")[0]: len(cards) for cards in families}
    names = (f"{code(f'{name}:*')} ({n})" if n > 1 else code(name) for name, n in counts.items())
    published = [file for file in files if file.needs != "made"]
    listed = ", ".join(file.name for file in published) if len(published) < 3 else f"{len(published)} files"
    kinds = dict.fromkeys(map(checksum_kind, published))
    licence = text(families[0][0].licence or "")
    return [", ".join(names), text(listed), total_words(published), ", ".join(kinds), licence, way(files)]


def by_family(cards: Iterable[DatasetCard]) -> dict[str, list[DatasetCard]]:
    """Cards by the part of their names before the first colon."""
    families: dict[str, list[DatasetCard]] = {}
    for card in sorted(cards, key=lambda card: card.name.partition(":")[0]):
        families.setdefault(card.name.partition(":")[0], []).append(card)
    return families


def _family(name: str, cards: Sequence[DatasetCard]) -> list[str]:
    first = cards[0]
    rows = [[head, cell] for head, cell in _facts(cards) if cell]
    files = tuple(dict.fromkeys(file for card in cards for file in card.files))
    lines = way_lines(name, files) if files else []
    return [
        text(first.title) if len(cards) == 1 else f"{len(cards)} data sets: {_variants(cards)}.",
        table(["", ""], rows),
        text(first.note or ""),
        sample_of(name),
        "```text\n" + "\n".join(lines) + "\n```" if lines else "",
    ]


def _facts(cards: Sequence[DatasetCard]) -> list[tuple[str, str]]:
    card = cards[0]
    files = tuple(dict.fromkeys(file for each in cards for file in each.files))
    count = f"{card.images:,}" if card.images else f"about {card.about:,}" if card.about else ""
    pairs = f"{card.pairs:,} pairs" if card.pairs else ""
    return [
        ("licence", text(card.licence or "")),
        ("images of each" if len(cards) > 1 else "images", count or pairs),
        ("files", total_words(files) if files else "nobody distributes it"),
        ("tasks", _join(card.tasks)),
        ("classes", code(card.label_space or "")),
        ("prompts", code(card.prompts or "")),
        ("folder below the data root", code(card.place or card.name)),
        ("in-distribution data set", code(card.id or "")),
        ("images may not be shown", text(card.hidden or "")),
        ("source", text(card.source or "")),
        ("paper", text(card.paper or "")),
    ]


def _variants(cards: Sequence[DatasetCard]) -> str:
    """The values of each axis, in order."""
    axes = {axis: dict.fromkeys(str(card.variant[axis]) for card in cards) for axis in cards[0].variant}
    return "; ".join(f"{axis} {_join(values)}" for axis, values in axes.items()) or _join(
        c.name for c in cards
    )


def _join(names: Iterable[str]) -> str:
    return ", ".join(map(code, names))
