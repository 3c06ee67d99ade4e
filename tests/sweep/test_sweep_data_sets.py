"""Which data sets a suite names, and what is left out without some of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clipjax.analysis.claims.ledger import ledger
from clipjax.analysis.figures.spec import load_spec
from clipjax.sweep.data_sets import NeededData, data_sets_of, jobs_of, left_out
from clipjax.sweep.suite import Suite, load_suite

RUNS = """
title = "Two"
models = ["vit_b_32-openai"]
data_root = "data"
data = { imagenet_r = "elsewhere" }

[[runs]]
task = "ood"
datasets = ["sun"]

[[runs]]
task = "zeroshot"
datasets = ["imagenet_v2", "imagenet_r"]

[[runs]]
task = "calibration"
"""


def needed(suite: Suite) -> list[NeededData]:
    return data_sets_of(suite, jobs_of(suite))


@pytest.mark.parametrize("there", ["", "data", "data/SUN"])
def test_data_sets_are_those_named_and_those_compared_with(tmp_path: Path, there: str) -> None:
    (tmp_path / there).mkdir(parents=True, exist_ok=True)
    (tmp_path / "suite.toml").write_text(RUNS)
    found = {each.card.name: each for each in needed(load_suite(tmp_path / "suite.toml"))}
    v2 = [f"imagenet_v2:{kind}" for kind in ("matched-frequency", "threshold0.7", "top-images")]
    assert sorted(found) == sorted(["sun", "imagenet_val", "imagenet_r", *v2])
    assert found["sun"].root == tmp_path / "data" / "SUN"
    assert found["imagenet_r"].root == tmp_path / "elsewhere"
    assert found["imagenet_val"].tasks == ("ood",)
    assert found[v2[0]].tasks == ("zeroshot",)
    assert found["sun"].is_there is (there == "data/SUN")


def test_a_relative_data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.makedirs("data")
    (tmp_path / "suite.toml").write_text(RUNS)
    found = needed(load_suite(tmp_path / "suite.toml", data_root="data"))
    assert {each.root for each in found if each.card.name == "sun"} == {Path("data/SUN")}


def test_what_is_left_out_without_a_data_set() -> None:
    data = {each.card.name: each for each in needed(load_suite("suite:study", data_root="/nowhere"))}
    specs, claims = [load_spec(name) for name in ("fig2", "fig3", "table2")], ledger().claims
    sun, cues = left_out([data["sun"], data["cue_conflict"]], specs, claims)
    assert (sun.family, sun.tasks, sun.figures) == ("sun", ("ood",), ("fig3",))
    assert (cues.tasks, cues.figures) == (("shape_bias",), ("fig2", "table2"))
    assert "ood_source" in sun.claims
    assert not {*sun.claims} & {*cues.claims}
    flash = [each for name, each in data.items() if name.startswith("imagenet_3dcc:flash")]
    [family] = left_out(flash, specs, claims)
    assert (family.family, len(flash)) == ("imagenet_3dcc", 3)
