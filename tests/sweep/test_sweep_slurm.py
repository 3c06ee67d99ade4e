"""`clipjax sweep --submit slurm`: the script, what jobs ask for, and jobs that are stopped and requeued."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from _stub_commands import commands
from _sweep_world import RUNS, rows_of, sweep
from typer.testing import Result

from clipjax.errors import ClipjaxError, UsageError
from clipjax.estimates.hours import load_machines
from clipjax.results.store import ResultStore
from clipjax.sweep.plan import make_plan
from clipjax.sweep.slurm import SlurmArray, array_for, script
from clipjax.sweep.suite import load_suite

# Runs the jobs one after the other and ends with the last: each again if it asks for it. The first is stopped
# as soon as there is a result. With REFUSED, it takes no job.
SBATCH = """#!{python}
import glob, os, re, signal, subprocess, sys, time
text = sys.stdin.read()
if os.environ.get("REFUSED"):
    sys.exit("sbatch: error: Batch job submission failed:\\nInvalid account")
open("{folder}/job.sh", "w").write(text)
asked, stopped = "{folder}/requeued", False
for number in range(1, int(re.search(r"--array=1-(\\d+)", text)[1]) + 1):
    while True:
        job = {{"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": str(number)}}
        running = subprocess.Popen(["bash", "{folder}/job.sh"], env=os.environ | job, stdout=sys.stderr)
        while not stopped and running.poll() is None:
            if glob.glob("{folder}/results/*/run.json"):
                running.send_signal(signal.SIGTERM)
                stopped = True
            time.sleep(0.01)
        running.wait()
        if not os.path.exists(asked):
            break
        os.rename(asked, asked + "_before")
print("7;cluster")
"""


def written(folder: Path) -> Path:
    """The script of a sweep of eight parts."""
    logs, status = folder / "my logs" / "%A_%a.log", ["clipjax", "sweep", "my suite.toml", "--status"]
    text = script("study", SlurmArray(8, 90, 24), ["clipjax", "sweep", "my suite.toml"], logs, status)
    (folder / "job.sh").write_text(text)
    return folder / "job.sh"


def cluster(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An `sbatch` that runs the jobs itself."""
    found = commands(folder, srun='exec "$@"', scontrol=f"touch {folder}/requeued")
    (folder / "sbatch").write_text(SBATCH.format(python=sys.executable, folder=folder))
    (folder / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", found["PATH"])


def test_the_script_parses_and_asks_for_what_the_plan_needs(tmp_path: Path) -> None:
    done = subprocess.run(["bash", "-n", written(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    asked = [
        line.split(" ", 1)[1] for line in written(tmp_path).read_text().splitlines() if "#SBATCH" in line
    ]
    assert {"--array=1-8", "--time=01:30:00", "--mem=24G", "--requeue", "--job-name=clipjax-study"} <= {
        *asked
    }


def test_the_script_names_the_folder_to_make_and_the_command_that_shows_how_far_it_is(tmp_path: Path) -> None:
    text = written(tmp_path).read_text()
    assert f"; before sbatch: mkdir -p '{tmp_path}/my logs'\n" in text
    assert ": clipjax sweep 'my suite.toml' --status\n" in text
    assert f'#SBATCH --output="{tmp_path}/my logs/%A_%a.log"\n' in text


@pytest.mark.parametrize("name", ['a"b', "a%jb", "a\\b", "a\nb"])
def test_a_path_that_slurm_reads_differently_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="Slurm cannot write to a path with quotes"):
        script("study", SlurmArray(8, 90, 24), ["clipjax"], Path(name) / "%A_%a.log", ["clipjax"])


@pytest.mark.parametrize(("code", "again"), [(0, 0), (1, 0), (75, 1)])
def test_a_slurm_job_is_requeued_on_75(tmp_path: Path, code: int, again: int) -> None:
    environment = commands(tmp_path, srun='exec "$@"', clipjax=f"exit {code}", scontrol="")
    done = subprocess.run(["bash", written(tmp_path)], env=environment, check=False)
    assert done.returncode == code
    called = (tmp_path / "called").read_text()
    assert "clipjax sweep my suite.toml --shard 2/8" in called
    assert called.count("scontrol requeue 7_2") == again


def test_a_slurm_job_passes_its_signal_on_and_waits(tmp_path: Path) -> None:
    body = f"trap 'sleep 0.2; exit 75' TERM\ntouch {tmp_path}/ready\nwhile true; do sleep 0.05; done"
    environment = commands(tmp_path, srun='exec "$@"', clipjax=body, scontrol="")
    running = subprocess.Popen(["bash", written(tmp_path)], env=environment)
    while not (tmp_path / "ready").exists():
        time.sleep(0.01)
    running.send_signal(signal.SIGTERM)
    assert running.wait(60) == 75
    assert "scontrol requeue 7_2" in (tmp_path / "called").read_text()


@pytest.mark.parametrize(
    ("share", "parts", "expected"),
    [
        (None, None, SlurmArray(1, 60, 24)),  # the tiny models take no time: the least
        (1e-9, 1, SlurmArray(1, 150, 24)),  # 0.861 hours, twice, and 30 minutes to start
        (1e-9, 3, SlurmArray(3, 90, 24)),
        (1.25e-10, None, SlurmArray(2, 540, 24)),  # 6.89 hours: parts of about four
        (1e-12, None, SlurmArray(3, 24 * 60, 24)),  # a part for each model, and the most
    ],
)
def test_what_the_jobs_ask_for(
    suite: Path, share: float | None, parts: int | None, expected: SlurmArray
) -> None:
    """By hours on a machine that reaches this share of its peak."""
    [machine] = [each for each in load_machines(share) if each.name == "h100"]
    assert array_for(make_plan(load_suite(suite), None), machine, parts) == expected


def test_the_dry_run_prints_the_script_with_the_options_that_were_given(suite: Path, tmp_path: Path) -> None:
    shown = sweep(
        suite, tmp_path, "--submit", "slurm", "--dry-run", "--shares", "2", "--models", "one", "--no-retry"
    )
    assert shown.exit_code == 0, shown.output
    [line] = [each for each in shown.stdout.splitlines() if each.startswith("srun ")]
    assert line.startswith(f"srun {sys.executable} -m clipjax sweep {suite} ")
    for part in (f"--results {tmp_path}/results", "--models one", "--no-retry", "--workers 0"):
        assert f" {part} " in line
    assert not {"--submit", "--dry-run", "--shares"} & {*line.split()}
    assert "#SBATCH --array=1-2\n" in shown.stdout
    assert f"mkdir -p {tmp_path}/results/.sweeps\n" in shown.stdout
    assert f": clipjax sweep {suite} --results {tmp_path}/results --status\n" in shown.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["slurm"], "there is no sbatch on this machine; give the command on a login node"),
        (["sge"], "unknown queue 'sge'; known: skypilot, slurm, xpk"),
        (["slurm", "--shard", "1/2"], "--submit and --shard do not go together"),
        (["slurm", "--collect"], "--submit and --collect do not go together"),
    ],
)
def test_what_cannot_be_submitted(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str], message: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = sweep(suite, tmp_path, "--submit", *more)
    assert isinstance(result.exception, ClipjaxError), result.output
    assert message in str(result.exception)


def test_a_queue_that_rejects_the_job_is_quoted(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster(tmp_path, monkeypatch)
    monkeypatch.setenv("REFUSED", "1")
    result = sweep(suite, tmp_path, "--submit", "slurm")
    message = "Slurm rejects the job (sbatch: error: Batch job submission failed: Invalid account): name what"
    assert str(result.exception).startswith(message), result.output


@pytest.mark.long("sweep/test_sweep_slurm.py::test_a_slurm_job_passes_its_signal_on_and_waits")
def test_a_sweep_that_is_stopped_and_requeued_is_whole(
    suite: Path, done: tuple[Path, Result, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster(tmp_path, monkeypatch)
    result = sweep(suite, tmp_path, "--submit", "slurm", "--shares", "2")
    assert result.exit_code == 0, result.output
    assert "array 7: 2 jobs of at most 60 min and 24 GB" in result.output
    assert "scontrol requeue 7_1" in (tmp_path / "called").read_text()
    assert len(ResultStore(tmp_path / "results").run_ids()) == RUNS
    assert rows_of(tmp_path) == rows_of(done[0])
    assert f"{RUNS} of {RUNS} runs done, 0 failed, 0 left" in sweep(suite, tmp_path, "--status").output
