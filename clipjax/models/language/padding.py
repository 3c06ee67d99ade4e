"""Prompts of several lengths in one array, padded on the left to one of a few lengths."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BUCKET = 64  # ids; prompts are padded to a multiple, and each multiple is compiled once


def padded_left(rows: Sequence[Sequence[int]], most: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids int32 [B, S] and valid bool [B, S]: S is the longest row's length, up to a multiple of `BUCKET`.

    Args:
        most: ids that padding may fill, so that the context has room for what follows.
    """
    longest = max(map(len, rows))
    length = max(longest, min(-(-longest // BUCKET) * BUCKET, most))
    ids = np.zeros((len(rows), length), np.int32)
    valid = np.zeros((len(rows), length), bool)
    for i, row in enumerate(rows):
        ids[i, length - len(row) :] = row
        valid[i, length - len(row) :] = True
    return ids, valid
