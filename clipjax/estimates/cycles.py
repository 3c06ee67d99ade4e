"""A program's time, by the TPU compiler's own estimate in its optimised HLO.

The compiler writes `estimated_cycles` beside most operations. They are its model of the chip, not a
measurement: they serve to compare two forms of one computation and to find what costs.
"""

from __future__ import annotations

import functools
import operator
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from clipjax.estimates.hlo import CompiledProgram, Instruction, branches, called

COSTLIEST = 5

# Names for values, and containers whose contents are walked.
_FREE = frozenset({"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "partition-id", ""})
# Copies between memories that run while other operations do: the end holds the array.
_BESIDE = frozenset({"copy-done", "slice-done"})
_STARTS = frozenset({"copy-start", "slice-start"})
# Each reads and writes its result's bytes and does nothing else.
_MOVES = frozenset({"copy", "reshape"})
# Writes its second operand into its first, in place: the compiler adds a copy where that is still needed.
_WRITES = "dynamic-update-slice"
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
# Joins pieces that already lie one after the other; names memory without writing to it.
_NO_WORK = frozenset({"ConcatBitcast", "AllocateBuffer"})


@dataclass(frozen=True)
class CycleEstimate:
    """One chip's program. Loops count as often as they run; of branches only the costliest counts.

    Attributes:
        cycles: the sum of the compiler's estimates.
        moved_bytes: read and written by copies without cycles; they cost the memory's time.
        beside_bytes: read by copies that run beside other operations, at no cost but the memory's time.
        unknown: runs of each operation without an estimate, in every branch. Their cost is not known.
        costliest: the largest sums of cycles, by the operation's name in JAX.
    """

    cycles: int
    moved_bytes: int
    beside_bytes: int
    unknown: dict[str, int] = field(default_factory=dict)
    costliest: dict[str, int] = field(default_factory=dict)

    def seconds(self, clock: float, bandwidth: float) -> float:
        """The time at these cycles and bytes per second, without operations of unknown cost."""
        return max(self.cycles / clock + self.moved_bytes / bandwidth, self.beside_bytes / bandwidth)


@dataclass
class _Sums:
    by_name: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    moved: int = 0
    beside: int = 0

    def cycles(self) -> int:
        return self.by_name.total()

    def add(self, other: _Sums, times: int) -> None:
        for mine, theirs in ((self.by_name, other.by_name), (self.unknown, other.unknown)):
            mine.update({name: count * times for name, count in theirs.items()})
        self.moved += other.moved * times
        self.beside += other.beside * times


def estimate(program: CompiledProgram) -> CycleEstimate | None:
    """The compiler's estimates of a whole program; None if it has none, as on other platforms than the TPU.

    Raises ValueError for a loop of unknown length.
    """
    sums = _of(program, program.entry)
    if not sums.cycles():
        return None
    costliest = dict(sums.by_name.most_common(COSTLIEST))
    return CycleEstimate(sums.cycles(), sums.moved, sums.beside, dict(sums.unknown), costliest)


def _of(program: CompiledProgram, computation: str) -> _Sums:
    sums = _Sums()
    for each in program.computations[computation].instructions.values():
        if cycles := _CYCLES.search(each.attributes):
            sums.by_name[_name(each)] += int(cycles[1])
        elif each.opcode in ("while", "call", "conditional"):
            inside = [_of(program, name) for name in called(each)]
            if either := [_of(program, name) for name in branches(each)]:
                inside.append(_costliest(either))
            for part in inside:
                sums.add(part, program.trips(each) if each.opcode == "while" else 1)
        elif each.opcode in _BESIDE:
            sums.beside += each.bytes
        elif each.opcode in _MOVES and each.shape:
            sums.moved += 2 * each.bytes
        elif each.opcode == _WRITES:
            sums.moved += 2 * program.computations[computation].instructions[each.operands[1]].bytes
        elif not _costs_nothing(each):
            sums.unknown[_name(each)] += 1
    return sums


def _costliest(branches: Sequence[_Sums]) -> _Sums:
    """The branch with the most cycles, then bytes. The others' unknown operations stay known as such."""
    most = max(branches, key=lambda branch: (branch.cycles(), branch.moved, branch.beside))
    unknown = functools.reduce(operator.or_, (branch.unknown for branch in branches))
    return replace(most, unknown=unknown)


def _costs_nothing(each: Instruction) -> bool:
    """Scalars are the loop counters, which a core of their own counts."""
    if each.opcode in _FREE or each.opcode in _STARTS:
        return True
    target = _TARGET.search(each.attributes)
    return (target is not None and target[1] in _NO_WORK) or (bool(each.dtype) and not each.shape)


def _name(each: Instruction) -> str:
    """The compiler's kind of operation and the JAX operation it was made from, as "fusion dot_general"."""
    target = _TARGET.search(each.attributes)
    kind = target[1] if target else each.opcode
    source = _OP_NAME.search(each.attributes)  # "jit(step)/while/body/dot_general"
    operation = source[1].split("/")[-1] if source else ""
    return f"{kind} {operation}".strip()
