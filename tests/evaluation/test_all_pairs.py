"""Comparing three models and more: all pairs on the same images, with intervals that hold together."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _compared import add, by_metric, calibration_table, ids, retrieval_table, write
from _planted import PLANTED, planted
from typer.testing import CliRunner

from clipjax import cli
from clipjax.analysis.rows.pivot import is_fraction
from clipjax.errors import DataError, UsageError
from clipjax.evaluation.comparison.all_pairs import compare_models
from clipjax.evaluation.comparison.compare import compare_runs
from clipjax.evaluation.comparison.metric_limits import within_range
from clipjax.metrics.uncertainty.intervals import Interval
from clipjax.metrics.uncertainty.paired import holm
from clipjax.metrics.uncertainty.ranks import decide_ranks, paired_means
from clipjax.results.store import ResultStore
from clipjax.tasks.inputs import About
from clipjax.tasks.task import Measure, find_task

pytestmark = pytest.mark.usefixtures("few_calibrated_models")

ACCURACY = {"a": 0.9, "b": 0.88, "c": 0.5}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for model, accuracy in ACCURACY.items():
        add(tmp_path, model, accuracy, recipe_hash=model * 64)
    return tmp_path


def shown(folder: Path, *words: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli.app, ["compare", *words, "--results", str(folder)])
    refused = isinstance(done.exception, UsageError | DataError)
    return done.exit_code, str(done.exception) if refused else done.output


def test_each_pair_has_the_test_of_two_models_corrected_for_all_pairs(folder: Path) -> None:
    [number] = compare_models("abc", folder).numbers
    assert [each.models for each in number.differences] == [("a", "b"), ("a", "c"), ("b", "c")]
    alone = [by_metric(compare_runs(*each.models, folder))["top1"] for each in number.differences]
    for each, pair in zip(number.differences, alone):
        assert each.difference == pytest.approx(pair.difference)
        assert (each.p_value, each.gained, each.lost) == (pair.p_value, pair.gained, pair.lost)
    assert [each.p_holm for each in number.differences] == holm([each.p_value for each in alone]).tolist()


def test_limits_are_cut_to_what_the_metric_can_be(tmp_path: Path) -> None:
    """A model that is right about nearly all images, and two that are right about few."""
    for k, wrong in enumerate((1, 39, 38)):
        write(
            tmp_path,
            {"id": ids(40), "correct": np.arange(40) >= wrong},
            model="abc"[k],
            recipe_hash=f"{k}" * 64,
        )
    found = compare_models("abc", tmp_path)
    [number] = [each for each in found.numbers if each.metric == "top1"]
    first = number.differences[0].interval
    assert first is not None
    assert first.lo == -1.0
    assert first.hi > number.differences[0].difference
    assert (
        json.loads(shown(tmp_path, *"abc", "--json")[1])["numbers"][0]["differences"][0]["interval"]["lo"]
        == -1
    )


def test_only_fractions_are_cut() -> None:
    wide = Interval(-1.5, 1.25, 0.95, "any")
    assert within_range(wide, "shape_bias") == wide._replace(lo=-1.0, hi=1.0)
    assert within_range(wide, "auroc score:knn", difference=False) == wide._replace(lo=0.0, hi=1.0)
    for metric in ("nll_before", "brier_after", "error_ratio", "temperature", "my_metric"):
        assert within_range(wide, metric) == wide
    assert within_range(None, "top1") is None


@pytest.mark.parametrize("case", PLANTED)
def test_a_fraction_is_between_0_and_1(case: str) -> None:
    columns = {"id": ids(len(next(iter(PLANTED[case].values())))), **PLANTED[case]}
    measured = [each for each in planted(*case.split()) if is_fraction(each.metric)]
    task = find_task(case.split()[0])
    values = {each.metric: each.value for each in measured if each.value is not None}
    assert all(0 <= value <= 1 for value in values.values())
    assert task.paired is not None
    paired = task.paired(columns, About("d", None))
    assert [name for name in paired.right if not is_fraction(name.partition(" ")[0])] == []


def test_intervals_are_of_the_largest_difference_of_all_pairs(folder: Path) -> None:
    found = compare_models("abc", folder)
    tables = [ResultStore(folder).images(run) for run in ResultStore(folder).run_ids()]
    right = np.array([table["correct"].to_pylist() for table in tables])
    sample = paired_means(right, 10_000, np.random.default_rng(5))
    [critical] = decide_ranks([sample], step_down=False).critical
    assert found.critical is not None
    assert found.critical == pytest.approx(critical, abs=0.06)
    assert found.critical > 2.2, "more than the 1.96 of one pair"
    for each, (i, j) in zip(found.numbers[0].differences, ((0, 1), (0, 2), (1, 2))):
        error = np.std(right[j].astype(float) - right[i], ddof=1) / np.sqrt(300)
        assert each.interval is not None
        assert each.interval.hi - each.difference == pytest.approx(found.critical * error)
        assert each.difference - each.interval.lo == pytest.approx(found.critical * error)
    assert found.family == "all 3 differences of pairs of models in 1 metric together"


def test_a_second_data_set_widens_the_intervals_and_joins_the_correction(folder: Path) -> None:
    alone = compare_models("abc", folder)
    for model, accuracy in ACCURACY.items():
        add(folder, model, accuracy, dataset="e", seed=1, recipe_hash=model * 63 + "1")
    both = compare_models("abc", folder)
    assert both.family == "all 6 differences of pairs of models in 1 metric on 2 data sets together"
    assert alone.critical is not None
    assert both.critical is not None
    assert both.critical > alone.critical + 0.1
    first, second = both.numbers
    p_values = [each.p_value for number in (first, second) for each in number.differences]
    corrected = [each.p_holm for number in (first, second) for each in number.differences]
    assert corrected == holm(p_values).tolist()


def retrieval(folder: Path, models: str = "abc") -> None:
    for k, model in enumerate(models):
        table = retrieval_table(60, k, 30)
        names = ("text_retrieval_recall@5", "image_retrieval_recall@5")
        measures = [Measure(name, 0.5, 60) for name in names]
        write(folder, table, task="retrieval", model=model, measures=measures, recipe_hash=model * 64)


def test_other_numbers_are_compared_by_the_bootstrap_of_two_models(tmp_path: Path) -> None:
    retrieval(tmp_path)
    found = {number.metric: number for number in compare_models("abc", tmp_path).numbers}
    assert {name: number.test for name, number in found.items()} == {
        "text_retrieval_recall@5": "mcnemar_exact",
        "image_retrieval_recall@5": "paired_bootstrap_1000",
    }
    for each in found["image_retrieval_recall@5"].differences:
        alone = by_metric(compare_runs(*each.models, tmp_path))["image_retrieval_recall@5"]
        assert each.difference == pytest.approx(alone.difference)
        assert each.p_value == alone.p_value
        assert each.interval is not None
        assert alone.interval is not None
        assert each.interval.hi - each.interval.lo > 1.15 * (alone.interval.hi - alone.interval.lo)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"ids": [f"other/{i}.png" for i in range(300)]}, "measured on 300 other images, not on the 300"),
        ({"n": 200}, "measured on 200 other images"),
        ({"convention": {"prompts": "openai_80"}}, "measured with prompts openai_80, not single"),
        ({"task_version": 1}, "made by version 1 of the task, not 2"),
    ],
)
def test_models_measured_otherwise_are_left_out_by_name(
    folder: Path, changed: dict[str, Any], why: str
) -> None:
    options: dict[str, Any] = {"recipe_hash": "e" * 64} | changed
    add(folder, "other", **options)
    found = compare_models(["a", "b", "c", "other"], folder)
    assert found.numbers[0].values.keys() == {"a", "b", "c"}
    assert re.search(why, found.left_out["zeroshot on d"]["other"])
    code, text = shown(folder, "a", "b", "c", "other")
    assert code == 0
    assert "zeroshot on d: other is left out: " in text


def test_named_runs_may_differ_and_say_in_what(tmp_path: Path) -> None:
    runs = [
        add(tmp_path, "a", accuracy, recipe_hash=f"{k}" * 64, convention={"prompts": prompts})
        for k, (prompts, accuracy) in enumerate({"single": 0.5, "openai_7": 0.6, "openai_80": 0.7}.items())
    ]
    found = compare_models(runs, tmp_path)
    assert [*found.numbers[0].values] == runs
    code, text = shown(tmp_path, *runs)
    assert code == 0
    assert "zeroshot on d, prompts: single (A), openai_7 (B), openai_80 (C)" in text
    assert "measured with" not in text
    with pytest.raises(UsageError, match="a is named twice: name 3 different models"):
        compare_models(["a", "b", "a"], tmp_path)


def test_the_command_prints_values_pairs_and_the_family(folder: Path) -> None:
    code, text = shown(folder, "a", "b", "c")
    assert code == 0, text
    assert re.search(r"zeroshot +d +top1 +300 +0\.\d+ +0\.\d+ +0\.\d+\n", text)
    assert re.search(
        r"zeroshot +d +top1 +C - B +-0\.\d+ +\[-0\.\d+, -0\.\d+\] +\S+ +\S+ +mcnemar_exact", text
    )
    assert "\nA: a\nB: b\nC: c\n" in text
    assert "95% holds for all 3 differences of pairs of models in 1 metric together" in text
    assert "p (Holm): corrected for the 3 differences of headline metrics" in text
    assert "zeroshot on d: measured with prompts single, precision parity" in text
    record = json.loads(shown(folder, "a", "b", "c", "--json")[1])
    assert record["models"] == ["a", "b", "c"]
    assert record["numbers"][0]["differences"][0]["models"] == ["a", "b"]


def test_the_folder_of_results_may_be_the_last_name(folder: Path) -> None:
    def printed(*words: str) -> str:
        done = CliRunner().invoke(cli.app, ["compare", *words])
        assert done.exit_code == 0, done.exception
        return done.stdout

    for names in ("ab", "abc"):
        assert printed(*names, str(folder)) == printed(*names, "--results", str(folder))
    done = CliRunner().invoke(cli.app, ["compare", "a", "b", str(folder), "--results", str(folder)])
    assert "--results" in str(done.exception)
    runs = ResultStore(folder).run_ids()  # a run's folder is a name, though it is a folder
    assert "C: " in printed("a", "b", str(folder / runs[2]), "--results", str(folder))


@pytest.mark.parametrize("right", [True, False])
def test_models_that_tie_everywhere_are_told_nowhere(tmp_path: Path, right: bool) -> None:
    for model in "abc":
        add(tmp_path, model, 2.0 if right else -1.0, recipe_hash=model * 64)
    found = compare_models("abc", tmp_path)
    assert found.critical is None
    assert {(each.p_holm, each.interval) for each in found.numbers[0].differences} == {(1.0, None)}
    assert "no difference varies with the images" in shown(tmp_path, "a", "b", "c")[1]


@pytest.mark.parametrize(
    ("n", "options", "why"),
    [
        (3, (), "zeroshot on d|top1 .*ranks need 30 images or more, there are 3"),
        (300, ("--metric", "top2"), "unknown metric 'top2'"),
        (300, ("--prompts", "x"), "no run has --prompts x"),
    ],
)
def test_too_little_is_one_sentence(tmp_path: Path, n: int, options: tuple[str, ...], why: str) -> None:
    for model in "abc":
        add(tmp_path, model, n=n, recipe_hash=model * 64)
    code, text = shown(tmp_path, "a", "b", "c", *options)
    assert code == 1
    assert re.search(why, text), text
    assert len(text.strip().splitlines()) == 1


def test_models_without_images_in_common_are_one_sentence(tmp_path: Path) -> None:
    for k, model in enumerate("abc"):
        add(tmp_path, model, ids=[f"{model}/{i}" for i in range(40)], n=40, recipe_hash=f"{k}" * 64)
    with pytest.raises(DataError, match="fewer than two of the models were measured on the same images"):
        compare_models("abc", tmp_path)


def test_numbers_that_only_two_models_compare_are_named(tmp_path: Path) -> None:
    measures = [Measure("ece_corrected_15_before", 0.1, 200), Measure("accuracy", 0.6, 200)]
    for k, model in enumerate("abc"):
        table = calibration_table(k, 1.5)
        write(tmp_path, table, task="calibration", model=model, measures=measures, recipe_hash=model * 64)
    with pytest.raises(DataError, match=r"ece_corrected_15_before \(compared of two models at a time\)"):
        compare_models("abc", tmp_path)
    found = compare_models("abc", tmp_path, metrics=["accuracy"])
    assert {each.p_holm for each in found.numbers[0].differences} == {None}, "no headline has a verdict"
    assert "calibration  d         accuracy" in shown(tmp_path, "a", "b", "c", "--metric", "accuracy")[1]


def test_a_table_with_an_image_twice_is_left_out(folder: Path) -> None:
    add(folder, "twice", ids=[*ids(299), "0.png"], recipe_hash="e" * 64)
    found = compare_models(["a", "b", "c", "twice"], folder)
    assert found.left_out["zeroshot on d"]["twice"] == "its per-image table has no images, or an image twice"
