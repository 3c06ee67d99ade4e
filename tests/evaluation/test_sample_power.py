"""What a sample can tell: from the discordance of models that are measured, else an assumed one."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _compared import add, ids, write
from _planted import PLANTED

from clipjax.analysis.claims.ledger import Claim, ledger
from clipjax.evaluation.comparison.sample_power import (
    ASSUMED,
    Discordance,
    MeasuredDiscordances,
    Sampled,
    told_by_runs,
    too_small_for,
)
from clipjax.metrics.uncertainty.power import detectable, images_needed
from clipjax.results.store import ResultStore
from clipjax.tasks.inputs import About
from clipjax.tasks.task import Measure, find_task

CLAIMS = """
level = 0.95
margin = 0.05
[columns]
d = "zeroshot d top1"
other = "zeroshot other top1"
[groups]
own = { group = "a" }
theirs = { group = "b" }
[[claims]]
key = "apart"
section = "1"
statement = "They differ"
parts = [{ statistic = "group_difference", y = "d", group = "own", against = "theirs", side = "apart" }]
[[claims]]
key = "close"
section = "1"
statement = "They do not"
[[claims.parts]]
statistic = "group_difference"
y = "d"
group = "own"
against = "theirs"
side = "within"
margin = 0.2
[[claims]]
key = "above"
section = "1"
statement = "One is better"
parts = [{ statistic = "group_difference", y = "d", group = "own", against = "theirs", side = "above" }]
[[claims]]
key = "elsewhere"
section = "1"
statement = "They differ elsewhere"
[[claims.parts]]
statistic = "trend_offset"
x = "d"
y = "other"
group = "own"
against = "theirs"
side = "apart"
"""
SAMPLE: dict[str, Any] = {"limit": 200, "of": 1000, "seed": 0}


@pytest.fixture
def claims(tmp_path: Path) -> tuple[Claim, ...]:
    (tmp_path / "claims.toml").write_text(CLAIMS)
    return ledger(tmp_path / "claims.toml").claims


def planted(folder: Path, shares: dict[str, float], n: int = 400) -> None:
    """Models that are wrong about the first `share` of the images."""
    for k, (model, share) in enumerate(shares.items()):
        table = {"id": ids(n), "correct": np.arange(n) >= share * n}
        measures = [Measure("top1", 1 - share, n)]
        write(folder, table, model=model, measures=measures, recipe_hash=f"{k}" * 64)


def discordance(folder: Path, dataset: str = "d") -> Discordance:
    return MeasuredDiscordances(folder).of(Sampled("zeroshot", dataset, "top1", 9))


def test_the_discordance_is_the_median_of_the_measured_pairs(tmp_path: Path) -> None:
    planted(tmp_path, {"a": 0.0, "b": 0.1, "c": 0.4})
    assert discordance(tmp_path) == (pytest.approx(0.3), 3)
    assert discordance(tmp_path, "other") == (ASSUMED, 0)


@pytest.mark.parametrize(
    ("models", "changed"),
    [("", {}), ("a", {}), ("aa", {}), ("ab", {"ids": [f"x{i}" for i in range(300)]}), ("ab", {"n": 3})],
    ids=["none", "one", "one twice", "other images", "three images"],
)
def test_without_two_models_on_the_same_images_it_is_assumed(
    tmp_path: Path, models: str, changed: dict[str, Any]
) -> None:
    for k, model in enumerate(models):
        add(tmp_path, model, 0.5 + k / 5, recipe_hash=f"{k}" * 64, **(changed if k else {}))
    assert discordance(tmp_path) == (ASSUMED, 0)


def test_models_that_are_right_about_the_same_images_have_none(tmp_path: Path) -> None:
    planted(tmp_path, {"a": 0.2, "b": 0.2})
    assert discordance(tmp_path) == (ASSUMED, 0)


def told(rows: list[Any], folder: Path) -> str:
    """The only line."""
    [line] = told_by_runs([rows], folder)
    return line


def test_a_limited_run_says_what_its_images_tell(tmp_path: Path) -> None:
    planted(tmp_path, {"a": 0.0, "b": 0.1})
    run = add(tmp_path, "c", n=200, sample=SAMPLE, recipe_hash="c" * 64)
    rows: list[Any] = ResultStore(tmp_path).run(run)
    line = told(rows, tmp_path)
    difference = detectable(200, 0.1)
    assert difference is not None
    assert f"zeroshot on d: 200 images tell a difference of {difference:.4f} in top1" in line
    assert "(discordance 0.1, the median of 1 pair of models measured here;" in line
    assert "(discordance 0.1, assumed;" in told(rows, tmp_path / "nowhere")
    few: list[Any] = [{**row, "n": 3} for row in rows]
    assert "3 images tell no difference of two models" in told(few, tmp_path)
    whole: list[Any] = [{**row, "sample": None} for row in rows]
    assert told_by_runs([whole], tmp_path) == []


def test_runs_of_equal_size_and_discordance_share_a_line(tmp_path: Path) -> None:
    runs = [
        ResultStore(tmp_path).run(
            add(tmp_path, "a", n=200, sample=SAMPLE, dataset=name, recipe_hash=name * 64)
        )
        for name in "de"
    ]
    [line] = told_by_runs(runs, tmp_path)
    assert line.startswith("zeroshot on d, zeroshot on e: 200 images tell ")


def test_a_sample_is_too_small_for_claims_with_a_smaller_margin(
    tmp_path: Path, claims: tuple[Claim, ...]
) -> None:
    planted(tmp_path, {"a": 0.0, "b": 0.1})
    needed = images_needed(0.1, 0.05)
    small, large = (Sampled("zeroshot", "d", "top1", n, 5000) for n in (needed - 1, needed))
    [line] = too_small_for([small, small], claims, tmp_path)
    size = detectable(needed - 1, 0.1)
    assert f"{needed - 1:,} of 5,000 images of d (zeroshot) tell a difference of {size:.3g} in top1" in line
    assert line.endswith(f"a margin of 0.05 takes {needed:,}, in claims apart")
    assert too_small_for([large], claims, tmp_path) == []
    assert too_small_for([small._replace(metric="top5")], claims, tmp_path) == []


@pytest.mark.parametrize("case", PLANTED)
def test_a_task_states_all_proportions_that_it_may_have(case: str) -> None:
    task, columns = find_task(case.partition(" ")[0]), PLANTED[case]
    assert task.paired is not None
    assert task.proportions is not None
    right = task.paired({"id": ids(len(next(iter(columns.values())))), **columns}, About("d", None)).right
    assert [name for name in right if not any(fnmatchcase(name, each) for each in task.proportions)] == []
    patterns = [each for each in task.proportions if each not in ("top1_*", "top1@*", "top5")]
    assert [each for each in patterns if not any(fnmatchcase(name, each) for name in right)] == []


def test_a_share_of_a_task_is_one_of_all_images() -> None:
    tasks = [name for name in PLANTED if " " not in name and find_task(name).shares]
    assert {"zeroshot", "imagenet_x", "retrieval"} <= {*tasks}
    for name in tasks:
        task, columns = find_task(name), PLANTED[name]
        assert task.paired is not None
        n = len(next(iter(columns.values())))
        found = task.paired({"id": ids(n), **columns}, About("d", None))
        for metric in task.shares:
            assert len(found.right[metric]) == n, (name, metric)
            assert np.all(found.over.get(metric, True)), (name, metric)
