"""The tables of `--dry-run`. Embeds and writes nothing."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from clipjax.analysis.claims.ledger import ledger
from clipjax.data.pixels.pixel_store import PixelStore, in_words, pixel_key
from clipjax.embeddings.compute import Compute
from clipjax.errors import ClipjaxError, counted, readable_bytes
from clipjax.estimates import cost
from clipjax.estimates.hours import MachineRates, amounts_of, decode_rate, hours_on
from clipjax.evaluation.comparison.sample_power import Sampled, too_small_for
from clipjax.evaluation.plans.ready import ResolvedItem, StoredRecipes, all_ready
from clipjax.storage.entry import key_hash
from clipjax.storage.reading import is_dir
from clipjax.sweep.plan import SweepItem, SweepPlan
from clipjax.sweep.shards import cut
from clipjax.sweep.state import StoreIndex, embedding_entries
from clipjax.tasks.task import find_task

HOW = (
    "dots and convolutions of the traced forward pass, two per multiply-add, a scan's body as often as it "
    "runs (decoders estimated: two per weight and token, four prompts of 100 tokens per image)"
)
HOURS = (
    "hours: of the towers alone, as if nothing were stored, with the cards' numbers of images where data are "
    "not there; not measured (docs/hardware/cost.md)"
)
UNKNOWN = "?"


class PreviewTable(NamedTuple):
    header: list[str]
    rows: list[list[Any]]


@dataclass(frozen=True)
class Preview:
    models: PreviewTable
    recipes: PreviewTable
    absent: PreviewTable
    shards: PreviewTable
    hours: PreviewTable
    lines: list[str]


@dataclass
class _Known:
    """The state of one model's runs.

    Attributes:
        done: how many have results.
        entries: embeddings that they read: name -> number of images.
        requests: how many a server gets for those without results, if no answer is stored.
        problem: why some are not in `ready`.
    """

    ready: list[ResolvedItem]
    done: int
    entries: dict[str, int]
    requests: int = 0
    problem: str = ""


def preview(
    plan: SweepPlan,
    items: Sequence[SweepItem],
    compute: Compute,
    results: Path,
    shards: int,
    machines: Sequence[MachineRates] = (),
) -> Preview:
    """`items` are the plan's or a shard's; `shards` is their number."""
    assert compute.store is not None
    done, stored = StoredRecipes(results), StoreIndex(compute.store.root)
    by_model: dict[str, list[SweepItem]] = {}
    for item in items:
        by_model.setdefault(item.choice.name, []).append(item)
    known = {name: _known(group, results, compute, done, stored) for name, group in by_model.items()}
    rows = [_model_row(by_model[name], known[name], stored) for name in by_model]
    rows += _absent_models(plan, by_model)
    header = ["model", "runs", "done", "images", "stored", "TFLOP", "weights MB", "embeddings MB", "note"]
    recipes = PreviewTable(
        ["pixel recipe", "models", "data sets", "images", "pixels MB", "stored MB"],
        list(_recipe_rows(by_model, known, compute.pixel_store)),
    )
    return Preview(
        PreviewTable(header, rows),
        recipes,
        _absent_table(plan),
        _shard_table(plan, shards),
        _hours_table([*items, *plan.absent], machines, kept=compute.pixel_store is not None),
        _lines(plan, items, compute, results, stored),
    )


def _known(
    items: Sequence[SweepItem], results: Path, compute: Compute, done: StoredRecipes, stored: StoreIndex
) -> _Known:
    """Resolve the items of one model: which are done, and which embeddings they read.

    An item with an error is left out; `problem` has the last error.
    """
    known = _Known([], 0, {})
    for each in all_ready(items, results, compute):
        if each.error is not None:
            known.problem = str(each.error) if each.lacks_model else f"{each.item.job}: {each.error}"
            continue
        try:
            known.entries |= dict(embedding_entries(each, stored))
        except ClipjaxError as error:
            known.problem = f"{each.item.job}: {error}"
            continue
        known.ready.append(each)
        has_results = done.has_all(each)
        known.done += has_results
        if each.subject is not None and not has_results:
            known.requests += each.subject.requests
    return known


def _model_row(items: Sequence[SweepItem], known: _Known, stored: StoreIndex) -> list[Any]:
    choice = items[0].choice
    there = sum(round(count * stored.share(name)) for name, count in known.entries.items())
    weights = cost.weight_bytes(choice, {each for item in items for each in item.request.precisions})
    images = sum(item.images for item in items)
    can_tell = bool(known.ready)
    return [
        choice.title,
        len(items),
        known.done if can_tell else UNKNOWN,
        images,
        there if can_tell else UNKNOWN,
        f"{cost.total_flops(items) / 1e12:.3g}",
        f"{weights / 1e6:.0f}",
        f"{_embedding_bytes(items) / 1e6:.1f}",
        known.problem or (counted(known.requests, "request") + " to its server") * bool(known.requests),
    ]


def _embedding_bytes(items: Iterable[SweepItem]) -> int:
    cards = ((item, item.choice.card) for item in items)
    return sum(4 * item.images * card.arch.vision.embed_dim for item, card in cards if card is not None)


def _absent_models(plan: SweepPlan, by_model: Mapping[str, Sequence[SweepItem]]) -> Iterator[list[Any]]:
    """The models of runs whose data sets are not there. Opens none."""
    runs = Counter(item.choice.name for item in plan.absent)
    for name, choice in {item.choice.name: item.choice for item in plan.absent}.items():
        note = choice.problem or "the data sets of these runs are not there"
        yield [choice.title, runs[name], *[UNKNOWN] * 6, "these too: " * (name in by_model) + note]


def _absent_table(plan: SweepPlan) -> PreviewTable:
    groups: dict[tuple[str, ...], list[SweepItem]] = {}
    for item in plan.absent:
        prompts = "" if item.job.prompts is None else item.job.prompts.name
        lists = str(item.options.get("annotations", ""))
        groups.setdefault((item.job.task, item.job.data.card.name, prompts, lists), []).append(item)
    rows = [[*group, len({item.choice.name for item in items}), UNKNOWN] for group, items in groups.items()]
    return PreviewTable(
        ["task", "data set that is not there", "prompts", "annotations", "models", "images"], rows
    )


def _recipe_rows(
    by_model: dict[str, list[SweepItem]], known: dict[str, _Known], store: PixelStore | None
) -> Iterator[list[Any]]:
    sizes = cost.DataSizes()
    kept = None if store is None else StoreIndex(store.root)
    usable = [name for name, items in by_model.items() if items[0].choice.recipe is not None]
    for recipe, names in itertools.groupby(usable, key=lambda name: by_model[name][0].choice.recipe):
        assert recipe is not None
        group = list(names)
        counts = {
            str(data.root): sizes.of(data, cost.limit_of(item.job, data, item.request))
            for name in group
            for item in by_model[name]
            for data in cost.pixels_of(item.job)
        }
        entries = _pixel_entries(each for name in group for each in known[name].ready)
        there = 0 if kept is None else sum(size * kept.share(name) for name, size in entries.items())
        images = sum(counts.values())
        megabytes = [f"{size / 1e6:.1f}" for size in (cost.pixel_bytes(recipe, images), there)]
        yield [in_words(recipe), len(group), len(counts), images, *megabytes]


def _pixel_entries(resolved: Iterable[ResolvedItem]) -> dict[str, int]:
    """Bytes of the pixel entries that these items read, by the entry's name."""
    sizes = {}
    for each in resolved:
        for data in () if each.subject is None else each.subject.decoded:
            key = key_hash(pixel_key(data.manifest, data.pixels))
            sizes[key] = cost.pixel_bytes(data.pixels, len(data.manifest))
    return sizes


def _shard_table(plan: SweepPlan, count: int) -> PreviewTable:
    total = max(1, cost.total_flops(plan.items))
    rows = [
        [
            f"{i}/{count}",
            len({item.choice.name for item in part}),
            len(part),
            f"{cost.total_flops(part) / total:.1%}",
        ]
        for i, part in enumerate(cut(plan.items, count), 1)
    ]
    return PreviewTable(["shard", "models", "runs", "share of the work"], rows)


def _hours_table(items: Sequence[SweepItem], machines: Sequence[MachineRates], *, kept: bool) -> PreviewTable:
    """Hours if nothing were stored. `kept`: each image is decoded once, else by every model."""
    amounts = amounts_of(items)
    core_seconds = (amounts.decoded if kept else amounts.embedded) / decode_rate()
    rows = []
    for hours in (hours_on(machine, items) for machine in machines):
        cores = core_seconds / hours.seconds if hours.seconds else 0
        numbers = (f"{hours.hours:.3g}", f"{hours.chip_hours:.3g}", f"{cores:.3g}")
        rows.append([hours.machine.name, *numbers, hours.parts()])
    return PreviewTable(["machine", "hours", "chip hours", "decode cores", "hours by"], rows)


def _lines(
    plan: SweepPlan, items: Sequence[SweepItem], compute: Compute, results: Path, stored: StoreIndex
) -> list[str]:
    images = sum(item.images for item in items)
    absent = f"; the data of {counted(len(plan.absent), 'more run')} are not there" if plan.absent else ""
    lines = [
        f"{counted(len(items), 'run')}, {counted(images, 'image')} to embed where none is stored{absent}",
        f"{cost.total_flops(items) / 1e12:.4g} TFLOP: {HOW}; texts at whole length",
        f"embeddings: {stored.root} holds {stored.bytes / 1e9:.3g} GB; all that these runs read, also of "
        f"data that are not there, take {readable_bytes(_embedding_bytes([*items, *plan.absent]))}",
        _pixel_line(compute.pixel_store),
        f"results: {results}",
        HOURS,
        f"plan {plan.digest[:16]}: shards of one sweep say the same here",
    ]
    if plan.absent:
        lines.append(_absent_line(plan))
    return [*lines, *plan.missing_lines, *too_small_for(_samples(plan, items), ledger().claims, results)]


def _samples(plan: SweepPlan, items: Sequence[SweepItem]) -> Iterator[Sampled]:
    """The shares of images that the runs measure on samples, also of data that are not there."""
    there, by_cards = cost.DataSizes(), cost.CardSizes()
    for item, sizes in [*((item, there) for item in items), *((item, by_cards) for item in plan.absent)]:
        data, limit = item.job.data, item.request.limit
        if limit is not None and limit < (whole := sizes.of(data, None)):
            for metric in find_task(item.job.task).shares:
                yield Sampled(item.job.task, data.card.name, metric, limit, whole)


def _absent_line(plan: SweepPlan) -> str:
    runs = counted(len(plan.absent), "run")
    models = counted(len({item.choice.name for item in plan.absent}), "model")
    sets = counted(len({item.job.data.card.name for item in plan.absent}), "data set")
    line = f"data are not there, so only the hours count these: {runs} of {models} on {sets}"
    if (root := plan.suite.data_root) is None:
        return f"{line}: give their folder with --data-root"
    return line if is_dir(root) else f"{line}: there is no folder {root}"


def _pixel_line(store: PixelStore | None) -> str:
    if store is None:
        return "pixels: not kept; each model decodes them again"
    taken = StoreIndex(store.root).bytes
    return (
        f"pixels: {store.root} holds {taken / 1e9:.3g} GB of the {store.budget / 1e9:.3g} GB that it may take"
    )
