"""Programs of the system that some corruptions run."""

from __future__ import annotations

import shutil
import subprocess

from clipjax.errors import DataError, UsageError


def check_program(kind: str, program: str) -> None:
    """Raises UsageError if a corruption's program ("" for none) is not installed."""
    if program and shutil.which(program) is None:
        raise UsageError(f"the corruption {kind} needs {program}, which is not on the PATH: install it")


def version_of(program: str) -> str:
    """The first line that `program -version` prints."""
    return output_of([program, "-version"]).decode(errors="replace").partition("\n")[0]


def output_of(command: list[str], data: bytes = b"", *, check: bool = True) -> bytes:
    """Run a command with `data` on stdin and return what it prints.

    Raises DataError with its last line if it fails, unless `check` is false.
    """
    done = subprocess.run(command, input=data, capture_output=True, check=False)
    if done.returncode and check:
        said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise DataError(f"{command[0]} ended with {done.returncode}: {said}")
    return done.stdout
