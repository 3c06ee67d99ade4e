"""`clipjax finetune` and `clipjax wise-ft` from outside: tables, colours, plans, JSON and wrong calls."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import typer
from _bucket import URL, FakeBucket
from _figures import PNG, undrawn
from typer.testing import CliRunner, Result

import clipjax
from clipjax import cli
from clipjax.analysis.figures import style
from clipjax.commands.finetune.changes import print_changes
from clipjax.commands.finetune.summary import show_job
from clipjax.errors import ClipjaxError, DataError, Interrupted, UsageError
from clipjax.finetune import dry_run, finetune
from clipjax.finetune.before_after import Change
from clipjax.finetune.method import all_methods
from clipjax.finetune.recipe import recipe_names
from clipjax.finetune.suites import Metric
from clipjax.results.store import ResultStore
from clipjax.storage.remote.bucket_files import BucketFiles
from clipjax.storage.remote.buckets import as_path
from clipjax.storage.store import Store
from tests.finetune._small import small_model, write_colours

RECIPE = """
title = "Short"
method = "linear_probe"
steps = 24
batch_size = 8
seeds = [1, 2]
prompts = "single"
[optimizer]
learning_rate = 1.0
[schedule]
warmup_steps = 2
"""
SUITE = """
title = "Colours"
run = ["zeroshot", "calibration", "ood"]
[[metrics]]
task = "zeroshot"
metric = "top1"
title = "accuracy"
better = "higher"
[[metrics]]
task = "ood"
metric = "auroc"
slice = "score:mcm"
title = "AUROC, MCM"
better = "higher"
[[metrics]]
task = "calibration"
metric = "ece_corrected_15_before"
title = "ECE"
better = "lower"
"""
RUNS = """
title = "Three runs"
[[runs]]
recipe = "{folder}/tables/short.toml"
model = "{folder}/small"
[[runs]]
recipe = "tip_adapter_imagenet"
model = "{folder}/gone"
[[runs]]
recipe = "linear_probe_imagenet"
model = "{folder}/small"
"""


class World(NamedTuple):
    """Data sets, a small model, recipes and suites in one folder."""

    folder: Path

    @property
    def train(self) -> list[str]:
        return ["--data", f"{self.folder}/colours_train", "--dataset", f"{self.folder}/colours_train.toml"]

    @property
    def evaluate(self) -> list[str]:
        return ["--evaluate", f"{self.folder}/tables/colours.toml", "--data-root", f"{self.folder}"]

    def finetune(self, method: str, out: Path, *more: str) -> Result:
        """A run on the world's training images: by default the small model by the short recipe."""
        asked = [method, *self.train, "--out", f"{out}", "--store", f"{self.folder}/store", *more]
        if not method.startswith("suite:"):
            asked += ["--model", f"{self.folder}/small", "--recipe", f"{self.folder}/tables/short.toml"]
        return invoke("finetune", *asked)


def invoke(*arguments: str, color: bool = False) -> Result:
    return CliRunner().invoke(cli.app, list(arguments), color=color)


def refused(kind: type[ClipjaxError], message: str, *arguments: str) -> None:
    """The call ends with an error of this kind, and nothing on stdout."""
    result = invoke(*arguments)
    assert type(result.exception) is kind, result.output
    assert re.search(message, str(result.exception)), result.exception
    assert result.stdout == ""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = write_colours(tmp_path_factory.mktemp("command"))
    # One that fine-tuning gains on: of the models of seeds 0 and 1 the table says nothing.
    small_model(folder / "small", seed=2, quick=True)
    (folder / "tables").mkdir()
    for name, text in (("short", RECIPE), ("colours", SUITE), ("runs", RUNS.format(folder=folder))):
        (folder / "tables" / f"{name}.toml").write_text(text)
    return World(folder)


@pytest.fixture(scope="module")
def tuned(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A command that fine-tunes with two seeds and prints what that changed; where it wrote."""
    out = tmp_path_factory.mktemp("tuned")
    return out, world.finetune("linear_probe", out, *world.evaluate)


# -------------------------------------------------------------------------------------- before and after


def test_two_seeds_and_the_table(tuned: tuple[Path, Result]) -> None:
    out, result = tuned
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line for line in lines if line.startswith("Short, seed")] == [
        f"Short, seed {seed}: {out}/seed{seed}/model" for seed in (1, 2)
    ]
    titles = ["task", "data set", "number", "n", "before", "after", "sd", "difference", "95 % interval"]
    titles += ["over seeds", "p (Holm)", "verdict"]
    [head] = [line for line in lines if line.startswith("task")]
    assert re.split(r"\s{2,}", head.strip()) == titles
    [accuracy] = [line for line in lines if line.startswith("zeroshot") and "colours_val" in line]
    assert re.search(
        r" 12  [01]\.\d{4}  [01]\.\d{4}  0\.\d{4} +\+0\.\d{4}  \[\+.*\]  \[.*\] +[\d.e-]+  gained$", accuracy
    )
    [mcm] = [line for line in lines if line.startswith("ood")]
    assert "MCM" in mcm
    assert "not applicable" in mcm or "cosine" in mcm, "a number without a value has its note"
    assert "after: mean of 2 seeds; interval: from the lowest to the highest" in result.stdout
    assert "\x1b[" not in result.stdout
    assert "small: zeroshot on colours_val" in result.stderr
    assert clipjax.load_model(out / "seed2/model").card.lineage is not None


def test_json_says_the_same_and_nothing_is_trained_again(
    world: World, tuned: tuple[Path, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(finetune, "solve", never)
    result = world.finetune("linear_probe", tuned[0], *world.evaluate, "--json")
    assert result.exit_code == 0, result.output
    [record] = json.loads(result.stdout)
    assert [each["seed"] for each in record["runs"]] == [1, 2]
    assert record["runs"][0]["lineage"]["method"] == "linear_probe"
    [accuracy] = [
        each
        for each in record["changes"]
        if (each["metric"]["metric"], each["dataset"]) == ("top1", "colours_val")
    ]
    assert accuracy["verdict"] == "gained"
    assert accuracy["difference"] == pytest.approx(np.mean(accuracy["after"]) - accuracy["before"])
    assert len(accuracy["intervals"]) == 2
    assert accuracy["over_seeds"][0] < accuracy["difference"] < accuracy["over_seeds"][1]
    assert "finished before" in result.stderr


def test_only_a_loss_is_red_and_only_a_gain_green(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(better: Any, lo: float, hi: float) -> Change:
        metric = Metric("zeroshot", "top1", better, better)
        return Change(metric, "set", 0.5, ((lo + hi) / 2 + 0.5,), ((lo, hi),), 100)

    changes = [
        change("higher", -0.3, -0.1),
        change("lower", 0.1, 0.3),
        change("higher", 0.1, 0.3),
        change("higher", -0.1, 0.3),
        change("neither", -0.3, -0.1),
        Change(Metric("ood", "auroc", "AUROC", "higher"), "set", None, (), (), None, "not applicable: why"),
    ]
    app = typer.Typer()
    app.command()(lambda: print_changes(changes))
    lines = CliRunner().invoke(app, color=True).stdout.splitlines()[2:]
    colours = [line[:5] if line.startswith("\x1b") else "" for line in lines]
    assert colours == ["\x1b[31m", "\x1b[31m", "\x1b[32m", "", "", ""]
    assert [line.removesuffix("\x1b[0m").split()[-1] for line in lines] == [
        *("lost", "lost", "gained", "+0.3000]", "-0.1000]", "why")
    ]
    plain = CliRunner().invoke(app).stdout
    assert "\x1b" not in plain
    assert re.sub(r"\x1b\[\d+m", "", "\n".join(lines)) == "\n".join(plain.splitlines()[2:])


def test_what_was_chosen_is_rounded_for_reading(capsys: pytest.CaptureFixture[str]) -> None:
    chosen = {"alpha": 0.1 + 0.2, "epoch": 3, "learning_rates": [1e-5, 1 / 3], "how": "grid"}
    card = SimpleNamespace(lineage={"chosen": chosen})
    made: Any = SimpleNamespace(seed=1, folder=Path("seed1"), model=SimpleNamespace(card=card))
    job: Any = SimpleNamespace(recipe=SimpleNamespace(title="Tip"))
    show_job(job, [made], [])
    expected = "alpha = 0.3, epoch = 3, learning_rates = [1e-05, 0.3333], how = grid"
    assert capsys.readouterr().out == f"Tip, seed 1: seed1/model, {expected}\n"


def test_images_that_are_reported_on_end_it_before_training(world: World, tmp_path: Path) -> None:
    copy = world.folder / "colours_train/red/copy.png"
    copy.write_bytes((world.folder / "colours_val/red/red0.png").read_bytes())
    try:
        result = world.finetune("linear_probe", tmp_path / "out", *world.evaluate)
    finally:
        copy.unlink()
    assert isinstance(result.exception, DataError)
    assert "training split colours_train holds 1 image of the test split colours_val" in str(result.exception)
    assert not (tmp_path / "out").exists()


# --------------------------------------------------------------------------------------- suites of runs


def test_a_suite_goes_on_behind_a_failing_run_and_names_it(world: World, tmp_path: Path) -> None:
    changes = ["seeds=[1]", "epochs=1", "batch_size=8", "schedule.warmup_steps=0", "prompts=single"]
    more = [part for each in changes for part in ("--set", each)]
    result = world.finetune(
        f"suite:{world.folder}/tables/runs.toml", tmp_path, "--shots", "2", "--hold-out", "1", *more
    )
    assert isinstance(result.exception, DataError), result.exception
    gone = f"{world.folder}/gone"
    assert re.search(
        rf"1 run of 3 failed: tip_adapter_imagenet of {gone}; the first: ", str(result.exception)
    )
    name = str(world.folder).strip("/").replace("/", "_")
    made = {path.parent.parent.name for path in tmp_path.glob("*/seed1/model")}
    assert made == {f"short-{name}_small", f"linear_probe_imagenet-{name}_small"}
    assert len([line for line in result.stdout.splitlines() if "seed 1: " in line]) == 2
    assert "  failed: " in result.stderr


# ------------------------------------------------------------------------------------------- dry runs


def test_a_registered_model_is_planned_without_its_weights(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["finetune", "cross_entropy", "--model", "vit_b_32-openai", *world.train, "--dry-run"]
    asked += ["--set", "batch_size=8", "--set", "schedule.warmup_steps=2"]
    result = invoke(*asked)
    assert result.exit_code == 0, result.output
    assert "ce_imagenet of vit_b_32-openai: 24 images of 4 classes" in result.stdout
    found = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in result.stdout.splitlines()[3:] if line)
    assert found["parameters"] == "87,851,268"
    assert found["trained"] == "87,851,268 (100.00%)"
    assert found["steps"] == "30 of 8 images (10 epochs)"
    assert found["memory: optimizer"] == "0.70 GB"
    assert re.fullmatch(r"\d+\.\d\d [GM]B", found["memory: activations"])
    assert found["learning rate, step 0"] == "1.5e-05"
    assert found["learning rate, step 2"] == "3e-05"
    refused(UsageError, "a batch of 12 does not divide over 8 devices", *asked, "--set", "batch_size=12")
    monkeypatch.setattr(dry_run, "_activations", lambda *_: 1)  # compiling them takes a second
    larger = invoke(*asked, "--set", "batch_size=64")
    assert re.search(r"^steps +10 of 24 images", larger.stdout, re.MULTILINE), (
        "the batch becomes the data set"
    )


def test_the_studys_sixteen_runs_are_planned_at_full_size(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dry_run, "_activations", lambda *_: 1)  # compiling them takes minutes
    asked = ["finetune", "suite:finetuning_paper", *world.train, "--shots", "2", "--dry-run", "--json"]
    asked += ["--set", "batch_size=8", "--set", "schedule.warmup_steps=0"]
    refused(UsageError, "what Tip-Adapter searches cannot be chosen without a validation split", *asked)
    result = invoke(*asked, "--hold-out", "1")
    assert result.exit_code == 0, result.output
    found = {(each["method"], each["model"]): each for each in json.loads(result.stdout)}
    models = ("rn50-openai", "rn101-openai", "vit_b_32-openai", "vit_b_16-openai")
    assert list(found) == [
        (method, model) for method in ("cross_entropy", "flyp", "coop", "tip_adapter") for model in models
    ]
    whole = {model: found["flyp", model]["params"] for model in models}
    assert whole == {
        "rn50-openai": 102_007_137,
        "rn101-openai": 119_688_033,
        "vit_b_32-openai": 151_277_313,
        "vit_b_16-openai": 149_620_737,
    }
    for model, count in whole.items():
        assert found["flyp", model]["trained"] == count
        tower = found["cross_entropy", model]
        assert tower["trained"] == tower["params"] < count
        assert found["coop", model]["trained"] == 16 * 512
        assert found["tip_adapter", model]["trained"] == 0
        assert found["tip_adapter", model]["steps"] == 0
        assert found["flyp", model]["memory"]["optimizer"] >= 2 * 4 * count


# ----------------------------------------------------------------------------------------------- list


def test_list_shows_every_method_and_recipe() -> None:
    text = invoke("finetune", "list").stdout
    assert all(re.search(rf"^{name} ", text, re.M) for name in all_methods())
    assert all(name in text for name in recipe_names())
    record = json.loads(invoke("finetune", "list", "--json").stdout)
    assert {each["name"]: each["options"] for each in record["methods"]} == {
        name: dict(method.options) for name, method in all_methods().items()
    }
    assert [each["name"] for each in record["recipes"]] == recipe_names()


# ---------------------------------------------------------------------------------------- wrong calls


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["flip"], "unknown method 'flip'; did you mean flyp"),
        (["flyp"], "say --data and --out: which training images, and where to write"),
        (["flyp", "--data", "."], "say --out: which"),
        (["flyp", "--dry-run", "--model", "b32"], "say --data: which"),
        (["flyp", "--data", ".", "--out", "o"], "say which model: --model ID"),
        (["flyp", "--evaluate", "robustness"], "--evaluate and --data-root go together"),
        (["flyp", "--data-root", "."], "--evaluate and --data-root go together"),
        (["flyp", "--pixel-store", "p"], "--pixel-store has no effect without --evaluate: give both"),
        (["flyp", "--validation-dataset", "x"], "--validation-dataset has no effect without --validation"),
        (["flyp", "--validation", ".", "--hold-out", "2"], "--validation and --hold-out do not go together"),
        (["flyp", "--recipe", "ce_imagenet"], "the recipe ce_imagenet is one of cross_entropy, not of flyp"),
        (["flyp", "--recipe", "flip_imagenet"], "unknown recipe 'flip_imagenet'; did you mean flyp_imagenet"),
        (["flyp", "--recipe", "gone.toml"], r"--recipe gone\.toml does not exist; "),
        (["flyp", "--set", "seeds"], "--set seeds: write KEY=VALUE"),
        (["flyp", "--set", "lr=3"], "^--set lr=3: unknown key 'lr'"),
        (
            ["flyp", "--set", "options.view=3", "--set", "shots=2"],
            "^--set options.view=3: .* no option 'view'",
        ),
        (["flyp", "--shots", "0"], "^--shots 0: give at least 1"),
        (
            ["flyp", "--shots", "none"],
            "^--shots none: there is no such file; give a number of images",
        ),
        (["flyp", "--workers", "some"], "--workers: a number of processes, or auto, not 'some'"),
        (["flyp", "--seed", "1", "--seed", "1"], "^--seed 1 --seed 1: each seed is one run"),
        (["flyp", "--track", "wandbb"], "unknown tracker 'wandbb'; did you mean wandb"),
        (["flyp", "--track", "tensorboard", "--dry-run"], "--dry-run and --track do not go together"),
        (["suite:robust"], "unknown suite 'robust'; did you mean robustness"),
        (["suite:robustness"], r"the suite robustness lists no fine-tuning \[\[runs\]\]; use it with --eval"),
        (["suite:finetuning_paper", "--recipe", "ce_imagenet"], "and --recipe do not go together"),
    ],
)
def test_wrong_calls_are_named(arguments: list[str], message: str) -> None:
    """Of options that say nothing else, those that the call needs."""
    common = {"--data": ".", "--out": "o", "--model": "vit_b_32-openai"}
    tested_alone = (
        "unknown method",
        "say ",
        "robustness lists",
        "unknown suite",
        "--recipe do not go together",
    )
    if not any(each in message for each in tested_alone):
        given = [part for name, value in common.items() for part in (name, value) if name not in arguments]
        arguments = [*arguments, *given]
    elif arguments[0].startswith("suite:"):
        arguments = [*arguments, "--data", ".", "--out", "o"]
    refused(UsageError, message, "finetune", *arguments)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--shots", "99"], "99 shots per class are asked for, and the class 'blue' has 6 images"),
        (["--hold-out", "6"], "6 held out and 1 left to train on are asked for"),
    ],
)
def test_wrong_values_are_named(world: World, tmp_path: Path, more: list[str], message: str) -> None:
    result = world.finetune("linear_probe", tmp_path / "out", *more)
    assert isinstance(result.exception, ClipjaxError)
    assert re.search(message, str(result.exception)), result.exception
    assert not (tmp_path / "out/seed1/model").exists()


def test_a_test_set_is_no_training_data(world: World, tmp_path: Path) -> None:
    card = f"{world.folder}/colours_val.toml"
    result = world.finetune(
        "linear_probe", tmp_path, "--data", f"{world.folder}/colours_val", "--dataset", card
    )
    assert isinstance(result.exception, UsageError)
    assert "colours_val cannot be training data: results are reported on it" in str(result.exception)
    result = world.finetune(
        "linear_probe", tmp_path, "--validation", f"{world.folder}/colours_val", "--validation-dataset", card
    )
    assert isinstance(result.exception, UsageError)
    assert "colours_val cannot be a validation split: results are reported on it" in str(result.exception)


def test_errors_have_their_exit_codes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def code(*arguments: str) -> Any:
        monkeypatch.setattr("sys.argv", ["clipjax", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code

    monkeypatch.setattr("clipjax.devices.signals.handled", contextlib.nullcontext)
    assert code("finetune", "flip") == 2
    assert (
        code("finetune", "flyp", "--data", f"{world.folder}/gone", "--out", "o", "--model", "vit_b_32-openai")
        == 1
    )
    assert code("finetune", "list") == 0
    assert code("wise-ft", "a", "b", "--out", "o", "--alpha", "2") == 2
    interrupted = Interrupted("stopped at step 3")

    def stopped(*_: Any, **__: Any) -> None:
        raise interrupted

    monkeypatch.setattr(finetune, "finetune", stopped)
    asked = ["--model", f"{world.folder}/small", "--recipe", f"{world.folder}/tables/short.toml"]
    with pytest.raises(Interrupted, match="stopped at step 3"):
        code("finetune", "linear_probe", *world.train, "--out", "o", *asked)


# --------------------------------------------------------------------------------------------- wise-ft


def test_a_sweep_of_alpha_its_table_and_its_curve(
    world: World, tuned: tuple[Path, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(style, "_rendered", undrawn)
    out, model = tuned[0] / "wise", f"{tuned[0]}/seed1/model"
    asked = ["wise-ft", f"{world.folder}/small", model, "--out", f"{out}", "--store", f"{world.folder}/store"]
    alphas = ["--alpha", "0", "--alpha", "0.5", "--alpha", "1"]
    spare = ["--validation", f"{world.folder}/colours_spare"]
    spare += ["--validation-dataset", f"{world.folder}/colours_spare.toml"]
    pixels = tuned[0] / "pixels"
    result = invoke(*asked, *alphas, *spare, *world.evaluate, "--pixel-store", f"{pixels}", "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    accuracy = {
        row["model_facts"]["lineage"]["alpha"]: row["value"]
        for row in record["rows"]
        if (row["dataset"], row["metric"]) == ("colours_val", "top1")
    }
    assert set(accuracy) == {0.0, 0.5, 1.0}
    assert accuracy[1.0] > accuracy[0.0]
    assert record["alpha"] in (0.5, 1.0)
    assert f"chosen on colours_spare: alpha {record['alpha']:g}, accuracy " in result.stderr
    lineage = clipjax.load_model(out / "model").card.lineage
    assert lineage is not None
    assert (lineage["method"], lineage["alpha"]) == ("wise_ft", record["alpha"])
    assert (out / "wise_ft.png").read_bytes().startswith(PNG)

    (out / "wise_ft.png").unlink()
    only = ["--alpha", "0", "--alpha", "1"]
    shown = invoke(*asked, *only, *world.evaluate).stdout.splitlines()
    assert re.split(r"  +", shown[0]) == ["task", "data set", "number", "alpha 0", "alpha 1"]
    lines = {tuple(line.split()[:3]): line.split()[3:] for line in shown[2 : shown.index("")]}
    assert lines["zeroshot", "colours_val", "accuracy"] == [f"{accuracy[alpha]:.4f}" for alpha in (0.0, 1.0)]
    kept = {info.about["data"] for info in Store(pixels).ls() if info.shards_present == info.shards}
    assert {"colours_spare", "colours_val"} <= kept
    assert f"figure: {out}/wise_ft.png" in shown[-2]
    assert shown[-1] == f"alpha 0.5: {out}/model"
    assert (out / "wise_ft.png").is_file()


def test_a_mixture_on_a_bucket(
    world: World, tuned: tuple[Path, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tuned model comes from there; model, results and figure go there, and nothing else is left."""
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path))
    monkeypatch.setattr(style, "_rendered", undrawn)
    bucket = FakeBucket.made(monkeypatch)
    for file in (tuned[0] / "seed1/model").iterdir():
        BucketFiles().create(as_path(f"{URL}/tuned/{file.name}"), file.read_bytes())
    asked = ["wise-ft", f"{world.folder}/small", f"{URL}/tuned", "--out", f"{URL}/wise", "--workers", "auto"]
    asked += ["--alpha", "0", "--alpha", "0.5", *world.evaluate, "--store", f"{world.folder}/store"]
    result = invoke(*asked)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == f"alpha 0.5: {URL}/wise/model"
    assert f"figure: {URL}/wise/wise_ft.png" in result.stdout
    lineage = clipjax.load_model(f"{URL}/wise/model").card.lineage
    assert lineage is not None
    assert lineage["alpha"] == 0.5
    assert bucket.text("/bucket/wise/wise_ft.png").startswith(PNG)
    assert {row["model"] for row in ResultStore(f"{URL}/wise/results").rows()}
    assert not [path for path in (tmp_path / "working").rglob("*") if path.is_file()]


def test_alpha_is_not_chosen_on_what_is_reported(world: World, tuned: tuple[Path, Result]) -> None:
    pair = [f"{world.folder}/small", f"{tuned[0]}/seed1/model", "--out", f"{tuned[0]}/leak"]
    folder = ["--validation", f"{world.folder}/colours_val"]
    message = "validation split folder holds 12 images of the test split colours_val"
    refused(DataError, message, "wise-ft", *pair, *folder, *world.evaluate)
    card = ["--validation-dataset", f"{world.folder}/colours_val.toml"]
    refused(UsageError, "colours_val cannot be a validation split", "wise-ft", *pair, *folder, *card)
    refused(
        UsageError, "--evaluate and --data-root go together", "wise-ft", *pair, "--evaluate", "robustness"
    )
    message = "--pixel-store has no effect without --validation or --evaluate"
    refused(UsageError, message, "wise-ft", *pair, "--pixel-store", "p")
    message = "^--alpha 0.3 --alpha 0.7: give the one to write, or --validation"
    refused(UsageError, message, "wise-ft", *pair, "--alpha", "0.3", "--alpha", "0.7")
    message = "--reference has no effect without --evaluate"
    refused(UsageError, message, "wise-ft", *pair, "--reference", "colours_val")
    assert not (tuned[0] / "leak").exists()


def test_a_failed_evaluation_is_the_exit_code_and_the_rest_is_there(
    world: World, tuned: tuple[Path, Result], tmp_path: Path
) -> None:
    shutil.copytree(world.folder / "colours_dark", tmp_path / "colours_dark")
    shutil.copy(world.folder / "colours_dark.toml", tmp_path)  # without the names of its classes
    more = ["--evaluate", f"{world.folder}/tables/colours.toml", "--data-root", f"{tmp_path}"]
    card = f"{tmp_path}/colours_dark.toml: label_space: {tmp_path}/colours.csv does not exist"
    message = f"1 of 1 evaluation failed: zeroshot on colours_dark failed: {card}"
    for shown in ([], ["--json"]):
        result = world.finetune("linear_probe", tuned[0], *more, *shown)
        assert isinstance(result.exception, DataError), result.output
        assert str(result.exception).startswith(message)
    assert "failed: " in json.loads(result.stdout)[0]["changes"][0]["note"]

    pair = [f"{world.folder}/small", f"{tuned[0]}/seed1/model", "--out", f"{tmp_path}/wise"]
    result = invoke("wise-ft", *pair, "--alpha", "0.5", *more, "--store", f"{world.folder}/store")
    assert isinstance(result.exception, DataError), result.output
    assert "alpha0.5, zeroshot on colours_dark: " in str(result.exception)
    assert result.stdout.splitlines()[-1] == f"alpha 0.5: {tmp_path}/wise/model"
