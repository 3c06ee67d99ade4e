"""Our record of the tower that timm builds from an architecture's name and `model_args`.

A family takes every option of its classes by name and lists the values it supports; all else is refused.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from clipjax.config import config_dir
from clipjax.errors import DataError
from clipjax.registry import Registry
from clipjax.storage.reading import read_json

_FAMILIES = Registry("family of timm", "CLASSES")

# Options of every class that the file's own fields set, or that do not change what a trained model computes.
_TRAINING = {
    *("drop_rate", "drop_path_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate"),
    *("drop_block_rate", "weight_init", "fix_init", "head_init_scale", "zero_init_last", "memory_efficient"),
    *("nlhb",),
}
_ACTIVATIONS = {
    **dict.fromkeys(["gelu", "nn.GELU", "GELU"], "gelu"),
    **dict.fromkeys(["gelu_tanh", "GELUTanh"], "gelu_tanh"),
    **dict.fromkeys(["quick_gelu", "quickgelu", "QuickGELU"], "quick_gelu"),
    **dict.fromkeys(["silu", "swish", "nn.SiLU", "Swish"], "silu"),
    **dict.fromkeys(["relu", "nn.ReLU"], "relu"),
    **dict.fromkeys(["relu6", "nn.ReLU6"], "relu6"),
    **dict.fromkeys(["hard_swish", "nn.Hardswish", "HardSwish"], "hard_swish"),
}
# The eps of a norm that is named without one: torch's and timm's own layers differ.
_EPS = {"nn.LayerNorm": 1e-5, "LayerNorm": 1e-6, "LayerNorm2d": 1e-6, "layernorm": 1e-6, "layernorm2d": 1e-6}
_EPS |= {"nn.BatchNorm2d": 1e-5, "batchnorm": 1e-5, "batchnorm2d": 1e-5, "BatchNormAct2d": 1e-5}
_EPS |= {"GroupNormAct": 1e-5, "Affine": 0.0}

_MOST = 1_000_000  # no model has so many channels, blocks or heads, nor such a ratio
_PLANS = ("cfg", "block_args")  # plans of whole networks, each in its own form: not read from `model_args`


class Options:
    """The options of one architecture; each is taken once.

    Attributes:
        image_size: in pixels.
    """

    def __init__(
        self, values: Mapping[str, Any], name: str, timm_class: str, family: str, image_size: int, where: str
    ) -> None:
        self._left = dict(values)
        self.image_size = image_size
        self.timm_class = timm_class
        self._about = f"{where}: timm's {name}", family

    def __contains__(self, option: str) -> bool:
        return option in self._left

    def take(self, option: str) -> Any:
        return self._left.pop(option)

    def count(self, option: str) -> int:
        """A whole number above 0 and below `_MOST`."""
        value = self.take(option)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < _MOST:
            raise self.refused(option, value)
        return value

    def ratio(self, option: str) -> float:
        """A number above 0 and below `_MOST`."""
        value = self.take(option)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < _MOST:
            raise self.refused(option, value)
        return value

    def only(self, option: str, *values: Any) -> Any:
        """The value, which must be one of `values`."""
        value = self.take(option)
        # In Python 1 == True: a number must not pass as a flag.
        if not any(value == known and isinstance(value, bool) == isinstance(known, bool) for known in values):
            raise self.refused(option, value)
        return value

    def activation(self, option: str, default: str, *known: str) -> str:
        """The activation's name in `clipjax.models.modules.layers`; null is `default`."""
        value = self.take(option)
        name = default if value is None else self.named(value)
        if name not in known:
            raise self.refused(option, value)
        return name

    def named(self, activation: Any) -> str | None:
        return _ACTIVATIONS.get(activation) if isinstance(activation, str) else None

    def eps(self, option: str, default: str, *known: str) -> float:
        """A norm's eps; its class is one of `known`, null is `default`."""
        value = self.take(option)
        kind, stated = default if value is None else value, {}
        if isinstance(kind, Mapping):
            kind, stated = kind.get("call"), {key: kind[key] for key in kind if key != "call"}
        if not isinstance(kind, str) or kind not in known or not stated.keys() <= {"eps"}:
            raise self.refused(option, value)
        eps = stated.get("eps", _EPS[kind])
        if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 <= eps < 1:
            raise self.refused(option, value)
        return float(eps)

    def call(self, option: str, known: str, *keywords: str) -> dict[str, Any]:
        """The keywords of a class, which must be `known`."""
        value = self.take(option)
        stated = dict(value) if isinstance(value, Mapping) else {"call": value}
        named = stated.pop("call", None) == known
        numbers = all(isinstance(each, int | float) and 0 < each < _MOST for each in stated.values())
        if not named or not stated.keys() <= set(keywords) or not numbers:
            raise self.refused(option, value)
        return stated

    def numbers(self, option: str, length: int | None = None) -> list[int]:
        """Whole numbers, `length` of them; one may stand for all."""
        value = self.take(option)
        items = [value] * (length or 1) if isinstance(value, int) else value
        if not isinstance(items, list) or not items or len(items) != (length or len(items)):
            raise self.refused(option, value)
        if any(isinstance(item, bool) or not isinstance(item, int) or not 0 < item < _MOST for item in items):
            raise self.refused(option, value)
        return items

    def refused(self, option: str, value: Any) -> DataError:
        about, family = self._about
        return DataError(f"{about} has {option} = {value!r}, which clipjax's family {family!r} does not have")

    def finish(self) -> None:
        """Raises DataError for the first option not taken, unless it is in `_TRAINING`."""
        for option, value in self._left.items():
            if option not in _TRAINING:
                raise self.refused(option, value)


@functools.cache
def _families() -> dict[str, tuple[str, ModuleType]]:
    """{timm's class: (our family, its module)}."""
    by_class = {}
    for name in _FAMILIES.own():
        family = _FAMILIES.module(name)
        by_class |= dict.fromkeys(family.CLASSES, (name, family))
    return by_class


@functools.cache
def _record() -> dict[str, Any]:
    return read_json(config_dir() / "timm_archs.json")


def architectures() -> list[str]:
    return list(_record()["archs"])


def default_tag(name: str) -> str | None:
    """The tag that timm's bare name loads, or None."""
    return _record()["archs"][name][2] or None if name in _record()["archs"] else None


def default_pixels(name: str) -> dict[str, Any]:
    """Size, crop, mean, ... of the weights that timm loads for the bare name, as in their config.json."""
    return dict(_record()["pixels"][name])


def options_of(name: str) -> dict[str, Any]:
    timm_class, options, _ = _record()["archs"][name]
    return {**_record()["classes"][timm_class], **options}


def has_family(name: str) -> bool:
    archs = _record()["archs"]
    return name in archs and archs[name][0] in _families()


def _supported() -> str:
    return f"it has timm's families {', '.join(sorted({family for family, _ in _families().values()}))}"


def tower(name: str, args: Mapping[str, Any], size: int, where: str) -> dict[str, Any]:
    """Our `[vision]` record of timm's `create_model(name, **args)`.

    `args` lacks those of the head and the image size.

    Raises:
        DataError: an unknown architecture or argument, or the first option that clipjax does not have.
    """
    record = _record()
    if name not in record["archs"]:
        raise DataError(f"{where}: clipjax does not have timm's architecture {name!r}; {_supported()}")
    timm_class, values = record["archs"][name][0], options_of(name)
    if timm_class not in _families():
        raise DataError(
            f"{where}: timm's {name} is a {timm_class}, which clipjax does not have; {_supported()}"
        )
    for option, value in args.items():
        stated = f"{where}: model_args.{option} is {value!r}"
        if isinstance(values.get("cfg"), Mapping) and option in values["cfg"]:  # RegNet's
            if value != values["cfg"][option]:
                raise DataError(f"{stated}; clipjax has {name} with {values['cfg'][option]!r}")
            continue
        if option not in values:
            raise DataError(f"{stated}, which clipjax does not read for timm's {timm_class}")
        if isinstance(value, Mapping) or (option in _PLANS and isinstance(values[option], list | Mapping)):
            raise DataError(f"{stated}, which clipjax does not read")
        if value is None and values[option] is not None:  # an architecture may put back its own, or fail
            raise DataError(f"{stated}; clipjax has {name} with {values[option]!r}")
        values[option] = value
    for option in ("num_classes", "in_chans", "img_size"):  # the file's own fields state these
        values.pop(option, None)
    family, module = _families()[timm_class]
    options = Options(values, name, timm_class, family, size, where)
    vision = module.tower(options)
    options.finish()
    return {"family": family, **vision}
