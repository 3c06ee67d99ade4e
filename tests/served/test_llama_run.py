"""llama.cpp's server asked by clipjax, from a picture to rows, comparisons and a run that was killed."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import _forks
import numpy as np
import pytest
from _asked_world import evaluated, server_of, write_world
from _llama_server import LlamaServer
from _narrow_own import own_model
from _narrow_vl import draw_tower

from clipjax.checkpoints.language import load_language_model
from clipjax.evaluation.comparison.compare import compare_runs
from clipjax.evaluation.rows import Result
from clipjax.tasks.multiple_choice import RULES

N, ORDERS = 8, 4
SCRIPT = Path(__file__).with_name("_command.py")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("llama") / "world", N)


@pytest.fixture(scope="module")
def served(world: Path, narrow_server: LlamaServer) -> Result:
    return evaluated(world, narrow_server.name, rotations="all", steps=2)


@pytest.fixture(scope="module")
def own(world: Path, narrow_files: tuple[Path, Path], one_device: Any, served: Result) -> Result:
    """The same weights in clipjax."""
    model = own_model(draw_tower(), load_language_model(narrow_files[0]), world / "tokenizer")
    return evaluated(world, model, rotations="all", steps=2)


def column(result: Result, name: str) -> Any:
    return result.images.column(name).to_pylist()


def test_a_row_tells_what_the_server_is(served: Result, narrow_server: LlamaServer) -> None:
    row = served.rows[0]
    server = server_of(served)
    assert row["model"] == "server:llama.cpp:narrow.gguf"
    assert row.get("framework") == "server:llama.cpp"
    assert row["precision"] is None
    assert (server["kind"], server["model"], server["identity"]) == ("llama.cpp", "narrow.gguf", "not proven")
    assert server["build"] == narrow_server.get("/props")["build_info"]
    assert (server["logprobs"], server["repeatable"]) == (True, True)
    assert server["facts"]["n_embd"] == 64
    assert "prepared by the server" in server["pixels"]
    address = narrow_server.root.removeprefix("http://")
    assert address not in str(served.rows)


def test_rules_orders_and_intervals_are_those_of_any_model(served: Result) -> None:
    rows = {row["metric"]: row for row in served.rows}
    assert next(iter(rows)) == "top1_debiased@parsed"  # the headline
    rules = [rule for rule in RULES if not rule.startswith("text")]
    kinds = ("top1", "unanswered", "top1_debiased", "spread", "spread_null")
    assert rows.keys() == {"top1", *(f"{kind}@{rule}" for kind in kinds for rule in rules)}
    for name in ("top1", "top1_debiased@letter", "spread@letter"):
        assert rows[name]["interval"] is not None
        assert rows[name]["n"] == N
    chosen = np.array(column(served, "choice_letter"))
    right = np.array(column(served, "right"))[:, None]
    assert rows["top1_debiased@letter"]["value"] == pytest.approx((chosen == right).mean())


def test_pictures_change_letters(served: Result) -> None:
    """The letter in the given order: nothing but the picture and the options' words differ there."""
    letters = np.array(column(served, "choice_letter"))[:, 0]
    assert sorted(np.bincount(letters, minlength=4)) == [0, 0, 3, 5]


def test_a_second_run_asks_nothing_and_a_new_one_answers_alike(
    world: Path, served: Result, narrow_server: LlamaServer
) -> None:
    assert served.stats.forward_passes == N * ORDERS
    again = evaluated(world, narrow_server.name, rotations="all", steps=2)
    assert again.stats.forward_passes == 0
    anew = evaluated(world, narrow_server.name, rotations="all", steps=2, store="anew")
    assert anew.stats.forward_passes == N * ORDERS
    for name in ("answers", "choice_letter", "choice_parsed"):
        assert column(anew, name) == column(again, name) == column(served, name)


def test_the_same_weights_choose_alike(served: Result, own: Result) -> None:
    for name in ("choice_letter", "choice_parsed", "choice_strict"):
        assert column(served, name) == column(own, name)


def test_both_are_compared_image_by_image(world: Path, served: Result, own: Result) -> None:
    assert served.path is not None
    assert own.path is not None
    found = {each.metric: each for each in compare_runs(own.path.name, served.path.name, world / "runs")}
    headline = found["top1_debiased@parsed"]
    assert headline.p_holm is not None
    values = own.value("top1_debiased@parsed"), served.value("top1_debiased@parsed")
    assert (headline.first, headline.second) == pytest.approx(values)
    assert headline.difference == 0


def test_a_killed_run_goes_on(world: Path, narrow_server: LlamaServer, served: Result) -> None:
    """SIGKILL after some images: the next run asks about the others alone."""
    arguments = ["--dataset", world / "patches.toml", "--data", world / "data", "--rotations", "all"]
    arguments += ["--steps", "2", "--store", world / "killed", "--model", narrow_server.name]
    killed = _forks.start(
        SCRIPT, ["eval", "multiple_choice", *arguments], dict(os.environ), stderr=subprocess.DEVNULL
    )
    until = time.monotonic() + 120
    while len(shards(world / "killed")) < 3:  # one is the probe's
        assert killed.poll() is None, "it ended before it was killed"
        assert time.monotonic() < until
        time.sleep(0.001)
    killed.kill()
    assert killed.wait(60) == -9
    kept = len(shards(world / "killed")) - 1
    assert 2 <= kept < N
    result = evaluated(world, narrow_server.name, rotations="all", steps=2, store="killed")
    assert result.stats.forward_passes == (N - kept) * ORDERS
    assert column(result, "answers") == column(served, "answers")


@pytest.mark.long("served/test_llama_run.py::test_a_row_tells_what_the_server_is")
def test_smollm2_is_asked(tmp_path: Path, smollm2_server: LlamaServer) -> None:
    """A real decoder in four bits; it has learnt to answer with a letter."""
    result = evaluated(write_world(tmp_path / "world", 3), smollm2_server.name, steps=2)
    server = server_of(result)
    assert (server["quantisation"], server["repeatable"]) == ("Q4_1", True)
    assert server["facts"]["n_params"] == 134_515_008
    rows = {row["metric"]: row for row in result.rows}
    assert rows["unanswered@parsed"]["value"] == rows["unanswered@letter"]["value"] == 0
    assert column(result, "choice_letter") == column(result, "choice_parsed")


def shards(store: Path) -> list[Path]:
    return list(store.rglob("*.safetensors"))
