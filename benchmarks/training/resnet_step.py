"""The operations of a ResNet-50's training step by class: which costs the time, ours and torch's; float32.

    python benchmarks/training/resnet_step.py                # batch 8; some minutes
    python benchmarks/training/resnet_step.py "1x1 kernel" BatchNorm --rounds 5

Each layer's operation is measured alone, with the layer's own shapes, and counted as often as the net has it.
Both sides run on one core, and processor time is measured: neighbours on a shared machine hardly change it.
The program of a whole step also fuses operations.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks import common

os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # before JAX and torch make their threads

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import torch  # noqa: E402

from clipjax.models.chunks import LARGEST_BYTES  # noqa: E402
from clipjax.models.modules.binding import bind  # noqa: E402
from clipjax.models.modules.convolutions import BatchNorm, conv2d  # noqa: E402
from clipjax.models.training import Mode, Training  # noqa: E402

MODE = Mode(
    training=Training("batch"),
    platform="cpu",
    attention="tokens",
    devices=1,
    chunk_bytes=LARGEST_BYTES,
    float32_products=False,
)
# Kernel, stride, input channels, output channels, input side -> how often a ResNet-50 has such a convolution.
STEM = {(7, 2, 3, 64, 224): 1}
WIDTHS, DEPTHS, SIDES = (64, 128, 256, 512), (3, 4, 6, 3), (56, 28, 14, 7)


def main(
    classes: Annotated[
        list[str] | None, typer.Argument(help="Parts of names in the table; default: all.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Images in a batch.")] = 8,
    rounds: Annotated[int, typer.Option(help="Paired rounds.")] = 3,
    json: common.Json = None,
) -> None:
    """The operations of a ResNet-50's training step: clipjax, torch."""
    torch.set_num_threads(1)
    with common.reported("resnet_step", json) as results:
        for name, operations in by_class(batch).items():
            if classes and not any(part in name for part in classes):
                continue
            results[name] = measured = measure(operations, rounds)
            ours, theirs = measured["clipjax"], measured["torch"]
            seen = f"clipjax {1e3 * ours:6.0f} ms   torch {1e3 * theirs:6.0f} ms   {theirs / ours:.2f}x"
            common.table([(name, seen)])


Sides = dict[str, Callable[[], Any]]  # {"clipjax": call, "torch": call}
Operation = tuple[int, Callable[[], Sides]]  # how often, and how to make the two sides


def by_class(batch: int) -> dict[str, list[Operation]]:
    """The operations of each row of the table."""
    found: dict[str, list[Operation]] = {}
    for shape, count in convolutions().items():
        for part in ("forward", "input", "kernel"):
            if part == "input" and shape in STEM:
                continue  # nobody asks for the gradient of the images
            stride = f" stride {shape[1]}" if shape[1] > 1 else ""
            row = f"{shape[0]}x{shape[0]}{stride} {'forward' if part == 'forward' else f'gradient by {part}'}"
            found.setdefault(row, []).append((count, partial(convolution, batch, shape, part)))
    for (side, channels), count in norms().items():
        for part in ("forward", "gradient"):
            row = f"BatchNorm and ReLU, {part}"
            found.setdefault(row, []).append((count, partial(norm, batch, side, channels, part)))
    return found


def convolutions() -> dict[tuple[int, int, int, int, int], int]:
    shapes, inputs = dict(STEM), 64
    for width, depth, side in zip(WIDTHS, DEPTHS, SIDES, strict=True):
        for block in range(depth):
            stride = 2 if block == 0 and width > WIDTHS[0] else 1
            layers = [(1, 1, inputs, width, side * stride), (3, stride, width, width, side * stride)]
            layers.append((1, 1, width, 4 * width, side))
            if block == 0:
                layers.append((1, stride, inputs, 4 * width, side * stride))
            for layer in layers:
                shapes[layer] = shapes.get(layer, 0) + 1
            inputs = 4 * width
    return shapes


def norms() -> dict[tuple[int, int], int]:
    """Side, channels -> how often: each convolution has one."""
    found: dict[tuple[int, int], int] = {}
    for (_, stride, _, outputs, side), count in convolutions().items():
        found[side // stride, outputs] = found.get((side // stride, outputs), 0) + count
    return found


def measure(operations: list[Operation], rounds: int) -> dict[str, float]:
    """Seconds of processor time of all the operations, the sum of their medians."""
    total = {"clipjax": 0.0, "torch": 0.0}
    for count, make in operations:
        sides = make()
        results = [np.asarray(call()) for call in sides.values()]  # compiled, too
        np.testing.assert_allclose(
            results[0], results[1], rtol=0, atol=1e-3 * float(np.abs(results[1]).max())
        )
        for name, times in paired(sides, rounds).items():
            total[name] += count * common.median(times)
    return total


def paired(sides: Sides, rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, call in sides.items():
            start = time.process_time()
            call()
            times[name].append(time.process_time() - start)
    return times


def convolution(batch: int, shape: tuple[int, int, int, int, int], part: str) -> Sides:
    side, stride, inputs, outputs, size = shape
    small = size // stride
    x, kernel, dy = arrays(
        (batch, size, size, inputs), (side, side, inputs, outputs), (batch, small, small, outputs)
    )
    forward = partial(conv2d, stride=stride, padding="symmetric", mode=MODE)

    def by_input(x: Any, kernel: Any, dy: Any) -> Any:
        return jax.vjp(lambda x: forward(x, kernel), x)[1](dy)[0]

    def by_kernel(x: Any, kernel: Any, dy: Any) -> Any:
        return jax.vjp(lambda kernel: forward(x, kernel), kernel)[1](dy)[0]

    calls = {"forward": lambda x, kernel, _: forward(x, kernel), "input": by_input, "kernel": by_kernel}
    ours = jax.jit(calls[part])
    given = [jnp.asarray(array) for array in (x, kernel, dy)]
    images, weight, gradient = (
        turned(x),
        torch.from_numpy(kernel).permute(3, 2, 0, 1).contiguous(),
        turned(dy),
    )
    pad = (side - 1) // 2

    def theirs() -> Any:
        if part == "forward":
            return back(torch.nn.functional.conv2d(images, weight, stride=stride, padding=pad))
        mask = [part == "input", part == "kernel", False]
        options = ([stride] * 2, [pad] * 2, [1, 1], False, [0, 0], 1, mask)
        dx, dk, _ = torch.ops.aten.convolution_backward(gradient, images, weight, None, *options)
        return back(dx) if part == "input" else dk.permute(2, 3, 1, 0)

    return {"clipjax": lambda: ours(*given).block_until_ready(), "torch": theirs}


def norm(batch: int, side: int, channels: int, part: str) -> Sides:
    x, dy = arrays((batch, side, side, channels), (batch, side, side, channels))

    def forward(x: Any) -> Any:
        return jax.nn.relu(bind(BatchNorm(channels, eps=1e-5), MODE)(x))

    ours: Callable[..., Any] = jax.jit(forward)
    given: list[Any] = [jnp.asarray(x)]
    if part == "gradient":  # of a forward pass that has run, as torch's
        _, pull = jax.vjp(ours, given[0])
        ours, given = jax.jit(lambda pull, dy: pull(dy)[0]), [pull, jnp.asarray(dy)]
    reference, images, gradient = torch.nn.BatchNorm2d(channels), turned(x).requires_grad_(), turned(dy)
    output = torch.relu(reference(images))

    def theirs() -> Any:
        if part == "forward":
            with torch.no_grad():
                return back(torch.relu(reference(images)))
        return back(torch.autograd.grad(output, images, gradient, retain_graph=True)[0])

    return {"clipjax": lambda: ours(*given).block_until_ready(), "torch": theirs}


def arrays(*shapes: tuple[int, ...]) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    return (rng.normal(size=shape).astype(np.float32) for shape in shapes)


def turned(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()


def back(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 2, 3, 1)


if __name__ == "__main__":
    typer.run(main)
