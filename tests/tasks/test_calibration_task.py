"""Calibration on planted logits, against NumPy loops and the published oracles; what it refuses."""

from __future__ import annotations

import dataclasses
import itertools

import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.special import log_softmax

from clipjax.data.labels import LabelSpace, Projection
from clipjax.errors import DataError
from clipjax.heads.head import identity_head
from clipjax.metrics.confidence import calibration as kernels
from clipjax.metrics.uncertainty import calibration_error
from clipjax.metrics.uncertainty.bootstrap import generator
from clipjax.metrics.uncertainty.intervals import wilson
from clipjax.results.image_table import images_table
from clipjax.tasks import calibration
from clipjax.tasks.inputs import About, ImageInputs

K = 8
SPACE = LabelSpace("planted", tuple(f"class {k}" for k in range(K)), tuple(f"n{k:04d}" for k in range(K)))
TRUE_T = 2.0


def logits_and_labels(n, seed, temperature=TRUE_T):
    """Labels drawn from softmax(logits / temperature): the model is too confident by that factor."""
    rng = np.random.default_rng(seed)
    logits = (4 * rng.normal(size=(n, K))).astype(np.float32)
    noisy = logits / temperature + rng.gumbel(size=(n, K))
    return logits, noisy.argmax(axis=1).astype(np.int32)


def dataset(name, n, seed, **more) -> ImageInputs:
    logits, labels = logits_and_labels(n, seed)
    ids = [f"{label}/{name}_{i:04d}.png" for i, label in enumerate(labels)]
    return ImageInputs(
        ids=ids,
        features=logits,
        labels=labels,
        head=identity_head(SPACE),
        label_space=SPACE,
        dataset=name,
        resamples=50,
        **more,
    )


@pytest.fixture(scope="module")
def near() -> ImageInputs:
    return dataset("near", 301, 0)


@pytest.fixture(scope="module")
def shifted(near) -> ImageInputs:
    return dataset("shifted", 200, 1, id=near)


@pytest.fixture(scope="module")
def outcome(shifted):
    return calibration.TASK.run(shifted)


def measured(measures) -> dict:
    found = {(m.metric, m.slice): m for m in measures}
    assert len(found) == len(measures)
    return found


def ece_loop(confidence, correct, edges):
    total = 0.0
    for lo, hi in itertools.pairwise(edges):
        inside = (confidence > lo) & (confidence <= hi)
        if inside.any():
            total += inside.mean() * abs(confidence[inside].mean() - correct[inside].mean())
    return total


def of_softmax(logits, labels, temperature):
    log_p = log_softmax(logits.astype(np.float64) / temperature, axis=1)
    onehot = np.eye(logits.shape[1])[labels]
    confidence, correct = np.exp(log_p).max(axis=1), log_p.argmax(axis=1) == labels
    nll, brier = -log_p[np.arange(len(labels)), labels], ((np.exp(log_p) - onehot) ** 2).sum(axis=1)
    return confidence, correct, nll, brier


def test_every_number_against_a_loop(near, shifted, outcome):
    got = measured(outcome.measures)
    fitted, _ = kernels.half_split(near.ids)
    temperature = kernels.fit_temperature(near.features[fitted], near.labels[fitted])
    assert got["temperature", None].value == pytest.approx(temperature, rel=1e-9)
    assert got["temperature", None].n == 151
    for state, t in (("before", 1.0), ("after", temperature)):
        confidence, correct, nll, brier = of_softmax(shifted.features, shifted.labels, t)
        for bins in (15, 25):
            expected = ece_loop(confidence, correct, np.linspace(0, 1, bins + 1))
            assert got[f"ece_{bins}_{state}", None].value == pytest.approx(expected, abs=1e-12)
        mass = ece_loop(confidence, correct, kernels.equal_mass_edges(confidence, 15))
        assert got[f"ece_mass_15_{state}", None].value == pytest.approx(mass, abs=1e-12)
        width = kernels.reliability(confidence, correct, kernels.equal_width_edges(15))
        assert got[f"mce_15_{state}", None].value == pytest.approx(kernels.mce(width), abs=1e-12)
        assert got[f"nll_{state}", None].value == pytest.approx(nll.mean(), rel=1e-9)
        assert got[f"brier_{state}", None].value == pytest.approx(brier.mean(), rel=1e-9)
    assert got["accuracy", None].value == correct.mean()
    assert got["accuracy", None].interval == wilson(int(correct.sum()), 200)


def test_scaling_mends_what_was_planted(outcome):
    got = measured(outcome.measures)
    interval = got["temperature", None].interval
    assert interval.lo < TRUE_T < interval.hi
    assert interval.method == "sandwich_log"
    assert got["ece_15_before", None].value > got["ece_15_after", None].value + 0.05
    assert got["nll_before", None].value > got["nll_after", None].value


def test_every_number_has_an_interval_that_holds_it_or_says_why_not(outcome):
    for each in outcome.measures:
        if each.interval is not None:
            assert each.interval.lo <= each.value <= each.interval.hi, each
            assert each.interval.lo < each.interval.hi
        elif each.metric == "confidence":
            assert "a bin of one image" in each.note
        else:
            assert each.note.startswith(("no interval: ", "not told from calibrated: ")), each
    got = measured(outcome.measures)
    assert got["nll_before", None].interval.method == "bootstrap_50"
    assert got["ece_15_before", None].interval.method == "folded_normal"
    assert got["null_ece_15_before", None].interval.method == "calibrated_50"


def test_ece_beside_what_a_calibrated_model_shows(outcome):
    """Too sure by a factor of two before, mended after."""
    got = measured(outcome.measures)
    for bins in ("15", "25", "mass_15"):
        before, after = (got[f"ece_{bins}_{state}", None] for state in ("before", "after"))
        corrected, band = got[f"ece_corrected_{bins}_before", None], got[f"null_ece_{bins}_before", None]
        assert 0 < band.value < band.interval.hi < before.value
        assert before.interval == corrected.interval
        assert before.interval.lo < corrected.value < before.value
        assert before.note.startswith(f"a calibrated model shows {band.value:.4f} on average, ")
        assert after.interval is None
        assert after.note.startswith("not told from calibrated: a calibrated model shows ")
        assert got[f"ece_corrected_{bins}_after", None].interval is None
        assert after.value <= got[f"null_ece_{bins}_after", None].interval.hi
    assert got["mce_15_before", None].interval is None
    assert got["mce_15_after", None].note.startswith("not told from calibrated: ")
    assert got["null_mce_15_after", None].value < got["null_mce_15_after", None].interval.hi


def test_the_null_band_against_a_loop(shifted, outcome):
    confidence = outcome.images["confidence_before"]
    draw, drawn = generator("shifted: calibrated", 0), []
    for chance in draw.random((50, 200)):
        bins = kernels.reliability(confidence, chance < confidence, kernels.equal_width_edges(15))
        drawn.append((kernels.ece(bins), kernels.mce(bins)))
    ece, mce = np.array(drawn).T
    got = measured(outcome.measures)
    for name, values in (("null_ece_15_before", ece), ("null_mce_15_before", mce)):
        assert got[name, None].value == pytest.approx(values.mean(), abs=1e-12)
        assert got[name, None].interval.hi == pytest.approx(np.quantile(values, 0.95), abs=1e-12)
        assert got[name, None].interval.lo == 0


def test_the_diagram_is_the_kernels(shifted, outcome):
    confidence, correct, *_ = of_softmax(shifted.features, shifted.labels, 1.0)
    table = kernels.diagram(kernels.reliability(confidence, correct, kernels.equal_width_edges(15)))
    got = measured(outcome.measures)
    bins = np.rint(table["hi"] * 15).astype(int)
    rows = {key[1] for key in got if key[1] and key[1].startswith("reliability/before/")}
    assert rows == {f"reliability/before/bin:{k}/15" for k in bins}
    for i, k in enumerate(bins):
        part = f"reliability/before/bin:{k}/15"
        assert got["confidence", part].value == pytest.approx(table["confidence"][i], abs=1e-12)
        assert got["accuracy", part].value == table["accuracy"][i]
        assert got["accuracy", part].interval.lo == pytest.approx(table["accuracy_lo"][i])
        assert got["confidence", part].n == got["accuracy", part].n == table["n"][i]


def test_the_published_wave():
    """Its 400 rows: T, NLL and ECE before and after. Each row is twice in the ID set, once in each half."""
    i, j = np.arange(400)[:, None], np.arange(10)
    logits = 3 * np.sin(1.7 * i + 2.3 * j + 0.11 * i * j)
    rows = np.arange(400)
    labels = np.where(rows % 5 == 0, (7 * rows) % 10, logits.argmax(axis=1)).astype(np.int32)
    space = LabelSpace("wave", tuple("abcdefghij"), tuple("abcdefghij"))
    part = ImageInputs(
        ids=[f"{k:03d}" for k in rows],
        features=logits.astype(np.float32),
        labels=labels,
        head=identity_head(space),
        label_space=space,
        dataset="w",
    )
    fitted, tested = kernels.half_split([f"{k:03d}" for k in range(800)])
    twice = np.empty(800, int)
    twice[fitted], twice[tested] = rows, rows
    names = [f"{k:03d}" for k in range(800)]
    known = dataclasses.replace(
        part, ids=names, features=part.features[twice], labels=labels[twice], dataset="id"
    )
    got = measured(calibration.TASK.run(dataclasses.replace(part, id=known, resamples=5)).measures)
    assert got["accuracy", None].value == 0.825
    assert got["temperature", None].value == pytest.approx(1.0857390, abs=1e-5)
    assert got["nll_before", None].value == pytest.approx(1.5862368, abs=1e-6)
    assert got["nll_after", None].value == pytest.approx(1.5840652, abs=1e-6)
    assert got["ece_15_before", None].value == pytest.approx(0.4617783, abs=1e-6)
    assert got["ece_15_after", None].value == pytest.approx(0.4767648, abs=1e-6)


def test_of_the_id_set_itself_only_the_test_half_is_reported(near):
    outcome = calibration.TASK.run(dataclasses.replace(near, id=near))
    _, tested = kernels.half_split(near.ids)
    assert outcome.images["id"] == [near.ids[row] for row in np.sort(tested)]
    got = measured(outcome.measures)
    assert got["accuracy", None].n == len(tested) == 150
    expected = of_softmax(near.features[tested], near.labels[tested], 1.0)[2].mean()
    assert got["nll_before", None].value == pytest.approx(expected, rel=1e-9)


def test_the_same_numbers_from_a_stored_table(near, outcome, tmp_path):
    for run in (outcome, calibration.TASK.run(dataclasses.replace(near, id=near))):
        pq.write_table(images_table({"id": ["x"] * len(run.images["label"]), **run.images}), tmp_path / "i")
        stored = pq.read_table(tmp_path / "i").to_pydict()
        about = About("shifted" if run is outcome else "near", SPACE, resamples=50)
        assert calibration.measure(stored, about) == run.measures


def test_blocks_do_not_change_anything(shifted, outcome, monkeypatch):
    monkeypatch.setattr("clipjax.heads.head.SCORE_BLOCK", K * 7)
    blocks = calibration.TASK.run(shifted)
    assert blocks.measures == outcome.measures


def test_runs_are_compared_on_resamples_of_the_images(outcome):
    got, about = measured(outcome.measures), About("shifted", SPACE, resamples=5)
    pairs = calibration.paired(outcome.images, about)
    assert (pairs.right["accuracy"] == outcome.images["correct"]).all()
    assert pairs.resampled is not None
    for name, value in pairs.resampled(np.ones((1, 200), np.int32)).items():
        assert value[0] == pytest.approx(got[name, None].value)
    weights = np.random.default_rng(0).poisson(1.0, (1, 200))
    rows = np.repeat(np.arange(200), weights[0])
    again = {name: np.asarray(values)[rows] for name, values in outcome.images.items()}
    expected, drawn = measured(calibration.measure(again, about)), pairs.resampled(weights)
    assert set(drawn) == {f"{name}_{state}" for name in ("nll", "brier") for state in calibration.STATES}
    for name, values in drawn.items():
        assert values[0] == pytest.approx(expected[name, None].value)


def test_of_ece_the_corrected_value_is_compared(outcome):
    got, pairs = measured(outcome.measures), calibration.paired(outcome.images, About("shifted", SPACE))
    assert set(pairs.binned) == {key[0] for key in got if key[0].startswith("ece_corrected_")}
    for name, each in pairs.binned.items():
        assert calibration_error.corrected(each.gaps) == got[name, None].value
    plain = {key[0] for key in got if key[0].startswith(("ece_", "mce_"))} - set(pairs.binned)
    assert set(pairs.untested) == plain


# Label spaces.


def test_subsets_have_the_softmax_of_their_own_logits(near):
    """Of the classes in the data set, while T comes from all the head's."""
    few = LabelSpace("few", SPACE.classes[2:5], SPACE.ids[2:5])
    chosen = Projection("planted", "few", "select", ((2,), (3,), (4,)))
    logits, _ = logits_and_labels(60, 2)
    labels = np.arange(60, dtype=np.int32) % 3
    part = ImageInputs(
        ids=[str(i) for i in range(60)],
        features=logits,
        labels=labels,
        head=near.head,
        label_space=few,
        projection=chosen,
        columns={},
        dataset="few",
        id=near,
        resamples=9,
    )
    got = calibration.TASK.run(part)
    expected = of_softmax(logits[:, 2:5], labels, 1.0)
    np.testing.assert_allclose(got.images["confidence_before"], expected[0], rtol=1e-12)
    np.testing.assert_allclose(got.images["nll_before"], expected[2], rtol=1e-12)
    whole = measured(calibration.TASK.run(dataclasses.replace(near, id=near)).measures)
    assert measured(got.measures)["temperature", None].value == whole["temperature", None].value


def test_the_largest_logit_of_a_group_stays_a_logit(near):
    pairs = LabelSpace("pairs", ("x", "y"), ("x", "y"))
    groups = Projection("planted", "pairs", "max", ((0, 1, 5), (2, 3)))
    logits, _ = logits_and_labels(40, 3)
    labels = np.arange(40, dtype=np.int32) % 2
    part = ImageInputs(
        ids=[str(i) for i in range(40)],
        features=logits,
        labels=labels,
        head=near.head,
        label_space=pairs,
        projection=groups,
        columns={},
        dataset="pairs",
        id=near,
        resamples=9,
    )
    grouped = np.stack([logits[:, [0, 1, 5]].max(axis=1), logits[:, [2, 3]].max(axis=1)], axis=1)
    got = calibration.describe(part)
    np.testing.assert_allclose(got["nll_before"], of_softmax(grouped, labels, 1.0)[2], rtol=1e-12)
    np.testing.assert_allclose(
        got["brier_after"], of_softmax(grouped, labels, got["temperature"][0])[3], rtol=1e-12
    )


def test_averages_of_probabilities_are_not_applicable(near):
    pairs = LabelSpace("pairs", ("x", "y"), ("x", "y"))
    groups = Projection("planted", "pairs", "mean_prob", ((0, 1), (2, 3)))
    labels = np.zeros(4, np.int32)
    part = ImageInputs(
        ids=list("abcd"),
        features=near.features[:4],
        labels=labels,
        head=near.head,
        label_space=pairs,
        projection=groups,
        columns={},
        dataset="pairs",
        id=near,
        resamples=9,
    )
    (only,) = calibration.TASK.run(part).measures
    assert (only.metric, only.value, only.n) == ("ece_15_before", None, 4)
    assert "not applicable: averages of probabilities" in (only.note or "")


def test_several_labels(shifted):
    """Right with any of them; NLL of the first."""
    one = calibration.describe(shifted)
    second = [[label, (label + 1) % K] for label in shifted.labels]
    two = calibration.describe(dataclasses.replace(shifted, columns={"accepted": second}))
    expected = (one["prediction"] == shifted.labels) | (one["prediction"] == (shifted.labels + 1) % K)
    assert (two["correct"] == expected).all()
    assert two["correct"].sum() > one["correct"].sum()
    assert (two["nll_before"] == one["nll_before"]).all()


# What cannot be fitted or measured.


@pytest.mark.parametrize(
    ("choose", "why"), [(np.argmax, "falls all the way to T = 0"), (np.argmin, "never rises as T grows")]
)
def test_a_fit_without_an_optimum_is_a_note(near, shifted, choose, why):
    hopeless = dataclasses.replace(near, labels=choose(near.features, axis=1).astype(np.int32))
    got = measured(calibration.TASK.run(dataclasses.replace(shifted, id=hopeless)).measures)
    assert got["temperature", None].value is None
    assert why in got["temperature", None].note
    assert why in got["ece_15_after", None].note
    assert got["ece_15_before", None].value > 0
    assert ("nll_after", None) not in got


def test_without_an_id_set_there_is_no_temperature(shifted):
    got = measured(calibration.TASK.run(dataclasses.replace(shifted, id=None)).measures)
    assert "no in-distribution images" in got["temperature", None].note
    assert got["nll_before", None].value > 0


def test_many_data_sets_share_one_fit(near, shifted, monkeypatch):
    """And another fit is made for anything that T depends on."""
    fits, fit = [], kernels.fit_temperature
    monkeypatch.setattr(calibration, "_FITS", {})
    monkeypatch.setattr(kernels, "fit_temperature", lambda *given: fits.append(fit(*given)) or fits[-1])
    first = calibration.describe(shifted)
    same = dataclasses.replace(near, features=near.features.copy(), dataset="again")
    again = calibration.describe(dataclasses.replace(shifted, id=same))
    assert len(fits) == 1
    assert first["temperature"][0] == again["temperature"][0] == fits[0]
    moved = near.features.copy()
    moved[:, 0] += 0.5
    other = [
        dataclasses.replace(near, head=dataclasses.replace(near.head, scale=2.0)),
        dataclasses.replace(near, head=dataclasses.replace(near.head, bias=jnp.ones(K))),
        dataclasses.replace(near, features=moved),
        dataclasses.replace(near, labels=np.where(np.arange(301) % 9, near.labels, (near.labels + 1) % K)),
        dataclasses.replace(
            near, projection=Projection("planted", "planted", "max", tuple((k,) for k in range(K)))
        ),
    ]
    for count, known in enumerate(other, 2):
        calibration.describe(dataclasses.replace(shifted, id=known))
        assert len(fits) == count


def marked(near, column):
    return dataclasses.replace(near, columns={"calibration": column})


@pytest.mark.parametrize("words", [("0", "1"), ("false", "True"), (0, 1), (False, True), np.array([0, 1])])
def test_a_column_may_say_which_images_calibrate(near, words):
    """Texts are what a CSV file gives."""
    third = np.arange(301) % 3 == 0
    got = calibration.describe(
        dataclasses.replace(known := marked(near, [words[int(m)] for m in third]), id=known)
    )
    assert list(got["id"]) == [name for name, mark in zip(near.ids, third) if not mark]
    assert got["calibration_images"][0] == 101
    temperature = kernels.fit_temperature(near.features[third], near.labels[third])
    assert got["temperature"][0] == pytest.approx(temperature, rel=1e-9)


@pytest.mark.parametrize("word", ["yes", "", "2", 2, 1.0, None])
def test_marks_that_cannot_be_read_name_the_image(near, shifted, word):
    column = [word if i == 5 else "1" for i in range(301)]
    with pytest.raises(DataError, match=rf"{near.ids[5]}: its `calibration` is '{word}'; write 1"):
        calibration.describe(dataclasses.replace(shifted, id=marked(near, column)))


@pytest.mark.parametrize(("word", "message"), [("1", "all images are"), ("0", "no image is")])
def test_neither_part_may_be_empty(near, word, message):
    known = marked(near, [word] * 301)
    with pytest.raises(DataError, match=f"near: {message} marked for calibration; mark some"):
        calibration.describe(dataclasses.replace(known, id=known))


def test_refusals(near, shifted):
    def run(part=shifted, known=near):
        calibration.TASK.run(dataclasses.replace(part, id=known))

    with pytest.raises(DataError, match="near has no labels: the task calibration needs them"):
        run(known=dataclasses.replace(near, labels=None))
    with pytest.raises(DataError, match="shifted has no labels"):
        run(dataclasses.replace(shifted, labels=None))
    one = {"ids": near.ids[:1], "features": near.features[:1], "labels": near.labels[:1]}
    with pytest.raises(DataError, match="near cannot be split for calibration: there are 1 images"):
        run(known=dataclasses.replace(near, **one))
    with pytest.raises(DataError, match="near cannot be split for calibration: there are 0 images"):
        run(known=dataclasses.replace(near, ids=[], features=near.features[:0], labels=near.labels[:0]))
    with pytest.raises(DataError, match="shifted holds no images"):
        run(dataclasses.replace(shifted, ids=[], features=near.features[:0], labels=near.labels[:0]))
    with pytest.raises(DataError, match=r"two images are called '0/x\.png'"):
        run(known=dataclasses.replace(near, ids=["0/x.png"] * 2 + list(near.ids[2:])))
    with pytest.raises(DataError, match="two different sets of images are called near"):
        run(dataclasses.replace(shifted, dataset="near"))
    with pytest.raises(DataError, match=r"label 99 is outside the 8 classes"):
        run(dataclasses.replace(shifted, labels=np.full(200, 99, np.int32)))
    broken = near.features.copy()
    broken[7, 2] = np.inf
    with pytest.raises(DataError, match=f"{near.ids[7]}: its logits hold NaN or infinity"):
        run(dataclasses.replace(near, features=broken), dataclasses.replace(near, features=broken))


def test_columns_that_are_no_numbers_name_the_image(outcome):
    columns = {**outcome.images, "nll_after": np.where(np.arange(200) == 4, np.nan, 1.0)}
    with pytest.raises(DataError, match="row 4: its nll_after is nan"):
        calibration.measure(columns, About("shifted", SPACE, resamples=5))


def test_a_single_image_has_numbers_and_no_bootstrap(near, shifted):
    one = dataclasses.replace(
        shifted, ids=shifted.ids[:1], features=shifted.features[:1], labels=shifted.labels[:1]
    )
    got = measured(calibration.TASK.run(one).measures)
    assert got["nll_before", None].value > 0
    assert got["nll_before", None].interval is None
    assert "no resample" in got["nll_before", None].note
