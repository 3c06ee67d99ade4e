"""Runs in the scratch checkout that tests/plugins/test_plugins.py makes: every plug-in is found and works."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from _colours import ColourModel, paint
from clipjax.metrics.evenness import evenness
from clipjax.models.families.patch_mean import PatchMeanConfig
from typer.testing import CliRunner

import clipjax
from clipjax.analysis.claims.ledger import ledger
from clipjax.analysis.figures.spec import spec_names
from clipjax.checkpoints.identity.registry import model_card
from clipjax.cli import app
from clipjax.data.cards import load_dataset
from clipjax.errors import DataError, UsageError
from clipjax.evaluation.predictions.scoring import evaluate_predictions
from clipjax.finetune.method import find_method
from clipjax.heads.adapters.base import all_adapters
from clipjax.models.arch import Arch, families
from clipjax.models.network import Network
from clipjax.results.published.numbers import read_numbers
from clipjax.results.published.protocols import protocols
from clipjax.results.store import ResultStore
from clipjax.results.tracking.tracker import TrackedRun
from clipjax.results.tracking.tracking import Tracking
from clipjax.sweep.suite import load_suite


def said(*arguments: str | Path) -> str:
    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture
def tinted(tmp_path: Path) -> Path:
    for name in ("green_1", "green_2", "pink_1", "teal_1"):
        paint(tmp_path / "tinted" / f"{name}.png", name.partition("_")[0])
    return tmp_path / "tinted"


def test_the_tracker(tmp_path: Path) -> None:
    run = TrackedRun("a1", "one", "fine-tuning", {}, tmp_path / "run")
    tracked = Tracking(["lines"]).start(run)
    tracked.log(10, {"loss": 0.5})
    tracked.finish()
    assert (tmp_path / "run" / "lines.txt").read_text() == "10 loss 0.5\n"


def test_the_checkout_is_the_scratch() -> None:
    assert Path(clipjax.__file__).is_relative_to(Path.cwd())


def test_the_reader_the_card_and_the_prompts(tinted: Path) -> None:
    data = load_dataset("tinted", tinted)
    assert data.manifest.labels is not None
    assert data.manifest.labels.tolist() == [0, 0, 1, 2]
    assert said("datasets", "check", "tinted", tinted)
    paint(tinted / "odd.png", "pink")
    with pytest.raises(DataError, match="does not begin with a class"):
        load_dataset("tinted", tinted)


def test_the_corruption(tinted: Path, tmp_path: Path) -> None:
    said("corrupt", tinted, "--kind", "dim", "--severity", "3", "--out", tmp_path / "out")
    with PIL.Image.open(tmp_path / "out/dim/3/pink_1.png") as image:
        values = np.asarray(image)
    with PIL.Image.open(tinted / "pink_1.png") as image:
        colour = np.asarray(image.convert("RGB"))[0, 0]
    assert (values == colour // 2).all()


def test_the_task_of_a_model_and_of_predictions(tinted: Path, tmp_path: Path) -> None:
    result = clipjax.evaluate(
        ColourModel(), "balance", dataset="tinted", root=tinted, progress=False, results=tmp_path / "results"
    )
    even = evenness(np.array([2, 1, 1]))
    assert result.value("evenness") == pytest.approx(even)
    assert result.rows[0]["convention"]["prompts"] == "tinted"
    [run] = [path.parent for path in (tmp_path / "results").glob("*/run.json")]
    said("results", "plot", run.name, "--results", tmp_path / "results", "--out", tmp_path / "figure")
    assert (tmp_path / "figure.png").is_file()
    (tmp_path / "mine.csv").write_text("file,answer\na,0\nb,0\nc,1\nd,2\n")
    said("eval", "balance", "--predictions", tmp_path / "mine.csv", "--results", tmp_path / "again")
    np.savez(tmp_path / "mine.npz", logits=np.eye(3, dtype=np.float32)[[0, 0, 1, 2]])
    found = evaluate_predictions("balance", tmp_path / "mine.npz")
    assert found.value("evenness") == pytest.approx(even)
    assert "balance" in said("tasks")
    cards = json.loads(said("datasets", "list", "--task", "balance", "--json"))
    assert [card["name"] for card in cards] == ["tinted"]


def test_the_kind_of_run(tmp_path: Path) -> None:
    """A folder of its own and a task are all that a fourth kind takes, from the request to the rows."""
    for name in "abc":
        paint(tmp_path / "data" / f"{name}.png", "green")
    (tmp_path / "data" / "list.csv").write_text("path,reading\na.png,100\nb.png,300\nc.png,500\n")
    model = ColourModel()
    scale = model.card.logit_scale
    options: dict[str, Any] = {"root": tmp_path / "data" / "list.csv", "progress": False}
    result = clipjax.evaluate(model, "mean_reading", results=tmp_path / "results", **options)
    assert result.value("mean_reading") == pytest.approx(300 / scale)
    [row] = ResultStore(tmp_path / "results").rows()
    assert (row["recipe"]["unit"], row["recipe"]["pixels"], row["n"]) == (scale, None, 3)
    assert row["convention"]["unit"] == "the model's logit scale"
    assert clipjax.evaluate(model, "mean_reading", limit=2, **options).rows[0]["n"] == 2
    refused = {
        "the task 'mean_reading' takes no classes, prompts or way to decode: leave prompts": {
            "prompts": "single"
        },
        "the task 'mean_reading' reads no maps of features: leave layers": {"layers": "last"},
        "reads numbers in full": {"precision": "fast"},
    }
    for says, given in refused.items():
        with pytest.raises(UsageError, match=says):
            clipjax.evaluate(model, "mean_reading", **given, **options)
    [absent] = clipjax.evaluate(ColourModel(logit_scale=None), "mean_reading", **options).rows
    assert (absent["value"], absent["note"]) == (None, "not applicable: colours has no logit scale")


def test_the_method_and_the_adapter() -> None:
    assert find_method("bitfit").title == "BitFit"
    assert "bitfit" in said("finetune", "list")
    adapter = all_adapters()["tempered"].from_parts(
        {"scale": np.array([7.0], np.float32)}, {"template": "single"}
    )
    assert adapter.prompts == "single, tempered"


def test_the_family_and_the_architecture() -> None:
    assert "patch_mean" in families()
    network = Network(Arch("least", PatchMeanConfig(8, 4, 16), None, 3, False))
    shapes = network.abstract_params()
    assert shapes["vision"]["patches"]["kernel"].shape == (4, 4, 3, 16)
    card = model_card("vit_b_32_256-datacomp_s34b_b86k")
    assert (card.arch.name, card.arch.vision.image_size) == ("ViT-B-32-256", 256)
    assert jnp.float32 == shapes["vision"]["patches"]["kernel"].dtype


def test_the_figure_the_claim_the_protocol_and_the_source(tmp_path: Path) -> None:
    assert "two_sizes" in spec_names()
    assert load_suite("suite:two_sizes").models == ("vit_b_32-openai", "vit_b_16-openai")
    assert "added_sketch" in {claim.key for claim in ledger().claims}
    assert "sketch_one_template" in {each.name for each in protocols()}
    (tmp_path / "added.csv").write_text("model,ImageNet\nours,0.5\n")
    [number] = read_numbers("added", tmp_path)
    assert (number.score.model, number.score.value) == ("added:ours", 0.5)


def test_the_command() -> None:
    assert "a plug-in of the tests" in said("colophon")
