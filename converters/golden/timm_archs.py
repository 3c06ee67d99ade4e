"""Every option of timm's architectures, for configs/timm_archs.json: what timm's config.json leaves out.

And the pixels that timm takes for the bare name of an architecture, for weights without any configuration.

`build_model_with_cfg(class, name, **options)` is replaced, so nothing is built. Classes and functions are
written by name, torch.nn's with the prefix `nn.`; a `functools.partial` as {"call": name, "args": [...], its
keywords}. Equal neighbours in `block_args` become one with `repeat`; their null values are left out.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any
from unittest import mock

import timm
from timm.models import get_pretrained_cfg, model_entrypoint

# timm's modules that have architectures of our families.
MODULES = (
    *(
        "beit",
        "convnext",
        "deit",
        "densenet",
        "efficientnet",
        "eva",
        "mlp_mixer",
        "mobilenetv3",
        "regnet",
        "resnet",
    ),
    *("resnetv2", "swin_transformer", "vgg", "vision_transformer"),
)
# Options of `build_model_with_cfg` itself, about fetching weights and taking features.
_NOT_OPTIONS = {
    *("pretrained_cfg", "pretrained_cfg_overlay", "feature_cfg", "pretrained_strict", "kwargs_filter"),
    *("pretrained_filter_fn", "cache_dir", "pretrained_model_args", "features_only"),
}
_PIXELS = ("input_size", "crop_pct", "crop_mode", "interpolation", "mean", "std")


class _BuiltError(Exception):
    def __init__(self, model_class: type, options: dict[str, Any]) -> None:
        self.model_class, self.options = model_class, options


def _build(
    model_class: type, variant: str, pretrained: bool, *, model_cfg: Any = None, **options: Any
) -> None:
    model_options = {name: value for name, value in options.items() if name not in _NOT_OPTIONS}
    raise _BuiltError(
        model_class, model_options if model_cfg is None else {"cfg": model_cfg, **model_options}
    )


def architectures() -> dict[str, Any]:
    """All architectures of timm, their pixels and their classes.

    "archs": name -> [class, {option: value}, default tag]; "pixels": name -> `default_pixels`; "classes":
    class -> {option: default}.
    """
    classes, archs, pixels = {}, {}, {}
    for module in MODULES:
        place = importlib.import_module(f"timm.models.{module}")
        with mock.patch.object(place, "build_model_with_cfg", _build):
            for name in timm.list_models(module=module):
                try:
                    model_entrypoint(name)()
                except _BuiltError as built:
                    model_class, options = built.model_class, built.options
                else:
                    raise AssertionError(f"timm's {name} calls no build_model_with_cfg of {module}")
                classes[model_class.__name__] = {
                    key: plain(value) for key, value in defaults(model_class).items()
                }
                record = {key: plain(value) for key, value in options.items()}
                if isinstance(record.get("block_args"), list):
                    record["block_args"] = [_repeated(stage) for stage in record["block_args"]]
                archs[name] = [model_class.__name__, record, default_tag(name)]
                pixels[name] = default_pixels(name)
    return {"classes": classes, "archs": archs, "pixels": pixels}


def default_pixels(name: str) -> dict[str, Any]:
    """Size, crop, mean, ... of the tag that timm loads for the bare name, as in its config.json."""
    config = get_pretrained_cfg(name).to_dict()  # type: ignore[reportOptionalMemberAccess]
    return {key: plain(config[key]) for key in _PIXELS}


def default_tag(name: str) -> str:
    """The tag that timm's bare name loads, or "" without weights."""
    config = get_pretrained_cfg(name)
    return (config.tag if config is not None and config.has_weights else None) or ""


def defaults(model_class: type) -> dict[str, Any]:
    """The defaults of a class's options, and of its base's where it passes arguments on."""
    values: dict[str, Any] = {}
    for base in model_class.__mro__[:-1]:
        parameters = inspect.signature(base.__init__).parameters.values()
        named = [p for p in parameters if p.default is not p.empty]
        values = {p.name: p.default for p in named} | values
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return {name: value for name, value in values.items() if name not in ("device", "dtype")}


def plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, functools.partial):
        call: dict[str, Any] = {"call": plain(value.func)}
        call |= {"args": plain(value.args)} if value.args else {}
        return call | {name: plain(item) for name, item in value.keywords.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    return f"nn.{value.__name__}" if value.__module__.startswith("torch.nn.") else value.__name__


def _repeated(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = []
    for block in blocks:
        block = {name: value for name, value in block.items() if value is not None}
        if groups and {**groups[-1], "repeat": 1} == {"repeat": 1, **block}:
            groups[-1]["repeat"] += 1
        else:
            groups.append({"repeat": 1, **block})
    return groups


def text() -> str:
    record = architectures()
    parts = [f'"timm": {json.dumps(timm.__version__)}']
    for part, entries in record.items():
        lines = [f" {json.dumps(name)}: {json.dumps(entry)}" for name, entry in sorted(entries.items())]
        parts.append(f'"{part}": {{\n' + ",\n".join(lines) + "\n}")
    return "{\n" + ",\n".join(parts) + "\n}\n"
