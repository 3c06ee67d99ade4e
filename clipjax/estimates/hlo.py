"""Facts of a compiled program, from one device's optimised HLO (`jax.stages.Compiled.as_text()`)."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

PRODUCTS = ("dot", "convolution")
_COLLECTIVE = re.compile(
    r"(all-reduce|all-gather|all-to-all|ragged-all-to-all|reduce-scatter|collective-permute"
    r"|collective-broadcast)(?:-start)?"
)
_NAMED = re.compile(r"\s*(?P<root>ROOT )?%(?P<name>\S+) = (?P<rest>.*)")
_OPCODE = re.compile(r"(?P<type>.*?) (?P<opcode>[a-z][\w-]*)\((?P<operands>[^()]*)\)(?P<attributes>.*)")
_HEADER = re.compile(r"(?P<entry>ENTRY )?%(?P<name>\S+) \(.*\{$")
_SHAPE = re.compile(r"\b(?P<dtype>[a-z]\w*)\[(?P<sizes>[\d,]*)\]")
_BITS = re.compile(r"\d+")
_CALLED = re.compile(r"\b(?:calls|to_apply|body)=%([\w.-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}|\b(?:true|false)_computation=(%[\w.-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


@dataclass(frozen=True)
class Instruction:
    """`shape` is () for a tuple and for a scalar; `dtype`, such as "bf16", is "" for a tuple.

    result_bytes: of the result without the padding of tiles, all parts of a tuple together.
    """

    opcode: str
    shape: tuple[int, ...]
    operands: tuple[str, ...]
    attributes: str
    literal: str = ""  # of a constant
    dtype: str = ""
    result_bytes: int = 0

    @property
    def bytes(self) -> int:
        """The size of the result, without the padding of tiles; 0 for a tuple."""
        return self.result_bytes if self.dtype else 0

    @property
    def collective(self) -> str | None:
        """The kind, such as "all-gather"; an asynchronous one counts at its start."""
        match = _COLLECTIVE.fullmatch(self.opcode)
        return match and match[1]


@dataclass
class Computation:
    instructions: dict[str, Instruction] = field(default_factory=dict)
    root: str = ""  # the name of the instruction whose result is the computation's

    def shape(self, name: str) -> tuple[int, ...]:
        return self.instructions[name].shape


class CompiledProgram:
    def __init__(self, text: str) -> None:
        """Raises ValueError for a text without an entry computation."""
        self.computations: dict[str, Computation] = {}
        self.entry = ""
        current = Computation()
        for line in text.splitlines():
            if header := _HEADER.match(line):
                current = self.computations[header["name"]] = Computation()
                self.entry = header["name"] if header["entry"] else self.entry
            elif named := _NAMED.match(line):
                current.instructions[named["name"]] = _instruction(named["rest"])
                current.root = named["name"] if named["root"] else current.root
        if not self.entry:
            raise ValueError("the text of no compiled program: it has no entry computation")

    def instructions(self) -> Iterator[Instruction]:
        for computation in self.computations.values():
            yield from computation.instructions.values()

    @property
    def collectives(self) -> dict[str, int]:
        """The number of collective operations of each kind; an operation inside a loop counts once."""
        return dict(Counter(each.collective for each in self.instructions() if each.collective))

    @property
    def products(self) -> list[Instruction]:
        """Dots and convolutions (on a TPU a dot is one); those inside a loop count once."""
        return [each for each in self.instructions() if each.opcode in PRODUCTS]

    @property
    def flops(self) -> int:
        """One device's dots and convolutions, two per multiply-add.

        A loop's body counts as often as it runs (XLA counts it once); of branches, only the costliest. Zeros
        that pad or dilate a convolution do not count, as in XLA.

        Raises ValueError for a product inside a loop of unknown length.
        """
        return self._flops(self.entry)

    def _flops(self, name: str) -> int:
        computation = self.computations[name]
        return sum(self._cost(computation, each) for each in computation.instructions.values())

    def _cost(self, computation: Computation, each: Instruction) -> int:
        if each.opcode == "dot":
            return _dot_flops(computation, each)
        if each.opcode == "convolution":
            return _convolution_flops(computation, each)
        inside = sum(map(self._flops, called(each)))
        inside += max(map(self._flops, branches(each)), default=0)
        return inside * self.trips(each) if each.opcode == "while" and inside else inside

    def trips(self, loop: Instruction) -> int:
        """The number of a loop's runs: XLA's, or the one in the condition of a scan, which counts up from 0.

        Raises ValueError without either.
        """
        if known := _TRIPS.search(loop.attributes):
            return int(known[1])
        condition = re.search(r"\bcondition=%([\w.-]+)", loop.attributes)
        lines = self.computations[condition[1]].instructions if condition else {}
        tests = [each for each in lines.values() if each.opcode == "compare"]
        if len(tests) == 1 and "direction=LT" in tests[0].attributes:
            end = lines[tests[0].operands[1]]
            if end.opcode == "constant" and end.literal.isdecimal():
                return int(end.literal)
        raise ValueError("a loop of unknown length: what is inside cannot be counted")


def called(each: Instruction) -> list[str]:
    """The computations that an instruction always runs."""
    return _CALLED.findall(each.attributes)


def branches(each: Instruction) -> list[str]:
    """The computations of which a conditional runs one."""
    found = _BRANCHES.findall(each.attributes)
    return [name.lstrip("%") for several, one in found for name in (several or one).split(", ")]


def _instruction(rest: str) -> Instruction:
    match = _OPCODE.match(rest)
    if match is None:  # e.g. a constant whose value has brackets, or a tuple parameter
        return Instruction("", (), (), rest)
    parts = [(part["dtype"], _sizes(part["sizes"])) for part in _SHAPE.finditer(match["type"])]
    dtype, sizes = parts[0] if parts and not match["type"].startswith("(") else ("", ())
    inside, total = match["operands"], sum(_array_bytes(*part) for part in parts)
    operands = tuple(re.findall(r"%([\w.-]+)", inside))
    return Instruction(match["opcode"], sizes, operands, match["attributes"], inside, dtype, total)


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(map(int, filter(None, text.split(","))))


def _array_bytes(dtype: str, sizes: tuple[int, ...]) -> int:
    bits = _BITS.search(dtype)  # "f8e4m3fn" has 8, and "s4" packs two values into a byte
    width = int(bits[0]) if bits else 8 * (dtype == "pred")
    return math.ceil(math.prod(sizes) * width / 8)


def _dot_flops(computation: Computation, dot: Instruction) -> int:
    match = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", dot.attributes)
    axes = [int(axis) for axis in match[1].split(",") if axis] if match else []
    left = computation.shape(dot.operands[0])
    return 2 * math.prod(dot.shape) * math.prod(left[axis] for axis in axes)


def _convolution_flops(computation: Computation, convolution: Instruction) -> int:
    """2 x outputs x input features x pairs of an output position and a kernel tap that meet a value.

    On a TPU the batch axes of a dot are a dilated kernel of their size: one tap meets a value.
    """
    numbers = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", convolution.attributes)
    assert numbers is not None
    left, kernel, out = (
        dict(zip(labels, shape, strict=True))
        for labels, shape in zip(
            numbers.groups(), (*map(computation.shape, convolution.operands), convolution.shape)
        )
    )
    window = dict(re.findall(r"(\w+)=([\dx_-]+)", _inside(convolution.attributes, "window")))
    pairs = 1
    for axis, label in enumerate(sorted(filter(str.isdecimal, out), key=int)):

        def of(name: str, otherwise: str, axis: int = axis) -> str:
            return window[name].split("x")[axis] if name in window else otherwise

        # `place` is an index in the dilated input: outside it is padding, between its values are holes.
        before, _ = map(int, of("pad", "0_0").split("_"))
        stride, taps, holes = int(of("stride", "1")), int(of("rhs_dilate", "1")), int(of("lhs_dilate", "1"))
        pairs *= sum(
            0 <= position < holes * left[label] and position % holes == 0
            for start in range(out[label])
            for tap in range(kernel[label])
            for position in [start * stride + tap * taps - before]
        )
    return 2 * out["b"] * out["f"] * kernel["i"] * pairs


def _inside(attributes: str, name: str) -> str:
    match = re.search(rf"\b{name}=\{{([^}}]*)\}}", attributes)
    return match[1] if match else ""
