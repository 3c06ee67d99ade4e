"""cuDNN's attention on GPUs: where it is taken, and its masks and padding against attention written out.

JAX's own form stands in for the kernel, which only a GPU runs (tests/devices/test_gpu.py).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.devices import platforms
from clipjax.estimates.gpu_targets import answers_of, load_gpus
from clipjax.models.arch import load_arch, narrow_arch
from clipjax.models.language import transformer
from clipjax.models.modules import attention, sequence
from clipjax.models.network import Network
from clipjax.models.training import Mode, Training
from tests.models._modes import mode_of

INFERENCE, TRAINING = mode_of(None, "gpu"), mode_of(Training(), "gpu")


@pytest.fixture
def h100() -> Iterator[None]:
    """JAX and layers take this machine for one with an H100, as far as they ask before they compile."""
    with answers_of(load_gpus()["h100"]):
        yield


def normal(seed: int, shape: tuple[int, ...], dtype: Any) -> Any:
    return jax.device_put(np.random.default_rng(seed).standard_normal(shape).astype(dtype))


def operands(queries: int, keys: int, size: int = 8, dtype: Any = jnp.bfloat16) -> tuple[Any, Any, Any]:
    """q, k and v of 3 images and 2 heads."""

    def drawn(seed: int, length: int) -> Any:
        return normal(seed, (3, 2, length, size), dtype)

    return drawn(0, queries), drawn(1, keys), drawn(2, keys)


def mask_of(kind: str | None, queries: int, keys: int) -> Any:
    """causal: [M, N]; padded: [B, 1, 1, N]; both: [B, 1, M, N]."""
    causal, padded = np.tri(queries, keys, dtype=bool), np.arange(keys) < np.array([[keys], [2], [3]])
    of = {
        None: None,
        "causal": causal,
        "padded": padded[:, None, None],
        "both": causal & padded[:, None, None],
    }
    return jax.device_put(of[kind])


def program(mode: Mode, kind: str | None, of: tuple[Any, Any, Any], **options: Any) -> str:
    visible = mask_of(kind, of[0].shape[2], of[1].shape[2])
    run = functools.partial(attention.attend_heads, visible=visible, mode=mode, **options)
    if mode.training is None:
        return str(jax.make_jaxpr(run)(*of))
    return str(
        jax.make_jaxpr(jax.grad(lambda q, k, v: run(q, k, v).astype(jnp.float32).sum(), (0, 1, 2)))(*of)
    )


@pytest.mark.parametrize("kind", [None, "causal", "padded", "both"])
@pytest.mark.parametrize(("queries", "keys"), [(7, 7), (5, 8)])
@pytest.mark.parametrize("mode", [INFERENCE, TRAINING], ids=["inference", "training"])
def test_no_scores_are_in_the_program(h100, mode: Mode, kind: str | None, queries: int, keys: int) -> None:
    found = program(mode, kind, operands(queries, keys))
    assert "dot_product_attention_fwd" in found
    assert mode.training is None or "dot_product_attention_bwd" in found
    assert " exp " not in found
    assert "dot_general" not in found


@pytest.mark.parametrize("remat", [False, True])
def test_prompts_are_learned_through_texts_of_an_odd_number(h100, remat: bool) -> None:
    """As CoOp does: its pass is not in training unless it recomputes activations."""
    network = Network(narrow_arch(load_arch("ViT-B-32")))
    text: Any = network.arch.text
    tokens = jax.ShapeDtypeStruct((2, 7, text.width), jnp.float32)

    def loss(tokens: Any, params: Any, positions: Any) -> Any:
        run = functools.partial(network.encode_embedded, precision="fast", platform="gpu", remat=remat)
        return run(params, tokens, positions).sum()

    params, positions = network.abstract_params(), jax.ShapeDtypeStruct((2,), jnp.int32)
    found = str(jax.make_jaxpr(jax.grad(loss))(tokens, params, positions))
    assert "dot_product_attention_bwd" in found


def test_a_step_runs_the_kernel_once_forwards(h100) -> None:
    block = jax.checkpoint(
        functools.partial(attention.attend_heads, mode=TRAINING), policy=sequence._POLICIES["products"]
    )
    found = str(jax.make_jaxpr(jax.grad(lambda *of: block(*of).astype(jnp.float32).sum()))(*operands(6, 6)))
    assert found.count("dot_product_attention_fwd_wrapper[") == 1


def test_what_the_kernel_does_not_take_has_the_form_of_before(h100, monkeypatch) -> None:
    def has_scores(*args: Any, **options: Any) -> bool:
        found = program(*args, **options)
        assert ("dot_product_attention_fwd" in found) != (" exp " in found)
        return " exp " in found

    assert not has_scores(INFERENCE, None, operands(7, 7))
    assert has_scores(INFERENCE, None, operands(7, 7), bias=jnp.zeros((1, 2, 7, 7)))
    assert has_scores(INFERENCE, None, operands(7, 7, dtype=jnp.float32))  # parity
    assert has_scores(INFERENCE, None, operands(7, 7, size=12))
    assert has_scores(INFERENCE, None, operands(1, 7))
    for platform in ("cpu", "tpu", None):
        assert has_scores(mode_of(None, platform), None, operands(7, 7))
    with monkeypatch.context() as patch:
        patch.setattr(platforms, "gpu_capability", lambda: (7, 5))  # a T4
        assert has_scores(INFERENCE, None, operands(7, 7))


def test_a_machine_without_a_gpu_has_the_form_of_before() -> None:
    assert platforms.gpu_capability() == (0, 0)
    assert " exp " in program(INFERENCE, None, operands(7, 7))


@pytest.mark.parametrize("said", [("9.0", (9, 0)), ("12.1", (12, 1)), ("gfx90a", (0, 0))])
def test_the_capability_of_a_card(said: tuple[str, tuple[int, int]], monkeypatch) -> None:
    class Card:
        compute_capability = said[0]

    monkeypatch.setattr(jax, "devices", lambda _: [Card()])
    assert platforms.gpu_capability() == said[1]


@pytest.fixture
def stand_in(monkeypatch) -> None:
    """JAX's own form in the kernel's place."""
    written_out = jax.nn.dot_product_attention

    def stands_in(*args: Any, implementation: str, **options: Any) -> Any:
        assert implementation == "cudnn"
        return written_out(*args, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", stands_in)


def prompts(dtype: Any, queries: int, heads: int = 4) -> tuple[Any, ...]:
    """q, k, v and the mask of two prompts of 6 ids, the second with two of padding; 2 key heads."""
    drawn = [
        normal(seed, (2, count, length, 8), dtype)
        for seed, (count, length) in enumerate([(heads, queries), (2, 6), (2, 6)])
    ]
    valid = jax.device_put(np.arange(6) >= np.array([[0], [2]]))

    def visible(valid: jax.Array) -> jax.Array:
        positions = transformer.positions_of(valid)
        return transformer.sees(positions[:, -queries:], positions, valid, None)

    return *drawn, jax.jit(visible)(valid)


@pytest.mark.parametrize(("queries", "kernel"), [(6, True), (3, True), (1, False)])
def test_prompts_of_a_decoder_have_no_scores(h100, queries: int, kernel: bool) -> None:
    run = functools.partial(transformer.attend_grouped, mode=INFERENCE)
    found = str(jax.make_jaxpr(run)(*prompts(jnp.bfloat16, queries)))
    assert ("dot_product_attention_fwd" in found, " exp " in found) == (kernel, not kernel)
    assert " exp " in str(jax.make_jaxpr(run)(*prompts(jnp.float32, queries)))  # parity


@pytest.mark.parametrize("heads", [2, 4])
def test_prompts_of_a_decoder(monkeypatch, stand_in, heads: int) -> None:
    """Neighbouring query heads share a key head."""
    of = prompts(jnp.float32, 6, heads)
    with jax.default_matmul_precision("highest"):
        wanted = jax.jit(functools.partial(transformer.attend_grouped, mode=INFERENCE))(*of)
        monkeypatch.setattr(transformer, "_is_fused", lambda *_: True)
        found = jax.jit(functools.partial(transformer.attend_grouped, mode=INFERENCE))(*of)
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", [None, "causal", "padded", "both"])
@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize(("queries", "keys"), [(7, 7), (5, 8)])
def test_results_and_gradients(stand_in, kind: str | None, gradients: bool, queries: int, keys: int) -> None:
    """In float32, where padding by zeros that a query saw would show."""
    of, visible = operands(queries, keys, dtype=jnp.float32), mask_of(kind, queries, keys)
    weights = normal(10, of[0].shape, np.float32)

    def loss(attend: Any, *of: Any) -> Any:
        return (attend(*of) * weights).sum()

    ours = functools.partial(attention.fused, visible=visible, gradients=gradients)
    plain = functools.partial(attention.mix, visible=visible)
    with jax.default_matmul_precision("highest"):
        found, wanted = (
            jax.jit(jax.value_and_grad(functools.partial(loss, each), (0, 1, 2)))(*of)
            for each in (ours, plain)
        )
    for mine, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=3e-6)
