"""Makes the goldens beside it: a tiny CLIP of each kind and what the reference computes with it.

    python tests/golden/make.py

Each folder is laid out as an open_clip hub repository and holds `golden.npz` too, written by

    python -m converters.golden run --library open_clip --checkpoint FOLDER/open_clip_model.safetensors \\
        --arch FOLDER/open_clip_config.json --inputs INPUTS.npz --out FOLDER/golden.npz
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import reference  # noqa: E402

TEXT = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 2}
VIT = {"image_size": 24, "patch_size": 8, "width": 32, "head_width": 16, "layers": 2}
RESNET = {"image_size": 64, "width": 4, "head_width": 32, "layers": [1, 1, 1, 1]}
CONFIGS: dict[str, dict[str, Any]] = {
    "tiny_vit": {"embed_dim": 24, "quick_gelu": True, "vision_cfg": VIT, "text_cfg": TEXT},
    "tiny_resnet": {"embed_dim": 24, "vision_cfg": RESNET, "text_cfg": TEXT},
}


def make(name: str, config: dict[str, Any]) -> None:
    folder = reference.save_folder(reference.conditioned(config), config, HERE / name)
    with tempfile.TemporaryDirectory() as temporary:
        inputs = Path(temporary) / "inputs.npz"
        arrays: dict[str, Any] = reference.inputs(config, batch=2)
        np.savez(inputs, **arrays)
        command = [sys.executable, "-m", "converters.golden", "run", "--library", "open_clip"]
        command += ["--checkpoint", str(folder / "open_clip_model.safetensors")]
        command += ["--arch", str(folder / "open_clip_config.json")]
        command += ["--inputs", str(inputs), "--out", str(folder / "golden.npz")]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    for name, config in CONFIGS.items():
        make(name, config)
