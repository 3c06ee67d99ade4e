"""The example files of docs/sweeps.md: they parse, their options exist, and 75 starts a job again."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from _stub_commands import commands
from typer.main import get_command

from clipjax.cli import app

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
SCRIPTS = sorted(EXAMPLES.glob("sweep_*.sh"))
JOB = EXAMPLES / "sweep_gke_tpu.yaml"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse(path: Path) -> None:
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("path", [*SCRIPTS, JOB], ids=lambda path: path.name)
def test_options_exist(path: Path) -> None:
    command: Any = get_command(app)
    known = {name for option in command.commands["sweep"].params for name in option.opts}
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith(("#", "gcloud"))]
    used = set(re.findall(r"(?<=[\s(])--[a-z-]+", "\n".join(lines)))
    assert {"--results", "--store", "--pixel-store"} <= used <= known


def test_a_pod_that_is_interrupted_is_made_again_and_one_that_fails_is_not() -> None:
    spec = yaml.safe_load(JOB.read_text())["spec"]
    rules = {
        code: rule["action"]
        for rule in spec["podFailurePolicy"]["rules"]
        for code in rule.get("onExitCodes", {}).get("values", [])
    }
    assert rules == {75: "Ignore", 1: "FailIndex", 2: "FailIndex"}
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # what a failure policy needs
    assert pod["terminationGracePeriodSeconds"] > 20
    [container] = pod["containers"]
    assert "exec clipjax sweep" in container["command"][-1]
    assert f"JOB_COMPLETION_INDEX + 1))/{spec['completions']}" in container["command"][-1]


@pytest.mark.parametrize("last", [0, 1])
def test_the_hosts_of_a_slice_start_again_on_75(tmp_path: Path, last: int) -> None:
    body = f"[ -e {tmp_path}/before ] && exit {last}\ntouch {tmp_path}/before\nexit 75"
    (tmp_path / "mine.toml").touch()
    environment = commands(tmp_path, clipjax=body, sleep="") | {"SUITE": str(tmp_path / "mine.toml")}
    done = subprocess.run(["bash", EXAMPLES / "sweep_tpu_vm.sh"], env=environment, check=False)
    assert done.returncode == last
    called = (tmp_path / "called").read_text()
    assert called.count("clipjax sweep") == 2
    assert called.count("--distributed") == 2
