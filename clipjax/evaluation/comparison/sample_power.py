"""Which difference of two models a sample of a data set can tell, by the test that `compare` uses.

The discordance (the share of images that one of two models alone has right) is that of the models which are
measured on the data set: the median of their pairs. Without two of them, it is assumed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from clipjax.analysis.claims.ledger import Claim, Part
from clipjax.errors import ClipjaxError, counted
from clipjax.evaluation.comparison.ranking import measured_alike, measured_rows
from clipjax.evaluation.comparison.run_pairs import RunFilter
from clipjax.metrics.uncertainty.power import POWER, detectable, images_needed
from clipjax.results.row import Row, metric_name
from clipjax.results.store import ResultStore
from clipjax.results.tables import model_name
from clipjax.tasks.task import find_task

ASSUMED = 0.1  # the discordance of two models of which nothing is measured
MODELS = 10  # at most this many, the newest: reading their tables must not take longer than the run
MARGINS = ("within", "apart", "not_above", "not_below")  # sides of a claim that name a size


class Discordance(NamedTuple):
    """`pairs`: of models measured on the data set; 0: assumed."""

    value: float
    pairs: int

    def __str__(self) -> str:
        origin = f"the median of {counted(self.pairs, 'pair')} of models measured here"
        return f"discordance {self.value:.3g}, {origin if self.pairs else 'assumed'}"


class Sampled(NamedTuple):
    """A number on a sample of `n` of `whole` images; `whole` is None where it is not known."""

    task: str
    dataset: str
    metric: str
    n: int
    whole: int | None = None


class MeasuredDiscordances:
    """The discordances of the models of a folder of results, each read once."""

    def __init__(self, results: str | Path) -> None:
        self._store = ResultStore(results)
        self._rows: list[Row] | None = None
        self._known: dict[tuple[str, str, str], Discordance] = {}

    def of(self, sampled: Sampled) -> Discordance:
        key = sampled[:3]
        if key not in self._known:
            self._known[key] = self._measured(*key)
        return self._known[key]

    def _measured(self, task: str, dataset: str, metric: str) -> Discordance:
        assumed = Discordance(ASSUMED, 0)
        try:
            if self._rows is None:
                self._rows = measured_rows(self._store)
            own = [row for row in self._rows if (row["task"], row["dataset"]) == (task, dataset)]
            own = [row for row in own if metric_name(row["metric"], row["slice"]) == metric]
            newest = [*dict.fromkeys(map(model_name, reversed(own)))][:MODELS]
            rows = [row for row in own if model_name(row) in newest]
            right = measured_alike(self._store, rows, metric, RunFilter()).right
        except ClipjaxError:  # no results, or no two models alike
            return assumed
        i, j = np.triu_indices(len(right), 1)
        value = float(np.median((right[i] != right[j]).mean(axis=1)))
        return Discordance(value, len(i)) if value else assumed


def told_by_runs(runs: Iterable[Sequence[Row]], results: str | Path) -> list[str]:
    """A line for each number of images and discordance, on what the sampled runs among `runs` can tell."""
    measured, lines = MeasuredDiscordances(results), dict[tuple[int, str, Discordance], list[str]]()
    for rows in runs:
        for sampled in _samples_of(rows):
            key = sampled.n, sampled.metric, measured.of(sampled)
            lines.setdefault(key, []).append(f"{sampled.task} on {sampled.dataset}")
    return [_told(*key, places) for key, places in lines.items()]


def _samples_of(rows: Sequence[Row]) -> Iterator[Sampled]:
    row = rows[0]
    shares = find_task(row["task"]).shares[:1] if row["sample"] else ()
    for each in rows:
        of_all = each["metric"] in shares and each["slice"] is None
        if of_all and each["value"] is not None and each["n"]:
            yield Sampled(row["task"], row["dataset"], each["metric"], each["n"])


def _told(n: int, metric: str, discordance: Discordance, places: Sequence[str]) -> str:
    difference = detectable(n, discordance.value)
    what = "no difference" if difference is None else f"a difference of {difference:.4f} in {metric}"
    return (
        f"{', '.join(places)}: {n:,} images tell {what} of two models, with power {POWER:g} ({discordance}; "
        "clipjax power has others)"
    )


def too_small_for(samples: Iterable[Sampled], claims: Sequence[Claim], results: str | Path) -> list[str]:
    """Lines on the samples that tell no difference as small as the claims about their numbers name.

    A claim names a size where its side is one of `MARGINS`. Differences are of two models, as in `clipjax
    power`; a claim about groups of many models may need fewer images.
    """
    measured = MeasuredDiscordances(results)
    lines: dict[tuple[Sampled, float], dict[str, None]] = {}
    for sampled in dict.fromkeys(samples):
        for claim in claims:
            for part in claim.parts:
                if part.side in MARGINS and _reads(part, sampled):
                    lines.setdefault((sampled, part.margin), {})[claim.key] = None
    return list(_too_small(lines, measured))


def _reads(part: Part, sampled: Sampled) -> bool:
    columns = (part.y, part.than)  # in whose units the margin is
    terms = (term for column in columns if column is not None for term in column.terms)
    return any((*term[:3], term.slice) == (*sampled[:3], None) for term in terms)


def _too_small(
    lines: Mapping[tuple[Sampled, float], Mapping[str, None]], measured: MeasuredDiscordances
) -> Iterator[str]:
    for (sampled, margin), keys in lines.items():
        discordance = measured.of(sampled)
        if margin > discordance.value:
            continue  # no two such models differ by so much
        needed = images_needed(discordance.value, margin)
        if needed <= sampled.n:
            continue
        told = detectable(sampled.n, discordance.value)
        what = "no difference" if told is None else f"a difference of {told:.3g}"
        whole = f" of {sampled.whole:,}" if sampled.whole else ""
        size = f"{sampled.n:,}{whole} images of {sampled.dataset} ({sampled.task})"
        told_of = f"tell {what} in {sampled.metric} ({discordance})"
        wanted = f"a margin of {margin:g} takes {needed:,}, in claims {', '.join(keys)}"
        yield f"sample too small: {size} {told_of}; {wanted}"
