"""Two folders called `test` are two data sets, from the images on disk to every table."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from _colours import COLOURS, ColourModel
from typer.testing import CliRunner

import clipjax
from clipjax.analysis.diff.differences import compare_rows
from clipjax.analysis.report.data import report_data
from clipjax.analysis.rows.pivot import pivot
from clipjax.cli import app
from clipjax.data.cards import DatasetCard, load_dataset
from clipjax.errors import DataError, UsageError
from clipjax.evaluation.comparison.compare import compare_runs
from clipjax.evaluation.rows import Result
from clipjax.results.store import ResultStore

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Files of the same names, with other images: all are right in the first, half in the second."""
    for parent, colours in (("pets", ["red", "blue"]), ("birds", ["red", "red"])):
        for name, colour in zip(("red", "blue"), colours):
            folder = tmp_path / parent / "test" / name
            folder.mkdir(parents=True)
            for k in range(3):
                PIL.Image.new("RGB", (10 + k, 12), COLOURS[colour]).save(folder / f"{k}.png")
    return tmp_path / "pets" / "test", tmp_path / "birds" / "test"


def run(data: Any, results: Path | None, model: str = "a", **settings: Any) -> Result:
    settings = {"dataset": data, "prompts": "single", "progress": False} | settings
    return clipjax.evaluate(ColourModel(id=model), results=results, **settings)


def ends(table: Any, which: int) -> list[str]:
    """The last `which` parts of the titles' paths."""
    return sorted("/".join(column.title.split("/")[-which:]) for column in table.columns)


def command(*words: Any) -> Any:
    done = CliRunner().invoke(app, list(map(str, words)), catch_exceptions=True)
    assert done.exit_code == 0, done.output
    return done


def test_two_folders_are_two_columns_and_no_star_joins_them(folders, results):
    for root, model in zip(folders, "ab"):
        result = run(root, results, model)
        assert result.rows[0]["dataset"] == "test"
        assert str(result.rows[0].get("folder")).endswith(f"{root.parent.name}/test")
    rows = ResultStore(results).rows()
    table = pivot(rows, "top1")
    assert [column.title for column in table.columns] == ["birds/test", "pets/test"]
    assert table.best == (None, None)
    assert {model: [cell.value for cell in cells] for model, cells in table.lines.items()} == {
        "a": [None, 1.0], "b": [0.5, None]
    }  # fmt: skip
    listed = command("results", "list", results, "--metric", "top1").stdout
    assert "pets/test" in listed
    assert "birds/test" in listed
    assert "0.5000" not in command("results", "list", results, "--dataset", "pets/test").stdout
    assert command("results", "list", results, "--dataset", "test").stdout.count("/test ") > 2
    assert {column["dataset"] for column in report_data(rows, "x")["columns"]} == {"birds/test", "pets/test"}
    assert set(clipjax.load_results(results).dataset) == {"birds/test", "pets/test"}
    with pytest.raises(DataError, match=r"birds/test"):
        compare_runs("a", "b", results)


def test_a_copy_of_a_folder_is_the_same_data_set(folders, results, tmp_path):
    shutil.copytree(folders[0], tmp_path / "copy" / "test")
    run(folders[0], results, "a")
    run(tmp_path / "copy" / "test", results, "b", prompts="openai_7")
    run(tmp_path / "copy" / "test", results, "c")
    table = pivot(ResultStore(results).rows(), "top1")
    assert [column.title for column in table.columns] == ["test"]
    [note] = table.not_alike
    assert note == "test: prompts single (a, c) or openai_7 (b)"
    assert table.best == (None,)
    of_two = pivot(ResultStore(results).rows(), "top1", models=["a", "c"])
    assert (of_two.not_alike, of_two.best) == ((), (1.0,))
    assert compare_runs("a", "c", results)[0].dataset == "test"
    done = command("results", "table", results, "--metric", "top1")
    assert f"not measured alike, so that none is marked as the best: {note}" in done.stderr
    assert "*" not in done.stdout


def test_both_models_on_both_folders(folders, results):
    for model in "ab":
        for root in folders:
            run(root, results, model)
    table = pivot(ResultStore(results).rows(), "top1")
    assert table.best == (0.5, 1.0)
    found = compare_runs("a", "b", results, metrics=["top1"])
    assert sorted((each.first, each.second) for each in found) == [(0.5, 0.5), (1.0, 1.0)]
    before, after = (ResultStore(results).rows(as_recorded=True) for _ in "ab")
    found = compare_rows(before, after)
    assert (found.only_a, found.only_b) == ((), ())
    assert {pair.difference for pair in found.pairs if pair.a["metric"] == "top1"} == {0.0}


def test_diff_matches_data_sets_by_their_images(folders, results, tmp_path):
    """Of runs with other recipes: no two of one digest are mixed up."""
    for root in folders:
        run(root, results)
        run(root, tmp_path / "after", resamples=200)
    before, after = (ResultStore(each).rows(as_recorded=True) for each in (results, tmp_path / "after"))
    found = compare_rows(before, after[::-1])
    pairs = [pair for pair in found.pairs if pair.a["metric"] == "top1"]
    assert [pair.difference for pair in pairs] == [0.0, 0.0]
    assert command("results", "diff", results, tmp_path / "after").exit_code == 0


def test_a_stated_name_is_recorded(folders, results):
    result = run(folders[0], results, data_name="my pets")
    assert result.rows[0]["dataset"] == "my pets"
    assert result.rows[0]["recipe"]["dataset"] == "my pets"
    for wrong in ("", " ", "a\x1b[31m", "a\nb"):
        with pytest.raises(UsageError, match=r"data_name \(--data-name\) is .*: give a name without control"):
            run(folders[0], None, data_name=wrong)
    with pytest.raises(UsageError, match=r"is 'imagenet_val', the name of a card"):
        run(folders[0], None, data_name="imagenet_val")
    card = DatasetCard(name="pets", title="Pets", reader="folder")
    for dataset in (card, load_dataset(card, folders[0])):
        with pytest.raises(UsageError, match=r"the data set's card has its name: leave data_name"):
            run(dataset, None, root=folders[0], data_name="mine")


def test_a_card_keeps_one_column_with_a_note_of_other_images(folders, results):
    card = DatasetCard(name="pets", title="Pets", reader="folder", classes=("red", "blue"))
    for root, model in zip(folders, "ab"):
        result = run(card, results, model, root=root)
        assert result.rows[0].get("folder", "") is None
    table = pivot(ResultStore(results).rows(), "top1")
    assert [column.title for column in table.columns] == ["pets"]
    [note] = table.not_alike
    digests = [row["recipe"]["images"][:8] for row in ResultStore(results).rows() if row["metric"] == "top1"]
    assert note == f"pets: images {digests[0]} (a) or {digests[1]} (b)"
    assert table.best == (None,)


def test_the_card_of_any_folder_is_no_card(folders, results):
    for root, model in zip(folders, "ab"):
        run("folder", results, model, root=root)
    table = pivot(ResultStore(results).rows(), "top1")
    assert [column.title for column in table.columns] == ["folder (birds/test)", "folder (pets/test)"]


def test_a_sample_is_not_starred_beside_the_whole(folders, results):
    run(folders[0], results, "a")
    run(folders[0], results, "b", limit=4)
    table = pivot(ResultStore(results).rows(), "top1")
    assert [column.title for column in table.columns] == ["test"]
    assert table.not_alike == ("test: samples all images (a) or 4 of 6 images (b)",)
    assert table.best == (None,)
    run(folders[0], results, "a", limit=4)  # the whole data set is taken before the sample
    assert pivot(ResultStore(results).rows(), "top1").best == (None,)
    run(folders[0], results, "b")
    assert pivot(ResultStore(results).rows(), "top1").best == (1.0,)


def test_rows_of_older_versions_are_read_and_told_apart(folders, results):
    for root, model in zip(folders, "ab"):
        path = run(root, results, model).path
        assert path is not None
        for name in ("run.json", "rows.jsonl"):
            text = (path / name).read_text()
            fields = [json.loads(line) for line in ([text] if name == "run.json" else text.splitlines())]
            for each in fields:
                each.pop("folder", None)
                each.pop("files", None)
            (path / name).write_text("".join(json.dumps(each) + "\n" for each in fields))
    rows = ResultStore(results).rows()
    assert not any("folder" in row for row in rows)
    titles = {f"test ({row['recipe']['images'][:8]})" for row in rows}
    assert {column.title for column in pivot(rows, "top1").columns} == titles


def test_eval_takes_the_name(folders, results, tmp_path):
    path = run(folders[0], results).path
    assert path is not None
    shutil.copy(path / "images.parquet", table := tmp_path / "images.parquet")
    words = ["eval", "zeroshot", "--predictions", table, "--data", folders[0], "--results", results]
    command(*words, "--data-name", "mine")
    command(*words)
    rows = ResultStore(results).rows()
    assert {row["dataset"] for row in rows if "predictions" in row["recipe"]} == {"mine", "test"}
    assert {str(row.get("folder")).split("/")[-2] for row in rows} == {"pets"}
    for wrong in (
        ["eval", "zeroshot", "--predictions", table, "--data-name", "mine"],
        ["eval", "zeroshot", "--model", "m", "--data-root", tmp_path, "--data-name", "mine"],
    ):
        done = CliRunner().invoke(app, list(map(str, wrong)))
        assert isinstance(done.exception, UsageError), done.output
        assert "--data-name" in str(done.exception)
