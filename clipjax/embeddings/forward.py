"""The forward pass on the devices of this process.

Each device runs the same program on equally many rows, so bits do not depend on the number of devices.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from clipjax.checkpoints.encoder import Encoder, embeds_at_unit_norm
from clipjax.data.pixels.normalize import normalize, normalize_host
from clipjax.devices.platforms import chip_of, platform_of
from clipjax.devices.programs import enable_compile_cache
from clipjax.devices.sharding import (
    DATA,
    abstract_on,
    batch_sharding,
    local_mesh,
    params_sharding,
    replicated,
)
from clipjax.embeddings.placements import (
    AUTO,
    REPLICATED,
    SHARDED,
    cast_bytes,
    fits,
    refuse_own,
    seen_whole,
)
from clipjax.errors import ClipjaxError, DataError, UsageError, type_and_line
from clipjax.models.cut import FSDP
from clipjax.models.network import Network
from clipjax.models.precision import Precision, known_precision, stated_platform
from clipjax.models.text_ids import token_ids
from clipjax.models.unit_norm import unit_norm

_LOG = logging.getLogger(__name__)
TEXT_BATCH = 32  # texts per device in one step
_NEAR_UNIT = 0.02  # a user's own tower may compute in bfloat16


class ProgramKey(NamedTuple):
    """Key of a compiled program: `batch` of one device, `size` in pixels per side or tokens per text.

    The program that matches pairs serves any `arch`; its `size` is the height of its maps.
    """

    arch: str
    tower: str
    size: int
    batch: int
    precision: str


compiled: Counter[ProgramKey] = Counter()  # compilations of this process


class OutOfMemoryError(Exception):
    def __init__(self, per_device_batch: int) -> None:
        super().__init__(f"{per_device_batch} images do not fit a device's memory")
        self.per_device_batch = per_device_batch


@contextlib.contextmanager
def watched(per_device_batch: int) -> Iterator[None]:
    """Turn XLA's memory errors, and the host's, into OutOfMemoryError."""
    try:
        yield
    except MemoryError:
        raise OutOfMemoryError(per_device_batch) from None
    except jax.errors.JaxRuntimeError as error:
        if is_out_of_memory(error):
            raise OutOfMemoryError(per_device_batch) from None
        raise


def is_out_of_memory(error: Exception) -> bool:
    return "RESOURCE_EXHAUSTED" in str(error)


@dataclasses.dataclass(frozen=True)
class Forward:
    """A forward pass of one batch size.

    Attributes:
        run: pixels uint8 [batch_size, S, S, 3] (in `answers` with prompts) -> features [batch_size, D],
            perhaps not computed yet.
        batch_size: images on all devices together.
        memory: () -> bytes per device, params included; compiles the program. None if unknown.
    """

    run: Callable[[Any], Any]
    batch_size: int
    memory: Callable[[], int | None] = lambda: None


def image_forward(
    model: Encoder, precision: Precision, output: str, per_device_batch: int, placement: str = REPLICATED
) -> Forward:
    """The image tower on this process's devices, or a user's own model as it is.

    Raises:
        UsageError: a user's own model with sharded params, or not "parity" and "embedding".
        DataError: the params do not fit the devices; when run: features of a wrong shape.
    """
    refuse_own(model, placement)
    if model.network is not None:
        return _network_forward(model, model.network, precision, output, per_device_batch, placement)
    if precision != "parity":
        raise UsageError(
            f"{model.card.id} is not one of clipjax's networks: leave out precision (--precision)"
        )
    if output != "embedding":
        raise UsageError(f"{model.card.id} is not one of clipjax's networks: it has no output {output!r}")
    if model.outside is not None:  # the stream's pixels are the features already
        return Forward(lambda features: features, per_device_batch)
    mean, std = model.card.preprocess.mean, model.card.preprocess.std
    name, directions = f"encode_image of {model}", embeds_at_unit_norm(model.card)
    call = OwnCalls(model.encode_image, name, "images")

    def embed(pixels: Any) -> np.ndarray:
        features = call(normalize_host(pixels, mean, std))
        if directions and (np.abs(np.linalg.norm(features, axis=1) - 1) > _NEAR_UNIT).any():
            _note_scaled(name)
        return features

    return Forward(embed, per_device_batch)


@functools.cache
def _note_scaled(name: str) -> None:
    """Once per model."""
    _LOG.warning("%s makes vectors that are not of unit norm: a zero-shot head scales them to it", name)


class OwnCalls:
    """A user's own function, batch by batch: its errors and wrong arrays become one sentence each.

    `of` names what it takes: images or strings.
    """

    def __init__(self, function: Callable[[Any], Any], name: str, of: str) -> None:
        self._function, self._name, self._of = function, name, of
        self._batch, self._width = 0, None

    def __call__(self, inputs: Any) -> np.ndarray:
        """B inputs -> float32 [B, D]. Raises DataError naming the function and the batch, from 1."""
        self._batch += 1
        try:
            features = np.asarray(self._function(inputs), np.float32)
        except (ClipjaxError, MemoryError, jax.errors.JaxRuntimeError):
            raise  # JAX: perhaps of memory, which the caller tells apart
        except (Exception, SystemExit) as error:  # the user's code may raise anything, or end the process
            failure = type_and_line(error)
            raise DataError(f"{self._name} failed on batch {self._batch}: {failure}") from error
        shape = list(features.shape)
        if features.ndim != 2 or len(features) != len(inputs):
            raise DataError(
                f"{self._name} made an array {shape} of {len(inputs)} {self._of} in batch {self._batch}: it "
                f"must return [{len(inputs)}, D]"
            )
        self._width = self._width or shape[1]
        if shape[1] != self._width:
            raise DataError(
                f"{self._name} made an array {shape} in batch {self._batch}, and rows of {self._width} "
                "numbers before: each batch must have as many"
            )
        return features


def _network_forward(
    model: Encoder, network: Network, precision: Precision, output: str, per_device_batch: int, placement: str
) -> Forward:
    step = image_step(model, precision, output, local_mesh(), placement)
    params = network.in_precision({"vision": model.params["vision"]}, precision)
    forward = on_devices(step, params, per_device_batch, model)

    def memory() -> int:
        return memory_of(step.compiled(params, _pixels(network, forward.batch_size)))

    return dataclasses.replace(forward, memory=memory)


def on_devices(step: Any, params: Any, per_device_batch: int, model: Encoder) -> Forward:
    """A `Step` (or what is like one) with its params on the devices; `model`: named if they do not fit."""
    enable_compile_cache()
    try:
        placed = jax.device_put(params, step.params_shardings)
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise DataError(f"the params of {model.card.id} do not fit the memory of a device: {_HELP}") from None
    return Forward(functools.partial(step, placed), per_device_batch * step.batch_sharding.mesh.shape[DATA])


def choose_placement(
    model: Encoder, precision: Precision, output: str, per_device_batch: int, placement: str
) -> str:
    """Placement of params; "auto" is "replicated" if that fits the device, else "sharded".

    "auto" may compile the program. Raises UsageError for a user's own model with sharded params.
    """
    refuse_own(model, placement)
    if placement != AUTO:
        return placement
    network, mesh = model.network, local_mesh()
    if network is None:
        return REPLICATED
    params = network.abstract_tower("vision", precision)
    beside = cast_bytes(network.abstract_tower("vision", "parity"), params)

    def needed() -> int | None:
        enable_compile_cache()
        step = image_step(model, precision, output, mesh, REPLICATED)
        try:
            with watched(per_device_batch):
                program = step.compiled(params, _pixels(network, per_device_batch * mesh.size))
                return memory_of(program) + beside
        except OutOfMemoryError:
            return None

    return REPLICATED if fits(needed, params) else SHARDED


def _pixels(network: Network, size: int) -> jax.ShapeDtypeStruct:
    side = network.arch.vision.image_size
    return jax.ShapeDtypeStruct((size, side, side, 3), np.uint8)


_HELP = "cut them over several devices (--params sharded), or take fewer bits (--precision fast)"


def image_step(model: Encoder, precision: Precision, output: str, mesh: Mesh, placement: str) -> Step:
    """Uint8 pixels to features, of unit norm if the card's embeddings are."""
    unit = output == "embedding" and embeds_at_unit_norm(model.card)
    mean, std = (tuple(values) for values in (model.card.preprocess.mean, model.card.preprocess.std))
    assert model.network is not None
    return _image_step(model.network, mesh, precision, unit, mean, std, placement)


def memory_of(compiled: jax.stages.Compiled) -> int:
    """Bytes on one device."""
    memory: Any = compiled.memory_analysis()
    sizes = ("argument_size_in_bytes", "output_size_in_bytes", "temp_size_in_bytes")
    return sum(getattr(memory, size) for size in sizes)


class Step:
    """A jitted (params, batch) -> features: each device runs the whole function on its part of the batch.

    A batch is an array [B, ...] or a tree of them, and so are the features.

    With `shard_map` the compiler splits and communicates nothing, but puts cut params together.
    """

    def __init__(
        self,
        function: Callable[[Any, Any], Any],
        mesh: Mesh,
        options: dict[str, str] | None,
        params_shardings: Any,
    ):
        """`params_shardings`: one for all, or a tree like the params."""
        self.params_shardings, self.batch_sharding = params_shardings, batch_sharding(mesh)
        specs = jax.tree.map(lambda sharding: sharding.spec, params_shardings)

        def seeing_whole(params: Any, batch: Any) -> Any:
            return function(seen_whole(params, specs, mesh.size), batch)

        seeing_whole.__name__ = function.__name__  # the program's, in a profile
        run = seeing_whole if isinstance(params_shardings, dict) else function
        split = PartitionSpec(DATA)
        # check_vma lacks rules for some models' primitives; it is not needed, as nothing here is reduced.
        self._run = jax.jit(
            jax.shard_map(run, mesh=mesh, in_specs=(specs, split), out_specs=split, check_vma=False),
            compiler_options=options,
        )

    def __call__(self, params: Any, batch: Any) -> Any:
        return self._run(params, jax.device_put(batch, self.batch_sharding))

    def compiled(self, params: Any, batch: Any) -> jax.stages.Compiled:
        """The program for (abstract) arrays; a call does not compile it again."""
        whole = not isinstance(self.params_shardings, dict)
        tree = jax.tree.map(lambda _: self.params_shardings, params) if whole else self.params_shardings
        return self._run.lower(
            jax.tree.map(abstract_on, params, tree), abstract_on(batch, self.batch_sharding)
        ).compile()


def tower_sharding(network: Network, mesh: Mesh, placement: str) -> Any:
    """The sharding of the image tower's params: a tree like theirs if they are cut, else one for all."""
    if placement != SHARDED:
        return replicated(mesh)
    return params_sharding({"vision": network.abstract_params()["vision"]}, mesh, FSDP)


# Cached: the next data set of the same model does not compile again.
@functools.lru_cache(maxsize=16)
def _image_step(
    network: Network,
    mesh: Mesh,
    precision: Precision,
    unit: bool,
    mean: tuple,
    std: tuple,
    placement: str = REPLICATED,
) -> Step:
    where = _where(mesh, precision)

    def embed_image(params: Any, pixels: jax.Array) -> jax.Array:
        compiled[ProgramKey(network.arch.name, "image", pixels.shape[1], len(pixels), precision)] += 1
        images = normalize(pixels, mean, std)
        features = network.encode_image(params, images, precision=precision, **where)
        return unit_norm(features) if unit else features

    placed = tower_sharding(network, mesh, placement)
    return Step(embed_image, mesh, network.compiler_options("vision", precision), placed)


@functools.lru_cache(maxsize=16)
def text_step(network: Network, mesh: Mesh, precision: Precision) -> Step:
    """Token ids [B, L] to unit-norm features, params whole on each device."""

    where = _where(mesh, precision)

    def embed_text(params: Any, ids: jax.Array) -> jax.Array:
        compiled[ProgramKey(network.arch.name, "text", ids.shape[1], len(ids), precision)] += 1
        return unit_norm(network.encode_text(params, ids, precision=precision, **where))

    return Step(embed_text, mesh, network.compiler_options("text", precision), replicated(mesh))


def _where(mesh: Mesh, precision: Precision) -> dict[str, Any]:
    """What a program states of its devices."""
    return {"platform": stated_platform(platform_of(mesh), precision), "chip": chip_of(mesh)}


def text_encoder(model: Encoder, precision: str = "parity") -> Callable[[np.ndarray], np.ndarray]:
    """The text tower on this process's devices: int32 [B, L] -> float32 [B, E] of unit norm.

    Each device takes TEXT_BATCH texts at a time: one compilation per L, and bits independent of the number of
    devices.
    """
    enable_compile_cache()
    mesh, network = local_mesh(), model.network
    assert network is not None
    known = known_precision(precision)
    step = text_step(network, mesh, known)
    params = jax.device_put(network.in_precision({"text": model.params["text"]}, known), replicated(mesh))
    size = TEXT_BATCH * mesh.size

    return lambda ids: in_steps(step, params, token_ids(ids, network.arch), size)


def in_steps(step: Step, params: Any, inputs: Any, size: int) -> Any:
    """`step` on arrays [N, ...] of any N, `size` rows at a time, padded with zeros: NumPy arrays [N, ...]."""
    count = len(jax.tree.leaves(inputs)[0])
    whole = max(1, -(-count // size)) * size

    def run(start: int) -> Any:
        return step(params, jax.tree.map(lambda x: x[start : start + size], padded))

    padded = jax.tree.map(lambda x: np.pad(x, [(0, whole - count)] + [(0, 0)] * (x.ndim - 1)), inputs)
    parts = [run(start) for start in range(0, whole, size)]
    return jax.tree.map(lambda *of: np.concatenate([np.asarray(part) for part in of])[:count], *parts)
