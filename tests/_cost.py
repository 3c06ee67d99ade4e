"""The tables of docs/hardware/cost.md: hours of the study on each machine, by the cards' image counts."""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from clipjax.checkpoints.card import Card
from clipjax.checkpoints.identity.registry import subjects
from clipjax.data.pixels.pixel_store import in_words
from clipjax.estimates.cost import (
    CardSizes,
    ImageWork,
    TextWork,
    image_flops,
    image_tower,
    parts,
    pixel_bytes,
)
from clipjax.estimates.hours import (
    MachineRates,
    Share,
    amounts_of,
    decode_rate,
    hours_on,
    images_in,
    load_machines,
    share_of,
)
from clipjax.evaluation.kinds.kind import Amounts, kind_of
from clipjax.sweep.plan import SweepItem
from clipjax.tasks.task import find_task

PAGE = Path(__file__).resolve().parent.parent / "docs" / "hardware" / "cost.md"
PRECISIONS = ("parity", "fast")
MARKS = {"estimated": "", "scaled": " s", "carried": " c", "assumed": " a"}
SHOWN = (("v5e-8", "parity"), ("v5e-8", "fast"), ("v6e-8", "fast"))


def page(items: Sequence[SweepItem]) -> str:
    """The page with its tables made again, of the runs of suite:study."""
    machines = load_machines()
    planned = {precision: _in(precision, items) for precision in PRECISIONS}
    tables = {
        "hours": _hours(planned, machines),
        "storage": _storage(items),
        "recipes": _recipes(items),
        "datasets": _datasets(planned, machines[0]),
        "architectures": _architectures(planned, {machine.name: machine for machine in machines}),
    }
    text = PAGE.read_text(encoding="utf-8")
    for name, table in tables.items():
        begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
        text = f"{text.partition(begin)[0]}{begin}{table}{end}{text.partition(end)[2]}"
    return text


def _in(precision: str, items: Sequence[SweepItem]) -> Sequence[SweepItem]:
    """The same runs in another precision: the operations are the same."""
    return [
        dataclasses.replace(item, work=tuple(work._replace(precision=precision) for work in item.work))
        for item in items
    ]


def _hours(planned: dict[str, Sequence[SweepItem]], machines: Sequence[MachineRates]) -> str:
    rows = []
    for precision, items in planned.items():
        core_seconds = amounts_of(items).decoded / decode_rate()
        for hours in (hours_on(machine, items) for machine in machines):
            numbers = hours.hours, hours.chip_hours, core_seconds / hours.seconds
            rows.append((hours.machine.name, precision, *map(_short, numbers), hours.parts()))
    titles = ("machine", "precision", "hours", "chip hours", "decode cores", "hours by")
    return _table(titles, rows)


def _storage(items: Sequence[SweepItem]) -> str:
    stored = amounts_of(items)
    texts = sum(work.number for item in items for work in item.work if isinstance(work.of, TextWork))
    core_hours = [_short(count / decode_rate() / 3600) for count in (stored.decoded, stored.embedded)]
    rows = [
        ("runs", f"{len(items):,}"),
        ("models", f"{len({item.choice.name for item in items}):,}"),
        ("images that towers read", f"{stored.embedded:,}"),
        ("texts that towers read", f"{texts:,}"),
        ("images decoded, with a pixel store for all recipes", f"{stored.decoded:,}"),
        ("core hours of decoding, with it", core_hours[0]),
        ("core hours of decoding, without one", core_hours[1]),
        ("pixel store for all recipes", f"{_short(stored.pixels / 1e9)} GB"),
        ("store of embeddings, one precision", f"{_short(stored.embeddings / 1e9)} GB"),
    ]
    return _table(("what", "how much"), rows)


def _recipes(items: Sequence[SweepItem]) -> str:
    by_recipe = defaultdict(list)
    for item in items:
        by_recipe[item.choice.recipe].append(item)
    rows = []
    for recipe, group in by_recipe.items():
        stored = amounts_of(group)
        models = len({item.choice.name for item in group})
        each = f"{pixel_bytes(recipe, 1) / 1e3:.0f} kB"
        rows.append((in_words(recipe), models, each, f"{stored.pixels / 1e9:.0f} GB"))
    return _table(("pixel recipe", "models", "an image", "all data sets"), rows)


def _datasets(planned: dict[str, Sequence[SweepItem]], machine: MachineRates) -> str:
    by_dataset = {precision: _by_dataset(items) for precision, items in planned.items()}
    rows = []
    for name, group in by_dataset["parity"].items():
        stored = amounts_of(group)
        sets = {(images.folder, images.number) for item in group for images in images_in(item)}
        images = sum(count for _, count in sets)
        models = len({item.choice.name for item in group})
        hours = [hours_on(machine, by_dataset[precision][name]).chip_hours for precision in PRECISIONS]
        decode = _short(stored.decoded / decode_rate() / 3600)
        pixels = f"{_short(stored.pixels / 1e9)} GB"
        rows.append((name, f"{images:,}", models, *map(_short, hours), decode, pixels))
    titles = ("data sets", "images", "models", "v5e chip hours, parity", "fast", "core hours", "pixel store")
    return _table(titles, rows)


def amounts_of_kind(item: SweepItem) -> Amounts:
    assert item.choice.model is not None
    return kind_of(item.choice.model, find_task(item.job.task)).amounts


def _by_dataset(items: Sequence[SweepItem]) -> dict[str, list[SweepItem]]:
    """Parts of the items, by the family of data sets that first needed the images; texts apart."""
    owner: dict[tuple[str, int], str] = {}
    by_name: dict[str, list[SweepItem]] = defaultdict(list)
    for item in items:
        for data in parts(item.job):
            count = CardSizes().of(data, None, amounts_of_kind(item))
            owner.setdefault((str(data.root), count), data.card.name.partition(":")[0])
        split: dict[str, list[Any]] = defaultdict(list)
        for work in item.work:
            key = owner[work.of.folder, work.number] if isinstance(work.of, ImageWork) else "prompts"
            split[key].append(work)
        for name, works in split.items():
            by_name[name].append(dataclasses.replace(item, work=tuple(works)))
    return by_name


def _architectures(planned: dict[str, Sequence[SweepItem]], machines: dict[str, MachineRates]) -> str:
    by_arch = {precision: _by_arch(items) for precision, items in planned.items()}
    v5e, rows = machines["v5e-8"], []
    for name, group in by_arch["parity"].items():
        card = group[0].choice.card
        assert card is not None
        rates, shares = _rates(card, machines)
        hours = [hours_on(v5e, by_arch[precision][name]).chip_hours for precision in PRECISIONS]
        models = len({item.choice.name for item in group})
        gflop = _short(image_flops(card, None) / 1e9)
        rows.append((name, models, gflop, *rates, *map(_short, hours), shares[1].of))
    rates = [f"{name[:3]} {precision}" for name, precision in SHOWN]
    titles = ("architecture", "models", "GFLOP an image", *rates, "v5e chip hours, parity", "fast", "as")
    return _table(titles, rows)


def _rates(card: Card, machines: dict[str, MachineRates]) -> tuple[list[str], list[Share]]:
    """Images a second of one chip, and the shares of the peak, of `SHOWN`."""
    rates, shares = [], []
    for machine, precision in ((machines[name], precision) for name, precision in SHOWN):
        rate, share = _rate(card, machine, precision)
        rates.append(_short(rate) + MARKS[share.basis])
        shares.append(share)
    return rates, shares


def _rate(card: Card, machine: MachineRates, precision: str) -> tuple[float, Share]:
    each = image_flops(card, None)
    share = share_of(machine, card.arch, image_tower(card), precision, each)
    return share.value * machine.peak(precision) / machine.chips / each, share


def estimated_rates() -> str:
    """configs/estimated_rates.csv: a row for each registered image tower, chip and precision."""
    chips = {machine.chip: machine for machine in load_machines() if machine.chip is not None}
    lines = ["arch,chip,precision,images_per_second,basis\n"]
    for card in (subject.card for subject in subjects()):
        if card.arch.language is None:
            for chip, precision in itertools.product(sorted(chips), PRECISIONS):
                rate, share = _rate(card, chips[chip], precision)
                lines.append(f"{card.arch.name},{chip},{precision},{float(f'{rate:.2g}'):g},{share.basis}\n")
    return "".join(lines)


def _by_arch(items: Sequence[SweepItem]) -> dict[str, list[SweepItem]]:
    groups: dict[str, list[SweepItem]] = defaultdict(list)
    for item in items:
        assert item.choice.card is not None
        groups[item.choice.card.arch.name].append(item)
    return dict(sorted(groups.items()))


def _short(number: float) -> str:
    """Two digits: no more is known."""
    rounded = float(f"{number:.2g}")
    return f"{rounded:,.0f}" if rounded >= 100 else f"{rounded:.2g}"


def _table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)
