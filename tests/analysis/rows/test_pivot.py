"""A metric as a table of models and data sets, and two numbers as a scatter plot."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from _rows import row
from typer.testing import CliRunner

from clipjax.analysis.figures.two_numbers import draw_two, not_alike, two_numbers
from clipjax.analysis.rows.cells import RowIndex
from clipjax.analysis.rows.pivot import better_end, export_pivot, pivot
from clipjax.cli import app
from clipjax.errors import DataError, UsageError
from clipjax.results.store import ResultStore, new_run_id

VALUES = {("a_1", "val"): 0.5, ("b*", "val"): 0.75, ("a_1", "r"): 0.625}


def rows(metric: str = "top1", **changed: Any) -> list[Any]:
    """Two models on two data sets; a number of the second is missing."""
    return [
        row(
            new_run_id(),
            model=model,
            dataset=data,
            metric=metric,
            value=value,
            interval={"lo": value - 0.125, "hi": value + 0.125, "level": 0.95, "method": "wilson"},
            recipe_hash=f"{n:064x}",
            **changed,
        )
        for n, ((model, data), value) in enumerate(VALUES.items())
    ]


def test_the_best_number_of_a_column_is_marked():
    table = pivot(rows(), "top1")
    assert [column.title for column in table.columns] == ["r", "val"]
    assert table.best == (None, 0.75)  # of one model alone none is the best
    assert export_pivot(table, "markdown").splitlines()[2:] == [
        "| a_1 | 0.6250 [0.5000, 0.7500] | 0.5000 [0.3750, 0.6250] |",
        "| b\\* |  | **0.7500** [0.6250, 0.8750] |",
    ]
    latex = export_pivot(table, "latex")
    assert r"\begin{tabular}{lrr}" in latex
    assert r"b* &  & \textbf{0.7500} [0.6250, 0.8750] \\" in latex
    lines = list(csv.DictReader(io.StringIO(export_pivot(table, "csv"))))
    assert lines[1] == {
        "model": "b*", "r": "", "r lo": "", "r hi": "", "r n": "",
        "val": "0.75", "val lo": "0.625", "val hi": "0.875", "val n": "100",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("metric", "end", "best"),
    [
        ("top1", "higher", 0.75),
        ("fpr95_mos", "lower", 0.5),
        ("ece_15_after", "lower", 0.5),
        ("shape_bias", "neither", None),
        ("flips", "lower", 0.5),
        ("top1_change", "neither", None),
        ("my_metric", "unknown", None),
    ],
)
def test_each_metric_has_a_good_end(metric, end, best):
    assert better_end(metric) == end
    table = pivot(rows(metric), metric)
    assert table.best[1] == best
    assert (table.unmarked is not None) == (end == "unknown")


def test_slices_tasks_and_unclear_data_sets():
    of_score = rows("auroc", slice="score:mcm", task="ood")
    assert pivot(of_score, "auroc score:mcm").lines["a_1"][1].value == 0.5
    with pytest.raises(UsageError, match=r"unknown metric 'auroc'; did you mean auroc score:mcm\?"):
        pivot(of_score, "auroc")
    both = pivot([*rows(), *rows(task="multiple_choice")], "top1")
    assert [column.title for column in both.columns][:2] == ["multiple_choice r", "multiple_choice val"]
    other: list[Any] = [{**each, "convention": {"prompts": "other"}} for each in rows()[:1]]
    with_x: list[Any] = [{**each, "convention": {"prompts": "x"}} for each in rows()]
    unclear = pivot([*with_x, *other], "top1")
    assert [column.title for column in unclear.columns] == ["r"]
    assert "a_1: zeroshot val top1 was measured with the prompts other, x" in unclear.left_out[0]
    with pytest.raises(DataError, match="was measured with the prompts"):
        pivot([with_x[0], *other], "top1")


def test_two_numbers_against_each_other(tmp_path):
    index = RowIndex([*rows(), row(new_run_id(), model="b*", dataset="r", value=0.25, recipe_hash="f" * 64)])
    spec = two_numbers(index, "val/top1", "r/top1", name="mine")
    assert [group.key for group in spec.groups] == ["others"]
    wit: Any = {"group": "clip", "fine_tune": "none", "train_source": "WIT"}
    half = RowIndex(
        [*index, row(new_run_id(), model="wit", dataset="val", recipe_hash="e" * 64, model_facts=wit)]
    )
    alone = two_numbers(half, "val/top1", "r/top1", name="mine")
    assert [group.key for group in alone.groups] == ["others"]  # none without a model in the legend
    assert {axis.scale for axis in spec.panels[0].axes} == {"probit"}
    bare = draw_two(index, "val/top1", "r/top1", tmp_path / "bare", formats=("svg",))
    done = draw_two(index, "val/top1", "r/top1", tmp_path / "mine", names=True, formats=("svg", "csv"))
    assert done.models == {"a_1", "b*"}
    assert {file.name for file in done.files} >= {"mine.svg", "mine_points.csv"}
    texts = [figure.files[0].read_text().count('<g id="text_') for figure in (bare, done)]
    assert texts[1] == texts[0] + 2
    with pytest.raises(UsageError, match=r"unknown number 'val/top5'; did you mean val/top1"):
        two_numbers(index, "val/top5", "r/top1", name="mine")
    twice = RowIndex([*rows(), *rows(task="multiple_choice")])
    with pytest.raises(UsageError, match=r"the tasks multiple_choice, zeroshot have val/top1: say which"):
        two_numbers(twice, "val/top1", "r/top1", name="mine")
    numbers: list[Any] = [{**each, "value": 7.0, "interval": None} for each in rows("nll")]
    large = RowIndex(numbers)
    assert two_numbers(large, "val/nll", "r/nll", name="mine").panels[0].x.scale == "linear"


def test_two_numbers_that_were_not_measured_alike(tmp_path):
    """Which points they are, is noted: neither axis is starred, but a line goes through them."""
    ways = [("a", "p", "val"), ("b", "p", "val"), ("a", "p", "r"), ("b", "q", "r")]
    some: Any = [
        measured(name, {"prompts": prompts}, dataset=data, recipe_hash=f"{k:064x}")
        for k, (name, prompts, data) in enumerate(ways)
    ]
    for one in some:
        ResultStore(tmp_path / "results").add([one])
    done = draw_two(RowIndex(some), "val/top1", "r/top1", tmp_path / "s", formats=("svg",))
    assert not_alike(done, "val/top1", "r/top1") == ["r/top1: prompts p (a) or q (b)"]
    words = ["results", "scatter", "val/top1", "r/top1", "--results", str(tmp_path / "results")]
    said = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "s")]).stderr
    assert "not measured alike: r/top1: prompts p (a) or q (b)" in said


def test_the_commands(tmp_path):
    for one in rows():
        ResultStore(tmp_path / "results").add([one])
    words = ["results", "table", str(tmp_path / "results"), "--metric", "top1"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "0.7500* [0.6250, 0.8750]" in done.stdout
    for wrong in (words[:3], [*words, "--metric", "top5"]):
        assert "say which one metric" in str(CliRunner().invoke(app, wrong).exception)
    out: Path = tmp_path / "plot"
    words = ["results", "scatter", "val/top1", "r/top1", "--results", str(tmp_path / "results")]
    done = CliRunner().invoke(app, [*words, "--out", str(out)])
    assert (done.exit_code, out.with_suffix(".png").exists()) == (0, True)
    CliRunner().invoke(app, [*words, "--out", str(tmp_path / "s4.png")])
    CliRunner().invoke(app, [*words, "--out", str(tmp_path / "v1.5")])
    for name in ("s4.png", "s4_points.csv", "v1.5.png", "v1.5_points.csv"):
        assert (tmp_path / name).exists()


def test_a_number_of_a_sample_is_named(tmp_path):
    """Else it would stand beside numbers of the whole data set as if it were one."""
    some = rows()
    some[0] = {**some[0], "sample": {"limit": 40, "seed": 0, "of": 100}, "n": 40}
    assert pivot(rows(), "top1").parts == ()
    [part] = pivot(some, "top1").parts
    assert part.startswith("a_1, val: 40 of 100")
    for one in some:
        ResultStore(tmp_path).add([one])
    done = CliRunner().invoke(app, ["results", "table", str(tmp_path), "--metric", "top1"])
    assert f"not of whole data sets: {part}" in done.stderr


def measured(model: str, convention: dict[str, Any], **changed: Any) -> Any:
    return row(new_run_id(), **{"model": model, "dataset": "r", "convention": convention} | changed)


def fitted(n: int, score: str = "knn", model: str = "a", **changed: Any) -> Any:
    """A row of a run with n training images of each class."""
    fit = {"data": "train", "sha256": f"{n}" * 64, "images": 8 * n, "images_per_class": n, "sample": None}
    convention = {"fit": fit, "fit_convention": {"version": 1, "knn": "the 50th neighbour"}}
    return measured(model, convention, task="ood", metric="auroc", slice=f"score:{score}", **changed)


def test_scores_of_other_training_images_are_other_numbers():
    """Only those that are fitted: the rest of both runs is one number."""
    both = [fitted(5), fitted(7, value=0.75)]
    with pytest.raises(DataError, match=r"sets of training images: train 55555555, 5 of each class \(run "):
        pivot(both, "auroc score:knn")
    others = [fitted(5, "mcm"), fitted(7, "mcm", value=0.75)]
    assert pivot(others, "auroc score:mcm").lines["a"][0].value == 0.75
    assert pivot([both[0], fitted(5, value=0.75)], "auroc score:knn").lines["a"][0].value == 0.75
    [ways] = pivot([both[0], fitted(7, model="b")], "auroc score:knn").unlike
    assert [*ways] == ["sets of training images"]


def test_a_newer_row_without_a_value_hides_none():
    """A second fit of too few images for a covariance, say."""
    absent = fitted(1, value=None, interval=None, note="not applicable: too few")
    [cell] = pivot([fitted(5), absent], "auroc score:knn").lines["a"]
    assert cell.value == 0.5
    [cell] = pivot([absent], "auroc score:knn").lines["a"]
    assert cell.missing == ("ood r score:knn auroc (not applicable: too few)",)


OWN = "not applicable: a classifier has its own head"


@pytest.mark.parametrize(
    ("first", "second", "note"),
    [
        ({"prompts": "openai_80"}, {"prompts": "openai_80"}, None),
        ({"prompts": "openai_80"}, {"prompts": "single"}, "prompts openai_80 (a) or single (b)"),
        # A classifier, or a number of which nothing is known, has no prompts to choose.
        ({"prompts": "openai_80"}, {"prompts": OWN}, None),
        ({"prompts": "openai_80", "projection": None}, {"prompts": OWN, "projection": "max from x"}, None),
        ({"prompts": "openai_80"}, {}, None),
        ({"prompts": "p", "projection": None}, {"prompts": "p", "projection": "max from x"},
         "projections none (a) or max from x (b)"),
        ({"label_space": "r"}, {"label_space": "other"}, "label spaces r (a) or other (b)"),
        ({"label_space": "r"}, {"label_space": None}, "label spaces r (a) or none (b)"),
        ({"id": "imagenet_val"}, {"id": "mine"}, "ID sets imagenet_val (a) or mine (b)"),
        ({"question": "What?"}, {"question": "Which?"}, "questions What? (a) or Which? (b)"),
        ({"question": "What?"}, {"prompts": "openai_80"}, None),
        ({"chat": "vicuna_v1"}, {"chat": "llama_2"}, None),  # each model has its own
    ],
)  # fmt: skip
def test_numbers_that_were_not_measured_alike_have_no_best(first, second, note):
    table = pivot([measured("a", first, value=0.5), measured("b", second, value=0.75)], "top1")
    assert table.not_alike == (() if note is None else (f"r: {note}",))
    assert table.best == (0.75 if note is None else None,)
    assert ("**" in export_pivot(table, "markdown")) == (note is None)


def test_samples_and_images_that_differ_have_no_best():
    sample: Any = {"limit": 40, "seed": 0, "of": 100}
    whole, part = measured("a", {}), measured("b", {}, sample=sample)
    assert pivot([whole, part], "top1").not_alike == ("r: samples all images (a) or 40 of 100 images (b)",)
    assert pivot([measured("a", {}, sample=sample), part], "top1").not_alike == ()
    # A card's data set is one column; the digest tells that its images are others.
    one, other, same = (
        measured(name, {}, recipe={"images": digit * 64}, folder=None)
        for name, digit in (("a", "1"), ("b", "2"), ("c", "1"))
    )
    table = pivot([one, other, same], "top1")
    assert (len(table.columns), table.best) == (1, (None,))
    assert table.not_alike == ("r: images 11111111 (a, c) or 22222222 (b)",)
    published: Any = {**measured("p", {"source": "paper"}, recipe={"source": "paper"}), "origin": "published"}
    assert pivot([one, same, published], "top1").best == (0.5,)


def test_a_number_that_a_model_lacks_is_compared_with_nothing():
    lacking = measured("b", {"prompts": "single"}, value=None, interval=None, note="not applicable")
    rows = [measured("a", {"prompts": "openai_80"}), lacking, measured("c", {"prompts": "openai_80"})]
    assert pivot(rows, "top1").not_alike == ()
    names = [measured(f"m{k}", {"prompts": "single"}) for k in range(5)]
    assert pivot([*rows, *names], "top1").not_alike == (
        "r: prompts openai_80 (a, c) or single (m0, m1, m2 and 2 more)",
    )
