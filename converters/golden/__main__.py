"""`python -m converters.golden`: a checkpoint and a batch of inputs in, one .npz out.

`--inputs` holds `images` float32 [B, H, W, 3], normalised, and for a dual encoder `ids` int32 [B, L].
`--arch` is a name the library knows or, for an architecture of one's own, the path of a JSON file: an
open_clip model config or clipjax's own arch record.
The output holds the inputs, one array a stage, the last results, and `meta`: a JSON string with the order of
the stages, the library versions and the checkpoint's SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from converters.golden.build import LIBRARIES, build_model, load_strict
from converters.golden.run import run


def write_golden(
    out: Path, arrays: dict[str, np.ndarray], inputs: dict[str, np.ndarray], facts: dict
) -> None:
    """Writes inputs, arrays and `meta` as one .npz, which appears only when complete."""
    meta = {"format": 1, "stages": list(arrays), "torch": torch.__version__, **facts}
    partial = out.with_name(out.name + ".partial")
    with partial.open("wb") as file:
        everything: dict[str, Any] = {"meta": np.array(json.dumps(meta)), **inputs, **arrays}
        np.savez_compressed(file, **everything)
    os.replace(partial, out)


def main(
    checkpoint: Annotated[Path, typer.Option(help="Weights in a format the reference itself reads.")],
    arch: Annotated[
        str, typer.Option(help="A model name of the library, or an open_clip model config (JSON).")
    ],
    inputs: Annotated[
        Path, typer.Option(help=".npz with images [B,H,W,3] float32 and, for a CLIP, ids [B,L] int32.")
    ],
    out: Annotated[Path, typer.Option(help="Where to write the golden (.npz).")],
    library: Annotated[str, typer.Option(help="open_clip or timm.")] = "open_clip",
) -> None:
    """Runs the PyTorch reference on a checkpoint and writes every stage."""
    if library not in LIBRARIES:
        raise typer.BadParameter(f"no reference library named {library!r}: give open_clip or timm")
    torch.manual_seed(0)
    model = build_model(arch, library)
    load_strict(model, checkpoint)
    given = dict(np.load(inputs))
    arrays = run(model, given["images"], given.get("ids"))
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    facts = {
        "library": library,
        "version": LIBRARIES[library],
        "arch": Path(arch).name,
        "checkpoint_sha256": digest,
    }
    write_golden(out, arrays, given, facts)


if __name__ == "__main__":
    typer.run(main)
