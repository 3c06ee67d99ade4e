"""Whether a change left the programs and numbers of narrow towers as they were, bit by bit.

    .venv/bin/python benchmarks/models/bits.py save BEFORE [ARCH ...] [--all] [--run]     # without the change
    .venv/bin/python benchmarks/models/bits.py save AFTER [ARCH ...] [--all] [--run]
    .venv/bin/python benchmarks/models/bits.py compare BEFORE AFTER

It saves a digest of the program that JAX hands to XLA for each pass of an architecture, in "parity" on a CPU
and with `--all` in "fast" and for a TPU: equal programs give equal bits. With `--run` passes in "parity" on
a CPU are also compiled as for users, without the flags of the tests, and run: features of images and texts as
an evaluation embeds them, gradients ("train...") and dense features. BEFORE and AFTER are folders with a file
for each architecture.

Passes: features, capture, dense, train (remat, batch, per_device), text, begin, finish, embedded, train_text,
image_tokens, prefill, forward, decode, scores.
"""

from __future__ import annotations

import functools
import hashlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from clipjax.devices.sharding import make_mesh
from clipjax.embeddings import forward
from clipjax.models.arch import family_of, load_arch, narrow_arch
from clipjax.models.language import generation
from clipjax.models.language.decoder import Decoder
from clipjax.models.language.vision_language import image_tokens
from clipjax.models.network import Network
from clipjax.models.text_ids import Rest
from clipjax.models.training import Training

# One or more of every family; those of one family have layers that the others lack.
ARCHS = (
    *("ViT-B-32", "ViT-B-16-SigLIP", "coca_ViT-B-32", "roberta-ViT-B-32", "MobileCLIP-B", "MobileCLIP2-S0"),
    *("deit_tiny_distilled_patch16_224", "vit_base_patch14_reg4_dinov2", "demo_small", "EVA02-B-16"),
    *("EVA02-E-14", "PE-Core-B-16", "vit_small_patch16_dinov3", "RN50", "beit_base_patch16_224"),
    *("convnext_base", "convnext_large_d", "convnextv2_base-in1k-384", "densenet121", "mixer_b16_224"),
    *("gmixer_24_224", "gmlp_s16_224", "resmlp_12_224", "mobilenetv3_large_100", "tf_efficientnet_lite0"),
    *("regnety_016", "resnext50_32x4d", "seresnet50", "resnetv2_50x1_bit", "swin_tiny_patch4_window7_224"),
    *("vgg16_bn", "prism-clip_l14_336-llama2_7b"),
)
BATCH = 3
Pass = tuple[str, Callable[..., Any], tuple[Any, ...]]


def passes(network: Network, precision: Any, platform: str) -> Iterator[Pass]:
    """Name, function and arguments of each pass of an architecture."""
    arch, params = network.arch, drawn(network.arch)
    named = "tpu" if platform == "tpu" else None  # as `embeddings.forward`
    where: Any = {"precision": precision, "platform": named}
    size = arch.vision.image_size
    images = jnp.asarray(np.random.default_rng(0).standard_normal((BATCH, size, size, 3)), jnp.float32)
    yield "features", partial(network.encode_image, **where), (params, images)
    yield "capture", partial(network.encode_image, **where, capture=True), (params, images)
    last = family_of(arch.vision).depth(arch.vision) - 1  # pyright: ignore[reportOptionalCall]
    yield "dense", partial(network.encode_dense, layers=(0, last), precision=precision), (params, images)
    for name, training in {
        "train": Training(),
        "train_remat": Training(remat=True),
        "train_batch": Training("batch"),
        "train_per_device": Training("per_device", devices=1, remat=True),
    }.items():
        run: Any = partial(network.train_image, precision=precision, training=training, platform=platform)
        yield name, gradient(run), (params, images)
    if arch.text is not None:
        yield from text_passes(network, params, where, platform)
    if arch.language is not None:
        yield from answers(network, params, images, precision, platform)


def gradient(run: Callable[..., Any]) -> Callable[..., Any]:
    def loss(params: Any, inputs: Any) -> tuple[Any, Any]:
        made = run(params, inputs)
        features, rest = made if isinstance(made, tuple) else (made, {})
        weights = jnp.sin(jnp.arange(features.size, dtype=jnp.float32)).reshape(features.shape)
        return (features * weights).sum(), rest

    return jax.value_and_grad(loss, has_aux=True)


def text_passes(network: Network, params: Any, where: Any, platform: str) -> Iterator[Pass]:
    text: Any = network.arch.text
    ids = np.random.default_rng(1).integers(3, 280, (BATCH, text.context_length)).astype(np.int32)
    ids[:, -1], precision = text.vocab_size - 1, where["precision"]
    ids = jnp.asarray(ids)
    yield "text", partial(network.encode_text, **where), (params, ids)
    yield "text_capture", partial(network.encode_text, **where, capture=True), (params, ids)
    for name, training in {"train_text": Training(), "train_text_remat": Training(remat=True)}.items():
        run = partial(network.train_text, precision=precision, training=training, platform=platform)
        yield name, gradient(run), (params, ids)
    if network.shares_beginnings:
        begin = partial(network.begin_texts, precision=precision)
        yield "begin", begin, (params, ids[:1, :4])
        memory = jax.eval_shape(begin, params, ids[:1, :4])
        memory = jax.tree.map(lambda each: jnp.ones(each.shape, each.dtype), memory)
        zero = jnp.zeros(BATCH, jnp.int32)
        rest = Rest(ids[:, 4:], zero, zero + 4, zero + text.context_length - 4)
        yield "finish", partial(network.finish_texts, precision=precision), (params, memory, rest)
    if family_of(text).embedded is not None:
        tokens = jnp.ones((BATCH, text.context_length - (4 if text.causal else 0), text.width))
        first = {"beginning": jnp.ones((4, text.width))} if text.causal else {}
        ends = jnp.full(BATCH, tokens.shape[1] - 1)
        for remat in (False, True):
            run = partial(
                network.encode_embedded, precision=precision, remat=remat, platform=platform, **first
            )
            yield f"embedded_{remat}", run, (params, tokens, ends)


def answers(network: Network, params: Any, images: Any, precision: Any, platform: str) -> Iterator[Pass]:
    language: Any = network.arch.language
    decoder = Decoder(language.decoder, "tpu" if platform == "tpu" else None)
    yield "image_tokens", partial(image_tokens, network, precision=precision), (params, images)
    own = params["decoder"]
    embedded = jnp.ones((2, 8, language.decoder.width))
    valid = jnp.ones((2, 8), bool)
    prefill = partial(generation.prefill, decoder, room=4, precision=precision)
    yield "prefill", prefill, (own, embedded, valid)
    yield "forward", partial(decoder.forward, precision=precision, capture=True), (own, embedded, valid)
    _, cache = jax.eval_shape(prefill, own, embedded, valid)
    cache = jax.tree.map(lambda each: jnp.ones(each.shape, each.dtype), cache)
    ids = jnp.ones(2, jnp.int32)
    yield "decode", partial(generation.decode_step, decoder, precision=precision), (own, ids, cache)
    scores = partial(generation.continuation_scores, decoder, precision=precision)
    texts, first = jnp.ones((2, 2, 3), jnp.int32), jnp.ones((2, language.decoder.vocab_size))
    yield "scores", scores, (own, cache, texts, jnp.full((2, 2), 2), first)


@functools.cache
def drawn(arch: Any) -> Any:
    """Params of which none is zero, and vectors (scales, variances) are positive."""
    rng = np.random.default_rng(0)

    def draw(leaf: Any) -> Any:
        spread = 0.5 * leaf.shape[-2] ** -0.5 if len(leaf.shape) > 1 else 0.0
        return jnp.asarray(
            spread * rng.standard_normal(leaf.shape) + rng.uniform(0.3, 0.6) * (spread == 0), jnp.float32
        )

    return jax.tree.map(draw, Network(arch).abstract_params())


def program(run: Callable[..., Any], arguments: tuple[Any, ...], platform: str) -> str:
    """The program's text with its functions numbered, so that their names do not count."""
    text = jax.jit(run).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()
    names: dict[str, str] = {}
    return re.sub(r"@[\w.]+", lambda found: names.setdefault(found[0], f"@f{len(names)}"), text)


def embedded(network: Network, tower: str, arguments: tuple[Any, ...]) -> np.ndarray:
    """The features as `clipjax eval` makes them, on one device."""
    mesh, (params, inputs) = make_mesh(jax.devices()[:1]), arguments
    if tower == "text":
        return np.asarray(forward.text_step(network, mesh, "parity")(params, inputs))
    pixels = np.random.default_rng(2).integers(0, 256, inputs.shape).astype(np.uint8)
    step = forward._image_step(network, mesh, "parity", True, (0.5, 0.4, 0.3), (0.2, 0.2, 0.3))
    return np.asarray(step(params, pixels))


COMBINATIONS = (("cpu", "parity"), ("tpu", "fast"), ("tpu", "parity"), ("cpu", "fast"))


def save(folder: Path, names: Sequence[str], *, every: bool, run: bool) -> None:
    folder.mkdir(exist_ok=True)
    for name in names or ARCHS:
        network, saved = Network(narrow_arch(load_arch(name))), {}
        for platform, precision in COMBINATIONS if every else COMBINATIONS[:1]:
            for kind, function, arguments in passes(network, precision, platform):
                text = program(function, arguments, platform)
                saved[f"{kind} {precision} {platform}"] = np.array(hashlib.sha256(text.encode()).hexdigest())
                if run and (platform, precision) == ("cpu", "parity"):
                    saved |= numbers(network, kind, function, arguments)
        np.savez(folder / f"{name}.npz", **saved)
        print(name, flush=True)


def numbers(
    network: Network, kind: str, function: Callable[..., Any], arguments: Any
) -> dict[str, np.ndarray]:
    if kind in ("features", "text"):
        return {f"{kind} bits": embedded(network, {"text": "text"}.get(kind, "vision"), arguments)}
    if not kind.startswith(("train", "dense")):
        return {}
    leaves = jax.tree.leaves(jax.jit(function)(*arguments))
    return {f"{kind} bits": np.concatenate([np.ravel(np.float32(leaf)) for leaf in leaves])}


def compare(before: Path, after: Path) -> None:
    """Prints what differs, of numbers the largest difference as a share of the largest."""
    equal = count = 0
    for path in sorted(before.glob("*.npz")):
        if not (after / path.name).exists():
            print(f"{path.stem} is in {before} only")
            continue
        old, new = np.load(path), np.load(after / path.name)
        for key in old.keys() & new.keys():
            count, same = count + 1, old[key].tobytes() == new[key].tobytes()
            equal += same
            if not same:
                off = np.abs(old[key] - new[key]).max() / np.abs(old[key]).max() if "bits" in key else ""
                print(path.stem, key, off)
    print(f"{equal} of {count} are equal to the bit")


if __name__ == "__main__":
    command, folder, *others = sys.argv[1:]
    if command == "compare":
        compare(Path(folder), Path(others[0]))
    else:
        names = [each for each in others if not each.startswith("--")]
        save(Path(folder), names, every="--all" in others, run="--run" in others)
