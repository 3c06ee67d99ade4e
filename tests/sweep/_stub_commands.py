"""Commands of a cluster as scripts, for tests of job scripts."""

from __future__ import annotations

import os
from pathlib import Path


def commands(folder: Path, **bodies: str) -> dict[str, str]:
    """An environment in which these commands are scripts that note their calls in `folder`/called."""
    for name, body in bodies.items():
        path = folder / name
        path.write_text(f'#!/bin/bash\necho "{name} $*" >> {folder}/called\n{body}\n')
        path.chmod(0o755)
    places = {"HOME": str(folder), "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}
    places |= {"SLURM_ARRAY_TASK_COUNT": "8", "PATH": f"{folder}:{os.environ['PATH']}"}
    return os.environ | places
