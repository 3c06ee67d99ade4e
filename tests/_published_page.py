"""The tables of docs/study/published_numbers.md, counted in published files; `make records` writes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from clipjax.checkpoints.identity.registry_rows import registry
from clipjax.results.published.numbers import PublishedNumber, read_numbers
from clipjax.storage.reading import read_csv

PAGE = Path(__file__).resolve().parent.parent / "docs" / "study" / "published_numbers.md"
FOLDERS = {"open_clip": "openclip", "timm": "timm", "testbed": "testbed", "imagenet_x": "imagenet_x"}
WHAT = {
    "open_clip": "accuracy on ImageNet val and five shifts, recall on Flickr30k and COCO",
    "timm": "top-1 and top-5 on val, V2, Sketch, A, R, ReaL's labels, and on val among the classes of "
    "A and of R",
    "testbed": "top-1 in 213 settings, natural and synthetic",
    "imagenet_x": "accuracy with each of 16 visual factors, the average, the worst factor, the worst 100 "
    "classes; of the top and of all factors, prototypes left out",
}
GROUPS: dict[str | None, str] = {
    "standard": "`standard`: supervised, on ImageNet-1k alone",
    "more_data": "`more_data`",
    "contrastive": "`contrastive`",
    "clip": "`clip`",
    "curated": "`curated`: DFN, MetaCLIP, WebLI",
    "clip_ft": "`clip_ft`",
    "robust_intervention": "`robust_intervention`",
    "lp_adversarial": "`lp_adversarial`, a type of the testbed",
    "low_accuracy": "`low_accuracy`, likewise",
    "no_network": "`no_network`, likewise",
    "registry": "of the registry alone",
    None: "none",
}


def page(published: Path) -> str:
    """The page with its tables made again, from a folder with the sources' folders (`FOLDERS`)."""
    numbers = {source: read_numbers(source, published / folder) for source, folder in FOLDERS.items()}
    tables = {
        "sources": _sources(numbers),
        "weights": _weights(published / FOLDERS["timm"]),
        "groups": _groups(numbers),
    }
    text = PAGE.read_text(encoding="utf-8")
    for name, table in tables.items():
        begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
        text = f"{text.partition(begin)[0]}{begin}{table}{end}{text.partition(end)[2]}"
    return text


def _sources(numbers: Mapping[str, Sequence[PublishedNumber]]) -> str:
    lines = ["| source | models | of them registered | numbers |", "|---|---|---|---|"]
    for source, some in numbers.items():
        models = {number.score.model: number.facts is None for number in some}
        counts = f"{len(models):,} | {sum(models.values()):,} | {len(some):,}"
        lines.append(f"| `{source}` | {counts}: {WHAT[source]} |")
    return "".join(f"{line}\n" for line in lines)


def _weights(folder: Path) -> str:
    """What timm's count of models is: it lists weights at an image size."""
    tables = [
        {(row["model"], row["img_size"]) for row in read_csv(path)}
        for path in sorted(folder.glob("results-*.csv"))
    ]
    whole, some = set.intersection(*tables), set.union(*tables)
    sizes = Counter(Counter(name for name, _ in whole).values())
    assert sizes.keys() == {1, 2}, "timm lists weights at more than two sizes: say so here"
    weights = sum(sizes.values())
    return (
        f"A model of `timm` is a line of its tables: weights at an image size. Its {len(some):,} models are "
        f"{weights:,} weights that all {len(tables)}\ntables have, {sizes[2]:,} of them at two sizes, "
        f"and {len(some - whole)} that some tables lack.\n"
    )


def _groups(numbers: Mapping[str, Sequence[PublishedNumber]]) -> str:
    counts = {source: _count(some) for source, some in numbers.items()}
    lines = [
        f"| group | {' | '.join(f'`{source}`' for source in numbers)} |",
        "|---" * (len(numbers) + 1) + "|",
    ]
    for group, title in GROUPS.items():
        cells = [f" {count:,} |" if (count := counts[source][group]) else " |" for source in numbers]
        lines.append(f"| {title} |{''.join(cells)}")
    return "".join(f"{line}\n" for line in lines)


def _count(some: Sequence[PublishedNumber]) -> Counter[str | None]:
    facts = {number.score.model: number.facts for number in some}
    groups = [(registry()[name] if own is None else own).get("group") for name, own in facts.items()]
    return Counter(group if group in GROUPS else "registry" for group in groups)
