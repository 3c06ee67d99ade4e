"""What the reader of an example has: small images, results, and narrow models under names of large ones."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import _compared
import _embed_tools
import _study
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pyarrow.parquet
from _drawn import drawn

import clipjax
from clipjax.analysis.figures.spec import load_spec
from clipjax.checkpoints.card import Card, Chat, Preprocess, WeightsSource
from clipjax.checkpoints.identity.registry import model_card
from clipjax.data.answer_forms import answer_forms
from clipjax.data.cards import DatasetCard, load_dataset
from clipjax.data.text.language_tokenizers import load_language_tokenizer
from clipjax.data.text.tokenizers import tokenizer_spec
from clipjax.data.text.vocabularies import digest
from clipjax.demo.llava.making import arch_of, asked_question
from clipjax.demo.llava.texts import PROMPT, write_tokenizer
from clipjax.models.arch import Arch, arch_from_dict
from clipjax.models.network import Network
from clipjax.results.store import ResultStore

SIDE = 64
VISION = _embed_tools.ARCH["vision"] | {"image_size": SIDE, "patch_size": 16, "layers": 6}
CLASSES = ("cat", "rocket")
# Names of models in examples -> the narrow model that stands in.
STAND_INS = {
    "laion/CLIP-ViT-B-32-laion2B-s34B-b79K": "clip",
    "vit_b_32-openai": "clip",
    "mine": "clip",
    "w.safetensors": "clip",
    "mine.pt": "clip",
    "lite0": "classifier",
    "TRI-ML/prismatic-vlms/one-stage+7b": "llava",
}
# Cards of data sets in examples -> the small data set that stands in.
SMALL = DatasetCard("small", "Small", "folder", classes=CLASSES, prompts="single", tasks=("zeroshot",))
CARDS = {"imagenet_val": SMALL, "ninco": DatasetCard("unknown", "Unknown", "flat", tasks=("ood",))}


def furnish(folder: Path) -> Path:
    """Write images, depth, results and models."""
    depth = PIL.Image.fromarray(np.full((SIDE, SIDE), 600, np.uint16))
    for each in (f"{name}/{number}" for name in CLASSES for number in (1, 2)):
        for seed, place in enumerate(("photos", "pets", "imagenet/val", "data/imagenet/val", "ninco")):
            save(image(seed), folder / place / f"{each}.jpg")
        save(depth, folder / "data/depth" / f"{each}.png")
    save(image(), folder / "teapot.jpg")
    (folder / "cupl.json").write_text(json.dumps({name: [f"a {name}."] for name in CLASSES}))
    for accuracy, model in ((0.5, "vit_b_32-openai"), (0.6, "vit_b_16-openai")):
        facts = {"arch": model_card(model).arch.name, "image_size": 224}
        recipe = hashlib.sha256(model.encode()).hexdigest()
        _compared.add(folder / "runs", model, accuracy, model_facts=facts, recipe_hash=recipe)
    pyarrow.parquet.write_table(clipjax.load_results(folder / "runs", as_="arrow"), folder / "rows.parquet")
    ResultStore(folder / "study").add(list(_study.study_rows(load_spec("fig3").terms, study_models())))
    return folder


def study_models(each: int = 12) -> dict[str, Any]:
    """Some of each of two groups."""
    groups = ("standard", "clip")
    named = [(group, name) for name, facts in _study.models().items() if (group := facts["group"]) in groups]
    kept = [name for group in groups for name in [name for own, name in named if own == group][:each]]
    return {name: _study.models()[name] for name in kept}


def save(picture: PIL.Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def image(seed: int = 0) -> PIL.Image.Image:
    return PIL.Image.fromarray(np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), np.uint8))


@functools.cache
def clip() -> clipjax.Model:
    text = _embed_tools.ARCH["text"] | {"context_length": 77, "vocab_size": 49408, "layers": 1}
    arch = arch_from_dict(_embed_tools.ARCH | {"vision": VISION, "text": text}, "tests")
    card = card_of(arch, tokenizer=tokenizer_spec("openai_bpe", 77), logit_scale=100.0)
    return clipjax.Model(card, drawn(Network(arch).abstract_params()))


@functools.cache
def classifier() -> clipjax.Model:
    vision = VISION | {"projection": False, "embed_dim": 32}
    arch = arch_from_dict({"name": "tiny_classifier", "vision": vision, "num_classes": 1000}, "tests")
    return clipjax.Model(card_of(arch, classes="imagenet"), drawn(Network(arch).abstract_params()))


def llava(texts: Path) -> clipjax.Model:
    """The demo's, with random params. Writes the files of the tokenizer to `texts`."""
    files = write_tokenizer(texts, asked_question())
    tokenizer = load_language_tokenizer(files[0])
    arch = arch_of(clip().card.arch, tokenizer.vocab_size)
    assert arch.language is not None
    decoder = dataclasses.replace(arch.language.decoder, context_length=256)
    arch = dataclasses.replace(arch, language=dataclasses.replace(arch.language, decoder=decoder))
    card = card_of(arch, chat=Chat(PROMPT, None, digest(files)))
    return clipjax.Model(card, drawn(Network(arch).abstract_params()), tokenizer_files=files)


def card_of(arch: Arch, **changed: Any) -> Card:
    side = arch.vision.image_size
    pixels = Preprocess(side, side, "shortest", "bicubic", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    source = WeightsSource(library="clipjax", arch=arch.name, tag="tests")
    facts = {"group": "demo", "train_source": "none"}
    fields: dict[str, Any] = {"tokenizer": None, "logit_scale": None, "logit_bias": None} | changed
    return Card(id=arch.name, arch=arch, source=source, preprocess=pixels, facts=facts, **fields)


def save_models(folder: Path) -> None:
    clip().save(folder / "clip")
    classifier().save(folder / "classifier")
    llava(folder / "texts").save(folder / "llava")


def with_stand_ins(models: Path) -> dict[str, Callable[..., Any]]:
    """`load_model` and `evaluate` that take the small for the large; their arguments are checked first."""
    load, evaluate = clipjax.load_model, clipjax.evaluate

    def load_model(source: str, **options: Any) -> Any:
        inspect.signature(load).bind(source, **options)
        if source in STAND_INS:
            options.pop("card", None)
        return load(models / STAND_INS[source] if source in STAND_INS else source, **options)

    def evaluating(model: Any, task: str = "zeroshot", **options: Any) -> Any:
        inspect.signature(evaluate).bind(model, task, **options)
        if options.get("dataset") in CARDS:
            options["dataset"] = CARDS[options["dataset"]]
        if "id_root" in options:
            options["id_dataset"] = SMALL
        return evaluate(load_model(model) if isinstance(model, str) else model, task, **options)

    return {"load_model": load_model, "evaluate": evaluating}


def taken_for_granted() -> Mapping[str, Callable[[], Any]]:
    """Names that an example uses and does not make, as the text beside it says what they are."""
    maps = np.random.default_rng(0).normal(size=(2, 32, 32, 8)).astype(np.float32)
    return {
        "clipjax": lambda: clipjax,
        "model": clip,
        "mine": clip,
        "image": image,
        "pil_image": image,
        "x": lambda: np.zeros((1, *[classifier().card.preprocess.image_size] * 2, 3), np.float32),
        "images": lambda: np.zeros((1, SIDE, SIDE, 3), np.float32),
        "manifests": lambda: [load_dataset("folder", "pets").manifest],
        "forms": lambda: answer_forms().patterns,
        "map0": lambda: jnp.asarray(maps[0]),
        "map1": lambda: jnp.asarray(maps[1]),
        "valid0": lambda: jnp.ones((64, 64), bool),
        "valid1": lambda: jnp.ones((64, 64), bool),
        "points": lambda: jnp.ones((2, 64, 64, 3)),
        "intrinsics": lambda: jnp.eye(3),
        "motion": lambda: jnp.eye(4),
    }
