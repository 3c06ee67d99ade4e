"""timm 1.0 `efficientnet.EfficientNet` and `mobilenetv3.MobileNetV3`.

`block_args` state ratios; channels are computed here as in `_efficientnet_builder.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from converters.foreign.timm_options import Options
from converters.foreign.timm_rounding import make_divisible

CLASSES = ("EfficientNet", "MobileNetV3")

_BLOCKS = {"ds": "separable", "ir": "inverted", "er": "fused", "cn": "plain"}
_KERNELS = {"ds": "dw_kernel_size", "ir": "dw_kernel_size", "er": "exp_kernel_size", "cn": "kernel_size"}
# A block's other options, and the only values that our blocks support.
_ELSE = {"s2d": False, "group_size": 0, "num_experts": 0, "pw_act": False, "pw_kernel_size": 1}
_READ = {"repeat", "block_type", "out_chs", "stride", "act_layer", "exp_ratio", "se_ratio", "noskip", "skip"}
_READ |= {"force_in_chs", *_KERNELS.values()}
_ACTIVATIONS = ("relu", "relu6", "silu", "hard_swish")


class _Squeeze(NamedTuple):
    """`from_middle`: the width is a share of the block's middle, not its input."""

    from_middle: bool
    rounded: Callable[[float], int]
    activation: str | None  # None: the block's
    gate: str


def tower(options: Options) -> dict[str, Any]:
    o = options
    later = "head_bias" in o  # MobileNetV3's arguments
    blocks, features = o.take("block_args"), o.count("num_features")
    stem = o.count("stem_size")
    if later:
        o.only("head_bias", True)
        o.only("head_norm", False)
        o.only("layer_scale_init_value", None)
    else:
        o.only("stem_kernel_size", 3)
        o.only("output_stride", 32)
    fixed, padding = o.only("fix_stem", False, True), o.only("pad_type", "", "same")
    activation = o.activation("act_layer", "relu", *_ACTIVATIONS)
    eps = o.eps("norm_layer", "nn.BatchNorm2d", "nn.BatchNorm2d")
    o.only("aa_layer", None)
    squeeze = _squeeze(o, o.only("se_from_exp", False, True) if later else False)
    rounded = _rounding(o, "round_chs_fn", o.take("round_chs_fn"))
    o.only("global_pool", "avg")
    width = in_dim = stem if fixed else rounded(stem)
    stages, activations = [], [activation]
    for stage in blocks:
        record, own = _stage(o, stage, in_dim, activation, rounded, squeeze)
        stages.append(record)
        activations.append(own)
        in_dim = record["width"]
    activations.append(activation)
    return {
        "image_size": o.image_size,
        "stem_width": width,
        "embed_dim": features,
        "activation": activation if set(activations) == {activation} else activations,
        "padding": {"": "symmetric", "same": "tf_same"}[padding],
        "bn_eps": eps,
        **({"final": "pooled"} if later else {}),
        "stages": stages,
    }


def _stage(
    o: Options,
    blocks: Sequence[Mapping[str, Any]],
    in_dim: int,
    activation: str,
    rounded: Callable[[float], int],
    squeeze: _Squeeze,
) -> tuple[dict[str, Any], str]:
    first, each = blocks[0], [block for block in blocks for _ in range(block["repeat"])]
    kind = first["block_type"]
    kernel = first.get(_KERNELS.get(kind, ""))
    if kind not in _BLOCKS:
        raise o.refused("block_args.block_type", kind)
    if not isinstance(kernel, int):
        raise o.refused(f"block_args.{_KERNELS[kind]}", kernel)
    ins, middles, squeezed = [], [], []
    for place, block in enumerate(each):
        out = rounded(block["out_chs"])
        # timm gives the stride to the stage's first block alone: all others keep the size.
        _check(o, block, first, joins=in_dim == out and (place > 0 or block["stride"] == 1))
        middle, width = _inner_widths(block, in_dim, rounded, squeeze)
        ins.append(in_dim)
        middles.append(middle)
        squeezed.append(width)
        in_dim = out
    if 0 in squeezed and any(squeezed):
        raise o.refused("block_args.se_ratio", [block.get("se_ratio") for block in blocks])
    own = activation if "act_layer" not in first else o.named(first["act_layer"])
    if own not in _ACTIVATIONS:
        raise o.refused("block_args.act_layer", first["act_layer"])
    # A stage has one number for all its blocks where there is one, else a list: expand 4, or [96, 144].
    record: dict[str, Any] = {
        "block": _BLOCKS[kind],
        "kernel": kernel,
        "stride": first["stride"],
        "expand": _factor(middles, ins) or middles,
        "width": in_dim,
        "depth": len(each),
    }
    if any(squeezed):
        widths = _factor(ins, squeezed) or squeezed
        record["squeeze"] = {"width": widths, "activation": squeeze.activation or own, "gate": squeeze.gate}
    return record, own


def _inner_widths(
    block: Mapping[str, Any], in_dim: int, rounded: Callable[[float], int], squeeze: _Squeeze
) -> tuple[int, int]:
    """A block's expanded channels and those of its squeeze-excitation; 0 without one."""
    ratio = block.get("exp_ratio", 1.0)
    before = rounded(block.get("force_in_chs") or 0) or in_dim
    middle = make_divisible(before * ratio) if block["block_type"] in ("ir", "er") else in_dim
    share = block.get("se_ratio", 0.0)  # of the expanded channels, or of those before
    width = middle * (share if squeeze.from_middle else share / ratio)
    return middle, squeeze.rounded(width) if share else 0


def _check(o: Options, block: Mapping[str, Any], first: Mapping[str, Any], *, joins: bool) -> None:
    """Raises DataError for a block that our stages cannot have.

    Args:
        first: the stage's first block, with which all blocks must agree in kind, kernel and channels.
        joins: the block's input and output have one shape, so that our block adds them.
    """
    equal = ("block_type", "out_chs", "act_layer", *_KERNELS.values())
    wrong = [key for key in equal if block.get(key) != first.get(key)]
    wrong += [key for key in block if key not in _READ and (key not in _ELSE or block[key] != _ELSE[key])]
    if block["block_type"] == "ir" and block["exp_kernel_size"] != 1:
        wrong.append("exp_kernel_size")
    if joins and not _skips(block):
        wrong.append("skip" if "skip" in block else "noskip")
    if wrong:
        raise o.refused(f"block_args.{wrong[0]}", block.get(wrong[0]))


def _skips(block: Mapping[str, Any]) -> bool:
    return block.get("skip", not block.get("noskip", False))


def _factor(large: Sequence[int], small: Sequence[int]) -> int | None:
    """The whole number by which each of `small` was multiplied to give `large`, or None."""
    if any(a % b for a, b in zip(large, small, strict=True)):
        return None
    ratios = {a // b for a, b in zip(large, small)}
    return ratios.pop() if len(ratios) == 1 else None


def _squeeze(o: Options, from_middle: bool) -> _Squeeze:
    value = o.take("se_layer")
    stated = {"call": "SqueezeExcite"} if value is None else dict(value) if isinstance(value, Mapping) else {}
    known = {"call", "gate_layer", "force_act_layer", "rd_round_fn"}
    gate = stated.get("gate_layer", "sigmoid")
    if stated.get("call") != "SqueezeExcite" or not stated.keys() <= known:
        raise o.refused("se_layer", value)
    if gate not in ("sigmoid", "hard_sigmoid"):
        raise o.refused("se_layer", value)
    own = stated.get("force_act_layer")
    rounded = _rounding(o, "se_layer", stated["rd_round_fn"]) if "rd_round_fn" in stated else round
    return _Squeeze(from_middle, rounded, None if own is None else o.named(own), gate)


def _rounding(o: Options, option: str, value: Any) -> Callable[[float], int]:
    """timm's `round_channels` with its keywords."""
    stated = dict(value) if isinstance(value, Mapping) else {"call": value}
    known = {"call", "multiplier", "divisor", "round_limit"}
    if stated.pop("call", None) != "round_channels" or not stated.keys() <= known:
        raise o.refused(option, value)
    multiplier = stated.pop("multiplier", 1.0)

    def rounded(channels: float) -> int:
        if not channels or not multiplier:
            return int(channels)
        return make_divisible(channels * multiplier, **stated)

    return rounded
