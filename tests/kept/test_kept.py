"""Files of released versions are read by the code of today (docs/developers/upgrades.md)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import clipjax
from clipjax.checkpoints.load import load_model
from clipjax.errors import DataError
from clipjax.evaluation.predictions.scoring import evaluate_predictions
from clipjax.results.store import ResultStore
from clipjax.sweep.suite import load_suite

KEPT = Path(__file__).parent
VERSIONS = sorted(path.name for path in KEPT.iterdir() if (path / "suite.toml").is_file())
# Pixels that no generator of random numbers draws.
RAMP = np.linspace(-2, 2, 16 * 16 * 3, dtype=np.float32).reshape(1, 16, 16, 3)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_checkpoint_computes_what_it_did(version: str) -> None:
    model = load_model(KEPT / version / "model")
    assert model.card.facts["fine_tune"] == "Linear probe"
    wanted = json.loads((KEPT / version / "features.json").read_text())
    np.testing.assert_allclose(np.asarray(model.encode_image(RAMP)), wanted, atol=1e-5)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_results_folder_is_read_and_checked(version: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(KEPT / version / "results", tmp_path / "results"))
    rows, images = clipjax.load_results(folder, images=True)
    top1 = rows[(rows.metric == "top1") & rows["slice"].isna()].set_index("dataset")
    assert set(top1.index) == {"colours_val", "colours_dark"}
    assert set(rows.model) == {"kept"}
    right = images.groupby("dataset").correct.agg(["mean", "size"])
    for name, row in top1.iterrows():
        assert (row.value, row.n) == tuple(right.loc[name])
    table = next(folder.glob("*/images.parquet"))
    table.write_bytes(table.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match=r"images\.parquet"):
        clipjax.load_results(folder, images=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_numbers_follow_from_the_images_of_a_run(version: str) -> None:
    for run in (KEPT / version / "results").iterdir():
        rows = {row["metric"]: row for row in ResultStore(run.parent).rows() if row["run_id"] == run.name}
        labels = KEPT / version / "model" / "labels.csv"
        again = evaluate_predictions("zeroshot", run / "images.parquet", labels=labels)
        for metric in ("top1", "mean_per_class"):
            assert again.value(metric) == pytest.approx(rows[metric]["value"], abs=1e-12)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_suite_means_what_it_did(version: str) -> None:
    suite = load_suite(KEPT / version / "suite.toml")
    shifts, ood = suite.runs
    assert (shifts.task, shifts.datasets) == ("zeroshot", ("imagenet_v2", "imagenet_r"))
    assert shifts.prompts == ("openai_7", "openai_80")
    assert (shifts.options["limit"], ood.options["limit"], ood.options["resamples"]) == (2000, 1000, 1000)
    assert ood.models == ("vit_b_32-openai",)
    assert "rn50-openai" in shifts.models
    assert suite.data["imagenet_val"] == KEPT / version / "imagenet" / "val"
    own = str(KEPT / version / "model")
    assert suite.stated[own] == {"name": "kept", "facts_of": "vit_b_32-openai"}


def test_there_is_a_version() -> None:
    assert "0.1.0" in VERSIONS
