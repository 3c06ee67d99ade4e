"""The bytes that a compiled program's operations read from memory and write to it.

Operands and results of operations and fusions count; what is inside a fusion stays on the chip. There are no
caches here: a result that the next operation finds in one counts as written and read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from clipjax.estimates.hlo import PRODUCTS, CompiledProgram, Computation, Instruction, branches, called

# Names for values and for parts of them.
_NAMES = frozenset({"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "partition-id", ""})
_CONTAINERS = frozenset({"while", "call", "conditional"})
# They read as many bytes of their first operand as they return.
_PICKS = frozenset({"dynamic-slice", "slice", "gather"})
_WRITES = "dynamic-update-slice"  # in place


Counts = Callable[[Instruction], bool]


def moved_bytes(program: CompiledProgram, counts: Counts = lambda each: True) -> int:
    """One device's bytes; a loop's body counts as often as it runs, of branches only the costliest.

    Args:
        counts: whether an operation or a fusion counts.

    Raises ValueError for a loop of unknown length.
    """
    return _of(program, program.entry, counts)


def passes_bytes(program: CompiledProgram) -> int:
    """`moved_bytes` of passes: operations that hold no product and call no library."""
    return moved_bytes(program, lambda each: each.opcode != "custom-call" and not _multiplies(program, each))


def _multiplies(program: CompiledProgram, each: Instruction) -> bool:
    """Whether it is a product, or a fusion with one inside."""
    inside = (program.computations[name].instructions.values() for name in called(each))
    return each.opcode in PRODUCTS or any(_multiplies(program, part) for parts in inside for part in parts)


def arrays(program: CompiledProgram) -> Iterator[Instruction]:
    """What writes an array to memory: operations, and the results of fusions; in a loop once."""
    names = [program.entry]
    for name in names:
        for each in program.computations[name].instructions.values():
            if each.opcode in _CONTAINERS:
                names += [inside for inside in (*called(each), *branches(each)) if inside not in names]
            elif each.opcode == "fusion":
                fused = program.computations[called(each)[0]].instructions
                root = fused[program.computations[called(each)[0]].root]
                yield from [fused[part] for part in root.operands] if root.opcode == "tuple" else [each]
            elif each.opcode not in _NAMES:
                yield each


def _of(program: CompiledProgram, name: str, counts: Counts) -> int:
    computation = program.computations[name]
    return sum(_moved(program, computation, each, counts) for each in computation.instructions.values())


def _moved(program: CompiledProgram, computation: Computation, each: Instruction, counts: Counts) -> int:
    if each.opcode in _NAMES or each.opcode.endswith("-done"):
        return 0
    if each.opcode in _CONTAINERS:
        inside = sum(_of(program, name, counts) for name in called(each))
        inside += max((_of(program, name, counts) for name in branches(each)), default=0)
        return inside * program.trips(each) if each.opcode == "while" else inside
    if not counts(each):
        return 0
    if each.opcode == "fusion":
        fused = program.computations[called(each)[0]]
        read = sum(_read(program, fused, name) for name in _parameters(fused).values())
        return read + _written(fused, fused.root)
    if each.opcode in _PICKS:
        return 2 * each.bytes
    if each.opcode == _WRITES:
        return 2 * computation.instructions[each.operands[1]].bytes
    return each.result_bytes + sum(computation.instructions[name].result_bytes for name in each.operands)


def _parameters(computation: Computation) -> dict[int, str]:
    """A fusion's parameters by their index."""
    lines = computation.instructions.items()
    return {int(each.literal): name for name, each in lines if each.opcode == "parameter"}


def _read(program: CompiledProgram, fused: Computation, name: str) -> int:
    """What a fusion reads of one value: all of it, or the slices that are all it needs."""
    users = [(other, each) for other, each in fused.instructions.items() if name in each.operands]
    return min(
        fused.instructions[name].bytes,
        sum(_read_by(program, fused, name, other, each) for other, each in users),
    )


def _read_by(program: CompiledProgram, fused: Computation, name: str, user: str, each: Instruction) -> int:
    first = each.operands[0] == name
    if each.opcode in _PICKS and first:
        return each.bytes
    if each.opcode == _WRITES and first:
        return 0
    if each.opcode == "bitcast":
        return _read(program, fused, user)
    if each.opcode == "fusion":
        inner = program.computations[called(each)[0]]
        parameters = _parameters(inner)
        places = [place for place, operand in enumerate(each.operands) if operand == name]
        return sum(_read(program, inner, parameters[place]) for place in places)
    return fused.instructions[name].bytes


def _written(fused: Computation, name: str) -> int:
    each = fused.instructions[name]
    if each.opcode == "tuple":
        return sum(_written(fused, operand) for operand in each.operands)
    if each.opcode == "bitcast":
        return _written(fused, each.operands[0])
    if each.opcode == _WRITES:
        return fused.instructions[each.operands[1]].bytes
    return each.result_bytes
