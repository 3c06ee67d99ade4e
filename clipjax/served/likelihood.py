"""The log-probability of a given answer, from a server that returns those of its prompt (vLLM).

The option is sent as the beginning of the answer (`continue_final_message`). The prompt's last tokens are
then the option's. Read in vLLM 0.33.0, and not tried.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

KINDS = ("vllm",)  # of servers that have it
FIELDS: Mapping[str, Any] = {
    "add_generation_prompt": False,
    "continue_final_message": True,
    "prompt_logprobs": 0,
}


def likelihood_of(answer: Mapping[str, Any], option: str) -> tuple[float, int] | None:
    """The summed natural log-probability of an option's tokens, and their number.

    Args:
        answer: of a chat with `FIELDS`, whose last message is the option.

    Returns: None where the server gives no log-probabilities of the prompt, or its last tokens are not the
        option's.

    Raises ValueError, KeyError or TypeError for another form.
    """
    total, text, wanted = 0.0, "", option.strip()
    tokens: Sequence[Any] = answer.get("prompt_logprobs") or ()
    for count, token in enumerate(reversed(tokens), 1):
        if token is None:
            return None
        [each] = token.values()  # of the prompt's own token alone, as 0 more are asked for
        text, total = each["decoded_token"] + text, total + float(each["logprob"])
        if text.strip() == wanted:
            return (total, count) if math.isfinite(total) else None
        if len(text) > len(wanted) + 1:
            return None
    return None
