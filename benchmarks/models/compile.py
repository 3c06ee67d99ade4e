"""Compile time against depth: blocks are scanned, so 24 layers compile in the time of 2.

    python benchmarks/models/compile.py
    python benchmarks/models/compile.py --arch resnet50     # blocks of the third stage

Trace, lower and compile an image tower with 2, 12 and 24 blocks, from shapes alone (no weights). The depths
take turns; every compilation starts from empty caches.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import typer

from benchmarks import common
from clipjax.models.arch import load_arch
from clipjax.models.network import Network

DEPTHS = (2, 12, 24)


def main(
    arch: Annotated[str, typer.Option(help="A ViT or ResNet of configs/archs.")] = "ViT-L-14",
    rounds: Annotated[int, typer.Option(help="Compilations of each depth.")] = 5,
    json: common.Json = None,
) -> None:
    """Compile time of a scanned tower with 2, 12 and 24 layers."""
    networks = {depth: with_depth(arch, depth) for depth in DEPTHS}
    with common.reported("compile", json) as results:
        compile_once(networks[DEPTHS[0]])  # the first one also starts the compiler
        sides = {
            str(depth): lambda network=network: compile_once(network) for depth, network in networks.items()
        }
        times = common.paired(sides, rounds)
        flat = common.median(times["24"]) / common.median(times["2"])
        results |= {"arch": arch, "seconds": times, "24_layers_over_2": flat}
        rows = [(f"{depth} layers, s", f"{common.median(times[depth]):.2f}") for depth in times]
        common.table([*rows, ("24 layers / 2 layers", f"{flat:.2f}")])


def with_depth(arch: str, depth: int) -> Network:
    record = load_arch(arch)
    layers: Any = record.vision.layers  # type: ignore[reportAttributeAccessIssue]
    layers = depth if isinstance(layers, int) else (*layers[:2], depth, *layers[3:])
    return Network(dataclasses.replace(record, vision=dataclasses.replace(record.vision, layers=layers)))


def compile_once(network: Network) -> Any:
    jax.clear_caches()
    size = network.arch.vision.image_size
    images = jax.ShapeDtypeStruct((8, size, size, 3), jnp.float32)

    def forward(params: Any, images: Any) -> Any:
        return network.encode_image(params, images, precision="parity")

    return jax.jit(forward).lower(network.abstract_params(), images).compile()


if __name__ == "__main__":
    typer.run(main)
