"""mCE from result rows: values, intervals, missing rows, formats, the command."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from _rows import row
from typer.testing import CliRunner

from clipjax.analysis.rows.corruption_error import (
    corruption_table,
    export_corruption,
    reference_errors,
    wide,
)
from clipjax.cli import app
from clipjax.data.cards import read_card
from clipjax.errors import DataError, UsageError
from clipjax.results.store import ResultStore

RUN = "20240101T000000.000000Z-00000000"
KINDS = list(reference_errors().error)
HALF = 0.01


def rows_of(model: str, share: float, **changed: Any) -> list[Any]:
    """A model with `share` of AlexNet's error, spread over the severities."""
    rows = []
    for kind, error in reference_errors().error.items():
        for severity in reference_errors().severities:
            value = 1 - share * error * (0.8 + 0.1 * (severity - 1))
            interval = {"lo": value - HALF, "hi": value + 2 * HALF, "level": 0.95, "method": "wilson"}
            named = {"dataset": f"imagenet_c:{kind}:{severity}", "model": model, "n": 50000}
            rows.append(row(RUN, value=value, interval=interval, convention={}, **named, **changed))
    return rows


def test_a_share_of_the_reference_errors_is_the_mce():
    line = corruption_table(rows_of("a", 0.5))["a"]
    assert line.mce.value == pytest.approx(0.5)
    assert line.mce.n == 15 * 5 * 50000
    assert list(line.kinds) == KINDS
    assert all(each.value == pytest.approx(0.5) for each in line.kinds.values())
    error = reference_errors().error["fog"]
    fog = line.kinds["fog"].interval
    assert fog is not None
    assert fog["lo"] == pytest.approx(0.5 - 2 * HALF / error)
    assert fog["hi"] == pytest.approx(0.5 + HALF / error)
    mce = line.mce.interval
    assert mce is not None
    assert mce["hi"] == pytest.approx(
        0.5 + sum(HALF / each for each in reference_errors().error.values()) / 15
    )


def test_a_missing_row_leaves_its_kind_and_the_mean_empty():
    rows = [each for each in rows_of("a", 0.5) if each["dataset"] != "imagenet_c:snow:3"]
    line = corruption_table(rows)["a"]
    assert line.mce.value is None
    assert line.mce.missing == ("zeroshot imagenet_c:snow:3 top1",)
    assert line.kinds["snow"].value is None
    assert line.kinds["fog"].value == pytest.approx(0.5)


def test_copies_of_our_own_never_stand_for_the_published_images():
    published, copies = rows_of("a", 0.5), rows_of("a", 0.2)
    for each in copies:
        each |= {"convention": {"made": "by us"}, "run_id": RUN.replace("2024", "2025")}
    assert corruption_table([*published, *copies])["a"].mce.value == pytest.approx(0.5)
    assert corruption_table(copies)["a"].mce.value == pytest.approx(0.2)
    others = [each | {"convention": {"made": "otherwise"}} for each in copies]
    with pytest.raises(DataError, match=r"with several makings of the images: by us .*, otherwise"):
        corruption_table([*copies, *others])


def test_the_extra_kinds_do_not_count():
    extra = row(RUN, model="a", dataset="imagenet_c:speckle_noise:1", value=0.0, convention={})
    assert corruption_table([*rows_of("a", 0.5), extra])["a"].mce.value == pytest.approx(0.5)
    with pytest.raises(DataError, match="no result row is of ImageNet-C"):
        corruption_table([extra])
    with pytest.raises(UsageError, match="unknown model 'b'"):
        corruption_table(rows_of("a", 0.5), ["b"])


def test_every_data_set_has_a_card():
    for kind in KINDS:
        card = read_card(f"imagenet_c:{kind}:5")
        assert card.place == f"ImageNet-C/{kind}/5"
        assert card.images == 50000
    assert read_card("imagenet_c:spatter:1").pixels == {"already_cropped": True}


def test_formats():
    table = corruption_table([*rows_of("a", 0.5), *rows_of("b", 0.25)])
    titles, lines = wide(table)
    assert titles[:3] == ["model", "mCE", "gaussian_noise"]
    assert [line[0] for line in lines] == ["a", "b"]
    assert lines[1][1].startswith("25.0 [")
    records = json.loads(export_corruption(table, "json"))
    assert len(records) == 2 * 16
    assert "AlexNet" in records[0]["reference"]
    read = list(csv.DictReader(io.StringIO(export_corruption(table, "csv"))))
    assert float(read[0]["value"]) == pytest.approx(0.5)
    assert "| a |" in export_corruption(table, "markdown")


def test_the_command(tmp_path):
    ResultStore(tmp_path).add(rows_of("a", 0.5))
    done = CliRunner().invoke(app, ["results", "mce", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "50.0" in done.stdout
    wrong = CliRunner().invoke(app, ["results", "mce", str(tmp_path), "--format", "latex"])
    assert isinstance(wrong.exception, UsageError)
