"""timm's `config.json` (timm 1.0 models/_hub.py `save_config_for_hf`): a name and what changed.

Weights that were trained further keep the tag. So the card gets the registered id, `name.tag`, only if its
architecture, number of classes included, equals that model's and the file's `label_names`, if any, are the
registered classes; else `name-folder`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from clipjax.config import ConfigFolder, config_dir, config_files
from clipjax.errors import DataError
from clipjax.models.arch import arch_from_dict, arch_records, arch_to_dict
from clipjax.storage.reading import read_csv
from converters.foreign.card import card_record, choose, get, square
from converters.foreign.timm_options import tower

# timm's names of our poolings; any other, or none, is the mean.
_POOLS = {"class": "token", "distilled": "token", "map": "map"}
_CROPS = {"center": "shortest", "squash": "squash"}
_INTERPOLATIONS = {"bicubic": "bicubic", "bilinear": "bilinear"}


def read(record: Mapping[str, Any], where: str, folder: str) -> dict[str, Any]:
    """See `converters.foreign.read_foreign_card`."""
    name = get(record, "architecture", where, "text")
    config, inside = get(record, "pretrained_cfg", where, "object"), f"{where}: pretrained_cfg"
    tag = get({"tag": "", **config}, "tag", inside, "text") or None
    size, classes = _image_size(config, inside), get(record, "num_classes", where, "count")
    args = _model_args(get({"model_args": {}, **record}, "model_args", where, "object"), classes, size, where)
    if "global_pool" in config:  # as timm reads it; beside `architecture` it only informs
        args = {"global_pool": config["global_pool"], **args}
    row = _row(name, tag)
    built = {"name": name, "vision": tower(name, args, size, where), "num_classes": classes}
    arch = arch_to_dict(arch_from_dict(built, where))
    vision = arch["vision"]
    pool = _POOLS.get(vision.get("pooling", ""), "avg")
    if record.get("global_pool", pool) != pool:
        raise DataError(f"{where}: global_pool is {record['global_pool']!r}, but the model has {pool!r}")
    if row is not None:
        known = arch_records()[row["arch"]]
        if {**known["vision"], "image_size": size} == vision:
            arch["name"] = known["name"]
    labels = label_names(record)
    space = None if labels is None else label_space(list(labels))
    source = {"library": "timm", "arch": name, "tag": tag}
    card = card_record(f"{name}-{folder}", arch, where, source, _preprocess(config, size, inside))
    if not _stated(record, config, "label_names"):
        _identify(card, row, tag)
    elif space is not None:
        if row is not None and row["classes"] == space:
            _identify(card, row, tag)
        card["classes"] = space
        card["unknown"].pop("classes", None)
    elif labels is None:
        card["unknown"]["classes"] = f"the label_names of its config.json do not name {classes} outputs"
    return card


def label_names(record: Mapping[str, Any]) -> dict[str, str] | None:
    """{label: description} of the outputs, in their order; None unless `label_names` names each output once.

    timm's form: a list, or {"0": label, ...}; `label_descriptions` may describe some labels in words.
    """
    config = record.get("pretrained_cfg")
    config = config if isinstance(config, Mapping) else {}
    names, count = _stated(record, config, "label_names"), record.get("num_classes")
    if isinstance(names, Mapping):
        names = [names.get(str(output)) for output in range(len(names))]
    if not isinstance(names, list) or not names or len(names) != count:
        return None
    words = _stated(record, config, "label_descriptions")
    words = words if isinstance(words, Mapping) else {}
    described = {str(name): _text(words.get(name)) or str(name) for name in names if _text(name)}
    return described if len(described) == count else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value.strip() else None


def _stated(record: Mapping[str, Any], config: Mapping[str, Any], key: str) -> Any:
    """A value of a config.json: timm reads two places, the outer one first."""
    return record.get(key) or config.get(key)


def label_space(ids: list[str]) -> str | None:
    """The name in configs/labels of these ids in this order, if any."""
    files = config_files(ConfigFolder.LABELS, ".csv")
    return next((name for name, file in files.items() if [row["id"] for row in read_csv(file)] == ids), None)


def _image_size(config: Mapping[str, Any], where: str) -> int:
    channels, *sides = get(config, "input_size", where, "three")
    if channels != 3:
        raise DataError(f"{where}.input_size is {config['input_size']}; clipjax has RGB images only")
    return square({"input_size": sides}, "input_size", where)


def _model_args(args: Mapping[str, Any], classes: int, size: int, where: str) -> dict[str, Any]:
    """The model's arguments without those that other fields state, which must agree."""
    said = {"in_chans": (3,), "num_classes": (classes,), "img_size": (size, [size, size])}
    for key, values in said.items():
        if key in args and args[key] not in values:
            raise DataError(f"{where}: model_args.{key} is {args[key]!r}, but the model has {values[0]!r}")
    return {key: value for key, value in args.items() if key not in said}


def _row(name: str, tag: str | None) -> dict[str, str] | None:
    """The row of a timm name with this tag, else any row of the name, else None."""
    rows = [row for row in read_csv(config_dir() / "models.csv") if row["library"] == "timm"]
    named = [row for row in rows if row["library_arch"] == name]
    return next((row for row in named if row["tag"] == tag), named[0] if named else None)


def _identify(card: dict[str, Any], row: Mapping[str, str] | None, tag: str | None) -> None:
    if row is None or row["tag"] != tag:
        return
    registered = arch_records()[row["arch"]]
    if card["arch"]["num_classes"] == registered["num_classes"]:
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
        "crop": "round",
        "interpolation": choose(config, "interpolation", where, _INTERPOLATIONS),
        "mean": get(config, "mean", where, "three"),
        "std": get(config, "std", where, "three positive"),
    }
