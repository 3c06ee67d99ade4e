"""timm's `config.json` (timm 1.0 models/_hub.py `save_config_for_hf`): a name and what changed.

configs/models.csv says which architecture of configs/archs a name (and tag) of timm is. Number of classes and
image size are the file's; whatever else `model_args` changes is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from clipjax.config import config_dir, read_csv
from clipjax.errors import DataError, unknown_name
from clipjax.models.arch import arch_to_dict, load_arch
from converters.foreign.card import card_record, get, square, table

_POOLS = {"class": "token", "map": "map"}  # our vision poolings; a tower without the key takes the mean
_CROPS = {"center": "shortest", "squash": "squash"}


def read(record: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The card record of a timm config.json; see `converters.foreign.read_foreign_card`."""
    name = record["architecture"]
    config, inside = table(record, "pretrained_cfg", where), f"{where}: pretrained_cfg"
    tag = config.get("tag") or None
    arch = _architecture(name, tag, where)
    arch["num_classes"] = get(record, "num_classes", where)
    pool = _POOLS.get(arch["vision"].get("pooling"), "avg")
    args = dict(record.get("model_args") or {})
    for key, found in (("global_pool", record), ("global_pool", args), ("num_classes", args)):
        wanted = pool if key == "global_pool" else arch["num_classes"]
        if found.get(key, wanted) != wanted:
            raise DataError(f"{where}: {key} is {found[key]!r}; clipjax has {wanted!r} for {name}")
    channels, *sides = get(config, "input_size", inside)
    if channels != 3:
        raise DataError(f"{inside}.input_size is {config['input_size']}; clipjax has RGB images only")
    size = square(sides, f"{inside}.input_size")
    given = square(args.get("img_size", size), f"{where}: model_args.img_size")
    if given != size:
        raise DataError(f"{where}: model_args.img_size is {given}, but pretrained_cfg.input_size is {size}")
    for key in args.keys() - {"global_pool", "num_classes", "img_size"}:
        raise DataError(f"{where}: model_args.{key} is unknown to clipjax, which has {name} without it")
    arch["vision"]["image_size"] = size
    source = {"library": "timm", "arch": name, "tag": tag}
    card_id = f"{name}.{tag}" if tag else name
    return card_record(card_id, arch, where, source, _preprocess(config, size, inside))


def _architecture(name: str, tag: str | None, where: str) -> dict[str, Any]:
    """The arch record of a timm name: that of the registered row with this tag, else of any row."""
    rows = [row for row in read_csv(config_dir() / "models.csv") if row["library"] == "timm"]
    names = [row["arch"] for row in rows if (row["library_arch"], row["tag"]) == (name, tag)]
    names += [row["arch"] for row in rows if row["library_arch"] == name]
    known = sorted({row["library_arch"] for row in rows})
    if not names:
        raise DataError(f"{where}: {unknown_name('architecture', name, known)}")
    return arch_to_dict(load_arch(names[0]))


def _preprocess(config: Mapping[str, Any], size: int, where: str) -> dict[str, Any]:
    mode = config.get("crop_mode") or "center"
    if mode not in _CROPS:
        raise DataError(f"{where}.crop_mode is {mode!r}; clipjax knows {', '.join(_CROPS)}")
    return {
        "image_size": size,
        "resize_size": math.floor(size / get(config, "crop_pct", where)),
        "resize_mode": _CROPS[mode],
        "interpolation": get(config, "interpolation", where),
        "mean": get(config, "mean", where),
        "std": get(config, "std", where),
    }
