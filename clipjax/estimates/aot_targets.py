"""Models compiled ahead of time for TPUs, for GPUs, or for both."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from clipjax.errors import UsageError
from clipjax.estimates import aot, aot_gpu, aot_language
from clipjax.estimates.aot import TowerRow
from clipjax.estimates.gpu_targets import has_gpu_compiler, load_gpus
from clipjax.guards import known_name


def by_kind(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """TPU chips and GPUs among `names`.

    Raises UsageError for an unknown name, or for both kinds in an environment without both compilers.
    """
    chips, gpus = aot.load_chips(), load_gpus()
    for name in names:
        known_name("chip", name, {**chips, **gpus})
    tpu_names, gpu_names = [name for name in names if name in chips], [name for name in names if name in gpus]
    if tpu_names and gpu_names and not (aot.has_tpu_compiler() and has_gpu_compiler()):
        raise UsageError(
            f"TPUs and GPUs are compiled for in two environments (`make tpu-env gpu-aot-env`): run "
            f"`.venv-tpu/bin/clipjax models --aot {','.join(tpu_names)} ...` and "
            f"`.venv-gpu-aot/bin/clipjax models --aot {','.join(gpu_names)} ...`"
        )
    return tpu_names, gpu_names


def rows_of(ids: Sequence[str], tpus: Sequence[str], gpus: Sequence[str]) -> Iterator[TowerRow]:
    """The rows of `aot_language.table_of` and of `aot_gpu.gpu_table`; errors as theirs."""
    return itertools.chain(
        aot_language.table_of(ids, tpus) if tpus else (), aot_gpu.gpu_table(ids, gpus) if gpus else ()
    )


def count(ids: Sequence[str], tpus: Sequence[str], gpus: Sequence[str]) -> int:
    """The number of `rows_of`."""
    return aot_language.count(ids, tpus) + len(aot.programs(ids) + aot_language.programs(ids)) * len(gpus)
