"""`clipjax watch`: each finished checkpoint is judged once, and what is not whole is left alone."""

from __future__ import annotations

import shutil
from types import SimpleNamespace
from typing import Any, cast

import jax
import numpy as np
import pytest
from typer.testing import CliRunner

from clipjax.checkpoints.export import export_model
from clipjax.checkpoints.load import load_model
from clipjax.cli import app
from clipjax.data.labels import load_labels
from clipjax.embeddings.compute import Compute
from clipjax.errors import DataError, Interrupted
from clipjax.finetune.training.step import TrainState
from clipjax.gates import gate as gates
from clipjax.gates.checkpoint_model import as_model
from clipjax.gates.checkpoints import checkpoints_in
from clipjax.gates.history import read_history
from clipjax.gates.watch import CONVERTED, Watch
from clipjax.storage.formats.safetensors import tensors_in
from converters.torch_files.writing import write_torch
from tests.gates.conftest import nudged

LOOSE = "not_worse(top1, 0.3) on many"


@pytest.fixture(scope="session")
def pinned(gate_world):
    return load_model(gate_world / "models" / "one")


@pytest.fixture
def run(gate_world, tmp_path, monkeypatch, undrawn_history):
    """`clipjax watch --once` of tmp_path/run."""
    monkeypatch.chdir(gate_world)
    (tmp_path / "run").mkdir()

    def call(*options, condition=LOOSE):
        shared = gate_world / "shared"
        places = ["--store", shared / "store", "--pixel-store", shared / "pixels", "--out", tmp_path / "gate"]
        words = [
            "watch",
            tmp_path / "run",
            condition,
            "--against",
            "models/one",
            "--suite",
            "colours.toml",
            *places,
        ]
        ways = [] if "--planned" in options else ["--once"]
        return CliRunner().invoke(
            app, [*map(str, [*words, "--workers", "0", "--settle", "0", *ways, *options])]
        )

    return call


def judged(tmp_path):
    history = read_history(tmp_path / "gate")
    return [] if history is None else [(each.number, each.model, each.verdict) for each in history.judged]


def epoch(path, model, scale=1.0):
    """A training checkpoint as open_clip writes it, with everything multiplied by `scale`."""
    tensors = tensors_in(export_model(model, path.with_suffix(".safetensors"), "open_clip_vit").read_bytes())[
        0
    ]
    path.with_suffix(".safetensors").unlink()
    state = {f"module.{name}": tensor * np.float32(scale) for name, tensor in tensors.items()}
    write_torch(path, {"state_dict": state, "optimizer": {"state": {}}})
    return path


def step(folder, number, tree):
    import orbax.checkpoint as ocp

    with ocp.CheckpointManager(folder) as manager:
        manager.save(number, args=ocp.args.StandardSave(tree))
        manager.wait_until_finished()
    return folder / str(number)


def scaled(model, factor) -> dict[str, Any]:
    return jax.tree.map(lambda leaf: np.asarray(leaf) * np.float32(factor), model.params)


def test_epochs_are_judged_in_their_order_and_once(run, tmp_path, pinned):
    for number, scale in ((10, 1 + 2e-6), (2, 1 + 1e-6)):
        epoch(tmp_path / "run" / f"epoch_{number}.pt", pinned, scale)
    half = (tmp_path / "run" / "epoch_2.pt").read_bytes()[:-100]
    (tmp_path / "run" / "epoch_11.pt").write_bytes(half)
    assert run().exit_code == 0
    assert judged(tmp_path) == [(1, "epoch_2", "pass"), (2, "epoch_10", "pass")]
    epoch(tmp_path / "run" / "epoch_11.pt", pinned, 1 + 3e-6)
    assert run().exit_code == 0
    assert judged(tmp_path)[2:] == [(3, "epoch_11", "pass")]
    again = run()
    assert again.exit_code == 0
    assert len(judged(tmp_path)) == 3
    assert "embedding" not in again.output
    assert not list((tmp_path / "gate" / ".converted").iterdir())


def test_steps_of_orbax(run, tmp_path, pinned):
    tree = {"params": scaled(pinned, 1 + 1e-6), "opt_state": {"mu": scaled(pinned, 0)}, "step": np.int32(7)}
    step(tmp_path / "run", 7, tree)
    (tmp_path / "run" / "8.orbax-checkpoint-tmp").mkdir()
    assert run().exit_code == 0
    assert judged(tmp_path) == [(1, "7", "pass")]


def test_a_part_that_was_trained_stands_in_the_reference(tmp_path, pinned):
    vision = scaled(pinned, 2)["vision"]
    step(tmp_path / "run", 1, {"params": {"vision": vision}, "step": np.int32(1)})
    [found] = checkpoints_in(tmp_path / "run", 0)
    tuned = load_model(as_model(found, pinned, tmp_path / "model"))
    assert tuned.card.id == "1"
    for name, factor in (("vision", 2), ("text", 1)):
        for one, other in zip(jax.tree.leaves(tuned.params[name]), jax.tree.leaves(pinned.params[name])):
            np.testing.assert_array_equal(one, np.asarray(other) * factor)


@pytest.mark.parametrize("name", ["mu", "ema"])
def test_an_optimiser_s_moments_are_no_weights(tmp_path, pinned, name):
    step(tmp_path / "run", 1, {name: scaled(pinned, 1), "step": np.int32(1)})
    [found] = checkpoints_in(tmp_path / "run", 0)
    with pytest.raises(DataError, match="no tree named params in it has only leaves of tiny16"):
        as_model(found, pinned, tmp_path / "model")


def resume_point(folder, params, method, classes="demo_video", base_sha256=""):
    """A resume point as `clipjax finetune` writes it."""
    import orbax.checkpoint as ocp

    state = TrainState(np.int32(1), params, {}, {"mu": params}, np.zeros(2, np.uint32))
    labels = load_labels(classes)
    record = {"method": method, "base": "one", "base_sha256": base_sha256, "classes": labels.digest}
    items = ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        identity=ocp.args.JsonSave({**record, "train.classes": labels.name}),
    )
    with ocp.CheckpointManager(folder) as manager:
        manager.save(1, args=items)
        manager.wait_until_finished()
    [found] = checkpoints_in(folder, 0)
    return found


def a_head(classes=4, seed=0):
    kernel = np.random.default_rng(seed).normal(size=(16, classes)).astype(np.float32)
    return {"kernel": kernel, "bias": np.arange(classes, dtype=np.float32)}


def test_a_resume_point_of_cross_entropy_is_a_classifier(tmp_path, pinned):
    """Of the tower that it trained, over the classes of its images."""
    params = {"vision": scaled(pinned, 2)["vision"], "head": a_head()}
    found = resume_point(tmp_path / "run", params, "cross_entropy")
    tuned = load_model(as_model(found, pinned, tmp_path / "model"))
    assert (tuned.card.kind, tuned.card.classes) == ("classifier", "demo_video")
    assert tuned.card.arch.num_classes == 4
    for one, other in zip(jax.tree.leaves(tuned.params), jax.tree.leaves(params)):
        np.testing.assert_array_equal(one, other)
    assert tuned.card.normalize_features


def test_a_resume_point_of_a_probe_needs_its_own_base(tmp_path, pinned, gate_world):
    base = pinned.card.weights.identity
    found = resume_point(tmp_path / "run", {"head": a_head()}, "linear_probe", base_sha256=base)
    tuned = load_model(as_model(found, pinned, tmp_path / "model"))
    np.testing.assert_array_equal(tuned.params["head"]["kernel"], a_head()["kernel"])
    for one, other in zip(*(jax.tree.leaves(each.params["vision"]) for each in (tuned, pinned))):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(DataError, match="trained the head alone, on the tower of one, and two has other"):
        as_model(found, load_model(gate_world / "models" / "two"), tmp_path / "other")


def test_a_resume_point_of_classes_without_names(tmp_path, pinned):
    """A classifier of these classes has them; the same number of other classes is not enough."""
    params = {"vision": pinned.params["vision"], "head": a_head()}
    found = resume_point(tmp_path / "run", params, "lp_ft")
    classifier = load_model(as_model(found, pinned, tmp_path / "model"))
    record = tmp_path / "run" / "1" / "identity" / "metadata"
    record.write_text(record.read_text().replace("demo_video", "mine"))
    with pytest.raises(DataError, match=r"lp_ft trained a head over mine, .*: name a classifier of them"):
        as_model(found, pinned, tmp_path / "none")
    again = load_model(as_model(found, classifier, tmp_path / "again"))
    np.testing.assert_array_equal(again.params["head"]["kernel"], params["head"]["kernel"])
    record.write_text(record.read_text().replace(load_labels("demo_video").digest, "0" * 64))
    with pytest.raises(DataError, match="lp_ft trained a head over mine"):
        as_model(found, classifier, tmp_path / "other")


def test_a_resume_point_of_an_adapter_names_what_to_watch(tmp_path, pinned):
    found = resume_point(tmp_path / "run", {"lora": {"vision": a_head()}}, "lora")
    with pytest.raises(DataError, match=r"of lora, which trains lora beside a model: watch the folder in"):
        as_model(found, pinned, tmp_path / "model")


def test_a_folder_with_the_reference_alone(run, tmp_path, gate_world):
    shutil.copytree(gate_world / "models" / "one", tmp_path / "run" / "seed0" / "model")
    result = run()
    assert isinstance(result.exception, DataError)
    assert "no checkpoint to judge: seed0 has the reference's own weights" in str(result.exception)
    assert "no finished checkpoint" not in str(result.exception)


def test_a_folder_with_other_files(run, tmp_path):
    (tmp_path / "run" / "weights.bin").write_bytes(b"any")
    result = run()
    assert "or a folder with card.json; there are weights.bin" in str(result.exception)


def test_another_architecture(tmp_path, pinned, gate_world):
    large = load_model(gate_world / "models" / "large")
    step(tmp_path / "run", 1, {"params": scaled(large, 1)})
    [found] = checkpoints_in(tmp_path / "run", 0)
    with pytest.raises(DataError, match="name a model of its architecture with --like"):
        as_model(found, pinned, tmp_path / "model")
    assert load_model(as_model(found, large, tmp_path / "model")).card.arch.name == "tiny24"


def test_a_damaged_checkpoint_is_named_and_the_others_are_judged(run, tmp_path, pinned):
    path = epoch(tmp_path / "run" / "epoch_1.pt", pinned, 1 + 1e-6)
    epoch(tmp_path / "run" / "epoch_2.pt", pinned, 1 + 2e-6)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255  # inside a tensor: the zip's checksum
    path.write_bytes(data)
    result = run()
    assert isinstance(result.exception, DataError)
    assert "epoch_1.pt cannot be judged" in str(result.exception)
    assert judged(tmp_path) == [(1, "epoch_2", "pass")]


def test_a_damaged_step(tmp_path, pinned):
    path = step(tmp_path / "run", 1, {"params": scaled(pinned, 1)})
    for file in path.rglob("d/*"):
        file.write_bytes(b"")
    [found] = checkpoints_in(tmp_path / "run", 0)
    with pytest.raises(DataError, match=r"run/1 cannot be read \("):
        as_model(found, pinned, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_the_reference_s_own_weights_and_copies_spend_nothing(run, tmp_path, gate_world):
    shutil.copytree(gate_world / "models" / "one", tmp_path / "run" / "seed0" / "model")
    nudged(tmp_path / "run" / "seed1" / "model", gate_world / "models" / "one")
    shutil.copytree(tmp_path / "run" / "seed1", tmp_path / "run" / "seed2")
    result = run()
    assert result.exit_code == 0, result.output
    assert "has the weights of the reference: it is not judged" in result.output
    assert "judged before" in result.output
    assert len(judged(tmp_path)) == 1


def test_it_ends_when_all_planned_checkpoints_are_judged(run, tmp_path, pinned):
    epoch(tmp_path / "run" / "epoch_1.pt", pinned, 1 + 1e-6)
    assert run("--planned", "1").exit_code == 0
    assert judged(tmp_path) == [(1, "epoch_1", "pass")]
    epoch(tmp_path / "run" / "epoch_2.pt", pinned, 1 + 2e-6)
    assert run("--planned", "1", "--once").exit_code == 0
    assert len(judged(tmp_path)) == 1


def test_a_model_is_judged_where_it_is_and_stays(run, tmp_path, gate_world):
    inside = tmp_path / "gate" / CONVERTED
    model = nudged(inside / "m1", gate_world / "models" / "one")
    (tmp_path / "run").rmdir()
    (tmp_path / "run").symlink_to(inside)
    assert run().exit_code == 0
    assert judged(tmp_path) == [(1, "m1", "pass")]
    assert (model / "card.json").is_file()


@pytest.mark.long("gates/test_watch.py::test_one_watch_judges_again_what_was_interrupted")
def test_an_interrupted_watch_goes_on(run, tmp_path, pinned, monkeypatch):
    def stopped(*_args, **_how):
        raise Interrupted("stopped")

    for number in (1, 2):
        epoch(tmp_path / "run" / f"epoch_{number}.pt", pinned, 1 + number * 1e-6)
    whole, calls = gates.run_sweep, []
    with monkeypatch.context() as patch:
        patch.setattr(
            gates, "run_sweep", lambda *a, **how: (stopped if calls else calls.append(1) or whole)(*a, **how)
        )
        with pytest.raises(Interrupted):
            run()
    assert judged(tmp_path) == [(1, "epoch_1", "pass")]
    assert run().exit_code == 0
    assert judged(tmp_path) == [(1, "epoch_1", "pass"), (2, "epoch_2", "pass")]


def test_one_watch_judges_again_what_was_interrupted(tmp_path, gate_world):
    shutil.copytree(gate_world / "models" / "one", tmp_path / "run" / "one")
    answers = iter([Interrupted("stopped"), ("judgement", True)])

    def judge(*_):
        if isinstance(answer := next(answers), Interrupted):
            raise answer
        return answer

    gate = SimpleNamespace(
        folder=tmp_path / "gate",
        spending=SimpleNamespace(planned=None),
        history=lambda _: SimpleNamespace(judged=[]),
        judge=judge,
    )
    watched, compute = Watch(cast(Any, gate), tmp_path / "run", settle=0), Compute()
    with pytest.raises(Interrupted):
        next(watched.step(compute))
    assert [each.name for each in watched.step(compute)] == ["one"]
    assert not [*watched.step(compute)]


def test_no_checkpoint(run, tmp_path):
    (tmp_path / "run" / "epoch_1.pt").write_bytes(b"half")
    result = run()
    assert isinstance(result.exception, DataError)
    assert "has no finished checkpoint" in str(result.exception)
    assert "not finished: epoch_1.pt (it is not complete yet)" in str(result.exception)
