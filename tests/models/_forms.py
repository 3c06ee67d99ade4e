"""The form that each layer takes in every pass of narrow architectures, by tracing: nothing is compiled.

    .venv/bin/python tests/records.py forms     # rewrites forms.csv beside this file

A row is a pass of an architecture in "fast" (in "parity" a TPU has no forms of its own), the class of a layer
and its kind in `clipjax.models.modules.forms.FORMS`. A cell has the forms on a platform (of GPUs: an H100)
and how often each is traced: a scanned block counts once. "a or b": the compiler takes a on a's platform, and
b elsewhere. "cpu_bfloat16" is a CPU with AVX512_BF16 and "cpu" one without, whatever the host has.
"""

from __future__ import annotations

import csv
import io
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from clipjax.estimates.gpu_targets import answers_of, load_gpus
from clipjax.models import precision as precisions
from clipjax.models.arch import family_of, load_arch, narrow_arch
from clipjax.models.language import generation
from clipjax.models.language.decoder import Decoder
from clipjax.models.language.vision_language import image_tokens
from clipjax.models.modules import forms
from clipjax.models.network import Network
from clipjax.models.precision import Precision
from clipjax.models.text_ids import Rest
from clipjax.models.training import Training

RECORD = Path(__file__).parent / "forms.csv"
EXAMPLES = 32  # of features, steps and texts: some forms are of many examples
WITH_BFLOAT16 = "cpu_bfloat16"
PLATFORMS = ("cpu", WITH_BFLOAT16, "gpu", "tpu")
COLUMNS = ("arch", "pass", "layer", "kind", *PLATFORMS)
# Every family, and the kinds of a family that have other layers.
ARCHS = (
    *("ViT-B-32", "ViT-B-16-SigLIP", "coca_ViT-B-32", "roberta-ViT-B-32", "MobileCLIP-B", "MobileCLIP2-S0"),
    *("EVA02-B-16", "PE-Core-B-16", "RN50", "beit_base_patch16_224", "convnext_base", "densenet121"),
    *("mixer_b16_224", "gmlp_s16_224", "tf_efficientnet_lite0", "regnety_016", "resnet50"),
    *("resnetv2_50x1_bit", "swin_tiny_patch4_window7_224", "vgg16_bn", "prism-clip_l14_336-llama2_7b"),
)
Pass = tuple[str, Callable[..., Any], tuple[Any, ...]]


def passes(network: Network, platform: str, precision: Precision) -> Iterator[Pass]:
    """Name, function and abstract arguments of an architecture's passes, as the rooms above call them."""
    arch, params = network.arch, network.abstract_params(precision)
    where: Any = {"precision": precision, "platform": platform}
    size = arch.vision.image_size
    images = jax.ShapeDtypeStruct((EXAMPLES, size, size, 3), jnp.float32)
    yield "features", partial(network.encode_image, **where), (params, images)
    depth: Any = family_of(arch.vision).depth
    layers = (0, depth(arch.vision) - 1)
    yield "dense", partial(network.encode_dense, layers=layers, **where), (params, images)
    training: Any = {"precision": precision, "training": Training("batch"), "platform": platform}
    yield "training", partial(network.train_image, **training), (params, images)
    if arch.text is not None:
        yield from of_texts(network, params, where, training)
    if arch.language is not None:
        yield "tokens", partial(image_tokens, network, **where), (params, images)
        yield from of_answers(arch.language.decoder, params["decoder"], platform, precision)


def of_texts(network: Network, params: Any, where: Any, training: Any) -> Iterator[Pass]:
    text, precision = network.arch.text, where["precision"]
    assert text is not None
    ids = jax.ShapeDtypeStruct((EXAMPLES, text.context_length), jnp.int32)
    yield "texts", partial(network.encode_text, **where), (params, ids)
    yield "text training", partial(network.train_text, **training), (params, ids)
    if network.shares_beginnings:
        begin = partial(network.begin_texts, **where)
        first, row = jax.ShapeDtypeStruct((1, 4), jnp.int32), jax.ShapeDtypeStruct((2,), jnp.int32)
        yield "beginnings", begin, (params, first)
        rest = Rest(jax.ShapeDtypeStruct((2, text.context_length - 4), jnp.int32), row, row, row)
        memory = jax.eval_shape(begin, params, first)
        yield "rests", partial(network.finish_texts, **where), (params, memory, rest)
    if family_of(text).embedded is not None:
        tokens = jax.ShapeDtypeStruct((2, text.context_length, text.width), jnp.float32)
        run = partial(network.encode_embedded, precision=precision, remat=True, platform=training["platform"])
        yield "vectors", run, (params, tokens, jax.ShapeDtypeStruct((2,), jnp.int32))


def of_answers(config: Any, params: Any, platform: str, precision: Precision) -> Iterator[Pass]:
    decoder = Decoder(config, platform)
    prompts = jax.ShapeDtypeStruct((2, 8, config.width), jnp.float32), jax.ShapeDtypeStruct((2, 8), bool)
    begin, read = (untraced(each) for each in (generation.prefill, generation.decode_step))
    prefill = partial(begin, decoder, room=4, precision=precision)
    yield "prompts", prefill, (params, *prompts)
    _, cache = jax.eval_shape(prefill, params, *prompts)
    step = partial(read, decoder, precision=precision)
    yield "answers", step, (params, jax.ShapeDtypeStruct((2,), jnp.int32), cache)


def untraced(jitted: Any) -> Callable[..., Any]:
    """The function itself: a jitted one is not traced a second time."""
    return jitted.__wrapped__


def taken(
    run: Callable[..., Any], arguments: tuple[Any, ...], monkeypatch: Any
) -> Counter[tuple[str, str, str]]:
    """How often each class of layer took each form of its kind in one pass."""
    counts: Counter[tuple[str, str, str]] = Counter()
    chosen = forms._forms

    def recorded(layer: str, mode: Any, dtype: Any, among: Collection[str] | None) -> list[str]:
        names = chosen(layer, mode, dtype, among)
        counts[_caller(), layer, " or ".join(names)] += 1
        return names

    with monkeypatch.context() as patch:
        patch.setattr(forms, "_forms", recorded)
        jax.eval_shape(run, *arguments)
    return counts


def _caller() -> str:
    """The class of the module whose code asks for a form."""
    frame = sys._getframe(2)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, nnx.Module | Network | Decoder):
            return type(owner).__name__
        frame = frame.f_back
    return ""


def rows(name: str, monkeypatch: Any) -> list[tuple[str, ...]]:
    """The record's rows of an architecture."""
    network = Network(narrow_arch(load_arch(name)))
    cells: dict[tuple[str, ...], dict[str, list[str]]] = {}
    with answers_of(load_gpus()["h100"]), monkeypatch.context() as patch:
        for column in PLATFORMS:
            host = column == WITH_BFLOAT16
            patch.setattr(precisions, "this_cpu_multiplies_bfloat16", lambda host=host: host)
            for kind, run, arguments in passes(network, "cpu" if host else column, "fast"):
                for (layer, of, form), count in sorted(taken(run, arguments, monkeypatch).items()):
                    row = cells.setdefault((name, kind, layer, of), {each: [] for each in PLATFORMS})
                    row[column].append(f"{form} {count}")
    return [(*key, *("; ".join(row[each]) for each in PLATFORMS)) for key, row in cells.items()]


def recorded_rows() -> dict[str, list[tuple[str, ...]]]:
    """The record's rows by architecture."""
    with RECORD.open(encoding="utf-8", newline="") as file:
        _, *lines = csv.reader(file)
    return {name: [tuple(line) for line in lines if line[0] == name] for name in ARCHS}


def text_of(lines: Any) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([COLUMNS, *lines])
    return out.getvalue()
