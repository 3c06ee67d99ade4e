"""A picture for docs/ in few bytes: as wide as a page shows it, with a palette of 256 colours.

.venv/bin/python docs/palette.py crosscheck/*/sheet.png docs/pictures/crosscheck.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import PIL.Image


def write(picture: PIL.Image.Image, out: Path, width: int | None = None) -> None:
    """Write a PNG. width: in pixels; None: the picture's."""
    picture = picture.convert("RGB")
    if width is not None:
        height = round(picture.height * width / picture.width)
        picture = picture.resize((width, height), PIL.Image.Resampling.LANCZOS)
    picture.quantize(256, PIL.Image.Quantize.FASTOCTREE).save(out, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--width", type=int, help="in pixels")
    asked = parser.parse_args()
    write(PIL.Image.open(asked.picture), asked.out, asked.width)


if __name__ == "__main__":
    main()
