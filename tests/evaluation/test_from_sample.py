"""`clipjax results from-sample`: which runs help, what is estimated, and what is refused."""

from __future__ import annotations

import hashlib
import json
import re

import numpy as np
import pytest
from _compared import ids, write
from typer.testing import CliRunner

from clipjax import cli
from clipjax.errors import DataError, UsageError
from clipjax.evaluation.comparison.from_sample import estimates_from_sample
from clipjax.evaluation.comparison.run_pairs import RunFilter
from clipjax.tasks.task import Measure

N, SAMPLE = 1200, 300
HELPERS = {"a": 0.7, "b": 0.65, "c": 0.6}
NAMES = np.array(ids(N))
DRAWN = np.random.default_rng(6).permutation(N)[:SAMPLE]  # a hard sample: .05 below all


def right(model, accuracy):
    hard = np.random.default_rng(0).random(N)
    own = np.random.default_rng([*model.encode()]).random(N)
    return 0.7 * hard + 0.3 * own < accuracy


def add(folder, model, accuracy=0.6, images=None, **changed):
    """A run on all images, or on those at `images`."""
    images = np.arange(N) if images is None else images
    correct = right(model, accuracy)[images]
    columns = {"id": changed.pop("ids", NAMES)[images].tolist(), "correct": correct}
    fields = {"recipe_hash": hashlib.sha256(f"{model} {len(images)}".encode()).hexdigest()} | changed
    return write(folder, columns, model=model, measures=[Measure("top1", float(correct.mean()), 9)], **fields)


def sample(folder, model, accuracy=0.6, images=DRAWN, **changed):
    drawn = {"limit": len(images), "seed": 0, "of": N}
    fields = {"sample": drawn} | changed
    return add(folder, model, accuracy, images, **fields)


@pytest.fixture
def folder(tmp_path):
    for model, accuracy in HELPERS.items():
        add(tmp_path, model, accuracy)
    sample(tmp_path, "target", 0.62)
    return tmp_path


def shown(folder, *options):
    done = CliRunner().invoke(cli.app, ["results", "from-sample", str(folder), "--model", "target", *options])
    refused = isinstance(done.exception, UsageError | DataError)
    return done.exit_code, str(done.exception) if refused else done.output


def one(folder, **options):
    [found] = estimates_from_sample(folder, "target", **options).places
    return found


def test_an_estimate_is_nearer_and_narrower_than_the_sample(folder):
    found, truth = one(folder), right("target", 0.62).mean()
    assert (found.n, found.of, [each.model for each in found.helpers]) == (SAMPLE, N, ["a", "b", "c"])
    assert found.measured.value == right("target", 0.62)[DRAWN].mean()
    assert abs(found.estimate.value - truth) < abs(found.measured.value - truth)
    assert found.estimate.interval.lo < truth < found.estimate.interval.hi
    assert found.estimate.gain > 2
    assert one(folder) == found


def test_the_command_prints_gain_helpers_and_both_intervals(folder):
    code, text = shown(folder)
    assert code == 0, text
    found = one(folder)
    assert re.search(rf"zeroshot +d +top1 +300 of 1,200 +{found.measured.value:.4f} ", text)
    assert f"{found.estimate.value:.4f}" in text
    assert f"{found.estimate.gain:.2f}" in text
    assert "3 runs of 3 other models (a, b, c) help; beyond these images [0." in text


def test_json_has_the_convention_and_all_numbers(folder):
    record = json.loads(shown(folder, "--json")[1])
    [place] = record["places"]
    assert place["convention"] == {"prompts": "single"}
    assert (place["n"], place["of"], place["precision"]) == (SAMPLE, N, "parity")
    assert place["sample"] == {"limit": SAMPLE, "seed": 0, "of": N}
    assert [each["model"] for each in place["helpers"]] == ["a", "b", "c"]
    assert place["estimate"]["interval"]["level"] == 0.95
    assert place["estimate"]["interval_beyond"]["lo"] < place["estimate"]["interval"]["lo"]
    assert place["measured"]["gain"] == 1


def test_a_difference_takes_the_first_models_other_images(folder):
    found = one(folder, minus="a")
    truth = right("target", 0.62).mean() - right("a", 0.7).mean()
    assert (found.model, found.minus, found.n) == ("target", "a", SAMPLE)
    assert found.measured.value == pytest.approx(
        right("target", 0.62)[DRAWN].mean() - right("a", 0.7)[DRAWN].mean()
    )
    assert found.estimate.interval.lo < truth < found.estimate.interval.hi
    assert "a" in [each.model for each in found.helpers]
    assert found.estimate.interval.method == "difference_estimator_mover_wilson_paired_t"
    assert "target - a" in shown(folder, "--minus", "a")[1]


def test_two_samples_share_the_smaller_one(folder):
    sample(folder, "other", 0.6, DRAWN[:200])
    found = one(folder, minus="other")
    assert (found.n, found.of) == (200, N)
    assert "other" not in [each.model for each in found.helpers]


def test_the_run_on_the_most_images_counts(folder):
    sample(folder, "target", 0.62, DRAWN[:100], recipe_hash="f" * 64)
    assert one(folder).n == SAMPLE


def test_helpers_may_be_measured_in_any_way(folder):
    add(folder, "target", 0.61, recipe_hash="f" * 64, precision="fast")
    found = one(folder, choice=RunFilter(precision="parity"))
    assert [each.model for each in found.helpers] == ["a", "b", "c", "target"]
    with pytest.raises(DataError, match="target was measured with precision fast and parity; choose with"):
        one(folder)


def test_only_named_helpers(folder):
    found = one(folder, helpers=["b"])
    assert [each.model for each in found.helpers] == ["b"]
    assert found.estimate.gain < one(folder).estimate.gain


def test_models_on_other_images_do_not_help(folder):
    add(folder, "else", ids=np.array([f"other/{i}.png" for i in range(N)]))
    add(folder, "fewer", images=np.arange(900))
    found = one(folder)
    assert [each.model for each in found.helpers] == ["a", "b", "c"]
    assert found.left_out == {
        "else": "measured on 1200 other images, not on all 1200",
        "fewer": "measured on 900 other images, not on all 1200",
    }
    assert "else does not help: measured on" in shown(folder)[1]


def refused(folder):
    code, text = shown(folder)
    assert code == 1
    assert len(text.strip().splitlines()) == 1
    return text


def test_no_helper(tmp_path):
    sample(tmp_path, "target")
    assert "no model can help: measure another one on all images" in refused(tmp_path)


def test_helpers_on_other_images_only(tmp_path):
    sample(tmp_path, "target")
    add(tmp_path, "else", ids=np.array([f"other/{i}.png" for i in range(N)]))
    assert "no model can help: the images of else lack some of the 300 of target" in refused(tmp_path)


def test_three_images(folder, tmp_path_factory):
    few = tmp_path_factory.mktemp("few")
    for model, accuracy in HELPERS.items():
        add(few, model, accuracy)
    sample(few, "target", images=DRAWN[:3])
    assert "an estimate needs 30 measured images or more, there are 3" in refused(few)


def test_constant_helpers(tmp_path):
    sample(tmp_path, "target")
    add(tmp_path, "a", 2.0)
    add(tmp_path, "b", -1.0)
    assert "every helper gives one answer to all images" in refused(tmp_path)


def test_a_target_on_all_images(folder):
    add(folder, "target", 0.62, recipe_hash="f" * 64)
    assert "target was measured on as many images as any other model: its number needs no" in refused(folder)


def test_images_that_nobody_drew(folder, tmp_path_factory):
    """A part of the data set is accepted while it looks like a random one."""
    part = tmp_path_factory.mktemp("part")
    for model, accuracy in HELPERS.items():
        add(part, model, accuracy)
    add(part, "target", 0.62, DRAWN, recipe_hash="e" * 64)
    assert one(part).n == SAMPLE
    easy = np.flatnonzero(right("a", 0.7))[:SAMPLE]
    add(part, "target", 0.62, easy, recipe_hash="e" * 64)  # the newest of its recipe
    text = refused(part)
    assert re.search(
        r"the 300 measured images are not a random sample of all 1200: .* right about 0.\d{3} of", text
    )


def test_a_place_that_cannot_be_estimated_is_named_beside_those_that_can(folder):
    sample(folder, "target", dataset="e", recipe_hash="f" * 64)
    found = estimates_from_sample(folder, "target")
    assert len(found.places) == 1
    assert found.not_estimated == {"zeroshot on e": "no model can help: measure another one on all images"}
    assert "zeroshot on e is not estimated: no model can help" in shown(folder)[1]
    with pytest.raises(DataError, match=r"top1 of target cannot be estimated \(zeroshot on e: no model can"):
        estimates_from_sample(folder, "target", datasets=["e"])


def test_equal_reasons_are_one_line(folder):
    """Of a folder with many runs; --json has each."""
    for k in range(5):
        add(folder, f"small{k}", images=np.arange(900))
        add(folder, "target", dataset=f"e{k}", recipe_hash=f"{k}" * 64)
        add(folder, "a", dataset=f"e{k}", recipe_hash=f"{k + 5}" * 64)
    lines = shown(folder)[1].splitlines()
    [models] = [line for line in lines if "do not help" in line]
    assert models.endswith(
        "5 models do not help (small0, small1, small2 and 2 more): measured on 900 other images, not on all "
        "1200"
    )
    [places] = [line for line in lines if "estimated:" in line or "estimated (" in line]
    assert places.startswith(
        "5 numbers are not estimated (zeroshot on e0, zeroshot on e1, zeroshot on e2 and 2 more): target was"
    )
    record = json.loads(shown(folder, "--json")[1])
    assert len(record["places"][0]["left_out"]) == len(record["not_estimated"]) == 5


def test_models_of_a_difference_are_measured_alike_and_share_images(folder):
    sample(folder, "other", 0.6, DRAWN[:200], convention={"prompts": "openai_80"})
    with pytest.raises(DataError, match="other was measured with prompts openai_80, target with single"):
        one(folder, minus="other")
    rest = np.setdiff1d(np.arange(N), DRAWN)[:200]
    sample(folder, "further", 0.6, rest)
    with pytest.raises(DataError, match="further and target have no image in common"):
        one(folder, minus="further")


def test_unknown_names_are_refused(folder):
    with pytest.raises(UsageError, match="unknown metric 'top2'; did you mean top1"):
        one(folder, metric="top2")
    with pytest.raises(UsageError, match="unknown model with top1 'z'"):
        one(folder, minus="z")
    with pytest.raises(UsageError, match="target minus itself is 0"):
        one(folder, minus="target")
    with pytest.raises(DataError, match="no run of target with a per-image table has --precision fast"):
        one(folder, choice=RunFilter(precision="fast"))
