"""The PyTorch reference, stage by stage: a checkpoint and a batch of inputs in, one .npz out.

    python -m converters.golden --checkpoint w.safetensors --arch ViT-B-32 --library open_clip \\
        --inputs in.npz --out out.npz

This is the only file of clipjax that imports torch, and nothing imports it on the way from a checkpoint to
a number: `clipjax.verify` runs it in a subprocess and exchanges arrays by file. It builds the reference's own
model (open_clip 3.3 `model.CLIP`, timm 1.0 `create_model`), loads the checkpoint strictly, and records every
stage with forward hooks, in clipjax's layout (channels last) and under the names of `clipjax.models.network`.

`--inputs` holds `images` float32 [B, H, W, 3], normalised, and for open_clip `ids` int32 [B, L]. `--arch` is
a name the library knows or, for an architecture of one's own, the path of a JSON file: an open_clip model
config or clipjax's own arch record.
The output holds the inputs, one array a stage, the last results, and `meta`: a JSON string with the order of
the stages, the library versions and the checkpoint's SHA-256.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import open_clip
import timm
import torch
import typer
from open_clip.model import CLIP
from open_clip.transformer import text_global_pool
from torch import Tensor, nn
from torch.nn import functional as F

LIBRARIES = {"open_clip": open_clip.__version__, "timm": timm.__version__}


def build_model(arch: str | dict[str, Any], library: str = "open_clip") -> nn.Module:
    """The reference's model with its own initialisation, float32 on the CPU, in eval mode.

    arch: a name of the library or, for open_clip, a model config: the dict itself or the path of its JSON (an
    `open_clip_config.json` will do).
    """
    if library == "timm":
        return timm.create_model(str(arch), pretrained=False).eval()
    return CLIP(**copy.deepcopy(model_config(arch))).eval()


def model_config(arch: str | dict[str, Any]) -> dict[str, Any]:
    """The open_clip model config of a known name or of a JSON file."""
    if isinstance(arch, dict):
        config = arch
    elif arch.endswith(".json"):
        config = json.loads(Path(arch).read_text())
        config = from_record(config) if "vision" in config else config.get("model_cfg", config)
    else:
        config = open_clip.get_model_config(arch)
    if not config:
        raise SystemExit(f"open_clip has no model config named {arch!r}: give a known name or a JSON file")
    unsupported = sorted(set(config) & {"custom_text", "multimodal_cfg"})
    if unsupported:
        raise SystemExit(
            f"{arch}: model configs with {unsupported} are not built by the reference runner yet"
        )
    return config


def from_record(record: dict[str, Any]) -> dict[str, Any]:
    """The open_clip model config of a clipjax arch record (`clipjax.models.arch.arch_to_dict`)."""
    vision, text = record["vision"], record["text"]
    activations = {tower["activation"] for tower in (vision, text) if "activation" in tower} - {"relu"}
    if len(activations) != 1 or not activations <= {"gelu", "quick_gelu"}:
        raise SystemExit(
            f"open_clip has one activation, gelu or quick_gelu, for both towers; not {activations}"
        )
    tower = {"image_size": vision["image_size"], "width": vision["width"], "layers": vision["layers"]}
    if vision["family"] == "modified_resnet":
        if vision["bn_eps"] != 1e-5:
            raise SystemExit(f"open_clip's ModifiedResNet has eps 1e-5, not {vision['bn_eps']}")
        tower["head_width"] = vision["width"] * 32 // vision["heads"]
    else:
        tower["head_width"] = vision["width"] // vision["heads"]
        tower |= {"patch_size": vision["patch_size"], **transformer_options(vision)}
    names = ("context_length", "vocab_size", "width", "layers", "heads")
    return {
        "embed_dim": vision["embed_dim"],
        "quick_gelu": activations == {"quick_gelu"},
        "vision_cfg": tower,
        "text_cfg": {name: text[name] for name in names} | transformer_options(text),
    }


def transformer_options(tower: dict[str, Any]) -> dict[str, Any]:
    # open_clip takes the integer part of width x ratio: the half keeps it off the edge.
    return {
        "mlp_ratio": (tower["mlp_width"] + 0.5) / tower["width"],
        "norm_kwargs": {"eps": tower["ln_eps"]},
    }


def load_strict(model: nn.Module, checkpoint: Path) -> None:
    """Loads a checkpoint of any kind the reference itself reads; every key must match."""
    state: Any = open_clip.factory.load_state_dict(str(checkpoint))
    model.load_state_dict(state, strict=True)


# ---------------------------------------------------------------------------------------------- stages


def channels_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1) if x.ndim == 4 else x


@contextmanager
def recording(
    modules: dict[str, nn.Module], inputs_of: dict[str, nn.Module] | None = None
) -> Iterator[dict[str, Tensor]]:
    """Records what `modules` return and what `inputs_of` are given, in the order of the forward pass."""
    stages: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        # A copy: the reference's activations work in place.
        return lambda _module, args, output=None: stages.__setitem__(
            name, channels_last(args[0] if output is None else output).clone()
        )

    with ExitStack() as hooks:
        for name, module in modules.items():
            hooks.callback(module.register_forward_hook(keep(name)).remove)
        for name, module in (inputs_of or {}).items():
            hooks.callback(module.register_forward_pre_hook(keep(name)).remove)
        yield stages


def numbered(prefix: str, blocks: Any) -> dict[str, nn.Module]:
    return {f"{prefix}.{i}": block for i, block in enumerate(blocks)}


def vision_stages(visual: Any, images: Tensor) -> dict[str, Tensor]:
    """images [B, 3, H, W] -> every stage of a CLIP image tower, the features last."""
    if hasattr(visual, "attnpool"):
        layers = [f"layer{i}" for i in (1, 2, 3, 4)]
        blocks = {
            name: block for layer in layers for name, block in numbered(layer, getattr(visual, layer)).items()
        }
        with recording({"stem": visual.avgpool, **blocks}) as stages:
            features = visual(images)
        return {**stages, "projected": features}
    blocks = visual.transformer.resblocks
    modules = {"patch_embed": visual.conv1, **numbered("blocks", blocks)}
    with recording(modules, inputs_of={"embed": blocks[0]}) as stages:
        features = visual(images)
    pooled, _ = visual._pool(stages[f"blocks.{len(blocks) - 1}"])
    return {**stages, "pooled": pooled, "projected": features}


def text_stages(model: Any, ids: Tensor) -> dict[str, Tensor]:
    """ids [B, L] -> every stage of CLIP's text tower, the features last."""
    blocks = model.transformer.resblocks
    with recording(numbered("blocks", blocks), inputs_of={"embed": blocks[0]}) as stages:
        features = model.encode_text(ids)
    tokens = model.ln_final(stages[f"blocks.{len(blocks) - 1}"])
    pooled = text_global_pool(tokens, ids, model.text_pool_type, eos_token_id=model.text_eos_id)
    return {**stages, "pooled": pooled, "projected": features}


def classifier_stages(model: Any, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """images [B, 3, H, W] -> every stage of a timm EfficientNet, the pooled features last, and the logits."""
    blocks = {
        f"blocks.{i}.{j}": block for i, stage in enumerate(model.blocks) for j, block in enumerate(stage)
    }
    with recording({"stem": model.bn1, **blocks, "head": model.bn2, "pooled": model.global_pool}) as stages:
        logits = model(images)
    return stages, logits


@torch.no_grad()
def run(model: Any, images: np.ndarray, ids: np.ndarray | None) -> dict[str, np.ndarray]:
    """Every stage and the results, as float32 arrays.

    A dual encoder gives `image_embedding` and `text_embedding` (unit norm), `logit_scale` (its logarithm, as
    stored) and `logits` [images, texts]; a classifier (ids None) gives `features` and `logits`.
    """
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    if ids is None:
        vision, logits = classifier_stages(model, pixels)
        text, results = {}, {"features": vision["pooled"], "logits": logits}
    else:
        tokens = torch.from_numpy(ids).long()
        vision, text = vision_stages(model.visual, pixels), text_stages(model, tokens)
        image, caption = (F.normalize(tower["projected"], dim=-1) for tower in (vision, text))
        logits = model.logit_scale.exp() * image @ caption.T
        results = {"image_embedding": image, "text_embedding": caption, "logit_scale": model.logit_scale}
        if model.logit_bias is not None:
            logits = logits + model.logit_bias
            results["logit_bias"] = model.logit_bias
        results["logits"] = logits
    stages = {f"vision.{name}": x for name, x in vision.items()} | {
        f"text.{name}": x for name, x in text.items()
    }
    return {name: x.contiguous().numpy() for name, x in (stages | results).items()}


# ------------------------------------------------------------------------------------------------ file


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
