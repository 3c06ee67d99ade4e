"""The figures of one run of `calibration` and of `ood`, from its rows and its per-image table alone."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from clipjax.analysis.figures.tasks import scores
from clipjax.cli import app
from clipjax.data.labels import LabelSpace
from clipjax.errors import DataError
from clipjax.heads.head import identity_head
from clipjax.results.store import images_table
from clipjax.tasks import calibration, ood
from clipjax.tasks.inputs import ImageInputs
from clipjax.tasks.measures.feature_scores import FEATURE_SCORES

K = 6
SPACE = LabelSpace("planted", tuple("abcdef"), tuple("abcdef"))


def planted(name: str, n: int, seed: int, strength: float = 4.0) -> ImageInputs:
    rng = np.random.default_rng(seed)
    logits = (strength * rng.normal(size=(n, K))).astype(np.float32)
    labels = (logits / 2 + rng.gumbel(size=(n, K))).argmax(axis=1).astype(np.int32)
    ids = [f"{name}{i}.png" for i in range(n)]
    return ImageInputs(
        ids=ids,
        features=logits,
        labels=labels,
        head=identity_head(SPACE),
        label_space=SPACE,
        dataset=name,
        resamples=20,
    )


def rows_of(outcome: Any, dataset: str) -> list[dict[str, Any]]:
    shared = {"model": "planted", "dataset": dataset}
    return [
        {**shared, **dataclasses.asdict(m), "interval": m.interval and m.interval._asdict()}
        for m in outcome.measures
    ]


@pytest.fixture(scope="module")
def runs():
    near = planted("near", 400, 0)
    far = dataclasses.replace(planted("far", 120, 1, 1.0), id=near, labels=None)
    return {
        "calibration": calibration.TASK.run(dataclasses.replace(near, id=near)),
        "ood": ood.TASK.run(far),
    }


@pytest.fixture
def drawn(monkeypatch):
    saved, real = [], scores.save_figure
    monkeypatch.setattr(scores, "save_figure", lambda figure, out: saved.append(figure) or real(figure, out))
    return saved


def test_the_reliability_diagram(runs, drawn, tmp_path):
    rows = rows_of(runs["calibration"], "near")
    files = scores.reliability_figure(rows, tmp_path / "deep" / "diagram")
    assert [file.name for file in files] == ["diagram.png", "diagram.pdf"]
    assert np.asarray(Image.open(files[0])).std() > 5
    before, after = drawn[0].axes[:2]
    assert before.get_title(loc="left").startswith("before: ECE")
    assert after.get_title(loc="left").startswith("after, T = ")
    for panel, state in ((before, "before"), (after, "after")):
        start = f"reliability/{state}/bin:"
        expected = {
            int(row["slice"].removeprefix(start).split("/")[0]): row["value"]
            for row in rows
            if row["metric"] == "accuracy" and (row["slice"] or "").startswith(start)
        }
        heights = {round(bar.get_x() * 15) + 1: bar.get_height() for bar in panel.patches}
        assert heights == expected
    shares = [bar.get_height() for bar in drawn[0].axes[2].patches]
    assert sum(shares) == pytest.approx(1)


@pytest.mark.usefixtures("unpainted")
def test_without_a_temperature_there_is_one_panel(runs, drawn, tmp_path):
    rows = [row for row in rows_of(runs["calibration"], "near") if "/after/" not in (row["slice"] or "")]
    scores.reliability_figure(rows, tmp_path / "one")
    assert len(drawn[0].axes) == 2


def test_histograms_of_the_scores(runs, drawn, tmp_path):
    images = images_table(runs["ood"].images).to_pydict()
    files = scores.ood_figure(rows_of(runs["ood"], "far"), images, tmp_path / "ood")
    assert all(file.stat().st_size > 1000 for file in files)
    shown = [panel for panel in drawn[0].axes if panel.get_visible()]
    assert [panel.get_title(loc="left").split(":")[0] for panel in shown] == [
        "MSP",
        "largest logit",
        "energy",
    ]
    inside = np.asarray(images["in_distribution"])
    line = next(line for line in shown[0].lines if line.get_linestyle() == "--")
    assert np.asarray(line.get_xdata())[0] == pytest.approx(
        np.quantile(np.asarray(images["msp"])[inside], 0.05)
    )
    assert shown[0].get_ylabel() == "density of images"
    labels = shown[0].get_legend_handles_labels()[1]
    assert {"in distribution (n = 400)", "out of distribution (n = 120)"} <= set(labels)
    for panel in shown:
        low, high = panel.get_xlim()
        assert sum(low <= tick <= high for tick in panel.get_xticks()) >= 5


def test_every_score_of_the_task_has_a_name_there() -> None:
    assert list(scores.NAMES) == [*ood.SCORES, *FEATURE_SCORES]


@pytest.mark.usefixtures("unpainted")
def test_an_area_without_an_interval_is_drawn_too(runs, drawn, tmp_path):
    rows = [row | {"interval": None} for row in rows_of(runs["ood"], "far") if row["slice"] != "score:energy"]
    rows = [row | ({"value": None} if row["slice"] == "score:max_logit" else {}) for row in rows]
    scores.ood_figure(rows, images_table(runs["ood"].images).to_pydict(), tmp_path / "ood")
    area = next(r["value"] for r in rows if r["slice"] == "score:msp" and r["metric"] == "auroc")
    titles = [panel.get_title(loc="left") for panel in drawn[0].axes if panel.get_visible()]
    assert titles == [f"MSP: AUROC {area:.3f}", "largest logit: no AUROC", "energy: no AUROC"]


def test_other_runs_have_no_such_figure(tmp_path):
    other = [{"metric": "top1", "slice": None, "model": "m", "dataset": "d"}]
    with pytest.raises(DataError, match="clipjax eval calibration"):
        scores.reliability_figure(other, tmp_path / "x")
    with pytest.raises(DataError, match="clipjax eval ood"):
        scores.ood_figure(other, {"prediction": [1]}, tmp_path / "x")


@pytest.mark.usefixtures("unpainted")
def test_the_command_draws_a_run(runs, monkeypatch, tmp_path):
    class Store:
        def __init__(self, root): ...
        def check_root(self, exists): ...

        def run_ids(self):
            return ["ood", "calibration", "zeroshot"]

        def left_out(self):
            return []

        def run(self, name):
            return [
                {"task": name, **row}
                for row in rows_of(runs.get(name, runs["ood"]), "far" if name == "ood" else "near")
            ]

        def images(self, name):
            return images_table(runs[name].images)

    monkeypatch.setattr("clipjax.results.store.ResultStore", Store)
    monkeypatch.chdir(tmp_path)
    for name, files in (("ood", "ood-far"), ("calibration", "calibration-near")):
        done = CliRunner().invoke(app, ["results", "plot", name])
        assert done.exit_code == 0, done.output
        assert done.output.split() == [f"{files}.png", f"{files}.pdf"]
        assert (tmp_path / f"{files}.png").is_file()
    for name, why in (("zeroshot", "has no figure"), ("odd", "did you mean ood")):
        done = CliRunner().invoke(app, ["results", "plot", name])
        assert why in str(done.exception) + done.output
