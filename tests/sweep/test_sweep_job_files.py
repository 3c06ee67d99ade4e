"""`clipjax sweep --submit skypilot|xpk --dry-run`: files that are read back, with documented names."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from _stub_commands import commands
from _sweep_world import sweep
from typer.main import get_command

from clipjax.cli import app
from clipjax.errors import UsageError
from clipjax.sweep.job_files import job_file
from clipjax.sweep.slurm import SlurmArray

# docs.skypilot.co, "SkyPilot YAML"; recover_on_exit_codes: of its schema (sky/utils/schemas.py).
TASK = {
    "name",
    "workdir",
    "num_nodes",
    "resources",
    "envs",
    "secrets",
    "file_mounts",
    "setup",
    "run",
    "config",
}
RESOURCES = {
    *(
        "infra",
        "accelerators",
        "accelerator_args",
        "cpus",
        "memory",
        "instance_type",
        "use_spot",
        "disk_size",
    ),
    *("disk_tier", "network_tier", "image_id", "ports", "labels", "autostop", "any_of", "ordered"),
    "job_recovery",
}
RECOVERY = {"strategy", "max_restarts_on_errors", "recover_on_exit_codes"}
# AI-Hypercomputer/xpk, src/xpk/parser/workload.py: option -> what it takes
WORKLOAD = {
    "--cluster": r".+",
    "--workload": r"(?=.{1,40}$)[a-z]([-a-z0-9]*[a-z0-9])?",
    "--tpu-type": r".+",
    "--docker-image": r".+",
    "--max-restarts": r"\d+",
    "--restart-on-exit-codes": r"\d+",
    "--termination-grace-period-seconds": r"\d+",
    "--command": r"exec clipjax sweep .+",
}
ONE_HOST = {"v4-8", "v5p-8", "v6e-1", "v6e-4"}  # of xpk 1.16.0, core/system_characteristics.py
PLACES = ("--results", "memory://bucket/results", "--store", "memory://bucket/store")
COMMAND = ["clipjax", "sweep", "it's mine.toml", "--models", "a b\n\nc"]


def printed(suite: Path, out: Path, queue: str, *more: str) -> str:
    done = sweep(suite, out, "--submit", queue, "--dry-run", "--no-pixel-store", *PLACES, *more)
    assert done.exit_code == 0, done.output
    assert list(out.iterdir()) == []
    return done.stdout


def workloads(script: str, folder: Path, **places: str) -> tuple[list[list[str]], str]:
    """The calls of xpk that a script makes, and what it says."""
    (folder / "sweep.sh").write_text(script)
    environment = commands(
        folder, xpk=f'printf "%s\\0" "$@" >> {folder}/words; printf "\\0" >> {folder}/words'
    )
    done = subprocess.run(
        ["bash", folder / "sweep.sh"], env=environment | places, capture_output=True, text=True, check=False
    )
    words = (folder / "words").read_text() if (folder / "words").exists() else ""
    return [call.split("\0") for call in words.split("\0\0") if call], done.stderr


def arguments_of(run: str, **variables: str) -> list[str]:
    """The words of a command as the shell of a job sees them."""
    text = run.replace("exec clipjax", "printf '%s\\0'")
    done = subprocess.run(["bash", "-c", text], env=variables, capture_output=True, text=True, check=True)
    return done.stdout.split("\0")[:-1]


def test_a_task_of_skypilot(suite: Path, tmp_path: Path) -> None:
    text = printed(suite, tmp_path, "skypilot", "--shares", "3", "--no-retry")
    task = yaml.safe_load(text)
    assert set(task) <= TASK
    assert set(task["resources"]) <= RESOURCES
    assert set(task["resources"]["job_recovery"]) <= RECOVERY
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [75]
    assert (task["envs"], task["resources"]["memory"]) == ({"PART": None}, "24+")
    words = arguments_of(task["run"], PART="2")
    assert words[:2] == ["sweep", str(suite)]
    assert words[-2:] == ["--shard", "2/3"]
    known: Any = get_command(app)
    options = {name for option in known.commands["sweep"].params for name in option.opts}
    assert {word for word in words if word.startswith("--")} <= options
    assert "--no-retry" in words
    assert not {"--submit", "--dry-run", "--shares"} & {*words}
    assert [words[words.index(name) + 1] for name in PLACES[::2]] == [*PLACES[1::2]]
    assert f"seq 3); do sky jobs launch -n {task['name']}-$part -y -d sweep.yaml --env PART=$part" in text


def test_workloads_of_xpk(suite: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "out").mkdir()
    text = printed(suite, tmp_path / "out", "xpk", "--shares", "2")
    calls, _ = workloads(text, tmp_path / "bin", CLUSTER="mine", TPU_TYPE="v6e-4", IMAGE="registry/it")
    assert len(calls) == 2
    for part, (workload, create, *words) in enumerate(calls, 1):
        assert (workload, create) == ("workload", "create")
        given = dict(zip(words[::2], words[1::2], strict=True))
        assert set(given) == set(WORKLOAD)
        assert all(re.fullmatch(WORKLOAD[name], value) for name, value in given.items())
        assert (given["--cluster"], given["--restart-on-exit-codes"]) == ("mine", "75")
        assert given["--workload"].endswith(f"-{part}")
        assert arguments_of(given["--command"])[-2:] == ["--shard", f"{part}/2"]


def test_a_script_of_xpk_asks_for_what_it_must_know(tmp_path: Path) -> None:
    text = job_file("xpk", "study", SlurmArray(1, 60, 24), COMMAND)
    assert text.split("e.g. ")[1].split("}")[0] in ONE_HOST  # the command has no --distributed
    calls, said = workloads(text, tmp_path, CLUSTER="mine", TPU_TYPE="v6e-4")
    assert (calls, said.strip().endswith("IMAGE: name the image in IMAGE")) == ([], True)


def test_any_argument_and_any_name_arrive(tmp_path: Path) -> None:
    array = SlurmArray(100, 60, 24)
    task = yaml.safe_load(job_file("skypilot", "My Suite_" + "x" * 40, array, COMMAND))
    assert arguments_of(task["run"], PART="7") == [*COMMAND[1:], "--shard", "7/100"]
    assert re.fullmatch(WORKLOAD["--workload"], f"{task['name']}-100")
    calls, _ = workloads(job_file("xpk", "é", array, COMMAND), tmp_path, CLUSTER="c", TPU_TYPE="t", IMAGE="i")
    assert arguments_of(calls[99][-1]) == [*COMMAND[1:], "--shard", "100/100"]
    assert shlex.split(calls[99][-1])[:3] == ["exec", "clipjax", "sweep"]


@pytest.mark.parametrize("queue", ["skypilot", "xpk"])
@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((), "starts nothing: print its file with --dry-run, and start the jobs from that"),
        (("--dry-run",), "share no disk; name a bucket, e.g. gs://BUCKET/results, and another folder"),
        (("--dry-run", "--shard", "1/2"), "--submit and --shard do not go together"),
    ],
)
def test_refusals(suite: Path, tmp_path: Path, queue: str, more: tuple[str, ...], message: str) -> None:
    result = sweep(suite, tmp_path, "--submit", queue, *more)
    assert isinstance(result.exception, UsageError), result.output
    assert message in str(result.exception)
