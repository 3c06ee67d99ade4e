"""GPUs that are not in this machine: their descriptions, and JAX set up to compile for one."""

from __future__ import annotations

import contextlib
import importlib.util
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh

from clipjax.config import config_dir
from clipjax.devices import platforms
from clipjax.devices.sharding import make_mesh
from clipjax.errors import UsageError

_PLUGINS = ("xla_cuda12", "xla_cuda13")


@dataclass(frozen=True)
class Gpu:
    """A card of configs/gpu_targets/.

    Attributes:
        description: XLA's `GpuTargetConfigProto`, as text.
        memory_bytes: of the card.
        capability: of its cores, such as (9, 0).
        cudnn: the version that the program will find, as cuDNN writes it: 91000 is 9.10.0.
    """

    name: str
    description: str
    memory_bytes: int
    capability: tuple[int, int]
    cudnn: int


def load_gpus() -> dict[str, Gpu]:
    """The descriptions of configs/gpu_targets/, by name."""
    files = sorted((config_dir() / "gpu_targets").glob("*.txtpb"))
    return {file.stem: _gpu(file.stem, file.read_text(encoding="utf-8")) for file in files}


def _gpu(name: str, description: str) -> Gpu:
    def number(field: str, inside: str = "") -> int:
        found = re.search(rf"{inside}[^}}]*\b{field}: (\d+)", description)
        assert found is not None, f"configs/gpu_targets/{name}.txtpb has no {field}"
        return int(found[1])

    capability, cudnn = "cuda_compute_capability {", "dnn_version_info {"
    major, minor, patch = (number(part, cudnn) for part in ("major", "minor", "patch"))
    return Gpu(
        name,
        description,
        number("device_memory_size"),
        (number("major", capability), number("minor", capability)),
        10_000 * major + 100 * minor + patch,
    )


def has_gpu_compiler() -> bool:
    """Whether one of JAX's plugins for CUDA is installed."""
    there = importlib.util.find_spec("jax_plugins") is not None
    return there and any(importlib.util.find_spec(f"jax_plugins.{name}") for name in _PLUGINS)


def use_gpu_compiler() -> None:
    """Switches JAX to the CPU. Raises UsageError without XLA's compiler for GPUs."""
    if not has_gpu_compiler():
        raise UsageError(
            "this environment has no compiler for GPUs: make one of its own with `make gpu-aot-env` in a "
            "checkout, and run `.venv-gpu-aot/bin/clipjax models --aot ...`; see docs/hardware/gpu.md"
        )
    jax.config.update("jax_platforms", "cpu")


def gpu_mesh(gpu: Gpu) -> Mesh:
    """One GPU of this kind."""
    from jax.experimental import topologies

    described = topologies.get_topology_desc(platform="cuda", topology="1x1x1", target_config=gpu.description)
    return make_mesh(described.devices[:1])


@contextlib.contextmanager
def answers_of(gpu: Gpu) -> Iterator[None]:
    """Inside, `gpu` is taken for the local one: layers and JAX ask it before they take cuDNN's attention."""
    from jax._src.cudnn import fused_attention_stablehlo as asked

    def of(capability: str) -> tuple[int, ...]:
        return tuple(map(int, capability.split(".")))

    answers: list[tuple[Any, str, Callable[..., Any]]] = [
        (platforms, "gpu_capability", lambda: gpu.capability),
        (asked, "check_cudnn_version", lambda: gpu.cudnn),
        (asked, "check_compute_capability", lambda least: gpu.capability >= of(least)),
        (asked, "is_cuda_compute_capability_equal", lambda other: gpu.capability == of(other)),
    ]
    kept = [getattr(module, name) for module, name, _ in answers]
    try:
        for module, name, answer in answers:
            setattr(module, name, answer)
        yield
    finally:
        for (module, name, _), function in zip(answers, kept, strict=True):
            setattr(module, name, function)
