"""The forms of layers, and which one a layer takes: the only place that names platforms.

Forms of one layer compute the same up to rounding. Their functions are beside the layers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from clipjax.models.training import Mode


@dataclass(frozen=True)
class When:
    """The passes in which a form is taken; None: any.

    Attributes:
        dtype: of what the layer reads.
        training: True in training steps, False elsewhere.
        compiler: in a pass that states no platform the compiler chooses, as it knows the platform.
        float32_products: only in passes that take them (`precision.float32_products`).
    """

    platform: Literal["cpu", "gpu", "tpu"] | None = None
    dtype: Literal["bfloat16"] | None = None
    training: bool | None = None
    compiler: bool = False
    float32_products: bool = False

    def allows(self, mode: Mode, dtype: Any) -> bool:
        """Whether the form may be taken on some platform."""
        training = mode.training is not None
        of_pass = self.dtype in (None, jnp.dtype(dtype).name) and self.training in (None, training)
        return of_pass and self.on_host(mode)

    def on_host(self, mode: Mode) -> bool:
        """Whether the form is one of the host's: its CPU may have products that others lack."""
        return mode.float32_products or not self.float32_products


ALWAYS = When()
ON_CPU = When("cpu", compiler=True)
FAST_ON_CPU_WITH_BFLOAT16 = When("cpu", "bfloat16", compiler=True, float32_products=True)
FAST_ON_GPU = When("gpu", "bfloat16")
FAST_ON_TPU = When("tpu", "bfloat16")
FAST_ON_TPU_BY_COMPILER = When("tpu", "bfloat16", compiler=True)
FAST_ON_TPU_INFERENCE = When("tpu", "bfloat16", training=False)
FAST_ON_TPU_TRAINING = When("tpu", "bfloat16", training=True)
TRAINING_ON_CPU = When("cpu", training=True)

# Layer -> its forms, the first that fits is taken. A layer's shapes may exclude some.
FORMS: dict[str, dict[str, When]] = {
    # layers.py
    "linear": {
        "float32_product": FAST_ON_CPU_WITH_BFLOAT16,
        "gradient_by_rows": TRAINING_ON_CPU,
        "plain": ALWAYS,
    },
    "norm": {"one_read": FAST_ON_TPU, "two_reads": ALWAYS},
    "normed_products": {"folded": FAST_ON_TPU_INFERENCE, "apart": ALWAYS},
    "gelu": {"tanh": FAST_ON_TPU, "erf": ALWAYS},
    "mlp": {"products_apart": FAST_ON_TPU_INFERENCE, "plain": ALWAYS},
    # attention.py, relative_position.py, windows.py
    "attention": {
        "fused": FAST_ON_GPU,
        "recomputed": FAST_ON_TPU_TRAINING,
        "divided_scores": FAST_ON_TPU,
        "few_heads": ON_CPU,
        "divided_result": ALWAYS,
    },
    "distance_bias": {"products": FAST_ON_TPU_BY_COMPILER, "rows": ALWAYS},
    "windows": {"by_place": FAST_ON_TPU_BY_COMPILER, "by_image": ALWAYS},
    # tokens.py
    "lookup": {"product": FAST_ON_TPU_TRAINING, "rows": ALWAYS},
    # convolutions.py, pools.py
    "depthwise": {
        "frequencies": FAST_ON_TPU_INFERENCE,
        "gradient_by_pixels": TRAINING_ON_CPU,
        "shifted": ON_CPU,
        "general": ALWAYS,
    },
    "grouped": {"merged": ON_CPU, "general": ALWAYS},
    "convolution": {"plain_gradients": ON_CPU, "general": ALWAYS},
    "pixelwise": {"gradient_by_rows": When("cpu"), "general": ALWAYS},
    "batch_norm": {"input_kept": TRAINING_ON_CPU, "plain": ALWAYS},
    "average_pool": {"windows": FAST_ON_TPU_BY_COMPILER, "reshaped": ALWAYS},
    "max_pool": {"shifted": ON_CPU, "windows": ALWAYS},
    # sequence.py, and whole towers (network.py)
    "blocks": {"written_out": TRAINING_ON_CPU, "scanned": ALWAYS},
    "kept": {"few": FAST_ON_TPU_TRAINING, "products": When(training=True), "nothing": ALWAYS},
    "batch": {"chunks": FAST_ON_TPU_INFERENCE, "whole": ALWAYS},
    # language/transformer.py, language/decoder.py
    "decoder_projections": {"apart": FAST_ON_TPU, "plain": ALWAYS},
    "few_queries": {"repeated": FAST_ON_TPU, "plain": ALWAYS},
    "cache": {"joined_heads": FAST_ON_TPU, "heads": ALWAYS},
}


def is_possible(layer: str, name: str, mode: Mode, dtype: Any) -> bool:
    """Whether a pass may take the form, if its shapes allow it."""
    when = FORMS[layer][name]
    return when.allows(mode, dtype) and when.platform in (None, mode.platform)


def form(layer: str, mode: Mode, dtype: Any, among: Collection[str] | None = None) -> str:
    """The name of the form that a layer takes, where the pass decides alone.

    among: the forms that the layer's shapes allow; None: all.
    """
    return _forms(layer, mode, dtype, among)[-1]


def in_form(layer: str, ways: Mapping[str, Callable[..., Any]], *args: Array, mode: Mode) -> Any:
    """The layer's result.

    ways: the functions of the forms that the layer's shapes allow, called with `args`; the first of these is
        what the layer reads.
    """
    *for_compiler, last = _forms(layer, mode, args[0].dtype, ways)
    # A switch with one branch stays, too: the stored bits of "parity" come from programs that have it.
    whens = [FORMS[layer][name] for name in ways]
    if mode.platform is not None or not any(each.compiler and each.on_host(mode) for each in whens):
        return ways[last](*args)
    of_platform = {FORMS[layer][name].platform: ways[name] for name in for_compiler}
    return jax.lax.platform_dependent(*args, default=ways[last], **of_platform)  # pyright: ignore[reportCallIssue]


def _forms(layer: str, mode: Mode, dtype: Any, among: Collection[str] | None) -> list[str]:
    """The form; before it those that the compiler takes instead where the platform is theirs."""
    for_compiler: list[str] = []
    for name, when in FORMS[layer].items():
        if (among is not None and name not in among) or not when.allows(mode, dtype):
            continue
        if when.platform in (None, mode.platform):
            return [*for_compiler, name]
        if when.compiler and mode.platform is None:
            for_compiler.append(name)
    raise KeyError(f"no form of {layer!r} fits")
