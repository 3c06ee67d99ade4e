"""The method `bias_tuning`: cross-entropy that moves biases alone, of the image tower and of the head.

Source: BitFit, Ben Zaken et al. 2022 (arXiv 2106.10199).
"""

from __future__ import annotations

import dataclasses

from clipjax.finetune.method import Method, Outline, Problem, Setup
from clipjax.finetune.methods import cross_entropy

INTERFACE = 1


def is_bias(path: str) -> bool:
    return path.rpartition("/")[2] == "bias"


def prepare(setup: Setup) -> Problem:
    return dataclasses.replace(cross_entropy.prepare(setup), trained=is_bias)


def outline(setup: Setup) -> Outline:
    return dataclasses.replace(cross_entropy.outline(setup), trained=is_bias)


METHOD = Method(
    name="bias_tuning",
    title="Bias tuning",
    paper="Ben Zaken et al. 2022 (arXiv 2106.10199)",
    options=dict(cross_entropy.METHOD.options),
    prepare=prepare,
    outline=outline,
)
