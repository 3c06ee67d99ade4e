"""Contrastive training: the loss of open_clip, and a run that learns, resumes and survives damage."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import logging
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _drawn import initialised
from _long import mostly_long

from clipjax.data.manifest import Manifest
from clipjax.data.pixels.preprocess import PixelRecipe
from clipjax.devices.sharding import make_mesh
from clipjax.errors import DataError, UsageError
from clipjax.finetune import contrastive
from clipjax.finetune.contrastive import ContrastiveRecipe, bound_logit_scale, contrastive_loss, train
from clipjax.finetune.training.point_files import SIZES
from clipjax.models.cut import FSDP
from clipjax.models.network import Network
from tests.finetune.conftest import tokenize

RECIPE = ContrastiveRecipe(
    steps=40, warmup=5, batch_size=40, learning_rate=1e-2, weight_decay=0.1, clip_norm=1.0
)
SHORT = dataclasses.replace(RECIPE, steps=8)  # the same program


@pytest.fixture(scope="module", autouse=True)
def quick_draws() -> Iterator[None]:
    """The reference's initialisation without the program that draws it."""

    draws = functools.cache(initialised)

    def init_params(network: Network, key: jax.Array) -> Any:
        return draws(network.arch, int(jax.random.key_data(key)[-1]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Network, "init_params", init_params)
        yield


def start(network: Network, manifest: Manifest, recipe: ContrastiveRecipe = SHORT, **options: Any) -> Any:
    options = {"mesh": make_mesh(jax.devices()[:2]), "every": 50, "progress": False} | options
    return train(
        network,
        manifest,
        recipe,
        pixels=PixelRecipe(16, 16),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        tokenizer=tokenize,
        **options,
    )


@pytest.mark.parametrize(("words", "length"), [(1, 4), (4, 4), (5, 8), (8, 8), (9, 10), (10, 10)])
def test_sets_of_like_captions_share_a_length(words: int, length: int) -> None:
    """A multiple of four that holds every caption, in a tower that reads ten ids."""

    def ids(texts: list[str]) -> np.ndarray:
        return np.array([[1] * len(text) + [0] * (10 - len(text)) for text in texts])

    tower = mock.Mock(reach=lambda ids: ids.sum(axis=1))
    manifest = mock.Mock(columns={"caption": ["x", "x" * words]})
    cut = contrastive._cut(tower, ids, manifest, "caption")
    assert cut is not None
    assert cut(["x"]).shape == (1, length)


def same_bits(a: Any, b: Any) -> bool:
    return jax.tree.all(jax.tree.map(lambda x, y: np.array_equal(np.asarray(x), np.asarray(y)), a, b))


def test_loss_equals_open_clip() -> None:
    torch = pytest.importorskip("torch")
    loss_module = pytest.importorskip("open_clip.loss")
    rng = np.random.default_rng(0)
    image, text = (rng.normal(size=(12, 8)).astype(np.float32) for _ in range(2))
    scale = np.float32(math.log(20.0))

    tensors = [torch.tensor(x, requires_grad=True) for x in (image, text, scale)]
    unit = [torch.nn.functional.normalize(x, dim=-1) for x in tensors[:2]]
    theirs = loss_module.ClipLoss()(*unit, tensors[2].exp())
    theirs.backward()

    @jax.jit
    def ours_of(*arguments: jax.Array) -> Any:
        return jax.value_and_grad(lambda *each: contrastive_loss(*each)[0], argnums=(0, 1, 2))(*arguments)

    ours, gradients = ours_of(image, text, scale)
    assert float(ours) == pytest.approx(theirs.item(), rel=1e-6)
    for gradient, tensor in zip(gradients, tensors):
        np.testing.assert_allclose(gradient, tensor.grad.numpy(), rtol=1e-4, atol=1e-6)
    # One direction alone, or unnormalised features, would be seen.
    assert abs(float(ours_of(image * 2, text, scale)[0]) - float(ours)) < 1e-6
    one_way = torch.nn.functional.cross_entropy(tensors[2].exp() * unit[0] @ unit[1].T, torch.arange(12))
    assert abs(one_way.item() - theirs.item()) > 1e-2


def test_accuracy_is_the_share_of_images_that_find_their_caption() -> None:
    image = np.eye(4, dtype=np.float32)
    text = image[[1, 1, 2, 3]]  # image 0 resembles none; the rest their own, where ties go to the first
    _, metrics = jax.jit(contrastive_loss)(image, text, np.float32(2.0))
    assert float(metrics["accuracy"]) == 0.75


@pytest.mark.parametrize(("given", "kept"), [(5.0, math.log(100)), (-1.0, 0.0), (2.0, 2.0)])
def test_logit_scale_stays_in_bounds(given: float, kept: float) -> None:
    assert float(bound_logit_scale({"logit_scale": jnp.float32(given)})["logit_scale"]) == pytest.approx(kept)


@pytest.fixture(scope="module")
def whole(network: Network, manifest: Manifest) -> Any:
    """The weights of a run that was never stopped."""
    return start(network, manifest)


def test_training_learns(network: Network, manifest: Manifest) -> None:
    with contextlib.redirect_stderr(io.StringIO()) as progress:
        params = start(network, manifest, RECIPE, progress=True)
    last = progress.getvalue().split("loss ")[-1]
    assert float(last.split(",")[0].rstrip("] \n")) < 0.6 * math.log(RECIPE.batch_size)
    assert jax.tree.structure(params) == jax.tree.structure(network.abstract_params())


@pytest.fixture(scope="module")
def points(network: Network, manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoints of steps 2 and 4 of a run that dies in step 5."""
    from clipjax.finetune.training import loop

    real, calls, folder = loop.shard_batch, [], tmp_path_factory.mktemp("stopped")

    def dying(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "shard_batch", dying)
        with pytest.raises(KeyboardInterrupt):
            start(network, manifest, checkpoints=folder, every=2)
    assert sorted(path.name for path in folder.iterdir()) == ["2", "4"]
    return folder


@pytest.fixture
def stopped(points: Path, tmp_path: Path) -> Path:
    """A test's own copy of the checkpoints."""
    return Path(shutil.copytree(points, tmp_path / "points"))


def test_a_resumed_run_is_bit_equal(network: Network, manifest: Manifest, whole: Any, stopped: Path) -> None:
    assert same_bits(start(network, manifest, checkpoints=stopped), whole)
    other_order = start(network, manifest, recipe=dataclasses.replace(SHORT, seed=1))
    assert not same_bits(other_order, whole)


@pytest.mark.long("finetune/training/test_loop.py::test_a_run_goes_on_on_other_devices")
def test_a_run_goes_on_with_another_number_of_devices(
    network: Network, manifest: Manifest, whole: Any, stopped: Path
) -> None:
    params = start(network, manifest, checkpoints=stopped, mesh=make_mesh(), rules=FSDP)
    for ours, wanted in zip(jax.tree.leaves(params), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=0, atol=2e-3)
    assert same_bits(jax.device_get(start(network, manifest, checkpoints=stopped)), jax.device_get(params)), (
        "a finished run is read back as it is"
    )


@pytest.mark.long("finetune/test_contrastive.py::test_a_flipped_bit_is_named_and_the_checkpoint_before_used")
def test_a_truncated_checkpoint_is_reported_and_the_one_before_used(
    network: Network,
    manifest: Manifest,
    whole: Any,
    stopped: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    truncate(stopped / "4")
    with caplog.at_level(logging.WARNING):
        params = start(network, manifest, checkpoints=stopped)
    assert re.search(r"checkpoint 4 cannot be read.*: state/\S+ has \d+ bytes, \d+ were written", caplog.text)
    assert same_bits(params, whole)
    assert (stopped / "4.damaged").is_dir()


@pytest.mark.parametrize("name", mostly_long(["state", "batches", "identity", SIZES], keep=["state"]))
def test_a_flipped_bit_is_named_and_the_checkpoint_before_used(
    name: str,
    network: Network,
    manifest: Manifest,
    whole: Any,
    stopped: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    file = stopped / "4" / name
    if file.is_dir():
        file = max((f for f in file.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)
    with caplog.at_level(logging.WARNING):
        params = start(network, manifest, checkpoints=stopped)
    # A flipped digit of a size names the file that has another one, not sizes.json.
    named = r"\S+" if name == SIZES else file.name
    assert re.search(rf"checkpoint 4 cannot be read, trying the one before it: .*{named}", caplog.text)
    assert "SHA-256 of its files" not in caplog.text
    assert same_bits(params, whole)
    assert (stopped / "4.damaged").is_dir()


def test_no_readable_checkpoint_is_an_error(network: Network, manifest: Manifest, stopped: Path) -> None:
    truncate(stopped / "2")
    truncate(stopped / "4")
    with pytest.raises(DataError, match="none of the checkpoints"):
        start(network, manifest, checkpoints=stopped)
    assert (stopped / "4").is_dir(), "nothing is put aside when nothing else can be used"


def truncate(checkpoint: Path) -> None:
    """Cut the largest file of a checkpoint in half."""
    file = max((f for f in checkpoint.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_bad_input_is_named(network: Network, manifest: Manifest) -> None:
    with pytest.raises(UsageError, match="15 does not divide over 2 devices"):
        start(network, manifest, recipe=dataclasses.replace(RECIPE, batch_size=15))
    with pytest.raises(UsageError, match="larger than the data set of 40"):
        start(network, manifest, recipe=dataclasses.replace(RECIPE, batch_size=64))
    with pytest.raises(DataError, match="no column 'words'"):
        start(network, manifest, captions="words")
