"""Small models with the real tokenizer, and a folder of small data sets of colours to tune and test on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import PIL.Image
from _drawn import initialised

from clipjax.checkpoints.card import WeightsSource
from clipjax.checkpoints.identity.registry import model_card
from clipjax.checkpoints.model import Model
from clipjax.models.arch import Arch, load_arch, narrow_arch
from clipjax.models.families.convolutions.modified_resnet import ModifiedResNetConfig
from clipjax.models.network import Network

RGB = {"blue": (40, 40, 220), "green": (30, 200, 40), "red": (220, 30, 30), "white": (235, 235, 235)}
SIDE = 20
_CARDS = {
    "colours_train": 'split = "train"',
    "colours_spare": 'split = "validation"',
    "colours_val": 'tasks = ["zeroshot", "calibration"]\nid = "colours_val"',
    "colours_dark": 'tasks = ["zeroshot"]',
    "odd": 'tasks = ["ood"]\nid = "colours_val"',
}


def small_arch(full: Arch) -> Arch:
    """The narrow record of an architecture with OpenAI's vocabulary, its text tower 32 wide; a ResNet with
    one block a stage, the demo's small CLIP with 16 pixels."""
    arch: Any = narrow_arch(full)
    sizes = {"width": 32, "mlp_width": 64, "vocab_size": 49408, "context_length": 77}
    if arch.name == "demo_small":
        tower = {"image_size": 16, "width": 32, "mlp_width": 64, "embed_dim": 32}
        sizes |= {"embed_dim": 32}
        arch = dataclasses.replace(arch, vision=dataclasses.replace(arch.vision, **tower))
    if isinstance(arch.vision, ModifiedResNetConfig):
        tower = {"image_size": 64, "layers": (1, 1, 1, 1)}
        arch = dataclasses.replace(arch, vision=dataclasses.replace(arch.vision, **tower))
    return dataclasses.replace(arch, text=dataclasses.replace(arch.text, **sizes))


def small_model(folder: Path, like: str | None = None, seed: int = 0, quick: bool = False) -> Path:
    """A small model with the reference's initialisation, saved in `folder`; its id is the folder's name.

    Args:
        like: a registered model, of which it is the narrow one; None: the demo's small CLIP, smaller still.
        quick: NumPy's random numbers, without the program that draws JAX's in seconds.
    """
    known = model_card(like or "vit_b_32-openai")
    arch = small_arch(known.arch if like else load_arch("demo_small"))
    side, network = arch.vision.image_size, Network(arch)
    params = initialised(arch, seed) if quick else network.init_params(jax.random.key(seed))
    card = dataclasses.replace(
        known,
        id=folder.name,
        arch=arch,
        source=WeightsSource("clipjax", arch.name, "narrow"),
        preprocess=dataclasses.replace(known.preprocess, image_size=side, resize_size=side),
        logit_scale=float(np.exp(params["logit_scale"])),
        unknown={},
    )
    return Model(card, jax.device_get(params)).save(folder)


def write_colours(root: Path, train: int = 6, each: int = 3) -> Path:
    """Cards and images of five data sets below `root`: noise around a colour, a class each; `train` and
    `each` a class. In `odd` there is no colour."""
    rng = np.random.default_rng(0)
    for name, keys in _CARDS.items():
        labels = "" if name == "odd" else 'label_space = "colours.csv"\nprompts = "single"\n'
        reader = "flat" if name == "odd" else "folder"
        head = f'name = "{name}"\ntitle = "{name}"\nreader = "{reader}"\n{labels}{keys}\n'
        (root / f"{name}.toml").parent.mkdir(parents=True, exist_ok=True)
        (root / f"{name}.toml").write_text(head)
        for colour, rgb in RGB.items():
            folder = root / name / ("deep" if name == "odd" else colour)
            for i in range(train if name == "colours_train" else each):
                light = {"odd": 0.0, "colours_dark": 0.4}.get(name, 1.0)
                noise = rng.integers(-30, 31, (SIDE, SIDE, 3))
                pixels = np.clip(light * np.array(rgb) + noise, 0, 255).astype(np.uint8)
                path = folder / f"{colour}{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                PIL.Image.fromarray(pixels).save(path)
    (root / "colours.csv").write_text("id,name\n" + "".join(f"{name},{name}\n" for name in RGB))
    return root
