"""What `devices/test_gpu.py` compares: products, narrow towers and a training step, on the default device.

    python tests/_on_device.py FILE      # all of it as arrays in an npz

Images, ids and params are drawn with NumPy: every platform gets the same.
"""

from __future__ import annotations

import functools
import sys
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _drawn import drawn

from clipjax.devices import platforms
from clipjax.devices.platforms import platform_of
from clipjax.devices.sharding import DP, Rules, make_mesh, shard_batch
from clipjax.finetune.training.optimizer import make_optimizer
from clipjax.finetune.training.step import Aux, fetch, init_state, make_step, state_shardings
from clipjax.finetune.training.trees import flatten, split
from clipjax.models.arch import load_arch, narrow_arch
from clipjax.models.cut import FSDP
from clipjax.models.modules import attention
from clipjax.models.network import Network
from clipjax.models.precision import MATMUL
from clipjax.models.training import Training
from clipjax.models.unit_norm import unit_norm

TOWERS = ("ViT-B-32", "EVA02-B-16", "ViT-B-16-SigLIP", "RN50", "convnext_base_w", "roberta-ViT-B-32")
SIZE = 256  # of the product's matrices
Arrays = dict[str, np.ndarray]


def product(precision: str = "highest") -> np.ndarray:
    """The largest error of a float32 product relative to its largest number."""
    a, b = np.random.default_rng(0).normal(size=(2, SIZE, SIZE)).astype(np.float32)
    made = jax.jit(functools.partial(jnp.matmul, precision=precision))(a, b)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    return np.abs(np.asarray(made) - exact).max() / np.abs(exact).max()


def features(name: str, products: str = MATMUL["parity"]) -> Arrays:
    """Of both towers of a narrow model in parity; `products`: the precision of its products."""
    network = Network(narrow_arch(load_arch(name)))
    params = drawn(network.abstract_params())
    size, text = network.arch.vision.image_size, network.arch.text
    assert text is not None
    rng = np.random.default_rng(1)
    images = rng.normal(size=(2, size, size, 3)).astype(np.float32)
    ids = rng.integers(3, text.vocab_size - 1, (2, text.context_length)).astype(np.int32)
    ids[:, -1] = text.vocab_size - 1
    inputs = {"image": (network.encode_image, images), "text": (network.encode_text, ids)}
    made = {}
    with mock.patch.dict(MATMUL, parity=products):
        for tower, (encode, x) in inputs.items():
            run = jax.jit(functools.partial(encode, precision="parity"))
            made[f"{name} {tower}"] = np.asarray(unit_norm(run(params, x)))
    return made


def attention_errors() -> Arrays:
    """The largest errors of attention and its gradients in bfloat16: cuDNN's, and written out.

    Relative to the largest numbers of float32; with 7 tokens, an odd number, and a causal mask.
    """
    of = [jax.random.normal(jax.random.key(seed), (2, 3, 7, 64)) for seed in range(3)]
    forms = {
        "fused": functools.partial(attention.fused, gradients=True),
        "written out": attention.mix,
    }

    def run(attend: Any, visible: Any, dtype: Any) -> list[np.ndarray]:
        def weighted(*of: Any) -> Any:
            made = attend(*of, visible=visible).astype(jnp.float32)
            return (made * of[0]).sum(), made

        def whole(*of: Any) -> Any:
            (_, made), gradients = jax.value_and_grad(weighted, (0, 1, 2), has_aux=True)(*of)
            return made, *gradients

        made = jax.jit(whole)(*(each.astype(dtype) for each in of))
        return [np.asarray(each.astype(jnp.float32)) for each in made]

    errors: Arrays = {}
    for mask, visible in (("whole", None), ("causal", attention.causal(7))):
        with jax.default_matmul_precision("highest"):
            exact = run(attention.mix, visible, jnp.float32)
        for name, attend in forms.items():
            made = run(attend, visible, jnp.bfloat16)
            apart = [np.abs(a - b).max() / np.abs(b).max() for a, b in zip(made, exact, strict=True)]
            errors[f"{mask} {name}"] = np.array(apart)
    return errors


def trained(rules: Rules) -> Arrays:
    """Params after two steps of cross-entropy of a narrow ViT on one device."""
    network, mesh = Network(narrow_arch(load_arch("ViT-B-32"))), make_mesh(jax.devices()[:1])
    vision: Any = network.arch.vision
    rng = np.random.default_rng(2)
    images = rng.normal(size=(4, vision.image_size, vision.image_size, 3)).astype(np.float32)
    batch = {"images": images, "label": np.arange(4, dtype=np.int32)}

    def loss(params: Any, rows: Any, key: jax.Array) -> tuple[jax.Array, Aux]:
        made, _ = network.train_image(
            params, rows["images"], precision="parity", training=Training(), platform=platform_of(mesh)
        )
        return optax.softmax_cross_entropy_with_integer_labels(made, rows["label"]).mean(), Aux({}, {})

    parts = split(
        {"vision": drawn(network.abstract_params()["vision"])}, lambda _: True, update_statistics=False
    )
    tx = make_optimizer(optax.constant_schedule(1e-3), weight_decay=0.1, clip_norm=None)
    shardings = state_shardings(parts, tx, mesh, rules)
    state, step = init_state(parts, tx, shardings, 0), make_step(loss, tx, mesh, shardings)
    for _ in range(2):
        state, _ = step(state, shard_batch(batch, mesh))
    return flatten(fetch(state.params))


def main(out: str) -> None:
    arrays: Any = {f"product {name}": product(name) for name in ("highest", "default")}
    for rules, name in ((DP, "whole"), (FSDP, "cut")):
        arrays |= {f"{name} {path}": leaf for path, leaf in trained(rules).items()}
    for name in TOWERS:
        arrays |= features(name)
    arrays["capability"] = np.array(platforms.gpu_capability())
    if platforms.gpu_capability() >= attention.LEAST_CAPABILITY:
        x = jnp.zeros((2, 3, 7, 64), jnp.bfloat16)
        arrays["layers take cuDNN's attention"] = np.array(attention.can_fuse(x, x, x, None, gradients=True))
        arrays |= {f"attention {key}": value for key, value in attention_errors().items()}
    arrays |= {f"TF32 {key}": value for key, value in features("ViT-B-32", "default").items()}
    np.savez(out, **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
