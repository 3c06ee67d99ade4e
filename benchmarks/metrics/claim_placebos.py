"""Verdicts of claims that are about nothing, and of claims about a planted effect, on published numbers.

    python benchmarks/metrics/claim_placebos.py PUBLISHED              # minutes
    python benchmarks/metrics/claim_placebos.py PUBLISHED --verdicts   # docs/study/claims.md's table, seconds

PUBLISHED holds the published tables in folders `openclip`, `timm`, `testbed` and `imagenet_x`.

* Splits: random groups of timm's architecture families, ten against ten, and pairs of single families. No
  cause is planted, so a claim that one is above the other should seldom be decided. "Models" draws models, as
  claims did before they drew runs and had placebos.
* Power: two groups of ten training runs drawn at random, 3 points added to one on ImageNet-V2.
* The flip: `retrieval_quantity` on Flickr30k's text retrieval, by models and by runs.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks import common
from clipjax.analysis.claims.claims import FAILS, HOLDS, UNKNOWN, Finding, Verdict, check, decide, doubted
from clipjax.analysis.claims.ledger import Ledger, ledger
from clipjax.analysis.claims.verdicts import of_placebo, units
from clipjax.analysis.rows.lineage import family_of, run_of
from clipjax.results.published.numbers import read_numbers
from clipjax.results.published.result_rows import published_rows
from clipjax.results.row import Row
from clipjax.results.tables import as_markdown

FOLDERS = {"open_clip": "openclip", "timm": "timm", "testbed": "testbed", "imagenet_x": "imagenet_x"}
SHIFTS = ("v2", "r", "sketch", "a")
V2 = "imagenet_v2"
FAMILIES, RUNS, PLANTED, RESAMPLES = 10, 10, 0.03, 300
CLAIM = """
unit = "{unit}"
[columns]
imagenet = "zeroshot imagenet_val top1"
v2 = "zeroshot imagenet_v2:matched-frequency top1"
sketch = "zeroshot imagenet_sketch top1"
r = "zeroshot imagenet_r top1"
a = "zeroshot imagenet_a top1"
[groups]
one = {{ side = "one" }}
other = {{ side = "other" }}
[[claims]]
key = "random"
section = "none"
statement = "One group is above the other"
[[claims.parts]]
statistic = "trend_offset"
x = "imagenet"
y = {columns}
group = "one"
against = "other"
side = "{side}"
"""
TITLES = [
    *("claim", "statistic", "of", "must be", "value"),
    *("interval", "units", "placebo", "margin", "verdict"),
]
Groups = tuple[Iterable[str], Iterable[str]]


def main(
    published: Annotated[Path, typer.Argument(help="The published tables.")],
    draws: Annotated[int, typer.Option(help="Random claims of each kind.")] = 200,
    verdicts: Annotated[
        bool, typer.Option("--verdicts", help="Print docs/study/claims.md's table instead.")
    ] = False,
    json: common.Json = None,
) -> None:
    """How often claims about nothing are decided, and claims about a planted effect."""
    if verdicts:
        print(verdict_table(published_of(published)))
        return
    with common.reported("claim_placebos", json) as results:
        models = timm_models(published_of(published, ["timm"]))
        for name, groups in (("ten families", ten_families), ("pairs of families", pairs_of_families)):
            results[name] = found = decided_at_random(models, groups(models, draws))
            print(f"\n{name}: decided among {draws} random claims")
            common.table(
                [(column, "  ".join(f"{k} {v:.3f}" for k, v in of.items())) for column, of in found.items()]
            )
        results["power"] = power(models, draws)
        common.table([(f"power, {name}", f"{value:.4f}") for name, value in results["power"].items()])
        results["flip"] = flip(published_of(published, ["open_clip"]))
        common.table(list(results["flip"].items()))


def published_of(folder: Path, sources: Sequence[str] = tuple(FOLDERS)) -> list[Row]:
    """The published rows that the study's claims and `CLAIM` ask for."""
    columns = [column for claim in ledger().claims for part in claim.parts for column in part.columns()]
    wanted = {tuple(term) for column in columns for term in column.terms}
    rows: list[Any] = published_rows(
        [
            number
            for source in sources
            for number in read_numbers(source, folder / FOLDERS[source])
            if (number.score.task, number.score.dataset, number.score.metric, number.score.slice) in wanted
        ]
    )
    return rows


def timm_models(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The models' rows on ImageNet and the shifts, of models that have all five."""
    by_model: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row["dataset"].startswith("imagenet_") and row["task"] == "zeroshot":
            by_model[row["model"]].append(row)
    datasets = Counter(len(own) for own in by_model.values()).most_common(1)[0][0]
    return {model: own for model, own in sorted(by_model.items()) if len(own) == datasets}


def ten_families(models: dict[str, list[Row]], count: int) -> Iterator[Groups]:
    """`FAMILIES` random families against as many others."""
    families = _by(family_of, models)
    names, rng = sorted(families), np.random.default_rng(0)
    for _ in range(count):
        order = [names[k] for k in rng.permutation(len(names))]
        sides = order[:FAMILIES], order[FAMILIES : 2 * FAMILIES]
        yield tuple([model for name in side for model in families[name]] for side in sides)  # type: ignore[misc]


def pairs_of_families(models: dict[str, list[Row]], count: int) -> Iterator[Groups]:
    """One family against another, of eight runs or more."""
    families = {
        name: own for name, own in _by(family_of, models).items() if len({run_of(each) for each in own}) >= 8
    }
    names, rng = sorted(families), np.random.default_rng(1)
    for _ in range(count):
        one, other = rng.choice(len(names), 2, replace=False)
        yield families[names[one]], families[names[other]]


def decided_at_random(
    models: dict[str, list[Row]], groups: Iterable[Groups], columns: Sequence[str] = SHIFTS
) -> dict[str, dict[str, float]]:
    """{column: {kind of verdict: its share}}, of claims that one group is above the other, and that they are
    apart by a point: as it is, by runs without a placebo, and by models without one."""
    by_runs, by_models = (book(columns, "above", unit) for unit in ("run", "model"))
    counts: dict[str, Counter[str]] = {column: Counter() for column in columns}
    claims = 0
    for sides in groups:
        rows, claims = rows_of(models, sides), claims + 1
        [runs], [own] = (check(each, rows, resamples=RESAMPLES) for each in (by_runs, by_models))
        for found, alone in zip(runs.findings, own.findings):
            of = counts[found.part.y.key]
            of["no number"] += found.value is None
            if found.value is None:
                continue
            for side in ("above", "apart"):
                words = word_of(found, side), word_before(found, side), word_before(alone, side)
                for name, word in zip(("", ", no placebo", ", by models"), words):
                    of[f"{side}{name}"] += word == HOLDS or (side == "above" and word == FAILS)
            of["not apart"] += word_of(found, "apart") == FAILS
    return {column: {name: n / claims for name, n in sorted(of.items())} for column, of in counts.items()}


def power(models: dict[str, list[Row]], count: int, planted: float = PLANTED) -> dict[str, float]:
    """Shares of verdicts about two groups of `RUNS` random runs, `planted` added to one on V2."""
    runs, rng, one = _by(run_of, models), np.random.default_rng(2), book(["v2"], "above")
    names, words, spreads = sorted(runs), Counter[str](), []
    for _ in range(count):
        drawn = [runs[names[k]][0] for k in rng.choice(len(names), 2 * RUNS, replace=False)]
        rows = rows_of(models, (drawn[:RUNS], drawn[RUNS:]), planted)
        [finding] = check(one, rows, resamples=RESAMPLES)[0].findings
        words[finding.word] += 1
        [plain] = check(one, rows_of(models, (drawn[:RUNS], drawn[RUNS:])), resamples=RESAMPLES)[0].findings
        words["decided without an effect"] += plain.word != UNKNOWN
        spreads += [] if plain.placebo is None else [plain.placebo.spread]
    shares = {word: words[word] / count for word in (HOLDS, FAILS, UNKNOWN, "decided without an effect")}
    return {**shares, "placebo spread without an effect": float(np.median(spreads))}


def flip(rows: Sequence[Row]) -> dict[str, str]:
    """`retrieval_quantity` on Flickr30k's texts, by models and by runs."""
    told = {}
    for unit in ("model", "run"):
        [verdict] = check(with_unit(ledger(), unit), rows, claims=["retrieval_quantity"])
        [finding] = [each for each in verdict.findings if each.part.y.key == "flickr_texts" and each.measured]
        told[units(finding)] = (
            f"{_limits(finding)} {word_before(finding) if unit == 'model' else finding.word}"
        )
    return told


def verdict_table(rows: Sequence[Row]) -> str:
    """Markdown of docs/study/claims.md: each measured part."""
    return as_markdown(TITLES, [cells for verdict in check(ledger(), rows) for cells in cells_of(verdict)])


def cells_of(verdict: Verdict) -> Iterator[list[str]]:
    for finding in verdict.findings:
        if finding.measured:
            part = finding.part
            yield [
                *(verdict.claim.key, part.statistic, str(part), part.bound, f"{finding.value:+.4f}"),
                *(_limits(finding), units(finding), *of_placebo(finding.placebo), finding.word),
            ]


def word_before(finding: Finding, side: str | None = None) -> str:
    """By the interval alone; `side` in place of the part's."""
    assert finding.lo is not None
    assert finding.hi is not None
    return decide(finding.lo, finding.hi, dataclasses.replace(finding.part, side=side or finding.part.side))


def word_of(finding: Finding, side: str) -> str:
    """If the part's side were this one."""
    word, part = word_before(finding, side), dataclasses.replace(finding.part, side=side)
    assert finding.placebo is not None
    return UNKNOWN if doubted(word, part, finding.placebo) else word


def with_unit(book: Ledger, unit: str) -> Ledger:
    """The ledger, with one unit for all its parts."""
    claims = (
        dataclasses.replace(claim, parts=tuple(dataclasses.replace(part, unit=unit) for part in claim.parts))
        for claim in book.claims
    )
    return dataclasses.replace(book, claims=tuple(claims))


def book(columns: Sequence[str], side: str, unit: str = "run") -> Ledger:
    """A ledger of `CLAIM`."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{side}_{unit}.toml"
        path.write_text(CLAIM.format(columns=list(columns), side=side, unit=unit))
        return ledger(path)


def rows_of(models: dict[str, list[Row]], sides: Groups, planted: float = 0.0) -> list[Any]:
    """Both sides' rows, with the side as a fact. `planted` is added to the first side's accuracies on V2."""
    return [
        {
            **row,
            "model_facts": {**row["model_facts"], "side": side},
            "value": (row["value"] or 0.0) + planted * (side == "one" and row["dataset"].startswith(V2)),
            "interval": None,
        }
        for side, names in zip(("one", "other"), sides)
        for model in names
        for row in models[model]
    ]


def _by(of: Any, models: dict[str, list[Row]]) -> dict[str, list[str]]:
    """Models by run or family."""
    named: dict[str, list[str]] = defaultdict(list)
    for model, rows in models.items():
        named[of(model, rows[0]["model_facts"])].append(model)
    return named


def _limits(finding: Finding) -> str:
    return f"[{finding.lo:+.4f}, {finding.hi:+.4f}]"


if __name__ == "__main__":
    typer.run(main)
