"""Costs of models by what their rows name, and measured rates from files."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from _rows import row

from clipjax.analysis.cost import arch_costs
from clipjax.analysis.cost.arch_costs import recorded_cost
from clipjax.analysis.cost.cost_rows import cost_rows
from clipjax.analysis.cost.measured_rates import MeasuredRate, measured_rates
from clipjax.analysis.cost.model_costs import ESTIMATED, MEASURED, OPERATIONS, ModelCosts, model_costs
from clipjax.analysis.rows.cells import RowIndex, Term
from clipjax.config import config_dir
from clipjax.errors import DataError, UsageError
from clipjax.estimates.flops import traced_cost
from clipjax.results.rows import validate_rows
from clipjax.results.store import new_run_id


def costs(measured: tuple[MeasuredRate, ...] = (), **facts: dict[str, Any]) -> ModelCosts:
    rows = [row(new_run_id(), model=name, model_facts=of) for name, of in facts.items()]
    return model_costs(rows, measured)


def test_operations_and_params_are_those_of_the_architecture() -> None:
    found = costs(b32={"arch": "ViT-B-32", "image_size": 224}, r50={"arch": "resnet50", "image_size": 224})
    operations = found.find(OPERATIONS).numbers
    # 49 patches of 32 x 32 and a class token, 12 blocks of width 768: two operations per multiply-add
    n, d = 50, 768
    by_hand = 2 * (49 * 3 * 32**2 * d + 12 * (12 * n * d**2 + 2 * n**2 * d) + d * 512)
    assert operations["b32"] == pytest.approx(by_hand / 1e9, rel=1e-3)
    assert operations["r50"] == pytest.approx(2 * 4.09, rel=0.01)  # not 4.09: multiply-adds count twice
    assert found.find("params").numbers == {"b32": 87.849216, "r50": 25.610152}  # with the classifier's head
    assert found.find("model_params").numbers["b32"] == pytest.approx(151.277313)
    assert not found.find(OPERATIONS).absent


def test_models_without_a_cost_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"arch": "ViT-B-32", "image_size": 224}
    found = costs(
        b32=known,
        mine={},
        own={"arch": "my_tower", "params_m": 3.0},
        larger={**known, "image_size": 448, "resized": {"image_size": 224}},
        talks={"arch": "prism-clip_l14_336-llama2_7b", "image_size": 336},
    )
    absent = found.find(OPERATIONS).absent
    assert absent == {
        "mine": "its rows name no architecture of clipjax's",
        "own": "no cost is known of its architecture my_tower, which is not one of configs/archs",
        "larger@448px": "its images have 448 pixels, and ViT-B-32 is recorded for 224",
        "talks": "it answers with a language model, whose operations depend on the question",
    }
    assert found.find("model_params").numbers.keys() == {"b32", "talks"}
    assert found.find("params").numbers.keys() == {"b32", "talks"}  # a user's own fact is not compared
    with pytest.raises(UsageError, match="unknown cost 'operation'; did you mean operations"):
        found.find("operation")
    assert costs(mine={}).costs == {}
    changed = {**arch_costs.recorded(), "ViT-B-32": {**arch_costs.recorded()["ViT-B-32"], "record": "0" * 64}}
    monkeypatch.setattr(arch_costs, "recorded", lambda: changed)
    arch_costs.recorded_cost.cache_clear()
    assert recorded_cost("ViT-B-32") is None  # of another architecture under this name
    monkeypatch.undo()
    arch_costs.recorded_cost.cache_clear()


def test_other_image_sizes_are_traced_where_that_is_asked_for() -> None:
    facts = {"arch": "ViT-B-32", "resized": {"image_size": 224}}
    rows = [
        row(new_run_id(), model="b32", model_facts={**facts, "image_size": size}) for size in (64, 224, 100)
    ]
    found = model_costs(rows, trace=traced_cost).find(OPERATIONS)
    n, d = 5, 768  # four patches and a class token
    by_hand = 2 * (4 * 3 * 32**2 * d + 12 * (12 * n * d**2 + 2 * n**2 * d) + d * 512)
    assert found.numbers["b32@64px"] == pytest.approx(by_hand / 1e9, rel=1e-3)
    assert found.numbers["b32@224px"] == pytest.approx(8.818, abs=0.001)
    assert found.absent == {"b32@100px": "its images have 100 pixels, and ViT-B-32 is recorded for 224"}
    traced = model_costs(rows, trace=traced_cost)
    assert traced.find("params").numbers["b32@64px"] == pytest.approx(87.849216 - 45 * 768 / 1e6)
    assert "b32@64px" in traced.find(f"{ESTIMATED} v5e fast").absent


def test_published_models_of_known_architectures_have_costs() -> None:
    rows = [
        row(new_run_id(), model="open_clip:ViT-B-32:any", model_facts={"params_m": 87.85}),
        row(new_run_id(), model="timm:resnet50.a1_in1k@224px", model_facts={"image_size": 224}),
        row(new_run_id(), model="timm:resnet50.a1_in1k@288px", model_facts={"image_size": 288}),
        row(new_run_id(), model="timm:new_net.in1k@224px", model_facts={"image_size": 224, "params_m": 7.5}),
        row(new_run_id(), model="testbed:resnet50", model_facts={"image_size": 224}),
    ]
    published = model_costs(rows)
    assert published.find(OPERATIONS).numbers.keys() == {
        "open_clip:ViT-B-32:any",
        "timm:resnet50.a1_in1k@224px",
    }
    params = published.find("params")
    assert params.text("timm:new_net.in1k@224px") == "7.5 (published)"
    assert params.text("open_clip:ViT-B-32:any") == "87.85"


def test_operations_and_params_agree_with_what_open_clip_publishes(test_data: Path) -> None:
    """It counts two operations per multiply-add, too, and some of what is neither a dot nor a convolution."""
    checked = 0
    with (test_data / "published" / "openclip" / "model_profile.csv").open() as file:
        for line in csv.DictReader(file):
            cost = recorded_cost(line["model"])
            if cost is None or cost.image_size != int(line["image_size"]):  # timm has other nets of that name
                continue
            millions, gflop = float(line["image_mparams"]), float(line["image_gflops"])
            assert cost.image_params / 1e6 == pytest.approx(millions, rel=0.01)
            assert (cost.operations or 0) / 1e9 == pytest.approx(gflop, rel=0.06)
            checked += 1
    assert checked > 20


def rates_file(folder: Path, device: str = "cpu", **changed: Any) -> Path:
    about = {"arch": "ViT-B-32", "image_size": 224, "precision": "fast", "devices": 2}
    about |= {"images a second": {"8": 100.0, "16": 300.0, "32": 280.0}} | changed
    folder.mkdir(exist_ok=True)
    path = folder / f"{device}.json"
    path.write_text(json.dumps({"device": device, "batches": {"x": {"batch": 16, "measured": about}}}))
    return path


def test_measured_rates_are_of_one_device_and_never_mixed_with_estimates(tmp_path: Path) -> None:
    rates_file(tmp_path / "rates", "GPU 1")
    rates_file(tmp_path / "rates", "cpu", precision="parity")
    measured = tuple(measured_rates([tmp_path / "rates"]))
    facts = {"arch": "ViT-B-32", "image_size": 224}
    found = costs(measured, a=facts, b={"arch": "ViT-B-16", "image_size": 224})
    assert found.find(f"{MEASURED} GPU 1 fast").numbers == {
        "a": 150.0
    }  # the best batch, of one of two devices
    assert found.find(f"{MEASURED} cpu parity").cheaper == "higher"
    assert found.find(f"{MEASURED} cpu parity").absent == {
        "b": "its architecture ViT-B-16 was not measured on cpu parity"
    }
    estimate = found.find(f"{ESTIMATED} v5e fast")
    assert estimate.title == "images a second, v5e fast (estimate)"
    assert estimate.text("b") == "3,800 (estimate, scaled)"
    assert {each.cheaper for name, each in found.costs.items() if "second" in name} == {"higher"}


@pytest.mark.parametrize(
    ("changed", "wrong"),
    [
        ({"images a second": {}}, "is not a record of measured rates"),
        ({"images a second": {"8": 0}}, "is not a record of measured rates"),
        ({"devices": 0}, "is not a record of measured rates"),
        ({"images a second": [1]}, "is not a record of measured rates"),
    ],
)
def test_files_that_are_no_rates_are_refused(tmp_path: Path, changed: dict[str, Any], wrong: str) -> None:
    with pytest.raises(DataError, match=wrong):
        measured_rates([rates_file(tmp_path / "rates", **changed)])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty has no \.json file of measured rates"):
        measured_rates([tmp_path / "empty"])
    with pytest.raises(DataError, match="absent"):
        measured_rates([tmp_path / "absent.json"])


def test_a_cost_is_a_number_like_any_other() -> None:
    rows = [
        row(new_run_id(), model="a", model_facts={"arch": "ViT-B-32"}, part={"images": 3, "of": 9}),
        row(new_run_id(), model="a", model_facts={"arch": "ViT-B-32"}, metric="top5"),
        row(new_run_id(), model="b", model_facts={}),
    ]
    cost = model_costs(rows).find(f"{ESTIMATED} v5e fast")
    [one] = cost_rows(rows, cost)
    validate_rows([one])
    index = RowIndex([*rows, one])
    term = Term("cost", "cost", ESTIMATED, "v5e fast")
    assert [each["value"] for each in index.of(term)["a"]] == [13000]
    assert (one["interval"], one["n"], one["note"], "part" in one) == (None, None, "estimate, scaled", False)


def test_every_estimate_names_its_chip_and_where_it_comes_from() -> None:
    with (config_dir() / "estimated_rates.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert {line["basis"] for line in lines} == {"estimated", "scaled", "carried"}
    assert {line["chip"] for line in lines} == {"v5e", "v6e"}


def test_images_a_second_without_records_name_the_option_that_reads_them() -> None:
    with pytest.raises(UsageError, match=r"no model has the cost 'images_per_second cpu parity'.*--rates"):
        model_costs([]).find("images_per_second cpu parity")
