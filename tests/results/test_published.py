"""Published tables are read exactly: names, units, the right spelling of a model; and become result rows."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from clipjax.analysis.rows.curation import curation_table
from clipjax.cli import app
from clipjax.config import config_dir
from clipjax.errors import DataError, UsageError
from clipjax.metrics.uncertainty.intervals import clopper_pearson
from clipjax.results.published.numbers import as_csv, read_numbers, read_published, updated
from clipjax.results.published.references import lookup
from clipjax.results.published.result_rows import METHOD, published_rows
from clipjax.results.rows import validate_rows
from clipjax.results.store import ResultStore

CLASSIFICATION = "openclip_classification_results.csv"
COLUMNS = ("ImageNet 1k", "ImageNet v2", "ImageNet Sketch", "ImageNet-A", "ImageNet-R", "ObjectNet")


def open_clip_table(folder: Path, *models: str) -> Path:
    """A file as open_clip's; `models` are "name,pretrained,accuracy"."""
    lines = [f"name,pretrained,{','.join(COLUMNS)}"]
    lines += [f"{model}{(',' + model.rpartition(',')[2]) * (len(COLUMNS) - 1)}" for model in models]
    path = folder / CLASSIFICATION
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_reference_table_is_what_the_published_tables_say(test_data: Path) -> None:
    folders = [test_data / "published" / "openclip", test_data / "published" / "timm"]
    assert as_csv(updated(folders)) == (config_dir() / "reference_scores.csv").read_text(encoding="utf-8")
    assert as_csv(updated(folders[1:])) == as_csv(updated([]))


# Table IV, column Retrieval
RETRIEVAL = {
    "vit_b_16-laion400m_e32": 0.82,
    "vit_b_16-metaclip_400m": 0.83,
    "vit_b_16-laion2b_s34b_b88k": 0.84,
    "vit_b_16-dfn2b": 0.85,
    "vit_b_16-commonpool_l_s1b_b8k": 0.64,
    "vit_b_16-commonpool_l_clip_s1b_b8k": 0.72,
    "vit_l_14-laion400m_e32": 0.85,
    "vit_l_14-metaclip_400m": 0.85,
    "vit_l_14-laion2b_s32b_b82k": 0.87,
    "vit_l_14-dfn2b": 0.88,
    "vit_l_14-commonpool_xl_s13b_b90k": 0.80,
    "vit_l_14-commonpool_xl_clip_s13b_b90k": 0.84,
}


def test_the_retrieval_column_of_table_iv(test_data: Path, tmp_path: Path) -> None:
    """From imported rows, through the curation table, within .01 of the paper's twelve values."""
    found = read_numbers("open_clip", test_data / "published" / "openclip")
    ResultStore(tmp_path).add(published_rows(found))
    table = curation_table(ResultStore(tmp_path).rows(), list(RETRIEVAL))
    for model, printed in RETRIEVAL.items():
        [cell] = [cell for cell in table[model] if cell.column.key == "retrieval"]
        assert len(cell.rows) == 4
        assert cell.value == pytest.approx(printed, abs=0.01)
        assert [(one["value"], one["source"]) for one in cell.reference] == [(printed, "paper")]


def test_rows_of_published_numbers(test_data: Path) -> None:
    rows = published_rows(read_numbers("timm", test_data / "published" / "timm", registered=True))
    validate_rows(rows)
    [mine] = [
        row
        for row in rows
        if row["model"] == "tf_efficientnet_lite0-in1k"
        and (row["dataset"], row["slice"], row["metric"]) == ("imagenet_val", None, "top1")
    ]
    assert (mine["value"], mine["origin"], mine["n"]) == (0.74846, "published", 50000)
    assert mine["interval"] == {**clopper_pearson(37423, 50000)._asdict(), "method": METHOD}
    assert mine["model_facts"]["group"] == "example"
    assert mine["note"] is None
    assert len({row["recipe_hash"] for row in rows}) == len(rows)


def test_both_spellings_listed_are_two_measurements(tmp_path: Path) -> None:
    """laion400m was trained with QuickGELU: the registry's model is the one of that name."""
    tag = "laion400m_e32"
    path = open_clip_table(tmp_path, f"ViT-B-32,{tag},0.6", f"ViT-B-32-quickgelu,{tag},0.63")
    found = read_published("open_clip", path)
    assert {(s.model, s.value, s.note) for s in found if s.dataset == "imagenet_val"} == {
        ("vit_b_32-laion400m_e32", 0.63, None)
    }


def test_one_spelling_listed_is_the_model_and_says_so(tmp_path: Path) -> None:
    found = read_published("open_clip", open_clip_table(tmp_path, "ViT-B-16,dfn2b,0.76", "other,none,0.5"))
    assert {(s.model, s.note) for s in found if s.dataset == "imagenet_a"} == {
        ("vit_b_16-dfn2b", "listed as ViT-B-16 dfn2b")
    }
    assert len(found) == len(COLUMNS)
    [note] = [score.note for score in found if score.dataset == "objectnet"]
    assert note == "113 class names of its own and no border crop; listed as ViT-B-16 dfn2b"


def test_the_two_gelu_spellings_of_open_clip(test_data: Path) -> None:
    [score] = lookup("rn50-cc12m", "zeroshot", "imagenet_val", "top1")
    assert (score.value, score.note) == (0.3647, None)  # RN50 without QuickGELU: 0.3591


def test_what_is_no_table_of_a_source_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown source 'openclip'; did you mean open_clip"):
        read_published("openclip", tmp_path)
    with pytest.raises(DataError, match=r"is not a table of timm, nor a folder with one: results-imagenet"):
        read_published("timm", tmp_path)
    with pytest.raises(DataError, match="holds the published tables of none of open_clip, timm, testbed"):
        updated([tmp_path])


GOOD = "name,pretrained,ImageNet 1k\nViT-B-16,dfn2b,"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{GOOD}high\n", r"'ImageNet 1k' of ViT-B-16 dfn2b is 'high': no number"),
        (f"{GOOD}nan\n", r"'ImageNet 1k' of ViT-B-16 dfn2b is 'nan': no number"),
        (f"{GOOD}76.2\n", r"'ImageNet 1k' of ViT-B-16 dfn2b is '76.2': not between 0 and 1"),
        (f"{GOOD}-0.1\n", r"is '-0.1': not between 0 and 1"),
        (f"{GOOD}0.7\nViT-B-16,dfn2b,0.8\n", r"lists ViT-B-16 dfn2b twice"),
        (f"{GOOD}0.7\nViT-B-32,open", r":3: expected 3 cells"),
        (f"{GOOD}0.7,0.8\n", r":2: expected 3 cells"),
        ("name,pretrained,ImageNet\nViT-B-16,dfn2b,0.76\n", r"there is no column 'ImageNet 1k'"),
        ("name,ImageNet 1k\nViT-B-16,0.76\n", r"there is no column 'pretrained'"),
        ("name,pretrained,ImageNet 1k\n", r"lists no model"),
        ("", r"lists no model"),
    ],
)
def test_a_damaged_table_is_named_and_nothing_is_imported(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / CLASSIFICATION
    path.write_text(text)
    with pytest.raises(DataError, match=message) as refused:
        read_numbers("open_clip", path)
    assert str(path) in str(refused.value)
    command = ["results", "import", str(path), "--source", "open_clip", "--out", str(tmp_path / "results")]
    done = CliRunner().invoke(app, command)
    assert (str(done.exception), (tmp_path / "results").exists()) == (str(refused.value), False)


def test_importing_again_replaces(tmp_path: Path) -> None:
    command = ["results", "import", "--source", "open_clip", "--out", str(tmp_path / "results")]
    for accuracy in (0.7, 0.76):
        path = open_clip_table(tmp_path, f"ViT-B-16,dfn2b,{accuracy}")
        done = CliRunner().invoke(app, [*command, str(path)])
        assert done.exit_code == 0, done.output
        assert "6 numbers of 1 model, 1 of them registered" in done.output
    rows = ResultStore(tmp_path / "results").rows()
    assert [row["value"] for row in rows] == [0.76] * len(COLUMNS)
    shown = CliRunner().invoke(app, ["results", "list", str(tmp_path / "results")])
    assert shown.exit_code == 0
    assert "vit_b_16-dfn2b" in shown.output
