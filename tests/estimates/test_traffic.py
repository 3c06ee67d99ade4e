"""The bytes that a program moves are added by hand, and the arrays that it writes are listed."""

from __future__ import annotations

import pytest

from clipjax.estimates.hlo import CompiledProgram
from clipjax.estimates.traffic import arrays, moved_bytes, passes_bytes

HLO = """
%sliced (p: f32[5,4,6], q: s32[]) -> f32[1,4,6] {
  %p = f32[5,4,6]{2,1,0} parameter(0)
  %q = s32[] parameter(1)
  ROOT %one = f32[1,4,6]{2,1,0} dynamic-slice(%p, %q, %q, %q), dynamic_slice_sizes={1,4,6}
}
%doubled (p.1: f32[1,4,6], q.1: f32[4,6]) -> (f32[4,6], bf16[4,6]) {
  %q.1 = f32[4,6]{1,0} parameter(1)
  %p.1 = f32[1,4,6]{2,1,0} parameter(0)
  %flat = f32[4,6]{1,0} bitcast(%p.1)
  %sum = f32[4,6]{1,0} add(%flat, %q.1)
  %half = bf16[4,6]{1,0} convert(%sum)
  ROOT %both = (f32[4,6]{1,0}, bf16[4,6]{1,0}) tuple(%sum, %half)
}
%in_place (p.2: bf16[5,4,6], q.2: bf16[4,6], r.2: s32[]) -> bf16[5,4,6] {
  %p.2 = bf16[5,4,6]{2,1,0} parameter(0)
  %q.2 = bf16[4,6]{1,0} parameter(1)
  %r.2 = s32[] parameter(2)
  %wide = bf16[1,4,6]{2,1,0} bitcast(%q.2)
  ROOT %put = bf16[5,4,6]{2,1,0} dynamic-update-slice(%p.2, %wide, %r.2, %r.2, %r.2)
}
%inner (p.3: bf16[4,6], q.3: f32[5,4,6]) -> bf16[4,6] {
  %p.3 = bf16[4,6]{1,0} parameter(0)
  %q.3 = f32[5,4,6]{2,1,0} parameter(1)
  %last = f32[1,4,6]{2,1,0} slice(%q.3), slice={[4:5], [0:4], [0:6]}
  ROOT %n.3 = bf16[4,6]{1,0} negate(%p.3)
}
%nested (p.4: bf16[4,6], q.4: f32[5,4,6]) -> bf16[4,6] {
  %p.4 = bf16[4,6]{1,0} parameter(0)
  %q.4 = f32[5,4,6]{2,1,0} parameter(1)
  ROOT %of = bf16[4,6]{1,0} fusion(%p.4, %q.4), kind=kLoop, calls=%inner
}
%body (s: (s32[], f32[5,4,6], bf16[5,4,6])) -> (s32[], f32[5,4,6], bf16[5,4,6]) {
  %s = (s32[], f32[5,4,6]{2,1,0}, bf16[5,4,6]{2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %x = f32[5,4,6]{2,1,0} get-tuple-element(%s), index=1
  %kept = bf16[5,4,6]{2,1,0} get-tuple-element(%s), index=2
  %part = f32[1,4,6]{2,1,0} fusion(%x, %i), kind=kLoop, calls=%sliced
  %row = f32[4,6]{1,0} bitcast(%part)
  %pair = (f32[4,6]{1,0}, bf16[4,6]{1,0}) fusion(%part, %row), kind=kLoop, calls=%doubled
  %small = bf16[4,6]{1,0} get-tuple-element(%pair), index=1
  %again = bf16[4,6]{1,0} fusion(%small, %x), kind=kLoop, calls=%nested
  %stored = bf16[5,4,6]{2,1,0} fusion(%kept, %again, %i), kind=kLoop, calls=%in_place
  ROOT %t = (s32[], f32[5,4,6]{2,1,0}, bf16[5,4,6]{2,1,0}) tuple(%i, %x, %stored)
}
%condition (s.1: (s32[], f32[5,4,6], bf16[5,4,6])) -> pred[] {
  %s.1 = (s32[], f32[5,4,6]{2,1,0}, bf16[5,4,6]{2,1,0}) parameter(0)
  ROOT %yes = pred[] constant(true)
}
ENTRY %main (state: (s32[], f32[5,4,6], bf16[5,4,6]), table: f32[100,8], ids: s32[3]) -> f32[3,8] {
  %state = (s32[], f32[5,4,6]{2,1,0}, bf16[5,4,6]{2,1,0}) parameter(0)
  %table = f32[100,8]{1,0} parameter(1)
  %ids = s32[3]{0} parameter(2)
  %loop = (s32[], f32[5,4,6]{2,1,0}, bf16[5,4,6]{2,1,0}) while(%state), condition=%condition, body=%body, N
  %rows = f32[3,8]{1,0} gather(%table, %ids), offset_dims={1}
  %call = (f32[3,8]{1,0}, u8[16]{0}) custom-call(%rows, %rows), custom_call_target="library"
  ROOT %first = f32[3,8]{1,0} get-tuple-element(%call), index=0
}
"""
HLO = HLO.replace("body=%body, N", "body=%body, " + 'backend_config={"known_trip_count":{"n":"5"}}')
CELL, INDEX = 4 * 6, 4  # numbers of a slice; bytes of an index


def test_bytes_of_loops_slices_and_libraries() -> None:
    sliced = 2 * 4 * CELL + INDEX  # one of the five slices is read
    doubled = 2 * 4 * CELL + (4 + 2) * CELL
    nested = 2 * CELL + 4 * CELL + 2 * CELL
    stored = 2 * CELL + INDEX + 2 * CELL  # into its place: what is around it is not read
    rows = 2 * 4 * 3 * 8  # of a hundred three are read
    library = 3 * 4 * 3 * 8 + 16
    assert moved_bytes(CompiledProgram(HLO)) == 5 * (sliced + doubled + nested + stored) + rows + library


EPILOGUE = """
%product (p: bf16[4,8], q: bf16[8,6]) -> bf16[4,6] {
  %p = bf16[4,8]{1,0} parameter(0)
  %q = bf16[8,6]{1,0} parameter(1)
  ROOT %d = bf16[4,6]{1,0} dot(%p, %q), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}
%with_bias (p.1: bf16[4,8], q.1: bf16[8,6], b: bf16[6]) -> bf16[4,6] {
  %p.1 = bf16[4,8]{1,0} parameter(0)
  %q.1 = bf16[8,6]{1,0} parameter(1)
  %b = bf16[6]{0} parameter(2)
  %d.1 = bf16[4,6]{1,0} fusion(%p.1, %q.1), kind=kCustom, calls=%product
  %rows = bf16[4,6]{1,0} broadcast(%b), dimensions={1}
  ROOT %sum = bf16[4,6]{1,0} add(%d.1, %rows)
}
%bias (p.2: bf16[4,6], b.2: bf16[6]) -> bf16[4,6] {
  %p.2 = bf16[4,6]{1,0} parameter(0)
  %b.2 = bf16[6]{0} parameter(1)
  %rows.2 = bf16[4,6]{1,0} broadcast(%b.2), dimensions={1}
  ROOT %sum.2 = bf16[4,6]{1,0} add(%p.2, %rows.2)
}
ENTRY %main (x: bf16[4,8], w: bf16[8,6], v: bf16[6]) -> bf16[4,6] {
  %x = bf16[4,8]{1,0} parameter(0)
  %w = bf16[8,6]{1,0} parameter(1)
  %v = bf16[6]{0} parameter(2)
  LAYER
  %call = (bf16[4,6]{1,0}, s8[9]{0}) custom-call(%y, %v), custom_call_target="__cublas$lt$matmul"
  ROOT %z = bf16[4,6]{1,0} get-tuple-element(%call), index=0
}
"""
FUSED = "%y = bf16[4,6]{1,0} fusion(%x, %w, %v), kind=kCustom, calls=%with_bias"
APART = """%w.1 = bf16[4,6]{1,0} fusion(%x, %w), kind=kCustom, calls=%product
  %y = bf16[4,6]{1,0} fusion(%w.1, %v), kind=kLoop, calls=%bias"""


def test_a_bias_is_a_pass_unless_it_is_in_the_products_kernel() -> None:
    fused, apart = (CompiledProgram(EPILOGUE.replace("LAYER", layer)) for layer in (FUSED, APART))
    bias = 2 * (4 * 6 + 6 + 4 * 6)
    assert (passes_bytes(fused), passes_bytes(apart)) == (0, bias)
    assert moved_bytes(apart) - moved_bytes(fused) == 2 * 2 * 4 * 6


def test_passes_in_a_loop_count_as_often_as_it_runs() -> None:
    program = CompiledProgram(HLO)
    assert passes_bytes(program) == moved_bytes(program) - (3 * 4 * 3 * 8 + 16)  # without the library


def test_a_loop_of_unknown_length_is_refused() -> None:
    with pytest.raises(ValueError, match="loop of unknown length"):
        moved_bytes(CompiledProgram(HLO.replace("known_trip_count", "count")))


def test_arrays_are_results_of_operations_and_fusions_and_not_what_is_inside_them() -> None:
    shapes = [(each.dtype, each.shape) for each in arrays(CompiledProgram(HLO))]
    assert shapes == [
        *[("f32", (3, 8)), ("", ())],  # the library's two results are one tuple
        *[("f32", (1, 4, 6)), ("f32", (4, 6)), ("bf16", (4, 6)), ("bf16", (4, 6)), ("bf16", (5, 4, 6))],
    ]
