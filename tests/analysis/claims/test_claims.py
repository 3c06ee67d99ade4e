"""Claims: the rule of intervals, and every statistic on studies where the truth is known."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats as typed_stats
from _claims import HEAD, book, claim, group_rows, rows_of

from clipjax.analysis.claims.claims import FAILS, HOLDS, UNKNOWN, Finding, check, conjoin, decide
from clipjax.analysis.claims.ledger import STATISTICS, Ledger
from clipjax.errors import UsageError

stats: Any = typed_stats  # its stubs do not know all that scipy has
N = 14
X = np.linspace(0.3, 0.8, N)
NOISE = np.random.default_rng(7).normal(size=(4, N))
# Neither a mean nor a slope over X: what a study says is its effect.
NOISE -= np.array([np.polyval(np.polyfit(X, each, 1), X) for each in NOISE])


def limits(found: Finding) -> tuple[float, float]:
    assert found.lo is not None
    assert found.hi is not None
    return found.lo, found.hi


def one(ledger: Ledger, rows: list[Any], **settings: object) -> Finding:
    [verdict] = check(ledger, rows, **{"resamples": 300, **settings})  # type: ignore[arg-type]
    [finding] = verdict.findings
    assert verdict.word == finding.word
    return finding


# -------------------------------------------------------------------- studies: an effect, and how noisy it is


def above_the_trend(effect: float, noise: float) -> list[Any]:
    others = group_rows("others", {"x": X, "y": 0.5 * X + 0.002 * NOISE[0]})
    return others + group_rows("ours", {"x": X, "y": 0.5 * X + effect + noise * NOISE[1]})


def steeper(effect: float, noise: float) -> list[Any]:
    others = group_rows("others", {"x": X, "y": 0.5 * X + 0.002 * NOISE[0]})
    return others + group_rows("ours", {"x": X, "y": 0.1 + (0.5 + 4 * effect) * (X - 0.5) + noise * NOISE[1]})


def ever_steeper(effect: float, noise: float) -> list[Any]:
    at_1 = {"x": X, "y1": 0.5 * X}
    others = group_rows("others", {**at_1, "y": 0.4 * X + 0.002 * NOISE[0]})
    more = (0.4 + 4 * effect) * X + noise * NOISE[1]
    return others + group_rows("ours", {**at_1, "y": more + 0.2})


def correlated(effect: float, noise: float) -> list[Any]:
    return group_rows(
        "ours", {"x": X, "y": 0.5 + effect * (X - 0.5) + 0.1 * noise * NOISE[1] + 0.002 * NOISE[2]}
    )


def more_correlated(effect: float, noise: float) -> list[Any]:
    """The others' correlation is about 0; ours is about 1, -1 or 0."""
    return group_rows("others", {"x": X, "y": 0.5 + 0.05 * NOISE[3]}) + correlated(effect, noise)


def larger(effect: float, noise: float) -> list[Any]:
    others = group_rows("others", {"y": 0.5 + 0.02 * NOISE[0]})
    return others + group_rows("ours", {"y": 0.5 + effect + (0.02 + noise) * NOISE[1]})


def changed(effect: float, noise: float) -> list[Any]:
    """Each of ours was made from one of the others."""
    rows = group_rows("others", {"y": X})
    for k, value in enumerate(X + effect + (0.01 + noise) * NOISE[1]):
        rows += rows_of(f"ours_{k}", {"y": value}, {"group": "ours", "parent": f"others_{k}"})
    return rows


AGAINST = 'x = "x", y = "y", group = "ours", against = "others"'
PAIRS = 'y = "y", group = "ours", pairs = "parent"'
LINEAR = ', scale = "linear"'
STUDIES: dict[str, tuple[str, Callable[[float, float], list[Any]]]] = {
    "effective_robustness": (AGAINST + LINEAR, above_the_trend),
    "trend_offset": (AGAINST + LINEAR, above_the_trend),
    "slope_difference": (AGAINST + LINEAR, steeper),
    "slope_growth": (AGAINST + ', than = "y1"' + LINEAR, ever_steeper),
    "correlation": ('x = "x", y = "y", group = "ours"', correlated),
    "correlation_difference": (AGAINST, more_correlated),
    "group_difference": ('y = "y", group = "ours", against = "others"', larger),
    "paired_shift": (PAIRS, changed),
    "paired_mean": (PAIRS, changed),
}


def test_every_statistic_has_a_study() -> None:
    assert STUDIES.keys() == STATISTICS.keys()


@pytest.mark.parametrize("statistic", STUDIES)
def test_holds_does_not_hold_cannot_be_told(statistic: str, tmp_path: Path) -> None:
    """The same statement, of data with the effect, with its sign flipped, and with noise for an effect."""
    keys, study = STUDIES[statistic]
    above, below = (
        book(tmp_path, claim(f'statistic = "{statistic}", {keys}, side = "{side}"'))
        for side in ("above", "below")
    )
    found = one(above, study(0.05, 0.002))
    flipped, noisy = one(above, study(-0.05, 0.002)), one(above, study(0.0, 0.15))
    assert (found.word, flipped.word, noisy.word) == (HOLDS, FAILS, UNKNOWN)
    assert found.value is not None
    assert flipped.value is not None
    assert found.value > 0 > flipped.value
    lo, hi = limits(noisy)
    assert lo < 0 < hi
    assert one(below, study(0.05, 0.002)).word == FAILS
    assert one(below, study(-0.05, 0.002)).word == HOLDS
    expected = N if "against" not in keys else 2 * N
    assert sum(found.n) == expected
    used = {(row["model"], row["dataset"]) for row in found.rows}
    assert {model.partition("_")[0] for model, _ in used} == (
        {"ours"} if keys.startswith("x") and expected == N else {"ours", "others"}
    )


@pytest.mark.parametrize("statistic", STUDIES)
def test_rows_that_are_not_there_are_named(statistic: str, tmp_path: Path) -> None:
    keys, study = STUDIES[statistic]
    ledger = book(tmp_path, claim(f'statistic = "{statistic}", {keys}, side = "above"'))
    rows = [
        row | {"dataset": "elsewhere"} if row["dataset"] == "imagenet_a" and "ours" in row["model"] else row
        for row in study(0.05, 0.002)
    ]
    found = one(ledger, rows)
    assert (found.word, found.value, found.rows) == (UNKNOWN, None, ())
    assert found.why is not None
    assert "missing: zeroshot imagenet_a top1" in found.why
    assert found.why.startswith("0 of 14 ")
    nothing = one(ledger, rows_of("stranger", {"x": 0.5}, {"group": "no group"}))
    assert nothing.why in ("no model of ours", "no pairs of ours by parent")


# ------------------------------------------------------------------------------------ numbers against scipy's


def of(values: np.ndarray, group: str = "ours") -> list[Any]:
    return group_rows(group, {"y": values})


@pytest.mark.parametrize("level", [0.9, 0.95, 0.999])
def test_a_difference_of_groups_is_welchs(level: float, tmp_path: Path) -> None:
    ours, others = 0.5 + 0.1 * NOISE[0], 0.45 + 0.03 * NOISE[1][:6]
    keys = STUDIES["group_difference"][0]
    ledger = book(tmp_path, claim(f'statistic = "group_difference", {keys}, side = "above"'))
    found = one(ledger, of(ours) + of(others, "others"), level=level)
    expected = stats.ttest_ind(ours, others, equal_var=False)
    np.testing.assert_allclose(limits(found), expected.confidence_interval(level), rtol=1e-12)
    assert (found.method, found.n) == ("welch_t", (14, 6))


@pytest.mark.parametrize("level", [0.9, 0.95, 0.999])
def test_a_mean_of_pairs_is_students(level: float, tmp_path: Path) -> None:
    found = one(
        book(tmp_path, claim(f'statistic = "paired_mean", {PAIRS}, side = "above"')),
        changed(0.02, 0.03),
        level=level,
    )
    expected = stats.ttest_1samp(0.02 + 0.04 * NOISE[1], 0.0).confidence_interval(level)
    np.testing.assert_allclose(limits(found), expected, rtol=1e-12)


@pytest.mark.parametrize("count", [6, 14])
def test_a_shift_of_pairs_is_what_wilcoxons_test_does_not_reject(count: int, tmp_path: Path) -> None:
    differences = 0.02 + 0.04 * NOISE[1][:count]
    rows = [row for row in changed(0.02, 0.03) if int(row["model"].split("_")[1]) < count]
    found = one(book(tmp_path, claim(f'statistic = "paired_shift", {PAIRS}, side = "above"')), rows)
    lo, hi = limits(found)
    means = [(a + b) / 2 for a, b in itertools.combinations_with_replacement(differences, 2)]
    assert found.value == pytest.approx(float(np.median(means)), abs=1e-12)
    for limit, outwards in ((lo, -1e-9), (hi, 1e-9)):
        outside, inside = (
            stats.wilcoxon(differences - limit - step, mode="exact").pvalue for step in (outwards, -outwards)
        )
        assert outside <= 0.05 < inside


def test_a_correlation_is_spearmans(tmp_path: Path) -> None:
    found = one(
        book(tmp_path, claim('statistic = "correlation", x = "x", y = "y", group = "ours", side = "above"')),
        correlated(0.05, 0.1),
    )
    y = [row["value"] for row in found.rows if row["dataset"] == "imagenet_a"]
    x = [row["value"] for row in found.rows if row["dataset"] == "imagenet_val"]
    assert found.value == pytest.approx(float(stats.spearmanr(x, y).statistic), abs=1e-12)


def test_too_few_pairs_for_ranks_have_no_interval(tmp_path: Path) -> None:
    """Of five pairs no test of ranks rejects at 95 %; the mean of pairs can tell."""
    rows = [row for row in changed(0.3, 0.0) if int(row["model"].split("_")[1]) < 5]
    shift = one(book(tmp_path, claim(f'statistic = "paired_shift", {PAIRS}, side = "above"')), rows)
    mean = one(book(tmp_path, claim(f'statistic = "paired_mean", {PAIRS}, side = "above"')), rows)
    assert (shift.word, shift.lo, mean.word) == (UNKNOWN, -math.inf, HOLDS)
    assert shift.why is not None
    assert shift.why.startswith("no interval")


# --------------------------------------------------------------------------------------------------- the rule


@pytest.mark.parametrize(
    ("side", "at", "holds", "fails", "untold"),
    [
        ("above", 0.0, (0.1, 0.2), (-0.2, -0.1), (-0.1, 0.1)),
        ("above", 0.5, (0.6, 0.7), (0.1, 0.2), (0.4, 0.6)),
        ("below", 0.0, (-0.2, -0.1), (0.1, 0.2), (-0.1, 0.1)),
        ("not_above", 0.0, (-0.2, 0.04), (0.06, 0.2), (0.04, 0.06)),
        ("not_below", 0.0, (-0.04, 0.2), (-0.2, -0.06), (-0.06, 0.2)),
        ("within", 0.0, (-0.04, 0.04), (0.06, 0.2), (-0.04, 0.06)),
        ("within", 0.5, (0.46, 0.54), (0.0, 0.4), (0.4, 0.54)),
        ("apart", 0.0, (-0.2, -0.06), (-0.04, 0.04), (0.04, 0.06)),
    ],
)
def test_sides(
    side: str,
    at: float,
    holds: tuple[float, float],
    fails: tuple[float, float],
    untold: tuple[float, float],
    tmp_path: Path,
) -> None:
    bound = f'side = "{side}", at = {at}, margin = 0.05'
    text = claim(f'statistic = "correlation", x = "x", y = "y", group = "ours", {bound}')
    [part] = book(tmp_path, text).claims[0].parts
    assert [decide(*limits, part) for limits in (holds, fails, untold)] == [HOLDS, FAILS, UNKNOWN]
    assert decide(-math.inf, math.inf, part) == UNKNOWN
    if side in ("above", "below"):  # an interval that only touches the bound is not beyond it
        assert decide(at, at, replace(part, side=side)) == UNKNOWN


def test_a_claim_needs_so_many_of_its_parts() -> None:
    assert conjoin(2, [HOLDS, HOLDS]) == HOLDS
    assert conjoin(2, [HOLDS, UNKNOWN]) == UNKNOWN
    assert conjoin(2, [HOLDS, FAILS]) == FAILS
    assert conjoin(1, [UNKNOWN, FAILS]) == UNKNOWN
    assert conjoin(3, [HOLDS, HOLDS, HOLDS, FAILS, UNKNOWN]) == HOLDS
    assert conjoin(3, [HOLDS, HOLDS, FAILS, FAILS, UNKNOWN]) == UNKNOWN
    assert conjoin(3, [HOLDS, HOLDS, FAILS, FAILS, FAILS]) == FAILS


# --------------------------------------------------------------------------------------------- many questions


def test_holms_correction_asks_at_the_level_of_what_is_left(tmp_path: Path) -> None:
    """Parts of p = 0.0001, 0.02, 0.04: alone all are decided; at 97 % together the first, then no other."""
    keys = 'statistic = "paired_mean", group = "ours", pairs = "parent", side = "above", y = '
    ledger = book(tmp_path, claim(f'{keys}["x", "y", "y1"]'))
    rows: list[Any] = []
    shape = (NOISE[1] - NOISE[1].mean()) / NOISE[1].std(ddof=1)
    centres = [stats.t.isf(p / 2, N - 1) / math.sqrt(N) for p in (0.0001, 0.02, 0.04)]
    for k in range(N):
        numbers = {c: 0.5 + 0.05 * (shape[k] + centre) for c, centre in zip(("x", "y", "y1"), centres)}
        rows += rows_of(f"others_{k}", dict.fromkeys(numbers, 0.5), {"group": "others"})
        rows += rows_of(f"ours_{k}", numbers, {"group": "ours", "parent": f"others_{k}"})
    [alone], [together] = check(ledger, rows), check(ledger, rows, correct="holm")
    assert [each.word for each in alone.findings] == [HOLDS] * 3
    assert [each.word for each in together.findings] == [HOLDS, HOLDS, HOLDS]
    [strict] = check(ledger, rows, correct="holm", level=0.97)
    assert [each.word for each in strict.findings] == [HOLDS, UNKNOWN, UNKNOWN]
    assert [each.level for each in strict.findings] == pytest.approx([1 - 0.03 / 2] * 3)


def test_parts_that_cannot_be_asked_are_no_questions(tmp_path: Path) -> None:
    keys = 'statistic = "paired_mean", group = "ours", pairs = "parent", side = "above", y = '
    ledger = book(tmp_path, claim(f'{keys}["x", "y", "y1"]'))
    [verdict] = check(ledger, changed(0.05, 0.0), correct="holm")
    assert [each.word for each in verdict.findings] == [UNKNOWN, HOLDS, UNKNOWN]
    assert verdict.findings[1].level == pytest.approx(0.95)


# -------------------------------------------------------------------------------------- which rows and models


def test_a_model_is_not_held_against_itself(tmp_path: Path) -> None:
    head = HEAD + 'all = { group = ["ours", "others"] }'
    text = claim('statistic = "group_difference", y = "y", group = "ours", against = "all", side = "above"')
    assert one(book(tmp_path, text, head), larger(0.05, 0.0)).n == (N, N)


def test_rows_of_a_convention(tmp_path: Path) -> None:
    """Each model with one prompt set and with another; names of prompt sets may have a pattern."""
    text = claim(
        'statistic = "paired_mean", y = "y", group = "ours", pairs = "model", side = "below", '
        'rows = { prompts = ["one", "single*"] }, against_rows = { prompts = "many" }'
    )
    rows = []
    for k, value in enumerate(X):
        rows += rows_of(f"m_{k}", {"y": value}, {"group": "ours"}, convention={"prompts": "many"})
        less = {"y": value - 0.03 + 0.002 * NOISE[0][k]}
        rows += rows_of(f"m_{k}", less, {"group": "ours"}, convention={"prompts": "single_no_period"})
    ledger = book(tmp_path, text)
    found = one(ledger, rows)
    assert found.word == HOLDS
    assert found.value == pytest.approx(-0.03 + 0.002 * NOISE[0].mean())
    assert len(found.rows) == 2 * N
    again = [row for row in rows if row["convention"]["prompts"] != "many"]
    more = [row | {"convention": {"prompts": "one"}} for row in again]
    why = one(ledger, [*rows, *more]).why
    assert why is not None
    assert "with the prompts one, single_no_period" in why


def test_two_numbers_of_one_model(tmp_path: Path) -> None:
    """As before and after a temperature: y less what `than` says."""
    text = 'statistic = "paired_mean", y = "y", than = "y1", group = "ours", pairs = "model", side = "below"'
    after = X - 0.03 + 0.002 * NOISE[0]
    found = one(book(tmp_path, claim(text)), group_rows("ours", {"y": after, "y1": X}))
    assert (found.word, found.n) == (HOLDS, (N,))
    assert found.value == pytest.approx(-0.03)


def test_pairs_of_image_sizes_and_pairs_by_name(tmp_path: Path) -> None:
    rows = []
    for k in range(8):
        for size in (224, 384):
            facts = {"group": "ours", "resolution_pair": f"pair_{k}", "image_size": size}
            rows += rows_of(
                f"m_{k}_{size}", {"y": X[k] - 0.03 * (size == 384) + 0.001 * k * (size == 224)}, facts
            )
    rows += rows_of("alone", {"y": 0.9}, {"group": "ours", "resolution_pair": "none", "image_size": 224})
    pairs = 'statistic = "paired_shift", y = "y", group = "ours", pairs = "resolution_pair", side = "below"'
    found = one(book(tmp_path, claim(pairs)), rows)
    assert (found.word, found.n) == (HOLDS, (8,))
    mine = [["m_0_224", "m_0_384"], ["m_1_224", "m_1_384"], ["gone", "m_2_384"]]
    head = f"{HEAD}[pairs]\nmine = {mine}"
    named = one(
        book(tmp_path, claim('statistic = "paired_mean", y = "y", pairs = "mine", side = "below"'), head),
        rows,
    )
    assert (named.word, named.n) == (HOLDS, (2,))


def test_a_claim_without_a_task_says_so(tmp_path: Path) -> None:
    ledger = book(
        tmp_path, claim(f'statistic = "paired_mean", {PAIRS}, side = "above"', no_task="asking models")
    )
    [verdict] = check(ledger, rows_of("m", {"x": 0.5}, {}))
    assert (verdict.word, verdict.findings[0].why) == (UNKNOWN, "no task yet: asking models")
    [verdict] = check(
        ledger, changed(0.05, 0.0)
    )  # with rows that another tool made it is checked like any other
    assert verdict.word == HOLDS


def test_a_value_that_has_no_place_on_the_scale_is_said(tmp_path: Path) -> None:
    text = claim(f'statistic = "effective_robustness", {AGAINST}, side = "above"')
    rows = above_the_trend(0.05, 0.0)
    percent = [row | {"value": 100 * row["value"]} for row in rows]
    why = one(book(tmp_path, text), percent).why
    assert why is not None
    assert "probit" in why


def test_the_same_rows_give_the_same_intervals(tmp_path: Path) -> None:
    ledger = book(tmp_path, claim(f'statistic = "trend_offset", {AGAINST}, side = "above"'))
    rows = above_the_trend(0.05, 0.01)
    first, second = one(ledger, rows), one(ledger, rows[::-1])
    assert (first.value, first.lo, first.hi) == (second.value, second.lo, second.hi)


def test_wrong_settings(tmp_path: Path) -> None:
    ledger = book(tmp_path, claim(f'statistic = "paired_mean", {PAIRS}, side = "above"'))
    with pytest.raises(UsageError, match="unknown correction 'bonferoni'; known: none, holm"):
        check(ledger, [], correct="bonferoni")
    with pytest.raises(UsageError, match="the level is 95, not between 0 and 1"):
        check(ledger, [], level=95)
    with pytest.raises(UsageError, match=r"unknown claim 'on'.*one"):
        check(ledger, [], claims=["on"])


def test_a_number_in_a_wrong_unit_is_named_with_its_model(tmp_path):
    """One model in per cent leaves the part without a statistic, and says whose number it is."""
    rows = [
        each
        for k in range(12)
        for each in rows_of(
            f"m{k}", {"x": 0.5 + k / 50, "y": 0.3 + k / 50}, {"group": "ours" if k < 6 else "others"}
        )
    ]
    rows[3]["value"] = 100 * rows[3]["value"]
    part = 'statistic = "trend_offset", x = "x", y = "y", group = "ours", against = "others", side = "above"'
    [verdict] = check(book(tmp_path, claim(part)), rows)
    assert verdict.findings[0].value is None
    assert (verdict.findings[0].why or "").startswith("m1: 32 has no place on a probit scale")


def test_what_nobody_measured_is_absent(tmp_path: Path) -> None:
    """Too few models with the rows are not: of those, something was measured."""
    text = claim(
        'statistic = "group_difference", y = "y", group = "ours", against = "others", side = "above"'
    )
    rows = larger(0.1, 0.0)
    models = sorted({row["model"] for row in rows})
    elsewhere = [row | {"dataset": "imagenet_r"} for row in rows]
    cases = [(rows, False), ([], True), (elsewhere, True)]
    cases += [([each for each in rows if each["model"] in models[::N]], False)]  # one of each group
    for some, absent in cases:
        [verdict] = check(book(tmp_path, text), some)
        assert (verdict.absent, verdict.findings[0].absent) == (absent, absent)
        assert verdict.word == (HOLDS if some is rows else UNKNOWN)


def test_parts_of_data_sets_do_not_count_and_are_named(tmp_path):
    text = claim(
        'statistic = "group_difference", y = "y", group = "ours", against = "others", side = "above"'
    )
    rows = larger(0.1, 0.0)
    whole = one(book(tmp_path, text), rows)
    assert (whole.n, whole.left_out) == ((N, N), ())
    model, part = rows[0]["model"], {"images": 9, "of": 7500}
    of_one = [each | {"part": part} if each["model"] == model else each for each in rows]
    fewer = one(book(tmp_path, text), of_one)
    assert sum(fewer.n) == 2 * N - 1
    assert fewer.left_out == (f"{model}: zeroshot imagenet_a top1 (9 of 7,500 images)",)
    assert all(each["model"] != model for each in fewer.rows)
    none = one(book(tmp_path, text), [each | {"part": part} for each in rows])
    assert (none.word, none.value, none.absent) == (UNKNOWN, None, False)
    assert "missing: zeroshot imagenet_a top1 (9 of 7,500 images do not count)" in str(none.why)
    both = [*of_one, *(each | {"run_id": "2025" + each["run_id"][4:]} for each in rows)]
    assert one(book(tmp_path, text), both).value == whole.value
