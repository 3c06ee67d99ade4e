"""ImageNet-C: every kind equals its definition in NumPy and SciPy, from the same draws; mistakes differ."""

from __future__ import annotations

import inspect

import _imagenet_c as reference
import jax
import numpy as np
import pytest
from _long import mostly_long
from PIL import Image
from scipy import stats
from skimage.filters import gaussian

from clipjax.corruptions.corruption import constants_of, find_corruption, image_keys
from clipjax.corruptions.kinds import blur, spatter
from clipjax.corruptions.runner import Runner, wrapped
from clipjax.data.corrupted.frost import frost_pictures
from clipjax.devices.sharding import make_mesh
from clipjax.errors import DataError, UsageError

SIZE = 48
# A level is 1/255. Where a reference rounds to levels, a value near the middle may go the other way.
ROUNDED = {"glass_blur", "motion_blur", "snow", "spatter", "pixelate"}
SEVERITIES = {"spatter": (2, 5), "defocus_blur": (2, 5)}  # both branches of each


@pytest.fixture(scope="module")
def pixels():
    """uint8 [S, S, 3]: shapes, noise, grey and black."""
    rng = np.random.default_rng(3)
    x = gaussian(rng.uniform(size=(SIZE, SIZE, 3)), sigma=2, channel_axis=-1)
    x = (x - x.min()) / (x.max() - x.min()) * 230
    x[:12, :12] = 0
    x[:12, 12:24] = 128
    x[30:40, 5:20] = rng.uniform(0, 255, (10, 15, 3))
    return x.astype(np.uint8)


@pytest.fixture(scope="module")
def frosts(tmp_path_factory):
    """A folder of two pictures, and their pixels."""
    folder = tmp_path_factory.mktemp("frost")
    rng = np.random.default_rng(5)
    pictures = [rng.integers(0, 256, (SIZE + a, SIZE + b, 3), np.uint8) for a, b in ((9, 30), (20, 4))]
    for k, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"frost{k}.png")
    return folder, pictures


@pytest.fixture(scope="module")
def corrupted(pixels, frosts):
    """(kind, severity) -> (float32 [S, S, 3], key); each is computed once."""
    done = {}

    def run(kind: str, severity: int):
        if (kind, severity) not in done:
            corruption, constants = find_corruption(kind), constants_of(kind, severity)
            keys = wrapped(image_keys(kind, ["an image"]))
            extra = {"frost": frost_pictures(frosts[0], SIZE)} if kind == "frost" else {}
            x = (pixels / 255).astype(np.float32)[None]

            def apply(images, keys, extra):
                return corruption.apply(images, keys, constants, extra)

            if not corruption.on_host:
                apply = jax.jit(apply)
            done[kind, severity] = np.asarray(apply(x, keys, extra))[0], keys[0]
        return done[kind, severity]

    return run


def expected(kind, pixels, severity, key, pictures, **wrong):
    more = {"pictures": pictures} if kind == "frost" else {}
    function = getattr(reference, kind)
    return function(pixels / 255, key, *reference.CONSTANTS[kind][severity - 1], **more, **wrong)


def agree(kind, ours, theirs) -> bool:
    """Equal to 2e-5; where levels are rounded, all but 1 % of them, and the mean."""
    apart = np.abs(np.clip(ours, 0, 1) - np.clip(theirs, 0, 1))
    if kind in ("shot_noise", "iso_noise", "low_light"):  # a draw at the edge of two counts
        return (apart > 1e-5).mean() < 2e-3
    if kind in ROUNDED:
        return (apart > 1e-4).mean() < 0.01 and apart.mean() < 1e-4
    return apart.max() < 2e-5


CASES = [(kind, severity) for kind in reference.CONSTANTS for severity in SEVERITIES.get(kind, (1, 4))]


@pytest.mark.parametrize(("kind", "severity"), CASES)
def test_equals_its_definition(kind, severity, pixels, corrupted, frosts):
    ours, key = corrupted(kind, severity)
    assert ours.dtype == np.float32
    theirs = expected(kind, pixels, severity, key, frosts[1])
    assert agree(kind, ours, theirs), np.abs(np.clip(ours, 0, 1) - np.clip(theirs, 0, 1)).max()
    assert np.abs(ours - pixels / 255).mean() > 1e-3  # it does something


MISTAKES = {
    "shot_noise": {"photons_off": lambda x, key, c: reference.shot_noise(x, key, 1.05 * c)},
    "impulse_noise": {"pixel_not_channel": lambda x, key, c: np.where(
        (reference.uniform(jax.random.split(key)[0], x.shape, 0.0) <= c).any(-1, keepdims=True), 1.0, x
    )},
    "glass_blur": {"swapped": lambda x, key, *c: reference.glass_blur(x, key, *c, swap=True)},
    "gaussian_blur": {
        "cut_at_3_sigma": lambda x, key, c: gaussian(x, sigma=c, channel_axis=-1, truncate=3),
        "mirrored": lambda x, key, c: gaussian(x, sigma=c, channel_axis=-1, mode="reflect"),
    },
    "motion_blur": {"two_sided": lambda x, key, r, s: reference.motion(
        x, r, s, 180 + 45 * float(reference.uniform(key, ()))
    )},
    "zoom_blur": {"one_zoom_less": lambda x, key, end, step: reference.zoom_blur(x, key, end - step, step)},
    "fog": {"decay": lambda x, key, depth, decay: reference.fog(x, key, depth, 2.2)},
    "snow": {"other_fall": lambda x, key, *c: np.rot90(reference.snow(np.rot90(x, 1), key, *c), -1)},
    "saturate": {"grey_kept": lambda x, key, f, s: np.where(
        np.ptp(x, -1, keepdims=True) == 0, x, reference.saturate(x, key, f, s)
    )},
    "contrast": {"one_mean": lambda x, key, c: (x - x.mean()) * c + x.mean()},
    "brightness": {"added": lambda x, key, c: x + c},
    "elastic_transform": {"edge_twice": lambda x, key, *c: reference.elastic_transform(
        x, key, *c, border="reflect"
    )},
    "iso_noise": {"no_reading": lambda x, key, p, d: reference.iso_noise(x, key, p, 0)},
    "low_light": {"gamma_kept": lambda x, key, s, p, d: reference.iso_noise(x / 2**s, key, p, d)},
    "color_quant": {"nearest": lambda x, key, bits: np.round(x * (2**bits - 1)) / (2**bits - 1)},
    "pixelate": {"bilinear": lambda x, key, c: reference.pixelate(x, key, c, Image.Resampling.BILINEAR)},
    "jpeg_compression": {"quality": lambda x, key, c: reference.jpeg_compression(x, key, c + 1)},
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "name"),
    mostly_long(
        [(kind, name) for kind, each in MISTAKES.items() for name in each],
        keep=["shot_noise", "zoom_blur", "contrast", "jpeg_compression"],
    ),
)
def test_a_likely_mistake_differs(kind, name, pixels, corrupted):
    ours, key = corrupted(kind, 4)
    wrong = MISTAKES[kind][name](pixels / 255, key, *reference.CONSTANTS[kind][3])
    assert not agree(kind, ours, wrong)


def test_zooms_of_a_step_are_as_numpy_counts_them():
    """arange(1, 1.11, 0.01) has 12 values: 1.11 is among them."""
    for severity, (end, step) in enumerate(reference.CONSTANTS["zoom_blur"], 1):
        constants = constants_of("zoom_blur", severity)
        zooms = 1 + np.arange(constants["zooms"]) * constants["step"]
        np.testing.assert_allclose(zooms, np.arange(1, end, step), rtol=1e-12)


@pytest.mark.parametrize("kind", [kind for kind in reference.CONSTANTS if kind != "zoom_blur"])
def test_constants_are_the_reference_codes(kind):
    """The arguments of a reference function are the constants in the order of the table."""
    names = list(inspect.signature(getattr(reference, kind)).parameters)[2:]
    for severity, values in enumerate(reference.CONSTANTS[kind], 1):
        ours = list(constants_of(kind, severity).values())
        assert ours == pytest.approx(list(values), rel=1e-12), names


def test_counts_are_poisson():
    """The counts of one rate against SciPy's."""
    corruption, constants = find_corruption("shot_noise"), constants_of("shot_noise", 5)
    x = np.full((1, 64, 64, 3), 0.8, np.float32)
    out = np.asarray(corruption.apply(x, wrapped(image_keys("shot_noise", ["b"])), constants, {}))
    counts = np.bincount(np.round(out * 3).astype(int).ravel(), minlength=30)[:9]
    expect = stats.poisson.pmf(np.arange(9), 2.4) * x.size
    assert ((counts - expect) ** 2 / expect).sum() < stats.chi2.ppf(0.9999, 8)


def test_a_chain_of_copies_reads_what_the_loop_reads():
    """Shifts that all point to the next pixel: the last one outside the area spreads over the row."""
    size, reach = 8, 2
    shift = np.zeros((size, size, 2), np.int32)
    shift[..., 0] = 1
    cells = np.asarray(blur._origins(jax.numpy.asarray(shift), reach)).reshape(size, size)
    row = np.arange(size)
    assert (
        cells[4] == 4 * size + np.where((row > reach) & (row <= size - reach), size - reach + 1, row)
    ).all()


def test_a_dry_lens_changes_nothing(pixels):
    """No liquid: no edge, no light, no division by zero."""
    constants = {**constants_of("spatter", 2), "mean": 0.0, "deviation": 0.0}
    x = jax.numpy.asarray((pixels / 255).astype(np.float32))
    dry = jax.jit(lambda x, key: spatter.spatter(x, key, constants))
    assert (np.asarray(dry(x, jax.random.key(0))) == np.asarray(x)).all()


def test_devices_and_batches_do_not_matter(pixels):
    ids = [f"{k}.jpg" for k in range(3)]
    images = np.stack([pixels, pixels[::-1], pixels[:, ::-1]])
    for kind in ("gaussian_noise", "jpeg_compression"):
        whole = Runner(find_corruption(kind), 3)(images, ids)
        one_device = Runner(find_corruption(kind), 3, make_mesh(jax.devices()[:1]))
        alone = np.concatenate([one_device(images[k : k + 1], ids[k : k + 1]) for k in (2, 0, 1)])
        assert (whole == alone[[1, 2, 0]]).all()
        assert (whole != images).any()


def test_frost_without_pictures_is_refused(tmp_path):
    with pytest.raises(UsageError, match="the corruption frost needs frost"):
        Runner(find_corruption("frost"), 1)(np.zeros((1, SIZE, SIZE, 3), np.uint8), ["a"])
    with pytest.raises(DataError, match="no picture of frost"):
        frost_pictures(tmp_path, SIZE)
    Image.new("RGB", (SIZE, 2 * SIZE)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: 48 x 96 pixels; a picture of frost must be larger"):
        frost_pictures(tmp_path, SIZE)
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"a\.png: not an image in JPEG, PNG, PPM, BMP, TIFF, WebP or GIF"):
        frost_pictures(tmp_path, SIZE)
