"""Comparing models on all that they have in common: corrections, verdicts, and every mismatch named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _colours import ColourModel, paint
from _compared import by_metric, calibration_table, ids, retrieval_table, write
from _planted import PLANTED
from typer.testing import CliRunner

import clipjax
from clipjax import cli
from clipjax.errors import DataError, UsageError
from clipjax.evaluation.comparison.compare import Comparison, compare_runs
from clipjax.tasks.inputs import About
from clipjax.tasks.task import find_task


def test_shared_resamples_find_what_separate_ones_would_not(tmp_path):
    """Every second image gains a place; images differ far more than the runs do."""
    table = retrieval_table(200, 1, 200)
    better = dict(table, image_ranks=[[max(0, r - 3) for r in ranks] for ranks in table["image_ranks"]])
    a, b = (write(tmp_path, t, task="retrieval", model=m) for m, t in zip("ab", (table, better)))
    got = by_metric(compare_runs(a, b, tmp_path, resamples=500))["image_retrieval_map"]
    assert got.p_value == pytest.approx(2 / 501)
    assert got.interval is not None
    assert got.interval.lo > 0


def test_models_are_compared_on_all_they_have_in_common(tmp_path):
    right = np.arange(30) % 3 > 0
    old = write(tmp_path, {"id": ids(30), "correct": ~right}, model="a")
    newest = write(tmp_path, {"id": ids(30), "correct": right}, model="a")
    write(tmp_path, {"id": ids(30), "correct": right}, model="a", dataset="only a's")
    other = write(tmp_path, {"id": ids(30), "correct": right[::-1]}, model="b")
    write(tmp_path, retrieval_table(9, 0, 9), task="retrieval", model="a")
    write(tmp_path, retrieval_table(9, 1, 9), task="retrieval", model="b")
    write(tmp_path, {"id": ids(3), "flipped": [True] * 3}, model="b", precision="fast against parity")
    write(tmp_path, {"id": []}, model="b", value=None, n=0, task="shape_bias")
    found = compare_runs("a", "b", tmp_path, resamples=20)
    assert {(each.task, each.dataset) for each in found} == {("zeroshot", "d"), ("retrieval", "d")}
    assert by_metric(found)["top1"].runs == (newest, other)
    assert [each.runs for each in compare_runs(old, "b", tmp_path)] == [(old, other)]


def test_one_old_run_ends_no_other_comparison(tmp_path):
    """Of models the pair is left out and no test is counted for it; two runs by their ids are refused."""
    images = {"id": ids(30), "correct": np.arange(30) % 3 > 0}
    objects = {"id": ids(4), "object": list("abcd"), "decided_for": ["shape", "texture"] * 2}
    for model in "ab":
        write(tmp_path, images, model=model)
        write(tmp_path, matched_pairs(9, 0.0), task="correspondence", model=model)
    old = write(tmp_path, objects, task="shape_bias", model="a", task_version=1, metric="shape_bias")
    new = write(tmp_path, objects, task="shape_bias", model="b")
    found = compare_runs("a", "b", tmp_path)
    assert {each.task for each in found} == {"zeroshot"}
    assert set(found[0].not_compared) == {"shape_bias on d", "correspondence on d"}
    why = found[0].not_compared["shape_bias on d"]
    said = f"{old} was made by version 1 of the task 'shape_bias', this clipjax has version"
    assert why.startswith(said)
    shown = CliRunner().invoke(cli.app, ["compare", "a", "b", "--results", str(tmp_path)])
    assert shown.exit_code == 0
    assert f"\nshape_bias on d is left out: {said}" in shown.stdout
    with pytest.raises(DataError, match=f"^shape_bias cannot be compared: {said}"):
        compare_runs("a", "b", tmp_path, metrics=["shape_bias"])
    with pytest.raises(DataError, match="recall 0 cannot be compared: only 9 clusters"):
        compare_runs("a", "b", tmp_path, metrics=["recall 0"])
    with pytest.raises(DataError, match=f"^{said}"):
        compare_runs(old, new, tmp_path)
    with pytest.raises(DataError, match=f"^{said}"):  # one name is a model's, and there is one pair
        compare_runs(old, "b", tmp_path)
    old_too = write(tmp_path, images, model="c", task_version=1)
    write(tmp_path, objects, task="shape_bias", model="c", task_version=1)
    both = rf"^c and b have nothing to compare by: .*zeroshot on d \({old_too} was made by version 1"
    with pytest.raises(DataError, match=both):
        compare_runs("c", "b", tmp_path)


def test_equal_reasons_are_one_line_and_names_are_escaped(tmp_path):
    right = [np.random.default_rng(seed).random(40) < share for seed, share in ((1, 0.5), (2, 0.8))]
    for dataset in ("d", "e\nx"):
        for model, each in zip("ab", right):
            table = {"id": ids(40), "label": np.repeat(np.arange(4), 10), "correct": each}
            convention = {"prompts": "single", "decode": f"{model}\nmode"}
            write(tmp_path, table, model=model, dataset=dataset, convention=convention)
    for seed, model in enumerate("ab"):
        table = calibration_table(seed, 1.2, 20)
        write(tmp_path, table, task="calibration", model=model)
    command = ["compare", "a", "b", "--results", str(tmp_path), "--resamples", "100"]
    lines = CliRunner().invoke(cli.app, command).stdout.splitlines()
    [once] = [line for line in lines if "are one difference" in line]
    assert once.startswith("zeroshot on e\\nx, d: top1 and mean_per_class are one difference")
    assert "zeroshot on e\\nx, d, decode: a\\nmode (A), b\\nmode (B)" in lines
    why = "only 20 images: a comparison needs 200"
    others = [f"ece_corrected_{bins}_{state}" for state in ("before", "after") for bins in ("25", "mass_15")]
    assert [line for line in lines if "only 20 images" in line] == [
        "calibration on d: ece_corrected_15_before, ece_corrected_15_after are left out: "
        f"a headline without a test: {why}",
        f"calibration on d: {', '.join(others)} are left out: {why}",
    ]


def test_p_values_of_metrics_without_a_verdict_are_null(tmp_path):
    for model, right in (("a", np.arange(30) % 3 > 0), ("b", np.arange(30) % 2 > 0)):
        write(tmp_path, {"id": ids(30), "correct": right, "correct_top5": right}, model=model)
    command = ["compare", "a", "b", "--results", str(tmp_path), "--json"]
    records = {each["metric"]: each for each in json.loads(CliRunner().invoke(cli.app, command).stdout)}
    assert records["top1"]["p_value"] == by_metric(compare_runs("a", "b", tmp_path))["top1"].p_value
    assert (records["top5"]["p_value"], records["top5"]["p_holm"]) == (None, None)


def test_what_cannot_be_compared_is_said(tmp_path):
    right = [True, False, True]
    a = write(tmp_path, {"id": ids(3), "correct": right})

    def against(images: dict[str, Any], first: str = a, **changed: Any) -> list[Comparison]:
        return compare_runs(first, write(tmp_path, images, model="b", **changed), tmp_path)

    same = {"id": ids(3), "correct": right}
    with pytest.raises(DataError, match=r"has 3 images and .* 4, 3 in common: evaluate both on the same"):
        against({"id": ids(4), "correct": [*right, True]})
    with pytest.raises(DataError, match=r"3 images and .* 2, 0 in common"):
        against({"id": ["x", "y"], "correct": [True, True]})
    with pytest.raises(DataError, match="an image id occurs twice"):
        against({"id": ["0.png", "0.png", "1.png"], "correct": right})
    with pytest.raises(DataError, match="with other contents, labels or columns"):
        against(same, recipe={"images": "another"})
    with pytest.raises(DataError, match="was made by version 1 of the task 'zeroshot'"):
        against(same, task_version=1)
    with pytest.raises(DataError, match=r"is of zeroshot on d and .* is of zeroshot on e: compare runs"):
        against(same, dataset="e")
    with pytest.raises(DataError, match="is of retrieval on d: compare runs of one task on one data set"):
        against(retrieval_table(3, 0, 9), task="retrieval")
    with pytest.raises(DataError, match=r"has no images to compare by \(why\)"):
        against({"id": []}, value=None, note="why")
    unlabelled = {"id": ids(3), "prediction": [1, 2, 3]}
    with pytest.raises(DataError, match=r"nothing to compare by: zeroshot on d \(top1: .* has no value\)"):
        against(unlabelled)
    with pytest.raises(DataError, match=r"nothing to compare by: zeroshot on d \(no labels\)"):
        against(unlabelled, write(tmp_path, unlabelled))
    with pytest.raises(UsageError, match="are one run: name two"):
        compare_runs(a, a, tmp_path)
    with pytest.raises(UsageError, match=r"unknown run or model 'vit_b_32'; known: a, b$"):
        compare_runs("vit_b_32", "b", tmp_path)
    write(tmp_path, same, model="published", origin="published", value=None, note="not ours")
    with pytest.raises(DataError, match="published has no measured run with a per-image table in"):
        compare_runs("published", "b", tmp_path)
    with pytest.raises(UsageError, match="unknown metric 'top2'; did you mean top1"):
        compare_runs(a, write(tmp_path, same, model="b"), tmp_path, metrics=["top2"])
    with pytest.raises(UsageError, match="a bootstrap needs 1 resample or more"):
        compare_runs(a, "b", tmp_path, resamples=0)
    with pytest.raises(DataError, match="gone does not exist"):
        compare_runs("a", "b", tmp_path / "gone")
    write(tmp_path, same, model="c", dataset="only c's")
    write(tmp_path, same, model="c", dataset="and this")
    with pytest.raises(DataError, match="b and c have no task and data set in common"):
        compare_runs("b", "c", tmp_path)


def write_biases(folder: Path, datasets: int, moved: int) -> None:
    """Shape biases of models a and b on 40 objects each; b's is lower by .25 on the first `moved` sets."""
    objects = [f"o{i}" for i in range(40)]
    for k in range(datasets):
        decided = np.random.default_rng(k).permutation(["shape"] * 20 + ["texture"] * 20)
        changed = decided.copy()
        if k < moved:
            changed[np.flatnonzero(decided == "shape")[:10]] = "texture"
        else:  # as many either way
            changed[np.flatnonzero(decided == "shape")[0]] = "texture"
            changed[np.flatnonzero(decided == "texture")[0]] = "shape"
        for model, words in (("a", decided), ("b", changed)):
            table = {"id": ids(40), "object": objects, "decided_for": words}
            write(folder, table, task="shape_bias", model=model, dataset=f"d{k}")


def test_a_difference_of_25_points_is_found_among_56_metrics(tmp_path):
    """Of 1,000 resamples p is at least 2 / 1001: times 56, the number of metrics, it would be 0.11."""
    write_biases(tmp_path, 14, 1)
    found = compare_runs("a", "b", tmp_path)
    tested = sorted(
        (each for each in found if each.p_holm is not None), key=lambda each: int(each.dataset[1:])
    )
    assert len(found) == 56
    assert [(each.metric, each.dataset) for each in tested] == [("shape_bias", f"d{k}") for k in range(14)]
    assert {each.test for each in tested} == {"paired_bootstrap_1120"}
    first, *others = tested
    assert first.difference == pytest.approx(-0.25)
    assert first.interval is not None
    assert first.interval.hi < -0.1
    assert first.p_holm == pytest.approx(14 * 2 / 1121)
    assert min(each.p_holm or 0 for each in others) > 0.05
    # One number more costs no verdict, nor does a call for a number that is no headline give one.
    [only] = compare_runs("a", "b", tmp_path, metrics=["texture_fraction"])[:1]
    assert (only.p_holm, only.test) == (None, "paired_bootstrap_1000")


def test_the_correction_holds_its_level_and_finds_what_is_there(tmp_path):
    """As many resamples as 54 tests need: all that moved are found, none of the others."""
    write_biases(tmp_path, 54, 50)
    found = {each.dataset: each for each in compare_runs("a", "b", tmp_path, metrics=["shape_bias"])}
    assert {each.test for each in found.values()} == {"paired_bootstrap_4320"}
    p_values = [found[f"d{k}"].p_holm or 0 for k in range(54)]
    assert max(p_values[:50]) < 0.05
    assert min(p_values[50:]) > 0.05


def test_headlines_are_metrics_that_runs_are_compared_by():
    """Fixed in the record: a name that no run has would leave a task without verdicts."""
    for case, columns in PLANTED.items():
        task = find_task(case.partition(" ")[0])
        assert task.paired is not None
        n = len(next(iter(columns.values())))
        paired = task.paired({"id": ids(n), **columns}, About("d", None))
        drawn = {} if paired.resampled is None else paired.resampled(np.ones((1, n), np.int64))
        known = {**paired.right, **drawn, **paired.binned}
        assert len(task.headlines_among(known)) == len(task.headlines) > 0, case


def test_two_tests_of_one_difference_are_one_finding(tmp_path):
    """Classes of ten images each: the mean per class is top-1. Of 9 and 11 it is another number."""
    right = [np.random.default_rng(seed).random(40) < share for seed, share in ((1, 0.5), (2, 0.8))]

    def compared(sizes: list[int], name: str) -> dict[str, Comparison]:
        labels = np.repeat(np.arange(4), sizes)
        for model, each in zip("ab", right):
            write(tmp_path / name, {"id": ids(40), "label": labels, "correct": each}, model=model)
        return by_metric(compare_runs("a", "b", tmp_path / name))

    balanced, other = compared([10] * 4, "balanced"), compared([9, 11, 9, 11], "other")
    assert (balanced["top1"].same_as, balanced["mean_per_class"].same_as) == (("mean_per_class",), ("top1",))
    assert (other["top1"].same_as, other["mean_per_class"].same_as) == ((), ())
    assert balanced["mean_per_class"].p_holm is None
    shown = CliRunner().invoke(cli.app, ["compare", "a", "b", "--results", str(tmp_path / "balanced")]).stdout
    words = " ".join(shown.split())
    assert (
        "top1 and mean_per_class are one difference, not two findings: McNemar's test of top1 takes" in words
    )
    assert "p: of the 1 headline metric; others have none" in words
    only = ["compare", "a", "b", "--results", str(tmp_path / "other"), "--metric", "mean_per_class"]
    assert "no verdict: no metric shown is a headline" in CliRunner().invoke(cli.app, only).stdout


def test_one_image_has_no_bootstrap(tmp_path):
    a, b = (write(tmp_path, retrieval_table(1, 1, 2), task="retrieval", model=m) for m in "ab")
    found = compare_runs(a, b, tmp_path)
    assert {each.test for each in found} == {"mcnemar_exact"}
    assert found[0].left_out["image_retrieval_map"] == "d: a bootstrap needs two images or more, there are 1"


class Dull(ColourModel):
    """Sees no red: black and red look alike, and so on."""

    def encode_image(self, images: Any) -> np.ndarray:
        return super().encode_image(np.asarray(images) * np.array([0, 1, 1]) + np.array([-1, 0, 0]))


def test_two_models_from_images_to_the_command_line(tmp_path):
    for i, colour in enumerate(["red", "black", "blue", "pink", "green", "yellow"] * 2):
        paint(tmp_path / "world" / colour / f"{i}.png", colour)
    for model in (ColourModel(id="sees"), Dull(id="dull")):
        clipjax.evaluate(
            model,
            dataset=tmp_path / "world",
            prompts="single",
            results=tmp_path / "results",
            progress=False,
        )
    command = ["compare", "sees", "dull", "--results", str(tmp_path / "results")]
    shown = CliRunner().invoke(cli.app, command)
    assert shown.exit_code == 0
    assert "mcnemar_exact" in shown.stdout
    assert "A: sees\nB: dull" in shown.stdout
    records = json.loads(CliRunner().invoke(cli.app, [*command, "--json", "--metric", "top1"]).stdout)
    assert [(each["metric"], each["first"], each["second"]) for each in records] == [("top1", 1.0, 0.5)]
    assert (records[0]["gained"], records[0]["lost"]) == (0, 6)
    assert records[0]["p_value"] == pytest.approx(2 / 2**6)
    assert records[0]["interval"]["method"] == "mover_wilson_paired"


def matched_pairs(clusters: int, moved: float) -> dict[str, Any]:
    """Two pairs of images a cluster; recalls differ by cluster."""
    names = [f"{k:02d}" for k in range(clusters) for _ in range(2)]
    count = len(names)
    recall = np.linspace(0.1, 0.6, count) + moved
    same = {
        "matches": [8] * count,
        "counted": [True] * count,
        "bins": [["0"]] * count,
        "bin": [["0"]] * count,
    }
    own = {"id": ids(count), "cluster": names, "unit": ids(count)}
    return own | same | {"recall": recall.tolist(), "recall_2d@10": recall.tolist()}


def test_matches_are_compared_over_ten_clusters_or_more(tmp_path: Path) -> None:
    for count in (9, 10):
        first, second = (
            write(
                tmp_path,
                matched_pairs(count, moved),
                task="correspondence",
                model=name,
                dataset=f"of {count}",
            )
            for name, moved in (("a", 0.0), ("b", 0.2))
        )
        if count == 9:
            with pytest.raises(DataError, match=r"recall_2d@10, .*: only 9 clusters: a comparison needs 10"):
                compare_runs(first, second, tmp_path)
    # Models are compared all the same, by what they have.
    found = compare_runs("a", "b", tmp_path)
    assert {each.dataset for each in found} == {"of 10"}
    for each in found:
        assert list(each.not_compared) == ["correspondence on of 9"]
        assert "only 9 clusters: a comparison needs 10" in each.not_compared["correspondence on of 9"]
        assert not each.left_out
    shown = CliRunner().invoke(cli.app, ["compare", "a", "b", "--results", str(tmp_path)]).stdout
    assert "\ncorrespondence on of 9 is left out: recall, recall_2d@10, " in shown
    recall = next(each for each in found if each.metric == "recall")
    assert recall.difference == pytest.approx(0.2)
    assert recall.p_holm is not None
    assert recall.p_holm < 0.05
