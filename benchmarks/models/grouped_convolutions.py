"""The 3x3 grouped convolution of each stage of a RegNetY and a ResNeXt: ours, XLA's own, torch's; float32.

    python benchmarks/models/grouped_convolutions.py

On a CPU a grouped convolution is several dense ones (`clipjax.models.modules.convolutions`). The results are
compared first.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import typer

from benchmarks import common
from clipjax.models.modules.binding import inference_mode
from clipjax.models.modules.convolutions import conv2d

# Side of the map, channels, channels of a group, of the blocks with stride 1.
STAGES = {
    "regnety_016": [(56, 48, 24), (28, 120, 24), (14, 336, 24), (7, 888, 24)],
    "resnext50_32x4d": [(56, 128, 4), (28, 256, 8), (14, 512, 16), (7, 1024, 32)],
}


def main(
    batch: Annotated[int, typer.Option(help="Images in a batch.")] = 8,
    rounds: Annotated[int, typer.Option(help="Paired rounds.")] = 9,
    json: common.Json = None,
) -> None:
    """Grouped convolutions stage by stage: clipjax, XLA's own, torch."""
    cores = common.use_all_cores()
    with common.reported("grouped_convolutions", json) as results:
        for name, stages in STAGES.items():
            print(f"\n{name}, batch {batch}, {cores} cores, float32")
            for stage, (side, channels, width) in enumerate(stages, 1):
                times = measure(batch, side, channels, width, rounds)
                results[f"{name} stage {stage}"] = times
                seen = "   ".join(f"{who} {1e3 * common.median(times[who]):.1f} ms" for who in times)
                common.table([(f"stage {stage}: {side}x{side}x{channels}, {channels // width} groups", seen)])


def measure(batch: int, side: int, channels: int, width: int, rounds: int) -> dict[str, list[float]]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, side, side, channels)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, width, channels)).astype(np.float32)
    theirs = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()
    weight = torch.from_numpy(kernel).permute(3, 2, 0, 1).contiguous()

    def ours(platform: str) -> Any:
        mode = inference_mode(platform)
        compiled = jax.jit(partial(conv2d, stride=1, padding="symmetric", mode=mode))
        inputs = jnp.asarray(x), jnp.asarray(kernel)
        return lambda: np.asarray(compiled(*inputs))

    @torch.no_grad()
    def in_torch() -> np.ndarray:
        groups = channels // width
        return torch.nn.functional.conv2d(theirs, weight, padding=1, groups=groups).numpy()

    # The form for a TPU is XLA's own.
    sides = {"clipjax": ours("cpu"), "XLA": ours("tpu"), "torch": in_torch}
    wanted = in_torch().transpose(0, 2, 3, 1)
    for name in ("clipjax", "XLA"):
        np.testing.assert_allclose(sides[name](), wanted, atol=1e-3, err_msg=name)
    return common.paired(sides, rounds)


if __name__ == "__main__":
    typer.run(main)
