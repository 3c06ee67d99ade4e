"""Dense features of images of any shape equal those of probe3d's wrappers; wrong rules differ."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import _probe3d
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from _long import mostly_long
from _parity import Case, case_of

from clipjax.errors import DataError, UsageError
from clipjax.models import resample
from clipjax.models.arch import arch_names, arch_to_dict, family_of, load_arch, narrow_arch
from clipjax.models.dense import PROBE3D, DenseRecipe, center_padding, dense_map, layers_of
from clipjax.models.network import Network
from converters.golden import build_model

REFERENCE = dataclasses.replace(PROBE3D, attention="reference_batch")
MULTILAYER = dataclasses.replace(PROBE3D, layers="multilayer")

# Ours -> the library, probe3d's wrapper.
WRAPPERS: dict[str, tuple[str, Callable[..., torch.Tensor]]] = {
    "ViT-B-16": ("open_clip", _probe3d.clip_vit),
    "ViT-B-16-SigLIP": ("open_clip", _probe3d.siglip),
    "deit3_large_patch16_384": ("timm", _probe3d.deit3),
    "vit_large_patch14_dinov2": ("timm", _probe3d.dinov2),
    "vit_base_patch14_reg4_dinov2": ("timm", _probe3d.dinov2_registers),
    "vit_base_patch16_siglip_384": ("timm", _probe3d.siglip),
    "convnext_base_w": ("open_clip", _probe3d.convnext),
    "convnextv2_base-in1k-384": ("timm", _probe3d.convnext),
    "RN50": ("open_clip", _probe3d.modified_resnet),
}
STAGED = ("convnext_base_w", "convnextv2_base-in1k-384", "RN50")


@functools.cache
def case(name: str, blocks: int = 2) -> Case:
    """A transformer has a table of 4 x 4 patches."""
    arch = narrow_arch(load_arch(name))
    if name not in STAGED:
        sizes = {"image_size": 4 * arch.vision.patch_size, "layers": blocks}
        arch = dataclasses.replace(arch, vision=dataclasses.replace(arch.vision, **sizes))
    theirs = arch.name.removesuffix("-in1k-384")
    return case_of(arch, build_model(theirs, WRAPPERS[name][0], arch_to_dict(arch)))


def images(height: int, width: int, count: int = 2) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, height, width, 3)).astype(np.float32)


def ours(own: Case, pixels: np.ndarray, recipe: DenseRecipe = PROBE3D) -> np.ndarray:
    function = functools.partial(dense_map, Network(own.arch), recipe=recipe, precision="parity")
    return np.asarray(jax.jit(function)(own.params, pixels))


@torch.no_grad()
def theirs(name: str, own: Case, pixels: np.ndarray, layers: Sequence[int], **options: Any) -> np.ndarray:
    patch = getattr(own.arch.vision, "patch_size", 16)
    padded = _probe3d.padded(torch.from_numpy(pixels).permute(0, 3, 1, 2), patch)
    return WRAPPERS[name][1](own.tower, padded, list(layers), **options).permute(0, 2, 3, 1).numpy()


def error(got: np.ndarray, wanted: np.ndarray) -> float:
    """Relative to the largest value; infinite for maps of other shapes."""
    return float(np.abs(got - wanted).max() / np.abs(wanted).max()) if got.shape == wanted.shape else np.inf


# ---------------------------------------------------------------------------------------------- padding


@pytest.mark.parametrize(
    ("sides", "patch", "padded", "first"),
    [
        ((32, 48), 16, (32, 48), (0, 0)),
        ((30, 31), 16, (32, 32), (1, 0)),
        ((30, 28), 14, (42, 42), (6, 7)),  # 28 = 2 x 14 gets a whole patch more
        ((480, 640), 14, (490, 644), (5, 2)),
        ((800, 800), 14, (812, 812), (6, 6)),
    ],
)
def test_padding(sides: tuple[int, int], patch: int, padded: tuple[int, int], first: tuple[int, int]) -> None:
    pixels = images(*sides, count=1)
    got = np.asarray(center_padding(jnp.asarray(pixels), patch))
    assert got.shape == (1, *padded, 3)
    inside = (slice(first[0], first[0] + sides[0]), slice(first[1], first[1] + sides[1]))
    np.testing.assert_array_equal(got[:, *inside], pixels)
    assert np.count_nonzero(got) == np.count_nonzero(pixels)
    reference = _probe3d.padded(torch.from_numpy(pixels).permute(0, 3, 1, 2), patch)
    np.testing.assert_array_equal(got, reference.permute(0, 2, 3, 1).numpy())


# ------------------------------------------------------------------------------------------------- maps


@pytest.mark.parametrize(
    ("name", "sides"),
    mostly_long(
        [(name, (75, 96)) for name in WRAPPERS] + [("ViT-B-16", (32, 128)), ("ViT-B-16-SigLIP", (32, 128))],
        keep=["ViT-B-16", "ViT-B-16-SigLIP", "vit_large_patch14_dinov2", "convnext_base_w"],
    ),
)
def test_maps_are_probe3ds(name: str, sides: tuple[int, int]) -> None:
    """75 x 96 pixels are padded to 5 x 7 patches of 16, 6 x 7 of 14. 2 x 8 patches are as many as 4 x 4."""
    own = case(name)
    last = layers_of(own.arch, "last")
    pixels = images(*sides)
    got, wanted = ours(own, pixels), theirs(name, own, pixels, last)
    assert error(got, wanted) <= 1e-5


@pytest.mark.parametrize(("name", "layers"), [("ViT-B-16", [0, 2, 5]), ("RN50", [0, 1, 2, 3])])
def test_layers_side_by_side(name: str, layers: list[int]) -> None:
    """Six blocks have the layers 0, 2, 2, 5."""
    own, pixels = case(name, 6), images(48, 80)
    got = ours(own, pixels, MULTILAYER)
    wanted = [theirs(name, own, pixels, [layer]) for layer in layers]
    if name == "ViT-B-16":
        wanted.insert(1, wanted[1])
    assert error(got, np.concatenate(wanted, axis=-1)) <= 1e-5


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("ViT-B-16", (2, 5, 8, 11)),
        ("ViT-L-14-336", (5, 11, 17, 23)),
        ("convnext_base_w", (0, 1, 2, 3)),
        ("tf_efficientnet_b0", (3, 4, 5, 6)),
    ],
)
def test_layers_of_a_network(name: str, layers: tuple[int, ...]) -> None:
    assert layers_of(load_arch(name), "multilayer") == layers
    assert layers_of(load_arch(name), "last") == layers[-1:]


def test_stages_are_resized_without_antialiasing() -> None:
    """Stage 0 is reduced by 4, and its pixels between are not averaged."""
    own, pixels = case("convnext_base_w"), images(64, 96)
    encode = functools.partial(Network(own.arch).encode_dense, layers=[0], precision="parity")
    maps = jax.jit(encode)(own.params, pixels)
    [plain], [smooth] = (
        [jax.image.resize(maps[0], (2, 4, 6, maps[0].shape[-1]), "linear", antialias=antialias)]
        for antialias in (False, True)
    )
    wanted = theirs("convnext_base_w", own, pixels, [0])
    assert error(np.asarray(plain), wanted) <= 1e-5
    assert error(np.asarray(smooth), wanted) > 0.05


# ------------------------------------------------------------------------------------- position tables


def on_grid(name: str, height: int, width: int, rule: Any) -> np.ndarray:
    own = case(name)
    vision = resample.on_grid(own.arch, own.params["vision"], height, width, rule)
    return np.asarray(vision["positional_embedding"])


def table(name: str) -> torch.Tensor:
    return torch.from_numpy(np.array(case(name).params["vision"]["positional_embedding"]))


@pytest.mark.parametrize("name", ["ViT-B-16", "deit3_large_patch16_384"])
def test_probe3d_keeps_a_table_of_as_many_patches(name: str) -> None:
    old, prefix = table(name), 1 if name == "ViT-B-16" else 0
    np.testing.assert_array_equal(on_grid(name, 8, 2, "probe3d"), old)
    assert error(on_grid(name, 8, 2, "library"), old.numpy()) > 0.1
    for grid in ((5, 3), (4, 5), (2, 2)):
        wanted = _probe3d.by_count(old, prefix, *grid).numpy()
        assert error(on_grid(name, *grid, "probe3d"), wanted) <= 1e-6
        np.testing.assert_array_equal(on_grid(name, *grid, "probe3d"), on_grid(name, *grid, "library"))


def test_dinov2_resizes_by_a_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    name, old = "vit_large_patch14_dinov2", table("vit_large_patch14_dinov2")
    for grid in ((8, 2), (6, 5), (2, 3)):
        wanted = _probe3d.by_factor(old, 1, *grid).numpy()
        assert error(on_grid(name, *grid, "probe3d"), wanted) <= 1e-5
        assert error(on_grid(name, *grid, "library"), wanted) > 1e-2
    np.testing.assert_array_equal(on_grid(name, 4, 4, "probe3d"), old)
    monkeypatch.setattr(resample, "_OFFSET", 0.0)
    assert error(on_grid(name, 6, 5, "probe3d"), _probe3d.by_factor(old, 1, 6, 5).numpy()) > 1e-2


@pytest.mark.parametrize("name", ["ViT-B-16-SigLIP", "vit_base_patch14_reg4_dinov2"])
def test_others_resize_every_other_grid(name: str) -> None:
    old = table(name)
    for grid in ((8, 2), (3, 5)):
        wanted = _probe3d.by_timm(old, 0, *grid).numpy()
        assert error(on_grid(name, *grid, "probe3d"), wanted) <= 1e-6
    assert error(on_grid(name, 8, 2, "probe3d"), old.numpy()) > 0.1


def test_always_from_the_original_table() -> None:
    """probe3d's wrapper of SigLIP resizes the table that it resized for the last image."""
    name, old = "ViT-B-16-SigLIP", table("ViT-B-16-SigLIP")
    before = on_grid(name, 5, 5, "probe3d")
    on_grid(name, 3, 3, "probe3d")
    np.testing.assert_array_equal(on_grid(name, 5, 5, "probe3d"), before)
    twice = _probe3d.by_timm(_probe3d.by_timm(old, 0, 3, 3), 0, 5, 5).numpy()
    assert error(before, _probe3d.by_timm(old, 0, 5, 5).numpy()) <= 1e-6
    assert error(before, twice) > 0.1


@pytest.mark.parametrize(
    "name", ["ViT-B-16", "vit_large_patch14_dinov2", "beit_base_patch16_224", "EVA02-B-16"]
)
def test_nothing_is_resized_at_the_own_size(name: str) -> None:
    arch = load_arch(name)
    side = arch.vision.image_size // arch.vision.patch_size
    vision = {"a tower": "of any kind"}
    for rule in ("library", "probe3d"):
        assert resample.on_grid(arch, vision, side, side, rule) is vision


# ------------------------------------------------------------------------------------ other libraries'


@pytest.mark.parametrize(
    ("name", "sides"),
    mostly_long(
        [
            ("EVA02-B-16", (80, 48)),
            ("PE-Core-B-16", (80, 48)),
            ("vit_small_patch16_dinov3", (80, 48)),
            ("beit_base_patch16_224", (80, 48)),
            ("swin_base_patch4_window7_224", (96, 192)),
            ("MobileCLIP-B", (80, 48)),
        ],
        keep=["EVA02-B-16", "PE-Core-B-16", "beit_base_patch16_224", "swin_base_patch4_window7_224"],
    ),
)
@pytest.mark.filterwarnings("ignore:torch.searchsorted", "ignore:Using a non-tuple sequence")  # timm's own
def test_maps_are_timms(name: str, sides: tuple[int, int]) -> None:
    """Rotary positions, distance biases, moved windows and a stem on a grid that is not square."""
    arch = narrow_arch(load_arch(name))
    library = "open_clip" if name.startswith(("EVA", "PE", "Mobile")) else "timm"
    own = case_of(arch, build_model(name, library, arch_to_dict(arch)))
    trunk = getattr(own.tower, "trunk", own.tower)
    windows = getattr(arch.vision, "windows", None)
    trunk.set_input_size(sides, **({} if windows is None else {"window_size": windows[0]}))
    pixels = images(*sides)
    encode = functools.partial(Network(own.arch).encode_dense, layers=[0, 1], precision="parity")
    got = jax.jit(encode)(own.params, pixels)
    with torch.no_grad():
        channels = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        wanted = trunk.forward_intermediates(channels, indices=[0, 1], norm=False, intermediates_only=True)
    for a, b in zip(got, wanted, strict=True):
        assert error(np.asarray(a), b.permute(0, 2, 3, 1).numpy()) <= 1e-5


def other_families() -> list[str]:
    """An architecture of each family that no test above runs; a mixer takes no other shape."""
    names = {family_of(load_arch(name).vision).name: name for name in arch_names()}
    above = ("vit", "eva", "rope_vit", "beit", "swin", "convnext", "modified_resnet", "mixer")
    return sorted(name for family, name in names.items() if family not in above)


@pytest.mark.parametrize(
    "name",
    mostly_long(other_families(), keep=[name for name in other_families() if name != "MobileCLIP2-S4"]),
)
def test_nets_of_stages_take_other_shapes(name: str) -> None:
    arch = narrow_arch(load_arch(name))
    network, sides = Network(arch), (96, 192)
    function = functools.partial(dense_map, network, recipe=PROBE3D, precision="fast")
    got = jax.eval_shape(
        function, network.abstract_params(), jax.ShapeDtypeStruct((2, *sides, 3), jnp.float32)
    )
    assert got.shape[:3] == (2, 6, 12)
    assert got.dtype == jnp.float32


# --------------------------------------------------------------------------------------- over the batch


def test_attention_over_the_batch() -> None:
    own, pixels = case("ViT-B-16"), images(48, 80, count=3)
    got, tokens = ours(own, pixels, REFERENCE), ours(own, pixels)
    assert error(got, theirs("ViT-B-16", own, pixels, [1], over_batch=True)) <= 1e-5
    assert error(tokens, theirs("ViT-B-16", own, pixels, [1])) <= 1e-5
    assert error(got, tokens) > 0.1


def test_what_a_change_of_one_patch_reaches() -> None:
    """Over the batch: this cell of all images; else all cells of this image."""
    own, pixels = case("ViT-B-16"), images(48, 80)
    other = pixels.copy()
    other[1, :16, 16:32] += 1
    moved = [
        np.abs(ours(own, pixels, r) - ours(own, other, r)).max(axis=-1) > 1e-4 for r in (REFERENCE, PROBE3D)
    ]
    cell = np.zeros((3, 5), bool)
    cell[0, 1] = True
    np.testing.assert_array_equal(moved[0], np.stack([cell, cell]))
    np.testing.assert_array_equal(moved[1], np.stack([np.zeros_like(cell), np.ones_like(cell)]))


@pytest.mark.parametrize(
    "name", ["vit_large_patch14_dinov2", "ViT-B-16-SigLIP", "convnext_base_w", "EVA02-B-16"]
)
def test_other_towers_never_attended_over_the_batch(name: str) -> None:
    with pytest.raises(UsageError, match="not one of open_clip's own vision transformers"):
        shapes(name, (96, 96), REFERENCE)


# --------------------------------------------------------------------------------------------- refusals


def shapes(name: str, sides: Sequence[int], recipe: DenseRecipe = PROBE3D) -> Any:
    network = Network(narrow_arch(load_arch(name)))
    function = functools.partial(dense_map, network, recipe=recipe, precision="parity")
    pixels = jax.ShapeDtypeStruct((1, *sides, 3), jnp.float32)
    return jax.eval_shape(function, network.abstract_params(), pixels)


@pytest.mark.parametrize(
    ("name", "sides", "message"),
    [
        ("gmlp_s16_224", (64, 64), "images of 64 x 64 pixels, only of its own 48: its layers over tokens"),
        ("swin_base_patch4_window7_224", (128, 96), r"128 x 96 pixels: windows of 3 tokens do not fill"),
        ("convnext_base_w", (16, 64), "of 16 x 64 pixels: dense features need sides of 32"),
        ("ViT-B-16", (64,), r"takes images \[B, H, W, 3\], not \[1, 64, 3\]"),
    ],
)
def test_sizes_that_are_refused(name: str, sides: tuple[int, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        shapes(name, sides)


def test_sides_between_patches_are_refused() -> None:
    network = Network(narrow_arch(load_arch("ViT-B-16")))
    encode = functools.partial(network.encode_dense, layers=1, precision="parity")
    pixels = jax.ShapeDtypeStruct((1, 64, 70, 3), jnp.float32)
    with pytest.raises(
        DataError, match="of 64 x 70 pixels: image_size 70 is not a multiple of patch_size 16"
    ):
        jax.eval_shape(encode, network.abstract_params(), pixels)


@pytest.mark.parametrize("name", ["layers", "attention", "positions"])
def test_recipes_that_are_refused(name: str) -> None:
    recipe = object.__new__(DenseRecipe)  # past the types that pytest checks
    for field, value in dataclasses.asdict(PROBE3D).items():
        object.__setattr__(recipe, field, "first" if field == name else value)
    with pytest.raises(UsageError, match=f"unknown {name} 'first'"):
        recipe.__post_init__()


def test_few_blocks_have_no_quarters() -> None:
    with pytest.raises(UsageError, match="has 2 layers, and layers='multilayer' needs 4"):
        shapes("ViT-B-16", (64, 64), MULTILAYER)
