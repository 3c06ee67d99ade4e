"""CLIP's image tower by clipjax and by other JAX libraries: the same weights, the same batch.

    python benchmarks/models/jax_peers.py                 # clipjax and a plain ViT as big_vision writes one
    pip install --target peers --no-deps jax-image-models tokamax qwix einshape immutabledict \\
        "typeguard==2.13.3" "transformers<5" "huggingface-hub<1" "tokenizers<0.23"
    python benchmarks/models/jax_peers.py --peers peers   # jimm and transformers' last Flax CLIP, too
    .venv-tpu/bin/python benchmarks/models/jax_peers.py --peers peers --chip v5e

On a CPU float32 and paired rounds, each library in a process of its own. With a chip no time, but the TPU
compiler's estimate of a batch in bfloat16 (docs/hardware/tpu.md says what that is). A library that is not
installed or refuses is left out with a line. transformers 5 has no Flax models, so the folder of peers
shadows it: only their processes see it.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks import common

ARCHS = ("ViT-B-16-quickgelu", "ViT-B-32-quickgelu")
NAMES = ("clipjax", "plain", "jimm", "transformers")
TOLERANCE = 1e-5


def main(
    archs: Annotated[list[str] | None, typer.Argument(help=f"Default: {', '.join(ARCHS)}.")] = None,
    batch: Annotated[int, typer.Option(help="Images in a batch; with a chip 256 a chip.")] = 16,
    rounds: Annotated[int, typer.Option(help="Paired rounds.")] = 5,
    peers: Annotated[Path | None, typer.Option(help="A folder of packages: pip install --target.")] = None,
    chip: Annotated[str, typer.Option(help="Estimate for this chip of configs/chips.toml.")] = "",
    json_file: common.Json = None,
    side: Annotated[str, typer.Option(hidden=True)] = "",
    folder: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """CLIP's image tower by JAX libraries."""
    if side and folder:
        if peers is not None and side in ("jimm", "transformers"):
            sys.path.insert(0, str(peers))
        [arch] = archs or []
        common.serve(answers(side, arch, folder, batch, chip))
        return
    results: dict[str, Any] = {}
    for arch in archs or ARCHS:
        results[arch] = measure(arch, 256 if chip else batch, rounds, peers, chip)
    if json_file is not None:
        json_file.write_text(json.dumps(results, indent=1) + "\n")


def measure(arch: str, batch: int, rounds: int, peers: Path | None, chip: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_weights(arch, folder)
        options = [arch, "--folder", name, "--batch", str(batch), "--chip", chip]
        options += ["--peers", str(peers.resolve())] if peers else []
        servers = {side: common.Server([__file__, *options, "--side", side]) for side in NAMES}
        print(f"\n{arch}, batch {batch}, {chip or 'this CPU'}")
        made = {side: server.ask("make") for side, server in servers.items()}
        for side in [side for side in NAMES if "lacks" in made[side]]:
            print(f"left out: {side}: {made[side]['lacks']}")
            servers.pop(side).close()
        try:
            if not chip:
                return times(servers, folder, rounds, batch)
            show_estimates(made, batch)
            return made
        finally:
            for server in servers.values():
                server.close()


def write_weights(arch: str, folder: Path) -> None:
    """Random ones, seed 0; norms and biases as at a start."""
    from benchmarks.models.jax_peer_towers import hub_leaves
    from clipjax.models.arch import load_arch
    from clipjax.models.network import Network
    from converters.engine import flatten

    rng = np.random.default_rng(0)
    leaves: Any = {}
    for path, leaf in flatten(Network(load_arch(arch)).abstract_params()["vision"]).items():
        constant = {"scale": 1.0, "bias": 0.0}.get(path.rsplit("/", 1)[-1])
        scale = 1 / math.sqrt(math.prod(leaf.shape[-4:-1]) if len(leaf.shape) != 3 else leaf.shape[1])
        drawn = scale * rng.normal(size=leaf.shape) if constant is None else np.full(leaf.shape, constant)
        leaves[path] = drawn.astype(np.float32)
    np.savez(folder / "clipjax.npz", **leaves)
    hub: Any = hub_leaves(leaves)
    np.savez(folder / "hub.npz", **hub)


# ------------------------------------------------------------------------- each in a process of its own


def answers(side: str, arch: str, folder: Path, batch: int, chip: str) -> Callable[[str], Any]:
    """ "make" builds and compiles the tower; "run" runs it."""
    run: list[Callable[[], Any]] = []

    def answer(request: str) -> Any:
        if request == "run":
            run[0]()
            return {}
        try:
            if chip:
                return estimate(side, arch, folder, batch, chip)
            run.append(compiled(side, arch, folder, batch))
        except Exception as error:  # whatever another library raises
            text = str(error).strip().partition("\n")[0]
            return {"lacks": f"{type(error).__name__}: {text}"[:300]}
        return {}

    return answer


def compiled(side: str, arch: str, folder: Path, batch: int) -> Callable[[], Any]:
    import jax
    import jax.numpy as jnp

    from benchmarks.models.jax_peer_towers import TOWERS
    from clipjax.models.arch import load_arch
    from clipjax.models.network import Network

    function, params = TOWERS[side](arch, folder, jnp.float32)
    network = Network(load_arch(arch))
    options = network.compiler_options("vision", "parity") if side == "clipjax" else None
    size = network.arch.vision.image_size
    images = jnp.asarray(np.random.default_rng(1).normal(size=(batch, size, size, 3)), jnp.float32)
    run = jax.jit(function, compiler_options=options)
    params = jax.tree.map(jnp.asarray, params)
    np.save(folder / f"{side}.npy", np.asarray(run(params, images)))
    return lambda: jax.block_until_ready(run(params, images))


def estimate(side: str, arch: str, folder: Path, batch: int, chip: str) -> dict[str, Any]:
    """A chip's batch in bfloat16, from the program that its compiler makes."""
    import jax
    import jax.numpy as jnp

    from benchmarks.models.jax_peer_towers import TOWERS
    from clipjax.estimates.aot import compile_forward, load_chips, slice_mesh, use_tpu_compiler
    from clipjax.estimates.flops import AbstractForward, product_flops
    from clipjax.models.arch import load_arch

    use_tpu_compiler()
    size, known = load_arch(arch).vision.image_size, load_chips()[chip]
    chips = slice_mesh(known, known.topology).size
    where = {"tpus": chips} if side == "clipjax" else {}
    function, params = TOWERS[side](arch, folder, jnp.bfloat16, **where)
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    forward = AbstractForward(function, params, jax.ShapeDtypeStruct((size, size, 3), jnp.float32))
    executable = compile_forward(forward, known, batch)
    if executable is None or executable.estimate is None:
        return {"lacks": f"a batch of {batch} does not fit, or has no estimate"}
    flops = product_flops(jax.make_jaxpr(function)(params, forward.batch(chips)).jaxpr) / chips * batch
    seconds = executable.estimate.seconds(known.clock_ghz * 1e9, known.gbps * 1e9)
    share = flops / seconds / (known.tflops * 1e12)
    return {"seconds": seconds, "share": share, **dataclasses.asdict(executable.estimate)}


# --------------------------------------------------------------------------------------------- results


def times(servers: dict[str, common.Server], folder: Path, rounds: int, batch: int) -> dict[str, Any]:
    ours = np.load(folder / "clipjax.npy")
    for side in servers:
        difference = float(np.abs(np.load(folder / f"{side}.npy") - ours).max())
        if not difference <= TOLERANCE:
            raise SystemExit(f"{side}'s features differ by {difference:.1e}: there is nothing to compare")
    seconds = common.paired(
        {side: functools.partial(server.ask, "run") for side, server in servers.items()}, rounds
    )
    rows = []
    for side, taken in seconds.items():
        speed = common.ratio(taken, seconds["clipjax"])
        span = f"{speed['ratio']:.2f} ({speed['lowest']:.2f}-{speed['highest']:.2f})"
        rows.append((side, f"{batch / common.median(taken):.1f} images/s; clipjax / {side} {span}"))
    common.table(rows)
    return seconds


def show_estimates(made: dict[str, Any], batch: int) -> None:
    if "lacks" in made["clipjax"]:
        raise SystemExit("clipjax has no estimate: there is nothing to compare")
    rows = []
    for side, result in made.items():
        if "lacks" in result:
            continue
        without = ", ".join(f"{count} {name}" for name, count in result["unknown"].items())
        share = f"unknown (no cost of {without})" if without else f"{result['share']:.0%}"
        ratio = f"clipjax / {side} {result['seconds'] / made['clipjax']['seconds']:.2f}"
        rows.append((side, f"{batch / result['seconds']:,.0f} images/s, share of peak {share}; {ratio}"))
    common.table(rows)


if __name__ == "__main__":
    typer.run(main)
