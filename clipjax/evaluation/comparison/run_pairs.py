"""Pairs of two models' runs to compare: runs that were made in the same way.

    pairs_of(("vit_b_32-openai", "vit_b_16-openai"), Path("results"), RunFilter(prompts="openai_80"))

Runs match by task and data set, then by recipe without the model's part. If no recipes match: by prompts,
label space, projection, ID set, annotations, fit data, precision and sample. A model's transform, tokenizer
and logit scale may differ, and its prompts if it has its own words or head. The newest of several runs with
one recipe counts.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from clipjax.analysis.diff.differences import how
from clipjax.analysis.rows.alike import has_own_prompts
from clipjax.errors import DataError, UsageError
from clipjax.models.version import FORM
from clipjax.results.completeness import is_whole
from clipjax.results.data_sets import with_distinct_names
from clipjax.results.row import COMPARISON, Row
from clipjax.results.runs.stored_runs import runs_named
from clipjax.results.store import ResultStore
from clipjax.storage.digests import canonical_json

RunAddress = tuple[Path, str]  # a folder of results, a run id in it
# Keys of a recipe that do not matter here: the model's, the bootstrap's, and those in `how`.
OF_MODEL = {"model", "forward", "logit_scale", "logit_bias", "pixels", "tokenizer", "adapter", "params"}
OF_MODEL |= {FORM, "head_classes", "normalize_features", "predictions", "format", "bootstrap", "projection"}
OF_MODEL |= {"asking", "prompts", "skipped"}  # `_recipe` adds prompts by name and digest
NONE = "none"
OPTIONS = {"prompts": "prompts", "precision": "precision", "label_space": "labels"}


class RunFilter(NamedTuple):
    """Conditions on the runs to compare: prompt set, precision and label space; None: any."""

    prompts: str | None = None
    precision: str | None = None
    labels: str | None = None


class _Run(NamedTuple):
    address: RunAddress
    row: Row

    @property
    def how(self) -> dict[str, str]:
        return how(self.row)

    @property
    def own_prompts(self) -> bool:
        return has_own_prompts(self.row)


Pairs = list[tuple[_Run, _Run]]


def pairs_of(
    names: tuple[str, str], results: Path, choice: RunFilter
) -> tuple[list[tuple[RunAddress, RunAddress]], dict[str, str]]:
    """A pair of runs for each task and data set in common, and why others have none.

    Raises:
        UsageError: no run or model of that name, both are one run, or several pairs are possible everywhere.
        DataError: nothing in common, or made in the same way, or matching `choice`.
    """
    (runs_a, named_first), (runs_b, named_second) = (_runs_of(name, results) for name in names)
    both_named = named_first and named_second  # two runs, not two models with all their runs
    if not both_named:
        runs_a, runs_b = _with_distinct_names(runs_a, runs_b)
    first, second = _by_key(runs_a), _by_key(runs_b)
    common = [key for key in first if key in second]
    if not common:
        if len(first) == len(second) == 1:
            what = [f"{name} is of {task} on {data}" for name, [(task, data)] in zip(names, (first, second))]
            raise DataError(f"{' and '.join(what)}: compare runs of one task on one data set")
        raise DataError(f"{results}: {names[0]} and {names[1]} have no task and data set in common")
    matches, unlike = [], {}
    several: list[UsageError] = []
    for key in common:
        both = first[key], second[key]
        if both_named:
            pairs = [(both[0][0], both[1][0])]
        else:
            both = tuple(_chosen(runs, choice) for runs in both)
            pairs = _matching(*both)
        if len(pairs) == 1:
            matches += pairs
            continue
        if pairs:
            several.append(_several(names, key, pairs))
        why = str(several[-1]) if pairs else _unlike(names, both, choice)
        unlike[f"{key[0]} on {key[1]}"] = why
    if several and not matches:
        raise several[0]
    if not matches:
        what, why = next(iter(unlike.items()))
        raise DataError(
            f"{names[0]} and {names[1]} have no runs made in the same way of {what}: {why}; evaluate both "
            "alike, or name two runs by their ids"
        )
    if any(a.address == b.address for a, b in matches):
        raise UsageError(f"{names[0]} and {names[1]} are one run: name two")
    return [(a.address, b.address) for a, b in matches], unlike


def _runs_of(name: str, results: Path) -> tuple[list[_Run], bool]:
    """Newest first; and whether the name is a run's."""
    store, ids, is_run = runs_named(name, results)
    runs = [(run_id, store.run(run_id)) for run_id in ids]
    own = [_Run((store.root, run_id), rows[0]) for run_id, rows in runs if is_run or _counts(store, rows)]
    if not own:
        raise DataError(f"{name} has no measured run with a per-image table in {results}")
    return own[::-1], is_run


def _with_distinct_names(a: Sequence[_Run], b: Sequence[_Run]) -> tuple[list[_Run], list[_Run]]:
    """The runs, in which each name of a data set is of one."""
    rows = with_distinct_names([run.row for run in (*a, *b)])
    runs = [run._replace(row=row) for run, row in zip((*a, *b), rows)]
    return runs[: len(a)], runs[len(a) :]


def _by_key(runs: Iterable[_Run]) -> dict[tuple[str, str], list[_Run]]:
    groups: dict[tuple[str, str], list[_Run]] = {}
    for run in runs:
        groups.setdefault((run.row["task"], run.row["dataset"]), []).append(run)
    return groups


def _counts(store: ResultStore, rows: list[Row]) -> bool:
    measured = rows[0]["precision"] != COMPARISON and any(row["value"] is not None for row in rows)
    return measured and (store.root / rows[0]["run_id"] / "images.parquet").is_file()


def _chosen(runs: Sequence[_Run], choice: RunFilter) -> list[_Run]:
    """Prompts do not apply to a run without a prompt set, nor a precision to one of a server."""
    return [
        run
        for run in runs
        if (choice.prompts in (None, run.row["convention"].get("prompts")) or run.own_prompts)
        and (choice.precision in (None, run.row["precision"]) or run.row["precision"] is None)
        and choice.labels in (None, run.row["convention"].get("label_space"))
    ]


def _matching(first: Sequence[_Run], second: Sequence[_Run]) -> Pairs:
    """Runs with equal recipes, else with equal `how`; only complete ones, if there are any."""
    for key in (_recipe, _words):
        pairs = [(a, b) for a in _newest(first, key) for b in _newest(second, key) if _alike(a, b, key)]
        whole = [pair for pair in pairs if all(is_whole(run.row) for run in pair)]
        if pairs:
            return whole or pairs
    return []


def _alike(a: _Run, b: _Run, key: Callable[[_Run], dict[str, Any]]) -> bool:
    one, other = key(a), key(b)
    if a.own_prompts or b.own_prompts:
        one, other = ({**each, "prompts": None, "projection": None} for each in (one, other))
    if "fit" not in one.keys() & other.keys():  # what one of them fitted changes no number of both
        one, other = ({**each, "fit": None} for each in (one, other))
    if "precision" not in one.keys() & other.keys():  # a server decides its own
        one, other = ({**each, "precision": None} for each in (one, other))
    return one == other


def _words(run: _Run) -> dict[str, Any]:
    return run.how


def _recipe(run: _Run) -> dict[str, Any]:
    recipe = {name: value for name, value in run.row["recipe"].items() if name not in OF_MODEL}
    for beside in ("id", "fit"):
        if isinstance(known := recipe.get(beside), Mapping):
            recipe[beside] = {name: known[name] for name in known if name not in OF_MODEL}
    pixels = run.row["recipe"].get("pixels")
    decode = (pixels.get("decode") or "full") if isinstance(pixels, Mapping) else None
    prompts = (run.how["prompts"], run.row["recipe"].get("prompts"))
    return {**run.how, "prompts": prompts, "recipe": recipe, "decode": decode}


def _newest(runs: Sequence[_Run], key: Callable[[_Run], dict[str, Any]]) -> list[_Run]:
    """The newest of the runs whose weights and transform are equal, too."""
    own = ("model", "pixels", "adapter", "predictions")

    def everything(run: _Run) -> str:
        return canonical_json([key(run), [run.row["recipe"].get(name) for name in own]])

    return list({everything(run): run for run in reversed(runs)}.values())


def _several(names: tuple[str, str], key: tuple[str, str], pairs: Pairs) -> UsageError:
    ways = _listed([run for pair in pairs for run in pair])
    return UsageError(
        f"{names[0]} and {names[1]} have {len(pairs)} pairs of runs of {key[0]} on {key[1]} made in the same "
        f"way, with {ways}: choose one, or name two runs by their ids"
    )


def _listed(runs: Sequence[_Run]) -> str:
    """The values with the option that chooses: "prompts a or b (--prompts)"."""
    said = []
    for name in dict.fromkeys(itertools.chain(*(run.how for run in runs))):
        ways = sorted(
            {run.how.get(name, NONE) for run in runs if not (name == "prompts" and run.own_prompts)}
        )
        if len(ways) > 1:
            option = f" (--{OPTIONS[name]})" if name in OPTIONS else ""
            said.append(f"{name.replace('_', ' ')} {' or '.join(ways)}{option}")
    return ", ".join(said) or "other weights, images or settings"


def _unlike(names: tuple[str, str], both: Sequence[Sequence[_Run]], choice: RunFilter) -> str:
    options = [f"--{name} {value}" for name, value in choice._asdict().items() if value is not None]
    for name, runs in zip(names, both):
        if not runs:
            return f"no run of {name} has {', '.join(options)}"
    every = [*both[0], *both[1]]
    settings = dict.fromkeys(itertools.chain(*(run.how for run in every)))
    several = [setting for setting in settings if len({run.how.get(setting) for run in every}) > 1]
    said = []
    for name, runs in zip(names, both):
        own = [f"{setting} {_ways(runs, setting)}" for setting in several]
        said.append(f"{name} has {', '.join(own) or 'other settings'}")
    return "; ".join(said)


def _ways(runs: Sequence[_Run], name: str) -> str:
    return " or ".join(sorted({run.how.get(name, NONE) for run in runs}))
