"""Token ids of texts: the check of those for a tower, and texts as a shared beginning and the rest."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jax import Array
from jax.core import Tracer

from clipjax.errors import UsageError
from clipjax.models.arch import Arch

# Keys and values of tokens, [B, L, D] each; of all blocks [layers, B, L, D].
Memory = tuple[Array, Array]


class Rest(NamedTuple):
    """The rests of B texts, after their beginnings.

    Attributes:
        ids: int32 [B, L], padded.
        beginning: int32 [B], the row of each text's beginning.
        start: int32 [B], tokens of that beginning which the text has; 0: none.
        length: int32 [B], tokens of the rest; the text is read out at the last one.
    """

    ids: Any
    beginning: Any
    start: Any
    length: Any


def token_ids(ids: Any, arch: Arch) -> Any:
    """`ids` as int32 [B, L]; traced ones return unchecked.

    On a device an id outside the embedding table would silently become the nearest one inside.

    Raises:
        UsageError: ragged, not integers, or an id outside the vocabulary; names its row.
    """
    if isinstance(ids, Tracer):
        return ids
    assert arch.text is not None
    try:
        array = np.asarray(ids)
    except ValueError:
        raise UsageError(
            "token ids are ragged: every row must have the same length, padding included"
        ) from None
    if array.size == 0 and array.ndim:  # no texts: an empty list has no dtype
        return np.zeros((0, arch.text.context_length), np.int32)
    if array.dtype.kind not in "iu" or array.ndim == 0:
        raise UsageError(f"texts are a list of strings or token ids, integers [B, L], not {described(ids)}")
    wrong = np.argwhere((array < 0) | (array >= arch.text.vocab_size))
    if len(wrong):
        index = tuple(wrong[0])
        raise UsageError(
            f"row {index[0]} of the token ids holds {array[index]}; {arch.name} has the ids 0 to "
            f"{arch.text.vocab_size - 1}: use the model's own tokenizer"
        )
    return array.astype(np.int32)


def described(values: Any) -> str:
    if isinstance(values, (list, tuple)) and values:
        return f"a {type(values).__name__} of {type(values[0]).__name__}"
    return f"{type(values).__name__} {getattr(values, 'dtype', '')}".strip()
