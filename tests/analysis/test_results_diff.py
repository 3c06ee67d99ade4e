"""Two sets of results held against each other: which rows belong together, how far apart, what departs."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from _rows import row
from typer.testing import CliRunner

from clipjax.analysis.diff.differences import METHOD, compare_rows
from clipjax.analysis.diff.tables import alone, changes, export_differences, otherwise, summary
from clipjax.cli import app
from clipjax.errors import DataError, UsageError
from clipjax.metrics.uncertainty.intervals import paired_difference, wilson
from clipjax.results.store import ResultStore, new_run_id
from clipjax.tasks.task import find_task


def number(value: float | None, letter: str = "a", **changed: Any) -> Any:
    """A row with Wilson's interval of 100 images; `letter` is the recipe's hash."""
    interval = None if value is None else wilson(100 * value, 100)._asdict()
    fields = {"value": value, "interval": interval, "recipe_hash": letter * 64}
    return row(new_run_id(), **{**fields, "task_version": find_task("zeroshot").version, **changed})


def said(prompts: str) -> dict[str, Any]:
    return {"convention": {"prompts": prompts}, "recipe": {"prompts": prompts}}


def test_rows_of_one_recipe_belong_together() -> None:
    """Whatever their order, and though other rows are of the same number."""
    a = [number(0.5, "a", **said("one")), number(0.6, "b", **said("two"))]
    b = [number(0.62, "b", **said("two")), number(0.5, "a", **said("one"))]
    found = compare_rows(a, b)
    assert [(pair.a["value"], pair.b["value"]) for pair in found.pairs] == [(0.6, 0.62), (0.5, 0.5)]
    assert found.pairs[0].difference == pytest.approx(0.02)
    assert found.pairs[0].interval is None, "one model on one set of images: no chance of the images"
    assert (found.only_a, found.only_b) == ((), ())
    assert [pair.beyond(0.03) for pair in found.pairs] == [False, False]


def test_then_those_of_one_convention() -> None:
    """Another version changes every recipe; prompts still say which row is which."""
    a = [number(0.5, "a", **said("one")), number(0.6, "b", **said("two"))]
    b = [number(0.7, "c", **said("two")), number(0.4, "d", **said("one"))]
    assert {(pair.a["value"], pair.b["value"]) for pair in compare_rows(a, b).pairs} == {
        (0.5, 0.4),
        (0.6, 0.7),
    }


def test_then_those_that_are_alone_with_what_was_done_otherwise() -> None:
    a = [number(0.5, "a", **said("one"), versions={"jax": "1", "numpy": "2"})]
    b = [number(0.6, "b", **said("two"), versions={"jax": "2", "numpy": "2"}, precision="fast")]
    [pair] = compare_rows(a, b).pairs
    assert list(map(str, pair.departures)) == [
        "convention.prompts: one -> two",
        "precision: parity -> fast",
        "recipe.prompts: one -> two",
        "versions.jax: 1 -> 2",
    ]


def test_another_framework_departs_but_not_from_a_row_that_does_not_say() -> None:
    ours, theirs, older = number(0.5, framework="jax"), number(0.6, framework="torch:timm"), number(0.5)
    [pair], [untold] = compare_rows([ours], [theirs]).pairs, compare_rows([older], [theirs]).pairs
    assert list(map(str, pair.departures)) == ["framework: jax -> torch:timm"]
    assert untold.departures == ()


@pytest.mark.parametrize(
    "changed",
    [{"model": "tiny_2"}, {"dataset": "other"}, {"task": "ood"}, {"metric": "top5"}, {"slice": "class:a"}],
)
def test_another_number_is_no_partner(changed: dict[str, Any]) -> None:
    a, b = [number(0.5)], [number(0.5, **changed)]
    found = compare_rows(a, b)
    assert (found.pairs, found.only_a, found.only_b) == ((), tuple(a), tuple(b))


def test_a_resized_model_is_another() -> None:
    resized = number(0.5, model_facts={"resized": {"from": 224}, "image_size": 336})
    assert compare_rows([number(0.5)], [resized]).pairs == ()


def test_rows_that_nothing_tells_apart_stay_alone() -> None:
    """Two runs of A could be meant: neither is taken."""
    a, b = [number(0.5, "a"), number(0.6, "b")], [number(0.7, "c")]
    found = compare_rows(a, b)
    assert (found.pairs, found.only_a, found.only_b) == ((), tuple(a), tuple(b))


@pytest.mark.parametrize("b_hits", [40, 55, 69, 70, 71, 90])
def test_the_interval_leaves_0_out_where_the_rows_intervals_are_apart(b_hits: int) -> None:
    """It is as wide as errors that add up make it, and so twice that of each where they are alike."""
    a, b = number(0.5, "a"), number(b_hits / 100, "b")
    [pair] = compare_rows([a], [b]).pairs
    assert pair.interval is not None
    assert (pair.interval["method"], pair.interval["level"]) == (METHOD, 0.95)
    width = sum(one["interval"]["hi"] - one["interval"]["lo"] for one in (a, b))
    assert pair.interval["hi"] - pair.interval["lo"] == pytest.approx(width)
    apart = a["interval"]["hi"] < b["interval"]["lo"] or b["interval"]["hi"] < a["interval"]["lo"]
    assert pair.beyond_chance == apart
    [back] = compare_rows([b], [a]).pairs
    assert back.interval is not None
    assert (back.interval["lo"], back.interval["hi"]) == pytest.approx(
        (-pair.interval["hi"], -pair.interval["lo"])
    )


def test_it_is_never_narrower_than_the_paired_one() -> None:
    """Whatever the images that only one of the two has right."""
    for both, only_a, only_b in ((40, 10, 30), (0, 50, 50), (50, 0, 20), (30, 35, 5)):
        [pair] = compare_rows(
            [number((both + only_a) / 100, "a")], [number((both + only_b) / 100, "b")]
        ).pairs
        paired = paired_difference(only_b, only_a, 100)
        assert pair.interval is not None
        assert pair.interval["lo"] <= paired.lo + 1e-12
        assert pair.interval["hi"] >= paired.hi - 1e-12


def test_without_an_interval_or_a_value() -> None:
    a = [number(0.5, "a", interval=None), number(None, "b", metric="top5", note="too few classes")]
    b = [number(0.5, "c"), number(0.9, "d", metric="top5")]
    found = compare_rows(a, b)
    values = [(pair.difference, pair.interval, pair.beyond(1)) for pair in found.pairs]
    assert values == [(None, None, True), (0.0, None, False)]
    assert [line[4:6] for line in changes(found)[1]] == [["", "0.9000"]]


def mixed() -> Any:
    a = [number(0.5, "a"), number(0.2, "b", metric="top5"), number(0.1, metric="gone")]
    b = [number(0.50001, "c"), number(0.9, "d", metric="top5"), number(0.1, slice="class:x")]
    return compare_rows(a, b)


def test_tables_for_a_person() -> None:
    found = mixed()
    assert summary(found, 0.001) == [
        "2 numbers on both sides: 0 equal, 1 further apart than 0.001 (1 with 0 outside the interval)",
        "1 only in A, 1 only in B",
    ]
    titles, lines = changes(found)
    assert titles[-4:] == ["A", "B", "B - A", "interval"]
    assert [line[4:7] for line in lines] == [
        ["0.2000", "0.9000", "+0.7000"],
        ["0.5000", "0.5000", "+1.0e-05"],
    ]
    assert len(changes(found, limit=1)[1]) == 1
    assert alone(found.only_b, "B") == (
        ["model", "task", "data set", "slice", "metric", "only in B"],
        [["tiny_1", "zeroshot", "demo_world", "class:x", "top1", "0.1000"]],
    )
    assert otherwise(found)[1] == []


def test_exports_hold_every_difference() -> None:
    found = mixed()
    lines = list(csv.DictReader(io.StringIO(export_differences(found, 0, "csv"))))
    assert [(line["metric"], line["a"], line["b"]) for line in lines] == [
        ("top5", "0.2", "0.9"),
        ("top1", "0.5", "0.50001"),
        ("gone", "0.1", ""),
        ("top1", "", "0.1"),
    ]
    assert float(lines[0]["difference"]) == 0.9 - 0.2
    record = json.loads(export_differences(found, 0.001, "json"))
    assert {key: record[key] for key in ("matched", "only_a", "only_b")} == {
        "matched": 2,
        "only_a": 1,
        "only_b": 1,
    }
    assert [one["metric"] for one in record["rows"]] == ["top5", "gone", "top1"]
    assert "| top5 |" in export_differences(found, 0.001, "markdown")
    with pytest.raises(UsageError, match="unknown format 'xml'"):
        export_differences(found, 0, "xml")


def stores(folder: Path) -> tuple[Path, Path]:
    """Two folders with a run each, of the same 100 images: 10 that only A has right, 30 that only B has."""
    right = {"a": [True] * 50 + [False] * 50, "b": [True] * 40 + [False] * 10 + [True] * 30 + [False] * 20}
    labels, places = ["x"] * 100, []
    for (name, correct), letter in zip(right.items(), "ef"):
        images = {
            "id": list(map(str, range(100))),
            "label": labels,
            "correct": correct,
            "correct_top5": [True] * 100,
        }
        images["prediction"] = ["x" if hit else "y" for hit in correct]
        one = number(sum(correct) / 100, letter)
        ResultStore(folder / name).add([one], images)
        places.append(folder / name)
    return places[0], places[1]


def invoke(*words: object) -> Any:
    return CliRunner().invoke(app, ["results", "diff", *map(str, words)])


def test_the_command(tmp_path: Path) -> None:
    a, b = stores(tmp_path)
    done = invoke(a, b)
    assert done.exit_code == 0, done.output
    assert "+0.2000" in done.stdout
    assert "1 number on both sides: 0 equal, 1 different" in done.stdout
    [of_run] = [json.loads(invoke(next(a.iterdir()), b, "-f", "json").stdout)["rows"]]
    assert [one["method"] for one in of_run] == [METHOD]
    for words, code in ((["--check"], DataError), (["--check", "--tolerance", "0.3"], None)):
        checked = invoke(a, b, *words)
        assert (checked.exception and type(checked.exception)) == code
    assert invoke(a, a, "--check").exit_code == 0
    out = tmp_path / "d.csv"
    assert invoke(a, b, "-f", "csv", "-o", out).exit_code == 0
    assert out.read_text().startswith("model,task,dataset")


def test_paired_intervals_are_those_of_compare(tmp_path: Path) -> None:
    a, b = stores(tmp_path)
    [one] = json.loads(invoke(a, b, "--paired", "-f", "json").stdout)["rows"]
    expected = paired_difference(30, 10, 100)._asdict()
    assert {key: one[key] for key in expected} == pytest.approx(expected)


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    a, b = stores(tmp_path)
    ResultStore(tmp_path / "c").add([number(0.5, model="tiny_2")])
    for words, kind, message in (
        ((a, tmp_path / "c"), DataError, "have no number in common.*clipjax compare"),
        ((a, tmp_path / "no"), DataError, "does not exist"),
        ((a, b, "-f", "xml"), UsageError, "unknown format 'xml'"),
        ((a, b, "-o", tmp_path / "t"), UsageError, "do not go together"),
    ):
        error = invoke(*words).exception
        assert isinstance(error, kind)
        assert re.search(message, str(error))


def test_without_tables_of_images_the_interval_is_that_of_the_rows(tmp_path: Path) -> None:
    a, _ = stores(tmp_path)
    ResultStore(tmp_path / "d").add([number(0.7, "d")])
    [one] = json.loads(invoke(a, tmp_path / "d", "--paired", "-f", "json").stdout)["rows"]
    assert one["method"] == METHOD
