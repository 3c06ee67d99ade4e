"""Risk-coverage curves, SmoothECE, class-wise ECE and conformal sets: equal to the reference libraries."""

from __future__ import annotations

import math

import numpy as np
import pytest

from clipjax.metrics.confidence import conformal, selective, smooth_calibration


@pytest.fixture(scope="module")
def oracles(test_data):
    found = {}
    for name in ("selective", "calibration", "conformal"):
        with np.load(test_data / "statistics_oracles" / f"{name}.npz") as file:
            found |= {(name, key): file[key] for key in file.files}
    return found


CASES = ("untied", "ties2", "constant", "all_right", "all_wrong", "small")


def images(oracles, case):
    return selective.ordered(*(oracles["selective", f"{case}__{part}"] for part in ("conf", "loss")))


@pytest.mark.parametrize("case", CASES)
def test_curves_and_areas_are_those_of_fd_shifts(oracles, case):
    found = selective.curves(images(oracles, case))
    for name, of in (("sel_risk", found.selective), ("gen_risk", found.generalised)):
        np.testing.assert_allclose(of[0], oracles["selective", f"{case}__{name}"][-2::-1], atol=1e-12)
    np.testing.assert_allclose(
        found.coverage[0], oracles["selective", f"{case}__cov_desc"][-2::-1], atol=1e-12
    )
    areas = {
        "aurc": selective.aurc(found),
        "eaurc": selective.excess_aurc(found),
        "augrc": selective.augrc(found),
    }
    for name, [value] in areas.items():
        assert value == pytest.approx(float(oracles["selective", f"{case}__{name}"]), abs=1e-12), name


@pytest.mark.parametrize("case", ["untied", "ties2", "small"])
def test_augrc_is_that_of_auroc(oracles, case):
    accuracy = 1 - oracles["selective", f"{case}__loss"].mean()
    auroc = float(oracles["selective", f"{case}__auroc_f"])
    expected = (1 - auroc) * accuracy * (1 - accuracy) + (1 - accuracy) ** 2 / 2
    assert selective.augrc(selective.curves(images(oracles, case)))[0] == pytest.approx(expected, abs=1e-14)


def test_the_order_of_ties_does_not_matter(oracles):
    conf, loss = (oracles["selective", f"constant__{part}"] for part in ("conf", "loss"))
    values = [
        selective.aurc(selective.curves(selective.ordered(conf, each)))[0]
        for each in (loss, np.sort(loss), np.sort(loss)[::-1])
    ]
    assert values == pytest.approx([0.28] * 3, abs=1e-12)
    wrong = oracles["selective", "constant__wrong_aurc_by_order"]
    assert min(abs(wrong[1:] - 0.28)) > 0.2


def test_the_mean_form_is_another_number(oracles):
    [value] = selective.aurc(selective.curves(images(oracles, "small")))
    assert abs(value - float(oracles["selective", "small__aurc_mean_form"])) > 0.1


def test_torch_uncertainty_agrees_without_ties(oracles):
    own = images(oracles, "untied")
    found = selective.curves(own)
    for c in (0.5, 0.8, 0.9):
        expected = float(oracles["selective", f"untied__tu_riskatcov{c}"])
        assert selective.risk_at_coverage(found, c)[0] == pytest.approx(expected, abs=1e-8)
    for r in (0.05, 0.1, 0.2):
        expected = float(oracles["selective", f"untied__tu_covatrisk{r}"])
        assert selective.coverage_at_risk(found, r)[0] == pytest.approx(expected, abs=1e-7)
    n = len(own.order)
    first = found.selective[0, 0]
    rescaled = (selective.aurc(found)[0] - first / n) / (1 - 1 / n)
    assert rescaled == pytest.approx(float(oracles["selective", "untied__tu_aurc"]), abs=1e-8)


def test_no_coverage_has_so_little_risk(oracles):
    assert selective.coverage_at_risk(selective.curves(images(oracles, "all_wrong")), 0.2).tolist() == [0]
    assert selective.coverage_at_risk(selective.curves(images(oracles, "all_right")), 0.0).tolist() == [1]


def test_weights_count_images_several_times():
    rng = np.random.default_rng(0)
    conf, loss = rng.integers(0, 9, 40) / 9, rng.random(40) < 0.3
    weights = rng.integers(0, 3, (5, 40))
    weights[0, conf > 0.5] = 0  # a resample without the most confident images
    found = selective.curves(selective.ordered(conf, loss), weights)
    for k, counts in enumerate(weights):
        alone = selective.curves(selective.ordered(np.repeat(conf, counts), np.repeat(loss, counts)))
        for of in (selective.aurc, selective.augrc, selective.excess_aurc):
            assert of(found)[k] == pytest.approx(of(alone)[0], abs=1e-12)
        assert selective.risk_at_coverage(found, 0.5)[k] == selective.risk_at_coverage(alone, 0.5)[0]
        assert selective.coverage_at_risk(found, 0.2)[k] == selective.coverage_at_risk(alone, 0.2)[0]


@pytest.mark.parametrize(
    ("conf", "loss", "why"),
    [
        ([], [], "0 confidences"),
        ([0.5, np.nan], [0, 1], "row 1: its confidence"),
        ([1.0], [0, 1], "2 losses"),
    ],
)
def test_unusable_confidences_are_refused(conf, loss, why):
    with pytest.raises(ValueError, match=why):
        selective.ordered(np.array(conf), np.array(loss))


# SmoothECE and class-wise ECE.

TEMPERATURES = ("T0.7", "T1", "T1.3")


def top(oracles, name):
    return oracles["calibration", f"{name}__probs"].max(axis=1), oracles["calibration", "top_right"]


@pytest.mark.parametrize("name", TEMPERATURES)
def test_smooth_ece_is_the_exact_integral(oracles, name):
    for width in (0.02, 0.05, 0.1, 0.2):
        expected = float(oracles["calibration", f"{name}__exact_smece_sigma{width}"])
        assert smooth_calibration.smooth_ece_at(*top(oracles, name), width) == pytest.approx(
            expected, abs=1e-5
        )
    value, width = smooth_calibration.smooth_ece(*top(oracles, name))
    assert value == pytest.approx(width, abs=1e-10)
    assert value == pytest.approx(float(oracles["calibration", f"{name}__exact_smece"]), abs=2e-4)


@pytest.mark.parametrize("name", TEMPERATURES)
def test_smooth_ece_of_relplot(oracles, name):
    """Equal where few confidences are near 1; where .067 of them are, relplot halves those."""
    value, _ = smooth_calibration.smooth_ece(*top(oracles, name))
    difference = abs(value - float(oracles["calibration", f"{name}__relplot_smece"]))
    assert difference < 4e-4 if name != "T1.3" else difference > 6e-4
    assert abs(value - float(oracles["calibration", f"{name}__WRONG_relplot_logit_kernel"])) > 1e-4


def test_smooth_ece_of_a_perfect_model_is_nothing():
    value, width = smooth_calibration.smooth_ece(np.ones(50), np.ones(50, bool))
    assert (value, width) == (0, smooth_calibration.LEAST_WIDTH)
    assert smooth_calibration.smooth_ece(np.ones(50), np.zeros(50, bool))[0] == pytest.approx(1)


@pytest.mark.parametrize("name", TEMPERATURES)
@pytest.mark.parametrize("bins", [10, 15])
def test_classwise_ece(oracles, name, bins):
    probs, labels = oracles["calibration", f"{name}__probs"], oracles["calibration", "labels"]
    halves = [
        smooth_calibration.classwise_gaps(probs[part], labels[part], bins)
        for part in np.split(np.arange(2000), 2)
    ]
    found = smooth_calibration.classwise_ece(halves[0] + halves[1], len(labels))
    np.testing.assert_allclose(
        found, oracles["calibration", f"{name}__classwise_ece{bins}_per_class"], atol=1e-12
    )
    assert found.mean() == pytest.approx(
        float(oracles["calibration", f"{name}__classwise_ece{bins}"]), abs=1e-12
    )
    wrong = float(oracles["calibration", f"{name}__WRONG_classwise_by_predicted_class"])
    assert abs(found.mean() - wrong) > 0.01


# Conformal sets.

FORMS = {"lac": ("lac", False), "aps_det": ("aps", False), "aps_rand": ("aps", True)}
FORMS |= {"raps_det": ("raps", False), "raps_rand": ("raps", True)}


def conformal_sets(oracles, case, form):
    method, random = FORMS[form]
    of = {name: oracles["conformal", f"{case}__{name}"] for name in ("cal_probs", "cal_labels", "test_probs")}
    u = [oracles["conformal", f"{case}__u_{side}"] * random for side in ("cal", "test")]
    own = conformal.scores(of["cal_probs"], u[0], method)[np.arange(len(u[0])), of["cal_labels"]]
    q = conformal.threshold(own, float(oracles["conformal", f"{case}__alpha"]))
    return q, conformal.scores(of["test_probs"], u[1], method) <= q


@pytest.mark.parametrize("case", ["n500", "n19"])
@pytest.mark.parametrize("form", FORMS)
def test_sets_are_those_of_torchcp(oracles, case, form):
    q, sets = conformal_sets(oracles, case, form)
    assert q == pytest.approx(float(oracles["conformal", f"{case}__{form}_q"]), abs=1e-7)
    assert (sets == oracles["conformal", f"{case}__{form}_sets"]).all()


@pytest.mark.parametrize("form", ["lac", "aps_det"])
def test_the_notebooks_take_another_order_statistic(oracles, form):
    _, sets = conformal_sets(oracles, "n500", form)
    assert (sets != oracles["conformal", f"n500__notebook_{form}_sets"]).sum() in (15, 10)


def test_wrong_thresholds_and_mixed_forms_differ(oracles):
    q, _ = conformal_sets(oracles, "n500", "lac")
    for wrong in ("linear", "no_plus_one"):
        assert abs(q - float(oracles["conformal", f"n500__WRONG_lac_q_{wrong}"])) > 1e-4
    _, sets = conformal_sets(oracles, "n500", "aps_rand")
    assert (sets != oracles["conformal", "n500__WRONG_aps_randcal_dettest_sets"]).any()


def test_the_rank_of_the_threshold_is_exact(oracles):
    names = list(oracles["conformal", "rule_columns"])
    for row in oracles["conformal", "rule"]:
        n, alpha, k = (row[names.index(name)] for name in ("n", "alpha", "k"))
        assert conformal.rank_of_threshold(int(n), float(alpha)) == int(k)
    assert conformal.rank_of_threshold(149, 0.18) == 123
    assert math.ceil(150 * (1 - 0.18)) == 124


def test_too_few_calibration_images_give_full_sets():
    assert conformal.threshold(np.zeros(8), 0.1) == math.inf
    assert conformal.threshold(np.arange(9.0), 0.1) == 8
    assert conformal.coverage_of_calibration(8, 0.1)[:2] == (1, 1)
    with pytest.raises(ValueError, match="alpha is 1"):
        conformal.threshold(np.zeros(8), 1)
    with pytest.raises(ValueError, match="give lac, aps or raps"):
        conformal.scores(np.ones((1, 2)) / 2, np.zeros(1), "other")


def test_the_coverage_of_a_calibration_is_beta():
    """Coverages of sets with 99 calibration images, over draws of these."""
    rng = np.random.default_rng(0)
    drawn = [conformal.threshold(rng.random(99), 0.1) for _ in range(4000)]
    limits = conformal.coverage_of_calibration(99, 0.1)
    assert np.mean((limits.lo <= np.array(drawn)) & (drawn <= np.float64(limits.hi))) == pytest.approx(
        0.95, abs=0.012
    )


def test_uniforms_belong_to_images():
    many = conformal.uniforms([f"{k}.png" for k in range(2000)])
    assert conformal.uniforms(["7.png"])[0] == many[7]
    assert (many.min() >= 0, many.max() < 1) == (True, True)
    assert many.mean() == pytest.approx(0.5, abs=0.03)
