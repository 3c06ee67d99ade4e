"""The config folders in force, and whether all of their files can be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from clipjax.config import added_folders, files_of
from clipjax.doctor.line import BROKEN, FINE, CheckResult
from clipjax.doctor.machine import Machine
from clipjax.errors import ClipjaxError, counted

CORRECT = "correct the file, or leave its folder out (CLIPJAX_CONFIGS, --configs)"


def check_configs(machine: Machine, *, read: Callable[[Path], object]) -> Iterator[CheckResult]:
    """A line per folder, and one per wrong file. `read` raises ClipjaxError for it."""
    folders = added_folders()
    if not folders:
        yield CheckResult(
            "configs", FINE, "clipjax's own files alone (--configs and CLIPJAX_CONFIGS add folders)"
        )
    for folder in folders:
        files = files_of(folder)
        problems = dict.fromkeys(filter(None, (_problem(path, read) for path in files)))
        yield from (CheckResult("configs", BROKEN, problem, CORRECT) for problem in problems)
        if not problems:
            yield CheckResult(
                "configs", FINE, f"{folder}: {counted(len(files), 'file')}, all of them in order"
            )


def _problem(path: Path, read: Callable[[Path], object]) -> str | None:
    try:
        read(path)
    except ClipjaxError as error:
        return str(error) if str(path) in str(error) else f"{path}: {error}"
    return None
