"""Many architectures in one process: importing the libraries takes longer than most questions. A question is

    {"shapes": NAME, "library": L}                    the state dict of a model at full size
    {"numbers": NAME, "library": L, "sizes": RECORD, "inputs": FILE.npz, "seed": N}
                                                      a narrow model with conditioned weights, and its golden

Answer n has `"question": n` and `"problem"` (one line), `"shapes"` ({key: [shape, dtype]}), or `"checkpoint"`
and `"golden"` (paths).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.overrides import TorchFunctionMode

from converters.golden.build import LIBRARIES, build_model
from converters.golden.condition import condition
from converters.golden.run import run, write_golden


def answers(questions: list[dict[str, Any]], folder: Path) -> Iterator[dict[str, Any]]:
    """Answers in order; a failure does not stop the rest."""
    torch.set_num_threads(1)  # narrow models, and our side runs at the same time
    for number, question in enumerate(questions):
        try:
            answer = shapes(question) if "shapes" in question else numbers(question, folder / str(number))
        except (Exception, SystemExit) as error:
            answer = {"problem": f"{type(error).__name__}: {error}".splitlines()[0]}
        yield {"question": number, **answer}


def shapes(question: dict[str, Any]) -> dict[str, Any]:
    """Shapes and dtypes of a full-size model, built without memory for its weights."""
    with torch.device("meta"), _Unfilled():
        model = build_model(question["shapes"], question["library"])
    state = model.state_dict()
    return {"shapes": {key: [list(x.shape), str(x.dtype).removeprefix("torch.")] for key, x in state.items()}}


class _Unfilled(TorchFunctionMode):
    """Weights are not initialised: on the meta device that changes nothing and takes most of the time."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        if getattr(func, "__name__", "") in _FILLS:
            return args[0] if args else options["tensor"]  # of a function of torch.nn.init
        return func(*args, **options)


_FILLS = {"uniform_", "normal_", "trunc_normal_", "erfinv_", "clamp_", "mul_", "add_", "fill_", "zero_"}
_FILLS |= {"constant_", "zeros_", "ones_", "kaiming_uniform_", "kaiming_normal_", "xavier_uniform_"}


def numbers(question: dict[str, Any], folder: Path) -> dict[str, Any]:
    arch, library = question["numbers"], question["library"]
    torch.manual_seed(question["seed"])
    model = build_model(arch, library, question["sizes"])
    condition(model, question["seed"])
    folder.mkdir()
    checkpoint, golden = folder / "model.safetensors", folder / "golden.npz"
    save(model, checkpoint)
    inputs = dict(np.load(question["inputs"]))
    facts = {"library": library, "version": LIBRARIES[library], "arch": arch}
    write_golden(golden, run(model, inputs["images"], inputs.get("ids")), inputs, facts)
    return {"checkpoint": str(checkpoint), "golden": str(golden)}


def save(model: nn.Module, path: Path) -> None:
    save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, path)
