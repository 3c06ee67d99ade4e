"""`clipjax rank`: which models are ranked together, and what is refused."""

from __future__ import annotations

import csv
import json
import re

import numpy as np
import pytest
from _compared import add, ids, write
from typer.testing import CliRunner

from clipjax import cli
from clipjax.errors import DataError, UsageError
from clipjax.evaluation.comparison import alike_runs
from clipjax.evaluation.comparison.ranking import rank_models
from clipjax.evaluation.comparison.run_pairs import RunFilter
from clipjax.results.store import ResultStore
from clipjax.tasks.task import Measure

ACCURACY = {"a": 0.9, "b": 0.88, "c": 0.5, "d": 0.2}
N = 300


@pytest.fixture
def folder(tmp_path):
    for model, accuracy in ACCURACY.items():
        add(tmp_path, model, accuracy, recipe_hash=model * 64)
    return tmp_path


def shown(folder, *options):
    done = CliRunner().invoke(cli.app, ["rank", str(folder), "--metric", "top1", *options])
    refused = isinstance(done.exception, UsageError | DataError)
    return done.exit_code, str(done.exception) if refused else done.output


def test_the_best_cannot_be_told_apart_and_the_others_can(folder):
    [place] = rank_models(folder, "top1").places
    assert [(each.model, each.best, each.worst) for each in place.models] == [
        ("a", 1, 2),
        ("b", 1, 2),
        ("c", 3, 3),
        ("d", 4, 4),
    ]
    assert place.not_told_from_best == ("a", "b")
    assert place.models[2].worse_than == ("a", "b")
    assert rank_models(folder, "top1", seed=0) == rank_models(folder, "top1", seed=0)


def test_the_command_prints_ranks_and_the_family(folder):
    code, text = shown(folder)
    assert code == 0, text
    assert re.search(r"1-2 +a +0\.9", text)
    assert "measured with prompts single, precision parity" in text
    assert "cannot be told from the best: a, b" in text
    assert "95% holds for all 12 ordered pairs of models; a difference counts above 2." in text
    record = json.loads(shown(folder, "--json")[1])
    assert [each["worst"] for each in record["places"][0]["models"]] == [2, 2, 3, 4]
    assert "probability" not in text


def test_sides(folder):
    best = rank_models(folder, "top1", side="best").places[0].models
    worst = rank_models(folder, "top1", side="worst").places[0].models
    assert [(each.best, each.worst) for each in best] == [(1, 4), (1, 4), (3, 4), (4, 4)]
    assert [(each.best, each.worst) for each in worst] == [(1, 2), (1, 2), (1, 3), (1, 4)]


def test_tables_in_another_order_are_joined(folder):
    [before] = rank_models(folder, "top1").places
    order = np.random.default_rng(0).permutation(N)
    add(folder, "b", ACCURACY["b"], order=order, recipe_hash="b" * 64)  # the newest of its recipe
    [after] = rank_models(folder, "top1").places
    assert [each[2:] for each in after.models] == [each[2:] for each in before.models]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"ids": [f"other/{i}.png" for i in range(N)]}, "measured on 300 other images, not on the 300"),
        ({"n": 200}, "measured on 200 other images"),
        ({"convention": {"prompts": "openai_80"}}, "measured with prompts openai_80, not single"),
        ({"precision": "fast"}, "measured with precision fast, not parity"),
        ({"recipe": {"images": "else"}, "dataset": "d"}, "same names and other contents"),
        ({"task_version": 1}, "made by version 1 of the task, not 2"),
    ],
)
def test_models_measured_otherwise_are_left_out_by_name(folder, monkeypatch, changed, why):
    monkeypatch.setattr("clipjax.results.store.with_distinct_names", lambda rows: rows)
    add(folder, "other", **{"recipe_hash": "e" * 64} | changed)
    [place] = rank_models(folder, "top1").places
    assert [each.model for each in place.models] == [*ACCURACY]
    assert re.search(why, place.left_out["other"])
    assert "other is left out: " in shown(folder)[1]


def test_a_classifier_does_not_bring_models_with_different_prompts_together(folder):
    own = {"prompts": "not applicable: a classifier has its own head"}
    add(folder, "other", recipe_hash="e" * 64, convention={"prompts": "openai_80"})
    add(folder, "classifier", recipe_hash="f" * 64, convention=own)
    [place] = rank_models(folder, "top1").places
    assert {each.model for each in place.models} == {*ACCURACY, "classifier"}
    assert place.left_out == {"other": "measured with prompts openai_80, not single"}
    assert place.way.startswith("prompts single, ")
    rows = [row for row in ResultStore(folder).rows() if row["model"] in ("a", "classifier")]
    assert alike_runs.way_in_words(rows) == alike_runs.way_in_words(rows[::-1]) == place.way


def test_a_way_of_measuring_is_chosen(folder):
    for model in "ab":
        add(folder, model, recipe_hash=model * 63 + "0", convention={"prompts": "openai_80"})
    [place] = rank_models(folder, "top1", choice=RunFilter(prompts="openai_80")).places
    assert [each.model for each in place.models] == ["a", "b"] or [each.model for each in place.models] == [
        "b",
        "a",
    ]
    assert place.left_out["c"] == "measured with prompts single, not openai_80"
    assert place.way.startswith("prompts openai_80, precision parity")


def test_data_sets_are_one_family_unless_asked(folder):
    for model, accuracy in ACCURACY.items():
        add(folder, model, accuracy, dataset="e", seed=1, recipe_hash=model * 63 + "1")
    together = rank_models(folder, "top1")
    assert together.family == "all 24 ordered pairs of models of 2 data sets together"
    each = rank_models(folder, "top1", each=True)
    assert each.family == "the ordered pairs of models of each data set by itself"
    assert len(each.critical) == 2
    assert together.critical[0][0] > max(steps[0] for steps in each.critical)
    [one] = rank_models(folder, "top1", datasets=["e"]).places
    assert one.dataset == "e"


def table(folder, *options):
    done = CliRunner().invoke(cli.app, ["results", "table", str(folder), "--metric", "top1", *options])
    return done.exit_code, done.stdout, done.stderr or str(done.exception)


def test_a_table_has_the_ranks_of_the_runs_that_it_shows(folder):
    for model in [*"dcba", "few"]:  # newer runs of another way, which the table does not show
        accuracy = 1 - ACCURACY.get(model, 0.5)
        add(folder, model, accuracy, recipe_hash=model[0] + "0" * 63, precision="fast")
    for model in "ab":
        add(folder, model, 0.5, dataset="e", seed=1, recipe_hash=model * 63 + "1")
    add(folder, "few", 0.95, 200, recipe_hash="e" * 64)
    add(folder, "published", 0.99, origin="published", recipe_hash="f" * 64)
    code, text, notes = table(folder, "--ranks", "--format", "csv")
    assert code == 0, notes
    lines = {line["model"]: line for line in csv.DictReader(text.splitlines())}
    ranks = {model: (line["d best rank"], line["d worst rank"]) for model, line in lines.items()}
    assert ranks == {
        "a": ("1", "2"),
        "b": ("1", "2"),
        "c": ("3", "3"),
        "d": ("4", "4"),
        "few": ("", ""),
        "published": ("", ""),
    }
    assert (lines["a"]["e best rank"], lines["a"]["e worst rank"], lines["c"]["e best rank"]) == (
        "1",
        "2",
        "",
    )
    where = "few (measured on 200 other images, not on the 300 of most models); published (not measured here)"
    assert f"no rank on d: {where}" in notes
    assert "no rank on e" not in notes
    assert "ranks: 95% holds for all 14 ordered pairs of models of 2 data sets together" in notes


def test_ranks_stand_beside_the_numbers_in_every_form(folder):
    add(folder, "a", dataset="alone", recipe_hash="f" * 64)
    code, text, notes = table(folder, "--ranks")
    assert code == 0, notes
    assert re.search(r"\nmodel +alone +d +rank", "\n" + text)
    assert re.search(r"\nb .* 1-2\b", text)
    assert "alone is not ranked: ranks need two models or more on the same images" in notes
    markdown = table(folder, "--ranks", "--format", "markdown")[1].splitlines()
    assert markdown[:2] == ["| model | alone | d | rank |", "| --- | ---: | ---: | ---: |"]
    assert r"\begin{tabular}{lrrr}" in table(folder, "--ranks", "--format", "latex")[1]
    assert "rank" not in table(folder)[1]


def test_a_table_of_published_numbers_alone_has_no_ranks(tmp_path):
    for model in "ab":
        add(tmp_path, model, origin="published", recipe_hash=model * 64)
    code, _, why = table(tmp_path, "--ranks")
    assert code == 1
    assert "no number of top1 was measured here: ranks need per-image tables" in why


def test_a_place_that_cannot_be_ranked_is_named_beside_those_that_can(folder):
    add(folder, "a", dataset="alone", recipe_hash="f" * 64)
    found = rank_models(folder, "top1")
    assert len(found.places) == 1
    assert found.not_ranked == {"zeroshot on alone": "ranks need two models or more on the same images"}


@pytest.mark.parametrize(
    ("runs", "why"),
    [
        ([("a", 300)], "ranks need two models or more on the same images"),
        ([("a", 3), ("b", 3)], "only 3 images: ranks need 30"),
        ([("a", 300), ("b", 299)], "b is left out: measured on 299 other images|a is left out"),
    ],
)
def test_too_little_is_one_sentence(tmp_path, runs, why):
    for model, n in runs:
        add(tmp_path, model, n=n, recipe_hash=model * 64)
    code, text = shown(tmp_path)
    assert code == 1
    assert re.search(why, text)
    assert len(text.strip().splitlines()) == 1


@pytest.mark.parametrize("right", [True, False])
def test_models_that_tie_everywhere_share_all_ranks(tmp_path, right):
    for model in "abc":
        add(tmp_path, model, 2.0 if right else -1.0, recipe_hash=model * 64)
    code, text = shown(tmp_path)
    assert code == 0
    assert text.count("1-3") == 3
    assert "cannot be told from the best: a, b, c" in text
    assert "no difference varies with the images" in text


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"metric": "top2"}, "unknown metric 'top2'; did you mean top1"),
        ({"metric": "top1", "models": ["z"]}, "unknown model with top1 'z'"),
        ({"metric": "top1", "datasets": ["z"]}, "unknown dataset with top1 'z'"),
    ],
)
def test_unknown_names_are_refused(folder, options, why):
    with pytest.raises(UsageError, match=why):
        rank_models(folder, **options)


def test_a_number_that_is_no_share_of_images_is_refused(tmp_path):
    columns = {"id": ids(40), "correct": [True] * 40, "label": [0, 1] * 20}
    for model in "ab":
        write(tmp_path, columns, model=model, measures=[Measure("mean_per_class", 1.0, 40)])
    with pytest.raises(UsageError, match=r"mean_per_class of zeroshot is not a share of images, .*: top1"):
        rank_models(tmp_path, "mean_per_class")
    with pytest.raises(DataError, match="no run has --precision fast"):
        rank_models(tmp_path, "mean_per_class", choice=RunFilter(precision="fast"))
    with pytest.raises(DataError, match="no run has --labels x"):
        rank_models(tmp_path, "mean_per_class", choice=RunFilter(labels="x"))


@pytest.mark.parametrize("metric", ["set_coverage_lac", "set_coverage_lac class:cat", "flips"])
def test_a_number_without_a_good_high_end_ranks_nothing(folder, metric):
    """Sets that hold more labels are not better: a ranking would look like any other."""
    with pytest.raises(UsageError, match=f"{metric} does not rank models: its better end is"):
        rank_models(folder, metric)


@pytest.mark.parametrize("option", ["--family", "--side"])
def test_other_words_of_an_option_are_refused(folder, option):
    _, text = shown(folder, option, "some")
    assert f"{option} is 'some'; give " in text


def test_only_the_columns_asked_for_are_read(folder, monkeypatch):
    read = []
    before = alike_runs.LazyColumns.__getitem__
    monkeypatch.setattr(
        alike_runs.LazyColumns, "__getitem__", lambda own, name: read.append(name) or before(own, name)
    )
    rank_models(folder, "top1")
    assert set(read) == {"correct"}
