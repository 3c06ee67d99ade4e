"""EVA's parts against timm's: rotary positions, dense features, sizes, initialisation, bfloat16."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import timm
import torch
from _drawn import numpys_draws
from _long import mostly_long
from flax import nnx
from timm.layers.pos_embed_sincos import RotaryEmbeddingCat, apply_rot_embed_cat

from clipjax.models.arch import Arch, arch_to_dict, load_arch, narrow_arch
from clipjax.models.families.patches import eva
from clipjax.models.modules import attention, layers
from clipjax.models.network import Network
from converters.engine import convert, detect_table, nest
from converters.golden import build_model
from converters.golden.condition import condition
from converters.golden.weights import images
from tests.models._modes import bound

torch.set_num_threads(1)  # on a shared machine more of them wait for each other

EVA02: Any = load_arch("EVA02-B-16").vision
ULPS = 4 * float(np.finfo(np.float32).eps) * 16  # of an angle of up to 16


def rope(side: int) -> RotaryEmbeddingCat:
    return RotaryEmbeddingCat(64, in_pixels=False, feat_shape=[side, side], ref_feat_shape=[16, 16])


@pytest.mark.parametrize("name", ["EVA02-B-16", "EVA02-L-14", "EVA02-L-14-336"])
def test_rotary_tables_are_timms(name: str):
    config: Any = load_arch(name).vision
    side = config.image_size // config.patch_size
    sine, cosine = rope(side).get_embed().numpy().reshape(side**2, 2, 32, 2).transpose(1, 3, 0, 2)[:, 0]
    cos, sin = eva.rotary_tables(config, side, side)
    assert cos.dtype == sin.dtype == np.float32
    assert cos.shape == sin.shape == (side**2 + 1, 32)
    np.testing.assert_allclose(cos[1:], cosine, rtol=0, atol=ULPS)
    np.testing.assert_allclose(sin[1:], sine, rtol=0, atol=ULPS)
    assert (cos[0] == 1).all()
    assert (sin[0] == 0).all()


def test_rows_turn_the_first_half_and_columns_the_second():
    _, sin = eva.rotary_tables(EVA02, 3, 3)
    grid = sin[1:].reshape(3, 3, 2, 16)
    assert (grid[:, 0, 0] == grid[:, 2, 0]).all()
    assert (grid[0, :, 1] == grid[2, :, 1]).all()
    np.testing.assert_allclose(grid[1, 0, 0, 0], np.sin(16 / 3), rtol=1e-6)


def test_rotated_scores_are_timms():
    """The channels of a head are in another order than timm's, so what can be compared is a score."""
    heads, width, side = 3, 192, 4
    config = dataclasses.replace(EVA02, image_size=16 * side, width=width, heads=heads)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, side**2 + 1, width)).astype(np.float32)
    kernels = [0.1 * rng.standard_normal((width, width)).astype(np.float32) for _ in "qk"]
    bias = rng.standard_normal(width).astype(np.float32)
    tables = eva.rotary_tables(config, side, side)

    def ours(kernel: jax.Array) -> jax.Array:
        linear: Any = bound(layers.Linear(width, width, rngs=nnx.Rngs(0)))
        linear.kernel[...], linear.bias[...] = kernel, jnp.asarray(bias)
        halves = attention.split_heads(eva.in_halves(linear, jnp.asarray(x), heads), heads)
        return eva.rotate(halves, *map(jnp.asarray, tables))

    @jax.jit
    def scores(*kernels: jax.Array) -> jax.Array:
        return jnp.einsum("bhmd,bhnd->bhmn", *map(ours, kernels), precision="highest")

    def theirs(kernel: np.ndarray) -> torch.Tensor:
        y = torch.from_numpy(x @ kernel + bias).reshape(2, -1, heads, 64).transpose(1, 2)
        turned = apply_rot_embed_cat(y[:, :, 1:], rope(side).get_embed())
        return torch.cat([y[:, :, :1], turned], dim=2)

    got = scores(*kernels)
    wanted = torch.einsum("bhmd,bhnd->bhmn", *map(theirs, kernels)).numpy()
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-6 * np.abs(wanted).max())


# --------------------------------------------------------------------------------------- dense features


def narrow_pair(name: str) -> tuple[Arch, Any, dict[str, Any]]:
    """Our record, open_clip's conditioned model and the params of its image tower."""
    arch = narrow_arch(load_arch(name))
    theirs = build_model(name, sizes=arch_to_dict(arch))
    condition(theirs, 0)
    source: Any = {key: _Tensor(tensor.numpy()) for key, tensor in theirs.state_dict().items()}
    leaves = convert(source, Network(arch).abstract_params(), detect_table(source))
    return arch, theirs, jax.device_put(nest(leaves)["vision"])


class _Tensor:
    def __init__(self, array: np.ndarray):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype

    def rows(self, start: int, stop: int) -> _Tensor:
        return _Tensor(self.array[start:stop])

    def read(self, out: np.ndarray | None = None) -> np.ndarray:
        return self.array.copy() if out is None else np.copyto(out, self.array) or out


@pytest.mark.parametrize("name", mostly_long(["EVA01-g-14", "EVA02-B-16", "EVA02-E-14"], keep=["EVA02-B-16"]))
def test_dense_features_are_timms_intermediates(name: str):
    arch, theirs, params = narrow_pair(name)
    pixels = images(arch.vision.image_size, 2, 5)
    graphdef = nnx.graphdef(bound(nnx.eval_shape(lambda: eva.Eva(arch.vision, nnx.Rngs(0)))))
    with jax.default_matmul_precision("highest"):
        got = eva.dense(nnx.merge(graphdef, params), jnp.asarray(pixels), [0, 1])
    with torch.no_grad():
        given = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        wanted = theirs.visual.trunk.forward_intermediates(given, indices=[0, 1], intermediates_only=True)
    assert len(got) == len(wanted) == 2
    for ours, reference in zip(got, wanted, strict=True):
        expected = reference.permute(0, 2, 3, 1).numpy()
        assert ours.shape == expected.shape == (2, 3, 3, arch.vision.width)
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


# ------------------------------------------------------------------------------------------- the tower


@pytest.mark.parametrize("name", mostly_long(["EVA01-g-14", "EVA02-B-16", "EVA02-E-14"], keep=["EVA02-E-14"]))
def test_bfloat16_is_near(name: str):
    arch, _, params = narrow_pair(name)
    pixels = jnp.asarray(images(arch.vision.image_size, 2, 5))
    parity, fast = (
        np.asarray(
            jax.jit(partial(Network(arch).encode_image, precision=precision))({"vision": params}, pixels)
        )
        for precision in ("parity", "fast")
    )
    cosine = (parity * fast).sum(-1) / np.linalg.norm(parity, axis=-1) / np.linalg.norm(fast, axis=-1)
    assert fast.dtype == np.float32
    assert 0.998 < cosine.min() < cosine.max() < 1 - 1e-7


def test_initial_params_are_drawn_as_timm_draws_them():
    torch.manual_seed(0)
    half = {"width": 384, "heads": 6, "mlp_width": 1024}
    config = dataclasses.replace(EVA02, image_size=48, layers=3, **half)
    shrunk = {"img_size": 48, "depth": 3, "num_classes": 512, "global_pool": "token"}
    shrunk |= {"embed_dim": 384, "num_heads": 6}
    trunk: Any = timm.create_model("eva02_base_patch16_clip_224", **shrunk)
    with numpys_draws():
        ours: Any = eva.Eva(config, nnx.Rngs(0))

    def sizes(linears: Any) -> list[float]:
        return [float(linear.weight.detach().std()) for linear in linears]

    for kernel, linears in (
        (ours.blocks.attn.q.kernel, [block.attn.q_proj for block in trunk.blocks]),
        (ours.blocks.attn.out.kernel, [block.attn.proj for block in trunk.blocks]),
        (ours.blocks.mlp.gate.kernel, [block.mlp.fc1_g for block in trunk.blocks]),
        (ours.blocks.mlp.c_proj.kernel, [block.mlp.fc2 for block in trunk.blocks]),
        (ours.proj.kernel[None], [trunk.head]),
        (ours.patch_embed.kernel[None], [trunk.patch_embed.proj]),
    ):
        drawn = np.asarray(kernel[...])
        np.testing.assert_allclose(drawn.reshape(len(drawn), -1).std(axis=1), sizes(linears), rtol=0.02)
    assert not np.asarray(ours.blocks.attn.q.bias[...]).any()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"image_size": 225}, "image_size 225 is not a multiple of patch_size 16"),
        ({"heads": 7}, "width 768 is not a multiple of heads 7"),
        ({"width": 84, "heads": 14}, "rotary positions need heads of 4n channels, not 6"),
    ],
)
def test_impossible_sizes_are_refused(change: dict[str, int], problem: str):
    with pytest.raises(ValueError, match=problem):
        dataclasses.replace(EVA02, **change)
