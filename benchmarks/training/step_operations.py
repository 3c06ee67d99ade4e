"""Which operations of a training step cost the time, ours and torch's: both profiled on one core; float32.

    python benchmarks/training/step_operations.py                       # ViT-B-32 CE, batch 16; two minutes
    python benchmarks/training/step_operations.py "RN50 CE" --batch 4
    python benchmarks/training/step_operations.py --all                 # also our costliest single operations

Ours are the operations of the compiled program, timed by JAX's profiler and sorted by what the program's text
says of them. XLA fuses elementwise work: norms, activations and sums are one class, "elementwise".
"""

from __future__ import annotations

import math
import os
import re
import tempfile
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import common

os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # before JAX and torch make their threads
DUMP = tempfile.TemporaryDirectory()  # XLA writes the compiled step there
os.environ["XLA_FLAGS"] = (
    f"--xla_dump_to={DUMP.name} --xla_dump_hlo_module_re=^jit_step$ --xla_dump_hlo_as_text"
)

import jax  # noqa: E402
import open_clip  # noqa: E402
import torch  # noqa: E402
from torch.profiler import profile  # noqa: E402

from benchmarks.training.clipjax_steps import jax_steps  # noqa: E402
from benchmarks.training.torch_steps import torch_steps  # noqa: E402
from benchmarks.training.training_data import data  # noqa: E402
from clipjax.devices.memory import keep_freed  # noqa: E402
from clipjax.models.arch import load_arch  # noqa: E402
from clipjax.models.network import Network  # noqa: E402

WORDS = 9
STEPS = 2  # profiled, after two others

PRODUCTS = tuple(
    f"matrix products, {of}" for of in ("forward", "gradients by inputs", "gradients by kernels")
)
CONVOLUTIONS = ("convolutions, forward", "convolutions, gradients")
ATTENTION = ("attention's products, forward", "attention's products, gradients")
ELEMENTWISE = ("elementwise, forward", "elementwise, gradients")
COPIES, UPDATE = "copies: zeros, slices, transpositions", "update of the params"
CLASSES = (*PRODUCTS, *CONVOLUTIONS, *ATTENTION, *ELEMENTWISE, COPIES, UPDATE)


def main(
    case: Annotated[str, typer.Argument(help="Architecture and method.")] = "ViT-B-32 CE",
    batch: Annotated[int, typer.Option(help="Images in a batch.")] = 16,
    every: Annotated[bool, typer.Option("--all", help="Also our 40 costliest operations.")] = False,
    json: common.Json = None,
) -> None:
    """The operations of a training step by class: clipjax, torch."""
    torch.set_num_threads(1)
    keep_freed()  # as `clipjax finetune` does
    arch, method = case.split()
    network = Network(load_arch(arch))
    vision = network.arch.vision
    arrays = data(vision.embed_dim, batch, WORDS, side=vision.image_size)
    with common.reported("step_operations", json) as results:
        mine, operations = ours(network, method, arrays)
        results["clipjax"], results["torch"] = mine, theirs(arch, method, arrays)
        for name in CLASSES:
            a, b = (results[side].get(name, 0.0) for side in ("clipjax", "torch"))
            if a or b:
                common.table([(f"{name:<42}", f"clipjax {a:7.0f} ms   torch {b:7.0f} ms")])
        totals = (sum(results[side].values()) for side in ("clipjax", "torch"))
        common.table([(f"{'together':<42}", "clipjax {:7.0f} ms   torch {:7.0f} ms".format(*totals))])
    if every:
        common.table([(f"{time:8.1f} ms", operation) for operation, time in operations.most_common(40)])


def ours(network: Network, method: str, arrays: dict[str, Any]) -> tuple[Counter[str], Counter[str]]:
    """Milliseconds of a step by class, and by operation."""
    run = jax_steps(network, network.init_params(jax.random.key(0)), method, arrays)
    for _ in range(2):
        run().block_until_ready()
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            for _ in range(STEPS):
                run().block_until_ready()
        (file,) = Path(folder).rglob("*.xplane.pb")
        times = own_times(jax.profiler.ProfileData.from_file(str(file)))
    (program,) = Path(DUMP.name).glob("*cpu_after_optimizations.txt")
    lines, kernels = described(program.read_text()), kernel_shapes(network)
    classes: Counter[str] = Counter()
    operations: Counter[str] = Counter()
    for name, time in times.items():
        if name in lines:
            classes[class_of(name, lines[name], kernels)] += time
            operations[f"{name}  {lines[name][:250]}"] += time
    return classes, operations


def kernel_shapes(network: Network) -> set[tuple[int, int]]:
    """The matrices that the step's products multiply rows with, and their transposes."""
    found: set[tuple[int, int]] = set()
    for leaf in jax.tree.leaves(network.abstract_params()):
        if leaf.ndim > 1:
            *rest, outputs = leaf.shape
            for inputs in (rest[-1], math.prod(rest)):
                found |= {(inputs, outputs), (outputs, inputs)}
    return found


def described(text: str) -> dict[str, str]:
    """An instruction's name -> its line in the program's text, with the shapes of its operands."""
    lines = dict(re.findall(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*)$", text, flags=re.MULTILINE))
    return {name: re.sub(r"%([\w.\-]+)", lambda of: shaped(of, lines), line) for name, line in lines.items()}


def shaped(name: re.Match[str], lines: dict[str, str]) -> str:
    return lines.get(name[1], "").split("{")[0].split(" ")[0] or name[1]


def own_times(data: Any) -> Counter[str]:
    """Milliseconds a step of each event, without those that run inside it (a loop's operations)."""
    total: Counter[str] = Counter()
    for plane in data.planes:
        for line in plane.lines:
            stack: list[tuple[float, str]] = []
            events = [(e.start_ns, -e.duration_ns, e.name.lstrip("%")) for e in line.events]
            for start, minus, name in sorted(events):
                while stack and stack[-1][0] <= start:
                    stack.pop()
                if stack:
                    total[stack[-1][1]] += minus / 1e6 / STEPS
                total[name] -= minus / 1e6 / STEPS
                stack.append((start - minus, name))
    return total


def class_of(name: str, line: str, kernels: set[tuple[int, int]]) -> str:
    found = re.search(r'op_name="([^"]*)"', line)
    path = found[1] if found else ""
    backward = "transpose(jvp" in path
    last = path.rsplit("/", 1)[-1]
    if last == "conv_general_dilated":
        return CONVOLUTIONS[backward]
    if " dot(" in line or last == "dot_general":  # alone, or fused with something small
        shape = tuple(int(size) for size in line.split("]")[0].split("[")[1].split(","))
        if len(shape) > 2:
            return ATTENTION[backward]
        return PRODUCTS[0 if not backward else 2 if shape in kernels else 1]
    if re.match(MOVES, name):
        return COPIES
    return ELEMENTWISE[backward] if "jvp(" in path else UPDATE


# A fusion is named after what it computes last, and a copy alone is nothing but this.
MOVES = r"(wrapped_)?(broadcast|copy|transpose|bitcast|dynamic|slice|concatenate|pad)[._a-z\-]*"


def theirs(arch: str, method: str, arrays: dict[str, Any]) -> Counter[str]:
    """Milliseconds of a step by class."""
    step = torch_steps(open_clip.create_model(arch), method, arrays)
    for _ in range(2):
        step()
    with profile(record_shapes=True) as profiled:
        for _ in range(STEPS):
            step()
    classes: Counter[str] = Counter()
    rows = max(len(arrays["images"]), len(arrays["tokens"]))
    for event in profiled.key_averages(group_by_input_shape=True):
        classes[torch_class(event.key, event.input_shapes, rows)] += event.self_cpu_time_total / 1e3 / STEPS
    return classes


def torch_class(name: str, shapes: list[list[int]], rows: int) -> str:
    operation = name.removeprefix("aten::")
    if operation in ("mm", "addmm"):
        left = shapes[-2]
        return PRODUCTS[0 if operation == "addmm" else 1 if left[0] % rows == 0 else 2]
    if "scaled_dot_product" in operation or operation in ("bmm", "baddbmm"):
        return ATTENTION["backward" in operation]
    if "convolution" in operation:
        return CONVOLUTIONS["backward" in operation]
    if operation in ("copy_", "fill_", "cat", "zero_", "clone", "contiguous"):
        return COPIES
    if operation in UPDATES or "AdamW" in operation:
        return UPDATE
    return ELEMENTWISE["ackward" in operation or operation in ("sum", "add_")]


UPDATES = ("sqrt", "addcdiv_", "lerp_", "addcmul_", "mul_", "div", "add_")  # of torch's AdamW
