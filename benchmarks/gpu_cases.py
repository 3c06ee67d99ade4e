"""What gpu.py measures, as data for its process and those of both sides. Imports neither JAX nor torch."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks import common
from benchmarks.training import training_data

ROOT = Path(__file__).resolve().parent.parent
ROUNDS, ROUND_SECONDS = 5, 0.2
LONG_ROUNDS = 3  # of calls that are long enough alone
PROMPT, STEPS = 64, 64  # ids that a decoder reads, and makes
FILES, DISTINCT = 4096, 256  # image files, and how many of them differ

Precision = Literal["bfloat16", "float32"]
PROFILE = {"bfloat16": "fast", "float32": "parity"}
# Largest difference of unit features from torch's in float32 on a CPU, and of first losses from torch's.
TOLERANCE = {"bfloat16": 0.05, "float32": 1e-4}

# SmolLM2-135M (its config.json)
SMOLLM2: dict[str, Any] = {
    "width": 576,
    "layers": 30,
    "heads": 9,
    "kv_heads": 3,
    "head_dim": 64,
    "mlp_width": 1536,
    "vocab_size": 49152,
    "context_length": 8192,
    "rope_theta": 100_000.0,
    "norm_eps": 1e-5,
    "tied": True,
}


@dataclass(frozen=True)
class Case:
    """batch: images, or prompts of a decoder. method: of a training step."""

    name: str
    kind: Literal["tower", "step", "files", "decode"]
    arch: str
    batch: int
    method: str = ""

    def has(self, side: str) -> bool:
        """Whether it has a row of this side."""
        if side in OTHER_FORMS:
            begins, kinds = OTHER_FORMS[side]
            return self.arch.startswith(begins) and self.kind in kinds
        return not (self.kind == "files" and side == "compiled")  # bound by its decoders


ATTENTION, DEPTHWISE, GELU = "attention written out", "depthwise by frequencies", "GELU by tanh"
# clipjax with a form of a layer that it does not take on a GPU: side -> (how an arch's name begins, kinds of
# cases). XLA fuses GELU with no product of a training step.
OTHER_FORMS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    ATTENTION: (("ViT",), ("tower", "step")),
    DEPTHWISE: (("convnext",), ("tower", "step")),
    GELU: (("ViT", "convnext"), ("tower",)),
}

CASES = [
    Case("ViT-L-14 tower", "tower", "ViT-L-14", 256),
    Case("ViT-L-14 CE step", "step", "ViT-L-14", 64, "CE"),
    Case("ViT-B-16 tower", "tower", "ViT-B-16", 512),
    Case("ViT-B-16 CE step", "step", "ViT-B-16", 128, "CE"),
    Case("ConvNeXt-L tower", "tower", "convnext_large_d", 256),
    Case("ViT-B-32 tower", "tower", "ViT-B-32", 512),
    Case("RN50 tower", "tower", "RN50", 512),
    Case("ViT-B-32 CE step", "step", "ViT-B-32", 256, "CE"),
    Case("ViT-B-32 FLYP step", "step", "ViT-B-32", 256, "FLYP"),
    Case("SmolLM2-135M decode", "decode", "SmolLM2-135M", 16),
    Case("Llama-2-7B decode", "decode", "Llama-2-7B", 8),
    Case("ViT-B-32 files", "files", "ViT-B-32", 256),
]


@dataclass(frozen=True)
class Request:
    """One row of one side. small: narrow models and little data, to see whether it runs.

    Attributes:
        side: "clipjax", a name of `OTHER_FORMS`, "eager" or "compiled".
        device: as torch names it.
        folder: for weights and images, made by the first who needs them.
    """

    case: Case
    precision: Precision
    side: str
    device: str
    folder: str
    small: bool = False

    @property
    def batch(self) -> int:
        return 2 if self.small else self.case.batch

    @property
    def weights(self) -> Path:
        return Path(self.folder) / f"{self.case.arch}.safetensors"

    @property
    def features(self) -> Path:
        """The file of torch's features of the first images, in float32 on the CPU."""
        return Path(self.folder) / f"{self.case.arch}.npy"

    @property
    def loss(self) -> Path:
        """The file of the loss of torch's first step in this precision."""
        return Path(self.folder) / f"{self.case.name}, {self.precision}.loss"

    def dumps(self) -> str:
        return json.dumps(dataclasses.asdict(self))


def request_of(line: str) -> Request:
    record = json.loads(line)
    return Request(**record | {"case": Case(**record["case"])})


def decoder_shape(name: str, small: bool) -> dict[str, Any]:
    """Fields of a `DecoderConfig`."""
    if name == "SmolLM2-135M":
        shape = SMOLLM2
    else:
        record = ROOT / "configs" / "archs" / "prism-clip_l14_336-llama2_7b.toml"
        shape = tomllib.loads(record.read_text())["language"]["decoder"]
    narrow = {"width": 64, "layers": 2, "heads": 2, "kv_heads": 1, "head_dim": 32, "mlp_width": 96}
    return shape | narrow | {"vocab_size": 200} if small else shape


def steps_of(request: Request) -> int:
    return 4 if request.small else STEPS


def arch_of(request: Request) -> Any:
    from clipjax.models.arch import load_arch, narrow_arch

    arch = load_arch(request.case.arch)
    return narrow_arch(arch) if request.small else arch


# ------------------------------------------------------------------------------- in a side's process


def timed(call: Callable[[], Any], wait: Callable[[Any], Any], *, once: bool = False) -> dict[str, Any]:
    """Seconds of a call in each round, and of the first call, which compiles.

    A round makes many calls and waits for the last one's result. `once`: a call is long enough for a round.
    """

    def run(calls: int) -> float:
        def calling() -> None:
            result = None
            for _ in range(calls):
                result = call()
            wait(result)

        return common.seconds(calling) / calls

    first = run(1)
    run(1)
    if once:
        return {"first_seconds": first, "seconds": [run(1) for _ in range(LONG_ROUNDS)]}
    calls = max(1, math.ceil(ROUND_SECONDS / run(1)))
    return {"first_seconds": first, "seconds": [run(calls) for _ in range(ROUNDS)]}


def serve(answer: Callable[[Request], dict[str, Any]]) -> None:
    common.serve(functools.partial(answered, answer))


def answered(answer: Callable[[Request], dict[str, Any]], line: str) -> dict[str, Any]:
    """What cannot be measured is answered with a `problem`, a missing library as `lacks`."""
    try:
        return answer(request_of(line))
    except ImportError as error:
        return {"lacks": str(error)}
    except Exception as error:  # out of memory, or whatever a library refuses
        text = str(error).strip().partition("\n")[0]
        return {"problem": f"{type(error).__name__}: {text}"[:300]}


@functools.lru_cache(maxsize=1)
def images_of(side: int, batch: int) -> np.ndarray:
    """Normalised [B, side, side, 3]; the first ones are the same for every batch."""
    return np.random.default_rng(0).normal(size=(batch, side, side, 3)).astype(np.float32)


def arrays_of(request: Request) -> dict[str, np.ndarray]:
    """What a step reads; captions fill the context, so that both sides do the same work."""
    arch = arch_of(request)
    vision, text = arch.vision, arch.text
    sizes = {"side": vision.image_size, "context": text.context_length, "vocab": text.vocab_size}
    return training_data.data(vision.embed_dim, request.batch, text.context_length, **sizes)


def images_in(request: Request) -> Path:
    """The folder of image files, made once."""
    from benchmarks.data.end_to_end import write_images  # needs scikit-image

    root = Path(request.folder) / "images"
    if not root.exists():
        total, distinct = (8, 4) if request.small else (FILES, DISTINCT)
        write_images(root, distinct)
        files = sorted(root.rglob("*.JPEG"))
        for i in range(total - distinct):
            os.link(files[i % distinct], files[i % distinct].with_name(f"again_{i:06d}.JPEG"))
    return root
