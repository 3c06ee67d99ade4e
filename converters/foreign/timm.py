"""timm's `config.json` (timm 1.0 models/_hub.py `save_config_for_hf`): a name and what changed.

configs/models.csv maps timm's name (and tag) to an architecture. The number of classes and the image size are
the file's; other changes in `model_args` are refused.

Weights that were trained further keep the tag. So the card gets the registered id, `name.tag`, only if its
architecture, number of classes included, equals that model's and there are no `label_names`; else it is
called `name-folder`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from clipjax.config import config_dir
from clipjax.errors import DataError, unknown_name
from clipjax.models.arch import arch_to_dict, load_arch
from clipjax.storage.reading import read_csv
from converters.foreign.card import card_record, choose, get, square

_POOLS = {"class": "token", "map": "map"}  # our vision poolings; without the key: the mean
_CROPS = {"center": "shortest", "squash": "squash"}
_INTERPOLATIONS = {"bicubic": "bicubic", "bilinear": "bilinear"}


def read(record: Mapping[str, Any], where: str, folder: str) -> dict[str, Any]:
    """See `converters.foreign.read_foreign_card`."""
    name = get(record, "architecture", where, "text")
    config, inside = get(record, "pretrained_cfg", where, "object"), f"{where}: pretrained_cfg"
    tag = get({"tag": "", **config}, "tag", inside, "text") or None
    row = _row(name, tag, where)
    arch = arch_to_dict(load_arch(row["arch"]))
    arch["num_classes"] = get(record, "num_classes", where, "count")
    arch["vision"]["image_size"] = size = _image_size(config, inside)
    pool = _POOLS.get(arch["vision"].get("pooling"), "avg")
    if record.get("global_pool", pool) != pool:
        raise DataError(
            f"{where}: global_pool is {record['global_pool']!r}; clipjax has {name} with {pool!r}"
        )
    built = {"in_chans": 3, "num_classes": arch["num_classes"], "global_pool": pool, "img_size": size}
    _refuse_other_args(get({"model_args": {}, **record}, "model_args", where, "object"), built, where)
    source = {"library": "timm", "arch": name, "tag": tag}
    card = card_record(f"{name}-{folder}", arch, where, source, _preprocess(config, size, inside))
    _identify(card, row, tag, bool(record.get("label_names") or config.get("label_names")))
    return card


def _image_size(config: Mapping[str, Any], where: str) -> int:
    channels, *sides = get(config, "input_size", where, "three")
    if channels != 3:
        raise DataError(f"{where}.input_size is {config['input_size']}; clipjax has RGB images only")
    return square({"input_size": sides}, "input_size", where)


def _refuse_other_args(args: Mapping[str, Any], built: Mapping[str, Any], where: str) -> None:
    """`model_args` may only repeat what clipjax builds."""
    for key, value in args.items():
        if key not in built:
            raise DataError(f"{where}: model_args.{key} is {value!r}, which clipjax does not know")
        side = key == "img_size" and value == [built[key]] * 2
        if value != built[key] and not side:
            raise DataError(f"{where}: model_args.{key} is {value!r}, but the model has {built[key]!r}")


def _row(name: str, tag: str | None, where: str) -> dict[str, str]:
    """The registered row of the name with this tag, else any row of the name."""
    rows = [row for row in read_csv(config_dir() / "models.csv") if row["library"] == "timm"]
    named = [row for row in rows if row["library_arch"] == name]
    if not named:
        known = sorted({row["library_arch"] for row in rows})
        raise DataError(f"{where}: {unknown_name('architecture', name, known)}")
    return next((row for row in named if row["tag"] == tag), named[0])


def _identify(card: dict[str, Any], row: Mapping[str, str], tag: str | None, labelled: bool) -> None:
    registered = arch_to_dict(load_arch(row["arch"]))
    if labelled:
        card["unknown"]["classes"] = "the file's label_names are no label space of clipjax's"
    elif row["tag"] == tag and card["arch"]["num_classes"] == registered["num_classes"]:
        if card["arch"] == registered:
            card["id"] = f"{row['library_arch']}.{tag}"
        if row["classes"].startswith("?"):
            card["unknown"]["classes"] = row["classes"].removeprefix("?").strip()
        else:
            card["classes"] = row["classes"]
            del card["unknown"]["classes"]


def _preprocess(config: Mapping[str, Any], size: int, where: str) -> dict[str, Any]:
    return {
        "image_size": size,
        "resize_size": math.floor(size / get(config, "crop_pct", where, "fraction")),
        "resize_mode": choose({"crop_mode": "center", **config}, "crop_mode", where, _CROPS),
        "interpolation": choose(config, "interpolation", where, _INTERPOLATIONS),
        "mean": get(config, "mean", where, "three"),
        "std": get(config, "std", where, "three positive"),
    }
