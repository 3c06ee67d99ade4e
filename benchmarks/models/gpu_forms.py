"""clipjax's programs for a GPU with another form of a layer, compiled without one.

    make gpu-aot-env
    .venv-gpu-aot/bin/python benchmarks/models/gpu_forms.py

Compiles towers and training steps in `fast` as they are, and in other forms: attention written out, not
cuDNN's; depthwise convolutions by frequencies; GELU by tanh; all products from cuBLAS. Then lists the shapes,
dtypes and masks that JAX takes for cuDNN's attention.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterator
from typing import Annotated, Any
from unittest import mock

import jax
import jax.numpy as jnp
import typer
from jax import Array
from jax.sharding import Mesh

from benchmarks.gpu_cases import ATTENTION, DEPTHWISE, GELU
from benchmarks.gpu_clipjax import TAKING
from benchmarks.models.aot_table import markdown_table
from clipjax.checkpoints.identity.registry import model_card
from clipjax.devices.sharding import batch_sharding
from clipjax.estimates import aot_gpu
from clipjax.estimates.aot_gpu import GpuExecutable, GpuProgram
from clipjax.estimates.aot_training import STEPS
from clipjax.estimates.gpu_targets import Gpu, load_gpus, use_gpu_compiler
from clipjax.finetune.dry_run import abstract_model

CUBLAS = "products of cuBLAS"
CASES: tuple[tuple[Any, ...], ...] = (
    ("vit_b_32-openai", "vision", 256, ATTENTION),
    ("vit_l_14-openai", "vision", 256, ATTENTION),
    ("vit_l_14-openai", "text", 256, ATTENTION),
    ("vit_b_16-openai", "train:cross_entropy", 64, ATTENTION),
    ("vit_b_16-openai", "train:flyp", 64, ATTENTION),
    ("vit_l_14-openai", "train:cross_entropy", 64, ATTENTION),
    ("convnext_base_w-laion2b_s13b_b82k", "vision", 256, DEPTHWISE),
    ("convnext_large_d-laion2b_s26b_b102k_augreg", "vision", 256, DEPTHWISE),
    ("vit_b_32-openai", "vision", 256, CUBLAS),
    ("vit_l_14-openai", "vision", 256, CUBLAS),
    # OpenAI's models have another activation.
    ("vit_b_32-laion2b_s34b_b79k", "vision", 256, GELU, CUBLAS),
    ("vit_l_14-laion2b_s32b_b82k", "vision", 256, GELU, CUBLAS),
    ("vit_b_16-laion2b_s34b_b88k", "train:cross_entropy", 64, GELU, CUBLAS),
    ("convnext_base_w-laion2b_s13b_b82k", "vision", 256, GELU, CUBLAS),
)
HEAD_SIZES = (32, 64, 72, 80, 90, 104, 128, 256, 264)
MASKS: dict[str, dict[str, Any]] = {
    "no mask": {},
    "causal": {"is_causal": True},
    "lengths": {"lengths": True},
    "lengths and causal": {"lengths": True, "is_causal": True},
    "a mask [rows, 1, queries, keys]": {"mask": "row"},
    "a mask [rows, heads, queries, keys]": {"mask": "head"},
    "a mask [rows, 1, 1, keys]": {"mask": "key"},
}
TITLES = (
    *("model", "tower", "batch", "form", "temporaries (MB)", "moved (GB)", "by passes (GB)", "scores (MB)"),
    "calls of libraries",
)


def main(
    gpu: Annotated[str, typer.Option(help="Of configs/gpu_targets/.")] = "h100",
    only: Annotated[str, typer.Option(help="Only cases with this in their model's name or form.")] = "",
    masks: Annotated[bool, typer.Option(help="List what cuDNN's attention takes.")] = True,
) -> None:
    """Compare programs in two forms of a layer, and list what cuDNN's attention takes."""
    use_gpu_compiler()
    card, rows = load_gpus()[gpu], []
    for name, part, batch, *others in CASES:
        for forms in subsets(others) if only in f"{name} {' '.join(others)}" else ():
            jax.clear_caches()  # JAX keeps what it traced
            with contextlib.ExitStack() as stack:
                for form in forms:
                    stack.enter_context(OTHERS[form]())
                program = program_of(name, part)
                found = aot_gpu.compile_for(card, program.lower, batch, aot_gpu.score_shapes(program))
            rows.append((name, part, str(batch), ", ".join(forms) or "as it is", *cells(found)))
    print(markdown_table(TITLES, rows))
    for case, answer in taken(card) if masks else ():
        print(f"{case}: {answer}")


def subsets(names: list[str]) -> Iterator[tuple[str, ...]]:
    for size in range(len(names) + 1):
        yield from itertools.combinations(names, size)


def without_triton() -> contextlib.AbstractContextManager[Any]:
    """Inside, all products are cuBLAS's."""
    return mock.patch.dict(aot_gpu.OPTIONS, aot_gpu.WITHOUT_TRITON)


OTHERS = TAKING | {CUBLAS: without_triton}


def program_of(name: str, part: str) -> GpuProgram:
    if part in STEPS:
        return aot_gpu.step_program(abstract_model(name), part)
    return aot_gpu.tower_program(model_card(name), part, "fast")


def cells(found: GpuExecutable | None) -> tuple[str, ...]:
    if found is None:
        return ("does not fit", *("-",) * 4)
    return (
        f"{found.temporary_bytes / 1e6:.0f}",
        f"{found.moved_bytes / 1e9:.1f}",
        f"{(found.passes_bytes or 0) / 1e9:.1f}",
        f"{found.scores_bytes / 1e6:.0f}" if found.scores_bytes else "none",
        ", ".join(f"{count} {name}" for name, count in found.custom_calls.items()) or "0",
    )


def taken(gpu: Gpu) -> Iterator[tuple[str, str]]:
    """(a form of attention, "yes" or JAX's reason to refuse it)."""
    for size in HEAD_SIZES:
        yield f"heads of {size} numbers", tried(gpu, size=size)
    for dtype in (jnp.float32, jnp.float16, jnp.bfloat16):
        yield jnp.dtype(dtype).name, tried(gpu, dtype=dtype)
    for name, options in MASKS.items():
        for step, tokens in ((False, 257), (True, 257), (True, 258)):
            case = f"{name}, {tokens} tokens, {'a step' if step else 'a pass'}"
            yield case, tried(gpu, tokens, step=step, **options)


def tried(
    gpu: Gpu,
    tokens: int = 257,
    *,
    size: int = 64,
    dtype: Any = jnp.bfloat16,
    step: bool = False,
    mask: str = "",
    lengths: bool = False,
    is_causal: bool = False,
) -> str:
    """Lower and compile one attention of 2 images and 4 heads.

    Args:
        size: numbers of a head.
        step: with its gradients.
        mask: a mask of booleans for each "row", "head" (and row), or "key" (and row).
        lengths: each row has a number of tokens that count.
    """
    shapes = {"row": (2, 1, tokens, tokens), "head": (2, 4, tokens, tokens), "key": (2, 1, 1, tokens)}

    def attend(x: Array, mask: Array | None, lengths: Array | None) -> Array:
        return jax.nn.dot_product_attention(
            *(x, x, x),
            mask=mask,
            query_seq_lengths=lengths,
            key_value_seq_lengths=lengths,
            is_causal=is_causal,
            implementation="cudnn",
        )

    def gradient(x: Array, *rest: Any) -> Array:
        return jax.grad(lambda x: attend(x, *rest).astype(jnp.float32).sum())(x)

    def lower(mesh: Mesh, batch: int) -> jax.stages.Lowered:
        of = functools.partial(jax.ShapeDtypeStruct, sharding=batch_sharding(mesh))
        masked = of(shapes[mask], jnp.bool_) if mask else None
        counted = of((batch,), jnp.int32) if lengths else None
        return jax.jit(gradient if step else attend).lower(
            of((batch, tokens, 4, size), dtype), masked, counted
        )

    try:
        found = aot_gpu.compile_for(gpu, lower, 2, {(4, tokens, tokens)})
    except (NotImplementedError, ValueError, jax.errors.JaxRuntimeError) as error:
        return str(error).splitlines()[0]
    assert found is not None
    return "yes" if not found.scores_bytes else f"yes, with an array of {found.scores_bytes} bytes"


if __name__ == "__main__":
    typer.run(main)
