"""What the tests of the text towers share: our forward of a tower, ids, and a look at initial weights."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from _drawn import initialised
from torch import nn

from clipjax.models.arch import Arch, family_of, load_arch
from clipjax.models.network import Network
from clipjax.models.precision import Precision
from clipjax.verification.verify import random_ids

TOLERANCE = 2e-6  # relative to the largest feature


def network(config: Any) -> Network:
    """Of an arch with this text tower; its image tower is any."""
    vision: Any = load_arch("demo_small").vision
    vision = dataclasses.replace(vision, embed_dim=config.embed_dim)
    return Network(Arch("narrow", vision, config, None, False))


def features(config: Any, params: Any, ids: np.ndarray, precision: Precision = "parity") -> np.ndarray:
    encode = functools.partial(network(config).encode_text, precision=precision)
    return np.asarray(jax.jit(encode)({"text": params}, jnp.asarray(ids)))


def ids_of(config: Any, batch: int = 5) -> Any:
    return random_ids(config, batch, np.random.default_rng(1))


def run(tower: nn.Module, ids: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return tower(torch.from_numpy(ids).long()).numpy()


def error(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def assert_initialised_alike(config: Any, theirs: Any) -> None:
    """Our initial params of a tower have the shapes, means and deviations of those."""
    ours = jax.device_get(initialised(network(config).arch)["text"])
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for (path, leaf), other in zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
        where = jax.tree_util.keystr(path)
        assert leaf.shape == other.shape, where
        noise = 8 * float(other.std()) / leaf.size**0.5 + 1e-8
        assert abs(float(leaf.mean()) - float(other.mean())) <= noise, where
        assert abs(float(leaf.std()) - float(other.std())) <= noise, where


def narrow(name: str) -> Any:
    """The narrow text tower of a known architecture."""
    config = load_arch(name).text
    return family_of(config).narrow(config)
