"""Images as frames of compressed video, through the system's ffmpeg.

An image becomes a clip of a second without motion. It is compressed as H.265, or as H.264 whose bytes are
damaged, and the last frame is the result. The constants are those of Mini Kinetics-C (Yi et al. 2021), whose
clips move. ImageNet-3DCC uses the same names for its own kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from clipjax.corruptions.corruption import Apply, Constants, Corruption, Extra
from clipjax.corruptions.program import output_of
from clipjax.errors import DataError

FRAMES = 30  # of a clip, and a second
DEFAULT_CRF = 28  # x265's own, of the clip whose bit rate is divided
GREY = 128  # of an image without a frame
_PROGRAM = "ffmpeg"
_H264 = ("-c:v", "libx264", "-threads", "1")  # at x264's own quality
_AT_ONCE = 4


def h265_crf(images: np.ndarray, keys: Any, constants: Constants, extra: Extra) -> np.ndarray:
    """A frame of a video that x265 compresses at a constant rate factor."""
    del keys, extra
    return _each(images, lambda image: _frame(_clip(image, _rate_factor(constants["crf"])), image))


def h265_abr(images: np.ndarray, keys: Any, constants: Constants, extra: Extra) -> np.ndarray:
    """A bit rate: that of the clip at x265's default quality, divided by `divisor`."""
    del keys, extra

    def one(image: np.ndarray) -> np.ndarray:
        bits = 8 * len(_clip(image, _rate_factor(DEFAULT_CRF)))
        rate = str(int(bits / constants["divisor"]))
        return _frame(_clip(image, ["-b:v", rate, "-maxrate", rate, "-bufsize", rate]), image)

    return _each(images, one)


def bit_error(images: np.ndarray, keys: Any, constants: Constants, extra: Extra) -> np.ndarray:
    """Replace about one byte of `amount` by ffmpeg's bitstream filter `noise`, which draws nothing.

    Where no frame can be decoded, the image is grey.
    """
    del keys, extra
    noise = ["-bsf:v", f"noise=amount={int(constants['amount'])}"]

    def one(image: np.ndarray) -> np.ndarray:
        frames = output_of(_decoder("h264"), _coded(image, [*_H264, *noise], "h264"), check=False)
        if len(frames) >= image.size:
            return _last(frames, image)
        _last(output_of(_decoder("h264"), _coded(image, _H264, "h264")), image)  # ffmpeg itself is fine
        return np.full_like(image, GREY)

    return _each(images, one)


def _each(images: np.ndarray, one: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        frames = list(pool.map(one, np.round(images * 255).astype(np.uint8)))
    return np.stack(frames).astype(np.float32) / 255


def _rate_factor(crf: float) -> list[str]:
    return ["-crf", str(int(crf))]


def _clip(image: np.ndarray, quality: Sequence[str]) -> bytes:
    """An H.265 stream of FRAMES copies; one thread, so that its bytes do not depend on the machine."""
    alone = ["-x265-params", "log-level=error:pools=1:frame-threads=1"]
    return _coded(image, ["-c:v", "libx265", *quality, *alone], "hevc")


def _coded(image: np.ndarray, codec: Sequence[str], form: str) -> bytes:
    height, width = image.shape[:2]
    size = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(FRAMES), "-i", "-"]
    command = [_PROGRAM, "-v", "error", *size, "-pix_fmt", "yuv420p", *codec, "-f", form, "-"]
    return output_of(command, image.tobytes() * FRAMES)


def _frame(stream: bytes, image: np.ndarray) -> np.ndarray:
    """The last frame of an H.265 stream, uint8 as `image`. Raises DataError without a whole frame."""
    return _last(output_of(_decoder("hevc"), stream), image)


def _decoder(form: str) -> list[str]:
    """One thread: what becomes of damage must not depend on the machine."""
    read = ["-threads", "1", "-f", form, "-i", "-"]
    return [_PROGRAM, "-v", "error", *read, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]


def _last(frames: bytes, image: np.ndarray) -> np.ndarray:
    if len(frames) < image.size:
        raise DataError(f"{_PROGRAM} decoded no whole frame of the clip that it made")
    return np.frombuffer(frames[-image.size :], np.uint8).reshape(image.shape)


_SOURCE = (
    "Yi et al., Benchmarking the robustness of spatial-temporal models against corruptions, NeurIPS 2021, "
    "and its reference code (Newbeeyoung/Video-Corruption-Robustness fbe8fb5)"
)
_STILL = f"the clip is {FRAMES} copies of the image and its last frame is taken"
_OURS = "ours, never compare with published numbers of ImageNet-3DCC"


def _kind(name: str, apply: Apply, choice: str = "") -> Corruption:
    convention = "; ".join(filter(None, (_STILL, choice))) + f": {_OURS}"
    return Corruption(name, apply, _SOURCE, convention=convention, on_host=True, program=_PROGRAM)


CORRUPTIONS = (
    _kind("h265_crf", h265_crf),
    _kind("h265_abr", h265_abr),
    _kind(
        "bit_error",
        bit_error,
        "an H.264 stream of x264's own quality is damaged, so a large share of images keeps every byte; an "
        "image without a frame is grey",
    ),
)
