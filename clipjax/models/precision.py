"""The two precisions of a forward pass."""

from __future__ import annotations

from typing import Literal, cast, get_args

import jax.numpy as jnp

from clipjax.guards import known_name

# parity: float32, with the highest precision for every product, which is not the default on a TPU.
# fast: towers and decoders in bfloat16; norms, softmax and what is returned in float32.
Precision = Literal["parity", "fast"]
DTYPE = {"parity": jnp.float32, "fast": jnp.bfloat16}
MATMUL = {"parity": "highest", "fast": "default"}

Dtype = Literal["float32", "bfloat16"]  # of a decoder's params
PRECISION_OF: dict[str, Precision] = {"float32": "parity", "bfloat16": "fast"}


def known_precision(name: str) -> Precision:
    """`name`, checked. Raises UsageError."""
    known_name("precision", name, get_args(Precision))
    return cast(Precision, name)


def known_dtype(name: str) -> Dtype:
    """`name`, checked. Raises UsageError."""
    known_name("dtype", name, get_args(Dtype))
    return cast(Dtype, name)
