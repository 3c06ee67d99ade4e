"""Images as frames of compressed video, through the system's ffmpeg.

An image becomes a clip of a second without motion. It is compressed as H.265, and the last frame is the
result. The constants are those of Mini Kinetics-C (Yi et al. 2021), whose clips move. ImageNet-3DCC uses the
same names for its own kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from clipjax.corruptions.corruption import Constants, Corruption, Extra
from clipjax.corruptions.program import output_of
from clipjax.errors import DataError

FRAMES = 30  # of a clip, and a second
DEFAULT_CRF = 28  # x265's own, of the clip whose bit rate is divided
_PROGRAM = "ffmpeg"
_AT_ONCE = 4


def h265_crf(images: np.ndarray, keys: Any, constants: Constants, extra: Extra) -> np.ndarray:
    """A constant rate factor."""
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


def _each(images: np.ndarray, one: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        frames = list(pool.map(one, np.round(images * 255).astype(np.uint8)))
    return np.stack(frames).astype(np.float32) / 255


def _rate_factor(crf: float) -> list[str]:
    return ["-crf", str(int(crf))]


def _clip(image: np.ndarray, quality: Sequence[str]) -> bytes:
    """An H.265 stream of FRAMES copies; one thread, so that its bytes do not depend on the machine."""
    height, width = image.shape[:2]
    size = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(FRAMES), "-i", "-"]
    coded = ["-c:v", "libx265", "-pix_fmt", "yuv420p", *quality]
    alone = ["-x265-params", "log-level=error:pools=1:frame-threads=1"]
    command = [_PROGRAM, "-v", "error", *size, *coded, *alone, "-f", "hevc", "-"]
    return output_of(command, image.tobytes() * FRAMES)


def _frame(stream: bytes, image: np.ndarray) -> np.ndarray:
    """The last frame of a stream, uint8 as `image`. Raises DataError for a stream without a whole frame."""
    command = [_PROGRAM, "-v", "error", "-f", "hevc", "-i", "-", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    frames = output_of(command, stream)
    if len(frames) < image.size:
        raise DataError(f"{_PROGRAM} decoded no whole frame of the clip that it made")
    return np.frombuffer(frames[-image.size :], np.uint8).reshape(image.shape)


_SOURCE = (
    "Yi et al., Benchmarking the robustness of spatial-temporal models against corruptions, NeurIPS 2021, "
    "and its reference code (Newbeeyoung/Video-Corruption-Robustness fbe8fb5)"
)
_STILL = (
    f"the clip is {FRAMES} copies of the image and its last frame is taken: ours, never compare with "
    "published numbers of ImageNet-3DCC"
)

CORRUPTIONS = (
    Corruption("h265_crf", h265_crf, _SOURCE, convention=_STILL, on_host=True, program=_PROGRAM),
    Corruption("h265_abr", h265_abr, _SOURCE, convention=_STILL, on_host=True, program=_PROGRAM),
)
