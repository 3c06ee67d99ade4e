"""What is read of compiled programs: operations as XLA counts them and as often as they run, collectives."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from clipjax.estimates.flops import product_flops
from clipjax.estimates.hlo import CompiledProgram


def compiled(function: Any, *shapes: tuple[int, ...]) -> jax.stages.Compiled:
    return jax.jit(function).lower(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)).compile()


def read(function: Any, *shapes: tuple[int, ...]) -> CompiledProgram:
    return CompiledProgram(compiled(function, *shapes).as_text() or "")


@pytest.mark.parametrize(
    ("x", "kernel", "settings"),
    [
        ((2, 8, 9, 4), (3, 3, 4, 6), {"padding": "SAME"}),
        ((2, 8, 9, 4), (3, 2, 4, 6), {"padding": "VALID", "window_strides": (2, 3)}),
        ((2, 8, 9, 4), (3, 3, 1, 8), {"padding": ((2, 0), (1, 5)), "feature_group_count": 4}),
        ((1, 8, 9, 4), (3, 3, 4, 6), {"padding": "SAME", "rhs_dilation": (2, 1)}),
        # What a TPU makes of a batch of matrix products: 8 of 4 x 4 by 4 x 6.
        (
            (4, 8, 1, 4),
            (8, 1, 4, 6),
            {"padding": ((0, 0), (0, 0)), "window_strides": (7, 1), "lhs_dilation": (8, 1)},
        ),
    ],
)
def test_operations_of_a_convolution_are_those_that_xla_counts(
    x: tuple[int, ...], kernel: tuple[int, ...], settings: dict[str, Any]
) -> None:
    def convolve(x: Any, kernel: Any) -> Any:
        options = {"window_strides": (1, 1), "dimension_numbers": ("NHWC", "HWIO", "NHWC")} | settings
        return jax.lax.conv_general_dilated(x, kernel, **options)

    program = compiled(convolve, x, kernel)
    cost: Any = program.cost_analysis()
    read = CompiledProgram(program.as_text() or "")
    assert [each.opcode for each in read.products] == ["convolution"]
    assert read.flops == cost["flops"] > 0


def test_operations_of_products_and_loops() -> None:
    """XLA counts the body of a loop once."""
    batch, size = 3, 20
    product = 2 * batch * size**3
    assert read(lambda x, y: x @ y, (batch, size, size), (batch, size, size)).flops == product

    def repeated(x: Any) -> Any:
        return jax.lax.scan(
            lambda x, _: (jax.lax.scan(lambda x, _: (x @ x, None), x, None, 5)[0], None), x, None, 7
        )[0]

    shape = (batch, size, size)
    found = read(repeated, shape)
    assert found.flops == 7 * 5 * product
    assert found.flops == product_flops(jax.make_jaxpr(repeated)(jnp.ones(shape)).jaxpr)
    assert len(found.products) == 1
    cost: Any = compiled(repeated, shape).cost_analysis()
    assert cost["flops"] < 2 * product

    def as_long_as_needed(x: Any) -> Any:
        return jax.lax.while_loop(lambda x: x[0, 0, 0] > 0, lambda x: x @ x, x)

    with pytest.raises(ValueError, match="loop of unknown length"):
        _ = read(as_long_as_needed, shape).flops


def test_of_branches_the_costliest_counts() -> None:
    def either(x: Any) -> Any:
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x)

    assert read(either, (6, 6)).flops == 2 * 2 * 6**3


# A loop as the TPU compiler writes it: no trip count, a bound in the condition, layouts with brackets.
LOOP = """
%fused (param: bf16[4,2]) -> bf16[4,2] {
  %param = bf16[4,2]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %eye = bf16[2,2]{1,0:T(4,128)(2,1)} constant({...})
  ROOT %product = bf16[4,2]{1,0:T(8,128)(2,1)} convolution(%param, %eye), dim_labels=bf_io->bf, metadata={}
}

%body (before: (s32[], bf16[4,2], /*index=2*/pred[])) -> (s32[], bf16[4,2], /*index=2*/pred[]) {
  %before = (s32[]{:T(128)}, bf16[4,2]{1,0:T(8,128)}, /*index=2*/pred[]) parameter(0)
  %x = bf16[4,2]{1,0:T(8,128)} get-tuple-element(%before), index=1
  %start = (bf16[4,2]{1,0:T(8,128)}, bf16[8,2]{1,0:T(8,128)}) all-gather-start(%x), channel_id=1
  %done = bf16[8,2]{1,0:T(8,128)} all-gather-done(%start)
  %next = bf16[4,2]{1,0:T(8,128)} fusion(%x), kind=kOutput, calls=%fused
  ROOT %after = (s32[]{:T(128)}, bf16[4,2]{1,0:T(8,128)}, /*index=2*/pred[]) tuple(%before, %next)
}

%condition (state: (s32[], bf16[4,2], /*index=2*/pred[])) -> pred[] {
  %end = s32[]{:T(128)} constant(12), metadata={}
  %state = (s32[]{:T(128)}, bf16[4,2]{1,0:T(8,128)}, /*index=2*/pred[]) parameter(0)
  %count = s32[]{:T(128)} get-tuple-element(%state), index=0
  ROOT %less = pred[]{:T(512)} compare(%count, %end), direction=LT, metadata={}
}

ENTRY %main (arg: (s32[], bf16[4,2], /*index=2*/pred[])) -> bf16[4,2] {
  %arg = (s32[]{:T(128)}, bf16[4,2]{1,0:T(8,128)}, /*index=2*/pred[]) parameter(0)
  %while = (s32[]{:T(128)}, bf16[4,2], /*index=2*/pred[]) while(%arg), condition=%condition, body=%body
  ROOT %out = bf16[4,2]{1,0:T(8,128)} get-tuple-element(%while), index=1
}
"""


def test_a_program_for_a_tpu() -> None:
    program = CompiledProgram(LOOP)
    assert program.flops == 12 * 2 * 4 * 2 * 2
    assert program.collectives == {"all-gather": 1}
    assert len(program.products) == 1
    with pytest.raises(ValueError, match="loop of unknown length"):
        _ = CompiledProgram(LOOP.replace("direction=LT", "direction=NE")).flops
    with pytest.raises(ValueError, match="no entry computation"):
        CompiledProgram("module @jit_f {}")
