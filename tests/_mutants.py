"""What the parity tests of ImageNet classifiers share: equal stages, gradients, sizes, and mistakes seen."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from _parity import Case, Tensor, narrow_case, source_of

from clipjax.models.network import Network
from clipjax.verification import verify
from converters.engine import convert, detect_table, flatten

Wrong = Callable[..., Any]


def assert_same(report: verify.VerificationReport, first: str) -> None:
    """Every stage, the features and the logits are the reference's, within the project's tolerances."""
    assert report.passed, report.to_json()
    errors = {stage.name: stage.error or 0 for stage in report.stages}
    assert next(iter(errors)) == first
    # Said again, so that nobody loosens them in one place.
    assert max(error for name, error in errors.items() if name != "logits") <= 5e-5
    assert errors["features"] <= 1e-5
    assert errors["logits"] <= 1e-3


def seen_with(
    case: Case, monkeypatch: pytest.MonkeyPatch, until: str, *wrong: tuple[Any, str, Wrong]
) -> str | None:
    """The first stage up to `until` that differs with attributes (owner, name) made `wrong(original)`."""
    with monkeypatch.context() as patch:
        for owner, name, make in wrong:
            patch.setattr(owner, name, make(getattr(owner, name)))
        return case.first_difference(until=until)


def worst(errors: Iterable[float]) -> float:
    """The largest; NaN, which `max` may pass over, if one is."""
    return float(np.max(list(errors)))


def gradient_errors(case: Case) -> dict[str, float]:
    """Of each leaf: the largest difference from torch's gradient, relative to the gradient's largest value.

    Of a random sum of the features, in inference mode; statistics of BatchNorm have none in torch.
    """
    images = case.golden.inputs["images"]
    encode = functools.partial(Network(case.arch).encode_image, precision="parity")
    shape = jax.eval_shape(encode, case.params, jnp.asarray(images)).shape
    weights = np.random.default_rng(0).standard_normal(shape).astype(np.float32)

    def loss(params: Any) -> jax.Array:
        return jnp.sum(encode(params, jnp.asarray(images)) * weights)

    ours = jax.jit(jax.grad(loss))(case.params)
    theirs = _torch_gradients(case, images, weights)
    errors = {}
    for path, gradient in flatten(ours).items():
        if path.startswith("vision/") and not path.endswith(("/mean", "/var")):
            wanted = theirs[path]
            errors[path] = float(np.abs(np.asarray(gradient) - wanted).max() / np.abs(wanted).max())
    return errors


def _torch_gradients(case: Case, images: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    model = case.theirs
    model.zero_grad()
    features = model.forward_head(
        model.forward_features(torch.from_numpy(images).permute(0, 3, 1, 2)), pre_logits=True
    )
    (features.flatten(1) * torch.from_numpy(weights)).sum().backward()  # some timm heads are convolutions
    parameters = dict(model.named_parameters())
    source: dict[str, Any] = {}
    for key, tensor in model.state_dict().items():
        gradient = parameters[key].grad if key in parameters else None
        source[key] = Tensor(torch.zeros_like(tensor) if gradient is None else gradient)
    leaves = convert(source, Network(case.arch).abstract_params(), detect_table(source_of(model)))
    return {path: np.asarray(leaf) for path, leaf in leaves.items()}


@torch.no_grad()
def size_error(case: Case, size: int) -> float:
    """The largest difference of features on images of another size, relative to the largest feature."""
    images = verify.random_inputs(_sized(case, size), 2, 1)["images"]
    encode = functools.partial(Network(_sized(case, size)).encode_image, precision="parity")
    ours = np.asarray(jax.jit(encode)(case.params, images))
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    theirs = case.theirs.forward_head(case.theirs.forward_features(pixels), pre_logits=True).numpy()
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def _sized(case: Case, size: int) -> Any:
    return dataclasses.replace(case.arch, vision=dataclasses.replace(case.arch.vision, image_size=size))


@torch.no_grad()
def dense_errors(case: Case, indices: list[int], theirs: list[int]) -> list[float]:
    """Of each map of `encode_dense(indices)`, against `forward_intermediates(theirs)`."""
    images = case.golden.inputs["images"]
    encode = functools.partial(Network(case.arch).encode_dense, layers=indices, precision="parity")
    ours = jax.jit(encode)(case.params, jnp.asarray(images))
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    wanted = case.theirs.forward_intermediates(pixels, indices=theirs, intermediates_only=True)
    wanted = [x.permute(0, 2, 3, 1).numpy() for x in wanted]
    assert [x.shape for x in ours] == [x.shape for x in wanted]
    return [float(np.abs(np.asarray(a) - b).max() / np.abs(b).max()) for a, b in zip(ours, wanted)]


def timm_case(name: str) -> Case:
    return narrow_case(name, "timm")


def interleaved(call: Wrong) -> Wrong:
    """A convolution whose groups take every n-th input channel instead of neighbouring ones."""

    def wrong(self: Any, x: Any) -> Any:
        groups = x.shape[-1] // self.kernel.shape[2]
        if groups == 1:
            return call(self, x)
        shuffled = x.reshape(*x.shape[:-1], groups, -1).swapaxes(-1, -2).reshape(x.shape)
        return call(self, shuffled)

    return wrong


def with_attributes(**changes: Any) -> Callable[[Wrong], Wrong]:
    """A module's `__call__` after its attributes were changed."""

    def make(call: Wrong) -> Wrong:
        def wrong(self: Any, *args: Any, **kwargs: Any) -> Any:
            for name, value in changes.items():
                setattr(self, name, value)
            return call(self, *args, **kwargs)

        return wrong

    return make


def with_options(**changes: Any) -> Callable[[Wrong], Wrong]:
    """A function called with other keyword arguments."""
    return lambda function: lambda *args, **kwargs: function(*args, **{**kwargs, **changes})
