"""A process that trains on a CPU keeps the memory of a step: also the script that counts its page faults."""

from __future__ import annotations

import ctypes
import itertools
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from tests import _forks

SHAPE = (2200, 4000)  # 35 MB: above the 32 that glibc may keep by itself
PAGES = SHAPE[0] * SHAPE[1] * 4 // resource.getpagesize()  # of one of the program's arrays


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="memory is glibc's here")
def test_a_step_takes_no_new_pages() -> None:
    kept, returned = (faults(option) for option in ("keep", "return"))
    assert kept < 0.05 * PAGES
    assert returned > PAGES  # else the test sees nothing


def faults(option: str) -> int:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    fork = _forks.start(Path(__file__), [option], environment, stdout=subprocess.PIPE)
    return int(fork.communicate(timeout=60)[0])


def main(option: str) -> None:
    """Print the page faults of a program's run: the median of nine.

    In any one the heap may grow once more, as what else was freed leaves it.
    """
    import jax
    import jax.numpy as jnp

    from clipjax.devices.memory import keep_freed

    if option == "keep":
        keep_freed()
    run = jax.jit(lambda x: (x + 1, ((x * x) @ x[0]).sum()), donate_argnums=0)
    x = jnp.ones(SHAPE)
    seen = []
    for _ in range(10):
        x, total = run(x)
        total.block_until_ready()
        seen.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
    print(int(statistics.median(after - before for before, after in itertools.pairwise(seen))))


if __name__ == "__main__":
    main(sys.argv[1])
