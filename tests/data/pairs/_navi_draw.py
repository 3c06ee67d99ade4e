"""Write probe3d's own draw of NAVI's pairs as a file for the reader's option `pairs`.

    python tests/data/pairs/_navi_draw.py NAVI > drawn.txt

The reference (evals/datasets/navi.py at a1f1464) draws while it loads, from torch's generator with seed 8.
Each wild_set image gets one of its object's images at an angle above 0 and at most 120 degrees, in float32;
then every fourth image stays. Folders and images are in the file system's order: `--listing` takes that
order, and without it names are sorted. In float32 the angle of an image to itself is often above 0, so the
reference draws some pairs of an image with itself: `--self` allows them.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path

import torch

SEED, WIDEST, EVERY = 8, 120, 4


def drawn(root: Path, *, listing: bool = False, with_self: bool = False) -> list[str]:
    """Lines `path path angle`."""
    torch.manual_seed(SEED)
    lines = []
    for thing in objects(root, listing):
        scene = root / thing / "wild_set"
        records = {
            r["filename"].split(".")[0]: r for r in json.loads((scene / "annotations.json").read_text())
        }
        names = [name.split(".")[0] for name in ordered(scene / "images", listing) if "jpg" in name]
        names = [name for name in names if "_" not in name]
        turns = torch.stack([rotation(records[name]["camera"]["q"]) for name in names])
        for i, name in enumerate(names):
            products = turns[i] @ turns.transpose(1, 2)
            trace = products.diagonal(dim1=1, dim2=2).sum(1)
            angles = torch.rad2deg(((trace - 1) / 2).clamp(-1, 1).acos())
            near = ((angles > 0) & (angles <= WIDEST)).float()
            if not with_self:
                near[i] = 0
            if not near.any():
                raise SystemExit(f"{scene}: no image is within {WIDEST} degrees of {name}")
            k = int(torch.multinomial(near, 1))
            paths = [f"{thing}/wild_set/images/{each}.jpg" for each in (name, names[k])]
            lines.append(f"{paths[0]} {paths[1]} {float(angles[k]):.4f}")
    return lines[::EVERY]


def objects(root: Path, listing: bool) -> Iterator[str]:
    """Those with a wild_set and a multi-view scene."""
    for thing in ordered(root, listing):
        if (root / thing / "wild_set").is_dir() and any((root / thing).glob("multiview[-_]*")):
            yield thing


def ordered(folder: Path, listing: bool) -> list[str]:
    return os.listdir(folder) if listing else sorted(os.listdir(folder))


def rotation(quaternion: list[float]) -> torch.Tensor:
    q = torch.tensor(quaternion, dtype=torch.float32)
    w, x, y, z = q
    s = 2 / (q * q).sum()
    return torch.stack(
        [
            torch.stack([1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w)]),
            torch.stack([s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w)]),
            torch.stack([s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y)]),
        ]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path, help="the folder of NAVI's objects")
    parser.add_argument("--listing", action="store_true", help="the file system's order, as the reference")
    parser.add_argument("--self", action="store_true", help="allow an image as its own partner")
    options = parser.parse_args()
    print("\n".join(drawn(options.root, listing=options.listing, with_self=options.self)))
