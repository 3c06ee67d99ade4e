"""Placebos: what random splits of the same families show, and which verdicts they forbid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _claims import HEAD, book, claim, group_rows, rows_of

from clipjax.analysis.claims.claims import FAILS, HOLDS, UNKNOWN, Finding, check, decide, doubted
from clipjax.analysis.claims.ledger import Ledger, Part, ledger
from clipjax.analysis.claims.placebo import FEWEST_SPLITS, SPLITS, Placebo, Pool, placebo, splits
from clipjax.analysis.claims.verdicts import export

AGAINST = 'x = "x", y = "y", group = "ours", against = "others", scale = "linear"'
OFFSET = f'statistic = "trend_offset", {AGAINST}'


def one(wanted: Ledger, rows: list[Any], resamples: int = 300) -> Finding:
    [verdict] = check(wanted, rows, resamples=resamples)
    [finding] = verdict.findings
    return finding


def width(found: Finding) -> float:
    assert found.lo is not None
    assert found.hi is not None
    return found.hi - found.lo


def part_of(folder: Path, keys: str) -> Part:
    [part] = book(folder, claim(keys)).claims[0].parts
    return part


def families(
    rng: np.random.Generator, sides: Mapping[str, int], scatter: float, effect: float = 0.0, models: int = 6
) -> list[Any]:
    """Families of `models` models, each off one line by a number of its own; `effect`: of ours."""
    rows = []
    for side, count in sides.items():
        for family in range(count):
            off = scatter * rng.normal() + effect * (side == "ours")
            for k in range(models):
                x = rng.uniform(0.3, 0.8)
                y = 0.5 * x + off + 0.005 * rng.normal()
                facts = {"group": side, "arch": f"{side}{chr(97 + family)}"}
                rows += rows_of(f"{side}_{family}_{k}", {"x": x, "y": y}, facts)
    return rows


# ------------------------------------------------------------------------------------- the splits


def test_families_are_split_whole_and_groups_keep_their_size() -> None:
    names = [f"f{k // 3}" for k in range(30)]
    runs = [f"r{k}" for k in range(30)]
    masks = splits(names, runs, 9, 100)
    assert masks.shape == (100, 30)
    assert (masks.reshape(100, 10, 3).all(2) == masks.reshape(100, 10, 3).any(2)).all()
    assert set(masks.sum(1)) == {9}
    assert len(np.unique(masks, axis=0)) > 60
    np.testing.assert_array_equal(masks, splits(names, runs, 9, 100))


def test_sizes_are_those_of_runs() -> None:
    """Three epochs of one run count as one."""
    runs = [f"r{k // 3}" for k in range(30)]
    assert set(splits(runs, runs, 9, 50).sum(1)) == {9}
    alone = splits([f"f{k}" for k in range(12)], [*("a" * 3), *map(str, range(9))], 6, 50)
    assert 4 <= alone.sum(1).mean() <= 8


def test_one_family_is_not_split() -> None:
    assert splits(["f"] * 5, list("abcde"), 2, 10).shape == (0, 5)


def test_within_one_family_runs_are_split(tmp_path: Path) -> None:
    """Of twenty trainings of one architecture."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0.3, 0.8, (2, 10))
    rows = [
        each
        for side, values in zip(("ours", "others"), x)
        for k, value in enumerate(values)
        for each in rows_of(
            f"{side}_{k}",
            {"x": value, "y": 0.5 * value + 0.03 * (side == "ours") + 0.005 * rng.normal()},
            {"group": side, "arch": "ViT-B-32"},
        )
    ]
    found = one(book(tmp_path, claim(f'{OFFSET}, side = "above"')), rows)
    assert found.placebo is not None
    assert (found.word, found.placebo.of, found.placebo.families) == (HOLDS, "run", 20)


@pytest.mark.parametrize(
    ("statistic", "side", "count"),
    [("group_difference", 5, 10), ("trend_offset", 10, 20), ("effective_robustness", 10, 20)],
)
def test_the_claims_own_split_is_among_the_splits_statistics(
    statistic: str, side: int, count: int, tmp_path: Path
) -> None:
    """The placebo's formula, on the claim's own groups, gives the claim's value."""
    from clipjax.analysis.claims.placebo import STATISTICS

    rng = np.random.default_rng(1)
    x = rng.uniform(0.3, 0.8, count)
    values = {"x": x, "y": 0.6 * x + 0.02 * rng.normal(size=count)}
    rows = group_rows("ours", {name: each[:side] for name, each in values.items()})
    rows += group_rows("others", {name: each[side:] for name, each in values.items()})
    keys = f'statistic = "{statistic}", {AGAINST if statistic != "group_difference" else AGAINST[9:-18]}'
    wanted = book(tmp_path, claim(f'{keys}, side = "above"'))
    found = one(wanted, rows)
    order = [*sorted(range(side), key=str), *(side + k for k in sorted(range(count - side), key=str))]
    unknown = np.full(count, np.nan)
    names = [str(k) for k in range(count)]
    pool = Pool(values["x"][order], values["y"][order], unknown, unknown, names, names, side)
    [part] = wanted.claims[0].parts
    mask = np.arange(count) < side
    [value] = STATISTICS[statistic](part, pool, mask[None])
    assert found.value == pytest.approx(value, abs=1e-6)


def test_rank_spread_and_margin(tmp_path: Path) -> None:
    """Means of two values: half of the splits of 0, 0, ..., 1, 1, ... are as told by hand."""
    part = part_of(
        tmp_path,
        'statistic = "group_difference", y = "y", group = "ours", against = "others", side = "within"',
    )
    y = np.repeat([0.0, 1.0], 6)
    names = [str(k) for k in range(12)]
    pool = Pool(y, y, y, y, names, names, 6)
    found = placebo(part, pool, 1.0)
    masks = splits(names, names, 6, SPLITS)
    off = np.abs([y[mask].mean() - y[~mask].mean() for mask in masks])
    assert found.share == (1 + (off >= 1).sum()) / (1 + SPLITS)
    assert found.spread == pytest.approx(np.median(off))
    assert found.margin == pytest.approx(0.01 / np.median(off))
    assert not found.ordinary
    assert placebo(part, pool, 0.3).ordinary


# -------------------------------------------------------------------------------- what it forbids


SURE = Placebo(share=0.01, spread=0.002, margin=5.0, splits=200, families=20, of="family", few=False)


@pytest.mark.parametrize(
    ("side", "word", "share", "spread", "few", "forbidden"),
    [
        ("above", HOLDS, 0.01, 0.002, False, False),
        ("above", HOLDS, 0.2, 0.002, False, True),
        ("above", FAILS, 0.2, 0.002, False, True),
        ("above", HOLDS, 0.01, 0.5, False, False),  # a spread is held against margins only
        ("apart", HOLDS, 0.2, 0.002, False, True),
        ("apart", FAILS, 0.2, 0.002, False, False),  # no difference: what is ordinary does not contradict it
        ("apart", FAILS, 0.01, 0.02, False, True),
        ("within", HOLDS, 0.2, 0.002, False, False),
        ("within", HOLDS, 0.2, 0.02, False, True),
        ("within", FAILS, 0.2, 0.002, False, True),
        ("not_above", HOLDS, 0.2, 0.002, False, False),
        ("not_above", FAILS, 0.2, 0.002, False, True),
        ("above", HOLDS, 0.01, 0.002, True, True),
        ("within", HOLDS, 0.01, 0.002, True, True),
    ],
)
def test_which_verdicts_it_forbids(
    side: str, word: str, share: float, spread: float, few: bool, forbidden: bool, tmp_path: Path
) -> None:
    part = part_of(tmp_path, f'{OFFSET}, side = "{side}", margin = 0.01')
    found = replace(SURE, share=share, spread=spread, few=few)
    assert (doubted(word, part, found) is not None) == forbidden


def test_two_families_of_different_offsets_decide_nothing(tmp_path: Path) -> None:
    """Twelve models of each: the interval alone would call one above the other."""
    wanted = book(tmp_path, claim(f'{OFFSET}, side = "above"'))
    found = one(wanted, families(np.random.default_rng(2), {"ours": 1, "others": 1}, 0.0, 0.05, models=12))
    assert found.lo is not None
    assert found.hi is not None
    assert (decide(found.lo, found.hi, found.part), found.word) == (HOLDS, UNKNOWN)
    assert str(found.why) == f"2 families have fewer than {FEWEST_SPLITS} splits: no placebo tells an effect"


@pytest.mark.long("analysis/claims/test_placebo.py::test_two_families_of_different_offsets_decide_nothing")
def test_claims_on_random_families_are_seldom_decided(tmp_path: Path) -> None:
    """At most a tenth, where the intervals alone decide a third; a planted effect nearly always is."""
    wanted = book(tmp_path, claim(f'{OFFSET}, side = "above"'))
    rng, sides = np.random.default_rng(3), {"ours": 6, "others": 6}
    found = [one(wanted, families(rng, sides, 0.01), 200) for _ in range(40)]
    alone = [decide(each.lo, each.hi, each.part) for each in found]  # type: ignore[arg-type]
    assert sum(each.word != UNKNOWN for each in found) <= 4
    assert sum(word != UNKNOWN for word in alone) >= 12
    planted = [one(wanted, families(rng, sides, 0.01, 0.05), 200) for _ in range(20)]
    assert sum(each.word == HOLDS for each in planted) >= 16


def test_one_models_rows_of_two_conventions_have_no_placebo(tmp_path: Path) -> None:
    """A split of models does not show what another prompt set does."""
    text = (
        'statistic = "group_difference", y = "y", group = "ours", against = "ours", side = "above", '
        'rows = { prompts = "one" }, against_rows = { prompts = "many" }'
    )
    rows = [
        each
        for k in range(8)
        for name, more in (("one", 0.1), ("many", 0.0))
        for each in rows_of(
            f"m_{k}", {"y": 0.5 + more + 0.01 * k}, {"group": "ours"}, convention={"prompts": name}
        )
    ]
    found = one(book(tmp_path, claim(text)), rows)
    assert (found.word, found.placebo) == (HOLDS, None)


# ------------------------------------------------------------------------------------------ units


def test_epochs_of_a_run_are_one_unit(tmp_path: Path) -> None:
    """Each of six runs with twenty epochs: their numbers do not make intervals narrower."""
    rng = np.random.default_rng(4)
    rows = []
    for side in ("ours", "others"):
        for run in range(6):
            x, off = rng.uniform(0.3, 0.8), 0.02 * rng.normal()
            for epoch in range(20):
                facts = {"group": side, "arch": f"{side}{run}"}
                y = 0.5 * x + off + 0.001 * rng.normal()
                rows += rows_of(f"{side}_{run}_e{epoch}", {"x": x + 0.001 * rng.normal(), "y": y}, facts)
    text = claim(f'{OFFSET}, side = "above"')
    run, model = (one(book(tmp_path, text, f'unit = "{unit}"\n{HEAD}'), rows) for unit in ("run", "model"))
    assert (run.n, run.units, model.units) == ((120, 120), (6, 6), (120, 120))
    assert run.value == model.value
    assert width(run) > 2 * width(model)
    assert (run.method, model.method) == ("bootstrap_of_units_percentile", "bootstrap_of_models_percentile")


def test_pairs_that_share_a_run_are_one_unit(tmp_path: Path) -> None:
    """Twelve fine-tunings of one base are one unit, whose change has no interval."""
    rng = np.random.default_rng(5)

    def tuned(bases: int) -> list[Any]:
        rows = [each for k in range(bases) for each in rows_of(f"base_{k}", {"y": 0.5}, {"group": "others"})]
        for k in range(12):
            facts = {"group": "ours", "parent": f"base_{k % bases}"}
            rows += rows_of(f"tuned_{k}", {"y": 0.6 + 0.01 * rng.normal()}, facts)
        return rows

    for statistic in ("paired_mean", "paired_shift"):
        text = claim(f'statistic = "{statistic}", y = "y", group = "ours", pairs = "parent", side = "above"')
        few, many = (one(book(tmp_path, text), tuned(bases)) for bases in (1, 12))
        assert (few.word, few.n, few.units, few.placebo) == (UNKNOWN, (12,), (1,), None)
        assert (many.word, many.units) == (HOLDS, (12,))
        assert str(few.why).startswith("no interval of this level")
        own = one(book(tmp_path, text.replace('section = "I"', 'section = "I"\nunit = "model"')), tuned(1))
        assert (own.word, own.units) == (HOLDS, (12,))


def test_a_claim_has_its_own_unit(tmp_path: Path) -> None:
    text = claim(f'{OFFSET}, side = "above"')
    plain = book(tmp_path, text)
    own = book(tmp_path, text.replace('section = "I"', 'section = "I"\nunit = "family"'))
    whole = book(tmp_path, text, f'unit = "model"\n{HEAD}')
    assert [each.claims[0].parts[0].unit for each in (plain, own, whole)] == ["run", "family", "model"]
    found = one(own, families(np.random.default_rng(6), {"ours": 6, "others": 7}, 0.0, 0.05))
    assert found.units == (6, 7)


def test_units_of_the_studys_claims() -> None:
    """Claims that CLIP differs from other kinds of models draw families."""
    units = {each.key: each.parts[0].unit for each in ledger().claims}
    assert units["shifts_robust"] == units["shape_bias_clip"] == "family"
    assert units["retrieval_quantity"] == units["calibration_fine_tuned"] == "run"
    assert units["llava_parts"] == "model"


def test_the_trend_beside_effective_robustness(tmp_path: Path) -> None:
    """Its models' residuals by thirds of x, and how many of ours are beyond them."""
    x = np.linspace(0.3, 0.8, 12)
    rows = group_rows("others", {"x": x, "y": 0.5 * x + (x - 0.55) ** 2})
    rows += group_rows("ours", {"x": np.linspace(0.5, 1.0, 6), "y": 0.6 + np.linspace(0, 0.1, 6) ** 2})
    text = claim(f'statistic = "effective_robustness", {AGAINST}, side = "above"')
    verdicts = check(book(tmp_path, text), rows, resamples=100)
    [found] = verdicts[0].findings
    assert found.bend is not None
    assert found.bend.lo > 0
    assert found.bend.thirds[0] > 0 > found.bend.thirds[1]
    assert found.extrapolated == 2
    assert " | 2 of 6 |" in export(verdicts, "markdown")
    assert '"extrapolated": 2' in export(verdicts, "json")


def test_the_output_has_it(tmp_path: Path) -> None:
    rows = families(np.random.default_rng(7), {"ours": 6, "others": 6}, 0.0, 0.05)
    wanted = book(tmp_path, claim(f'{OFFSET}, side = "apart", margin = 0.01'))
    verdicts = check(wanted, rows, resamples=100)
    found = verdicts[0].findings[0].placebo
    assert found is not None
    table = export(verdicts, "markdown")
    assert f"| {found.share:.3f} (200 splits) | {found.margin:.2g} x {found.spread:.4f} |" in table
    assert "36 and 36 runs" in table
    assert '"ordinary": false' in export(verdicts, "json")
