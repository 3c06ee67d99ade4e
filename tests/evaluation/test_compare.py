"""Comparing two runs of each task: paired tests against hand-worked numbers and loops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from _compared import by_metric, calibration_table, ids, ood_table, retrieval_table, write
from _planted import PLANTED, SPACE
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from clipjax import cli
from clipjax.data.labels import LabelSpace
from clipjax.errors import DataError
from clipjax.evaluation.comparison.compare import compare_runs
from clipjax.metrics.uncertainty import intervals
from clipjax.metrics.uncertainty.bootstrap import Resampling, percentile_interval
from clipjax.metrics.uncertainty.paired import holm
from clipjax.results.row import metric_name
from clipjax.results.store import ResultStore
from clipjax.tasks.inputs import About
from clipjax.tasks.task import find_task

pytestmark = pytest.mark.usefixtures("few_calibrated_models")


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
    c = write(tmp_path, tables[0], task="calibration", model="c")
    [same] = compare_runs(a, c, tmp_path, metrics=["ece_corrected_15_before"])
    assert (same.difference, same.p_value) == (0, 1)


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
