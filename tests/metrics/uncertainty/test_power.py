"""Power of McNemar's exact test: equal to an enumeration, and the formula's shortfall."""

from __future__ import annotations

import json

import numpy as np
import pytest
from _compared import ids, write
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
