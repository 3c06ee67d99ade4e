"""Towers and training steps compiled for GPUs without a GPU, as `clipjax.estimates.aot` does for TPUs.

XLA's compiler for GPUs takes a description of the card (configs/gpu_targets/) in place of the card. Only its
autotuning needs one. It is off, so tiles and the choice between libraries are XLA's guesses.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import operator
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import jax
from jax.extend.core import Jaxpr
from jax.sharding import Mesh

from clipjax.checkpoints.card import Card
from clipjax.checkpoints.model import Model
from clipjax.devices.jaxprs import subprograms
from clipjax.devices.sharding import abstract_on, batch_sharding, replicated
from clipjax.estimates import aot, aot_language, aot_training
from clipjax.estimates.aot import Executable, TowerRow
from clipjax.estimates.flops import forward_of, product_flops
from clipjax.estimates.gpu_targets import Gpu, answers_of, gpu_mesh, load_gpus, use_gpu_compiler
from clipjax.estimates.hlo import PRODUCTS, CompiledProgram, Instruction
from clipjax.estimates.traffic import arrays, moved_bytes, passes_bytes
from clipjax.finetune.dry_run import abstract_model, abstract_step
from clipjax.guards import known_name
from clipjax.models.language.sharding import decoder_mesh
from clipjax.models.precision import Precision

PARTS = ("vision", "text", *aot_language.PROGRAMS, *aot_training.STEPS)
BATCH = 256  # examples of a tower, rows of a decoder; of a step `aot_training.BATCH`

OPTIONS: dict[str, str | bool] = {"xla_gpu_autotune_level": "0"}
# A guessed tile of Triton's may not fit what is fused with a product, as a transposition of 257 tokens.
# Autotuning would drop the tile.
_UNTILED = "Couldn't find output tile sizes"
WITHOUT_TRITON: dict[str, str | bool] = {"xla_gpu_enable_triton_gemm": False}
# Attention's scores of an example: (arrays, such as heads, queries, keys).
Scores = tuple[int, int, int]

_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_LIBRARY_PRODUCTS = ("__cublas$", "__cudnn$conv")
# A third operand is the bias that cuDNN adds.
_HIGHEST = re.compile(r'operand_precision=\{highest,highest[,}]|"operand_precision":\["HIGHEST","HIGHEST"\]')


@dataclass(frozen=True, kw_only=True)
class GpuExecutable(Executable):
    """`products` and `highest` include those of cuBLAS and cuDNN.

    Attributes:
        moved_bytes: what operations read and write (`clipjax.estimates.traffic`).
        custom_calls: calls of libraries, by name; one inside a loop counts once.
        scores_bytes: of the largest array of attention's scores [batch, heads, queries, keys] in memory; 0:
            none.
        passes_bytes: the part of `moved_bytes` of operations that hold no product and call no library.
    """

    moved_bytes: int
    custom_calls: dict[str, int]
    scores_bytes: int
    passes_bytes: int


@dataclass(frozen=True)
class GpuProgram:
    """A tower, a program of a vision-language model or a step, before it is compiled.

    Attributes:
        facts: the first fields of its row: model, tower and precision.
        lower: (mesh, batch) -> the program for the mesh's GPU.
        traced: its general form, of `examples` examples.
    """

    facts: tuple[str, str, Precision]
    lower: Callable[[Mesh, int], jax.stages.Lowered]
    traced: Jaxpr
    examples: int


def gpu_table(
    ids: Sequence[str],
    gpus: Sequence[str],
    *,
    parts: Sequence[str] = ("vision", "text", *aot_language.PROGRAMS),
    precisions: Sequence[Precision] = get_args(Precision),
    start: int = BATCH,
) -> Iterator[TowerRow]:
    """Compile programs for one GPU each, with JAX switched to the CPU.

    A program takes ten seconds to a minute. One GPU has the whole decoder of a vision-language model.

    Args:
        gpus: names of configs/gpu_targets/.
        parts: of `PARTS`; a step is compiled in "fast" only.
        start: the first batch tried (of a step at most `aot_training.BATCH`); what does not fit is halved.

    Raises:
        UsageError: an unknown model or GPU, or an environment without the compiler.
    """
    known = load_gpus()
    for name in gpus:
        known_name("GPU", name, known)
    wanted = _programs(ids, parts, precisions)
    use_gpu_compiler()
    for program in wanted:
        for gpu in map(known.__getitem__, gpus):
            yield _row(program, gpu, start)


# --- programs ---


def _programs(
    ids: Sequence[str], parts: Sequence[str], precisions: Sequence[Precision]
) -> Iterator[GpuProgram]:
    """Yields programs one by one, because tracing a step takes seconds."""
    towers = [part for part in parts if part in ("vision", "text")]
    found = aot.programs(ids, towers=towers, precisions=precisions)
    answers = aot_language.programs(ids, parts=parts, precisions=precisions)
    steps = [(abstract_model(name), step) for name in ids for step in parts if step in aot_training.STEPS]
    return itertools.chain(
        itertools.starmap(tower_program, found),
        itertools.starmap(answer_program, answers),
        itertools.starmap(step_program, steps),
    )


def tower_program(card: Card, tower: str, precision: Precision) -> GpuProgram:
    plain, forward = (forward_of(card, tower, precision, platform) for platform in (None, "gpu"))

    def lower(mesh: Mesh, batch: int) -> jax.stages.Lowered:
        whole, split = replicated(mesh), batch_sharding(mesh)
        params = jax.tree.map(lambda leaf: abstract_on(leaf, whole), forward.params)
        return jax.jit(forward.function).lower(params, forward.batch(batch, split))

    traced = jax.make_jaxpr(plain.function)(plain.params, plain.batch(1)).jaxpr
    return GpuProgram((card.id, tower, precision), lower, traced, 1)


def answer_program(card: Card, name: str, precision: Precision) -> GpuProgram:
    """One of `aot_language.PROGRAMS`."""
    plain, program = (
        aot_language.program_of(card, name, precision, platform, 1) for platform in (None, "gpu")
    )

    def lower(mesh: Mesh, batch: int) -> jax.stages.Lowered:
        return program.lower(decoder_mesh(1, list(mesh.devices.flat)), batch)

    arguments = plain.arguments(decoder_mesh(1, jax.devices()[:1]), 1)
    return GpuProgram((card.id, name, precision), lower, jax.make_jaxpr(plain.function)(*arguments).jaxpr, 1)


def step_program(model: Model, step: str) -> GpuProgram:
    def lower(mesh: Mesh, batch: int) -> jax.stages.Lowered:
        jitted, arguments = abstract_step(aot_training.setup_of(model, step, mesh, batch))
        return jitted.lower(*arguments)

    traced = aot_training.traced_step(model, step)
    return GpuProgram((model.card.id, step, "fast"), lower, traced, aot_training.BATCH)


def score_shapes(program: GpuProgram) -> set[Scores]:
    """Those of each softmax over arrays [batch, heads, queries, keys], without single queries."""
    return {
        (math.prod(shape[:-2]) // program.examples, shape[-2], shape[-1])
        for shape in _exponentials(program.traced)
        if len(shape) >= 4 and shape[-2] > 1
    }


def _exponentials(program: Jaxpr) -> Iterator[tuple[int, ...]]:
    for equation in program.eqns:
        results: list[Any] = [each.aval for each in equation.outvars if equation.primitive.name == "exp"]
        yield from (each.shape for each in results)
        for inner in subprograms(equation.params):
            yield from _exponentials(inner)


# --- compiling ---


def compile_for(
    gpu: Gpu, lower: Callable[[Mesh, int], jax.stages.Lowered], batch: int, shapes: Collection[Scores]
) -> GpuExecutable | None:
    """The program of a batch; None if the card's memory is too small.

    Args:
        lower: (mesh, batch) -> the program, lowered for the mesh's GPU.
        shapes: of attention's scores.

    Raises JaxRuntimeError if it does not compile.
    """
    with answers_of(gpu):
        lowered = lower(gpu_mesh(gpu), batch)

    def read(compiled: jax.stages.Compiled, seconds: float) -> GpuExecutable:
        return read_executable(compiled, batch, seconds, shapes)

    try:
        return aot.fitting(lowered, gpu.memory_bytes, read, OPTIONS)
    except jax.errors.JaxRuntimeError as error:
        if _UNTILED not in str(error):
            raise
    return aot.fitting(lowered, gpu.memory_bytes, read, OPTIONS | WITHOUT_TRITON)


def _row(program: GpuProgram, gpu: Gpu, start: int) -> TowerRow:
    gflops = product_flops(program.traced) / program.examples / 1e9
    first = min(start, aot_training.BATCH) if program.facts[1] in aot_training.STEPS else start
    row = TowerRow(*program.facts, gpu.name, gflops, None, start=first)
    shapes = score_shapes(program)
    try:
        found = aot.largest(lambda batch: compile_for(gpu, program.lower, batch, shapes), first)
    except jax.errors.JaxRuntimeError as error:
        return dataclasses.replace(row, problem=str(error).splitlines()[0])
    problem = None if found else f"not one example fits {gpu.memory_bytes / 2**30:.0f} GiB"
    return dataclasses.replace(row, executable=found, problem=problem)


# --- reading ---


def read_executable(
    compiled: jax.stages.Compiled, batch: int, seconds: float, shapes: Collection[Scores]
) -> GpuExecutable:
    """The facts of a compiled program; `shapes` as in `compile_for`."""
    program = CompiledProgram(compiled.as_text() or "")
    products = [each for each in program.instructions() if _is_product(each)]
    scores = [each.bytes for each in arrays(program) if _are_scores(each.shape, batch, shapes)]
    targets = (_TARGET.search(each.attributes) for each in program.instructions())
    facts = vars(aot.read_executable(compiled, program, batch, seconds)) | {
        "products": len(products),
        "highest": sum(_HIGHEST.search(each.attributes) is not None for each in products),
        "moved_bytes": moved_bytes(program),
        "custom_calls": dict(Counter(target[1] for target in targets if target)),
        "scores_bytes": max(scores, default=0),
        "passes_bytes": passes_bytes(program),
    }
    return GpuExecutable(**facts)


def _are_scores(shape: tuple[int, ...], batch: int, shapes: Collection[Scores]) -> bool:
    """Whether an array ends in the batch's scores, transposed or not; (batch, heads) may be one axis.

    With 256 images, 16 heads and 64 tokens a feature map [256, 64, 64, 64] is not counted. With 8 heads and
    77 tokens a mask [256, 1, 77, 77] is not counted.
    """
    arrays_of = set(itertools.accumulate(shape[-3::-1], operator.mul))
    return any(
        batch * count in arrays_of and shape[-2:] in ((queries, keys), (keys, queries))
        for count, queries, keys in shapes
    )


def _is_product(each: Instruction) -> bool:
    target = _TARGET.search(each.attributes)
    return each.opcode in PRODUCTS or (target is not None and target[1].startswith(_LIBRARY_PRODUCTS))
