"""On an NVIDIA GPU: parity is float32 and not TF32, and one device trains a cut model as a whole one.

A process of its own computes there, since the suite runs on the CPU. It is skipped where JAX has no GPU. What
does not compare with the CPU also runs on the CPU.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

import _on_device
import numpy as np
import pytest
from _on_device import TOWERS, Arrays

from clipjax.devices.sharding import DP
from clipjax.doctor.accelerators import CUDA_PLUGINS, has_gpu
from clipjax.doctor.machine import this_machine
from clipjax.models.cut import FSDP
from clipjax.models.modules import attention

TOLERANCE = 2e-5  # of unit features: another device adds in another order


def why_no_gpu() -> str | None:
    machine = this_machine()
    if not has_gpu(machine):
        return "this machine has no NVIDIA GPU"
    if not any(map(machine.version, CUDA_PLUGINS)):
        return "this JAX has no CUDA plugin: run the test in the environment of `make gpu-env`"
    return None


@functools.cache
def on_gpu(folder: Path) -> Arrays:
    ours = {"JAX_PLATFORMS": "cuda,cpu", "XLA_FLAGS": "", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    ours["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, _on_device.__file__, str(folder / "gpu.npz")]
    subprocess.run(command, env={**os.environ, **ours}, check=True)
    with np.load(folder / "gpu.npz") as file:
        return dict(file)


@pytest.fixture
def gpu(tmp_path_factory: pytest.TempPathFactory) -> Arrays:
    if reason := why_no_gpu():
        pytest.skip(reason)
    return on_gpu(tmp_path_factory.getbasetemp())


@pytest.fixture(params=["cpu", "gpu"])
def platform(request: pytest.FixtureRequest) -> Arrays:
    """The product's errors, and the params of both training runs."""
    if request.param == "gpu":
        return request.getfixturevalue("gpu")
    whole, cut = (_on_device.trained(rules) for rules in (DP, FSDP))
    both = {f"whole {path}": leaf for path, leaf in whole.items()}
    both |= {f"cut {path}": leaf for path, leaf in cut.items()}
    return {"product highest": _on_device.product(), **both}


def test_products_are_float32_and_a_cut_step_equals_a_whole_one(platform: Arrays) -> None:
    assert platform["product highest"] < 2e-6
    paths = [name.removeprefix("whole ") for name in platform if name.startswith("whole ")]
    assert len(paths) > 10
    for path in paths:
        np.testing.assert_allclose(platform[f"cut {path}"], platform[f"whole {path}"], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", TOWERS)
def test_towers_equal_those_of_the_cpu(name: str, gpu: Arrays) -> None:
    for tower, expected in _on_device.features(name).items():
        np.testing.assert_allclose(gpu[tower], expected, rtol=0, atol=TOLERANCE)


def test_tf32_would_not_pass(gpu: Arrays) -> None:
    """On cards of the Ampere generation and newer JAX's default is TF32."""
    if gpu["product default"] < 1e-5:
        pytest.skip("this card has no TF32")
    assert np.abs(gpu["TF32 ViT-B-32 image"] - gpu["ViT-B-32 image"]).max() > TOLERANCE


@pytest.mark.parametrize("mask", ["whole", "causal"])
def test_cudnns_attention_rounds_as_attention_written_out(mask: str, gpu: Arrays) -> None:
    """The result and three gradients. 0.02: bfloat16 keeps 8 bits."""
    if tuple(gpu["capability"]) < attention.LEAST_CAPABILITY:
        pytest.skip("cuDNN's attention needs an A100 or a newer card")
    assert gpu["layers take cuDNN's attention"]
    fused, written_out = (gpu[f"attention {mask} {name}"] for name in ("fused", "written out"))
    assert (fused < 0.02).all()
    assert (fused < 3 * written_out + 1e-3).all()
