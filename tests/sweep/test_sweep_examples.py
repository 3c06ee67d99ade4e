"""The files of docs/how_to/sweep_on_slurm.md: they parse, their options exist, and 75 starts a job again.

Slurm, SkyPilot, xpk and Kubernetes themselves read them, too, without a network. They are not installed with
the tests: together they are 800 MB. `make jobs-env` makes environments of their own.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from _stub_commands import commands
from typer.main import get_command

from clipjax.cli import app
from clipjax.sweep.job_files import job_file
from clipjax.sweep.slurm import SlurmArray, script

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
SCRIPTS = sorted(EXAMPLES.glob("sweep_*.sh"))
JOB = EXAMPLES / "sweep_gke_tpu.yaml"
JOBS = ROOT / ".venv-jobs"
WHY = "not installed: make jobs-env"
ARRAY = SlurmArray(3, 60, 24)
COMMAND = ["clipjax", "sweep", "it's mine.toml", "--results", "gs://B/results", "--store", "gs://B/store"]

SKYPILOT = """
import json, sys, yaml, sky
for text in json.load(sys.stdin):
    try:
        task = sky.Task.from_yaml_config(yaml.safe_load(text), env_overrides=[("PART", "2")])
    except Exception as error:
        print(json.dumps(str(error)))
        continue
    [asked] = task.resources
    asked = [asked.accelerators, asked.use_spot, asked.job_recovery]
    print(json.dumps([task.name, task.envs, *asked, task.run]))
"""
KUBERNETES = """
import json, sys, yaml, kubernetes_validate
for text in json.load(sys.stdin):
    try:
        print(json.dumps(kubernetes_validate.validate(yaml.safe_load(text), "1.37", strict=True)))
    except kubernetes_validate.ValidationError as error:
        print(json.dumps(error.message))
"""


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


def client(name: str, path: str) -> str:
    """A program of a client's own environment."""
    if not (program := JOBS / name / path).exists():
        pytest.skip(f"{name} is {WHY}")
    return str(program)


def read_by(name: str, program: str, texts: list[str], home: Path) -> list[Any]:
    """What a program in a client's environment prints of each text."""
    done = subprocess.run(
        [client(name, "bin/python"), "-c", program],
        input=json.dumps(texts),
        env=os.environ | {"HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


SLURM = """\
ClusterName=none
SlurmctldHost=localhost(127.0.0.1)
AuthType=auth/none
CredType=cred/none
PluginDir={plugins}
GresTypes=gpu
PartitionName=all Nodes=ALL Default=YES
NodeName=one CPUs=32
"""


def submitted(text: str, folder: Path) -> str:
    """What sbatch says of a script, without a Slurm to take it."""
    sbatch = shutil.which("sbatch") or client("slurm", "usr/bin/sbatch")
    [plugins] = (Path(sbatch).parents[1] / "lib").glob("*/slurm-wlm")
    (folder / "slurm.conf").write_text(SLURM.format(plugins=plugins))
    libraries = {"LD_LIBRARY_PATH": f"{plugins}:{plugins.parent}", "SLURM_CONF": str(folder / "slurm.conf")}
    words, environment = [sbatch, "--test-only"], os.environ | libraries
    done = subprocess.run(
        words, input=text, env=environment, capture_output=True, text=True, check=False, cwd=folder
    )
    return done.stderr


def test_sbatch_reads_the_script(tmp_path: Path) -> None:
    text = script("study", ARRAY, COMMAND, tmp_path / "my logs" / "%A_%a.log", [*COMMAND, "--status"])
    assert "Unable to contact slurm controller" in submitted(text, tmp_path)  # what comes after the options
    assert "unrecognized option '--again'" in submitted(text.replace("--requeue", "--again"), tmp_path)
    assert "Invalid --signal" in submitted(text.replace("B:TERM@60", "B:STOP_IT@60"), tmp_path)


def test_skypilot_reads_its_task(tmp_path: Path) -> None:
    text = job_file("skypilot", "My Suite", ARRAY, COMMAND)
    wrong = [text.replace("use_spot", "spot"), text.replace("[75]", "[often]")]
    task, *refused = read_by("skypilot", SKYPILOT, [text, *wrong], tmp_path)
    name, envs, gpus, spot, recovery, run = task
    assert (name, envs, gpus, spot) == ("clipjax-my-suite", {"PART": "2"}, {"H100": 1}, True)
    assert recovery["recover_on_exit_codes"] == [75]
    assert run == yaml.safe_load(text)["run"]
    assert [type(each) for each in refused] == [str, str]


def test_kubernetes_accepts_the_indexed_job(tmp_path: Path) -> None:
    text = JOB.read_text()
    found = read_by("kubernetes", KUBERNETES, [text, text.replace("podFailurePolicy", "failures")], tmp_path)
    assert found[0] != found[1]
    assert "'failures' was unexpected" in found[1]


def job_sets(script: str, folder: Path, kind: str) -> list[dict[str, Any]]:
    """What xpk would give Kubernetes, for each of a script's workloads; nothing is started."""
    body = (
        f'{client("xpk", "bin/xpk")} "$@" --dry-run --skip-validation --project p --zone us-central1-a'
        f' --output-manifest-file {folder}/"$6".yaml >> {folder}/said 2>&1'
    )
    (folder / "sweep.sh").write_text(script)
    environment = commands(folder, xpk=body) | {"CLUSTER": "mine", "TPU_TYPE": kind, "IMAGE": "registry/it"}
    done = subprocess.run(["bash", folder / "sweep.sh"], env=environment, check=False)
    assert done.returncode == 0, (folder / "said").read_text()
    return [yaml.safe_load(path.read_text()) for path in sorted(folder.glob("clipjax-*.yaml"))]


def test_xpk_makes_job_sets_of_its_script(tmp_path: Path) -> None:
    text = job_file("xpk", "study", ARRAY, COMMAND)
    kind = text.split("e.g. ")[1].split("}")[0]
    sets = job_sets(text, tmp_path, kind)
    assert [each["metadata"]["name"] for each in sets] == [f"clipjax-study-{part}" for part in (1, 2, 3)]
    for part, job_set in enumerate(sets, 1):
        [job] = job_set["spec"]["replicatedJobs"]
        spec = job["template"]["spec"]
        assert spec["completions"] == 1  # one host, which needs no --distributed
        [rule] = spec["podFailurePolicy"]["rules"]
        assert (rule["action"], rule["onExitCodes"]["operator"]) == ("FailJob", "NotIn")
        assert 75 in rule["onExitCodes"]["values"]
        assert not {1, 2} & {*rule["onExitCodes"]["values"]}
        pod = spec["template"]["spec"]
        assert pod["terminationGracePeriodSeconds"] == 60
        assert f"--shard {part}/3) & PID" in pod["containers"][0]["command"][-1]
