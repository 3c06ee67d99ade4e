"""A part of a data set is named wherever its numbers are shown, and never stands for the whole."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _colours import ColourModel, paint
from _rows import row
from _study import models
from typer.testing import CliRunner

import clipjax
from clipjax.analysis.figures.figure_set import analyze
from clipjax.analysis.figures.spec import load_spec
from clipjax.analysis.report.data import report_data
from clipjax.analysis.rows.cells import Cell, Column, RowIndex, Term, cells_of
from clipjax.analysis.rows.curation import curation_table, export_curation, wide
from clipjax.cli import app
from clipjax.commands.runs.summary import show
from clipjax.data.labels import load_labels
from clipjax.evaluation.predictions.scoring import evaluate_predictions
from clipjax.results.completeness import in_words, is_whole, stated
from clipjax.results.exports import text_parts
from clipjax.results.published.protocols import nearest
from clipjax.results.rows import validate_rows
from clipjax.results.store import ResultStore, new_run_id
from clipjax.results.tables import summary_table

PART = {"images": 373, "of": 1280}
TOP1 = Term("zeroshot", "imagenet_val", "top1")
COLUMN = Column("top1", "top-1", "higher", None, (TOP1,))
OLD, NEW = (f"2026010{k}T000000.000000Z-00000000" for k in (1, 2))


def of(run_id: str = OLD, **changed: Any) -> Any:
    fields = {"model": "m", **TOP1._asdict(), "convention": {"prompts": "openai_80"}}
    return row(run_id, **{**fields, **changed})


def chosen(*rows: Any, **settings: Any) -> Cell:
    return cells_of(rows, [COLUMN], **settings)["m"][0]


# What a row says.


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, None),
        ({"part": None}, None),
        ({"part": PART}, "373 of 1,280 images"),
        ({"part": {"images": 1300, "of": 1280}}, "1,300 instead of 1,280 images"),
        (
            {"part": {"images": 1280, "of": 1280, "foreign": 7}},
            "1,280 of 1,280 images (7 of them not the data set's)",
        ),
        ({"sample": {"limit": 200, "seed": 0, "of": 50000}}, "200 of 50,000 images"),
        ({"sample": {"limit": 20, "seed": 0, "of": 373}, "part": PART}, "20 of 1,280 images"),
        ({"id_part": {"images": 9, "of": 50}}, "9 of 50 in-distribution images"),
        (
            {"part": PART, "convention": {"id_sample": {"limit": 9, "seed": 0, "of": 50}}},
            "373 of 1,280 images, 9 of 50 in-distribution images",
        ),
    ],
)
def test_a_row_says_which_images_it_is_of(changed, words):
    assert (in_words(of(**changed)), is_whole(of(**changed))) == (words, words is None)
    validate_rows([of(**changed)])


def test_a_departure_of_its_own():
    match = nearest(of(part=PART, sample={"limit": 20, "seed": 0, "of": 373}))
    assert match is not None
    departures = [d for d in match.field()["departures"] if d.startswith("images")]
    assert departures == ["images: 373 of 1,280, not all", "images: a random sample of 20 of 373, not all"]
    sides = nearest(of(task="ood", dataset="ninco", id_part={"images": 9, "of": 50}, model_facts={}))
    assert sides is not None
    assert "ID images: 9 of 50, not all" in sides.field()["departures"]


# Which row a number is.


@pytest.mark.parametrize("less", [{"part": PART}, {"sample": {"limit": 200, "seed": 0, "of": 50000}}])
@pytest.mark.parametrize("whole", [{}, {"origin": "published"}, {"precision": "fast"}, {"part": None}])
def test_a_part_never_beats_the_whole(less, whole):
    newer, older = of(NEW, value=0.005, **less), of(OLD, value=0.6656, **whole)
    assert chosen(newer, older).value == 0.6656
    assert chosen(newer, older, prompts="openai_80").part is None
    if newer["precision"] == older["precision"]:  # which are columns of their own in the report
        assert report_data([newer, older], "both")["cells"]["value"] == [0.6656]


def test_a_part_alone_is_shown_as_one():
    known = of(model="vit_b_32-openai", value=0.6, part={"images": 200, "of": 50000})
    [cell] = cells_of([known], [COLUMN])["vit_b_32-openai"]
    assert (cell.value, cell.part) == (0.6, "200 of 50,000 images")
    assert cell.reference
    assert all(str(one["note"]).startswith("ours is of 200 of 50,000 images") for one in cell.reference)
    two = Column("two", "two", "higher", None, (TOP1, TOP1._replace(dataset="imagenet_a")))
    [both] = cells_of([of(part=PART), of(dataset="imagenet_a", part={"images": 2, "of": 7500})], [two])["m"]
    assert both.part == "parts of 2 sets"
    titles, [line] = summary_table([known])
    assert dict(zip(titles, line))["of"] == "200 of 50,000 images"
    assert "373 of 1,280 images" in "".join(text_parts([of(part=PART)], "markdown"))
    assert "of" not in summary_table([of()])[0]


def test_curation_marks_a_part():
    rows = [of(dataset="imagenet_r", part={"images": 5, "of": 30000})]
    column = Column("r", "R", "higher", None, (TOP1._replace(dataset="imagenet_r"),))
    table = curation_table(rows, of=[column])
    assert wide(table)[1][0] == ["m", "0.5000* (5 of 30,000 images)"]
    assert json.loads(export_curation(table, "json"))[0]["part"] == "5 of 30,000 images"


# Older results.


def write(folder: Path, rows: int = 3, extra: dict[str, Any] | None = None, **changed: Any) -> list[Any]:
    """A run of a version without `part`, as it is read."""
    columns = {"id": [f"{k}.png" for k in range(rows)], **(extra or {})}
    run_id = new_run_id()
    ResultStore(folder).add([of(run_id, **changed), of(run_id, slice="class:a", n=1, **changed)], columns)
    return ResultStore(folder).run(run_id)


def test_runs_of_older_versions_are_counted(tmp_path):
    for read in write(tmp_path, 373, dataset="cue_conflict"):
        assert read["part"] == PART
    assert write(tmp_path, 1280, dataset="cue_conflict")[0]["part"] is None
    assert write(tmp_path, 1279, dataset="cue_conflict", skipped=1)[0]["part"] is None
    assert write(tmp_path, 300, dataset="cue_conflict", skipped=1)[0]["part"] == {"images": 301, "of": 1280}
    sample = {"limit": 3, "seed": 0, "of": 1280}
    assert write(tmp_path, dataset="cue_conflict", sample=sample)[0]["part"] is None
    assert write(tmp_path, dataset="cue_conflict", sample=sample | {"of": 373})[0]["part"] == PART
    assert "part" not in write(tmp_path, dataset="my_photos")[0]
    assert "part" not in write(tmp_path, dataset="cue_conflict", origin="published")[0]
    assert write(tmp_path, dataset="cue_conflict", part=None)[0]["part"] is None  # as a newer run says


def test_both_sides_of_older_runs_are_counted(tmp_path):
    inside = {"in_distribution": [True, True, False]}
    convention = {"id": "imagenet_val"}
    [read, _] = write(tmp_path, 3, inside, task="ood", dataset="ninco", convention=convention)
    assert (read["part"], read["id_part"]) == ({"images": 1, "of": 5879}, {"images": 2, "of": 50000})
    halves = {"calibration_images": [640] * 640}
    convention = {"id": "cue_conflict"}
    read = write(tmp_path, 640, halves, task="calibration", dataset="cue_conflict", convention=convention)
    assert read[0]["part"] is None


def test_comparisons_of_older_runs_are_marked(tmp_path):
    known = {"value": 0.6, "source": "paper", "difference": -0.1, "note": "80 prompts"}
    protocol = {"name": "clip_80", "sha256": "a" * 64, "departures": []}
    read = write(tmp_path, 3, reference=[known], protocol=protocol)[0]
    assert read["reference"][0]["note"] == "ours is of 3 of 50,000 images; 80 prompts"
    assert read["protocol"]["departures"] == ["images: 3 of 50,000, not all"]


def test_a_damaged_table_leaves_older_rows_as_they_are(tmp_path):
    run_id = write(tmp_path, 3, dataset="cue_conflict")[0]["run_id"]
    (tmp_path / run_id / "images.parquet").write_bytes(b"PAR1")
    assert "part" not in ResultStore(tmp_path).run(run_id)[0]


# From images and predictions to what people read.


class Random(ColourModel):
    """A classifier over ImageNet's classes that sees three colours."""

    def __init__(self) -> None:
        super().__init__(kind="classifier", classes="imagenet", logit_scale=None, id="random")
        kernel = np.random.default_rng(0).normal(size=(4, 1000)).astype(np.float32)
        self.params = {"head": {"kernel": kernel, "bias": np.zeros(1000, np.float32)}}


def output(*command: str) -> str:
    done = CliRunner().invoke(app, list(command), catch_exceptions=False, env={"COLUMNS": "300"})
    assert done.exit_code == 0, done.output
    return done.output


def cues(root: Path, results: Path) -> Any:
    how = {"resamples": 20, "results": results, "progress": False}
    return clipjax.evaluate(Random(), "shape_bias", dataset="cue_conflict", root=root, **how)


@pytest.mark.long("results/test_completeness.py::test_miniature_data_run_as_before_and_say_so")
def test_373_of_1280_cue_conflict_images(test_data, tmp_path):
    result = cues(test_data / "cue_conflict", tmp_path)
    assert {json.dumps(each["part"]) for each in result.rows} == {json.dumps(PART)}
    assert stated(result.rows) == ["cue_conflict: 373 of 1,280 images"]
    assert "images: 373 of 1,280" in output("explain", str(tmp_path))
    run = re.sub(r"\s+", " ", output("explain", str(tmp_path), "--run", result.rows[0]["run_id"]))
    assert "images all 373 of 1,280" in run
    assert "373 of 1,280 images" in output("results", "list", str(tmp_path))


def test_miniature_data_run_as_before_and_say_so(tmp_path, capsys):
    for name in load_labels("cue_conflict").ids:
        paint(tmp_path / "cue" / name / f"{name}1-bird1.png", "red")
    result = cues(tmp_path / "cue", tmp_path / "results")
    assert result.rows[0]["part"] == {"images": 16, "of": 1280}
    show([result], as_json=False)
    shown = capsys.readouterr()
    assert "not the whole data set: cue_conflict: 16 of 1,280 images" in shown.err
    assert "16 of 1,280 images" in shown.out
    assert "images tell" not in shown.err, "of --limit alone, and of shares of images"
    assert result.rows == ResultStore(tmp_path / "results").rows()
    results = str(tmp_path / "results")
    assert "images: 16 of 1,280" in output("explain", results)
    run = re.sub(r"\s+", " ", output("explain", results, "--run", result.rows[0]["run_id"]))
    assert "images all 16 of 1,280" in run
    assert "16 of 1,280 images" in output("results", "list", results)


def test_200_random_logits_do_not_replace_the_published_number(tmp_path):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(200, 1000)).astype(np.float32)
    np.savez(tmp_path / "mine.npz", logits=logits, labels=rng.integers(0, 1000, 200))
    made: Any = evaluate_predictions(
        "zeroshot", tmp_path / "mine.npz", dataset="imagenet_val", model="m", resamples=20
    )
    assert made.rows[0]["part"] == {"images": 200, "of": 50000}
    rows = [of(origin="published", value=0.6656, n=50000), *made.rows]
    assert chosen(*rows).value == 0.6656
    assert chosen(*made.rows).part == "200 of 50,000 images"


def test_both_sides_of_predictions_are_counted(tmp_path):
    rng = np.random.default_rng(0)
    sides: dict[str, Any] = {
        f"{side}_logits": rng.normal(size=(n, 1000)) for side, n in (("id", 8), ("ood", 5))
    }
    np.savez(tmp_path / "ninco.npz", **sides, ood_class=np.array(list("aabbb")))
    first: Any = evaluate_predictions(
        "ood", tmp_path / "ninco.npz", dataset="ninco", resamples=20, results=tmp_path / "results"
    )
    [made, *_] = first.rows
    assert (made["part"], made["id_part"]) == ({"images": 5, "of": 5879}, {"images": 8, "of": 50000})
    assert first.path is not None
    again: Any = evaluate_predictions("ood", first.path / "images.parquet", resamples=20).rows[0]
    assert (again["part"], again["id_part"]) == (made["part"], made["id_part"])
    alone = (first.path / "images.parquet").rename(tmp_path / "alone.parquet")
    table: Any = evaluate_predictions("ood", alone, dataset="ninco", labels="imagenet", resamples=20).rows[0]
    assert (table["part"], table["id_part"]) == (made["part"], made["id_part"])


@pytest.mark.parametrize("images", [4, 6])
def test_the_two_halves_of_calibration_are_one_set(tmp_path, images):
    card = tmp_path / "six.toml"
    lines = ('name = "six"', 'title = "S"', 'reader = "folder"', "images = 6", 'classes = ["a", "b"]')
    card.write_text("\n".join((*lines, 'id = "six"')))
    rng = np.random.default_rng(0)
    marks = np.arange(images) % 2 == 0
    arrays = {"logits": rng.normal(size=(images, 2)), "labels": np.arange(images) // 2 % 2}
    np.savez(tmp_path / "six.npz", **arrays, calibration=marks)
    first: Any = evaluate_predictions(
        "calibration", tmp_path / "six.npz", dataset=card, resamples=20, results=tmp_path / "results"
    )
    part = None if images == 6 else {"images": 4, "of": 6}
    assert first.rows[0]["part"] == part
    assert first.path is not None
    alone = (first.path / "images.parquet").rename(tmp_path / "alone.parquet")
    second: Any = evaluate_predictions("calibration", alone, dataset=card, resamples=20)
    assert second.rows[0]["part"] == part


def test_figures_say_which_points_are_of_parts(tmp_path):
    spec = load_spec("fig2")
    terms = dict.fromkeys(term for axis in spec.panels[0].axes for term in axis.column.terms)
    facts = {"model_facts": models()["vit_b_32-openai"]}
    rows = [of(**{**term._asdict(), **facts, "part": PART}) for term in terms]
    done = analyze(spec, RowIndex(rows), tmp_path, formats=["csv"])
    assert {(model, words.rpartition(": ")[2]) for model, words in done.parts} == {
        ("m", "373 of 1,280 images")
    }
    text = "".join(path.read_text() for path in done.files)
    assert "x_part" in text
    assert "373 of 1,280 images" in text
    whole = analyze(spec, RowIndex([each | {"part": None} for each in rows]), tmp_path, formats=["csv"])
    assert (whole.parts, whole.drawn) == ((), done.drawn)
