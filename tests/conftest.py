"""Shared test set-up: eight host devices, no compilation cache, strict promotion, the shared data folder."""

from __future__ import annotations

import functools
import gc
import os

from _xla_flags import suite_flags

# Before JAX is imported anywhere.
os.environ["XLA_FLAGS"] = suite_flags()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Threads of PyTorch and NumPy that wait for work by spinning took a sixth of the processor's time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Nearly every program is compiled once in the suite: keeping them all took more time than reading some saved.
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest
import typer.main
from _long import check_guards
from _reference import Reference
from _shapes import ANNOTATED
from _times import Times, in_order
from jaxtyping import install_import_hook

# Before these modules are imported anywhere.
install_import_hook(ANNOTATED, "_shapes.checked")

# Typer makes every command anew for each invocation, in 25 ms.
typer.main.get_command = functools.cache(typer.main.get_command)

jax.config.update("jax_numpy_dtype_promotion", "strict")

# JAX keeps what it traced: searching this for garbage as often as Python does takes 6 % of the time.
gc.set_threshold(20_000, 20, 30)


# What tests write need not outlive the machine: waiting for the disk took 13 s. Closed files are refused.
os.fsync = os.fstat  # pyright: ignore[reportAttributeAccessIssue]

# xdist gives its workers a terminal of 80 columns; tables are to be printed as into a pipe.
os.environ.pop("COLUMNS", None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--times", metavar="FILE", help="write the processor seconds of each test to FILE (CSV)")
    parser.addoption("--record-times", action="store_true", help="write tests/times.csv anew from this run")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Reference(config), "reference")
    config.pluginmanager.register(Times(config), "times")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not any("[" in argument for argument in config.args):  # one value of a test: its guard may be another
        check_guards(items)
    in_order(items)
    # Libraries and tests stay to the end: no search for garbage need look at them.
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of shared real files, from CLIPJAX_TEST_DATA; skips where it is not set."""
    root = os.environ.get("CLIPJAX_TEST_DATA")
    if not root:
        pytest.skip("CLIPJAX_TEST_DATA is not set: no shared real files on this machine")
    path = Path(root)
    assert path.is_dir(), f"CLIPJAX_TEST_DATA={root} is not a folder"
    return path


@pytest.fixture(scope="module")
def one_device() -> Iterator[list[Any]]:
    """JAX has one device, as on a user's CPU: batches of few images for eight are nearly all padding.

    The fixture's value is the list of all devices, for meshes of several.
    """
    with pytest.MonkeyPatch.context() as patch:
        every = jax.devices()
        first = every[:1]
        for name in ("devices", "local_devices"):
            patch.setattr(jax, name, lambda *_: first)
        for name in ("device_count", "local_device_count"):
            patch.setattr(jax, name, lambda *_: 1)
        yield every


@pytest.fixture(scope="module")
def few_calibrated_models() -> Iterator[None]:
    """Few models are drawn beside SmoothECE: a hundred take half a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clipjax.tasks.selective.CALIBRATED", 20)
        yield


@pytest.fixture(autouse=True)
def without_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU is one without AVX512_BF16, whatever the host is: "fast" has one form, and keys no other."""
    monkeypatch.setattr("clipjax.models.precision.this_cpu_multiplies_bfloat16", lambda: False)


@pytest.fixture
def with_bfloat16(monkeypatch: pytest.MonkeyPatch, without_bfloat16: None) -> None:
    """The CPU is one with AVX512_BF16. XLA computes its form on any."""
    monkeypatch.setattr("clipjax.models.precision.this_cpu_multiplies_bfloat16", lambda: True)


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Digests of files that were written just now are remembered, as of older ones."""
    monkeypatch.setattr("clipjax.storage.digests.SETTLED_NS", -(10**12))
