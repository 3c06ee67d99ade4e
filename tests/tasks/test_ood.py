"""OOD detection on planted scores, against scikit-learn and the published oracles; what it refuses."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest
import sklearn.metrics as sk
from scipy.special import log_softmax, logsumexp, softmax

from clipjax.data.labels import LabelSpace, Projection
from clipjax.errors import DataError
from clipjax.heads.head import Head
from clipjax.metrics import detection
from clipjax.metrics.uncertainty.bootstrap import Resampling, percentile_interval
from clipjax.results.image_table import images_table
from clipjax.tasks import ood
from clipjax.tasks.inputs import About, ImageInputs

K, D, SCALE = 12, 16, 50.0
SPACE = LabelSpace("planted", tuple(f"class {k}" for k in range(K)), tuple(f"n{k:04d}" for k in range(K)))
ABOUT = About("far", None, resamples=60)
COSINE = ("mcm", "energy_cosine", "negative_entropy")


def head(normalize=True, bias=None) -> Head:
    kernel = np.random.default_rng(0).normal(size=(D, K)).astype(np.float32)
    kernel /= np.linalg.norm(kernel, axis=0)
    return Head(jnp.asarray(kernel), bias, SCALE, normalize, SPACE)


def world(n=70, m=40, normalize=True, bias=None, columns=None) -> Any:
    """ID images near their class's embedding, OOD images anywhere."""
    rng = np.random.default_rng(1)
    used = head(normalize, bias)
    labels = rng.integers(0, K, n).astype(np.int32)
    known = np.asarray(used.kernel).T[labels] + 0.3 * rng.normal(size=(n, D)).astype(np.float32)
    far = rng.normal(size=(m, D)).astype(np.float32)
    inside = ImageInputs(
        ids=[f"{i}.png" for i in range(n)],
        features=known,
        labels=labels,
        head=used,
        label_space=SPACE,
        dataset="near",
    )
    names = [f"{i}.png" for i in range(m)]
    return ImageInputs(
        ids=names,
        features=far,
        labels=None,
        head=used,
        label_space=None,
        projection=None,
        columns=columns or {},
        dataset="far",
        id=inside,
        resamples=60,
    )


def measured(measures) -> dict:
    found = {(m.metric, m.slice): m for m in measures}
    assert len(found) == len(measures)
    return found


def test_scores_are_those_of_scipy():
    inputs = world()
    got = ood.describe(inputs)
    features = np.concatenate([inputs.id.features, inputs.features]).astype(np.float64)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    cosines = features @ np.asarray(inputs.head.kernel, np.float64)
    shares = softmax(cosines, axis=1)
    expected = {
        "mcm": shares.max(axis=1),
        "msp": softmax(SCALE * cosines, axis=1).max(axis=1),
        "max_logit": SCALE * cosines.max(axis=1),
        "energy": logsumexp(SCALE * cosines, axis=1),
        "energy_cosine": logsumexp(cosines, axis=1),
        "negative_entropy": (shares * log_softmax(cosines, axis=1)).sum(axis=1),
    }
    for name in ood.SCORES:
        assert got[name].dtype == np.float32
        np.testing.assert_allclose(got[name], expected[name], rtol=2e-5, err_msg=name)
    assert got["in_distribution"].tolist() == [True] * 70 + [False] * 40
    assert got["id"][:1] == ["near/0.png"]
    assert got["id"][70:71] == ["far/0.png"]


def test_the_sheets_scores():
    """s = (.31, .27, .18, .05): MCM, energy and entropy of cosines; MSP with scale 100."""
    cosines = np.array([0.31, 0.27, 0.18, 0.05], np.float32)
    one = cosines / np.linalg.norm(cosines)
    kernel = np.linalg.norm(cosines) * np.eye(4, dtype=np.float32)
    space = LabelSpace("four", ("a", "b", "c", "d"), ("a", "b", "c", "d"))
    used = Head(jnp.asarray(kernel), None, 100.0, True, space)
    inside = ImageInputs(
        ids=["x"], features=one[None], labels=None, head=used, label_space=space, dataset="near"
    )
    got = ood.describe(
        ImageInputs(
            ids=["y"], features=one[None], labels=None, head=used, label_space=None, dataset="far", id=inside
        )
    )
    assert got["mcm"][0] == pytest.approx(0.2770131863, abs=1e-6)
    assert got["msp"][0] == pytest.approx(0.9820116103, abs=1e-5)
    assert got["energy_cosine"][0] == pytest.approx(1.5936901699, abs=1e-6)
    assert got["negative_entropy"][0] == pytest.approx(-1.3814917241, abs=1e-6)


def oracle_columns(**extra):
    known = [((37 * i) % 101) / 101 for i in range(1, 21)]
    far = [0.8 * ((53 * i) % 97) / 97 for i in range(1, 16)]
    inside = [True] * 20 + [False] * 15
    return {"in_distribution": inside, "msp": known + far, **extra}


def test_the_published_oracle_from_plain_columns():
    """Lists, as another framework's rows or those read back from Parquet come."""
    got = measured(ood.measure(oracle_columns(), ABOUT))
    expected = {"auroc": 0.65, "aupr_in": 0.762312, "fpr95_mos": 0.933333, "fpr95_ninco": 0.8}
    expected |= {"fpr95_openood": 0.75, "aupr_in_trapezoid": 0.755504, "aupr_out_trapezoid": 0.570610}
    for name, value in expected.items():
        assert got[name, None].value == pytest.approx(value, abs=1e-6), name
        assert got[name, "score:msp"].value == got[name, None].value
    assert got["auroc", None].note == "score: msp"
    assert got["auroc", None].n == 35


def test_every_measure_of_every_score_has_an_interval_that_holds_it():
    got = measured(ood.TASK.run(world()).measures)
    for name in ood.SCORES:
        for metric in detection.MEASURES:
            each = got[metric, f"score:{name}"]
            assert each.interval.lo <= each.value <= each.interval.hi
            assert each.interval.lo < each.interval.hi
    assert got["auroc", None].value == got["auroc", "score:mcm"].value
    assert got["auroc", None].note == "score: mcm"
    assert got["auroc", None].interval.method == "delong_logit"
    assert got["aupr_out", None].interval.method == "bootstrap_60"
    assert got["auroc", None].value > 0.8


def test_values_against_scikit_learn():
    outcome = ood.TASK.run(world())
    got, inside = measured(outcome.measures), outcome.images["in_distribution"]
    for name in ood.SCORES:
        scores = outcome.images[name].astype(np.float64)
        assert got["auroc", f"score:{name}"].value == pytest.approx(sk.roc_auc_score(inside, scores))
        aupr = sk.average_precision_score(~inside, -scores)
        assert got["aupr_out", f"score:{name}"].value == pytest.approx(aupr, abs=1e-12)


def test_scores_share_their_resamples():
    """The largest logit orders images as any multiple of it does: one interval, to the last digit."""
    columns = ood.describe(world())
    one = measured(ood.measure(columns, ABOUT))
    moved = {**columns, "msp": np.asarray(columns["max_logit"]) / 8, "energy": columns["max_logit"]}
    two = measured(ood.measure(moved, ABOUT))
    for metric in ("aupr_in", "fpr95_mos", "fpr95_ninco"):
        assert two[metric, "score:msp"].interval == two[metric, "score:max_logit"].interval
        assert two[metric, "score:energy"].interval == one[metric, "score:max_logit"].interval
    other = measured(ood.measure(columns, dataclasses.replace(ABOUT, dataset="elsewhere")))
    assert other["aupr_in", None].interval != one["aupr_in", None].interval


def test_the_same_numbers_from_a_stored_table(tmp_path):
    outcome = ood.TASK.run(world(columns={"ood_class": ["a", "b"] * 20, "confused_with": ["n0001"] * 40}))
    pq.write_table(images_table(outcome.images), tmp_path / "images.parquet")
    stored = pq.read_table(tmp_path / "images.parquet").to_pydict()
    assert ood.measure(stored, ABOUT) == outcome.measures


def test_a_classifier_has_no_cosines():
    got = measured(ood.TASK.run(world(normalize=False)).measures)
    note = "score: msp; 34.7% of the pairs of an ID and an OOD image have equal scores"  # mostly 1
    assert got["auroc", None].note == note
    assert got["auroc", None].value == got["auroc", "score:msp"].value
    for name in COSINE:
        assert got["auroc", f"score:{name}"].value is None
        assert "not applicable: a score of raw cosines" in got["auroc", f"score:{name}"].note
        assert ("fpr95_mos", f"score:{name}") not in got


def test_a_bias_changes_logits_and_no_cosine():
    """SigLIP's: MSP does not see it, energy does."""
    plain, biased = ood.describe(world()), ood.describe(world(bias=jnp.full(K, -10.0)))
    for name in (*COSINE, "msp"):
        np.testing.assert_allclose(biased[name], plain[name], rtol=1e-5)
    np.testing.assert_allclose(biased["energy"], plain["energy"] - 10, rtol=1e-4)


def test_blocks_do_not_change_anything(monkeypatch):
    whole = ood.describe(world(columns={"confused_with": ["n0001", "n0007"] * 20}))
    monkeypatch.setattr("clipjax.heads.head.SCORE_BLOCK", K * 9)
    blocks = ood.describe(world(columns={"confused_with": ["n0001", "n0007"] * 20}))
    for name in (*ood.SCORES, "msp_confused"):
        np.testing.assert_allclose(blocks[name], whole[name], rtol=1e-6)


def test_scores_are_over_the_id_classes():
    """A head that knows more classes is scored on the ID set's alone."""
    inputs = world()
    few = LabelSpace("few", SPACE.classes[:5], SPACE.ids[:5])
    chosen = Projection("planted", "few", "select", tuple((k,) for k in range(5)))
    known = dataclasses.replace(inputs.id, labels=None, label_space=few, projection=chosen)
    got = ood.describe(dataclasses.replace(inputs, id=known))
    small = dataclasses.replace(inputs.head, kernel=inputs.head.kernel[:, :5], label_space=few)
    expected = ood.describe(
        dataclasses.replace(inputs, head=small, id=dataclasses.replace(inputs.id, head=small))
    )
    for name in ood.SCORES:
        # Of the largest score: a product of five columns may add in another order than one of ten, and its
        # terms decide the rounding, not a sum near zero.
        largest = np.abs(expected[name]).max()
        np.testing.assert_allclose(got[name], expected[name], rtol=0, atol=1e-6 * largest)
    mean = dataclasses.replace(chosen, kind="mean_prob")
    with pytest.raises(DataError, match="averages of probabilities over planted"):
        ood.describe(dataclasses.replace(inputs, id=dataclasses.replace(known, projection=mean)))


# Classes of OOD images.


def test_class_means_against_a_loop():
    names = ["one"] * 3 + ["two words"] * 25 + ["three"] * 12
    outcome = ood.TASK.run(world(columns={"ood_class": names}))
    got, inside = measured(outcome.measures), outcome.images["in_distribution"]
    classes = np.asarray(names)
    for score in ood.SCORES:
        known, far = outcome.images[score][inside], outcome.images[score][~inside]
        threshold = np.quantile(known.astype(np.float64), 1 - 0.95)
        areas, rates = [], []
        for name in set(names):
            part = far[classes == name]
            labels = np.repeat([1, 0], [len(known), len(part)])
            areas.append(sk.roc_auc_score(labels, np.concatenate([known, part])))
            rates.append(np.mean(part >= threshold))
        mean = got["class_mean_auroc", f"score:{score}"]
        assert mean.value == pytest.approx(np.mean(areas), abs=1e-12)
        assert mean.aggregates == "ood_classes"
        assert mean.interval.method == "cluster_bootstrap_60"
        rate = got["class_mean_fpr95_ninco", f"score:{score}"].value
        assert rate == pytest.approx(np.mean(rates), abs=1e-12)
    assert got["class_mean_auroc", None].value == got["class_mean_auroc", "score:mcm"].value
    assert got["auroc", "ood_class:two words"].n == 70 + 25
    each = [got["auroc", f"ood_class:{name}"].value for name in set(names)]
    assert np.mean(each) == pytest.approx(got["class_mean_auroc", None].value)
    assert got["auroc", None].interval.method == "cluster_bootstrap_60"


def test_one_class_cannot_be_resampled():
    got = measured(ood.TASK.run(world(columns={"ood_class": ["only"] * 40})).measures)
    assert got["class_mean_auroc", None].value == pytest.approx(got["auroc", None].value)
    assert got["class_mean_auroc", None].interval.method == "wilson_pairs"


@pytest.mark.parametrize("classes", [None, ["one"] * 3 + ["two words"] * 25 + ["three"] * 12])
def test_runs_are_compared_on_the_same_resamples(classes):
    """Drawing each image once gives the numbers; drawn images, those of the repeated rows."""
    outcome = ood.TASK.run(world(columns={} if classes is None else {"ood_class": classes}))
    got, columns = measured(outcome.measures), outcome.images
    pairs = ood.paired(columns, ABOUT)
    assert pairs.resampled is not None
    once = pairs.resampled(np.ones((1, 110), np.int32))
    assert {f"auroc score:{score}" for score in ood.SCORES} <= set(once)
    for name, value in once.items():
        metric, _, part = name.partition(" ")
        assert value[0] == pytest.approx(got[metric, part or None].value, abs=1e-12)
    assert pairs.convention == {"headline": "mcm"}
    assert pairs.groups == ["in_distribution"] * 70 + ["far"] * 40
    assert pairs.clusters == (None if classes is None else [None] * 70 + classes)
    weights = np.ones(110, np.int32)
    weights[[3, 8]], weights[70:73] = (0, 2), 4  # the whole of class one
    rows = np.repeat(np.arange(110), weights)
    again = {name: np.asarray(values)[rows] for name, values in columns.items()}
    drawn = pairs.resampled(weights[None])
    for metric in detection.MEASURES:
        assert drawn[metric][0] == pytest.approx(measured(ood.measure(again, ABOUT))[metric, None].value)
    if classes is not None:
        areas = [got["auroc", f"ood_class:{name}"].value for name in ("one", "two words", "three")]
        only_known = pairs.resampled(np.where(np.arange(110) < 70, 1, weights)[None])
        assert only_known["class_mean_auroc"][0] == pytest.approx(np.dot(areas, [4, 1, 1]) / 6)


def test_intervals_of_class_means_are_of_the_compared_resamples():
    names = ["one"] * 3 + ["two words"] * 25 + ["three"] * 12
    outcome = ood.TASK.run(world(columns={"ood_class": names}))
    pairs = ood.paired(outcome.images, ABOUT)
    assert pairs.resampled is not None
    codes = np.unique(names, return_inverse=True)[1]
    known = next(Resampling("in_distribution", 70, resamples=60).blocks(60))
    others = next(Resampling("far", 40, codes, resamples=60).blocks(60))
    drawn = pairs.resampled(np.concatenate([known, others], axis=1))
    got = measured(outcome.measures)
    for metric in ("auroc", "class_mean_auroc", "class_mean_fpr95_ninco"):
        expected = percentile_interval(drawn[metric], clustered=True)
        assert got[metric, None].interval[:2] == pytest.approx(expected[:2], abs=1e-12)


# ImageNet-O's own protocol.


def test_the_protocol_of_confused_classes():
    """Logits of the classes named, ID images of these alone, -max softmax with OOD as the positive."""
    names = ["n0007", "n0002", "n0007", "n0009"] * 10
    inputs = world(columns={"confused_with": names})
    got = measured(ood.TASK.run(inputs).measures)
    kernel = np.asarray(inputs.head.kernel)[:, [2, 7, 9]]

    def score(features):
        unit = features / np.linalg.norm(features, axis=1, keepdims=True)
        return -softmax(SCALE * unit @ kernel, axis=1).max(axis=1)

    kept = np.isin(inputs.id.labels, [2, 7, 9])
    scores = np.concatenate([score(inputs.id.features[kept]), score(inputs.features)])
    positive = np.repeat([0, 1], [kept.sum(), 40])
    part = "protocol:confused_classes"
    assert got["auroc", part].value == pytest.approx(sk.roc_auc_score(positive, scores))
    assert got["aupr_out", part].value == pytest.approx(sk.average_precision_score(positive, scores))
    assert got["auroc", part].n == kept.sum() + 40
    assert got["auroc", part].value != got["auroc", "score:msp"].value


def test_the_protocol_needs_id_labels_and_known_classes():
    inputs = world(columns={"confused_with": ["n0001"] * 40})
    unlabelled = dataclasses.replace(inputs, id=dataclasses.replace(inputs.id, labels=None))
    got = measured(ood.TASK.run(unlabelled).measures)
    assert got["auroc", "protocol:confused_classes"].value is None
    assert "no ID image is known" in got["auroc", "protocol:confused_classes"].note
    with pytest.raises(DataError, match=r"1\.png: 'n9999' is not a class of planted"):
        ood.describe(world(columns={"confused_with": ["n0001", "n9999"] * 20}))


# What cannot be measured.


def test_missing_and_equal_sides_are_refused():
    inputs = world()
    with pytest.raises(DataError, match="far is compared with nothing"):
        ood.describe(dataclasses.replace(inputs, id=None))
    with pytest.raises(DataError, match="near is compared with itself"):
        ood.describe(dataclasses.replace(inputs, dataset="near"))
    for change, name in (({"id": None}, "far"), ({}, "near")):
        empty = {"ids": [], "features": np.zeros((0, D), np.float32), "labels": None, **change}
        if name == "far":
            broken = dataclasses.replace(inputs, **{k: v for k, v in empty.items() if k != "id"})
        else:
            broken = dataclasses.replace(inputs, id=dataclasses.replace(inputs.id, **empty))
        with pytest.raises(DataError, match=f"{name} holds no images"):
            ood.describe(broken)


def test_logits_that_are_not_finite_name_the_image():
    inputs = world()
    inputs.features[3, 0] = np.nan
    with pytest.raises(DataError, match=r"^3\.png: its logits hold NaN"):
        ood.describe(inputs)


def test_columns_that_have_no_measure():
    columns = oracle_columns()
    for sides, words in ((True, "in distribution"), (False, "out of distribution")):
        with pytest.raises(DataError, match=f"far: all 35 images are {words}"):
            ood.measure({**columns, "in_distribution": [sides] * 35}, ABOUT)
    with pytest.raises(DataError, match="far: there is no score; give a column mcm, msp"):
        ood.measure({"in_distribution": columns["in_distribution"]}, ABOUT)
    broken = {**columns, "msp": [float("nan") if i == 21 else v for i, v in enumerate(columns["msp"])]}
    with pytest.raises(DataError, match="row 21: its msp is nan"):
        ood.measure(broken, ABOUT)
    with pytest.raises(DataError, match=r"^b/7: its msp is nan"):
        ood.measure({**broken, "id": [f"b/{i - 14}" for i in range(35)]}, ABOUT)


def test_a_single_image_on_a_side_still_has_an_interval():
    columns = {"in_distribution": [True, False, False], "msp": [0.9, 0.5, 0.95]}
    got = measured(ood.measure(columns, ABOUT))
    assert got["auroc", None].value == 0.5
    for metric in detection.MEASURES:
        interval = got[metric, None].interval
        assert interval.method == "wilson_pairs"
        assert interval.lo < interval.hi


def test_perfect_separation_does_not_shrink_to_a_point():
    columns = {"in_distribution": [True] * 30 + [False] * 20, "msp": [0.9] * 30 + [0.1] * 20}
    got = measured(ood.measure(columns, ABOUT))
    assert got["fpr95_mos", None].value == 0.0
    assert got["fpr95_mos", None].interval.hi > 0.1
    assert got["aupr_in", None].interval.lo < 0.9
