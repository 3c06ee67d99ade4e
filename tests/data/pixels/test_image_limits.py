"""Images made to fill the memory are refused in one sentence, before they do; large real ones are read."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import resource
import struct
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path

import PIL.Image
import pytest
from etils import epath

from clipjax.data.check import check_dataset
from clipjax.data.manifest import FileOpener
from clipjax.data.pixels import limits
from clipjax.data.pixels.loader import batches
from clipjax.data.pixels.preprocess import PixelRecipe, open_image, to_pixels
from clipjax.data.readers.flat import read_flat
from clipjax.errors import DataError

HUGE = 50_000
ROW = zlib.compress(b"\0" * 52)  # the pixels of a PNG of 4 x 4


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, extra: bytes = b"", pixels: bytes = ROW, late: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", pixels) + late + chunk(b"IEND", b"")


def gif(width: int, height: int, frame_width: int, frame_height: int) -> bytes:
    palette = b"\0\0\0\xff\xff\xff"
    frame = b"," + struct.pack("<HHHH", 0, 0, frame_width, frame_height) + b"\0\x02\x02D\x01\0;"
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\0\0" + palette + frame


def tiff(width: int, height: int) -> bytes:
    """Of one strip, grey, not compressed."""
    size = min(width * height, 2**32 - 1)
    values = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: size}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in values.items())
    return b"II*\0" + struct.pack("<IH", 8, len(values)) + entries + b"\0\0\0\0"


def bmp(width: int, height: int) -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 100, 0, 0, 54) + info


BOMBS = {
    "zip bomb.png": png(HUGE, HUGE, pixels=zlib.compress(b"\0" * 10**6)),
    "screen.gif": gif(65535, 65535, 1, 1),
    "frame.gif": gif(1, 1, 65535, 65535),
    "strip.tiff": tiff(HUGE, HUGE),
    "rows.bmp": bmp(HUGE, HUGE),
    "numbers.ppm": b"P6 50000 50000 255\n",
}


@pytest.mark.parametrize("name", BOMBS)
def test_too_many_pixels_are_refused_unread(name: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError) as refused:
        open_image(BOMBS[name], name)
    pixels = "4,294,836,225" if "gif" in name else "2,500,000,000"
    assert str(refused.value) == (
        f"{name}: {pixels} pixels, and 178,956,970 is the limit; make it smaller or remove it"
    )
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, (
        "in kB: the pixels alone are 2 GB"
    )


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_our_limit_stands_where_others_have_lifted_pillows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(
        DataError, match=r"^a\.png: 50,000 x 50,000 pixels, and 178,956,970 is the limit; make"
    ):
        open_image(png(HUGE, HUGE), "a.png")
    assert open_image(png(4, 4)).size == (4, 4)


def test_the_limit_is_pillows_own() -> None:
    assert PIL.Image.MAX_IMAGE_PIXELS is not None
    assert 2 * PIL.Image.MAX_IMAGE_PIXELS == limits.MAX_PIXELS


def test_a_hundred_megapixels_are_an_image() -> None:
    buffer = io.BytesIO()
    PIL.Image.new("1", (10_000, 10_000)).save(buffer, "PNG", compress_level=1)
    with pytest.warns(PIL.Image.DecompressionBombWarning):
        assert open_image(buffer.getvalue()).size == (10_000, 10_000)
    with pytest.raises(DataError, match="100,000,000 pixels, and 89,478,485 is the limit"):
        open_image(buffer.getvalue())  # warnings are errors here


@functools.cache
def packed(size: int) -> bytes:
    """So many zeros, compressed piece by piece: a test that makes the bomb must not be one."""
    packer, piece = zlib.compressobj(1), bytes(10**6)
    return b"".join(packer.compress(piece) for _ in range(size // len(piece))) + packer.flush()


@contextlib.contextmanager
def at_most(size: int) -> Iterator[None]:
    """No more bytes of Python's memory than that at any time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < size
    finally:
        tracemalloc.stop()


def text(name: str) -> bytes:
    if name == "many":
        return chunk(b"zTXt", b"k\0\0" + packed(10**6)) * 100
    before = {"zTXt": b"k\0\0", "iTXt": b"k\0\1\0\0\0", "iCCP": b"k\0\0"}[name]
    return chunk(name.encode(), before + packed(10**8))


@pytest.mark.parametrize(
    ("name", "late"), [("zTXt", False), ("iTXt", False), ("iCCP", False), ("many", False), ("zTXt", True)]
)
def test_texts_that_unpack_to_megabytes(name: str, late: bool) -> None:
    image = png(4, 4, late=text(name)) if late else png(4, 4, text(name))
    says = r"^t\.png: a text or colour profile in it unpacks to megabytes .* save it again without"
    with at_most(8 * 10**7), pytest.raises(DataError, match=says):
        open_image(image, "t.png")


def test_pixels_beyond_the_image_are_not_unpacked() -> None:
    image = png(4, 4, pixels=packed(10**8))
    with at_most(10**7):
        assert open_image(image).size == (4, 4)


def test_a_file_larger_than_any_image_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tiff"
    path.touch()
    os.truncate(path, limits.MAX_BYTES + 1)  # sparse: takes no disk
    says = r"a\.tiff: 1,431,655,761 bytes, more than any image of 178,956,970 pixels takes; make it smaller"
    for read in (lambda: open_image(path), lambda: FileOpener(str(tmp_path), ("a.tiff",)).open(0)):
        with pytest.raises(DataError, match=says):
            read()
    os.truncate(path, 0)
    assert FileOpener(str(epath.Path(tmp_path)), ("a.tiff",)).open(0) == b""


def test_the_check_says_the_same(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.png").write_bytes(BOMBS["zip bomb.png"])
    (tmp_path / "card.toml").write_text('name = "c"\ntitle = "C"\nreader = "flat"\n')
    [problem] = check_dataset(tmp_path / "data", tmp_path / "card.toml")
    assert (
        problem == "a.png: 2,500,000,000 pixels, and 178,956,970 is the limit; make it smaller or remove it"
    )


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1), (17, 65_000)])
def test_an_image_so_thin_that_its_resize_fills_the_memory(
    tmp_path: Path, size: tuple[int, int], kind: str
) -> None:
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "a.png"
    PIL.Image.new("RGB", size).save(path, kind)
    long = 224 * max(size) // min(size)
    shape = f"{long:,} x 224" if size[0] > size[1] else f"224 x {long:,}"
    says = rf"an image of {size[0]} x {size[1]} pixels is so thin that {shape} become of it"
    image = open_image(path)
    for decode in ("full", "jpeg_scaled"):
        recipe = PixelRecipe(224, 224, decode=decode)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(DataError, match=says):
            to_pixels(image, recipe)
        with pytest.raises(DataError, match=rf"a\.png: {says} .*; replace or remove it"):
            list(batches(read_flat(epath.Path(path.parent)), recipe, batch_size=1))
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, "in kB"
    (tmp_path / "card.toml").write_text('name = "c"\ntitle = "C"\nreader = "flat"\n')
    [problem] = check_dataset(path.parent, tmp_path / "card.toml")
    assert problem.startswith(f"a.png: {says}")


def test_a_thin_image_within_the_limit_is_an_image() -> None:
    assert to_pixels(PIL.Image.new("RGB", (2, 3000)), PixelRecipe(224, 224)).shape == (224, 224, 3)
