"""Checkpoint files of any format as mappings of lazily read tensors.

    source = open_source("open_clip_model.safetensors")
    source["logit_scale"].shape, source["logit_scale"].read()

Content decides the format: safetensors, torch's files, npz, GGUF, or a JSON index of such files.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from clipjax.errors import DataError, cut
from clipjax.storage.formats.gguf import MAGIC
from clipjax.storage.formats.safetensors import open_safetensors
from clipjax.storage.formats.tensors import Source
from clipjax.storage.reading import check_regular, exists, is_dir, read_json
from converters.gguf_llama import open_gguf
from converters.pycontrast import with_classifier
from converters.torch_files.archives import open_legacy, open_zip

# In open_clip's order of preference (open_clip 3.3 factory.py, _find_checkpoint_in_dir).
WEIGHT_NAMES = (
    "open_clip_model.safetensors",
    "open_clip_model.safetensors.index.json",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# A part of a sharded checkpoint, as transformers and huggingface_hub name it.
_PART = re.compile(r"-(?P<part>\d{5})-of-(?P<of>\d{5})(?P<kind>\.\w+)$")


def open_source(path: str | Path) -> Source:
    """Open a checkpoint file, or the weights in a folder (the first of `WEIGHT_NAMES`).

    Training checkpoints are unwrapped, and lose distributed training's prefix `module.`. A PyContrast encoder
    is joined with its classifier.

    Raises:
        DataError: no such file, an unknown format, a damaged file, or a pickle that names anything outside a
            state dict.
    """
    path = Path(path)
    if is_dir(path):
        path = _weights_in(path)
    if (part := _PART.search(path.name)) and int(part["of"]) > 1:
        raise DataError(
            f"{path} is part {int(part['part'])} of {int(part['of'])}: give the folder, or the index in it "
            f"({_PART.sub(part['kind'], path.name)}.index.json)"
        )
    return with_classifier(_open_file(path), path, _open_file)


def _open_file(path: Path, part: bool = False) -> Source:
    """A `part` of an index may not be an index."""
    check_regular(path)
    try:
        with path.open("rb") as file:
            start = file.read(64)
        reader = _reader(start, path)
        if part and reader is _open_index:
            raise DataError(f"{path} is an index, and another index names it as a file of weights")
        source = reader(path)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    if not source:
        raise DataError(f"{path} holds no tensors")
    for key, tensor in source.items():
        if tensor.offset + tensor.span > tensor.path.stat().st_size:
            raise DataError(
                f"{tensor.path} is truncated: tensor {cut(repr(key))} is beyond its end; get the file again"
            )
    return _without_module_prefix(source)


def _reader(start: bytes, path: Path) -> Callable[[Path], Source]:
    if start[:4] == b"PK\x03\x04":
        return open_zip
    if start[8:9] == b"{":
        return open_safetensors
    if start[:1] == b"\x80":
        return open_legacy
    if start[:4] == MAGIC:
        return open_gguf
    if start.lstrip()[:1] == b"{":
        return _open_index
    if start.startswith(b"version https://git-lfs"):
        raise DataError(
            f"{path} is a git-lfs pointer, not the weights: run `git lfs pull`, or download the file"
        )
    raise DataError(
        f"{path} is not a checkpoint: neither safetensors, torch, TorchScript, npz, GGUF nor an index of such"
    )


def _weights_in(folder: Path) -> Path:
    for name in WEIGHT_NAMES:
        if exists(folder / name):
            return folder / name
    try:
        parts = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error.strerror})") from None
    for part in parts:
        if match := _PART.search(part.name):
            index = _PART.sub(match["kind"], part.name) + ".index.json"
            raise DataError(
                f"{folder / index} is missing: it says what is in {part.name} and its other parts"
            )
    raise DataError(f"{folder} holds no weights: none of {', '.join(WEIGHT_NAMES)}; name the file itself")


def _without_module_prefix(source: Source) -> Source:
    if not all(key.startswith("module.") for key in source):
        return source
    tensors = {key.removeprefix("module."): tensor for key, tensor in source.items()}
    return Source(tensors, source.format, source.files, source.metadata)


# --- an index: {"weight_map": {tensor name: file in the same folder}} ---


def index_parts(path: Path) -> dict[str, str]:
    """{tensor: file in the index's folder}. Raises DataError for anything else."""
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict):
        raise DataError(f"{path} is not an index of weight files: it has no object 'weight_map'")
    for name in weight_map.values():
        plain = isinstance(name, str) and Path(name).name == name and "\0" not in name
        if not plain or name in ("", ".", ".."):
            raise DataError(f"{path}: {cut(repr(name))} is not the name of a file in the same folder")
    return weight_map


def _open_index(path: Path) -> Source:
    weight_map = index_parts(path)
    names = sorted(set(weight_map.values()))
    shards = {name: _open_file(path.parent / name, part=True) for name in names}
    file_of = {key: name for name, shard in shards.items() for key in shard}
    if wrong := sorted(set(file_of.items()) ^ set(weight_map.items())):
        listed = ", ".join(f"{cut(key)} in {cut(name)}" for key, name in wrong[:10])
        raise DataError(f"{path} and its files do not hold the same tensors: {listed}")
    tensors = {key: shards[name][key] for key, name in weight_map.items()}
    formats = " and ".join(sorted({shard.format for shard in shards.values()}))
    return Source(tensors, f"sharded {formats}", tuple(path.parent / name for name in names))
