"""JAX's devices, the machine's accelerators, and torch beside JAX."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from packaging.requirements import Requirement

from clipjax.devices.cpu import FLAG, multiplies_bfloat16
from clipjax.doctor.line import BROKEN, FINE, NOTE, CheckResult
from clipjax.doctor.machine import Machine
from clipjax.errors import readable_bytes

# As JAX finds them (jax 0.10, jax/_src/hardware_utils.py).
_NVIDIA = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg")
_GOOGLE = "0x1ae0"
_TPUS = {"0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076"}

CUDA_PLUGINS = ("jax-cuda12-plugin", "jax-cuda13-plugin")
_GPU_NAMES = {"gpu", "cuda", "rocm"}


def check_devices(machine: Machine) -> Iterator[CheckResult]:
    probe, asked = machine.probe(), machine.environ.get("JAX_PLATFORMS", "")
    if probe.error is not None and asked:
        yield CheckResult(
            "devices",
            BROKEN,
            f"JAX_PLATFORMS={asked} names a platform that JAX cannot use here ({probe.error})",
            "unset JAX_PLATFORMS, or install JAX for that platform",
        )
    elif probe.error is not None:
        yield CheckResult(
            "devices",
            BROKEN,
            f"JAX has no devices: {probe.error}",
            "end other processes that hold the device, or reinstall jax and jaxlib of one version",
        )
    kinds = Counter((each["platform"], each["kind"], each["memory"]) for each in probe.devices)
    for (platform, kind, memory), count in kinds.items():
        each = "" if memory is None else f", {readable_bytes(memory)} for JAX on each"
        yield CheckResult("devices", FINE, f"{count} x {platform} ({kind}){each}")
    if probe.platforms == {"cpu"}:
        yield CheckResult("devices", FINE, _bfloat16(machine))


def _bfloat16(machine: Machine) -> str:
    """The form of the precision "fast" on this CPU."""
    if multiplies_bfloat16(machine.read("/proc/cpuinfo") or ""):
        return f"the CPU multiplies bfloat16 ({FLAG}): --precision fast takes products with float32 results"
    return f"the CPU has no {FLAG}: it emulates --precision fast, and parity is faster"


def check_accelerators(machine: Machine) -> Iterator[CheckResult]:
    """Accelerators that JAX does not use; plugins of another version than jaxlib's."""
    yield from _plugin_lines(machine)
    probe, asked = machine.probe(), machine.environ.get("JAX_PLATFORMS", "")
    for name, there, used, extra in (
        ("an NVIDIA GPU", has_gpu(machine), probe.platforms & _GPU_NAMES, "cuda"),
        ("a TPU", _has_tpu(machine), probe.platforms & {"tpu"}, "tpu"),
    ):
        if not there or used or probe.error is not None:
            continue
        if asked and extra not in asked.split(",") and not (extra == "cuda" and "gpu" in asked):
            says = f"{name} is here and JAX_PLATFORMS={asked} leaves it out"
            yield CheckResult("accelerators", NOTE, says, "unset JAX_PLATFORMS to use it")
        elif not _has_plugin(machine, extra):
            yield CheckResult(
                "accelerators",
                BROKEN,
                f"{name} is here, but this JAX is for CPUs only",
                f'pip install ".[{_cuda_extra(machine) if extra == "cuda" else extra}]"',
            )
        else:
            yield CheckResult(
                "accelerators",
                BROKEN,
                f"{name} is here and JAX is built for it, but does not use it",
                "see what `python -c 'import jax; jax.devices()'` warns of: mostly an old driver",
            )


def _plugin_lines(machine: Machine) -> Iterator[CheckResult]:
    """jaxlib ignores a plugin of another version with a warning, and computes on the CPU."""
    jaxlib = machine.version("jaxlib")
    for name in CUDA_PLUGINS:
        version = machine.version(name)
        if version is not None and jaxlib is not None and version != jaxlib:
            says = f"{name} {version} does not go with jaxlib {jaxlib}"
            yield CheckResult("accelerators", BROKEN, says, f'pip install "{name}[with-cuda]=={jaxlib}"')


def has_gpu(machine: Machine) -> bool:
    return any(map(machine.exists, _NVIDIA))


def _cuda_extra(machine: Machine) -> str:
    """CUDA 13 needs a driver of series 580 or newer (NVIDIA's release notes); CUDA 12 runs with it, too."""
    driver = re.search(r"Kernel Module.*?\s(\d+)\.\d", machine.read("/proc/driver/nvidia/version") or "")
    return "cuda13" if driver and int(driver[1]) >= 580 else "cuda12"


def _has_tpu(machine: Machine) -> bool:
    for vendor in machine.root.glob("sys/bus/pci/devices/*/vendor"):
        if vendor.read_text().strip() == _GOOGLE:
            return (vendor.parent / "device").read_text().strip() in _TPUS
    return False


def _has_plugin(machine: Machine, extra: str) -> bool:
    return any(machine.version(name) for name in (CUDA_PLUGINS if extra == "cuda" else ("libtpu",)))


def check_torch(machine: Machine) -> Iterator[CheckResult]:
    """Check torch, which only `clipjax verify` needs; its CUDA build may conflict with JAX."""
    torch = machine.version("torch")
    if torch is None:
        says = "torch is not installed; only `clipjax verify` and the tests need it"
        yield CheckResult("torch", FINE, says)
        return
    wanted = _cudnn(machine, "torch")
    if wanted is None:
        yield CheckResult("torch", FINE, f"torch {torch} brings no CUDA libraries that JAX could trip over")
        return
    plugin = next((name for name in CUDA_PLUGINS if machine.version(name)), None)
    if plugin is None:
        yield CheckResult("torch", FINE, f"torch {torch} is a CUDA build, JAX is not")
        return
    yield from _cudnn_lines(machine, torch, wanted, plugin, _cudnn(machine, plugin))
    if machine.environ.get("XLA_PYTHON_CLIENT_PREALLOCATE", "true").lower() not in ("false", "0"):
        share = machine.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.75")
        yield CheckResult(
            "torch",
            NOTE,
            f"JAX takes a share of {share} of a GPU's memory at its start, which torch on the same GPU lacks",
            "set XLA_PYTHON_CLIENT_PREALLOCATE=false where both run on one GPU",
        )


def _cudnn_lines(
    machine: Machine, torch: str, wanted: Requirement, plugin: str, ours: Requirement | None
) -> Iterator[CheckResult]:
    """Whether one process can load torch and JAX: they must agree on a cuDNN.

    Args:
        torch: torch's version.
        wanted: the cuDNN that torch requires.
        plugin: the name of JAX's CUDA package.
        ours: the cuDNN that JAX's package requires; None: it requires none.
    """
    if ours is None:
        return
    advice = "install torch's build for CPUs"
    if wanted.name != ours.name:
        yield CheckResult(
            "torch",
            NOTE,
            f"torch {torch} is built for {wanted.name}, {plugin} for {ours.name}: no process can use both",
            f"never import both in one process (clipjax does not), or {advice}",
        )
        return
    version = machine.version(ours.name)
    wrong = [
        f"{name} needs {each.name}{each.specifier}"
        for name, each in ((f"torch {torch}", wanted), (plugin, ours))
        if version is None or not each.specifier.contains(version, prereleases=True)
    ]
    if wrong:
        has = "is not installed" if version is None else f"{version} is installed"
        yield CheckResult("torch", BROKEN, f"{' and '.join(wrong)}, {has}", advice)
    else:
        yield CheckResult("torch", FINE, f"torch {torch} and {plugin} share {ours.name} {version}")


def _cudnn(machine: Machine, package: str) -> Requirement | None:
    """On any platform; JAX's plugin requires it in its extra `with-cuda`."""
    for text in machine.requires(package):
        if re.match(r"nvidia[-_.]cudnn", text):
            return Requirement(text)
    return None
