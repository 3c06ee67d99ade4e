"""The name of a model: weights for clipjax's networks, a function, another library's model, or a server's.

    vit_b_32-openai, org/name, folder/, w.safetensors    weights, as `load_model` takes them
    mine:build                                           a function of a module that returns a model
    torch:open_clip:ViT-B-32/laion2b_s34b_b79k           a model of a PyTorch library, run by that library
    torch:timm:resnet50.a1_in1k
    torch:transformers:org/name
    server:http://127.0.0.1:8000/v1#MODEL                a model that a server of OpenAI's protocol runs

After `torch:LIBRARY:` a folder in the library's own layout stands for its name. This is the only place that
reads such a text. Imports no JAX.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clipjax.errors import DataError, UsageError
from clipjax.guards import known_name
from clipjax.served.address import server_address
from clipjax.storage.reading import exists, read_json
from clipjax.storage.remote.buckets import as_path

TORCH_LIBRARIES = ("open_clip", "timm", "transformers")
_TORCH = "torch"
_SERVER: Literal["server"] = "server"
_CONFIGS = ("open_clip_config.json", "config.json")
_FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
# Weights of Prismatic: a folder of a hub repository.
PRISMATIC_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w-]*prismatic[\w-]*)/(?P<folder>[\w.+-]+)")
# A name with such an ending is a path; a registered name has dots, too.
_FILES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".npz", ".json", ".tar", ".zip")
OTHER_WAYS = (
    "to evaluate a model that clipjax cannot load, give torch:LIBRARY:NAME (open_clip, timm or transformers "
    "runs it), module:function (yours does) or --predictions (its outputs)"
)


@dataclass(frozen=True)
class ModelReference:
    """One name of a model.

    Attributes:
        kind: who runs the model: clipjax, a Python function of the user's, a PyTorch library, or a server.
        value: for `load_model`; "module:function"; the library's name or a folder; "ADDRESS#MODEL".
        library: of TORCH_LIBRARIES; None for other kinds.
    """

    kind: Literal["weights", "python", "torch", "server"]
    value: str
    library: str | None = None

    def __str__(self) -> str:
        if self.kind == _SERVER:
            return f"{_SERVER}:{self.value}"
        return self.value if self.library is None else f"{_TORCH}:{self.library}:{self.value}"


def model_reference(text: str | Path) -> ModelReference:
    """Read the name of a model; an existing path is always weights.

    Raises:
        UsageError: `torch:` without a known library and a name; `server:` without an address, or with one
            that has something secret in it.
    """
    name = str(text)
    if isinstance(text, str) and name.startswith(f"{_SERVER}:"):
        return ModelReference(_SERVER, str(server_address(name.removeprefix(f"{_SERVER}:"))))
    if name.lower().startswith(f"{_SERVER}:") and not isinstance(text, Path):
        raise UsageError(f"{name}: write {_SERVER}: in small letters")
    if isinstance(text, Path) or "://" in name:
        return ModelReference("weights", name)
    if name.startswith(f"{_TORCH}:/"):  # which reads as an address
        raise UsageError(f"{name}: name the library, torch:LIBRARY:FOLDER ({', '.join(TORCH_LIBRARIES)})")
    if exists(as_path(name)):
        return ModelReference("weights", name)
    if name.startswith(f"{_TORCH}:"):
        return _of_torch(name)
    if _FUNCTION.fullmatch(name):
        return ModelReference("python", name)
    return ModelReference("weights", name)


def _of_torch(text: str) -> ModelReference:
    library, _, name = text.removeprefix(f"{_TORCH}:").partition(":")
    known_name("PyTorch library", library, TORCH_LIBRARIES)
    if not name.strip():
        raise UsageError(
            f"{text}: name the model, torch:{library}:NAME, or a folder in the layout of {library}"
        )
    return ModelReference("torch", name, library)


def names_hub(name: str) -> bool:
    """Whether a name that exists neither here nor in the registry may be a hub repository's."""
    in_form = name.count("/") == 1 and not name.startswith((".", "~", "/"))
    return in_form or PRISMATIC_NAME.fullmatch(name) is not None


def names_path(name: str) -> bool:
    """Whether a name can only be a path: it is neither a registered id nor a hub repository's."""
    return not names_hub(name) and ("/" in name or name.endswith(_FILES))


def weights_of(source: Any) -> Any:
    """The source itself. Raises UsageError if it names a model that clipjax's networks do not run."""
    if isinstance(source, str) and model_reference(source).kind != "weights":
        raise UsageError(
            f"{source} is not run by clipjax's networks: only evaluation takes it (clipjax eval, a suite of "
            "clipjax sweep, clipjax.evaluate)"
        )
    return source


def other_way(folder: Path, repo: str | None) -> str:
    """Explain how to run a model whose configuration our networks refuse, as the end of their message.

    "" if the configuration cannot be read.
    """
    file = next((folder / name for name in _CONFIGS if exists(folder / name)), None)
    try:
        record = None if file is None else read_json(file)
    except DataError:
        return ""
    if not isinstance(record, dict):
        return ""
    hub = "hf-hub:"
    if "model_cfg" in record:
        library = "open_clip"
    elif "architecture" in record and "pretrained_cfg" in record:
        library = "timm"
    elif (
        "vision_config" in record and "text_config" in record and "llava" not in str(record.get("model_type"))
    ):
        library, hub = "transformers", ""
    else:
        return (
            "; to evaluate it all the same, give a Python function that returns it, module:function, or "
            "--predictions"
        )
    name = folder if repo is None else f"{hub}{repo}"
    return (
        f"; to evaluate it all the same, let {library} run it, torch:{library}:{name}, or give --predictions"
    )
