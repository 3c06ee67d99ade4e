"""Comparing runs: paired tests against hand-worked numbers and loops, and every mismatch named."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from _colours import ColourModel, paint
from _planted import PLANTED, SPACE
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

import clipjax
from clipjax import cli
from clipjax.data.labels import LabelSpace
from clipjax.errors import DataError, UsageError
from clipjax.evaluation.compare import Comparison, compare_runs
from clipjax.metrics.uncertainty import intervals
from clipjax.metrics.uncertainty.bootstrap import Resampling, percentile_interval
from clipjax.metrics.uncertainty.paired import holm
from clipjax.results.row import metric_name
from clipjax.results.store import ResultStore, new_run_id
from clipjax.tasks.task import About, Measure, find_task


def write(
    folder: Path,
    images: dict[str, Any],
    *,
    task: str = "zeroshot",
    model: str = "a",
    measures: Sequence[Measure] = (),
    **changed: Any,
) -> str:
    """A run with these per-image columns, and a row a measure; returns its id."""
    run_id = new_run_id()
    empty = ("aggregates", "note", "sample", "reference", "per_device_batch", "slice", "xla_flags", "device")
    fields: dict[str, Any] = dict.fromkeys((*empty, "git_revision", "versions", "interval"))
    fields |= {
        "schema_version": 1,
        "run_id": run_id,
        "recipe_hash": "a" * 64,
        "recipe": {"images": "digest"},
        "origin": "measured",
        "task": task,
        "task_version": find_task(task).version,
        "dataset": "d",
        "model": model,
        "model_facts": {},
        "metric": "any",
        "value": 0.5,
        "n": len(images["id"]),
        "convention": {"prompts": "single"},
        "skipped": 0,
        "precision": "parity",
        "wall_time": 1.5,
        "compile_count": 3,
    }
    rows = [{k: getattr(each, k) for k in ("metric", "value", "n", "slice", "note")} for each in measures]
    ResultStore(folder).add([fields | changed | row for row in rows or [{}]], images)
    return run_id


def ids(n: int) -> list[str]:
    return [f"{i}.png" for i in range(n)]


def by_metric(found: list[Comparison]) -> dict[str, Comparison]:
    return {each.metric: each for each in found}


def test_accuracies_by_mcnemar(tmp_path):
    """3 images are gained, 12 lost, of 40; top-5 does not change."""
    first, second = np.ones(40, bool), np.ones(40, bool)
    first[:3], second[3:15] = False, False
    a = write(tmp_path, {"id": ids(40), "correct": first, "correct_top5": first})
    # The other run has its images in another order.
    order = np.random.default_rng(0).permutation(40)
    table = {"id": [ids(40)[i] for i in order], "correct": second[order], "correct_top5": first[order]}
    b = write(tmp_path, table, model="b", convention={"prompts": "openai_7"})
    found = by_metric(compare_runs(a, b, tmp_path))
    top1 = found["top1"]
    assert (top1.first, top1.second, top1.difference) == (37 / 40, 28 / 40, pytest.approx(-9 / 40))
    assert (top1.gained, top1.lost, top1.n) == (3, 12, 40)
    assert top1.p_value == pytest.approx(scipy.stats.binomtest(3, 15).pvalue)
    assert top1.p_holm == top1.p_value, "top-5 is no headline: it is no second test"
    assert top1.interval == intervals.paired_difference(3, 12, 40)
    assert (found["top5"].p_value, found["top5"].p_holm, found["top5"].difference) == (1, None, 0)
    assert top1.models == ("a", "b")
    assert dict(top1.differs) == {"prompts": ("single", "openai_7")}
    back = by_metric(compare_runs(b, a, tmp_path))["top1"]
    assert (back.difference, back.p_value) == (pytest.approx(9 / 40), top1.p_value)
    only = compare_runs(a, b, tmp_path, metrics=["top1"])
    assert [(each.metric, each.p_holm) for each in only] == [("top1", top1.p_value)]
    assert compare_runs(tmp_path / a, tmp_path / b, "elsewhere") == compare_runs(a, b, tmp_path)


def test_the_models_of_runs_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for model in ("a", "b"):
        write(tmp_path, {"id": ids(9), "correct": np.ones(9, bool)}, model=model)
    read: list[str] = []
    shared = ResultStore.shared
    monkeypatch.setattr(ResultStore, "shared", lambda store, run: (read.append(run), shared(store, run))[1])
    compare_runs("a", "b", tmp_path)
    compare_runs("b", "a", tmp_path)
    assert sorted(read) == ResultStore(tmp_path).run_ids()


def retrieval_table(n: int, seed: int, worst: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    counts = np.random.default_rng(0).integers(1, 6, n)
    return {
        "id": ids(n),
        "caption_ranks": [sorted(rng.integers(0, worst, k).tolist()) for k in counts],
        "image_ranks": [rng.integers(0, worst, k).tolist() for k in counts],
        "captions_cut": [0] * n,
    }


def test_retrieval_by_a_paired_bootstrap(tmp_path):
    tables = retrieval_table(50, 1, 20), retrieval_table(50, 2, 14)
    a, b = (write(tmp_path, table, task="retrieval", model=m) for m, table in zip("ab", tables))
    found = by_metric(compare_runs(a, b, tmp_path, resamples=300, seed=5))
    ways = [f"{way}_retrieval_{metric}" for way in ("image", "text") for metric in ("recall@5", "map")]
    assert {*ways, "mean_recall@5"} <= set(found)
    hits = [[np.array(ranks) < 5 for ranks in table["image_ranks"]] for table in tables]
    draws = []
    for row in np.concatenate(list(Resampling("d", 50, resamples=300, seed=5).blocks(100))):
        means = [np.concatenate([np.tile(each, k) for each, k in zip(of_run, row)]).mean() for of_run in hits]
        draws.append(means[1] - means[0])
    got, expected = found["image_retrieval_recall@5"], percentile_interval(np.array(draws))
    assert got.test == "paired_bootstrap_300"
    assert got.interval is not None
    assert got.interval[:2] == pytest.approx(expected[:2], abs=1e-12)
    below = np.sum(np.array(draws) <= 0)
    assert got.p_value == pytest.approx(min(1, 2 * (1 + min(below, 300 - below)) / 301), abs=0.01)
    assert got.difference == pytest.approx(np.concatenate(hits[1]).mean() - np.concatenate(hits[0]).mean())
    assert found["text_retrieval_recall@5"].test == "mcnemar_exact"
    headlines = [found[f"{way}_retrieval_recall@5"] for way in ("text", "image")]
    corrected = holm([each.p_value for each in headlines])
    assert [each.p_holm for each in headlines] == pytest.approx(corrected)
    assert sum(each.p_holm is not None for each in found.values()) == 2


def ood_table(seed: int, **more: Any) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    inside = np.arange(90) < 60
    names = ("mcm", "max_logit")
    scores = {name: (rng.normal(size=90) + inside).astype(np.float32) for name in names}
    return (
        {"id": [f"{'known' if i < 60 else 'd'}/{i}" for i in range(90)], "in_distribution": inside}
        | scores
        | more
    )


@pytest.mark.parametrize("classes", [None, [""] * 60 + ["one", "two", "three"] * 10])
def test_ood_scores_are_drawn_on_either_side(tmp_path, classes):
    """The resamples are those of the task's own intervals: ID and OOD images apart, OOD classes whole."""
    more = {} if classes is None else {"ood_class": classes}
    tables = ood_table(1, **more), ood_table(2, **more)
    a, b = (write(tmp_path, table, task="ood", model=m) for m, table in zip("ab", tables))
    found = by_metric(compare_runs(a, b, tmp_path, resamples=100, seed=3))
    codes = None if classes is None else np.unique(classes[60:], return_inverse=True)[1]
    known = Resampling("in_distribution", 60, resamples=100, seed=3).blocks(100)
    others = Resampling("d", 30, codes, resamples=100, seed=3).blocks(100)
    draws = []
    for id_row, ood_row in zip(next(known), next(others)):
        areas = [
            roc_auc_score(t["in_distribution"], t["max_logit"], sample_weight=np.append(id_row, ood_row))
            for t in tables
        ]
        draws.append(areas[1] - areas[0])
    got = found["auroc score:max_logit"]
    assert got.interval is not None
    assert got.interval[:2] == pytest.approx(percentile_interval(np.array(draws))[:2], abs=1e-9)
    assert got.first == pytest.approx(roc_auc_score(tables[0]["in_distribution"], tables[0]["max_logit"]))
    assert found["auroc"].difference == found["auroc score:mcm"].difference
    assert not found["auroc"].differs


def test_the_headline_of_a_classifier_is_another_score(tmp_path):
    """MCM against MSP: said, and the scores that both have are there beside it."""
    tables = ood_table(1), ood_table(2)
    tables[1]["msp"] = tables[1].pop("mcm")
    a, b = (write(tmp_path, table, task="ood", model=m) for m, table in zip("ab", tables))
    found = by_metric(compare_runs(a, b, tmp_path, resamples=20))
    assert dict(found["auroc"].differs) == {"headline": ("mcm", "msp")}
    assert {name for name in found if "score:" in name} == {"auroc score:max_logit"}
    assert dict(found["auroc"].left_out) == {
        "auroc score:mcm": f"{b} has no value",
        "auroc score:msp": f"{a} has no value",
    }
    with pytest.raises(DataError, match=f"auroc score:mcm cannot be compared: {b} has no value"):
        compare_runs(a, b, tmp_path, metrics=["auroc score:mcm"])


def calibration_table(seed: int, temperature: float, n: int = 200) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {"id": ids(n), "label": [0] * n, "prediction": [0] * n}
    columns |= {"correct": rng.random(n) < 0.6, "temperature": [temperature] * n}
    columns |= {"temperature_error": [0.1] * n, "calibration_images": [n] * n}
    for state in ("before", "after"):
        columns[f"confidence_{state}"] = rng.uniform(0.4, 1, n)
        columns |= {f"{name}_{state}": rng.random(n) for name in ("nll", "brier")}
    return columns


def test_calibration_before_and_after(tmp_path):
    tables = calibration_table(1, 1.2), calibration_table(2, 0.8)
    a, b = (write(tmp_path, table, task="calibration", model=m) for m, table in zip("ab", tables))
    found = by_metric(compare_runs(a, b, tmp_path, resamples=200))
    names = ("ece_corrected_15", "nll", "brier")
    assert {f"{name}_{state}" for name in names for state in ("before", "after")} <= set(found)
    assert found["accuracy"].test == "mcnemar_exact"
    changes = tables[1]["nll_after"] - tables[0]["nll_after"]
    weights = next(Resampling("d", 200, resamples=200).blocks(200))
    expected = percentile_interval(weights @ changes / 200)
    assert found["nll_after"].difference == pytest.approx(changes.mean())
    assert found["nll_after"].interval is not None
    assert found["nll_after"].interval[:2] == pytest.approx(expected[:2])


def test_of_two_eces_the_corrected_ones_are_compared(tmp_path):
    """The second run is right less often, and as sure."""
    tables = calibration_table(1, 1.2), calibration_table(1, 1.2)
    tables[1]["correct"] = tables[1]["correct"] & (np.arange(200) % 2 == 0)
    a, b = (write(tmp_path, table, task="calibration", model=m) for m, table in zip("ab", tables))
    ece = by_metric(compare_runs(a, b, tmp_path))["ece_corrected_15_before"]
    assert ece.test == "mover_folded_normal"
    assert ece.interval is not None
    assert 0.1 < ece.difference == ece.second - ece.first < 0.3
    assert ece.interval.lo < ece.difference < ece.interval.hi
    assert ece.p_value > 0.05 or ece.interval.lo > 0
    assert ece.p_value < 0.2
    assert "compare ece_corrected" in ece.left_out["ece_15_before"]
    with pytest.raises(DataError, match="ece_25_after cannot be compared: noise raises it, and not alike"):
        compare_runs(a, b, tmp_path, metrics=["ece_25_after"])
    same = by_metric(compare_runs(a, write(tmp_path, tables[0], task="calibration", model="c"), tmp_path))
    assert (same["ece_corrected_15_before"].difference, same["ece_corrected_15_before"].p_value) == (0, 1)


def test_eces_of_fewer_than_200_images_are_not_compared(tmp_path):
    """As rows of so few have no interval; accuracy, NLL and Brier are compared all the same."""
    for n in (199, 200):
        for seed, model in enumerate("ab"):
            table = calibration_table(seed, 1.2, n)
            write(tmp_path, table, task="calibration", model=model, dataset=f"of {n}")
    found = compare_runs("a", "b", tmp_path, resamples=20)
    few, enough = ({each.metric: each for each in found if each.dataset == f"of {n}"} for n in (199, 200))
    eces = {f"ece_corrected_{bins}_{state}" for bins in (15, 25) for state in ("before", "after")}
    assert eces <= set(enough)
    assert set(enough) - set(few) == {name for name in enough if name.startswith("ece_corrected")}
    assert "nll_after" in few
    left_out = few["accuracy"].left_out
    assert left_out["ece_corrected_25_after"] == "only 199 images: a comparison needs 200"
    headline = "a headline without a test: only 199 images: a comparison needs 200"
    assert left_out["ece_corrected_15_after"] == headline


def test_shape_bias_draws_objects(tmp_path):
    """Twenty objects of four images each, all four decided alike: twenty observations, not eighty."""
    objects = np.repeat([f"cat/cat{i}" for i in range(20)], 4)
    said = [np.repeat(np.random.default_rng(seed).choice(["shape", "texture"], 20), 4) for seed in (1, 2)]
    tables = [{"id": ids(80), "object": list(objects), "decided_for": list(words)} for words in said]
    a, b = (write(tmp_path, table, task="shape_bias", model=m) for m, table in zip("ab", tables))
    got = by_metric(compare_runs(a, b, tmp_path, resamples=400))["shape_bias"]
    change = [(words[::4] == "shape").astype(float) for words in said]
    assert got.difference == pytest.approx((change[1] - change[0]).mean())
    assert got.interval is not None
    assert got.interval.method == "cluster_bootstrap_400"
    normal = 2 * 1.96 * np.std(change[1] - change[0]) / np.sqrt(20)
    assert got.interval.hi - got.interval.lo == pytest.approx(normal, rel=0.2)


def test_shape_bias_draws_textures_too(tmp_path):
    """Four hundred images of 20 objects and 20 textures; decisions depend on the texture alone."""
    cells = [(i, j) for i in range(20) for j in range(20)]
    rng = np.random.default_rng(7)
    tables = []
    for _ in range(2):
        word = rng.choice(["shape", "texture"], 20)
        pictures = {"object": [f"cat{i}" for i, _ in cells], "texture_object": [f"dog{j}" for _, j in cells]}
        tables.append({"id": ids(400), **pictures, "decided_for": [str(word[j]) for _, j in cells]})
    a, b = (write(tmp_path, table, task="shape_bias", model=m) for m, table in zip("ab", tables))
    got = by_metric(compare_runs(a, b, tmp_path, resamples=400))["shape_bias"]
    assert got.interval is not None
    assert got.interval.method == "pigeonhole_bootstrap_400"
    first, second = ((np.array(table["decided_for"][:20]) == "shape").astype(float) for table in tables)
    normal = 2 * 1.96 * np.std(second - first) / np.sqrt(20)
    assert got.interval.hi - got.interval.lo == pytest.approx(normal, rel=0.2)


def test_a_resample_without_any_decision_leaves_the_bias_out(tmp_path):
    """Of four objects one is decided by its shape: a resample without it has no shape bias."""
    said = [["shape", "other", "other", "other"], ["texture", "shape", "shape", "shape"]]
    tables = [{"id": ids(4), "object": list("abcd"), "decided_for": words} for words in said]
    a, b = (write(tmp_path, table, task="shape_bias", model=m) for m, table in zip("ab", tables))
    found = by_metric(compare_runs(a, b, tmp_path, resamples=100))
    weights = next(Resampling("d", 4, np.arange(4), resamples=100).blocks(100))
    without = int(np.sum(weights[:, 0] == 0))
    assert set(found) == {"shape_fraction", "texture_fraction", "other_fraction"}
    [left_out] = {tuple(each.left_out.items()) for each in found.values()}
    why = f"a headline without a test: {without} of 100 resamples have no value"
    assert left_out == (("shape_bias", why),)
    shown = CliRunner().invoke(cli.app, ["compare", a, b, "--results", str(tmp_path), "--resamples", "100"])
    assert f"shape_bias on d: shape_bias is left out: {why}" in shown.stdout


def test_frames_are_compared_by_their_sets(tmp_path):
    """Twelve sets of five frames: `pm` are proportions of twelve, and frames are drawn with their set."""
    anchor, offset = np.repeat([f"{k:02d}" for k in range(12)], 5), np.tile([-10, -1, 0, 1, 10], 12)
    right = [np.random.default_rng(seed).random(60) < 0.9 for seed in (1, 2)]
    common = {"id": ids(60), "anchor": anchor, "offset": offset, "set_size": [5] * 60, "label": [0] * 60}
    tables = [common | {"prediction": (~r).astype(int), "correct": r} for r in right]
    a, b = (write(tmp_path, table, task="vid_robust", model=m) for m, table in zip("ab", tables))
    found = by_metric(compare_runs(a, b, tmp_path, resamples=100))
    assert list(found) == [*(f"pm{k}" for k in range(11)), "top1_all_frames"]
    for k in (0, 1, 10):
        lasting = [
            np.array([each[(anchor == name) & (abs(offset) <= k)].all() for name in np.unique(anchor)])
            for each in right
        ]
        got = found[f"pm{k}"]
        assert (got.gained, got.lost) == (np.sum(lasting[1] > lasting[0]), np.sum(lasting[0] > lasting[1]))
        assert (got.n, got.first, got.test) == (12, lasting[0].mean(), "mcnemar_exact")
    frames, codes = found["top1_all_frames"], np.repeat(np.arange(12), 5)
    weights = next(Resampling("d", 60, codes, resamples=100).blocks(100))
    expected = percentile_interval(weights @ (right[1] * 1.0 - right[0]) / 60, clustered=True)
    assert frames.interval is not None
    assert frames.interval[:2] == pytest.approx(expected[:2], abs=1e-12)
    assert frames.interval.method == "cluster_bootstrap_100"
    assert (frames.n, frames.gained) == (60, None)


def test_means_over_classes_are_drawn_by_images(tmp_path):
    labels = np.repeat([3, 7], [30, 6])
    right = [np.random.default_rng(seed).random(36) < 0.5 for seed in (1, 2)]
    tables = [{"id": ids(36), "label": labels, "correct": each} for each in right]
    a, b = (write(tmp_path, table, model=m) for m, table in zip("ab", tables))
    got = by_metric(compare_runs(a, b, tmp_path, resamples=100))["mean_per_class"]
    draws = []
    for row in next(Resampling("d", 36, resamples=100).blocks(100)):
        drawn = np.repeat(np.arange(36), row)
        means = [np.mean([r[drawn][labels[drawn] == k].mean() for k in {*labels[drawn]}]) for r in right]
        draws.append(means[1] - means[0])
    assert got.first == pytest.approx((right[0][:30].mean() + right[0][30:].mean()) / 2)
    assert got.interval is not None
    assert got.interval[:2] == pytest.approx(percentile_interval(np.array(draws))[:2], abs=1e-12)


@pytest.mark.parametrize("case", PLANTED)
def test_what_is_compared_is_what_is_measured(tmp_path, case):
    task, _, dataset = case.partition(" ")
    columns = {"id": ids(len(next(iter(PLANTED[case].values())))), **PLANTED[case]}
    about = About(dataset or "planted", SPACE, resamples=20)
    measures = find_task(task).measure(columns, about)
    a, b = (write(tmp_path, columns, task=task, model=m, measures=measures) for m in "ab")
    values = {metric_name(each.metric, each.slice): each.value for each in measures}
    found = by_metric(compare_runs(a, b, tmp_path, resamples=20))
    assert {name: each.first for name, each in found.items()} == pytest.approx(
        {name: values[name] for name in found}
    )


def test_top5_of_four_classes_is_left_out(tmp_path):
    columns = {"id": ids(4), **PLANTED["zeroshot"]}
    four = LabelSpace("four", tuple("abcd"), tuple("abcd"))
    measures = find_task("zeroshot").measure(columns, About("d", four))
    a, b = (write(tmp_path, columns, model=m, measures=measures) for m in "ab")
    found = by_metric(compare_runs(a, b, tmp_path, resamples=20))
    assert set(found) == {"top1", "mean_per_class"}
    assert found["top1"].left_out["top5"] == f"{b} has no value (not applicable: there are 4 classes)"


def test_lists_of_imagenet_d_must_be_the_same(tmp_path):
    right = np.arange(30) % 3 > 0
    table = {"id": ids(30), "correct": right, "correct_4way_own": right, "correct_4way_list": right[::-1]}

    def run(model: str, lists: str) -> str:
        recipe = {"images": "digest", "annotations": lists}
        return write(tmp_path, table, task="imagenet_d", model=model, recipe=recipe)

    a, b, other = run("a", "one"), run("b", "one"), run("c", "two")
    assert set(by_metric(compare_runs(a, b, tmp_path))) == {"top1", "top1_4way_list"}
    [top1] = compare_runs(a, other, tmp_path)
    assert top1.metric == "top1"
    assert dict(top1.left_out) == {"top1_4way_list": "the runs have other annotations"}


def test_factors_are_compared_over_the_same_images(tmp_path):
    columns = {"id": ids(4), **PLANTED["imagenet_x"]}
    moved = columns | {"top_factors": columns["top_factors"][::-1]}

    def run(model: str, images: dict[str, Any], digest: str | None) -> str:
        recipe = {"images": "digest", "annotations": digest}
        return write(tmp_path, images, task="imagenet_x", model=model, recipe=recipe)

    a, b, other = run("a", columns, "one"), run("b", columns, "one"), run("c", columns, "two")
    factors = {f"accuracy top/filtered/factor:{name}" for name in ("larger", "shape", "color")}
    assert set(by_metric(compare_runs(a, b, tmp_path))) == {"average", *factors}
    with pytest.raises(DataError, match=f"{a} and {other} have other annotations"):
        compare_runs(a, other, tmp_path)
    # Of the table of an earlier run the annotations are not known: then the images decide.
    [average] = compare_runs(a, run("d", moved, None), tmp_path)
    assert average.metric == "average"
    assert dict(average.left_out) == dict.fromkeys(factors, "the runs have it over other images")


def test_a_run_that_says_nothing_of_decoding_has_decoded_in_full(tmp_path):
    for model, more in (("a", {}), ("b", {"decode": "smaller"})):
        images = {"id": ids(3), "correct": [True, False, True]}
        write(tmp_path, images, model=model, convention={"prompts": "single"} | more)
    assert dict(compare_runs("a", "b", tmp_path)[0].differs) == {"decode": ("full", "smaller")}
    shown = CliRunner().invoke(cli.app, ["compare", "a", "b", "--results", str(tmp_path)]).stdout
    assert "zeroshot on d, decode: full (A), smaller (B)" in shown
    assert "None" not in shown


def test_equal_runs_do_not_differ(tmp_path):
    a, b = (write(tmp_path, retrieval_table(20, 1, 20), task="retrieval", model=m) for m in "ab")
    for each in compare_runs(a, b, tmp_path, resamples=50):
        assert (each.difference, each.p_value) == (0, 1)
        if each.test == "mcnemar_exact":
            assert (each.gained, each.lost) == (0, 0)
        else:
            assert each.interval is None


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
