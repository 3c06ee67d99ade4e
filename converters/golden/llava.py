"""A Prismatic model of the libraries' own parts: open_clip's tower, PyTorch's layers, transformers' Llama.

    model.vision                                     open_clip's model, of which the image tower is read
    model.model.projector.projector                  linear layers
    model.model.llm_backbone.llm                     LlamaForCausalLM or MistralForCausalLM

State dict keys are those of Prismatic's files, after `vision.` and `model.`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from clipjax.models.arch import arch_to_dict, load_arch, narrow_arch
from converters.golden.recording import numbered, recording
from converters.golden.tower import tower_of
from converters.golden.weights import ATTENTION_GAIN, STREAM, scaled_normal

_TOWERS = {
    "clip-vit-l-336px": "ViT-L-14-336-quickgelu",
    "siglip-vit-so400m-384px": "ViT-SO400M-14-SigLIP-384",
}
_LAYER = -2  # the block that is read, counted from the end
_IDS = 32064  # 32,000, one for padding, and rows up to a multiple of 64
_LLAMA = {  # the configs of meta-llama/Llama-2-7b-chat-hf and lmsys/vicuna-7b-v1.5
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}
_MISTRAL = {  # of mistralai/Mistral-7B-Instruct-v0.2
    **_LLAMA,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
    "sliding_window": None,
}
# By the name of transformers' classes, which it imports in a second when they are asked for.
_LANGUAGE: dict[str, tuple[str, dict[str, Any]]] = {
    "vicuna-v15-7b": ("Llama", _LLAMA),
    "llama2-7b-chat": ("Llama", _LLAMA),
    "mistral-v0.2-7b-instruct": ("Mistral", _MISTRAL),
}
# Sizes of our record of a decoder -> those of transformers' config; other fields stay the library's.
_SIZES = {
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "mlp_width": "intermediate_size",
    "vocab_size": "vocab_size",
    "context_length": "max_position_embeddings",
}


class Llava(nn.Module):
    def __init__(self, vision: nn.Module, channels: int, llm: Any) -> None:
        super().__init__()
        width = llm.config.hidden_size
        layers = nn.Sequential(nn.Linear(channels, width), nn.GELU(), nn.Linear(width, width))
        self.vision = vision
        projector, backbone = nn.ModuleDict({"projector": layers}), nn.ModuleDict({"llm": llm})
        self.model = nn.ModuleDict({"projector": projector, "llm_backbone": backbone})

    @property
    def projector(self) -> nn.Module:
        return self.model["projector"]["projector"]  # type: ignore[index]

    @property
    def llm(self) -> Any:
        return self.model["llm_backbone"]["llm"]  # type: ignore[index]


def build_llava(
    name: str, sizes: dict[str, Any] | None, build: Callable[[str, str, dict[str, Any] | None], nn.Module]
) -> Llava:
    """The reference of "VISION+LANGUAGE", Prismatic's ids. `build`: `build_model`."""
    vision, _, language = name.partition("+")
    arch = load_arch(_TOWERS[vision])
    arch = arch if sizes is None else narrow_arch(arch)
    tower = build(_TOWERS[vision], "open_clip", None if sizes is None else arch_to_dict(arch))
    kind, fields = _LANGUAGE[language]
    config, model = (getattr(transformers, f"{kind}{part}") for part in ("Config", "ForCausalLM"))
    fields = {**fields, "vocab_size": _IDS, "tie_word_embeddings": False}
    if sizes is not None:
        decoder = sizes["language"]["decoder"]
        fields |= {theirs: decoder[ours] for ours, theirs in _SIZES.items()}
    llm = model(config(**fields, attn_implementation="eager"))
    return Llava(tower, arch.vision.width, llm).eval()


@torch.no_grad()
def condition_decoder(llm: Any) -> None:
    """Norms read small inputs, so that eps counts; attention is neither uniform nor one-hot."""
    for layer in llm.model.layers:
        for linear in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            scaled_normal(linear.weight, ATTENTION_GAIN)
        for linear in (layer.self_attn.o_proj, layer.mlp.down_proj):
            scaled_normal(linear.weight, STREAM)
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            norm.weight.uniform_(0.6, 1.4)
    llm.model.norm.weight.uniform_(0.6, 1.4)
    llm.model.embed_tokens.weight.normal_(std=STREAM)


@torch.no_grad()
def condition_projector(projector: Any) -> None:
    """Patches are as small as ids, and GELU is far from a line where it matters."""
    projector[0].weight.mul_(1 / STREAM)
    projector[2].weight.mul_(STREAM)
    projector[2].bias.mul_(STREAM)


@torch.no_grad()
def llava_stages(model: Llava, pixels: Tensor, ids: Tensor) -> dict[str, Tensor]:
    """ids [B, L] begin with the token before the image. `logits` are those after the last id."""
    visual: Any = model.vision.visual
    stages = tower_of(visual).stages(visual, pixels)
    blocks = [name for name in stages if name.startswith("blocks.")]
    patches = stages[blocks[_LAYER]]
    grid = stages["patch_embed"].shape[1] * stages["patch_embed"].shape[2]
    tokens = model.projector(patches[:, patches.shape[1] - grid :])
    words = model.llm.model.embed_tokens(ids)
    embedded = torch.cat([words[:, :1], tokens, words[:, 1:]], dim=1)
    decoder = model.llm.model
    with recording(numbered("blocks", decoder.layers) | {"norm": decoder.norm}, turn=torch.clone) as recorded:
        logits = model.llm(inputs_embeds=embedded).logits[:, -1]
    stages.pop("projected", None)  # CLIP's own, which no decoder reads
    named = {f"vision.{name}": x for name, x in stages.items()}
    named |= {"image_tokens": tokens, "decoder.embed": embedded}
    return named | {f"decoder.{name}": x for name, x in recorded.items()} | {"logits": logits}
