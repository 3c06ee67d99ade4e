"""clipjax's side of gpu.py, in a process without torch.

JAX takes memory as it needs it (gpu.py sets XLA_PYTHON_CLIENT_PREALLOCATE): torch's process has the same GPU.
"""

from __future__ import annotations

import contextlib
import functools
import gc
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np

from benchmarks import common, gpu_cases
from benchmarks.gpu_cases import ATTENTION, DEPTHWISE, GELU, PROFILE, TOLERANCE, Case, Request


def answer(request: Request) -> dict[str, Any]:
    import jax

    try:
        device = jax.devices()[0]
    except (RuntimeError, AssertionError) as error:  # of a platform that is not installed
        raise ImportError(f"JAX has no {request.device} device: {error}") from None
    kind = request.case.kind
    measure = {"tower": tower, "step": step, "files": files, "decode": decode}[kind]
    with TAKING.get(request.side, contextlib.nullcontext)():
        result = measure(request)
    jax.clear_caches()
    gc.collect()
    return {"device": device.device_kind, "versions": {"jax": jax.__version__}, **result}


def taking(layer: str, name: str) -> contextlib.AbstractContextManager[Any]:
    """Inside, the layer takes this form wherever its shapes allow it."""
    from clipjax.models.modules.forms import ALWAYS, FORMS

    first = {name: ALWAYS}  # of the forms that fit the first is taken
    return mock.patch.dict(FORMS[layer], first | {**FORMS[layer], **first}, clear=True)


def gelu_by_tanh() -> contextlib.AbstractContextManager[Any]:
    """Inside, GELU is its published tanh form, the only one that cuBLAS's kernels have (XLA matches it)."""
    from clipjax.models.modules.layers import ACTIVATIONS

    return mock.patch.dict(ACTIVATIONS, gelu=ACTIVATIONS["gelu_tanh"])


# Side -> inside it, clipjax takes this form. Only what is traced inside has it.
TAKING: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    ATTENTION: functools.partial(taking, "attention", "divided_result"),
    DEPTHWISE: functools.partial(taking, "depthwise", "frequencies"),
    GELU: gelu_by_tanh,
}


@functools.cache
def model_of(case: Case, folder: str, small: bool) -> Any:
    """With torch's weights where its side has written them, otherwise with its own."""
    import jax

    import clipjax
    from clipjax.checkpoints.model import Model
    from clipjax.models.network import Network

    request = Request(case, "float32", "clipjax", "", folder, small)
    card = common.card_of(gpu_cases.arch_of(request))
    if request.weights.exists():
        return clipjax.load_model(str(request.weights), card=card)
    return Model(card, Network(card.arch).init_params(jax.random.key(0)))


def of(request: Request) -> Any:
    """One model for all cases of its architecture."""
    return model_of(Case("", "tower", request.case.arch, 0), request.folder, request.small)


def tower(request: Request) -> dict[str, Any]:
    import jax

    from clipjax.estimates.flops import product_flops
    from clipjax.models.unit_norm import unit_norm

    profile: Any
    model, profile = of(request), PROFILE[request.precision]
    network, platform = model.network, jax.devices()[0].platform if profile == "fast" else None
    params = jax.device_put(network.in_precision({"vision": model.params["vision"]}, profile))

    def forward(params: Any, images: jax.Array) -> jax.Array:
        return unit_norm(network.encode_image(params, images, precision=profile, platform=platform))

    images = jax.device_put(gpu_cases.images_of(network.arch.vision.image_size, request.batch))
    encode = jax.jit(forward, compiler_options=network.compiler_options("vision", profile))
    result = gpu_cases.timed(lambda: encode(params, images), jax.block_until_ready)
    # Of no platform: a product inside cuDNN's kernel is none of the program's.
    plain = functools.partial(network.encode_image, precision=profile)
    flops = product_flops(jax.make_jaxpr(plain)(params, images).jaxpr)
    return {**result, "work": request.batch, "flops": flops, **checked(request, encode(params, images))}


def checked(request: Request, features: Any) -> dict[str, Any]:
    """The largest difference from torch's features of the first images. Raises ValueError for a large one."""
    if not request.features.exists():
        return {}
    theirs = np.load(request.features)
    difference = float(np.abs(np.asarray(features)[: len(theirs)] - theirs).max())
    return {"difference": within(request, difference, "features")}


def within(request: Request, difference: float, what: str) -> float:
    if not difference <= TOLERANCE[request.precision]:
        raise ValueError(f"the {what} differ from torch's by {difference:.1e}: nothing to compare")
    return difference


def step(request: Request) -> dict[str, Any]:
    import jax

    from benchmarks.training.clipjax_steps import jax_steps, step_flops

    model = of(request)
    arrays, method = gpu_cases.arrays_of(request), request.case.method
    profile: Any = PROFILE[request.precision]
    run = jax_steps(model.network, model.params, method, arrays, profile)
    losses: list[Any] = []

    def first_kept() -> jax.Array:
        loss = run()
        if not losses:
            losses.append(loss)
        return loss

    result = gpu_cases.timed(first_kept, jax.block_until_ready)
    if request.loss.exists():
        theirs = float(request.loss.read_text())
        result["difference"] = within(request, abs(float(losses[0]) / theirs - 1), "first losses")
    flops = step_flops(model.network, model.params, method, arrays)
    return {**result, "work": request.batch, "flops": flops}


def files(request: Request) -> dict[str, Any]:
    from benchmarks.data.end_to_end import embed_files

    model, root = of(request), gpu_cases.images_in(request)
    run = functools.partial(embed_files, model, root, request.batch, "auto", PROFILE[request.precision])
    sizes: list[int] = []
    result = gpu_cases.timed(run, lambda made: sizes.append(len(made.array)), once=True)
    return {**result, "work": sizes[0]}


def decode(request: Request) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp

    from clipjax.models.language.config import DecoderConfig
    from clipjax.models.language.decoder import Decoder
    from clipjax.models.language.generation import generate
    from clipjax.models.precision import DTYPE

    profile: Any = PROFILE[request.precision]
    config = DecoderConfig(**gpu_cases.decoder_shape(request.case.arch, request.small))
    decoder, steps = Decoder(config), gpu_cases.steps_of(request)
    params = jax.tree.map_with_path(functools.partial(drawn, dtype=DTYPE[profile]), decoder.abstract_params())
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (request.batch, gpu_cases.PROMPT))
    embedded = decoder.embed(params, jnp.asarray(ids, jnp.int32))
    valid = jnp.ones(ids.shape, bool)
    run = functools.partial(
        generate, decoder, params, embedded, valid, steps=steps, stop=(), precision=profile
    )
    result = gpu_cases.timed(run, jax.block_until_ready)
    return {**result, "work": request.batch * steps, "bytes": steps * read_bytes(config, params, request)}


def drawn(path: Any, leaf: Any, dtype: Any) -> Any:
    """Norms are 1; every layer has the same values, whose memory is drawn once."""
    import jax
    import jax.numpy as jnp

    if "scale" in jax.tree_util.keystr(path):
        return jnp.ones(leaf.shape, dtype)
    one = 0.02 * jax.random.normal(jax.random.key(0), leaf.shape[-2:], dtype)
    return jnp.broadcast_to(one, leaf.shape)


def read_bytes(config: Any, params: Any, request: Request) -> int:
    """What a step must read: the weights, but only rows of an untied table, and the cache, halfway filled."""
    import jax

    leaves = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    table = 0 if config.tied else params["embedding"].nbytes
    positions = gpu_cases.PROMPT + gpu_cases.steps_of(request) // 2
    numbers = 2 * config.layers * config.kv_heads * config.head_dim * positions * request.batch
    return leaves - table + numbers * params["embedding"].dtype.itemsize


if __name__ == "__main__":
    gpu_cases.serve(answer)
