"""BitFit: cross-entropy that moves the biases alone, of the tower and of the head."""

from __future__ import annotations

import dataclasses

from clipjax.finetune.method import Method, Outline, Problem, Setup
from clipjax.finetune.methods import cross_entropy


def _is_bias(path: str) -> bool:
    return path.rpartition("/")[2] == "bias"


def prepare(setup: Setup) -> Problem:
    return dataclasses.replace(cross_entropy.prepare(setup), trained=_is_bias)


def outline(setup: Setup) -> Outline:
    return dataclasses.replace(cross_entropy.outline(setup), trained=_is_bias)


METHOD = Method(
    name="bitfit",
    title="BitFit",
    paper="Ben Zaken et al. 2022 (arXiv 2106.10199)",
    options=dict(cross_entropy.METHOD.options),
    prepare=prepare,
    outline=outline,
)
