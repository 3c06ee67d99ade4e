"""`clipjax sweep` in one process: what is run in which order, what it would take, what a failure costs."""

from __future__ import annotations

import dataclasses
import errno
import gc
import os
import re
import shutil
import weakref
from pathlib import Path
from typing import Any

import jax
import pyarrow.parquet as pq
import pytest
from _long import mostly_long
from _sweep_world import EMBEDDED, IMAGES, RUNS, rows_of, sweep
from typer.testing import Result

from clipjax.checkpoints.card import Card
from clipjax.errors import DataError, UsageError
from clipjax.estimates import cost
from clipjax.evaluation.plans import execute, ready
from clipjax.evaluation.plans.item import ModelChoice
from clipjax.results.store import ResultStore
from clipjax.sweep.plan import SweepPlan, connected, make_plan
from clipjax.sweep.shards import cut, read_shard
from clipjax.sweep.suite import load_suite


@pytest.fixture(scope="module")
def plan(suite: Path) -> SweepPlan:
    return make_plan(load_suite(suite), 10**9)


def failure(result: Result) -> str:
    assert isinstance(result.exception, DataError | UsageError), result.output
    return str(result.exception)


def test_everything_is_run_once(done: tuple[Path, Result, int]) -> None:
    out, result, _ = done
    assert len(ResultStore(out / "results").run_ids()) == RUNS
    assert f"{RUNS} runs done now, 0 before" in result.output
    assert re.search(
        rf"embedded {EMBEDDED} images in .* the devices waited for pixels \d+% of it", result.output
    )
    assert re.search(
        rf"\[{RUNS}/{RUNS}\] large: .*\n(.*\n)*  .*\[100% of the work, about 0 s left\]", result.output
    )


def test_a_recipe_is_decoded_once_for_all_its_models(done: tuple[Path, Result, int]) -> None:
    assert done[2] == EMBEDDED * 2 // 3  # three models, two recipes


def test_a_program_is_compiled_once(done: tuple[Path, Result, int]) -> None:
    rows = re.findall(r"^(tiny\d+) +(image|text) +(\d+) +(\d+) +parity +(\d+)$", done[1].output, re.MULTILINE)
    assert {(arch, size) for arch, tower, size, *_ in rows if tower == "image"} == {
        ("tiny16", "16"),
        ("tiny24", "24"),
    }
    assert [count for *_, count in rows] == ["1"] * len(rows)


def test_what_exists_is_skipped(suite: Path, done: tuple[Path, Result, int]) -> None:
    again = sweep(suite, done[0])
    assert again.exit_code == 0
    assert f"0 runs done now, {RUNS} before" in again.output
    assert "embedded" not in again.output
    collected = sweep(suite, done[0], "--collect")
    assert (collected.exit_code, collected.output) == (0, f"{RUNS} of {RUNS} runs have results\n")


def test_each_run_is_resolved_once(
    suite: Path, done: tuple[Path, Result, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To see whether it is done, to embed small data sets together, and to run it."""
    shutil.copytree(done[0] / "store", tmp_path / "store")
    resolved, kind_of = list[str](), ready.kind_of

    def counting(model: Any, task: Any) -> Any:
        kind = kind_of(model, task)

        def resolve(*arguments: Any) -> Any:
            resolved.append(task.name)
            return kind.resolve(*arguments)

        return dataclasses.replace(kind, resolve=resolve)

    monkeypatch.setattr(ready, "kind_of", counting)
    assert f"{RUNS} runs done now, 0 before" in sweep(suite, tmp_path).output
    assert len(resolved) == RUNS
    assert f"0 runs done now, {RUNS} before" in sweep(suite, tmp_path).output
    assert len(resolved) == 2 * RUNS
    assert rows_of(tmp_path) == rows_of(done[0])


@pytest.mark.parametrize("fails", mostly_long([False, True], keep=[True]))
def test_a_model_leaves_the_memory_before_the_next_one_is_loaded(
    suite: Path, done: tuple[Path, Result, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """Also where its last run failed, whose error has a traceback."""
    shutil.copytree(done[0] / "store", tmp_path / "store")
    params, alive, load = list[weakref.ref[Any]](), list[int](), ModelChoice.loaded

    def counted(chosen: ModelChoice, **how: Any) -> Any:
        gc.collect()
        alive.append(sum(each() is not None for each in params))
        model = load(chosen, **how)
        assert model is not None
        params.append(weakref.ref(jax.tree.leaves(model.params)[0]))
        return model

    def refuse(ready: Any, *_: Any) -> Any:
        raise OSError(f"not {ready.item}")

    monkeypatch.setattr(ModelChoice, "loaded", counted)
    if fails:
        monkeypatch.setattr(execute, "measured", refuse)
    said = sweep(suite, tmp_path).output
    assert f"{0 if fails else RUNS} runs done now, 0 before" in said
    assert alive == [0, 0, 0]


@pytest.mark.parametrize("asked", ["sharded", "auto"])
def test_what_exists_with_params_that_were_cut_is_skipped(suite: Path, tmp_path: Path, asked: str) -> None:
    one = suite.with_name("cut.toml")
    text = suite.read_text().replace(', "models/two", "models/large"', "").replace('"many"', '"few"')
    one.write_text(text.replace('task = "all"', 'task = "zeroshot"\ndatasets = ["few"]'))
    assert "2 runs done now, 0 before" in sweep(one, tmp_path, "--params", "sharded").output
    assert "0 runs done now, 2 before" in sweep(one, tmp_path, "--params", asked).output
    assert sweep(one, tmp_path, "--params", asked, "--collect").exit_code == 0
    if asked == "sharded":  # others are another program's
        assert failure(sweep(one, tmp_path, "--params", "replicated", "--collect")).startswith("2 runs")


def test_what_it_would_take(
    suite: Path, plan: SweepPlan, done: tuple[Path, Result, int], tmp_path: Path
) -> None:
    out = sweep(suite, tmp_path, "--dry-run")
    assert out.exit_code == 0, out.output
    assert not list(tmp_path.iterdir())
    assert f"{RUNS} runs, {EMBEDDED} images to embed" in out.output
    assert f"{cost.total_flops(plan.items) / 1e12:.4g} TFLOP" in out.output
    pixels = 3 * 82 * 16**2 / 1e6
    assert re.search(rf"16 px, .* 2 +4 +82 +{pixels:.1f} +0\.0\n", out.output)
    assert re.search(r"holds 0 GB of the 100 GB", out.output)
    kilobytes = EMBEDDED * 16 * 4 / 1e3  # 16 float32 numbers an image
    assert re.search(rf"embeddings: .* take {kilobytes:.1f} kB\n", out.output)
    assert re.search(r"^one +5 +0 +82 +0 ", out.output, re.MULTILINE)
    after = sweep(suite, done[0], "--dry-run", "--shares", "2")
    assert re.search(r"^one +5 +5 +82 +82 ", after.output, re.MULTILINE)
    assert re.search(r"^1/2 +\d +\d+ +\d+\.\d%$", after.output, re.MULTILINE)


def test_training_images_are_for_the_task_that_fits_something(done: tuple[Path, Result, int]) -> None:
    """Of all runs of the suite, which states them once."""
    for row in ResultStore(done[0] / "results").rows():
        assert ("fit" in row["recipe"]) == (row["task"] == "ood")
        if row["slice"] == "score:relative_mahalanobis":
            assert row["value"] is not None
            fit: Any = row["convention"]["fit"]
            assert fit["sample"] == {"per_class": 5, "seed": 0, "of": 24}


def test_nothing_is_downloaded_to_say_what_it_would_take(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    asked = []

    def download(repo: str, name: str, **options: Any) -> str:
        asked.append(options.get("local_files_only"))
        raise huggingface_hub.errors.LocalEntryNotFoundError(f"{repo} {name}")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    hub = suite.with_name("hub.toml")
    hub.write_text(suite.read_text().replace('"models/two", "models/large"', '"vit_b_32-laion2b_s34b_b79k"'))
    out = sweep(hub, tmp_path, "--dry-run")
    assert re.search(
        r"^vit_b_32-laion2b_s34b_b79k +5 +\? +82 +\? .* no weights in the local", out.output, re.MULTILINE
    )
    assert asked
    assert set(asked) == {True}


def test_operations_count_each_layer_of_a_scan(plan: SweepPlan) -> None:
    """By hand: two layers, 32 and 64 wide, over 4 patches of 8 pixels and the class token."""
    model = plan.items[0].choice.model
    assert model is not None
    assert isinstance(model.card, Card)
    tokens, width, hidden, out = 5, 32, 64, 16
    layer = 4 * tokens * width**2 + 2 * tokens**2 * width + 2 * tokens * width * hidden
    patches = 4 * (8 * 8 * 3) * width
    assert cost.flops(model.card, "vision") == 2 * (2 * layer + patches + width * out)


def test_models_of_a_recipe_are_neighbours(plan: SweepPlan) -> None:
    assert [item.choice.title for item in plan.items] == ["one"] * 5 + ["two"] * 5 + ["large"] * 5
    assert sum(item.images for item in plan.items) == EMBEDDED


def test_data_sets_come_in_waves_that_fit_the_pixel_store(suite: Path) -> None:
    """Room for `many` with its runs, but not for all three sets at 16 pixels; at 24 not even for that."""
    budget = 3 * 16**2 * (IMAGES + 6)
    plan = make_plan(load_suite(suite), budget)
    small = [
        (item.choice.title, item.job.data.card.name) for item in plan.items if item.choice.title != "large"
    ]
    firsts = list(dict.fromkeys((model, name == "few") for model, name in small))
    assert firsts == [("one", False), ("two", False), ("one", True), ("two", True)]
    kept = {(item.choice.title, item.job.data.card.name): item.keep_pixels for item in plan.items}
    assert not kept["large", "many"]
    assert kept["large", "few"]
    assert all(kept[each] for each in small)


def test_shards_are_all_of_it_and_alike(plan: SweepPlan) -> None:
    for count in (1, 2, 3, 7, 20):
        parts = cut(plan.items, count)
        assert [item for part in parts for item in part] == list(plan.items)
        assert len(parts) == count
        assert parts == cut(plan.items, count)
    unit = max(cost.total_flops(unit) for unit in connected(plan.items[:5]))
    costs = list(map(cost.total_flops, cut(plan.items, 2)))
    assert max(costs) - min(costs) <= 2 * unit


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/2/3", ""])
def test_no_shard(text: str) -> None:
    with pytest.raises(UsageError, match=r"--shard '.*' is not one of n parts: write 1/8"):
        read_shard(text)


def test_shards_fill_one_store(suite: Path, done: tuple[Path, Result, int], tmp_path: Path) -> None:
    first = sweep(suite, tmp_path, "--shard", "1/2", "--no-pixel-store")
    assert first.exit_code == 0, first.output
    missing = sweep(suite, tmp_path, "--collect")
    assert missing.exit_code == 1
    count = len(ResultStore(tmp_path / "results").run_ids())
    assert 0 < count < RUNS
    assert failure(missing).startswith(
        f"{RUNS - count} runs and 0 data sets are missing from {tmp_path}/results"
    )
    assert "large: zeroshot on few\n" in missing.output
    assert sweep(suite, tmp_path / "other", "--shard", "2/2").exit_code == 0
    both = sweep(suite, tmp_path, "--collect", "--from", str(tmp_path / "other" / "results"))
    assert both.exit_code == 0, both.output
    assert rows_of(tmp_path) == rows_of(done[0])


def test_what_fails_costs_nothing_else(suite: Path, done: tuple[Path, Result, int], tmp_path: Path) -> None:
    world = shutil.copytree(suite.parent, tmp_path / "world")
    weights = world / "models" / "one" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    (world / "data" / "few" / "red" / "few0.png").write_bytes(b"no image")
    result = sweep(world / "suite.toml", tmp_path)
    assert failure(result).startswith("not done: 3 parts of the sweep; the first: two: zeroshot on few")
    listed = result.output[result.output.index("3 failed, with tracebacks") :]
    assert re.search(r"^  one.*\(5 runs\): .*model\.safetensors", listed, re.MULTILINE)
    assert re.search(r"^  two: zeroshot on few: .*few0\.png", listed, re.MULTILINE)
    assert re.search(r"^  large: zeroshot on few: .*few0\.png", listed, re.MULTILINE)
    assert len(ResultStore(tmp_path / "results").run_ids()) == 8
    check_records(world / "suite.toml", tmp_path)
    collected = sweep(world / "suite.toml", tmp_path, "--collect")
    assert failure(collected).startswith("7 runs and 0 data sets are missing")
    preview = sweep(world / "suite.toml", tmp_path, "--dry-run")
    assert re.search(r"^one +5 +\? .*model\.safetensors", preview.output, re.MULTILINE)
    # Mended, the same command does what is left, and nothing else.
    shutil.copy(suite.parent / "models" / "one" / "model.safetensors", weights)
    shutil.copy(suite.parent / "data" / "few" / "red" / "few0.png", world / "data" / "few" / "red")
    mended = sweep(world / "suite.toml", tmp_path)
    assert f"7 runs done now, {RUNS - 7} before" in mended.output
    assert rows_of(tmp_path) == rows_of(done[0])
    assert list((tmp_path / "results" / ".failed").iterdir()) == []
    shown = sweep(world / "suite.toml", tmp_path, "--status").output
    assert f"{RUNS} of {RUNS} runs done, 0 failed, 0 left; 0 jobs running\n" in shown
    assert "tracebacks" not in shown


def check_records(suite: Path, out: Path) -> None:
    """Seven runs have failed: what they leave, what --status shows, and that --no-retry leaves them alone."""
    shown = sweep(suite, out, "--status")
    assert failure(shown).startswith("the sweep is not whole, 7 runs failed: run it again when its jobs")
    assert re.search(
        rf"^1/1 +finished \d+ s ago +\S+ +{os.getpid()} +15 +8 +7 *$", shown.output, re.MULTILINE
    )
    assert "8 of 15 runs done, 7 failed, 0 left; 0 jobs running\n" in shown.output
    assert re.search(r"^  two: zeroshot on few: .*few0\.png.* \(20\d\d-.*\)$", shown.output, re.MULTILINE)
    tracebacks = [file.read_text() for file in (out / "results" / ".failed").glob("*.txt")]
    assert len(tracebacks) == 7
    assert sum("few0.png" in text and "line " in text for text in tracebacks) == 2
    before = {file: file.stat().st_mtime_ns for file in (out / "results" / ".failed").iterdir()}
    again = sweep(suite, out, "--no-retry")
    assert failure(again).startswith("not done: 7 parts of the sweep; the first: two: zeroshot on few: ")
    assert "0 runs done now, 8 before" in again.output
    assert re.search(
        r"^  two: zeroshot on few: .*few0\.png.* \(not tried again\)$", again.output, re.MULTILINE
    )
    assert {file: file.stat().st_mtime_ns for file in (out / "results" / ".failed").iterdir()} == before


def test_a_data_set_that_is_named_and_not_there(suite: Path, tmp_path: Path) -> None:
    text = suite.read_text().replace('datasets = ["many"]', 'datasets = ["imagenet_r", "few"]')
    named = suite.with_name("named.toml")
    named.write_text(text.replace('["models/one", "models/two", "models/large"]', '["models/one"]'))
    result = sweep(named, tmp_path)
    assert failure(result).startswith(
        "not done: 1 part of the sweep; the first: a data set is not there: imagenet_r"
    )
    assert "5 runs done now" in result.output
    [missing] = re.findall("^missing: .*$", result.output, re.MULTILINE)
    assert missing.startswith("missing: imagenet_r (zeroshot): ")
    message = "the sweep is not whole, 0 runs failed (missing: imagenet_r (zeroshot): "
    assert failure(sweep(named, tmp_path, "--status")).startswith(message)
    [left_out] = re.findall("^left out: .*$", result.output, re.MULTILINE)
    assert re.match(r"left out: \d+ data sets that are not there, among them imagenet_a", left_out)
    shown = sweep(named, tmp_path / "new", "--dry-run").output
    assert "sample too small" not in shown, "without a limit"
    assert re.search(r"^one +5 +0 +82 ", shown, re.MULTILINE)
    assert re.search(
        r"^one +1 +(\? +){6}these too: the data sets of these runs are not there", shown, re.MULTILINE
    )
    assert re.search(r"^zeroshot +imagenet_r +openai_7 +1 +\? *$", shown, re.MULTILINE)
    assert "5 runs, 82 images to embed" in shown
    assert "data are not there, so only the hours count these: 1 run of 1 model on 1 data set" in shown
    [hours] = re.findall(r"^v5e-8 +([\d.e-]+) ", shown, re.MULTILINE)
    assert float(hours) > 0


def test_a_suite_may_name_the_folder_of_each_data_set(suite: Path) -> None:
    file = suite.with_name("named.toml")
    run = '[[runs]]\ntask = "zeroshot"\ndatasets = ["imagenet_r", "imagenet_v2"]\n'
    data = f'[data]\nimagenet_r = "{suite.parent / "data" / "many"}"\n'
    file.write_text(f'title = "Named"\nmodels = ["models/one"]\n{data}{run}')
    plan = make_plan(load_suite(file), None)
    assert {item.job.data.card.name for item in plan.items} == {"imagenet_r"}
    assert [missing.named for missing in plan.missing] == [True]
    assert "imagenet_v2" in plan.missing[0].line


def test_a_dry_run_needs_no_folder_of_data_sets(suite: Path, tmp_path: Path) -> None:
    rootless = suite.with_name("rootless.toml")
    run = '[[runs]]\ntask = "zeroshot"\ndatasets = ["imagenet_r", "imagenet_v2"]\n'
    rootless.write_text(f'title = "No data"\nmodels = ["models/one"]\n{run}')
    assert "say where the data sets of rootless are" in failure(sweep(rootless, tmp_path))
    assert "say where the data sets of rootless are" in failure(sweep(rootless, tmp_path, "--collect"))
    out = sweep(rootless, tmp_path, "--dry-run")
    assert out.exit_code == 0, out.output
    text = " ".join(out.output.split())
    assert "0 runs, 0 images to embed where none is stored; the data of 4 more runs are not there" in text
    assert re.search(r"^one +4 +(\? +){6}the data sets of these runs are not there", out.output, re.MULTILINE)
    assert "on 4 data sets: give their folder with --data-root" in text
    named = sweep(rootless, tmp_path, "--dry-run", "--data-root", str(tmp_path / "nowhere"))
    assert named.exit_code == 0, named.output
    assert f"on 4 data sets: there is no folder {tmp_path / 'nowhere'}" in " ".join(named.output.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--no-pixel-store", "--pixel-budget", "1GB"],
            "--no-pixel-store and --pixel-budget do not go together",
        ),
        (["--collect", "--dry-run"], "--collect and --dry-run do not go together"),
        (["--from", "elsewhere"], "--from has no effect without --collect"),
        (["--status", "--collect"], "--collect and --status do not go together"),
        (["--status", "--no-retry"], "--status and --no-retry do not go together"),
        (["--status", "--shard", "1/2"], "--status and --shard do not go together"),
        (["--status"], "no sweep of suite has reported to"),
        (["--dry-run", "--track", "tensorboard"], "--dry-run and --track do not go together"),
        (["--track", "wandbb"], "unknown tracker 'wandbb'; did you mean wandb"),
        (["--shares", "3"], "--shares has no effect without --dry-run"),
        (["--share-of-peak", "0.3"], "--share-of-peak has no effect without --dry-run"),
        (["--share-of-peak", "3", "--dry-run"], "(--share-of-peak) must be above 0 and at most 1, not 3"),
        (["--batch-size", "many"], "--batch-size: a number of images, or auto"),
        (["--params", "halved"], "unknown placement of params 'halved'"),
    ],
)
def test_options_that_do_not_go_together(
    suite: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    assert message in failure(sweep(suite, tmp_path, *arguments))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["--results", "--store"])
def test_places_that_cannot_be_written_to_are_named_before_anything_is_embedded(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    (file := tmp_path / "file").touch()
    what = {"--results": "a folder of results", "--store": "the folder of a store"}[option]
    assert f"{file} is a file, not {what}; choose another one" in failure(
        sweep(suite, tmp_path, option, str(file))
    )
    (shut := tmp_path / "shut").mkdir()
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != shut and allowed(path, mode))
    assert f"{shut} cannot be written to; choose another place for {what}" in failure(
        sweep(suite, tmp_path, option, str(shut / "place"))
    )
    assert sorted(tmp_path.iterdir()) == [file, shut]


@pytest.mark.parametrize("option", ["--dry-run", "--collect"])
def test_a_file_is_no_folder_of_results_to_look_at_either(suite: Path, tmp_path: Path, option: str) -> None:
    (file := tmp_path / "file").touch()
    message = failure(sweep(suite, tmp_path, option, "--results", str(file)))
    assert f"{file} is a file, not a folder of results" in message


def test_a_damaged_run_is_no_result(suite: Path, done: tuple[Path, Result, int], tmp_path: Path) -> None:
    shutil.copytree(done[0] / "results", tmp_path / "results")
    damaged = min((tmp_path / "results").glob("*/rows.jsonl"))
    damaged.write_bytes(damaged.read_bytes()[:-20])
    assert f"{damaged} has " in failure(sweep(suite, tmp_path, "--collect"))
    damaged.unlink()
    assert f"{damaged} is missing or empty" in failure(sweep(suite, tmp_path, "--collect"))


@pytest.mark.parametrize("full", ["results", "store"])
def test_a_full_disk_is_said_once(
    suite: Path,
    done: tuple[Path, Result, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    full: str,
) -> None:
    """With the third run that is written, or with the first file of the store."""
    written, write = [], pq.write_table

    def refuse(*arguments: Any, **options: Any) -> None:
        written.append(1)
        if full == "store" or len(written) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(*arguments, **options)

    if full == "results":
        shutil.copytree(done[0] / "store", tmp_path / "store")
        monkeypatch.setattr("clipjax.results.store.pq.write_table", refuse)
    else:
        monkeypatch.setattr(os, "fsync", refuse)
    result = sweep(suite, tmp_path)
    assert "the sweep has stopped at a full disk: " in failure(result)
    assert "o space left" in failure(result)
    kept = len(list((tmp_path / "results").glob("*/run.json")))
    assert kept == (2 if full == "results" else 0)
    assert re.findall(r"^\[(\d+)/", result.output, re.MULTILINE) == [str(i + 1) for i in range(kept + 1)]


def test_a_folder_of_models_that_is_not_there(suite: Path, tmp_path: Path) -> None:
    message = failure(sweep(suite, tmp_path, "--model-root", str(tmp_path / "models"), "--dry-run"))
    assert f"{tmp_path / 'models'} is not a folder; --model-root" in message
