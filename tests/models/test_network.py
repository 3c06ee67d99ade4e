"""Network: pure functions, precision, flat compile, data parallelism, initialisation, bad input."""

from __future__ import annotations

import copy
import dataclasses
import functools
import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import open_clip
import pytest
import torch
from _drawn import initialised
from _long import mostly_long
from _parity import shallow
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from open_clip.model import CLIP

from clipjax.errors import DataError
from clipjax.models.arch import Arch, arch_to_dict, load_arch
from clipjax.models.families.convolutions.mbconv import MBConvConfig, StageConfig
from clipjax.models.families.convolutions.modified_resnet import ModifiedResNetConfig
from clipjax.models.families.patches.vit import ViTConfig
from clipjax.models.families.texts.text import TextConfig
from clipjax.models.network import Network
from clipjax.models.param_tree import abstract_tree, build, draw, rngs_of, split
from converters.golden import build_model

TEXT = TextConfig(16, 300, 64, 2, 2, 256, "gelu", 1e-5, True, "argmax", False, 32)
PLAIN = (False, False, True, "all", True, False)  # crop to patches, bias, class token, positions, norm, scale
VIT = ViTConfig(32, 8, 64, 2, 2, 256, *PLAIN, "gelu", 1e-5, "class", 0, 0, True, 32)
RESNET = ModifiedResNetConfig(64, 16, (3, 1, 2, 1), 8, 1e-5, 32)
MBCONV = MBConvConfig(
    32,
    8,
    64,
    "relu6",
    "tf_same",
    1e-3,
    (StageConfig("separable", 3, 1, 1, 8, 1), StageConfig("inverted", 5, 2, 6, 16, 3)),
)
CLIP_VIT = Arch("vit", VIT, TEXT, None, False)
CLIP_RESNET = Arch("resnet", RESNET, TEXT, None, True)
LITE = Arch("lite", MBCONV, None, 10, False)
ARCHS = [CLIP_VIT, CLIP_RESNET, LITE]
each_arch = pytest.mark.parametrize("arch", ARCHS, ids=lambda arch: arch.name)


def mostly_vit(test: str) -> pytest.MarkDecorator:
    """The others are long: what the test is about is one piece of code for all of them."""
    guard = f"models/test_network.py::{test}"
    return pytest.mark.parametrize("arch", mostly_long(ARCHS, [CLIP_VIT], guard, ids=lambda arch: arch.name))


def random_params(arch: Arch, seed: int = 0) -> Any:
    """Every leaf random, so that nothing is multiplied by zero and no signal dies or explodes."""
    rng = np.random.default_rng(seed)
    centre = {"scale": 1.0, "var": 1.0}

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        name = path[-1].key
        if name in ("kernel", "proj", "text_projection"):
            inputs = leaf.shape[-4:-1] if "conv" in path[-2].key else leaf.shape[-2:-1]
            return (rng.standard_normal(leaf.shape) * np.prod(inputs) ** -0.5).astype(np.float32)
        return np.asarray(centre.get(name, 0.0) + 0.2 * rng.standard_normal(leaf.shape), np.float32)

    # jnp.asarray compiles a program for each shape.
    return jax.device_put(jax.tree.map_with_path(draw, Network(arch).abstract_params()))


def images(arch: Arch, batch: int = 2) -> jax.Array:
    size = arch.vision.image_size
    drawn = np.random.default_rng(1).standard_normal((batch, size, size, 3))
    return jax.device_put(drawn.astype(np.float32))


def ids(batch: int = 2, length: int = 16) -> jax.Array:
    return jax.device_put(np.random.default_rng(2).integers(1, 300, (batch, length), np.int32))


def towers(arch: Arch, batch: int = 2) -> list[tuple[Any, jax.Array]]:
    network = Network(arch)
    pairs: list[tuple[Any, jax.Array]] = [(network.encode_image, images(arch, batch))]
    return pairs if arch.text is None else [*pairs, (network.encode_text, ids(batch))]


@functools.cache
def parity_features(arch: Arch, tower: int) -> jax.Array:
    """Features of `random_params`; compiled once for the tests that compare with them."""
    encode, inputs = towers(arch)[tower]
    return jax.jit(partial(encode, precision="parity"))(random_params(arch), inputs)


def lowered(encode: Any, arch: Arch, inputs: jax.Array, precision: str) -> str:
    params = Network(arch).abstract_params()
    return jax.jit(partial(encode, precision=precision)).lower(params, inputs).as_text()


def test_networks_of_one_arch_are_one_static_argument() -> None:
    traces = []

    @partial(jax.jit, static_argnums=0)
    def encode(network: Network, params: Any, x: jax.Array) -> jax.Array:
        traces.append(network)
        return network.encode_image(params, x, precision="parity")

    again = dataclasses.replace(CLIP_VIT, vision=dataclasses.replace(VIT))
    params = random_params(CLIP_VIT)
    first = encode(Network(CLIP_VIT), params, images(CLIP_VIT))
    np.testing.assert_array_equal(encode(Network(again), params, images(CLIP_VIT)), first)
    assert len(traces) == 1
    assert Network(CLIP_VIT) != Network(CLIP_RESNET)


@each_arch
def test_params_are_drawn_by_the_keys_of_flax(arch: Arch) -> None:
    def plainly(key: jax.Array) -> Any:
        return nnx.to_pure_dict(nnx.state(build(arch, nnx.Rngs(key)), nnx.Param))

    ours, flaxs = (jax.make_jaxpr(function)(jax.random.key(0)) for function in (partial(draw, arch), plainly))
    assert str(ours) == str(flaxs)


@each_arch
def test_shapes_are_those_of_drawn_params(arch: Arch) -> None:
    """They are found without the draws, and the structure without `nnx.vmap`."""
    drawn_graph, made = split(nnx.eval_shape(lambda: build(arch, rngs_of(0))))
    graph, found = abstract_tree(arch)
    assert graph == drawn_graph
    assert jax.tree.structure(found) == jax.tree.structure(made)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(made)):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)


MOVED = {  # where a param that moves nothing is seen as well
    CLIP_RESNET: "models/test_training.py::test_two_steps_as_open_clip",
    LITE: "verification/parity/convolutions/test_parity_mbconv.py::test_every_stage",
}


@pytest.mark.parametrize(
    "arch",
    [
        pytest.param(CLIP_VIT, id="vit"),
        *(pytest.param(arch, marks=pytest.mark.long(guard), id=arch.name) for arch, guard in MOVED.items()),
    ],
)
def test_every_param_of_a_tower_moves_its_features(arch: Arch) -> None:
    for encode, inputs in towers(arch):
        tower = "vision" if inputs.ndim == 4 else "text"
        params = {tower: random_params(arch)[tower]}

        def total(params: Any, encode: Any = encode, inputs: jax.Array = inputs) -> jax.Array:
            return jnp.sum(jnp.sin(3 * encode(params, inputs, precision="parity")))

        gradients = jax.jit(jax.grad(total))(params)
        for path, gradient in jax.tree.leaves_with_path(gradients):
            # A key's bias shifts all scores of a query alike, which softmax does not see.
            if not jax.tree_util.keystr(path).endswith("['k']['bias']"):
                assert np.abs(gradient).max() > 1e-7, jax.tree_util.keystr(path)


PRODUCT = re.compile(r"stablehlo\.(?:dot_general|convolution)\b.*")


@each_arch
def test_parity_asks_for_the_highest_precision_of_every_product(arch: Arch) -> None:
    for encode, inputs in towers(arch):
        products = PRODUCT.findall(lowered(encode, arch, inputs, "parity"))
        assert len(products) >= 3
        # A dot_general prints its precision, a convolution its precision_config: one of each operand.
        assert [p for p in products if p.count("HIGHEST") != 2] == []
        assert [p for p in products if "bf16" in p] == []


@each_arch
def test_fast_multiplies_in_bfloat16(arch: Arch) -> None:
    for encode, inputs in towers(arch):
        products = PRODUCT.findall(lowered(encode, arch, inputs, "fast"))
        assert [p for p in products if "bf16" not in p or "HIGHEST" in p] == []


def test_the_caller_cannot_change_the_precision() -> None:
    with jax.default_matmul_precision("bfloat16"):
        text = lowered(Network(CLIP_VIT).encode_image, CLIP_VIT, images(CLIP_VIT), "parity")
    assert [p for p in PRODUCT.findall(text) if p.count("HIGHEST") != 2] == []


@mostly_vit("test_fast_is_near_parity_and_returns_float32")
def test_fast_is_near_parity_and_returns_float32(arch: Arch) -> None:
    params = random_params(arch)
    for tower, (encode, inputs) in enumerate(towers(arch)):
        exact = np.asarray(parity_features(arch, tower))
        fast = np.asarray(jax.jit(partial(encode, precision="fast"))(params, inputs))
        assert exact.dtype == fast.dtype == np.float32
        cosine = np.sum(exact * fast, -1) / np.linalg.norm(exact, axis=-1) / np.linalg.norm(fast, axis=-1)
        assert cosine.min() > 0.995
        assert np.abs(exact - fast).max() > 0


def test_layer_norm_keeps_its_statistics_in_float32() -> None:
    text = lowered(Network(CLIP_VIT).encode_image, CLIP_VIT, images(CLIP_VIT), "fast")
    for operation in ("rsqrt", "exponential"):
        lines = [line for line in text.splitlines() if f"stablehlo.{operation} " in line]
        assert lines
        assert [line for line in lines if "bf16" in line] == []


@pytest.mark.parametrize(
    "arch",
    mostly_long(
        ARCHS,
        [CLIP_VIT, LITE],
        "verification/test_verify.py::test_the_unchanged_model_passes",
        ids=lambda arch: arch.name,
    ),
)
def test_stages_are_captured_in_forward_order(arch: Arch) -> None:
    params = random_params(arch)
    for tower, (encode, inputs) in enumerate(towers(arch)):
        plain = parity_features(arch, tower)
        features, stages = jax.jit(partial(encode, precision="parity", capture=True))(params, inputs)
        np.testing.assert_allclose(features, plain, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(list(stages.values())[-1], features)
        if inputs.ndim == 2:
            expected = ["embed", "blocks.0", "blocks.1", "pooled", "projected"]
        elif arch is CLIP_VIT:
            expected = ["patch_embed", "embed", "blocks.0", "blocks.1", "pooled", "projected"]
        elif arch is CLIP_RESNET:
            blocks = ["layer1.0", "layer1.1", "layer1.2", "layer2.0", "layer3.0", "layer3.1", "layer4.0"]
            expected = ["stem", *blocks, "projected"]
        else:
            expected = ["stem", "blocks.0.0", "blocks.1.0", "blocks.1.1", "blocks.1.2", "head", "pooled"]
        assert list(stages) == expected


def test_the_program_is_as_long_for_24_layers_as_for_2() -> None:
    def deep(depth: int) -> Arch:
        vision, text = dataclasses.replace(VIT, layers=depth), dataclasses.replace(TEXT, layers=depth)
        return dataclasses.replace(CLIP_VIT, vision=vision, text=text)

    def size(depth: int, tower: int) -> int:
        encode, inputs = towers(deep(depth))[tower]
        # Every number counts as one character: 24 is longer than 2, and nothing else may be.
        return len(re.sub(r"\d+", "0", lowered(encode, deep(depth), inputs, "parity")))

    assert size(24, 0) == size(2, 0)
    assert size(24, 1) == size(2, 1)


def test_a_resnet_program_is_as_long_for_deep_stages_as_for_stages_of_three() -> None:
    def size(blocks: int) -> int:
        arch = dataclasses.replace(CLIP_RESNET, vision=dataclasses.replace(RESNET, layers=(blocks,) * 4))
        return len(re.sub(r"\d+", "0", lowered(Network(arch).encode_image, arch, images(arch), "parity")))

    assert size(6) == size(3)


@mostly_vit("test_eight_devices_give_the_features_of_one")
def test_eight_devices_give_the_features_of_one(arch: Arch) -> None:
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    params = random_params(arch)
    everywhere = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    for encode, inputs in towers(arch, batch=16):
        run = jax.jit(partial(encode, precision="parity"))
        spread = jax.device_put(inputs, NamedSharding(mesh, PartitionSpec("data")))
        program = run.lower(everywhere, spread).compile()
        features = program(everywhere, spread)
        assert len(features.sharding.device_set) == 8
        whole = run(params, inputs)
        np.testing.assert_allclose(features, whole, rtol=0, atol=3e-6 * np.abs(whole).max())
        text = program.as_text() or ""
        assert not re.search(r"all-(?:reduce|gather|to-all)|collective-permute", text)


# ---------------------------------------------------------------------------------- initialisation


def moments(leaf: Any) -> tuple[float, float, float]:
    """Mean, standard deviation and kurtosis (1.8 of a uniform, 3 of a normal distribution)."""
    x = np.asarray(leaf, np.float64)
    mean, std = float(x.mean()), float(x.std())
    return mean, std, float(((x - mean) ** 4).mean() / max(std, 1e-12) ** 4)


def assert_drawn_alike(ours: Any, theirs: Any, where: str) -> None:
    (mean, std, kurtosis), (their_mean, their_std, their_kurtosis) = moments(ours), moments(theirs)
    noise = 8 / np.sqrt(np.size(ours))
    assert abs(mean - their_mean) <= noise * their_std + 1e-8, where
    assert abs(std - their_std) <= noise * their_std + 1e-8, where
    if np.size(ours) > 1000:
        assert abs(kurtosis - their_kurtosis) < 0.5, where


def test_init_is_that_of_open_clip() -> None:
    import _torch_weights as weights

    torch.manual_seed(0)
    config: Any = copy.deepcopy(open_clip.get_model_config("RN50"))
    text = {"width": 64, "heads": 2, "layers": 2, "vocab_size": 300, "context_length": 16}
    resnet = {"layers": [3, 1, 2, 1], "width": 16, "image_size": 64}
    narrow = config | {"embed_dim": 32, "text_cfg": text, "vision_cfg": config["vision_cfg"] | resnet}
    vit = narrow | {
        "vision_cfg": {"layers": 2, "width": 64, "head_width": 32, "patch_size": 8, "image_size": 32}
    }
    for arch, model_config, tower in (
        (CLIP_RESNET, narrow, weights.modified_resnet),
        (CLIP_VIT, vit, weights.vit),
    ):
        model = CLIP(**model_config)
        theirs = {"vision": tower(model.visual), "text": weights.text(model)}
        ours = initialised(arch)
        # With a bias the loss is SigLIP's: open_clip_train's main.py starts that at ln 10 and -10.
        scale, bias = ours.pop("logit_scale"), ours.pop("logit_bias", None)
        assert float(scale) == pytest.approx(np.log(10) if arch.logit_bias else model.logit_scale.item())
        assert (bias is not None) == arch.logit_bias
        assert bias is None or float(bias) == -10
        assert jax.tree.structure(ours) == jax.tree.structure(theirs)
        for (path, leaf), their_leaf in zip(
            jax.tree.leaves_with_path(ours), jax.tree.leaves(theirs), strict=True
        ):
            assert leaf.shape == their_leaf.shape
            assert_drawn_alike(leaf, their_leaf, jax.tree_util.keystr(path))


def test_init_is_that_of_timm() -> None:
    import _torch_weights as weights

    torch.manual_seed(0)
    arch = shallow(load_arch("tf_efficientnet_lite0"))  # of full width: moments of few numbers say little
    model: Any = build_model("tf_efficientnet_lite0", "timm", arch_to_dict(arch))
    theirs = {"vision": weights.mbconv(model), "head": weights.linear(model.classifier)}
    ours = initialised(arch)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for (path, leaf), their_leaf in zip(
        jax.tree.leaves_with_path(ours), jax.tree.leaves(theirs), strict=True
    ):
        assert_drawn_alike(leaf, their_leaf, jax.tree_util.keystr(path))


def test_init_may_be_part_of_a_jitted_function() -> None:
    """Lowered, not run: what is drawn, `test_params_are_drawn_by_the_keys_of_flax` says."""
    network = Network(Arch("part", VIT, None, 10, False))
    inside = jax.jit(network.init_params).lower(jax.random.key(0)).out_info
    outside = network.abstract_params()
    assert jax.tree.structure(inside) == jax.tree.structure(outside)
    assert all(map(lambda a, b: a.shape == b.shape, jax.tree.leaves(inside), jax.tree.leaves(outside)))


def test_init_follows_its_key() -> None:
    draw = Network(Arch("keyed", VIT, None, 10, False)).init_params
    first, same, other = (draw(jax.random.key(seed)) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, same)
    kernel = first["vision"]["blocks"]["mlp"]["c_fc"]["kernel"]
    assert np.abs(kernel - other["vision"]["blocks"]["mlp"]["c_fc"]["kernel"]).max() > 0.01
    assert np.abs(kernel[0] - kernel[1]).max() > 0.01  # the stacked blocks are not copies


# ---------------------------------------------------------------------------------------- bad input


def test_params_that_do_not_fit_are_refused_by_leaf() -> None:
    network, params, x = Network(CLIP_VIT), random_params(CLIP_VIT), images(CLIP_VIT)
    run = partial(network.encode_image, precision="parity")
    wrong = copy.deepcopy(params)
    wrong["vision"]["proj"] = np.zeros((64, 31), np.float32)
    with pytest.raises(DataError, match=r"vision/proj is \[64, 31\]; the architecture has \[64, 32\]"):
        run(wrong, x)
    wrong = copy.deepcopy(params)
    wrong["vision"]["porj"] = wrong["vision"].pop("proj")
    with pytest.raises(DataError, match=r"vision/porj is .*; the architecture has nothing"):
        run(wrong, x)
    del wrong["vision"]["porj"]
    with pytest.raises(DataError, match="vision/proj is nothing"):
        run(wrong, x)
    with pytest.raises(DataError, match="params/vision"):
        run({}, x)


def test_inputs_that_do_not_fit_are_refused() -> None:
    network, params = Network(CLIP_VIT), random_params(CLIP_VIT)
    with pytest.raises(DataError, match=r"vit takes images \[B, 32, 32, 3\], not \[2, 3, 32, 32\]"):
        network.encode_image(params, jax.device_put(np.zeros((2, 3, 32, 32), np.float32)), precision="parity")
    with pytest.raises(DataError, match=r"vit takes ids \[B, 1..16\], not \[2, 17\]"):
        network.encode_text(params, jnp.zeros((2, 17), jnp.int32), precision="parity")
    with pytest.raises(DataError, match="lite is a classifier: it has no text tower"):
        Network(LITE).encode_text(random_params(LITE), ids(), precision="parity")
