"""CLIP's image tower by JAX libraries: for `jax_peers.py`, each in a process of its own.

A tower is a function (params, images [B, S, S, 3]) -> unit features, and its params. Weights come from a
folder: `clipjax.npz` with clipjax's leaves, `hub.npz` with the same under transformers' names.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

EPS = 1e-5
Function = Callable[[Any, jax.Array], jax.Array]
Arrays = dict[str, np.ndarray]


def unit(features: jax.Array) -> jax.Array:
    features = features.astype(jnp.float32)
    return features / jnp.linalg.norm(features, axis=-1, keepdims=True)


def read(folder: Path, name: str) -> Arrays:
    with np.load(folder / name) as file:
        return dict(file)


def nested(leaves: dict[str, Any]) -> Any:
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, last = path.split("/")
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = leaf
    return tree


# ---------------------------------------------------------------------------------------------- towers


def clipjax(arch: str, folder: Path, dtype: Any, tpus: int = 0) -> tuple[Function, Any]:
    """tpus: chips that the batch is split over; 0: the program is for another platform."""
    from clipjax.models.arch import load_arch
    from clipjax.models.network import Network
    from clipjax.models.precision import Precision

    network = Network(load_arch(arch))
    precision: Precision = "parity" if dtype == jnp.float32 else "fast"
    where: Any = {"platform": "tpu", "devices": tpus} if tpus else {}

    def function(params: Any, images: jax.Array) -> jax.Array:
        return unit(network.encode_image(params, images, precision=precision, **where))

    return function, {"vision": nested(read(folder, "clipjax.npz"))}


def plain(arch: str, folder: Path, dtype: Any) -> tuple[Function, Any]:
    """As big_vision writes a ViT: a loop over blocks, einsums over heads, JAX's own attention."""
    params = nested(read(folder, "clipjax.npz"))
    width, layers = params["class_embedding"].shape[0], len(params["blocks"]["ln_1"]["scale"])
    heads = width // 64

    def norm(p: Any, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        mean, variance = wide.mean(-1, keepdims=True), wide.var(-1, keepdims=True)
        return ((wide - mean) * jax.lax.rsqrt(variance + EPS) * p["scale"] + p["bias"]).astype(x.dtype)

    def linear(p: Any, x: jax.Array) -> jax.Array:
        return x @ p["kernel"] + p["bias"]

    def block(p: Any, x: jax.Array) -> jax.Array:
        y = norm(p["ln_1"], x)
        q, k, v = (linear(p["attn"][name], y).reshape(*y.shape[:2], heads, 64) for name in "qkv")
        x = x + linear(p["attn"]["out"], jax.nn.dot_product_attention(q, k, v).reshape(y.shape))
        y = linear(p["mlp"]["c_fc"], norm(p["ln_2"], x))
        return x + linear(p["mlp"]["c_proj"], y * jax.nn.sigmoid(1.702 * y))

    def function(params: Any, images: jax.Array) -> jax.Array:
        p = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)
        kernel = p["patch_embed"]["kernel"]
        x = jax.lax.conv_general_dilated(
            images.astype(dtype),
            kernel,
            kernel.shape[:2],
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        x = x.reshape(len(x), -1, width)
        token = jnp.broadcast_to(p["class_embedding"], (len(x), 1, width))
        x = norm(p["ln_pre"], jnp.concatenate([token, x], axis=1) + p["positional_embedding"])
        for i in range(layers):
            x = block(jax.tree.map(lambda leaf, i=i: leaf[i], p["blocks"]), x)
        return unit(norm(p["ln_post"], x[:, 0]) @ p["proj"])

    return function, params


def jimm(arch: str, folder: Path, dtype: Any) -> tuple[Function, Any]:
    """jax-image-models, whose classes read transformers' files. It runs only below an explicit mesh."""
    import json

    from flax import nnx
    from safetensors.numpy import save_file

    models: Any = importlib.import_module("jimm.models.clip")

    leaves = read(folder, "hub.npz")
    save_file(leaves, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(hub_config(arch, leaves)))
    jax.set_mesh(jax.make_mesh((1,), ("fsdp",), (jax.sharding.AxisType.Explicit,)))
    model = models.CLIPVisionModel.from_pretrained(str(folder), dtype=dtype)
    model.eval()
    graph, state = nnx.split(model)
    return lambda state, images: unit(nnx.merge(graph, state)(images)), state


def transformers(arch: str, folder: Path, dtype: Any) -> tuple[Function, Any]:
    """The Flax CLIP of transformers before version 5."""
    from transformers import CLIPConfig

    models: Any = importlib.import_module("transformers.models.clip.modeling_flax_clip")
    leaves = read(folder, "hub.npz")
    module = models.FlaxCLIPModule(CLIPConfig(**hub_config(arch, leaves)), dtype=dtype)

    def features(module: Any, images: jax.Array) -> jax.Array:
        return module.visual_projection(module.vision_model(pixel_values=images)[1])

    def function(params: Any, images: jax.Array) -> jax.Array:
        return unit(module.apply({"params": params}, images, method=features))

    params = nested(dict(linen_leaf(name, leaf) for name, leaf in leaves.items()))
    return function, {"logit_scale": np.zeros((), np.float32), **params}


TOWERS = {"clipjax": clipjax, "plain": plain, "jimm": jimm, "transformers": transformers}


# ------------------------------------------------------------------------------- transformers' names


def hub_leaves(ours: Arrays) -> Arrays:
    """clipjax's leaves of a CLIP ViT under transformers' names, with its layouts."""
    blocks = {
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "attn/q": "self_attn.q_proj",
        "attn/k": "self_attn.k_proj",
        "attn/v": "self_attn.v_proj",
        "attn/out": "self_attn.out_proj",
        "mlp/c_fc": "mlp.fc1",
        "mlp/c_proj": "mlp.fc2",
    }
    vision, embeddings = "vision_model.", "vision_model.embeddings."
    leaves = {
        f"{embeddings}class_embedding": ours["class_embedding"],
        f"{embeddings}patch_embedding.weight": ours["patch_embed/kernel"].transpose(3, 2, 0, 1),
        f"{embeddings}position_embedding.weight": ours["positional_embedding"],
        "visual_projection.weight": ours["proj"].T,
    }
    for name, theirs in (("ln_pre", "pre_layrnorm"), ("ln_post", "post_layernorm")):
        leaves |= {
            f"{vision}{theirs}.weight": ours[f"{name}/scale"],
            f"{vision}{theirs}.bias": ours[f"{name}/bias"],
        }
    for name, theirs in blocks.items():
        weight = ours[f"blocks/{name}/kernel"].swapaxes(1, 2) if "/" in name else ours[f"blocks/{name}/scale"]
        for i, (w, b) in enumerate(zip(weight, ours[f"blocks/{name}/bias"])):
            layer = f"{vision}encoder.layers.{i}.{theirs}"
            leaves |= {f"{layer}.weight": w, f"{layer}.bias": b}
    return {name: np.ascontiguousarray(leaf) for name, leaf in leaves.items()}


def linen_leaf(name: str, leaf: np.ndarray) -> tuple[str, np.ndarray]:
    """A leaf of transformers' PyTorch model -> its path and layout in the Flax one."""
    path = name.replace(".", "/")
    if "position_embedding" in name:
        return path.replace("weight", "embedding"), leaf
    if leaf.ndim == 4:
        return path.replace("weight", "kernel"), leaf.transpose(2, 3, 1, 0)
    return (
        (path.replace("weight", "kernel"), leaf.T)
        if leaf.ndim == 2
        else (path.replace("weight", "scale"), leaf)
    )


def hub_config(arch: str, leaves: Arrays) -> dict[str, Any]:
    """transformers' configuration of the tower; the text tower is not built."""
    width, _, patch, _ = leaves["vision_model.embeddings.patch_embedding.weight"].shape
    tokens, projection = (
        len(leaves[name])
        for name in ("vision_model.embeddings.position_embedding.weight", "visual_projection.weight")
    )
    vision = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": sum(name.endswith("layer_norm1.bias") for name in leaves),
        "num_attention_heads": width // 64,
        "patch_size": patch,
        "image_size": patch * round((tokens - 1) ** 0.5),
        "hidden_act": "quick_gelu",
        "layer_norm_eps": EPS,
    }
    text = {"hidden_size": projection, "num_attention_heads": 8, "num_hidden_layers": 1}
    return {"vision_config": vision, "text_config": text, "projection_dim": projection}
