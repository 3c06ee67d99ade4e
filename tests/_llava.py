"""Narrow vision-language models: Prismatic's folders, and what the libraries' parts compute from them.

The reference is transformers' CLIP or SigLIP tower, PyTorch's layers and transformers' Llama or Mistral,
joined here by hand.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from clipjax.models.arch import Arch, arch_to_dict, load_arch, narrow_arch
from clipjax.models.network import Network
from converters.engine import convert, export, load_table
from converters.golden import build_model
from converters.golden.condition import condition
from converters.golden.transformers_models import build_transformers
from converters.sources import open_source

QUESTION = """What is the main object in this image? Choose from the following list:
A.teapot
B.wine bottle
C.tv
D.bench
Please answer the question using the choice from the list."""
PIECES = 420
CONTEXT = 512
TOWERS = {"clip": "ViT-L-14-336-quickgelu", "siglip": "ViT-SO400M-14-SigLIP-384"}
TOWER_IDS = {"clip": "clip-vit-l-336px", "siglip": "siglip-vit-so400m-384px"}


def sentencepiece_model(pieces: int = PIECES, **options: Any) -> bytes:
    """A BPE of the kind of Llama's: bytes for what it does not have, a space before a text."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*QUESTION.splitlines(), "USER: ASSISTANT: [INST] A B C D Yes No"] * 5),
        model_writer=model,
        model_type="bpe",
        vocab_size=pieces,
        byte_fallback=True,
        character_coverage=1.0,
        split_digits=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    return model.getvalue()


def narrowed(arch: Arch) -> Arch:
    """With rows for the tokenizer's pieces, and room for a prompt."""
    arch = narrow_arch(arch)
    assert arch.language is not None
    decoder = dataclasses.replace(arch.language.decoder, vocab_size=PIECES + 12, context_length=CONTEXT)
    return dataclasses.replace(arch, language=dataclasses.replace(arch.language, decoder=decoder))


@dataclass(frozen=True)
class Prismatic:
    """A narrow model's torch parts, and its folders.

    Attributes:
        tower: transformers' model with the image tower.
        model: `converters.golden.llava.Llava`.
    """

    folder: Path
    vision: Path
    tower: Any
    model: Any
    tokens: sentencepiece.SentencePieceProcessor

    @torch.no_grad()
    def patches(self, pixels: np.ndarray, *, layer: int = -2, class_token: bool = False) -> torch.Tensor:
        """pixels [B, S, S, 3] -> what the projector reads."""
        images = torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2)
        hidden = self.tower.vision_model(images, output_hidden_states=True).hidden_states[layer]
        return hidden if class_token or "siglip" in self.tower.config.model_type else hidden[:, 1:]

    @torch.no_grad()
    def projected(self, patches: torch.Tensor, approximate: str = "none") -> torch.Tensor:
        first, _, last = self.model.projector
        return last(nn.functional.gelu(first(patches), approximate=approximate))

    @torch.no_grad()
    def logits(self, tokens: torch.Tensor, ids: list[int], at: int = 1) -> torch.Tensor:
        """Of the next id, of one row. tokens: [P, D]."""
        words = self.model.llm.model.embed_tokens(torch.tensor(ids))
        embedded = torch.cat([words[:at], tokens, words[at:]])[None]
        return self.model.llm(inputs_embeds=embedded).logits[0, -1]

    def greedy(self, tokens: torch.Tensor, ids: list[int], steps: int) -> list[int]:
        """Without a cache, until the end."""
        found: list[int] = []
        while len(found) < steps and (not found or found[-1] != self.tokens.eos_id()):
            found.append(int(self.logits(tokens, ids + found).argmax()))
        return found


def prismatic(
    root: Path, kind: str, language: str, strategy: str = "letterbox", dtype: torch.dtype = torch.float32
) -> Prismatic:
    """Writes root/model, as Prismatic has it, and root/vision, as the tower's repository."""
    tower = {"clip": "clip_l14_336", "siglip": "siglip_so400m_384"}[kind]
    arch = "mistral_7b_v02" if language.startswith("mistral") else "llama2_7b"
    sizes = arch_to_dict(narrowed(load_arch(f"prism-{tower}-{arch}")))
    torch.manual_seed(0)
    name = f"{TOWER_IDS[kind]}+{language}"
    model: Any = build_model(name, "prismatic", sizes)
    condition(model, 0)
    folder, vision = root / "model", root / "vision"
    (folder / "checkpoints").mkdir(parents=True)
    vision.mkdir()
    parts = {
        part: OrderedDict((key, x.to(dtype)) for key, x in module.state_dict().items())
        for part, module in model.model.items()
    }
    torch.save({"model": parts, "optimizer": {"step": 3}}, folder / "checkpoints" / "latest-checkpoint.pt")
    (folder / "config.json").write_text(json.dumps(config(TOWER_IDS[kind], language, strategy)))
    pieces = sentencepiece_model()
    (folder / "tokenizer.model").write_bytes(pieces)
    save(model.vision, vision / "open_clip_model.safetensors")
    tokens = sentencepiece.SentencePieceProcessor(model_proto=pieces)
    return Prismatic(folder, vision, transformers_tower(kind, vision), model, tokens)


def config(vision: str, language: str, strategy: str = "letterbox") -> dict[str, Any]:
    model = {
        "model_id": "narrow",
        "vision_backbone_id": vision,
        "llm_backbone_id": language,
        "arch_specifier": "no-align+gelu-mlp",
        "image_resize_strategy": strategy,
        "llm_max_length": 2048,
    }
    return {"model": model, "stage": "finetune", "seed": 7, "run_id": "narrow"}


def save(model: nn.Module, path: Path) -> None:
    save_file({key: x.contiguous() for key, x in model.state_dict().items()}, path)


def transformers_tower(kind: str, vision: Path) -> Any:
    """transformers' CLIPModel or SiglipModel with the weights of an open_clip folder."""
    arch = narrow_arch(load_arch(TOWERS[kind]))
    source = open_source(vision)
    table = "open_clip_vit" if kind == "clip" else "open_clip_siglip"
    leaves = convert(source, Network(arch).abstract_params(), load_table(table))
    state = export(leaves, load_table("hf_clip" if kind == "clip" else "hf_siglip"))
    model: Any = build_transformers(arch_to_dict(arch))
    model.load_state_dict({key: torch.from_numpy(np.array(x)) for key, x in state.items()}, strict=True)
    return model


def renamed(folder: Path, name: Callable[[str], str]) -> None:
    """Other names for the tensors of a folder's model.safetensors."""
    path = folder / "model.safetensors"
    save_file({name(key): x for key, x in load_file(path).items()}, path, metadata={"format": "pt"})
