"""A sweep as a Slurm array: a job for each part, with time and memory from the plan's cost.

A job that Slurm stops, because its time is nearly over or its node is wanted back, ends with 75, is requeued
and continues. So a time limit that is too short costs a start, and no result. Slurm's own variables
(SBATCH_PARTITION, SBATCH_ACCOUNT, SBATCH_TIMELIMIT) come before what the script asks for.
"""

from __future__ import annotations

import math
import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clipjax.errors import DataError, UsageError, one_line
from clipjax.estimates import cost
from clipjax.estimates.hours import MachineRates, hours_on
from clipjax.storage.remote.buckets import BucketPath, as_path
from clipjax.sweep.job_reports import FOLDER
from clipjax.sweep.plan import SweepPlan
from clipjax.sweep.shards import cut

SUBMITTED = "h100"  # the machine of configs/machines.toml whose hours make the time limit
HOURS_OF_A_PART = 4.0  # where the number of parts is left open
SLACK = 2.0  # the hours count towers alone: neither decoding nor loading and compiling
START, LEAST, MOST = 30, 60, 24 * 60  # minutes: before the first run; of a time limit
MEMORY = 16  # GB besides twice the weights of the largest model
SCRIPT = r"""#!/bin/bash
# {title}: a Slurm array with a job for each part of the sweep; made by clipjax sweep --submit slurm.
# Slurm does not make the folder of its output; before sbatch: mkdir -p {folder}
# How far it is, what failed and what is missing: {status}
#SBATCH --job-name={name}
#SBATCH --array=1-{parts}
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --mem={memory}G
#SBATCH --time={time}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output="{log}"
# This script, and not only its steps, is told a minute before the time is over.
#SBATCH --signal=B:TERM@60

# Several tasks a job (a node with more GPUs than one process should have): they work together.
together=()
if [ "${{SLURM_NTASKS:-1}}" -gt 1 ]; then
    together=(--distributed)
fi

srun {command} "${{together[@]}}" \
    --shard "$SLURM_ARRAY_TASK_ID/{parts}" &
sweep=$!
trap 'kill -TERM "$sweep"' TERM

# A signal ends `wait` and not the sweep, which then stores what it is at.
wait "$sweep"
code=$?
while kill -0 "$sweep" 2>/dev/null; do
    wait "$sweep"
    code=$?
done

if [ "$code" -eq 75 ]; then
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
fi
exit "$code"
"""


@dataclass(frozen=True)
class SlurmArray:
    """What the jobs of a sweep ask for.

    Attributes:
        parts: the number of jobs, each with its part of the sweep.
        minutes: the time limit of a job, enough for the costliest part.
        gigabytes: the memory of a job, enough for the largest model.
    """

    parts: int
    minutes: int
    gigabytes: int


def array_for(plan: SweepPlan, machine: MachineRates, parts: int | None = None) -> SlurmArray:
    """The jobs of a plan, as if nothing were stored.

    Args:
        machine: whose hours the time limit is made from.
        parts: the number of jobs; None: of about `HOURS_OF_A_PART`, at most one for each model.
    """
    models = {item.choice.name: item.choice for item in plan.items}
    if parts is None:
        parts = math.ceil(hours_on(machine, plan.items).hours / HOURS_OF_A_PART)
        parts = min(max(parts, 1), max(len(models), 1))
    hours = max(hours_on(machine, part).hours for part in cut(plan.items, parts))
    minutes = 30 * math.ceil((SLACK * 60 * hours + START) / 30)
    precisions = {each for item in plan.items for each in item.request.precisions}
    weights = max((cost.weight_bytes(each, precisions) for each in models.values()), default=0)
    return SlurmArray(parts, min(max(minutes, LEAST), MOST), MEMORY + 8 * math.ceil(2 * weights / 8e9))


def script(suite: str, array: SlurmArray, command: Sequence[str], logs: Path, status: Sequence[str]) -> str:
    """The array's script.

    Args:
        suite: its name.
        command: runs one part, but for `--shard` and `--distributed`.
        logs: the file of a job's output, in which Slurm replaces %A and %a.
        status: the command that shows how far the sweep is.

    Raises:
        UsageError: Slurm would read another name from the path of the output.
    """
    if re.search(r'["\\%]|[^\x20-\U0010ffff]', str(logs.parent)):
        raise UsageError(
            f"{str(logs.parent)!r}: Slurm cannot write to a path with quotes, backslashes, % or line breaks: "
            "give --results another folder"
        )
    return SCRIPT.format(
        title=one_line(suite),
        folder=shlex.quote(str(logs.parent)),
        status=one_line(shlex.join(status)),
        name="clipjax-" + re.sub(r"[^\w.-]", "_", suite),
        parts=array.parts,
        memory=array.gigabytes,
        time=f"{array.minutes // 60:02d}:{array.minutes % 60:02d}:00",
        log=logs,
        command=shlex.join(command),
    )


def logs_in(results: str | os.PathLike[str]) -> Path:
    """The files of the jobs' output, as Slurm names them: beside the sweep's reports, for a bucket here."""
    folder = as_path(results) / FOLDER
    return (Path() if isinstance(folder, BucketPath) else folder) / "%A_%a.log"


def submit(text: str, logs: Path) -> str:
    """Hand a script to `sbatch`. Returns the array's id.

    Args:
        logs: as in `script`; Slurm does not make their folder.

    Raises:
        UsageError: there is no sbatch on this machine.
        DataError: Slurm rejects the job.
    """
    logs.parent.mkdir(parents=True, exist_ok=True)
    try:
        done = subprocess.run(
            ["sbatch", "--parsable"], input=text, capture_output=True, text=True, check=False
        )
    except OSError:
        raise UsageError(
            "--submit slurm: there is no sbatch on this machine; give the command on a login node of the "
            "cluster, or print the script with --dry-run"
        ) from None
    if done.returncode != 0:
        raise DataError(
            f"Slurm rejects the job ({one_line(done.stderr)}): name what it wants in SBATCH_PARTITION, "
            "SBATCH_ACCOUNT or SBATCH_TIMELIMIT, or print the script with --dry-run and change it"
        )
    return done.stdout.strip().partition(";")[0]
