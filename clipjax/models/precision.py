"""The two precisions of a forward pass."""

from __future__ import annotations

from typing import Any, Literal, cast, get_args

import jax
import jax.numpy as jnp

from clipjax.devices.cpu import this_cpu_multiplies_bfloat16
from clipjax.guards import known_name
from clipjax.models.version import FLOAT32_PRODUCTS, FORM, forward_version

# parity: float32, with the highest precision for every product, which is not the default on a TPU.
# fast: towers and decoders in bfloat16; norms, softmax and what is returned in float32.
Precision = Literal["parity", "fast"]
DTYPE = {"parity": jnp.float32, "fast": jnp.bfloat16}
MATMUL = {"parity": "highest", "fast": "default"}

Dtype = Literal["float32", "bfloat16"]  # of a decoder's params
PRECISION_OF: dict[str, Precision] = {"float32": "parity", "bfloat16": "fast"}


def float32_products(precision: str) -> bool:
    """Whether layers take products of bfloat16 with a float32 result: "fast" on a CPU with AVX512_BF16.

    Only then does XLA use the CPU's instructions for bfloat16. Otherwise it converts operands to float32.
    """
    return precision == "fast" and jax.default_backend() == "cpu" and this_cpu_multiplies_bfloat16()


def stated_platform(platform: str | None, precision: str) -> str | None:
    """The platform that a program which embeds states, where it runs on `platform`.

    "parity" on a CPU or GPU states none: the compiler chooses, as in the programs of its stored bits.
    """
    return platform if precision == "fast" or platform == "tpu" else None


def form_field(precision: str) -> dict[str, str]:
    """The form of a forward pass on this host, as a field of a key: empty but for `float32_products`."""
    return {FORM: FLOAT32_PRODUCTS} if float32_products(precision) else {}


def forward_fields(precision: str) -> dict[str, Any]:
    """The fields of a key that name the forward pass: its version and its form.

    Hosts with and without AVX512_BF16 never fill one stored entry.
    """
    return {"forward": forward_version(precision), **form_field(precision)}


def known_precision(name: str) -> Precision:
    """`name`, checked. Raises UsageError."""
    known_name("precision", name, get_args(Precision))
    return cast(Precision, name)


def known_dtype(name: str) -> Dtype:
    """`name`, checked. Raises UsageError."""
    known_name("dtype", name, get_args(Dtype))
    return cast(Dtype, name)
