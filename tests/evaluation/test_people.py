"""Ten people on the cue-conflict images: their mean and its interval, a line in Fig. 2, and never a model."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats as typed_stats
from _rows import row
from typer.testing import CliRunner

from clipjax.analysis.claims.claims import check
from clipjax.analysis.claims.ledger import ledger
from clipjax.analysis.figures.figure_set import analyze
from clipjax.analysis.figures.spec import load_spec
from clipjax.analysis.report.data import report_data
from clipjax.analysis.rows.cells import Column, RowIndex, Term, cells_of
from clipjax.analysis.rows.curation import columns
from clipjax.cli import app
from clipjax.errors import DataError, UsageError
from clipjax.evaluation.predictions.people import people_rows
from clipjax.results.rows import PEOPLE, of_people
from clipjax.results.store import ResultStore

stats = typed_stats
HEAD = ["subj", "session", "trial", "rt", "object_response", "category", "condition", "imagename"]
READ = ("svg", "csv")  # of the files of a figure
TERM = Term("shape_bias", "cue_conflict", "shape_bias")
# Decisions of three people on four images in conflict and one without.
IMAGES = ["bird1-cat1", "bird2-dog1", "cat1-dog1", "dog1-bird1", "dog2-dog1"]
SAID = {
    "01": ["bird", "bird", "cat", "bird", "dog"],
    "02": ["bird", "bird", "cat", "dog", "na"],
    "03": ["cat", "bird", "na", "bear", "dog"],
}


def person(folder: Path, name: str, said: list[str], images: list[str] = IMAGES) -> Path:
    path = folder / f"cue-conflict_subject-{name}_session_1.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEAD)
        for k, (image, answer) in enumerate(zip(images, said), 1):
            shape = image.split("-")[0].rstrip("0123456789")
            file_name = f"{k:04d}_s5n_s{name}_0_{shape}_00_{image}.png"
            writer.writerow([f"subject-{name}", 1, k, 0.5, answer, shape, 0, file_name])
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    home = tmp_path / "people"
    home.mkdir()
    for name, said in SAID.items():
        person(home, name, said)
    return home


@pytest.fixture(scope="module")
def ten(test_data: Path) -> list[Any]:
    return people_rows("model_vs_human", test_data / "cue_conflict_human")


def by_hand(folder: Path) -> list[float]:
    """Each person's shape bias, counted in plain Python."""
    found = []
    for path in sorted(folder.glob("*.csv")):
        shape = texture = 0
        with path.open(newline="") as file:
            for line in csv.DictReader(file):
                cue = line["imagename"].split("-")[-1].split(".")[0].rstrip("0123456789")
                if cue != line["category"]:
                    shape += line["object_response"] == line["category"]
                    texture += line["object_response"] == cue
        found.append(shape / (shape + texture))
    return found


def test_the_ten_people(ten: list[Any], test_data: Path):
    each = by_hand(test_data / "cue_conflict_human")
    assert round(each[0], 4) == 0.9617  # 829 and 33 decisions of subject-01, published
    [mine] = [one for one in ten if one["metric"] == "shape_bias"]
    assert mine["value"] == pytest.approx(np.mean(each), abs=1e-12)
    limits = stats.t.interval(0.95, 9, np.mean(each), stats.sem(each))
    assert (mine["interval"]["lo"], mine["interval"]["hi"]) == pytest.approx(limits, abs=1e-12)
    assert mine["interval"]["method"] == "student_t_across_people"
    assert (round(mine["value"], 4), mine["n"], mine["aggregates"]) == (0.9576, 1200, PEOPLE)
    assert mine["note"] == "mean of 10 people; 80 images without conflict left out"
    assert (mine["origin"], mine["convention"]["source"]) == ("published", "model_vs_human")
    assert (mine["model"], mine["model_facts"]) == (PEOPLE, {"kind": PEOPLE, "people": 10})
    assert [one["metric"] for one in ten if of_people(one)] == [
        "shape_bias",
        "shape_fraction",
        "texture_fraction",
        "other_fraction",
    ]


def test_three_people_by_hand(folder: Path):
    """Shape and texture decisions in conflict: 3 and 1, 4 and 0, 1 and 1; the second has no fifth answer."""
    bias: Any
    [bias, shape, *_] = people_rows("model_vs_human", folder)
    assert bias["value"] == pytest.approx((3 / 4 + 1 + 1 / 2) / 3)
    assert shape["value"] == pytest.approx((3 / 4 + 1 + 1 / 4) / 3)
    assert bias["n"] == shape["n"] == 4
    assert bias["interval"]["hi"] == 1.0  # the t interval would leave the proportions
    assert bias["recipe_hash"] == people_rows("model_vs_human", folder)[0]["recipe_hash"]


def model_row(model: str, value: float, **facts: object) -> Any:
    own = {"kind": "classifier", "fine_tune": "none", "params_m": 20, **facts}
    where = {"task": "shape_bias", "dataset": "cue_conflict", "metric": "shape_bias"}
    return row("r", **where, model=model, value=value, model_facts=own)


def test_people_are_no_model(ten: list[Any]):
    """Neither a point, a table's line, a claim's model nor a model of the report."""
    models = [model_row("a", 0.3, group="standard", arch_kind="cnn")]
    index = RowIndex([*models, *ten])
    assert list(index.models) == ["a"]
    assert index.people[TERM] is ten[0]
    assert list(cells_of([*models, *ten], [Column("s", "S", "neither", None, (TERM,))])) == ["a"]
    assert list(cells_of([*models, *ten], columns())) == []
    assert report_data([*models, *ten], "x")["models"] == ["a"]
    found = check(ledger(), [*models, *ten], resamples=100)
    assert all(PEOPLE not in each["model"] for v in found for f in v.findings for each in f.rows)


def test_the_line_in_figure_2(ten: list[Any], tmp_path: Path):
    """Its numbers in a CSV of its own; without people there is none, and the points are the same."""
    models = [
        model_row("a", 0.2, group="standard", arch_kind="cnn"),
        model_row("b", 0.5, group="clip", arch_kind="vit"),
    ]
    with_people = analyze(load_spec("fig2"), RowIndex([*models, *ten]), tmp_path / "with", formats=READ)
    without = analyze(load_spec("fig2"), RowIndex(models), tmp_path / "without", formats=READ)
    assert with_people.models == without.models == {"a", "b"}
    names = [{path.name for path in done.files} for done in (with_people, without)]
    assert names[0] - names[1] == {"fig2_people.csv"}
    points = [(tmp_path / home / "fig2_points.csv").read_bytes() for home in ("with", "without")]
    assert points[0] == points[1]
    with (tmp_path / "with" / "fig2_people.csv").open(newline="") as file:
        [line] = csv.DictReader(file)
    assert (line["people"], line["images"], line["method"]) == ("10", "1200", "student_t_across_people")
    assert float(line["value"]) == ten[0]["value"]
    text = (tmp_path / "with" / "fig2.svg").read_text()
    said = "mean of 10 people on 1,200 images, 0.958"
    assert said in " ".join(text.split())
    assert "people" not in (tmp_path / "without" / "fig2.svg").read_text()


def test_people_alone_draw_nothing(ten: list[Any], tmp_path: Path):
    done = analyze(load_spec("fig2"), RowIndex(ten), tmp_path)
    assert (done.files, done.drawn) == ((), 0)


def test_the_command(folder: Path, tmp_path: Path):
    command = ["results", "import", str(folder), "--source", "model_vs_human", "--out", str(tmp_path / "r")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "4 numbers of 3 people, none of them a model" in done.output
    assert {one["model"] for one in ResultStore(tmp_path / "r").rows()} == {PEOPLE}
    for more, message in (
        (["--registered"], "--registered"),
        ([str(folder)], "give one folder with the decisions of model_vs_human's people, not 2"),
    ):
        refused = CliRunner().invoke(app, [*command, *more])
        assert isinstance(refused.exception, UsageError)
        assert message in str(refused.exception)


def test_what_is_refused(folder: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="the source 'timm' has no people; known: model_vs_human"):
        people_rows("timm", folder)
    with pytest.raises(DataError, match="holds 0 files cue-conflict_subject"):
        people_rows("model_vs_human", tmp_path)
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(sorted(folder.iterdir())[0], alone)
    with pytest.raises(DataError, match="holds 1 files"):
        people_rows("model_vs_human", alone)
    person(folder, "04", SAID["01"][:4], IMAGES[:4])
    with pytest.raises(DataError, match=r"subject-04.* are of different images"):
        people_rows("model_vs_human", folder)
    person(folder, "04", [*SAID["01"][:4], "unicorn"])
    with pytest.raises(DataError, match=r"subject-04_session_1\.csv:6: object_response says 'unicorn'"):
        people_rows("model_vs_human", folder)
