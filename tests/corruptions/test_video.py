"""Images through a video codec: the commands that a stand-in for ffmpeg gets, and ffmpeg where installed."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from clipjax.corruptions.corruption import constants_of, find_corruption
from clipjax.corruptions.runner import Runner
from clipjax.data.corrupted.inputs import CorruptionInputs
from clipjax.errors import DataError, UsageError

SIZE = 8
STREAM = 4000  # bytes of a clip that the stand-in encodes
# Encodes a clip as its quality, its rate, or the thousands of bytes of which one is damaged (150: none is).
# Decodes it as the frames 0 to 28 and one with that number.
PROGRAM = f"""#!{sys.executable} -S
import json, os, sys
options = sys.argv[1:]
with open(os.environ["SEEN"], "a") as seen:
    print(json.dumps(options), file=seen)
if options == ["-version"]:
    print("ffmpeg version 1\\nmore")
    sys.exit()
data = sys.stdin.buffer.read()
if "libx265" in options:
    name = "-crf" if "-crf" in options else "-b:v"
    value = int(options[options.index(name) + 1])
    if len(data) != 30 * {SIZE * SIZE * 3} or value == 51:
        sys.exit("first\\nno such quality")
    sys.stdout.buffer.write(value.to_bytes(4, "big").ljust({STREAM}, b"x"))
elif "libx264" in options:
    noise = options[options.index("-bsf:v") + 1] if "-bsf:v" in options else "noise=amount=150000"
    value = int(noise.removeprefix("noise=amount=")) // 1000
    sys.stdout.buffer.write(value.to_bytes(4, "big").ljust({STREAM}, b"x"))
else:
    value = int.from_bytes(data[:4], "big")
    if value in json.loads(os.environ.get("LOST", "[]")):
        sys.exit("no frame")
    last = value if value < 200 else value // 100
    frames = [*range(29), last]
    sys.stdout.buffer.write(b"".join(bytes([frame]) * {SIZE * SIZE * 3} for frame in frames))
"""


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with the options of every call."""
    program = tmp_path / "ffmpeg"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
    return tmp_path / "seen"


def run(kind: str, severity: int) -> np.ndarray:
    pixels = np.random.default_rng(0).integers(0, 256, (1, SIZE, SIZE, 3), np.uint8)
    corruption = find_corruption(kind)
    out = corruption.apply((pixels / 255).astype(np.float32), None, constants_of(kind, severity), {})
    return np.round(out * 255).astype(int)


def test_the_last_frame_at_a_quality(seen: Path) -> None:
    assert (run("h265_crf", 3) == 39).all()
    encode, decode = map(json.loads, seen.read_text().splitlines())
    assert encode[encode.index("-s") + 1] == f"{SIZE}x{SIZE}"
    assert decode[decode.index("-i") + 1] == "-"


def test_a_bit_rate_is_a_share_of_the_clips(seen: Path) -> None:
    """8 * STREAM bits a second at x265's own quality, 28, divided by 8."""
    assert (run("h265_abr", 3) == 8 * STREAM / 8 // 100).all()
    first, second, _ = map(json.loads, seen.read_text().splitlines())
    assert first[first.index("-crf") + 1] == "28"
    rates = [second[second.index(name) + 1] for name in ("-b:v", "-maxrate", "-bufsize")]
    assert rates == [str(STREAM)] * 3


def test_the_last_frame_of_a_damaged_stream(seen: Path) -> None:
    assert (run("bit_error", 1) == 100).all()
    encode, decode = map(json.loads, seen.read_text().splitlines())
    assert encode[encode.index("-bsf:v") + 1] == "noise=amount=100000"
    for command in (encode, decode):
        assert command[command.index("-threads") + 1] == "1"
    assert decode[decode.index("-f") + 1] == "h264"


def test_an_image_without_a_frame_is_grey_unless_ffmpeg_fails(
    seen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOST", "[10]")
    assert (run("bit_error", 5) == 128).all()
    monkeypatch.setenv("LOST", "[10, 150]")
    with pytest.raises(DataError, match=r"^ffmpeg ended with 1: no frame$"):
        run("bit_error", 5)


def test_a_failure_is_one_sentence(seen: Path) -> None:
    with pytest.raises(DataError, match=r"^ffmpeg ended with 1: no such quality$"):
        run("h265_crf", 5)


def test_its_version_is_in_the_record(seen: Path) -> None:
    assert CorruptionInputs().conventions(find_corruption("h265_crf")) == {"program": "ffmpeg version 1"}


def test_without_ffmpeg_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    corruption = find_corruption("h265_abr")
    with pytest.raises(UsageError, match=r"^the corruption h265_abr needs ffmpeg, which is not on the PATH"):
        CorruptionInputs().check([corruption])
    with pytest.raises(UsageError, match="needs ffmpeg"):
        Runner(corruption, 1)(np.zeros((1, SIZE, SIZE, 3), np.uint8), ["a"])


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no ffmpeg on this machine")
@pytest.mark.parametrize("kind", ["h265_crf", "h265_abr"])
def test_ffmpeg_itself(kind: str) -> None:
    """Severity 1 is close to the image, 4 is farther, and a second run gives the same bytes."""
    row = np.linspace(0, 1, 64)
    image = np.stack(
        [np.outer(row, row), np.outer(row, 1 - row), np.sin(9 * row) * np.ones((64, 1)) / 2 + 0.5], -1
    )
    images = np.round(image * 255)[None].astype(np.float32) / 255
    corruption = find_corruption(kind)

    def damaged(severity: int) -> np.ndarray:
        return corruption.apply(images, None, constants_of(kind, severity), {})

    near, far = (float(np.abs(damaged(severity) - images).mean()) for severity in (1, 4))
    assert near < 0.05
    assert far > 1.5 * near
    assert (damaged(4) == damaged(4)).all()


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no ffmpeg on this machine")
def test_damage_by_ffmpeg_itself() -> None:
    """The stream of noise is long: severity 5 replaces several bytes, and always the same ones."""
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.float32) / 255

    def damaged(severity: int) -> np.ndarray:
        constants = constants_of("bit_error", severity)
        return find_corruption("bit_error").apply(images, None, constants, {})

    worst = damaged(5)
    assert worst.shape == images.shape
    assert (worst == damaged(5)).all()
    assert np.abs(worst - images).mean() > np.abs(damaged(1) - images).mean()
