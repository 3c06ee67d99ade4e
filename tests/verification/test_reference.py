"""The conditioned reference weights: every tensor and every eps moves the output by ten tolerances."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
import torch
from _long import mostly_long

from converters.golden import run

TOLERANCE = 1e-5  # of verify, on unit-norm embeddings
EMBEDDINGS = ("image_embedding", "text_embedding")
# A bias of the keys adds the same number to every logit of a query, which softmax takes away again.
WITHOUT_EFFECT = {"visual.attnpool.k_proj.bias"}


class Case:
    def __init__(self, name: str):
        config = reference.narrow(name)
        self.model: Any = reference.conditioned(config)
        self.given = reference.inputs(config)
        self.golden = run(self.model, **self.given)

    def movement(self) -> float:
        now = run(self.model, **self.given)
        return max(float(np.abs(now[key] - self.golden[key]).max()) for key in EMBEDDINGS)

    def tensors(self) -> dict[str, torch.Tensor]:
        skipped = {"logit_scale", *WITHOUT_EFFECT}
        state = self.model.state_dict().items()
        return {key: x for key, x in state if key not in skipped and "num_batches_tracked" not in key}


@pytest.fixture(
    scope="module",
    params=mostly_long(
        ["ViT-B-32-quickgelu", "ViT-bigG-14", "RN50x4"],
        keep=["ViT-B-32-quickgelu", "ViT-bigG-14"],
        guard="verification/test_reference.py::test_two_per_cent_of_any_tensor_moves_the_embedding",
    ),
)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


@torch.no_grad()
def movement_of(case: Case, tensor: torch.Tensor, changed: torch.Tensor) -> float:
    kept = tensor.clone()
    tensor.copy_(changed.clone())
    moved = case.movement()
    tensor.copy_(kept)
    return moved


def test_every_tensor_reversed_moves_the_embedding(case: Case):
    moved = {key: movement_of(case, x, x.flip(0)) for key, x in case.tensors().items()}
    assert len(moved) > 50
    assert {key: m for key, m in moved.items() if m < 1000 * TOLERANCE} == {}


def test_every_square_matrix_transposed_moves_the_embedding(case: Case):
    squares = {key: x for key, x in case.tensors().items() if x.ndim == 2 and x.shape[0] == x.shape[1]}
    moved = {key: movement_of(case, x, x.T) for key, x in squares.items()}
    assert any("out_proj" in key for key in moved)
    assert {key: m for key, m in moved.items() if m < 1000 * TOLERANCE} == {}


def test_two_per_cent_of_any_tensor_moves_the_embedding(case: Case):
    # The last projection alone is free of scale: its output is normalised.
    tensors = {k: x for k, x in case.tensors().items() if k not in ("visual.proj", "text_projection")}
    moved = {key: movement_of(case, x, 1.02 * x) for key, x in tensors.items()}
    assert {key: m for key, m in moved.items() if m < 10 * TOLERANCE} == {}


def test_every_eps_moves_the_embedding(case: Case):
    moved = {}
    for name, module in case.model.named_modules():
        if hasattr(module, "eps"):
            kept, module.eps = module.eps, 1e-6
            moved[name] = case.movement()
            module.eps = kept
    assert len(moved) >= 9
    assert {key: m for key, m in moved.items() if m < 10 * TOLERANCE} == {}


def test_inputs_are_told_apart(case: Case):
    for key in EMBEDDINGS:
        cosines = case.golden[key] @ case.golden[key].T
        assert cosines[~np.eye(len(cosines), dtype=bool)].max() < 0.95


def test_key_bias_has_no_effect():
    case = Case("RN50x4")
    for key in WITHOUT_EFFECT:
        bias = case.model.state_dict()[key]
        assert movement_of(case, bias, bias.flip(0)) < TOLERANCE


def test_same_seed_same_weights():
    config = reference.narrow("ViT-B-32")
    a, b = (reference.conditioned(config).state_dict() for _ in range(2))
    c = reference.conditioned(config, seed=1).state_dict()
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["visual.proj"], c["visual.proj"])
