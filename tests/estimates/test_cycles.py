"""The TPU compiler's estimates are added by hand and by `clipjax.estimates.cycles`."""

from __future__ import annotations

import dataclasses
import re

import pytest

from clipjax.estimates.aot import Executable, TowerRow
from clipjax.estimates.aot_tables import estimate_cells, estimate_titles
from clipjax.estimates.cycles import CycleEstimate, estimate
from clipjax.estimates.hlo import CompiledProgram

HLO = """
%cheap (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %n = f32[8]{0} negate(%p), OF(neg), CYCLES(2)
}
%dear (q: f32[8]) -> f32[8] {
  %q = f32[8]{0} parameter(0)
  ROOT %e = f32[8]{0} exponential(%q), OF(exp), CYCLES(70)
}
%body (s: (s32[], bf16[4,6])) -> (s32[], bf16[4,6]) {
  %s = (s32[], bf16[4,6]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  %x = bf16[4,6]{1,0} get-tuple-element(%s), index=1
  %moved = bf16[4,6]{0,1} copy(%x)
  %start = (bf16[4,6]{1,0}, bf16[4,6]{1,0}, u32[]) copy-start(%moved)
  %near = bf16[4,6]{1,0} copy-done(%start)
  %y = bf16[4,6]{1,0} fusion(%near), kind=kLoop, calls=%inner, OF(dot), CYCLES(100)
  %z = bf16[4,6]{1,0} all-reduce(%y), to_apply=%sum, OF(psum)
  %all = bf16[5,4,6]{2,1,0} custom-call(), custom_call_target="AllocateBuffer"
  %slice = bf16[1,4,6]{2,1,0} bitcast(%z)
  %kept = bf16[5,4,6]{2,1,0} dynamic-update-slice(%all, %slice, %i, %i, %i)
  ROOT %t = (s32[], bf16[4,6]{1,0}) tuple(%next, %z)
}
%condition (s: (s32[], bf16[4,6])) -> pred[] {
  %s.1 = (s32[], bf16[4,6]{1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%s.1), index=0
  %end = s32[] constant(5)
  ROOT %less = pred[] compare(%i.1, %end), direction=LT
}
ENTRY %main (a: f32[8], which: pred[], state: (s32[], bf16[4,6])) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %which = pred[] parameter(1)
  %state = (s32[], bf16[4,6]{1,0}) parameter(2)
  %loop = (s32[], bf16[4,6]{1,0}) while(%state), condition=%condition, body=%body
  %joined = f32[8]{0} custom-call(%a), custom_call_target="ConcatBitcast"
  %kernel = f32[8]{0} custom-call(%joined), custom_call_target="tpu_custom_call", OF(flash)
  ROOT %c = f32[8]{0} conditional(%which, %kernel, %kernel), branch_computations={%cheap, %dear}
}
"""
HLO = re.sub(r"CYCLES\((\d+)\)", r'backend_config={"estimated_cycles":"\1"}', HLO)
HLO = re.sub(r"OF\((\w+)\)", r'metadata={op_name="jit(f)/\1"}', HLO)
# Five runs of the loop: 100 cycles, a copy of 4 x 6 bfloat16 there and back, one into a larger array, one
# more beside, and a sum of unknown cost.
KNOWN = CycleEstimate(
    cycles=5 * 100 + 70,
    moved_bytes=5 * (2 + 2) * 48,
    beside_bytes=5 * 48,
    unknown={"all-reduce psum": 5, "tpu_custom_call flash": 1},
    costliest={"fusion dot": 500, "exponential exp": 70},
)


def test_loops_count_as_often_as_they_run_and_what_has_no_estimate_is_named() -> None:
    assert estimate(CompiledProgram(HLO)) == KNOWN
    assert KNOWN.seconds(clock=570, bandwidth=960) == 2.0
    assert KNOWN.seconds(clock=1e9, bandwidth=1) == pytest.approx(960, rel=1e-6)
    assert dataclasses.replace(KNOWN, moved_bytes=0).seconds(clock=1e9, bandwidth=10) == 24


def test_a_program_of_another_platform_has_no_estimate() -> None:
    assert estimate(CompiledProgram(re.sub(r", backend_config=\{[^}]*\}", "", HLO))) is None


def test_estimates_of_zero_are_no_estimate() -> None:
    assert (
        estimate(CompiledProgram(re.sub(r'"estimated_cycles":"\d+"', '"estimated_cycles":"0"', HLO))) is None
    )


def test_an_unknown_operation_of_the_cheaper_branch_is_named() -> None:
    cheap = re.sub(r"(%n = .*), backend_config=\{[^}]*\}", r"\1", HLO)
    assert estimate(CompiledProgram(cheap)) == dataclasses.replace(
        KNOWN, unknown={**KNOWN.unknown, "negate neg": 1}
    )


@pytest.mark.parametrize(
    ("dtype", "size"),
    [("bf16", 30), ("f32", 60), ("f8e4m3fn", 15), ("s4", 8), ("f4e2m1fn", 8), ("pred", 15), ("c64", 120)],
)
def test_bytes_of_a_result(dtype: str, size: int) -> None:
    text = f"ENTRY %main (a: {dtype}[3,5]) -> {dtype}[3,5] {{\n  ROOT %a = {dtype}[3,5] parameter(0)\n}}"
    assert CompiledProgram(text).computations["main"].instructions["a"].bytes == size


def test_a_loop_of_unknown_length_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown length"):
        estimate(CompiledProgram(HLO.replace("direction=LT", "direction=NE")))


def test_a_share_of_peak_needs_every_operation() -> None:
    program = Executable(8, 1, 1, {}, 1, 0, 1.0, KNOWN)
    row = TowerRow("m", "vision", "fast", "v5e", 1000.0, program)
    known = dataclasses.replace(KNOWN, unknown={}, moved_bytes=0, beside_bytes=0, cycles=int(1.5e9))
    cells = {}
    for name, each in (("unknown", KNOWN), ("known", known)):
        shown = estimate_cells(
            dataclasses.replace(row, executable=dataclasses.replace(program, estimate=each))
        )
        assert shown is not None
        cells[name] = dict(zip(estimate_titles(), shown, strict=True))
    assert cells["unknown"]["share of peak"] == "-"
    assert cells["unknown"]["without an estimate"] == "5 all-reduce psum, 1 tpu_custom_call flash"
    # 8 examples of 1e12 operations in one second, on a chip of 197e12.
    assert (cells["known"]["time (ms)"], cells["known"]["examples/s"]) == ("1,000", "8")
    assert cells["known"]["share of peak"] == "4%"
    half = dataclasses.replace(program, estimate=known, argument_bytes=int(819e9 / 2))
    for tower, share in (("prefill", "1%"), ("decode", "50% of bandwidth")):  # of four chips
        shared = estimate_cells(TowerRow("m", tower, "fast", "v5e:2x2", 1000.0, half))
        assert shared is not None
        assert shared[7] == share
    assert estimate_cells(dataclasses.replace(row, executable=None)) is None


def test_an_estimate_may_be_of_a_smaller_batch_than_the_largest() -> None:
    one = Executable(8, 1, 1, {}, 1, 0, 1.0, KNOWN)
    larger = dataclasses.replace(one, batch=64, estimate_batch=8)
    cells = (estimate_cells(TowerRow("m", "vision", "fast", "v5e", 1000.0, each)) for each in (one, larger))
    assert next(cells) == next(cells)
