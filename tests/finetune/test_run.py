"""Runs by recipe and seed: what is stored, what is not trained again, what is refused, what is chosen."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from _small import RGB, small_model, write_colours
from _tiny import same_bits

import clipjax
from clipjax.checkpoints.model import Model
from clipjax.data.cards import Dataset, load_dataset
from clipjax.devices.sharding import make_mesh
from clipjax.errors import DataError, UsageError
from clipjax.evaluation.data_folder import cards_below
from clipjax.finetune import finetune as runs
from clipjax.finetune.data.shots import draw_shots, read_shots, write_shots
from clipjax.finetune.data.splits import TrainSplit, refuse_overlap
from clipjax.finetune.finetune import FinetuneData, SeedRun, finetune, splits
from clipjax.finetune.method import Settings
from clipjax.finetune.recipe import Recipe, recipe_from_dict
from clipjax.finetune.training import step
from clipjax.storage.store import Store

pytestmark = pytest.mark.usefixtures("one_device")

PROBE: dict[str, Any] = {
    "title": "Probe",
    "method": "linear_probe",
    "steps": 4,
    "batch_size": 4,
    "prompts": "single",
    "shots": 2,
    "optimizer": {"learning_rate": 1.0},
}
TUNED = PROBE | {
    "method": "cross_entropy",
    "seeds": [1],
    "batch_norm": "frozen",
    "augmentation": {"scale": [0.5, 1.0], "flip": 0.5},
    "optimizer": {"learning_rate": 1e-3},
}
Start = Callable[..., list[SeedRun]]


class World(NamedTuple):
    """A folder of data sets, and a model to fine-tune."""

    root: Path
    base: Model

    def data(self, name: str = "colours_train") -> Dataset:
        return load_dataset(self.root / f"{name}.toml", self.root / name)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("run")
    return World(
        write_colours(folder / "world"), clipjax.load_model(small_model(folder / "small", seed=5, quick=True))
    )


@pytest.fixture(scope="module")
def start(world: World, tmp_path_factory: pytest.TempPathFactory) -> Start:
    """`finetune` with defaults: the world's base and training images, one image per class held out."""
    settings = Settings(
        make_mesh(jax.devices()[:1]), store=Store(tmp_path_factory.mktemp("store")), progress=False
    )

    def run(
        out: Path, record: dict[str, Any], data: FinetuneData | None = None, base: Model | None = None
    ) -> Any:
        data = data or FinetuneData(world.data(), hold_out=1)
        return finetune(base or world.base, recipe(**record), data, out, settings)

    return run


@pytest.fixture(scope="module")
def probed(start: Start, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[SeedRun], int, int]:
    """A probe with the default seeds: folder, runs, and how often its step was made and found."""
    out = tmp_path_factory.mktemp("three")
    step._jitted.cache_clear()
    made = start(out, PROBE)
    counts = step._jitted.cache_info()
    return out, made, counts.misses, counts.hits


@pytest.fixture(scope="module")
def three(probed: tuple[Path, list[SeedRun], int, int]) -> tuple[Path, list[SeedRun]]:
    return probed[:2]


def recipe(**record: Any) -> Recipe:
    return recipe_from_dict({"name": "mine", **record}, "mine.toml")


def lineage(run: SeedRun) -> dict[str, Any]:
    record = run.model.card.lineage
    assert record is not None
    return dict(record)


def images(split: Any) -> set[str]:
    return set(split.manifest.ids)


# -------------------------------------------------------------------------------------- what is stored


def test_seeds_share_a_compiled_step(probed: tuple[Path, list[SeedRun], int, int]) -> None:
    assert probed[2:] == (1, 2)


def test_three_seeds_are_three_stored_models_of_three_lists(
    three: tuple[Path, list[SeedRun]], world: World
) -> None:
    out, made = three
    assert [(run.seed, run.folder, run.resumed) for run in made] == [
        (seed, out / f"seed{seed}", False) for seed in (1, 2, 3)
    ]
    shots = [read_shots(run.folder / "shots.json") for run in made]
    assert len({each.ids for each in shots}) == 3
    for run, each in zip(made, shots):
        assert (each.per_class, each.seed, len(each.ids)) == (2, run.seed, 2 * len(RGB))
        assert {name.split("/")[0] for name in each.ids} == set(RGB)
        assert run.model.card.id == f"small-linear_probe-seed{run.seed}"
        record = lineage(run)
        assert record["train"]["shots"] == {"per_class": 2, "seed": run.seed, "sha256": each.sha256}
        assert record["train"]["images"] == 8
        assert (record["base"], record["seed"], record["method"]) == ("small", run.seed, "linear_probe")
        assert record["validation"]["selection"] == "1 a class held out, seed 0"
        stored = clipjax.load_model(run.folder / "model")
        assert stored.card == run.model.card
        assert same_bits(stored.params, run.model.params)
        assert (run.folder / "train" / "metrics.csv").is_file()
    digests = {lineage(run)["validation"]["digest"] for run in made}
    assert len(digests) == 1, "one hold-out for all seeds"
    heads = [np.asarray(run.model.params["head"]["kernel"]) for run in made]
    assert not np.array_equal(heads[0], heads[1])
    assert same_bits(made[0].model.params["vision"], world.base.params["vision"])


def test_the_same_command_again_trains_nothing(
    three: tuple[Path, list[SeedRun]], start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("trained again")

    out, made = three
    monkeypatch.setattr(runs, "solve", never)
    again = start(out, PROBE | {"title": "Another title"})
    assert [run.resumed for run in again] == [True] * 3
    assert all(same_bits(a.model.params, b.model.params) for a, b in zip(made, again))
    assert [a.model.card for a in again] == [b.model.card for b in made]
    [second] = start(out, PROBE | {"seeds": [2]})
    assert second.resumed


def test_a_run_that_died_before_its_record_is_finished_not_trained_again(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = start(tmp_path, PROBE | {"seeds": [1]})
    log = (tmp_path / "seed1/train/metrics.csv").read_bytes()
    (tmp_path / "seed1/run.json").unlink()
    again = start(tmp_path, PROBE | {"seeds": [1]})
    assert (first[0].resumed, again[0].resumed) == (False, False)
    assert same_bits(first[0].model.params, again[0].model.params)
    assert (tmp_path / "seed1/train/metrics.csv").read_bytes() == log, "no step was done again"
    assert start(tmp_path, PROBE | {"seeds": [1]})[0].resumed


def test_a_damaged_record_is_named(three: tuple[Path, list[SeedRun]], start: Start, tmp_path: Path) -> None:
    for text in ("[1]", "{"):
        (tmp_path / "seed1").mkdir(exist_ok=True)
        (tmp_path / "seed1/run.json").write_text(text)
        with pytest.raises(DataError, match=r"seed1/run\.json cannot be read .*: remove it, and the same"):
            start(tmp_path, PROBE)


# -------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": {"learning_rate": 0.01}}, r"recipe\.optimizer\.learning_rate = 1\.0, not 0\.01"),
        ({"options": {"label_smoothing": 0.1}}, r"recipe\.options\.label_smoothing = 0\.0, not 0\.1"),
        ({"steps": None, "epochs": 2}, r"recipe\.epochs = None, not 2"),
        ({"prompts": "demo"}, r"recipe\.prompts = single, not demo"),
        ({"method": "cross_entropy"}, r"method = linear_probe, not cross_entropy"),
    ],
)
def test_another_recipe_in_the_same_folder_is_refused(
    three: tuple[Path, list[SeedRun]], start: Start, changes: dict[str, Any], message: str
) -> None:
    record = {key: value for key, value in (PROBE | changes).items() if value is not None}
    with pytest.raises(DataError, match=rf"seed1 holds a model made with {message}: name another --out"):
        start(three[0], record)


def test_a_folder_that_another_run_writes_to_is_refused_until_it_ends(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "seed1"
    folder.mkdir()
    other = os.open(folder, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(UsageError, match=r"another run writes to .*seed1 at this moment"):
        start(tmp_path, PROBE | {"seeds": [1]})
    assert not list(folder.rglob("*"))
    os.close(other)
    assert start(tmp_path, PROBE | {"seeds": [1]})[0].folder == folder


def test_another_base_or_other_images_in_the_same_folder_are_refused(
    three: tuple[Path, list[SeedRun]], start: Start, world: World, tmp_path: Path
) -> None:
    out, train = three[0], world.data()
    other = clipjax.load_model(small_model(tmp_path / "small", seed=1, quick=True))
    with pytest.raises(DataError, match="seed1 holds a model made with base_sha256 = "):
        start(out, PROBE, base=other)
    other = other.with_card(dataclasses.replace(other.card, id="other"))
    with pytest.raises(DataError, match="seed1 holds a model made with base = small, not other: name"):
        start(out, PROBE, base=other)
    others = r"holds a model made with other images|shots\.json lists the images of another run"
    for data in (
        FinetuneData(train, hold_out=2),
        FinetuneData(train),
        FinetuneData(train, hold_out=1, limit=19),
    ):
        with pytest.raises(DataError, match=others):
            start(out, PROBE, data)
    with pytest.raises(DataError, match=others):
        start(out, PROBE | {"shots": 1})
    with pytest.raises(DataError, match=others):
        start(out, PROBE, FinetuneData(train, validation=world.data("colours_spare")))
    with pytest.raises(
        DataError, match=r"seed1 holds a model made with select = \[\], not \['epoch'\]: name"
    ):
        start(out, PROBE | {"select": ["epoch"]})
    # The very list of shots that was drawn makes no difference.
    same = FinetuneData(train, hold_out=1, shots=out / "seed2/shots.json")
    assert start(out, PROBE | {"seeds": [2]}, same)[0].resumed


def test_a_list_that_an_unfinished_run_left_is_not_taken_for_another(start: Start, tmp_path: Path) -> None:
    """A run that has begun to train keeps its list; one that was refused before that stands in no way."""
    [made] = start(tmp_path / "a", PROBE | {"seeds": [1]})
    (tmp_path / "b/seed1/train").mkdir(parents=True)
    (tmp_path / "b/seed1/shots.json").write_bytes((made.folder / "shots.json").read_bytes())
    message = r"b/seed1/shots\.json lists the images of another run \(2 per class, seed 1\), this one takes "
    with pytest.raises(DataError, match=message + "1 other images per class"):
        start(tmp_path / "b", PROBE | {"seeds": [1], "shots": 1})
    every = {key: value for key, value in PROBE.items() if key != "shots"}
    with pytest.raises(DataError, match=message + "all images"):
        start(tmp_path / "b", every | {"seeds": [1]})
    (tmp_path / "c/seed1").mkdir(parents=True)
    (tmp_path / "c/seed1/shots.json").write_bytes((made.folder / "shots.json").read_bytes())
    [other] = start(tmp_path / "c", PROBE | {"seeds": [1], "shots": 1})
    assert lineage(other)["train"]["shots"]["per_class"] == 1
    [same] = start(tmp_path / "b", PROBE | {"seeds": [1]})
    assert same_bits(same.model.params, made.model.params)


def test_a_data_set_that_results_are_reported_on_is_no_training_data(world: World) -> None:
    with pytest.raises(UsageError, match="colours_val cannot be training data: results are reported on it"):
        splits(FinetuneData(world.data("colours_val")))
    with pytest.raises(UsageError, match="colours_val cannot be a validation split: results are reported"):
        splits(FinetuneData(world.data(), world.data("colours_val")))
    with pytest.raises(UsageError, match="colours_spare cannot be training data: its card says split = 'val"):
        splits(FinetuneData(world.data("colours_spare")))


@pytest.mark.parametrize("name", ["imagenet_val", "imagenet_v2", "imagenet_sketch", "demo_val"])
def test_the_shipped_test_sets_are_none_either(world: World, name: str) -> None:
    [card] = [each.card for each in cards_below(world.root) if each.card.name.split(":")[0] == name][:1]
    reported = dataclasses.replace(world.data(), card=card)
    with pytest.raises(UsageError, match="cannot be a validation split: results are reported on it"):
        splits(FinetuneData(world.data(), reported))
    with pytest.raises(UsageError, match="cannot be training data: results are reported on it"):
        splits(FinetuneData(reported))


def test_validation_images_are_not_among_those_trained_on(world: World, tmp_path: Path) -> None:
    train = world.data()
    for colour in RGB:
        (tmp_path / colour).mkdir()
        source = world.root / "colours_spare" / colour / f"{colour}0.png"
        (tmp_path / colour / "a.png").write_bytes(source.read_bytes())
    clean = load_dataset("folder", tmp_path)
    whole, held_out = splits(FinetuneData(train, clean))
    assert (len(whole), len(held_out or [])) == (24, 4)
    copied = world.root / "colours_train/red/red3.png"
    (tmp_path / "red/b.png").write_bytes(copied.read_bytes())
    message = r"validation split .* holds 1 image of the training split .*red3\.png\): take them out"
    with pytest.raises(DataError, match=message):
        splits(FinetuneData(train, load_dataset("folder", tmp_path)))
    (tmp_path / "red/b.png").unlink()
    (tmp_path / "red").rename(tmp_path / "rose")
    with pytest.raises(DataError, match="have different classes: 'red' is in one of them alone"):
        splits(FinetuneData(train, load_dataset("folder", tmp_path)))


def test_held_out_images_are_no_shots(
    three: tuple[Path, list[SeedRun]], world: World, start: Start, tmp_path: Path
) -> None:
    whole, held_out = splits(FinetuneData(world.data(), hold_out=1))
    assert held_out is not None
    assert len(held_out) == len(RGB)
    assert not images(whole) & images(held_out)
    assert images(whole) | images(held_out) == set(world.data().manifest.ids)
    assert isinstance(whole, TrainSplit)
    assert refuse_overlap(held_out, whole) == []
    for run in three[1]:
        assert set(read_shots(run.folder / "shots.json").ids) <= images(whole)
    with pytest.raises(DataError, match="6 held out and 1 left to train on are asked for"):
        start(tmp_path, PROBE, FinetuneData(world.data(), hold_out=6))
    with pytest.raises(DataError, match="6 shots per class are asked for, and the class 'blue' has 5 images"):
        start(tmp_path, PROBE | {"shots": 6})


def test_a_list_of_shots_serves_another_method(world: World, start: Start, tmp_path: Path) -> None:
    shots = draw_shots(splits(FinetuneData(world.data(), hold_out=1))[0], 3, 9)
    write_shots(shots, tmp_path / "mine.json")
    data = FinetuneData(world.data(), hold_out=1, shots=tmp_path / "mine.json")
    [run] = start(tmp_path / "out", PROBE | {"seeds": [4]}, data)
    assert lineage(run)["train"]["shots"] == {"per_class": 3, "seed": 9, "sha256": shots.sha256}
    assert lineage(run)["train"]["images"] == 12
    assert read_shots(run.folder / "shots.json") == shots
    write_shots(draw_shots(splits(FinetuneData(world.data()))[0], 6, 1), tmp_path / "all.json")
    with pytest.raises(DataError, match=r"list of shots \(.*\) are not among the .* held out for validation"):
        start(tmp_path / "two", PROBE, dataclasses.replace(data, shots=tmp_path / "all.json"))


# ------------------------------------------------------------------------------------------ what is chosen


def test_the_learning_rate_is_chosen_on_held_out_images_and_is_on_the_card(
    start: Start, tmp_path: Path
) -> None:
    rates = [1e-6, 1.0, 1e-5]  # of the others the head stays as it was
    choosing = PROBE | {"seeds": [1], "select": ["learning_rate"], "learning_rates": rates}
    [run] = start(tmp_path / "both", choosing)
    chosen = lineage(run)["chosen"]
    assert chosen["learning_rates"] == rates
    low, best, other = chosen["learning_rate_accuracies"]
    assert best > max(low, other)
    assert chosen["learning_rate"] == lineage(run)["recipe"]["optimizer"]["learning_rate"] == 1.0
    assert lineage(run)["train"]["shots"]["per_class"] == 2, "the shots of the seed, not of a rate"
    [alone] = start(tmp_path / "alone", PROBE | {"seeds": [1]})
    assert same_bits(alone.model.params, run.model.params)
    assert {each.name for each in run.folder.glob("learning_rate_*")} == {
        f"learning_rate_{rate}" for rate in rates
    }


def test_the_epoch_is_chosen_on_held_out_images_and_is_on_the_card(start: Start, tmp_path: Path) -> None:
    record = {key: value for key, value in PROBE.items() if key != "steps"}
    [run] = start(tmp_path, record | {"seeds": [1], "epochs": 3, "select": ["epoch"]})
    chosen = lineage(run)["chosen"]
    tried = chosen["epoch_accuracies"]
    assert len(tried) == 3
    assert chosen["epoch"] == 1 + int(np.argmax(tried))


@pytest.mark.parametrize("what", [["epoch"], ["learning_rate"]])
def test_nothing_is_chosen_without_images_to_choose_by(
    start: Start, world: World, tmp_path: Path, what: list[str]
) -> None:
    rates = {"learning_rates": [1e-3]} if what == ["learning_rate"] else {}
    message = rf"{what[0]} cannot be chosen without a validation split: hold some training images out"
    with pytest.raises(UsageError, match=message):
        start(tmp_path / "out", PROBE | {"select": what, **rates}, FinetuneData(world.data()))
    assert not (tmp_path / "out").exists()


def test_a_warm_up_that_does_not_fit_is_refused_before_anything_is_written(
    start: Start, tmp_path: Path
) -> None:
    """LP-FT would train its probe first."""
    record = TUNED | {"method": "lp_ft", "schedule": {"warmup_steps": 4}}
    with pytest.raises(UsageError, match=r"^mine\.toml: schedule\.warmup_steps = 4 does not fit into 4 st"):
        start(tmp_path / "out", record | {"options": {"probe_warmup_steps": 0}})
    assert not (tmp_path / "out").exists()


def test_a_method_without_rates_says_so(start: Start, tmp_path: Path) -> None:
    record = PROBE | {"method": "tip_adapter", "select": ["learning_rate"], "learning_rates": [1e-3]}
    with pytest.raises(UsageError, match="tip_adapter cannot choose a learning rate: leave it out of the"):
        start(tmp_path, record)


# ---------------------------------------------------------------------------------------- same bits


def test_the_same_seed_gives_the_same_bits_and_another_one_others(start: Start, tmp_path: Path) -> None:
    def tuned(name: str, **changes: Any) -> Model:
        return start(tmp_path / name, TUNED | changes)[0].model

    first, second, other = tuned("a"), tuned("b"), tuned("c", seeds=[2])
    assert same_bits(first.params, second.params)
    assert not same_bits(first.params["head"], other.params["head"])


def test_no_epochs_is_the_zero_shot_model(start: Start, world: World, tmp_path: Path) -> None:
    record = {key: value for key, value in TUNED.items() if key != "steps"}
    [run] = start(tmp_path, record | {"epochs": 0})
    assert same_bits(run.model.params["vision"], world.base.params["vision"])


def test_a_sample_is_drawn_with_the_seed(start: Start, world: World, tmp_path: Path) -> None:
    record: dict[str, Any] = {key: value for key, value in PROBE.items() if key != "shots"}
    made: Sequence[SeedRun] = start(
        tmp_path, record | {"seeds": [1, 2]}, FinetuneData(world.data(), limit=10)
    )
    samples = [lineage(run)["train"] for run in made]
    assert [each["images"] for each in samples] == [10, 10]
    assert samples[0]["digest"] != samples[1]["digest"]
    assert json.loads((made[0].folder / "run.json").read_text())["train"] == samples[0]


def test_a_published_name_is_refused_before_anything_is_trained(world: World, tmp_path: Path) -> None:
    settings = Settings(make_mesh(jax.devices()[:1]), progress=False)
    data = FinetuneData(world.data(), hold_out=1)
    with pytest.raises(UsageError, match="--name rn50-openai is a published model"):
        finetune(world.base, recipe(**PROBE), data, tmp_path / "out", settings, name="rn50-openai")
    assert not (tmp_path / "out").exists()
