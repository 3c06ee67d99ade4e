"""The letters of options among the likeliest first tokens of an answer.

letters_of([("A", -0.5), (" A", -2.0), ("The", -3.0)], 2)      # [-0.299, -inf]: B is not listed
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clipjax.metrics.answers import LETTERS


def letters_of(top: Sequence[tuple[str, float]], n: int) -> np.ndarray:
    """The log-probability of each of the first n letters: those of the tokens "A" and " A" added.

    Args:
        top: the likeliest tokens with their natural log-probabilities.

    Returns: float32 [n]; -inf for a letter that is not listed.
    """
    scores = np.full(n, -np.inf)
    for token, logprob in top:
        place = LETTERS.find(token.removeprefix(" ")) if len(token.removeprefix(" ")) == 1 else -1
        if 0 <= place < n:
            scores[place] = np.logaddexp(scores[place], logprob)
    return scores.astype(np.float32)
