"""How evenly answers are spread over classes: the entropy of their shares, as a part of the largest."""

from __future__ import annotations

import numpy as np


def evenness(counts: np.ndarray) -> float:
    """1 where each class was answered as often, 0 where one was answered always.

    Pielou 1966: the entropy of the shares over that of equal shares.

    Args:
        counts: int [K], K >= 2: how often each class was answered.

    Raises:
        ValueError: fewer than two classes, or no answer.
    """
    counts = np.asarray(counts, np.float64)
    if len(counts) < 2 or counts.sum() == 0:
        raise ValueError(f"evenness needs two classes and an answer, not the counts {counts}")
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum() / np.log(len(counts)))
