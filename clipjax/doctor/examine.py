"""`clipjax doctor`: is this machine ready, and if not, what to do.

    for line in examine(this_machine()): print(line.check, line.status, line.says, line.do)

A check is a function of a `Machine` that yields lines and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from clipjax.doctor.accelerators import check_accelerators, check_devices, check_torch
from clipjax.doctor.configs import check_configs
from clipjax.doctor.data import check_data, check_planned
from clipjax.doctor.folders import check_compile_cache, check_folders
from clipjax.doctor.host import check_host
from clipjax.doctor.line import BROKEN, NOTE, CheckResult
from clipjax.doctor.machine import Machine
from clipjax.doctor.versions import check_versions
from clipjax.errors import ClipjaxError

Check = Callable[[Machine], Iterator[CheckResult]]


def examine(
    machine: Machine,
    *,
    store: Path | None = None,
    data_root: Path | None = None,
    models: tuple[str, ...] = (),
    read_config: Callable[[Path], object] | None = None,
) -> Iterator[CheckResult]:
    """The lines of every check, as they finish.

    Args:
        store: default in the user's cache.
        data_root: also check these data sets and the space for their embeddings.
        models: ids to plan for; default all registered.
        read_config: reads a file of a config folder as commands do; also check the folders in force.
    """
    checks: dict[str, Check] = {
        "host": check_host,
        "devices": check_devices,
        "accelerators": check_accelerators,
        "versions": check_versions,
        "torch": check_torch,
        "compile cache": check_compile_cache,
        "folders": partial(check_folders, store=store),
    }
    if read_config is not None:
        checks["configs"] = partial(check_configs, read=read_config)
    if data_root is not None:
        checks["data"] = partial(check_data, data_root=data_root)
        checks["planned"] = partial(check_planned, data_root=data_root, models=models, store=store)
    for name, check in checks.items():
        yield from _run(name, check, machine)


def _run(name: str, check: Check, machine: Machine) -> Iterator[CheckResult]:
    """A check's error becomes its last line."""
    try:
        yield from check(machine)
    except ClipjaxError as error:
        yield CheckResult(name, BROKEN, str(error), "correct what it names and run `clipjax doctor` again")
    except Exception as error:
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        yield CheckResult(
            name, NOTE, f"this check could not be run ({what})", "check it yourself, and report this"
        )
