"""The forward pass on the devices of this process.

Each runs the same program on equally many images or texts, so the bits of a feature do not depend on the
number of devices.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from clipjax.card import embeds_at_unit_norm
from clipjax.data.preprocess import normalize, normalize_host
from clipjax.digests import cache_dir
from clipjax.errors import DataError, UsageError
from clipjax.model import token_ids, unit_norm
from clipjax.models.network import Network, Precision, known_precision
from clipjax.sharding import DATA, batch_sharding, local_mesh, replicated

TEXT_BATCH = 32  # texts a device takes in one step


@dataclasses.dataclass(frozen=True)
class Forward:
    """A forward pass of one batch size.

    Attributes:
        run: pixels uint8 [batch_size, S, S, 3] -> features [batch_size, D], perhaps not yet computed.
        batch_size: images on all devices together.
        compiles: () -> how often it was compiled.
    """

    run: Callable[[np.ndarray], Any]
    batch_size: int
    compiles: Callable[[], int]


def image_forward(model: Any, precision: Precision, output: str, per_device_batch: int) -> Forward:
    """The image tower on all devices of this process, or a user's own model as it is.

    Raises UsageError for an own model that is asked for more than `encode_image`; running it, DataError for
    features of a wrong shape.
    """
    if hasattr(model, "network"):
        return _network_forward(model, precision, output, per_device_batch)
    if precision != "parity" or output != "embedding":
        raise UsageError(f"{model.card.id} is not one of clipjax's networks: leave out precision and output")
    mean, std = model.card.preprocess.mean, model.card.preprocess.std

    def run(pixels: np.ndarray) -> Any:
        features = model.encode_image(normalize_host(pixels, mean, std))
        if len(np.shape(features)) != 2 or len(features) != len(pixels):
            raise DataError(
                f"encode_image of {model.card.id} made an array {list(np.shape(features))} of {len(pixels)} "
                f"images: it must return [{len(pixels)}, D]"
            )
        return features

    return Forward(run, per_device_batch, lambda: 0)


def _network_forward(model: Any, precision: Precision, output: str, per_device_batch: int) -> Forward:
    enable_compile_cache()
    mesh, card = local_mesh(), model.card
    unit = output == "embedding" and embeds_at_unit_norm(card)
    mean, std = tuple(card.preprocess.mean), tuple(card.preprocess.std)
    step = _image_step(model.network, mesh, precision, unit, mean, std)
    params = jax.device_put({"vision": model.params["vision"]}, replicated(mesh))
    before = step.compiles
    return Forward(
        functools.partial(step, params), per_device_batch * mesh.size, lambda: step.compiles - before
    )


class _Step:
    """A jitted (params, batch) -> features: each device runs the whole function on its part of the batch.

    `shard_map` states that as the program: there is nothing for the compiler to split or to communicate.
    `compiles` counts how often it was traced.
    """

    def __init__(
        self, function: Callable[[Any, jax.Array], jax.Array], mesh: Mesh, options: dict[str, str] | None
    ):
        self.compiles = 0
        self.batch_sharding = batch_sharding(mesh)

        def counted(params: Any, batch: jax.Array) -> jax.Array:
            self.compiles += 1
            return function(params, batch)

        split = PartitionSpec(DATA)
        # The check of varying axes does not know every primitive of every model; nothing here is reduced.
        self._run = jax.jit(
            jax.shard_map(
                counted, mesh=mesh, in_specs=(PartitionSpec(), split), out_specs=split, check_vma=False
            ),
            compiler_options=options,
        )

    def __call__(self, params: Any, batch: np.ndarray) -> jax.Array:
        return self._run(params, jax.device_put(batch, self.batch_sharding))


@functools.lru_cache(maxsize=16)
def _image_step(
    network: Network, mesh: Mesh, precision: Precision, unit: bool, mean: tuple, std: tuple
) -> _Step:
    """Kept, so that the next data set of the same model does not compile again."""

    def forward(params: Any, pixels: jax.Array) -> jax.Array:
        features = network.encode_image(params, normalize(pixels, mean, std), precision=precision)
        return unit_norm(features) if unit else features

    return _Step(forward, mesh, network.compiler_options("vision"))


@functools.lru_cache(maxsize=16)
def _text_step(network: Network, mesh: Mesh, precision: Precision) -> _Step:
    def forward(params: Any, ids: jax.Array) -> jax.Array:
        return unit_norm(network.encode_text(params, ids, precision=precision))

    return _Step(forward, mesh, network.compiler_options("text"))


def text_encoder(model: Any, precision: str = "parity") -> Callable[[np.ndarray], np.ndarray]:
    """The text tower on all devices of this process: int32 [B, L] -> float32 [B, E] of unit norm.

    Each device takes TEXT_BATCH texts at a time, whatever B is: there is one compilation for each length L,
    and the bits do not depend on the number of devices.

    Args:
        model: a `clipjax.Model` with a text tower.
        precision: "parity" or "fast".
    """
    enable_compile_cache()
    mesh = local_mesh()
    step = _text_step(model.network, mesh, known_precision(precision))
    params = jax.device_put({"text": model.params["text"]}, replicated(mesh))
    size = TEXT_BATCH * mesh.size

    def encode(ids: np.ndarray) -> np.ndarray:
        ids = token_ids(ids, model.network.arch)
        padded = np.pad(ids, ((0, max(1, -(-len(ids) // size)) * size - len(ids)), (0, 0)))
        parts = [step(params, padded[start : start + size]) for start in range(0, len(padded), size)]
        return np.concatenate([np.asarray(part) for part in parts])[: len(ids)]

    return encode


def enable_compile_cache() -> None:
    """Keep compiled programs in the user's cache between runs, unless JAX was told where to or not to."""
    if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue]
        jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "xla"))
