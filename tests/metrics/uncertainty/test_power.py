"""Power of McNemar's exact test: equal to an enumeration, and the formula's shortfall."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from _compared import add, ids, retrieval_table, write
from typer.testing import CliRunner

from clipjax import cli
from clipjax.metrics.uncertainty import power
from clipjax.tasks.task import Measure


@pytest.fixture(scope="module")
def oracle(test_data):
    with np.load(test_data / "statistics_oracles" / "power.npz") as file:
        return dict(file)


def rows(oracle, name, columns):
    return [dict(zip(oracle[columns].tolist(), row)) for row in oracle[name]]


def test_the_formula_has_exact_quantiles(oracle):
    for row in rows(oracle, "table", "columns"):
        found = power.images_by_formula(row["D"], row["d"])
        assert found == pytest.approx(row["n_exact_quantiles"], rel=1e-6)
        for wrong in ("n_with_1.96_0.84", "WRONG_n_D_only", "WRONG_n_one_sided"):
            assert found != pytest.approx(row[wrong], rel=1e-6)


def test_the_exact_test_has_less_power_than_the_formula_says(oracle):
    for row in rows(oracle, "table", "columns"):
        if not np.isnan(row["power_exact_mcnemar"]):
            found = power.exact_power(int(row["n_ceil"]), row["D"], row["d"])
            assert found == pytest.approx(row["power_exact_mcnemar"], abs=1e-6)
            assert found < 0.8 < row["power_midp"]
    for row in rows(oracle, "grid", "grid_columns"):
        found = power.exact_power(int(row["n"]), row["D"], row["d"])
        assert found == pytest.approx(row["exact_mcnemar"], abs=1e-6)


def test_the_images_that_keep_the_power(oracle):
    for row in rows(oracle, "n_for_exact_mcnemar", "n_for_exact_mcnemar_columns"):
        assert power.images_needed(row["D"], row["d"]) == row["n_exact_power_at_least_0.8"]


def test_the_difference_that_images_tell(oracle):
    """That of the exact test is a little above the formula's."""
    for row in rows(oracle, "detectable", "detectable_columns")[::4]:
        found = power.detectable(int(row["n"]), row["D"])
        assert found is not None
        assert row["d"] < found < 1.06 * row["d"]
        assert power.exact_power(int(row["n"]), row["D"], found) == pytest.approx(0.8, abs=1e-5)
    assert power.detectable(10, 0.1) is None


@pytest.mark.parametrize(
    ("numbers", "why"),
    [
        ((0.0, 0.01), "discordance is 0.0; give a share above 0"),
        ((0.05, 0.0), "difference is 0.0; it is not 0"),
        ((0.05, 0.1), "at most the discordance, 0.05"),
        ((0.5, 1e-6), "give a larger one"),
    ],
)
def test_impossible_numbers_are_refused(numbers, why):
    with pytest.raises(ValueError, match=why):
        power.images_needed(*numbers)


def shown(*options):
    done = CliRunner().invoke(cli.app, ["power", *map(str, options)])
    return str(done.exception) if done.exit_code else done.output


def test_the_command_with_a_stated_discordance():
    text = shown("--discordance", 0.05, "--difference", 0.01)
    assert text.count("4,094") == 6
    [one] = json.loads(shown("--discordance", 0.05, "--images", 4094, "--json"))
    assert one["told difference"] == pytest.approx(0.01, abs=2e-5)
    assert one["needed"] is None


def test_the_command_measures_the_discordance_of_two_models(tmp_path):
    right = np.arange(400) % 10 < 7
    for model, correct in (("a", right), ("b", right ^ (np.arange(400) < 40)), ("c", right)):
        columns = {"id": ids(400), "correct": correct}
        write(tmp_path, columns, model=model, measures=[Measure("top1", 0.7, 400)])
    [one] = json.loads(shown("a", "b", "--results", tmp_path, "--difference", 0.05, "--json"))
    assert (one["discordance"], one["images"]) == (0.1, 400)
    assert one["needed"] == power.images_needed(0.1, 0.05)
    assert "none" in shown("a", "b", "--results", tmp_path, "--difference", 0.2), "more than they differ"
    assert "right about the same images everywhere" in shown("a", "c", "--results", tmp_path)


def test_three_images_tell_nothing(tmp_path):
    for model, correct in (("a", [True, True, True]), ("b", [True, False, False])):
        write(tmp_path, {"id": ids(3), "correct": correct}, model=model, measures=[Measure("top1", 0.5, 3)])
    [one] = json.loads(shown("a", "b", "--results", tmp_path, "--json"))
    assert one["told difference"] is None
    assert re.search(r"zeroshot +d +top1 +0\.6667 +3 +none", shown("a", "b", "--results", tmp_path))


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"ids": [f"x{i}" for i in range(300)]}, "has 300 images and .* 300, 0 in common"),
        ({"n": 200}, "200, 200 in common: evaluate both on the same images"),
        (
            {"convention": {"prompts": "openai_80"}},
            "no runs made in the same way of zeroshot on d: a has prompts",
        ),
        ({"accuracy": 2.0}, "a and b are right about the same images everywhere: state a --discordance"),
    ],
)
def test_models_that_have_no_discordance_are_one_sentence(tmp_path, changed, why):
    add(tmp_path, "a", changed.get("accuracy", 0.5), recipe_hash="a" * 64)
    add(tmp_path, "b", **{"accuracy": 0.6, "recipe_hash": "b" * 64} | changed)
    text = shown("a", "b", "--results", tmp_path)
    assert re.search(why, text), text
    assert len(text.splitlines()) == 1
    assert "one run: name two" in shown("a", "a", "--results", tmp_path)


def test_a_number_that_is_no_share_of_images_is_named(tmp_path):
    for seed, model in enumerate("ab"):
        write(tmp_path, retrieval_table(60, seed, 30), task="retrieval", model=model)
    text = shown("a", "b", "--results", tmp_path, "--metric", "image_retrieval_recall@5")
    assert text == "image_retrieval_recall@5 is not a share of images: give another --metric"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ((), "name two models, or give --discordance"),
        (("a", "b", "--discordance", 0.1), "not both"),
        (("--discordance", 0.1, "--difference", 0.2), "at most the discordance"),
    ],
)
def test_wrong_options_are_one_sentence(options, why):
    assert why in shown(*options)
