"""Run a corruption on the devices of this process: uint8 in, uint8 out.

Each device runs the same program on equally many images, so bits do not depend on the number of devices.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from clipjax.corruptions.corruption import PER_IMAGE, Corruption, constants_of, image_keys
from clipjax.corruptions.filters import UNIT, of_levels
from clipjax.corruptions.program import check_program
from clipjax.devices.sharding import DATA, local_mesh
from clipjax.errors import UsageError

PER_DEVICE = 8  # images per step; the compiler may choose other bits for another number


@dataclass(frozen=True, eq=False)
class Runner:
    """One corruption at one severity.

    Attributes:
        mesh: of this process; default all its devices.
        seed: of the images' keys.
    """

    corruption: Corruption
    severity: int
    mesh: Mesh | None = None
    seed: int = 0

    def __call__(
        self, pixels: np.ndarray, ids: Sequence[str], extra: Mapping[str, Any] | None = None
    ) -> np.ndarray:
        """Corrupt images.

        Args:
            pixels: uint8 [N, S, S, 3], any N.
            ids: [N], stable names that decide the random draws.
            extra: what the corruption `needs`; entries of PER_IMAGE have N rows.

        Returns: uint8 [N, S, S, 3]: x * 255 truncated, as the reference does.

        Raises:
            UsageError: `extra` lacks an entry, or its program is not installed.
        """
        check_program(self.corruption.name, self.corruption.program)
        extra = dict(extra or {})
        for name in self.corruption.needs:
            if name not in extra:
                raise UsageError(f"the corruption {self.corruption.name} needs {name}")
        extra = {name: extra[name] for name in self.corruption.needs}
        own = {name: np.asarray(each) for name, each in extra.items() if name in PER_IMAGE}
        shared = {name: each for name, each in extra.items() if name not in PER_IMAGE}
        words = image_keys(self.corruption.name, ids, self.seed)
        step = PER_DEVICE * (1 if self.corruption.on_host else self._mesh.size)
        parts = [
            self._step(_rows(pixels, at, step), _rows(words, at, step), _all_rows(own, at, step), shared)
            for at in range(0, len(pixels), step)
        ]
        whole = [np.asarray(part) for part in parts]
        return np.concatenate(whole)[: len(pixels)] if whole else pixels[:0]

    @property
    def needed(self) -> tuple[str, ...]:
        """Entries of `extra` with a row per image."""
        return tuple(name for name in self.corruption.needs if name in PER_IMAGE)

    @functools.cached_property
    def _mesh(self) -> Mesh:
        return local_mesh() if self.mesh is None else self.mesh

    @functools.cached_property
    def _step(self) -> Callable[..., Any]:
        """(pixels, words, own extra, shared extra) of one full step."""
        constants = constants_of(self.corruption.name, self.severity)

        def program(pixels: Any, words: Any, own: Any, shared: Any) -> Any:
            out = self.corruption.apply(of_levels(pixels), wrapped(words), constants, {**own, **shared})
            return (jnp.clip(out, 0, 1) * 255).astype(jnp.uint8)

        if self.corruption.on_host:
            return functools.partial(_on_host, self.corruption, constants)
        split, whole = PartitionSpec(DATA), PartitionSpec()
        return jax.jit(
            jax.shard_map(
                program,
                mesh=self._mesh,
                in_specs=(split, split, split, whole),
                out_specs=split,
                check_vma=False,  # loops of kinds start from constants, which are the same on all devices
            )
        )


def wrapped(words: Any) -> jax.Array:
    """JAX's random keys [N] from their words, uint32 [N, 2]."""
    return jax.random.wrap_key_data(words, impl="threefry2x32")


def _on_host(
    corruption: Corruption,
    constants: Mapping[str, float],
    pixels: np.ndarray,
    words: np.ndarray,
    own: Mapping[str, Any],
    shared: Mapping[str, Any],
) -> np.ndarray:
    out = corruption.apply(UNIT[pixels], wrapped(words), constants, {**own, **shared})
    return (np.clip(out, 0, 1) * np.float32(255)).astype(np.uint8)


def _all_rows(arrays: Mapping[str, np.ndarray], at: int, count: int) -> dict[str, np.ndarray]:
    return {name: _rows(each, at, count) for name, each in arrays.items()}


def _rows(array: np.ndarray, at: int, count: int) -> np.ndarray:
    """`count` rows from `at`; past the end the last row again."""
    if at + count <= len(array):
        return array[at : at + count]
    return np.take(array, np.minimum(np.arange(at, at + count), len(array) - 1), axis=0)
