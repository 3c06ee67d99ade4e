"""Pixels against the transforms of open_clip and timm themselves, byte for byte."""

from __future__ import annotations

import dataclasses
import io
import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import numpy as np
import PIL.Image
import pytest
import skimage
import torch
import torchvision.transforms.functional as F
from _long import mostly_long
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.transform import image_transform
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.transforms_factory import create_transform
from torchvision.transforms import CenterCrop, Compose, Resize
from torchvision.transforms import _functional_pil as F_pil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from clipjax.data.pixels import preprocess
from clipjax.data.pixels.normalize import normalize, normalize_host
from clipjax.data.pixels.preprocess import PixelRecipe, open_image, to_pixels
from clipjax.errors import DataError, UsageError

Image = PIL.Image.Image
Images = dict[str, Image]

# (width, height): tiny, one pixel wide or high, odd ratios, halves in the crop offset, around a crop's size.
SIZES = [
    (1, 1),
    (1, 7),
    (9, 1),
    (2, 3),
    (17, 19),
    (224, 224),
    (225, 224),
    (223, 331),
    (101, 67),
    (341, 257),
    (300, 451),
]
MODES = [
    "L",
    "LA",
    "1",
    "I",
    "I;16",
    "F",
    "CMYK",
    "P",
    "P+transparency",
    "PA",
    "RGB",
    "RGBA",
    "RGBX",
    "YCbCr",
    "HSV",
    "LAB",
]
# Each is stored, and so resized, in another way. The other modes differ from them only in their conversion.
IN_EVERY_SIZE = ("L", "RGB", "F", "I;16", "P")
IN_FEW_SIZES = ((9, 1), (17, 19), (341, 257))
STATISTICS = {
    "openai": (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD),
    "imagenet": (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
    "inception": ((0.5,) * 3, (0.5,) * 3),
}
RECIPES = {
    "open_clip 224": PixelRecipe(224, 224),
    "open_clip 240": PixelRecipe(240, 240),
    "open_clip 288": PixelRecipe(288, 288),
    "open_clip 336": PixelRecipe(336, 336),
    "bilinear 224": PixelRecipe(224, 224, interpolation="bilinear"),
    "squash 224": PixelRecipe(224, 224, resize_mode="squash"),
    "longest 224": PixelRecipe(224, 224, resize_mode="longest"),
}


def scene(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Waves, hard edges and noise, uint8 [H, W, 3]: interpolation, antialiasing and offsets all show."""
    y, x = np.mgrid[:height, :width] / 23.0
    waves = np.stack(
        [np.sin(x * f + p) + np.cos(y * f - p) for f, p in zip(rng.uniform(0.3, 3, 3), rng.uniform(0, 6, 3))]
    )
    picture = 127 + 50 * waves.transpose(1, 2, 0) + 90 * ((x + y).astype(int) % 2)[..., None]
    return np.clip(picture + rng.normal(0, 20, picture.shape), 0, 255).astype(np.uint8)


def in_mode(mode: str, rng: np.random.Generator, width: int, height: int) -> Image:
    rgb = PIL.Image.fromarray(scene(rng, width, height))
    if mode in ("I;16", "I"):
        deep = PIL.Image.fromarray(
            np.asarray(rgb.convert("L")).astype(np.uint16) * 2 + rng.integers(0, 2, dtype=np.uint16)
        )
        return deep if mode == "I;16" else deep.convert("I")
    if mode == "F":
        return PIL.Image.fromarray(np.asarray(rgb.convert("L")).astype(np.float32) * 1.5 - 20)
    if mode == "RGBA":
        return PIL.Image.merge("RGBA", [*rgb.split(), PIL.Image.fromarray(scene(rng, width, height)[..., 0])])
    if mode == "LA":
        return PIL.Image.merge(
            "LA", [rgb.convert("L"), PIL.Image.fromarray(scene(rng, width, height)[..., 1])]
        )
    if mode == "P+transparency":
        image = rgb.quantize(64)
        image.info["transparency"] = 3
        return image
    if mode == "PA":
        return rgb.quantize(64).convert("PA")
    if mode == "LAB":
        return PIL.Image.merge("LAB", rgb.split())
    return rgb.convert(mode)


@pytest.fixture(scope="module")
def generated() -> Images:
    """Every size in each mode that is resized in its own way, the other modes in a few sizes."""
    rng = np.random.default_rng(0)
    sizes = {mode: SIZES if mode in IN_EVERY_SIZE else IN_FEW_SIZES for mode in MODES}
    return {f"{mode} {w}x{h}": in_mode(mode, rng, w, h) for mode in MODES for w, h in sizes[mode]}


@pytest.fixture(scope="module")
def photographs() -> Images:
    """The photographs inside scikit-image, from their encoded files."""
    folder = Path(skimage.__file__).parent / "data"
    paths = sorted(p for p in folder.iterdir() if p.suffix in (".png", ".jpg", ".gif"))
    assert len(paths) >= 5
    return {path.name: open_image(path) for path in paths}


@pytest.fixture(scope="module")
def cue_conflict(test_data: Path) -> Images:
    paths = sorted((test_data / "cue_conflict").glob("*/*.png"))[::4]
    assert len(paths) >= 40
    return {path.name: open_image(path) for path in paths}


def open_clip_transform(recipe: PixelRecipe) -> Compose:
    transform = image_transform(
        recipe.image_size, is_train=False, resize_mode=recipe.resize_mode, interpolation=recipe.interpolation
    )
    assert isinstance(transform, Compose)
    return transform


def open_clip_pixels(recipe: PixelRecipe, image: Image) -> np.ndarray:
    """The reference's own steps up to ToTensor, in the reader's or in the transform's order."""
    if recipe.rgb == "first":
        image = image.convert("RGB")
    for step in open_clip_transform(recipe).transforms[:-2]:
        image = step(image)
    return np.asarray(image)


def mismatches(images: Images, recipe: PixelRecipe, reference: Callable[[Image], np.ndarray]) -> list[str]:
    """Names of the images whose pixels are not the reference's."""
    return [
        name
        for name, image in images.items()
        if not np.array_equal(to_pixels(image, recipe), reference(image))
    ]


@pytest.mark.parametrize(
    ("name", "rgb"),
    mostly_long(
        itertools.product(RECIPES, ("first", "last")),
        # 224 alone does not show how an odd margin is rounded.
        keep=["open_clip 224", ("open_clip 336", "first"), ("squash 224", "last"), ("longest 224", "first")],
    ),
)
def test_generated_images_equal_open_clip(name, rgb, generated):
    recipe = dataclasses.replace(RECIPES[name], rgb=rgb)
    assert mismatches(generated, recipe, partial(open_clip_pixels, recipe)) == []


@pytest.mark.parametrize("rgb", ["first", "last"])
@pytest.mark.parametrize("name", ["open_clip 224", "open_clip 336", "squash 224", "longest 224"])
def test_photographs_equal_open_clip(name, rgb, photographs):
    recipe = dataclasses.replace(RECIPES[name], rgb=rgb)
    assert mismatches(photographs, recipe, partial(open_clip_pixels, recipe)) == []


@pytest.mark.parametrize("name", RECIPES)
def test_cue_conflict_images_equal_open_clip(name, cue_conflict):
    assert mismatches(cue_conflict, RECIPES[name], partial(open_clip_pixels, RECIPES[name])) == []


def test_there_are_200_images(generated, photographs, cue_conflict):
    assert len(generated) + len(photographs) + len(cue_conflict) >= 200


def timm_pixels(transform, image: Image) -> np.ndarray:
    image = image.convert("RGB")
    for step in transform.transforms[:-2]:
        image = step(image)
    return np.asarray(image)


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        # EfficientNet-Lite0: resize 256, crop 224.
        (PixelRecipe(224, 256, rgb="first"), {"crop_pct": 0.875, "interpolation": "bicubic"}),
        (
            PixelRecipe(224, 248, interpolation="bilinear", rgb="first"),
            {"crop_pct": 0.9, "interpolation": "bilinear"},
        ),
        (
            PixelRecipe(224, 235, "squash", rgb="first"),
            {"crop_pct": 0.95, "interpolation": "bicubic", "crop_mode": "squash"},
        ),
    ],
)
def test_images_equal_timm(recipe, options, generated, photographs, cue_conflict):
    mean, std = STATISTICS["inception"]
    transform = create_transform(224, mean=mean, std=std, **options)
    assert isinstance(transform, Compose)
    images = generated | photographs | dict(list(cue_conflict.items())[::8])
    assert mismatches(images, recipe, partial(timm_pixels, transform)) == []


@pytest.mark.parametrize("resize", mostly_long([224, 225, 230, 223], keep=[225]))
def test_images_equal_transformers(resize, generated, photographs):
    """Even and odd margins on both sides; 223: of one pixel of padding, too."""
    recipe = PixelRecipe(224, resize, rgb="first", crop="floor")
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": resize}, do_rescale=False, do_normalize=False, return_tensors="np"
    )

    def reference(image: Image) -> np.ndarray:
        # RGB as everyone makes it: transformers 5.24 alone lays transparent images on white first.
        opaque = PIL.Image.fromarray(np.asarray(image.convert("RGB")))
        pixels = processor(opaque, input_data_format="channels_last")["pixel_values"]
        return pixels[0].transpose(1, 2, 0)

    images = generated | photographs
    odd = {name for name, image in images.items() if sum(_margins(image, resize)) % 2}
    assert 10 < len(odd) < len(images) or resize == 223
    assert mismatches(images, recipe, reference) == []
    # An odd margin m differs where half of it, m // 2, is odd: round() takes the even side.
    assert mismatches(images, dataclasses.replace(recipe, crop="round"), reference)


class PaddedToSquare:
    """Prismatic's LetterboxPad (models/backbones/vision/base_vision.py at 874c5bb), by its description."""

    def __init__(self, fill: tuple[int, int, int]) -> None:
        self.fill = fill

    def __call__(self, image: Image) -> Image:
        (w, h), side = image.size, max(image.size)
        across, down = int((side - w) / 2), int((side - h) / 2)
        return F.pad(image, [across, down, across, down], fill=self.fill, padding_mode="constant")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("statistics", "size"), mostly_long([("openai", 336), ("inception", 384)], keep=["openai"])
)
def test_images_equal_prismatics_letterbox(statistics, size, generated, photographs):
    mean, _ = STATISTICS[statistics]
    fill = {"openai": (122, 116, 104), "inception": (127, 127, 127)}[statistics]
    assert fill == tuple(int(255 * each) for each in mean)
    bicubic = F.InterpolationMode.BICUBIC
    steps = Compose([PaddedToSquare(fill), Resize(size, interpolation=bicubic), CenterCrop(size)])
    recipe = PixelRecipe(size, size, "letterbox", rgb="first", fill=fill)

    def reference(image: Image) -> np.ndarray:
        return np.asarray(steps(image.convert("RGB")))

    images = {k: v for k, v in (generated | photographs).items() if v.mode in ("RGB", "L", "RGBA", "P")}
    assert mismatches(images, recipe, reference) == []
    lighter = dataclasses.replace(recipe, fill=tuple(each + 1 for each in fill))
    assert mismatches(images, lighter, reference)
    assert preprocess.letterboxed(PIL.Image.new("RGB", (451, 300)), fill).size == (451, 450)


def _margins(image: Image, resize: int) -> list[int]:
    return [int(resize * side / min(image.size)) - 224 for side in image.size]


def test_exif_orientation_is_not_applied():
    picture = PIL.Image.fromarray(scene(np.random.default_rng(1), 120, 80))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    picture.save(buffer, "jpeg", exif=exif, quality=90)
    image = open_image(buffer.getvalue(), "rotated.jpg")
    assert image.getexif()[0x0112] == 6
    assert image.size == (120, 80)
    recipe = PixelRecipe(224, 224, rgb="first")
    reference = open_clip_pixels(recipe, PIL.Image.open(io.BytesIO(buffer.getvalue())))
    np.testing.assert_array_equal(to_pixels(image, recipe), reference)


@pytest.mark.parametrize("rgb", mostly_long(["first", "last"], keep=["first"]))
def test_border_is_cut_before_everything(rgb, generated, photographs):
    recipe = PixelRecipe(224, 224, rgb=rgb, pre_crop=2)

    def reference(image: Image) -> np.ndarray:
        return open_clip_pixels(recipe, F_pil.crop(image, 2, 2, image.height - 4, image.width - 4))

    large = {name: image for name, image in generated.items() if min(image.size) > 4}
    assert mismatches(large | photographs, recipe, reference) == []
    assert mismatches(photographs, dataclasses.replace(recipe, pre_crop=1), reference)


# What the comparison must see: each of these is a mistake that people have made.


@pytest.fixture
def detailed(generated, photographs) -> Images:
    return photographs | {name: image for name, image in generated.items() if min(image.size) > 60}


def test_bilinear_for_bicubic_is_seen(detailed):
    recipe = RECIPES["open_clip 224"]
    wrong = dataclasses.replace(recipe, interpolation="bilinear")
    assert len(mismatches(detailed, wrong, partial(open_clip_pixels, recipe))) > len(detailed) // 2


def test_missing_antialias_is_seen(detailed):
    recipe = PixelRecipe(112, 112, rgb="first")

    def aliased(image: Image) -> np.ndarray:
        tensor = F.pil_to_tensor(image.convert("RGB"))
        resized = F.resize(tensor, [112], F.InterpolationMode.BICUBIC, antialias=False)
        return F.center_crop(resized, [112, 112]).permute(1, 2, 0).numpy()

    assert mismatches(detailed, recipe, partial(open_clip_pixels, recipe)) == []
    assert len(mismatches(detailed, recipe, aliased)) == len(detailed)


def test_order_of_rgb_is_seen(detailed):
    last = RECIPES["open_clip 224"]
    swapped = mismatches(detailed, dataclasses.replace(last, rgb="first"), partial(open_clip_pixels, last))
    modes = {detailed[name].mode for name in swapped}
    assert {"P", "1", "RGBA", "LA", "CMYK"} <= modes
    assert not modes & {"RGB", "L"}


def rounded_down(length: int, size: int, _: object) -> int:
    return (length - size) // 2


@pytest.mark.parametrize(
    ("piece", "mutant"),
    mostly_long(
        [
            ("_offset", rounded_down),
            (
                "_offset",
                lambda length, size, _: (
                    -((size - length + 1) // 2) if length < size else round((length - size) / 2)
                ),
            ),
            (
                "_scaled_sides",
                lambda size, recipe: tuple(round(recipe.resize_size * s / min(size)) for s in size),
            ),
        ],
        keep=[("_offset", rounded_down)],
    ),
    ids=["offset rounded down", "padding on the near side", "long side rounded"],
)
def test_rounding_is_seen(piece, mutant, monkeypatch, generated):
    # A crop larger than the resized image pads, as timm's crop_pct above 1 does.
    recipe = PixelRecipe(225, 224, rgb="first")
    steps = Compose([Resize(224, F.InterpolationMode.BICUBIC), CenterCrop(225)])

    def reference(image: Image) -> np.ndarray:
        return np.asarray(steps(image.convert("RGB")))

    plain = {name: image for name, image in generated.items() if image.mode in ("RGB", "L")}
    assert mismatches(plain, recipe, reference) == []
    monkeypatch.setattr(preprocess, piece, mutant)
    assert mismatches(plain, recipe, reference)


# Normalisation


@pytest.mark.parametrize("name", STATISTICS)
def test_normalize_equals_torch_to_the_bit(name):
    mean, std = STATISTICS[name]
    pixels = np.arange(256, dtype=np.uint8)[:, None, None].repeat(3, axis=2).repeat(2, axis=1)
    torch_value = F.normalize(F.to_tensor(pixels), list(mean), list(std)).permute(1, 2, 0).numpy()
    batch = np.stack([pixels, pixels[::-1]])
    jitted = jax.jit(lambda p: normalize(p, mean, std))
    for value in (normalize_host(batch, mean, std), normalize(batch, mean, std), jitted(batch)):
        assert value.dtype == np.float32
        np.testing.assert_array_equal(np.asarray(value), np.stack([torch_value, torch_value[::-1]]))


def test_tpu_form_of_normalize_is_within_rounding():
    mean, std = STATISTICS["openai"]
    pixels = np.arange(768, dtype=np.uint32).astype(np.uint8).reshape(16, 16, 3)
    lowered = jax.jit(lambda p: normalize(p, mean, std)).trace(pixels).lower(lowering_platforms=("tpu",))
    assert "gather" not in lowered.as_text()
    computed = jax.jit(lambda p: (p.astype(np.float32) / 255.0 - np.float32(mean)) / np.float32(std))(pixels)
    np.testing.assert_allclose(computed, normalize_host(pixels, mean, std), rtol=0, atol=5e-7)


def test_normalize_is_sharded_without_communication():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    shape = jax.ShapeDtypeStruct((16, 8, 8, 3), np.uint8, sharding=sharding)
    compiled = (
        jax.jit(lambda p: normalize(p, *STATISTICS["openai"]), out_shardings=sharding).lower(shape).compile()
    )
    text = compiled.as_text()
    assert text is not None
    assert not any(word in text for word in ("all-gather", "all-reduce", "all-to-all", "collective-permute"))


def test_whole_transform_equals_open_clip(photographs):
    recipe = RECIPES["open_clip 224"]
    for name, image in photographs.items():
        reference = open_clip_transform(recipe)(image)
        assert isinstance(reference, torch.Tensor)
        value = normalize_host(to_pixels(image, recipe), OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
        np.testing.assert_array_equal(value, reference.permute(1, 2, 0).numpy(), err_msg=name)


# Recipes and bad input


def test_recipe_key_is_json_ready_and_complete():
    recipe = PixelRecipe(224, 256, "squash", "bilinear", "first", 2)
    assert recipe.key() == {
        "image_size": 224,
        "resize_size": 256,
        "resize_mode": "squash",
        "interpolation": "bilinear",
        "rgb": "first",
        "pre_crop": 2,
    }  # nothing of "round": that is how keys were before there was another crop
    assert dataclasses.replace(recipe, crop="floor").key() == {**recipe.key(), "crop": "floor"}
    boxed = dataclasses.replace(recipe, resize_mode="letterbox", fill=(1, 2, 3))
    assert boxed.key() == {**recipe.key(), "resize_mode": "letterbox", "fill": (1, 2, 3)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resize_mode": "shortst"}, "unknown resize mode 'shortst'; did you mean shortest"),
        ({"interpolation": "nearest"}, "unknown interpolation 'nearest'"),
        ({"rgb": "middle"}, "unknown rgb order 'middle'"),
        ({"crop": "ceil"}, "unknown crop 'ceil'"),
        ({"image_size": 0}, "positive sizes"),
        ({"pre_crop": -1}, "positive sizes"),
        ({"resize_mode": "letterbox"}, "a colour to fill with belongs to the resize mode letterbox"),
        ({"fill": (0, 0, 0)}, "a colour to fill with belongs to the resize mode letterbox"),
        ({"resize_mode": "letterbox", "fill": (0, 0, 0)}, "letterbox pads RGB images"),
    ],
)
def test_recipe_refuses_what_does_not_exist(change, message):
    with pytest.raises(UsageError, match=message):
        dataclasses.replace(PixelRecipe(224, 224), **change)


def encoded(kind: str, image: Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["jpeg", "png", "gif", "tiff", "webp", "bmp"])
def test_truncated_image_is_named(kind, tmp_path):
    data = encoded(kind, PIL.Image.fromarray(scene(np.random.default_rng(2), 90, 60)))
    path = tmp_path / f"cat.{kind}"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"cat\.\w+: (damaged or unreadable|not an) image"):
        open_image(path)


def test_every_cut_of_a_png_is_an_error_of_ours():
    data = encoded("png", PIL.Image.fromarray(scene(np.random.default_rng(2), 12, 9)))
    assert open_image(data).size == (12, 9)
    for end in range(0, len(data) - 20, 7):
        with pytest.raises(DataError, match="row 5"):
            open_image(data[:end], "row 5")


@pytest.mark.parametrize("data", [b"", b"<html>not found</html>", bytes(64)])
def test_file_that_is_no_image_is_named(data):
    with pytest.raises(DataError, match=r"class/a\.jpg: not an image in JPEG, PNG, PPM, .* or GIF"):
        open_image(data, "class/a.jpg")


def test_a_program_for_a_printer_is_not_run(monkeypatch):
    """Pillow hands an EPS of any name to Ghostscript, which runs what is in it."""
    from PIL import EpsImagePlugin

    run = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: run.append(1))
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n"
    PIL.Image.open(io.BytesIO(eps)).verify()  # Pillow alone takes it for an image
    with pytest.raises(DataError, match=r"a\.jpeg: not an image in JPEG"):
        open_image(eps, "a.jpeg")
    assert run == []


@pytest.mark.parametrize("kind", ["jpeg", "mpo", "png", "ppm", "bmp", "tiff", "webp", "gif"])
def test_formats_of_data_sets_are_read(kind):
    assert open_image(encoded(kind, PIL.Image.new("RGB", (12, 9)))).size == (12, 9)


@pytest.mark.parametrize("kind", ["jpeg2000", "ico", "tga", "sgi", "pcx"])
def test_other_formats_of_pillow_are_refused(kind):
    with pytest.raises(DataError, match="not an image in JPEG"):
        open_image(encoded(kind, PIL.Image.new("RGB", (16, 16))), "x")


def test_missing_image_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.png: cannot be read \(No such file"):
        open_image(tmp_path / "gone.png")


def test_decompression_bomb_is_named(monkeypatch):
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match=r"bomb\.png: 3,600 pixels, and 2,000 is the limit; make it"):
        open_image(encoded("png", PIL.Image.new("L", (60, 60))), "bomb.png")


def test_image_without_inside_or_rgb_form_is_refused():
    with pytest.raises(DataError, match="4 x 30 pixels has no inside"):
        to_pixels(PIL.Image.new("RGB", (4, 30)), PixelRecipe(8, 8, pre_crop=2))
    with pytest.raises(DataError, match="mode La has no RGB form"):
        to_pixels(PIL.Image.new("La", (8, 8)), PixelRecipe(8, 8))


def test_an_image_too_thin_to_resize_is_named() -> None:
    recipe = PixelRecipe(24, 24, "longest")
    assert to_pixels(PIL.Image.new("RGB", (1, 40)), recipe).shape == (24, 24, 3)
    with pytest.raises(DataError, match=r"1 x 77 pixels vanishes when resized to \(0, 24\)"):
        to_pixels(PIL.Image.new("RGB", (1, 77)), recipe)
