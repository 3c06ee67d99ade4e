"""Before and after: one suite for a base and its tuned models, paired; verdicts, notes, leaks, failures."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _colours import ColourModel
from _records import records
from _small import RGB, write_colours

from clipjax.data.cards import load_dataset
from clipjax.errors import DataError, UsageError
from clipjax.evaluation.comparison.compare import compare_runs
from clipjax.finetune import before_after as before_after_module
from clipjax.finetune.before_after import (
    Change,
    before_and_after,
    corrected,
    evaluate_suite,
    left_out,
    refuse_leaks,
)
from clipjax.finetune.finetune import FinetuneData, splits
from clipjax.finetune.suites import FinetuneSuite, Metric, load_suite
from clipjax.results.store import ResultStore

pytestmark = pytest.mark.usefixtures("one_device")

SUITE = """
title = "Colours"
run = ["zeroshot", "calibration", "ood"]
[[metrics]]
task = "zeroshot"
metric = "top1"
title = "accuracy"
better = "higher"
[[metrics]]
task = "zeroshot"
metric = "top5"
title = "top 5"
better = "higher"
[[metrics]]
task = "calibration"
metric = "ece_corrected_15_before"
title = "ECE"
better = "lower"
[[metrics]]
task = "ood"
metric = "auroc"
slice = "score:msp"
title = "AUROC"
better = "neither"
"""


class Seer(ColourModel):
    """Sees colours; of a share of the images, by what they look like, it sees the wrong one."""

    def __init__(self, name: str, wrong: float = 0.0, scale: float = 20.0) -> None:
        super().__init__(id=name, logit_scale=scale)
        self.wrong = wrong

    def encode_image(self, images: Any) -> np.ndarray:
        rgb = np.asarray(images).mean(axis=(1, 2))
        chance = np.modf(np.abs(rgb[:, 0]) * 1e4)[0]
        return self.embed(np.where((chance < self.wrong)[:, None], np.roll(rgb, 1, axis=1), rgb))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colours(tmp_path_factory.mktemp("before_after"), each=8)


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> FinetuneSuite:
    path = tmp_path_factory.mktemp("suites") / "colours.toml"
    path.write_text(SUITE)
    return load_suite(path)


def compare(
    base: Any,
    tuned: Sequence[Any],
    suite: FinetuneSuite,
    world: Path,
    results: Path,
    said: list[str] | None = None,
) -> dict[tuple[str, str, str], Change]:
    changes = before_and_after(
        base,
        tuned,
        suite,
        world,
        results,
        announce=([] if said is None else said).append,
        **records(progress=False, resamples=50),
    )
    return {(each.metric.task, each.dataset, each.metric.metric): each for each in changes}


@pytest.fixture(scope="module")
def lost(suite: FinetuneSuite, world: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A base that sees well, tuned with two seeds into models that see badly; what was said meanwhile."""
    said: list[str] = []
    results = tmp_path_factory.mktemp("results")
    tuned = [Seer(f"tuned{seed}", wrong, 60.0) for seed, wrong in enumerate((0.7, 0.9))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clipjax.metrics.uncertainty.calibration_error.FEWEST", 16)
        return compare(Seer("base"), tuned, suite, world, results, said), said, results


# ----------------------------------------------------------------------------------------- the numbers


def change(better: Any, intervals: Any, **fields: Any) -> Change:
    metric = Metric("zeroshot", "top1", "accuracy", better)
    after = tuple(0.5 + 0.1 * i for i in range(len(intervals)))
    return Change(metric, "set", **{"before": 0.5, "after": after, "intervals": intervals, "n": 100} | fields)


@pytest.mark.parametrize(
    ("better", "intervals", "verdict"),
    [
        ("higher", ((0.1, 0.3), (0.2, 0.4)), "gained"),
        ("higher", ((-0.3, -0.1), (-0.4, -0.2)), "lost"),
        ("higher", ((-0.3, -0.1), (-0.4, 0.2)), None),
        ("higher", ((-0.3, -0.1), (0.1, 0.2)), None),
        ("higher", ((-0.3, 0.0),), None),
        ("lower", ((0.1, 0.3),), "lost"),
        ("lower", ((-0.3, -0.1),), "gained"),
        ("neither", ((-0.3, -0.1),), None),
        ("higher", ((-0.3, -0.1), None), None),
        ("higher", (None,), None),
        ("higher", (), None),
    ],
)
def test_a_verdict_needs_every_seed(better: str, intervals: Any, verdict: str | None) -> None:
    assert change(better, intervals).verdict == verdict


def test_verdicts_are_corrected_for_the_number_of_lines() -> None:
    """0.02 alone is no chance; as one of three lines it is (0.06). Lines without a test do not count."""
    lines = [change("higher", ((0.1, 0.3),), p_value=p) for p in (0.02, 0.03, 0.001)]
    lines.append(change("higher", (None,)))
    table = corrected(lines)
    assert [each.p_holm for each in table] == [pytest.approx(0.04), pytest.approx(0.04), 0.003, None]
    assert [each.verdict for each in table[:3]] == ["gained"] * 3
    # Where no direction is better there is no verdict, and so no test to correct for.
    still = corrected([*lines, *(change("neither", ((0.1, 0.3),), p_value=0.001) for _ in range(9))])
    assert [each.p_holm for each in still] == [*(each.p_holm for each in table), *[None] * 9]
    more = corrected([*lines, *(change("higher", ((0.1, 0.3),), p_value=0.5) for _ in range(2))])
    assert [each.verdict for each in more[:3]] == [None, None, "gained"]


def test_mean_deviation_and_envelope_of_the_seeds() -> None:
    three = change("higher", ((0.0, 0.2), (-0.1, 0.1), (0.1, 0.4)), after=(0.5, 0.6, 0.8))
    assert three.mean == pytest.approx(1.9 / 3)
    assert three.deviation == pytest.approx(np.std([0.5, 0.6, 0.8], ddof=1))
    assert three.difference == pytest.approx(1.9 / 3 - 0.5)
    assert three.interval == (-0.1, 0.4)
    one = change("higher", ((0.0, 0.2),))
    assert (one.mean, one.deviation) == (0.5, None)
    nothing = change("higher", (), before=None)
    assert (nothing.mean, nothing.deviation, nothing.difference, nothing.interval) == (None,) * 4


def test_the_mean_over_images_and_seeds() -> None:
    """Differences of 0, .1 and .3: t of two degrees of freedom, and the mean distance over the images."""
    three = change("higher", ((-0.05, 0.1), (0.0, 0.2), (0.25, 0.45)), after=(0.5, 0.6, 0.8))
    across = 4.302653 * np.std([0, 0.1, 0.3], ddof=1) / np.sqrt(3)
    down, up = np.hypot(across, (0.05 + 0.1 + 0.05) / 3), np.hypot(across, (0.1 + 0.1 + 0.15) / 3)
    assert three.over_seeds == pytest.approx((0.4 / 3 - down, 0.4 / 3 + up), abs=1e-6)
    assert change("higher", ((0.0, 0.2),)).over_seeds is None
    assert change("higher", ((0.0, 0.2), None)).over_seeds is None
    assert change("higher", (), before=None).over_seeds is None


def test_the_table_is_in_the_suites_order(lost: Any) -> None:
    changes = lost[0]
    assert list(changes) == [
        ("zeroshot", "colours_dark", "top1"),
        ("zeroshot", "colours_val", "top1"),
        ("zeroshot", "colours_dark", "top5"),
        ("zeroshot", "colours_val", "top5"),
        ("calibration", "colours_val", "ece_corrected_15_before"),
        ("ood", "odd", "auroc"),
    ]


def test_the_intervals_are_those_of_the_paired_comparison(lost: Any) -> None:
    changes, said, results = lost
    top1 = changes["zeroshot", "colours_val", "top1"]
    rows = ResultStore(results).rows()
    [base] = {row["run_id"] for row in rows if (row["model"], row["dataset"]) == ("base", "colours_val")} & {
        row["run_id"] for row in rows if row["task"] == "zeroshot"
    }
    for seed in range(2):
        name = f"tuned{seed}"
        [tuned] = {
            row["run_id"]
            for row in rows
            if (row["model"], row["dataset"], row["task"]) == (name, "colours_val", "zeroshot")
        }
        [paired] = compare_runs(base, tuned, results, metrics=["top1"])
        assert paired.test == "mcnemar_exact"
        assert paired.interval is not None
        assert top1.intervals[seed] == (paired.interval.lo, paired.interval.hi)
        assert (top1.before, top1.after[seed], top1.n) == (paired.first, paired.second, paired.n)
    assert top1.before == 1.0
    assert max(top1.after) < 0.6
    assert top1.deviation is not None
    assert (top1.verdict, top1.n) == ("lost", 8 * len(RGB))
    assert len([line for line in said if line.startswith("[")]) == 3 * 4
    first = next(line for line in said if not line.startswith("left out"))
    assert first.endswith("base: zeroshot on colours_dark")


def test_more_error_is_lost_and_what_does_not_move_is_neither(lost: Any) -> None:
    changes = lost[0]
    error = changes["calibration", "colours_val", "ece_corrected_15_before"]
    assert error.difference > 0
    assert error.verdict == "lost"
    still = changes["ood", "odd", "auroc"]
    assert (still.before, still.after, still.difference) == (1.0, (1.0,) * 2, 0.0)
    assert (still.interval, still.verdict, still.note) == (None, None, None)


def test_why_a_number_is_not_compared_is_its_note(suite: FinetuneSuite, world: Path, tmp_path: Path) -> None:
    only = dataclasses.replace(suite, run=("calibration",))
    [error] = compare(Seer("base"), [Seer("tuned", 0.7)], only, world, tmp_path).values()
    assert error.difference is not None
    assert (error.intervals, error.p_value, error.verdict) == ((None,), None, None)
    assert error.note == "a headline without a test: only 16 images: a comparison needs 200"


def test_a_long_table_draws_as_many_resamples_as_its_correction_needs(
    suite: FinetuneSuite, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 1,000 resamples p is at least 2 / 1001, and 40 lines times that is no verdict."""
    drawn: list[int] = []

    def compared(*args: Any, resamples: int) -> Any:
        drawn.append(resamples)
        return compare_runs(*args, resamples=resamples)

    monkeypatch.setattr(before_after_module, "compare_runs", compared)
    accuracy, shape = suite.metrics[0], dataclasses.replace(suite.metrics[0], better="neither")
    long = dataclasses.replace(suite, metrics=(accuracy,) * 20 + (shape,) * 9, run=("zeroshot",))
    compare(Seer("base", 0.8), [Seer("tuned")], long, world, tmp_path)
    assert drawn == [80 * 40] * 2, "20 lines of each of two data sets can have a verdict"


def test_the_other_way_round_is_gained(suite: FinetuneSuite, world: Path, tmp_path: Path) -> None:
    only = dataclasses.replace(suite, datasets=("colours_val",), run=("zeroshot",))
    changes = compare(Seer("base", 0.8), [Seer("tuned")], only, world, tmp_path)
    assert {key[1] for key in changes} == {"colours_val"}
    accuracy = changes["zeroshot", "colours_val", "top1"]
    assert (accuracy.verdict, accuracy.deviation) == ("gained", None)


def test_a_number_without_a_value_has_its_note(lost: Any) -> None:
    """Four classes have no top 5."""
    top5 = lost[0]["zeroshot", "colours_val", "top5"]
    assert (top5.before, top5.after, top5.interval, top5.verdict) == (None, (), None, None)
    assert re.search("5|class", top5.note)


# ----------------------------------------------------------------------------------- what goes wrong


def test_a_failing_task_does_not_end_the_rest(suite: FinetuneSuite, tmp_path: Path) -> None:
    world = write_colours(tmp_path / "world", each=4)
    (world / "colours_dark/red/red0.png").write_bytes(b"no image")
    said: list[str] = []
    changes = compare(Seer("base"), [Seer("tuned", 0.5)], suite, world, tmp_path / "results", said)
    broken = changes["zeroshot", "colours_dark", "top1"]
    assert (broken.before, broken.after, broken.n, broken.verdict) == (None, (), None, None)
    assert broken.note is not None
    assert broken.note.startswith("failed: ")
    assert "red0.png" in broken.note
    assert changes["zeroshot", "colours_val", "top1"].before == 1.0
    assert changes["ood", "odd", "auroc"].before is not None
    assert sum(line.startswith("  failed: ") and "red0.png" in line for line in said) == 2
    base: Any = Seer("base")
    outcomes = evaluate_suite(base, suite, world, said.append, **records(progress=False, resamples=20))
    assert [key for key, each in outcomes.items() if isinstance(each, Exception)] == [
        ("zeroshot", "colours_dark")
    ]
    assert len(outcomes) == 4


def test_a_suite_of_which_nothing_is_there(suite: FinetuneSuite, world: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no data set for"):
        compare(Seer("base"), [Seer("tuned")], suite, tmp_path / "empty", tmp_path / "results")
    elsewhere = dataclasses.replace(suite, datasets=("imagenet_r",))
    with pytest.raises(DataError, match="holds none of the data sets of the suite colours"):
        compare(Seer("base"), [Seer("tuned")], elsewhere, world, tmp_path / "results")
    # What is missing of a suite is left out, where something is there.
    partly = dataclasses.replace(suite, run=("shape_bias", "zeroshot"), datasets=("colours_val",))
    said: list[str] = []
    assert compare(Seer("base"), [Seer("tuned")], partly, world, tmp_path / "results", said)
    assert "left out" not in " ".join(said), "the suite is of this data set alone"


def test_what_is_left_out_of_the_table_is_said(suite: FinetuneSuite, world: Path) -> None:
    whole = dataclasses.replace(suite, run=("shape_bias", "zeroshot", "calibration"))
    [line] = left_out(whole, world)
    assert re.match(
        r"left out of the table: \d+ data sets that are not there, among them \w+ \(zeroshot\): ", line
    )
    assert line.endswith(f"`clipjax datasets check --all {world}` lists them")
    [v2] = left_out(
        dataclasses.replace(whole, datasets=("imagenet_v2:top-images",), run=("zeroshot",)), world
    )
    assert "imagenet_v2 (zeroshot): " in v2


def test_a_suite_of_runs_is_no_table(world: Path, tmp_path: Path) -> None:
    path = tmp_path / "paper.toml"
    path.write_text('title = "T"\n[[runs]]\nrecipe = "flyp_imagenet"\nmodel = "b32"\n')
    paper = load_suite(path)
    with pytest.raises(UsageError, match=r"paper has no \[\[metrics\]\] to compare by"):
        compare(Seer("base"), [Seer("tuned")], paper, world, tmp_path)


# ------------------------------------------------------------------------------------------- leaks


def test_images_that_are_reported_on_are_not_trained_on(suite: FinetuneSuite, tmp_path: Path) -> None:
    world = write_colours(tmp_path, each=2)

    def development() -> list[Any]:
        train, spare = (
            load_dataset(world / f"{name}.toml", world / name) for name in ("colours_train", "colours_spare")
        )
        return [each for each in splits(FinetuneData(train, spare)) if each is not None]

    first = dataclasses.replace(suite, run=("zeroshot",))
    refuse_leaks(development(), first, world)
    copied, place = world / "colours_val/red/red1.png", world / "colours_train/red/copy.png"
    place.write_bytes(copied.read_bytes())
    message = r"training split colours_train holds 1 image of the test split colours_val \(red/red1\.png\)"
    with pytest.raises(DataError, match=message):
        refuse_leaks(development(), first, world)
    place.rename(world / "colours_spare/red/copy.png")
    with pytest.raises(DataError, match="validation split colours_spare holds 1 image of the test split"):
        refuse_leaks(development(), first, world)
    only_ood = dataclasses.replace(suite, run=("ood",))
    with pytest.raises(DataError, match="of the test split colours_val"):
        refuse_leaks(development(), only_ood, world)  # the in-distribution images of another task
    # A data set that cannot be read is not reported on either.
    (world / "colours_spare/red/copy.png").unlink()
    (world / "colours_dark/red").rename(world / "colours_dark/rose")
    refuse_leaks(development(), first, world)
