"""The host's cores and memory, and a container's limits on them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from clipjax.doctor.line import FINE, NOTE, CheckResult
from clipjax.doctor.machine import Machine
from clipjax.errors import readable_bytes

# A float32 tower and its file take 1.6 GB for ViT-L-14. With less memory only smaller models fit.
LITTLE_MEMORY = 4 * 10**9


def check_host(machine: Machine) -> Iterator[CheckResult]:
    total, available = _memory(machine)
    limit, quota = memory_limit(machine), core_limit(machine)
    says = f"Python {machine.python}, {machine.cores} cores"
    if total is not None and available is not None:
        says += f", {readable_bytes(total)} of memory, {readable_bytes(available)} of it free"
    yield CheckResult("host", FINE, says)
    if limit is not None and (total is None or limit < total):
        yield CheckResult("host", FINE, f"the container allows {readable_bytes(limit)} of memory")
    if quota is not None and quota < machine.cores:
        yield CheckResult(
            "host",
            NOTE,
            f"the container allows {quota:g} of the {machine.cores} cores: more threads than that only wait",
            "ask for as many cores as the job shows, or run it under `taskset` with so many",
        )
    usable = min((number for number in (total, limit) if number is not None), default=None)
    if usable is not None and usable < LITTLE_MEMORY:
        yield CheckResult(
            "host", NOTE, f"{readable_bytes(usable)} of memory is little", "run the smaller models here"
        )


def _memory(machine: Machine) -> tuple[int | None, int | None]:
    """Bytes: total, and available to new processes."""
    lines = (machine.read("/proc/meminfo") or "").splitlines()
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.endswith(" kB")}
    total, available = kilobytes.get("MemTotal"), kilobytes.get("MemAvailable")
    return (None if total is None else total * 1024), (None if available is None else available * 1024)


def memory_limit(machine: Machine) -> int | None:
    """Bytes that this process's cgroups allow; None: no limit."""
    values = _cgroup(machine, "memory.max") + _cgroup(machine, "memory.limit_in_bytes", "memory")
    numbers = [int(value) for value in values if value.strip().isdecimal()]  # version 2 has "max", too
    # Version 1 writes "no limit" as the largest multiple of a page below 2^63.
    return min((number for number in numbers if number < 2**62), default=None)


def core_limit(machine: Machine) -> float | None:
    """Cores' worth of time that the cgroups allow; None: no limit."""
    pairs = [value.split() for value in _cgroup(machine, "cpu.max")]
    quotas, periods = (_cgroup(machine, f"cpu.cfs_{what}_us", "cpu") for what in ("quota", "period"))
    pairs += [[quota.strip(), period.strip()] for quota, period in zip(quotas, periods)]
    limits = [int(quota) / int(period) for quota, period in pairs if quota.isdecimal()]
    return min(limits, default=None)


def _cgroup(machine: Machine, file: str, controller: str = "") -> list[str]:
    """A file's contents in this process's cgroup and those above it.

    `controller`: version 1 has one hierarchy per controller; "" is version 2.
    """
    own = "/"
    # "7:cpu,cpuacct:/job" is a line of version 1, "0::/job" the one of version 2.
    for line in (machine.read("/proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            own = path
    folders = [PurePosixPath(own), *PurePosixPath(own).parents]
    base = f"/sys/fs/cgroup/{controller}"
    texts = [machine.read(f"{base}/{str(folder).lstrip('/')}/{file}") for folder in folders]
    return [text for text in texts if text is not None]
