"""A sweep of some of a suite's models, on some of the images."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from _sweep_world import rows_of, sweep
from typer.testing import CliRunner

from clipjax.analysis.claims.ledger import ledger
from clipjax.cli import app
from clipjax.errors import UsageError
from clipjax.metrics.uncertainty.power import images_needed
from clipjax.sweep.subset import subset
from clipjax.sweep.suite import Suite, load_suite

RUNS = """
title = "Three kinds of models"
models = [
    "vit_b_32-openai",
    { path = "models/one", name = "mine" },
    { name = "theirs", predictions = "preds/{dataset}.parquet" },
]

[[runs]]
task = "zeroshot"
datasets = ["imagenet_r"]

[[runs]]
task = "zeroshot"
models = ["vit_b_16-openai", "models/two", "hub/two"]
datasets = ["imagenet_a"]
limit = 30
"""


@pytest.fixture
def listed(suite: Path, tmp_path: Path) -> Suite:
    file = suite.with_name("listed.toml")
    file.write_text(RUNS)
    return load_suite(file)


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        ("vit_b_32-openai", ["vit_b_32-openai"]),
        ("mine", ["/models/one"]),
        ("one", ["/models/one"]),
        ("models/one", ["/models/one"]),
        ("theirs", ["predictions:theirs"]),
        ("hub/two", ["hub/two"]),
        ("two", ["/models/two", "hub/two"]),
    ],
)
def test_a_model_is_picked_by_each_of_its_names(listed: Suite, name: str, chosen: list[str]) -> None:
    kept = subset(listed, [name]).models
    assert len(kept) == len(chosen)
    assert all(model.endswith(each) for model, each in zip(kept, chosen))


def test_runs_without_a_model_are_left_out(listed: Suite) -> None:
    assert [run.datasets for run in subset(listed, ["vit_b_16-openai"]).runs] == [("imagenet_a",)]
    assert subset(listed) == listed
    both = subset(listed, ["vit_b_16-openai", "mine"])
    assert [len(run.models) for run in both.runs] == [1, 1]


@pytest.mark.parametrize(("limit", "limits"), [(20, [20, 20]), (100, [100, 30])])
def test_the_smaller_limit_counts(listed: Suite, limit: int, limits: list[int]) -> None:
    narrowed = subset(listed, ["vit_b_32-openai", "hub/two"], limit)
    assert [run.options["limit"] for run in narrowed.runs] == limits


@pytest.mark.parametrize("wrong", ["vit_b_32-openia", "wo", ""])
def test_a_model_that_the_suite_does_not_have(listed: Suite, wrong: str) -> None:
    with pytest.raises(UsageError, match=f"unknown model of listed '{wrong}'; (did you mean|known: )"):
        subset(listed, [wrong])


def test_files_of_predictions_are_not_cut(listed: Suite) -> None:
    with pytest.raises(UsageError, match="--limit: theirs of listed has files of predictions"):
        subset(listed, limit=10)
    assert subset(listed, ["mine"], 10).runs[0].options == {"limit": 10}


def test_rows_are_those_of_eval(suite: Path, tmp_path: Path) -> None:
    swept = sweep(suite, tmp_path / "swept", "--models", "two", "--limit", "5", "--batch-size", "4")
    assert swept.exit_code == 0, swept.output
    assert "5 runs done now, 0 before" in swept.output
    places = ["--results", tmp_path / "eval" / "results", "--store", tmp_path / "store", "--workers", "0"]
    data = suite.parent / "data"
    command = ["eval", "zeroshot", "--model", suite.parent / "models" / "two", "--data", data / "few"]
    options = ["--dataset", data / "few.toml", "--limit", "5", "--resamples", "100", "--batch-size", "4"]
    alone = CliRunner().invoke(app, [*map(str, [*command, *options, *places])])
    assert alone.exit_code == 0, alone.output
    rows, expected = rows_of(tmp_path / "swept"), rows_of(tmp_path / "eval")
    assert {row["n"] for row, _ in expected.values() if row["metric"] == "top1"} == {5}
    assert {key: rows.get(key) for key in expected} == expected


def test_a_dry_run_counts_what_is_left(suite: Path, tmp_path: Path) -> None:
    shown = sweep(suite, tmp_path, "--models", "large", "--limit", "5", "--dry-run").output
    # Five of each of three data sets; the limit does not cut what scores are fitted on.
    assert re.search(r"^large +5 +0 +35 ", shown, re.MULTILINE)
    assert "5 runs, 35 images to embed" in shown
    assert not re.search(r"^(one|two) ", shown, re.MULTILINE)


CLAIMS = """
level = 0.95
margin = 0.05
[columns]
many = "zeroshot many top1"
[groups]
own = { group = "a" }
theirs = { group = "b" }
[[claims]]
key = "apart"
section = "1"
statement = "They differ"
parts = [{ statistic = "group_difference", y = "many", group = "own", against = "theirs", side = "apart" }]
"""


def test_a_preview_names_samples_that_are_too_small_for_claims(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "claims.toml").write_text(CLAIMS)
    claims = ledger(tmp_path / "claims.toml")
    monkeypatch.setattr("clipjax.sweep.preview.ledger", lambda: claims)
    options = ("--models", "large", "--dry-run")
    shown = sweep(suite, tmp_path, *options, "--limit", "5").output
    assert re.findall("^sample too small: (.*)$", shown, re.MULTILINE) == [
        "5 of 48 images of many (zeroshot) tell no difference in top1 (discordance 0.1, assumed); a margin "
        f"of 0.05 takes {images_needed(0.1, 0.05)}, in claims apart"
    ]
    assert "sample too small" not in sweep(suite, tmp_path, *options, "--limit", "48").output, "the whole set"
