"""BatchNorm in training against torch.nn.BatchNorm2d, alone and in stacked blocks."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from clipjax.errors import UsageError
from clipjax.models.modules import convolutions, sequence
from clipjax.models.training import Training, running, statistics
from tests.models._modes import bound, mode_of

DIM = 5


def pixels(batch: int = 4, offset: float = 0.3) -> np.ndarray:
    """float32 [batch, 3, 3, DIM]; the images, and the channels, differ from each other."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((batch, 3, 3, DIM)) * np.linspace(0.1, 2, DIM)
    return (noise + np.linspace(0, 1, batch)[:, None, None, None] + offset).astype(np.float32)


def nchw(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x.transpose(0, 3, 1, 2)).double()


def pair() -> tuple[torch.nn.BatchNorm2d, convolutions.BatchNorm]:
    """torch's in float64 and train mode, and ours, with the same values that are no defaults."""
    rng = np.random.default_rng(1)
    theirs, ours = torch.nn.BatchNorm2d(DIM, eps=1e-3), convolutions.BatchNorm(DIM, eps=1e-3)
    leaves = {"weight": ours.scale, "bias": ours.bias, "running_mean": ours.mean, "running_var": ours.var}
    for name, leaf in leaves.items():
        value = rng.uniform(0.5, 1.5, DIM).astype(np.float32)
        getattr(theirs, name).data.copy_(torch.from_numpy(value))
        leaf.set_value(jax.device_put(value))
    return theirs.double().train(), ours


def moved(
    layer: convolutions.BatchNorm, x: np.ndarray, training: Training, platform: str | None = None
) -> dict[str, Any]:
    """Output, gradients of the sum of its sines, and what the layer then holds as mean and variance."""
    graphdef, state = nnx.split(bound(layer, mode_of(training, platform)))

    def loss(state: Any, x: jax.Array) -> tuple[jax.Array, Any]:
        module = nnx.merge(graphdef, state)
        y = module(x)
        return jnp.sum(jnp.sin(y)), (y, statistics(module))

    (_, (y, found)), (d, dx) = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(state, x)
    return {"y": y, "dx": dx, "scale": d["scale"][...], "bias": d["bias"][...], **found}


def same(ours: Any, theirs: Any, tolerance: float = 1e-5) -> bool:
    theirs = np.asarray(theirs.detach() if isinstance(theirs, torch.Tensor) else theirs)
    return bool(np.abs(np.asarray(ours) - theirs).max() <= tolerance * np.abs(theirs).max())


@pytest.mark.parametrize("platform", [None, "cpu"])
@pytest.mark.parametrize(("offset", "tolerance"), [(0.3, 1e-5), (100.0, 1e-3)])
def test_the_statistics_of_the_batch(offset: float, tolerance: float, platform: str | None) -> None:
    theirs, ours = pair()
    before = ours.mean[...], ours.var[...]
    x = nchw(pixels(offset=offset)).requires_grad_()
    y = theirs(x)
    torch.sin(y).sum().backward()
    found = moved(ours, pixels(offset=offset), Training("batch"), platform)
    assert x.grad is not None
    assert same(found["y"], y.detach().permute(0, 2, 3, 1), tolerance)
    assert same(found["dx"], x.grad.permute(0, 2, 3, 1), tolerance)
    assert same(found["scale"], theirs.weight.grad, tolerance)
    assert same(found["bias"], theirs.bias.grad, tolerance)
    mean, var = (running(old, new) for old, new in zip(before, (found["mean"], found["var"])))
    assert same(mean, theirs.running_mean)
    assert same(var, theirs.running_var)
    # Another momentum, or the variance that the batch is normalised by, would be seen.
    assert not same(0.8 * before[1] + 0.2 * found["var"], theirs.running_var, 1e-3)
    count = x.numel() // DIM
    assert not same(running(before[1], found["var"] * (count - 1) / count), theirs.running_var, 1e-3)


def test_each_part_of_the_batch_has_its_own() -> None:
    theirs, ours = pair()
    x = pixels(batch=6)
    found = moved(ours, x, Training("per_device", devices=3))
    parts = np.split(x, 3)
    outputs = [theirs(nchw(part)).detach().permute(0, 2, 3, 1) for part in parts]
    assert same(found["y"], torch.cat(outputs))
    assert same(found["mean"], parts[0].mean((0, 1, 2)))
    assert same(found["var"], parts[0].reshape(-1, DIM).var(0, ddof=1))
    assert not same(found["y"], moved(ours, x, Training("batch"))["y"], 1e-2)


def test_a_cpu_has_the_gradients_of_each_part() -> None:
    _, ours = pair()
    x, training = pixels(batch=6), Training("per_device", devices=3)
    plain, on_cpu = (moved(ours, x, training, platform) for platform in (None, "cpu"))
    assert all(same(on_cpu[name], value) for name, value in plain.items())


def test_frozen_is_inference() -> None:
    _, ours = pair()
    x = jnp.asarray(pixels())
    before, expected = statistics(ours), bound(ours)(x)
    ours = bound(ours, mode_of(Training("frozen", remat=True)))
    np.testing.assert_array_equal(ours(x), expected)
    assert jax.tree.all(jax.tree.map(np.array_equal, statistics(ours), before))


def test_bfloat16_has_float32_statistics() -> None:
    _, ours = pair()
    x = np.asarray(pixels(offset=30.0)).astype(jnp.bfloat16)
    ours = bound(ours, mode_of(Training("batch")))
    y = ours(jax.device_put(x))
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(statistics(ours))} == {jnp.dtype("float32")}
    np.testing.assert_allclose(ours.mean[...], x.astype(np.float32).mean((0, 1, 2)), rtol=1e-6)


def test_one_value_a_channel_is_refused() -> None:
    _, ours = pair()
    with pytest.raises(UsageError, match="one value per channel"):
        bound(ours, mode_of(Training("batch")))(jnp.ones((1, 1, 1, DIM)))


@pytest.mark.parametrize(("remat", "platform"), [(False, None), (True, None), (True, "cpu")])
def test_stacked_blocks_bring_their_statistics_out(remat: bool, platform: str | None) -> None:
    """Three of them in a scan, as one after the other; and one that stands alone."""
    stacked = sequence.stack(lambda rngs: convolutions.BatchNorm(DIM, eps=1e-3), 3, nnx.Rngs(0))
    stacked = bound(stacked, mode_of(Training("batch", remat=remat), platform))
    stacked.bias[...] = jnp.arange(3 * DIM, dtype=jnp.float32).reshape(3, DIM)
    alone = [jax.tree.map(lambda leaf, i=i: jax.device_put(np.asarray(leaf)[i]), stacked) for i in range(3)]
    x = y = jnp.asarray(pixels())
    found, _ = sequence.scan(stacked, x, capture=False)
    for layer in alone:
        y = sequence.apply(layer, y)
    np.testing.assert_allclose(found, y, atol=1e-5)
    mean, var = np.asarray(stacked.mean[...]), np.asarray(stacked.var[...])
    assert mean.shape == (3, DIM)
    for i, layer in enumerate(alone):
        np.testing.assert_allclose(mean[i], layer.mean[...], atol=1e-5)
        np.testing.assert_allclose(var[i], layer.var[...], atol=1e-5)
    assert np.abs(np.diff(mean, axis=0)).min() > 0.1
