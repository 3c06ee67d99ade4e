"""A sweep as a file for SkyPilot or xpk that one starts oneself: one job for each part.

All fields and options are documented ones. A job that is stopped ends with 75; SkyPilot and xpk start it
again, and it continues from the bucket.
"""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Sequence

from clipjax.sweep.slurm import SlurmArray

MACHINES = {
    "skypilot": "h100",
    "xpk": "v5e-8",
}  # of configs/machines.toml, whose hours make the number of jobs
_LONGEST = 33  # characters of a name, which is at most 40 with the part's number

SKYPILOT = """\
# {title}: a SkyPilot managed job, once for each of {parts} parts; made by clipjax sweep --submit skypilot.
# Name your image below, save this as sweep.yaml beside the suite, and start the jobs from that folder, which
# SkyPilot copies to each machine:
#
#     for part in $(seq {parts}); do sky jobs launch -n {name}-$part -y -d sweep.yaml --env PART=$part; done
name: {name}
workdir: .
num_nodes: 1
resources:
  accelerators: H100:1
  cpus: 16+
  memory: {memory}+
  image_id: docker:REGISTRY/clipjax-cuda:latest
  use_spot: true
  job_recovery:
    max_restarts_on_errors: 0
    recover_on_exit_codes: [75]
envs:
  PART:  # empty: must be given
run: |
{run}
"""

XPK = """\
#!/bin/bash
# {title}: an xpk workload for each of {parts} parts of the sweep; made by clipjax sweep --submit xpk.
# The image has clipjax and, in its working folder, the suite. A TPU_TYPE of several hosts (v6e-8, v5litepod-8
# and larger) needs --distributed in the command.
set -e

cluster=${{CLUSTER:?name the cluster in CLUSTER}}
type=${{TPU_TYPE:?name the kind of slice in TPU_TYPE, e.g. v6e-4}}
image=${{IMAGE:?name the image in IMAGE}}
command={command}

for part in $(seq {parts}); do
    xpk workload create --cluster "$cluster" --workload "{name}-$part" \\
        --tpu-type "$type" --docker-image "$image" \\
        --max-restarts 100 --restart-on-exit-codes 75 --termination-grace-period-seconds 60 \\
        --command "$command --shard $part/{parts}"
done
"""


def job_file(queue: str, suite: str, array: SlurmArray, command: Sequence[str]) -> str:
    """The text of the file.

    Args:
        queue: skypilot (a task in YAML), or xpk (a shell script that creates the workloads).
        suite: its name.
        array: what the jobs ask for; xpk takes whole machines, so only its number of parts.
        command: runs one part, but for `--shard`.
    """
    name = "clipjax-" + re.sub(r"[^a-z0-9]+", "-", suite.lower())
    name = name[:_LONGEST].strip("-")
    run = "exec " + shlex.join(command)  # so that a signal reaches the sweep
    if queue == "xpk":
        return XPK.format(title=suite, name=name, parts=array.parts, command=shlex.quote(run))
    run = textwrap.indent(f'{run} --shard "$PART/{array.parts}"', "  ")
    return SKYPILOT.format(title=suite, name=name, parts=array.parts, memory=array.gigabytes, run=run)
