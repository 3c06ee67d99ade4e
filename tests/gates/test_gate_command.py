"""`clipjax gate`: exit codes, the record, what is pinned, and an interrupted gate that goes on."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from clipjax.cli import app
from clipjax.data.pixels import loader
from clipjax.errors import DataError, Interrupted, UsageError
from clipjax.gates import gate as gates
from clipjax.gates.gate import GateFailed, GateUndecided
from clipjax.gates.history import FILE, read_history
from tests.gates.conftest import nudged

LOOSE, LESS = "not_worse(top1, 0.3) on many", "not_worse(top1, 0.2) on many"
BETTER = "better(top1, 0.1) on many"


@pytest.fixture(scope="session")
def near(gate_world):
    return nudged(gate_world / "near", gate_world / "models" / "one")


@pytest.fixture
def run(gate_world, tmp_path, monkeypatch, undrawn_history):
    """`clipjax gate` in the world's folder, its record in a folder of the test."""
    monkeypatch.chdir(gate_world)

    def call(model, *conditions, out=tmp_path / "gate", against="models/one", options=()):
        shared = gate_world / "shared"  # embeddings and pixels of all tests of this world
        places = ["--store", shared / "store", "--pixel-store", shared / "pixels", "--out", out]
        words = ["gate", model, *conditions, "--against", against, "--suite", "colours.toml", *places]
        return CliRunner().invoke(app, [*map(str, [*words, "--workers", "0", *options])])

    return call


@pytest.fixture
def begun(run, near, tmp_path, gate_world):
    """`run` in a folder where `near` has passed."""
    whole = gate_world / "begun"
    if not whole.exists():
        result = run(near, LOOSE, out=whole)
        assert result.exit_code == 0, result.output
        assert "near, checkpoint 1 (alpha 0.025): pass" in result.output
    shutil.copytree(whole, tmp_path / "gate")
    return run


def test_a_checkpoint_is_judged_once(begun, near, tmp_path, undrawn_history):
    again = begun(near, LOOSE)
    assert again.exit_code == 0
    assert "judged before" in again.output
    undrawn_history.undo()
    other = begun("models/two", LOOSE)
    assert "two, checkpoint 2 (alpha 0.0083)" in other.output
    history = read_history(tmp_path / "gate")
    assert history is not None
    assert [each.number for each in history.judged] == [1, 2]
    assert sum(each.alpha for each in history.judged) < history.terms.alpha == 0.05
    [measured] = history.judged[0].measured
    assert (measured.gained, measured.lost, measured.n) == (0, 0, 48)
    assert measured.convention["prompts"] == "single"
    assert all((tmp_path / "gate" / "results" / name).is_dir() for name in measured.runs)
    picture = (tmp_path / "gate" / "history.svg").read_text()
    assert all(each.model in picture for each in history.judged)


def test_json_is_the_judgement(begun, near, tmp_path):
    found = json.loads(begun(near, LOOSE, options=["--json"]).stdout)
    [judged] = json.loads((tmp_path / "gate" / FILE).read_text())["judged"]
    assert found == judged


def test_exit_codes(run, near, tmp_path):
    failed = run(near, "better(top1, 0.4) on many")
    assert isinstance(failed.exception, GateFailed)
    assert failed.exception.exit_code == 3
    assert "its lower limit -0.07" in str(failed.exception)
    blind = run(near, "not_worse(top1, 0.005)", out=tmp_path / "blind")
    assert isinstance(blind.exception, GateUndecided)
    assert blind.exception.exit_code == 4
    assert "zeroshot on few: too few to tell, 8 images (" in str(blind.exception)
    assert "images for a power of 0.8" in str(blind.exception)


def test_images_are_decoded_once_for_both_models(run, near, tmp_path, monkeypatch):
    decoded, to_pixels = [], loader.to_pixels
    monkeypatch.setattr(loader, "to_pixels", lambda *args: decoded.append(1) or to_pixels(*args))
    places = ["--store", tmp_path / "store", "--pixel-store", tmp_path / "pixels"]
    assert run(near, LOOSE, options=places).exit_code == 0
    assert len(decoded) == 48  # of the one data set that the condition names


def test_a_pinned_reference_that_changed_is_refused(run, near, gate_world):
    shutil.copytree(gate_world / "models" / "one", gate_world / "pinned")
    assert run(near, LOOSE, against="pinned").exit_code == 0
    shutil.rmtree(gate_world / "pinned")
    shutil.copytree(gate_world / "models" / "two", gate_world / "pinned")
    result = run("models/large", LOOSE, against="pinned")
    shutil.rmtree(gate_world / "pinned")
    assert isinstance(result.exception, DataError)
    assert "a pinned reference does not change; restore it" in str(result.exception)


def test_a_reference_that_reads_images_otherwise_is_refused(run, near, gate_world):
    pinned = gate_world / "pinned"
    shutil.copytree(gate_world / "models" / "one", pinned)
    assert run(near, LOOSE, against="pinned").exit_code == 0
    card = json.loads((pinned / "card.json").read_text())
    card["preprocess"]["interpolation"] = "bilinear"
    (pinned / "card.json").write_text(json.dumps(card))
    result = run("models/two", LOOSE, against="pinned")
    shutil.rmtree(pinned)
    assert isinstance(result.exception, DataError)
    assert "the reference's run is not the one of earlier checkpoints" in str(result.exception)


def test_other_images_are_refused(begun, gate_world, tmp_path):
    shutil.copytree(gate_world / "data", tmp_path / "data")
    for name in sorted((tmp_path / "data" / "many").rglob("*.png"))[:4]:
        name.unlink()
    result = begun("models/two", LOOSE, options=["--data-root", str(tmp_path / "data")])
    assert isinstance(result.exception, DataError)
    assert "(n = 48, now 44): its card, the images or the prompts changed" in str(result.exception)


@pytest.mark.parametrize(
    ("conditions", "options", "change"),
    [
        ([LOOSE], ["--limit", "20"], r"the run zeroshot on many, .*100 is now .* limit 20, .*100"),
        ([LOOSE], ["--alpha", "0.1"], "--alpha was 0.05 and is 0.1"),
        ([LOOSE], ["--planned", "3"], "--planned was not given and is 3"),
        ([LESS], [], re.escape(f"the condition {LOOSE} is now {LESS}")),
        ([LOOSE, BETTER], [], re.escape(f"the condition {BETTER} is new")),
    ],
)
def test_terms_do_not_change(begun, conditions, options, change):
    result = begun("models/two", *conditions, options=options)
    assert isinstance(result.exception, DataError)
    assert re.search(rf"the terms of the gate changed \({change}\), and its alpha", str(result.exception))


def test_one_condition_written_twice_is_one(begun):
    again = begun("models/two", LOOSE, " not_worse( top1,0.30 )  on many", options=["--json"])
    assert len(json.loads(again.stdout)["measured"]) == 1


def test_planned_checkpoints_are_all(run, near):
    assert run(near, LOOSE, options=["--planned", "1"]).exit_code == 0
    result = run("models/two", LOOSE, options=["--planned", "1"])
    assert isinstance(result.exception, UsageError)
    assert "its alpha is spent" in str(result.exception)


def test_an_interrupted_gate_goes_on_and_spends_alpha_once(run, near, tmp_path, monkeypatch):
    def stopped(*_args, **_how):
        raise Interrupted("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(gates, "run_sweep", stopped)
        with pytest.raises(Interrupted):
            run(near, LOOSE)
    assert read_history(tmp_path / "gate") is None
    assert "checkpoint 1 (alpha 0.025): pass" in run(near, LOOSE).output


@pytest.mark.parametrize(
    ("model", "condition", "sentence"),
    [
        ("./models/none", LOOSE, "models/none does not exist"),
        ("models/one", LOOSE, "has the weights of"),
        (
            "models/two",
            "not_worse(top1, 0.3) on fwe",
            "unknown data set of the suite with top1 'fwe'; did you mean few",
        ),
        ("models/two", "not_worse(tpo1, 0.3)", "unknown metric 'tpo1'"),
        (
            "models/two",
            "not_worse(accuracy, 0.3)",
            r"no task of the suite has accuracy as a share of images \(zeroshot has top1, top5, top1_\*\)",
        ),
        ("models/two", "not_worse(top5, 0.3)", "top5 of zeroshot on few cannot be compared: .* 4 classes"),
    ],
)
def test_bad_input(run, model, condition, sentence, tmp_path):
    result = run(model, condition)
    assert isinstance(result.exception, UsageError | DataError)
    assert re.search(sentence, str(result.exception)), str(result.exception)
    assert read_history(tmp_path / "gate") is None


@pytest.mark.parametrize("condition", ["not_worse(accuracy, 0.3)", "better(mean_per_class, 0.1) on few"])
def test_a_metric_that_is_not_a_share_is_refused_before_a_run(run, near, condition, monkeypatch, tmp_path):
    monkeypatch.setattr(gates, "run_sweep", lambda *_args, **_how: pytest.fail("it ran"))
    result = run(near, condition)
    assert isinstance(result.exception, UsageError)
    assert "as a share of images" in str(result.exception)


MORE = """
[[runs]]
task = "zeroshot"
datasets = ["few"]
prompts = ["openai_80"]

[[runs]]
task = "retrieval"
datasets = ["flickr30k"]
"""


def test_only_runs_that_a_condition_asks_for_run(run, near, gate_world, tmp_path):
    """The others' tasks may not be defined for both models, and their data sets need not be there."""
    suite = (gate_world / "colours.toml").read_text().replace('["models/large"]', "[]") + MORE
    (gate_world / "more.toml").write_text(suite)
    result = run(near, LOOSE, options=["--suite", "more.toml"])
    assert result.exit_code == 0, result.output
    runs = [path.name for path in (tmp_path / "gate" / "results").iterdir() if path.name[0] != "."]
    assert len(runs) == 2


def test_data_sets_of_a_condition_that_are_not_there(run, near, gate_world):
    """Those of another condition are; and a data set of another task has not the metric."""
    suite = (gate_world / "colours.toml").read_text() + MORE
    (gate_world / "absent.toml").write_text(suite)
    recall = "not_worse(text_retrieval_recall@1, 0.3)"
    absent = run(near, LOOSE, recall, options=["--suite", "absent.toml"])
    assert isinstance(absent.exception, DataError)
    assert "no data set with text_retrieval_recall@1 is there (missing: " in str(absent.exception)
    other = run(near, LOOSE, "not_worse(top1, 0.3) on flickr30k", options=["--suite", "absent.toml"])
    assert isinstance(other.exception, UsageError)
    assert "unknown data set of the suite with top1 'flickr30k'" in str(other.exception)


def test_a_damaged_checkpoint(run, near, gate_world, tmp_path):
    damaged = gate_world / "damaged"
    shutil.copytree(near, damaged)
    [weights] = damaged.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    result = run(damaged, LOOSE)
    shutil.rmtree(damaged)
    assert isinstance(result.exception, DataError)
    assert str(Path("damaged")) in str(result.exception)
    assert read_history(tmp_path / "gate") is None


def test_a_gate_on_a_bucket(run, near):
    result = run(near, LOOSE, out="gs://bucket/gate")
    assert isinstance(result.exception, UsageError)
    assert "gs://bucket/gate: a gate is written to a disk" in str(result.exception)


def test_a_damaged_record(run, near, tmp_path):
    (tmp_path / "gate").mkdir()
    (tmp_path / "gate" / FILE).write_text('{"format": 2, "terms": {}}')
    result = run(near, LOOSE)
    assert isinstance(result.exception, DataError)
    assert "gate.json" in str(result.exception)


def test_each_run_of_the_reference_has_its_partner():
    def row(prompts, dataset="d", run="a") -> Any:
        convention = {} if prompts is None else {"prompts": prompts}
        return {
            "task": "t",
            "dataset": dataset,
            "precision": "p",
            "convention": convention,
            "model": "m",
            "run_id": run,
        }

    seven, eighty, own = row("seven", run="7"), row("eighty", run="80"), row(None, run="own")
    assert gates._partner(seven, [eighty, seven]) is seven
    assert gates._partner(seven, [own]) is own  # a classifier reads no prompts
    for others in ([], [eighty, own], [row("seven", "other")]):
        with pytest.raises(DataError, match=r"t on d with prompts seven: the checkpoint has \d run"):
            gates._partner(seven, others)
