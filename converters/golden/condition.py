"""Conditioned reference weights: every layer by its class, then each tower by its own file."""

from __future__ import annotations

import math
from typing import Any

import torch

from converters.golden.llava import Llava, condition_decoder, condition_projector
from converters.golden.run import towers_of
from converters.golden.tower import tower_of
from converters.golden.weights import set_by_class

LOGIT_SCALE = 50.0


@torch.no_grad()
def condition(model: Any, seed: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in model.modules():
            set_by_class(module)
        for tower in towers_of(model):
            tower_of(tower).condition(tower, seed)
        if isinstance(model, Llava):
            condition_projector(model.projector)
            condition_decoder(model.llm)
        elif hasattr(model, "logit_scale"):
            model.logit_scale.fill_(math.log(LOGIT_SCALE))
