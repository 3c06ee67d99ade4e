"""Forward passes compiled for TPUs without a TPU, and the facts read from the executables.

libtpu (in `pip install "jax[tpu]"`) is the real TPU compiler and runs on any machine. By default a TPU
multiplies even float32 in bfloat16, so the products at HIGHEST are counted.

The partitioner splits the batch, not `shard_map`: a forward that mixes examples would show a collective.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

import jax
from jax.sharding import Mesh

from clipjax.checkpoints.card import Card
from clipjax.checkpoints.identity.registry import model_card
from clipjax.config import config_dir
from clipjax.devices.platforms import chip_of
from clipjax.devices.sharding import batch_sharding, make_mesh, replicated
from clipjax.errors import UsageError
from clipjax.estimates.cycles import CycleEstimate, estimate
from clipjax.estimates.flops import AbstractForward, forward_of, product_flops
from clipjax.estimates.hlo import CompiledProgram
from clipjax.guards import known_name
from clipjax.models.precision import Precision
from clipjax.storage.reading import read_toml
from clipjax.storage.records import read

LARGEST = 4096  # examples per chip; larger batches gain nothing
TIMED = 256  # examples per chip of an estimate: near the memory's limit the compiler computes parts twice

_HIGHEST = "operand_precision={highest,highest}"


@dataclass(frozen=True)
class Chip:
    """A chip of configs/chips.toml."""

    name: str
    topology: str
    memory_gib: int
    tflops: float
    gbps: float
    clock_ghz: float
    slices: tuple[str, ...]
    answers: tuple[str, ...] = ()
    cores: str = "default"


@dataclass(frozen=True)
class Executable:
    """A compiled program. Bytes and batch are per chip; a decoder's batch is that of all chips that share it.

    temporary_bytes: of temporary arrays, and of results that do not reuse an argument's memory.
    estimate: the compiler's estimate for one chip; None if the program has none.
    estimate_batch: the estimate's number of examples, if it differs from `batch`.
    """

    batch: int
    argument_bytes: int
    temporary_bytes: int
    collectives: dict[str, int]
    products: int
    highest: int
    seconds: float
    estimate: CycleEstimate | None = None
    estimate_batch: int | None = None

    @property
    def timed(self) -> int:
        return self.estimate_batch or self.batch


Read = TypeVar("Read", bound=Executable)


@dataclass(frozen=True)
class TowerRow:
    """A tower in one precision on one kind of chip.

    Attributes:
        gflops: of the dots and convolutions, for one example.
        executable: of the largest batch (`start`, or that halved) that fits; None with a `problem`.
        start: the first batch tried. Larger ones may fit.
    """

    model: str
    tower: str
    precision: Precision
    chip: str
    gflops: float
    executable: Executable | None
    problem: str | None = None
    start: int = LARGEST

    @property
    def examples(self) -> int:
        """Examples per chip of the estimate, or of the program if it has no estimate; 0 without a program."""
        return 0 if self.executable is None else self.executable.timed

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def aot_table(
    ids: Sequence[str],
    chips: Sequence[str],
    *,
    towers: Sequence[str] = ("vision", "text"),
    precisions: Sequence[Precision] = get_args(Precision),
    start: int = LARGEST,
) -> Iterator[TowerRow]:
    """Compile towers for kinds of chips, with JAX switched to the CPU.

    A program takes from ten seconds (a ViT, fast) to many minutes (a ResNet, parity).

    Args:
        start: the first batch tried; each that does not fit is halved.

    Raises:
        UsageError: an unknown model or chip, or an environment without the TPU compiler.
    """
    known = load_chips()
    for name in chips:
        known_name("chip", name, known)
    wanted = programs(ids, towers=towers, precisions=precisions)
    use_tpu_compiler()
    for card, tower, precision in wanted:
        for chip in chips:
            yield _row(card, tower, precision, known[chip], start)


def programs(
    ids: Sequence[str],
    *,
    towers: Sequence[str] = ("vision", "text"),
    precisions: Sequence[Precision] = get_args(Precision),
) -> list[tuple[Card, str, Precision]]:
    """The programs that `aot_table` compiles per chip: towers, but not those of vision-language models.

    Raises UsageError for an unknown model.
    """
    cards = [model_card(name) for name in ids]
    return [
        (card, tower, precision)
        for card in cards
        if card.arch.language is None
        for tower in (towers if card.arch.text is not None else {"vision"}.intersection(towers))
        for precision in precisions
    ]


def load_chips() -> dict[str, Chip]:
    path = config_dir() / "chips.toml"
    return {name: read(Chip, {"name": name, **facts}, str(path)) for name, facts in read_toml(path).items()}


def _row(card: Card, tower: str, precision: Precision, chip: Chip, start: int) -> TowerRow:
    mesh = slice_mesh(chip, chip.topology)
    forward = forward_of(card, tower, precision, "tpu", mesh.size, chip_of(mesh))
    plain = forward_of(card, tower, precision)
    flops = product_flops(jax.make_jaxpr(plain.function)(plain.params, plain.batch(1)).jaxpr)
    facts = (card.id, tower, precision, chip.name, flops / 1e9)
    try:
        executable = largest(lambda batch: compile_forward(forward, chip, batch), start)
        if executable is not None and executable.batch > TIMED:
            executable = _timed(executable, compile_forward(forward, chip, TIMED))
    except jax.errors.JaxRuntimeError as error:
        return TowerRow(*facts, None, str(error).splitlines()[0], start)
    problem = None if executable else f"not one example fits {chip.memory_gib} GiB"
    return TowerRow(*facts, executable, problem, start)


def _timed(executable: Executable, smaller: Executable | None) -> Executable:
    assert smaller is not None, "a smaller batch takes less memory"
    return dataclasses.replace(executable, estimate=smaller.estimate, estimate_batch=smaller.batch)


# --- compiling ---


def has_tpu_compiler() -> bool:
    return importlib.util.find_spec("libtpu") is not None


def use_tpu_compiler() -> None:
    """Switches JAX to the CPU. Raises UsageError without the TPU compiler.

    The environment variables keep libtpu from asking a TPU machine's metadata server.
    """
    if not has_tpu_compiler():
        raise UsageError(
            "this environment has no TPU compiler: make one of its own with `python -m venv .venv-tpu` and "
            "`.venv-tpu/bin/pip install 'clipjax[tpu]'` (in a checkout: `make tpu-env`), and run "
            "`.venv-tpu/bin/clipjax models --aot ...`; see docs/hardware/tpu.md"
        )
    jax.config.update("jax_platforms", "cpu")
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # libtpu locks the chips; this machine has none
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")


def slice_mesh(chip: Chip, topology: str, axes: Mapping[str, int] | None = None) -> Mesh:
    """The chips of a slice, such as "v5e:16x16", as a mesh (default: with only the data axis)."""
    from jax.experimental import topologies

    described = topologies.get_topology_desc(topology, platform="tpu", chip_config_name=chip.cores)
    return make_mesh(described.devices, axes)


def compile_forward(forward: AbstractForward, chip: Chip, batch: int) -> Executable | None:
    """Compile `batch` examples per chip for the chip's slice; None if the memory is too small.

    Raises JaxRuntimeError if it does not compile for another reason.
    """
    mesh = slice_mesh(chip, chip.topology)
    whole, split = replicated(mesh), batch_sharding(mesh)
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), forward.params)
    lowered = jax.jit(forward.function, out_shardings=split).lower(
        params, forward.batch(batch * mesh.size, split)
    )
    return compiled_within(chip, lowered, batch)


def compiled_within(chip: Chip, lowered: jax.stages.Lowered, batch: int) -> Executable | None:
    """The program; None if the chip's memory is too small. Raises JaxRuntimeError (`compile_forward`)."""

    def read(compiled: jax.stages.Compiled, seconds: float) -> Executable:
        return read_executable(compiled, CompiledProgram(compiled.as_text() or ""), batch, seconds)

    return fitting(lowered, chip.memory_gib * 2**30, read)


def fitting(
    lowered: jax.stages.Lowered,
    memory_bytes: int,
    read: Callable[[jax.stages.Compiled, float], Read],
    options: dict[str, str | bool] | None = None,
) -> Read | None:
    """Compile, and read the program; None if it does not fit the memory of a device.

    Args:
        read: (compiled, seconds that it took) -> the program's facts.
        options: the compiler's.

    Raises JaxRuntimeError if it does not compile for another reason.
    """
    start = time.perf_counter()
    try:
        compiled = lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            return None
        raise
    executable = read(compiled, time.perf_counter() - start)
    # The compiler refuses temporaries beyond the memory, but does not always count the arguments.
    needed = executable.argument_bytes + executable.temporary_bytes
    return executable if needed <= memory_bytes else None


def read_executable(
    compiled: jax.stages.Compiled, program: CompiledProgram, batch: int, seconds: float
) -> Executable:
    """The facts of a compiled program, whose text `program` has."""
    memory: Any = compiled.memory_analysis()
    return Executable(
        batch=batch,
        argument_bytes=memory.argument_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes,
        collectives=program.collectives,
        products=len(program.products),
        highest=sum(_HIGHEST in product.attributes for product in program.products),
        seconds=round(seconds, 1),
        estimate=estimate(program),
    )


def largest(compile_at: Callable[[int], Read | None], start: int) -> Read | None:
    """Starts from the top: too large a batch is refused in seconds, one that fits compiles for minutes."""
    batch = start
    while (executable := compile_at(batch)) is None and batch > 1:
        batch //= 2
    return executable
