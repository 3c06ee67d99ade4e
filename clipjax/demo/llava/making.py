"""Make the demo's vision-language model: a CLIP's frozen image tower, a projector and a small decoder."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import jax
import numpy as np

from clipjax.checkpoints.card import Card, Chat, WeightsSource
from clipjax.checkpoints.load import load_model
from clipjax.checkpoints.model import Model
from clipjax.checkpoints.vision_language import LanguageSetup
from clipjax.data.cards import load_dataset, read_card
from clipjax.data.manifest import Manifest
from clipjax.data.pixels.loader import batches
from clipjax.data.pixels.normalize import normalize_host
from clipjax.data.questions import Question
from clipjax.data.text.image_prompts import ImagePrompt
from clipjax.data.text.language_tokenizers import load_language_tokenizer
from clipjax.data.text.vocabularies import digest
from clipjax.demo.llava.texts import PROMPT, examples, write_tokenizer
from clipjax.demo.llava.train import LlavaRecipe, train
from clipjax.demo.plan import LLAVA, Plan
from clipjax.models.arch import Arch
from clipjax.models.language.config import DecoderConfig, LanguageConfig
from clipjax.models.language.decoder import Decoder
from clipjax.models.language.vision_language import image_positions, language_of

ASKED = "demo_nuisance:background"  # the card with the question
CONTEXT = 128
BATCH = 500  # images in one step of the tower


def make(plan: Plan, out: Path) -> None:
    """Train and save it; its CLIP is there."""
    texts = out / "training" / LLAVA
    clip = load_model(out / "models" / plan.tower.id)
    train_set = load_dataset("demo_train", out / "world" / f"{plan.tower.data}.jsonl").manifest
    trained(clip, train_set, texts, plan).save(out / "models" / LLAVA)
    shutil.rmtree(texts)


def trained(clip: Model, data: Manifest, texts: Path, plan: Plan) -> Model:
    """Train on a CLIP and the first captioned images of a set. Writes the tokenizer's files to `texts`."""
    question = asked_question()
    files = write_tokenizer(texts, question)
    tokenizer = load_language_tokenizer(files[0])
    arch = arch_of(clip.card.arch, tokenizer.vocab_size)
    decoder = Decoder(language_of(arch).decoder)
    language = LanguageSetup(tokenizer, ImagePrompt(PROMPT), decoder, image_positions(arch))
    recipe = LlavaRecipe(
        steps=plan.language_steps, warmup=plan.language_steps // 12, batch_size=plan.language_batch
    )
    seen = data.select(range(plan.language_images))
    count, rng = recipe.steps * recipe.batch_size, np.random.default_rng(plan.seed)
    lines = examples(language, question, seen, count, rng)
    parts = train(arch, patches(clip, seen, arch), lines, recipe, plan.seed)
    params = {"vision": clip.params["vision"], **parts}
    return Model(_card(clip.card, arch, files, params), params, tokenizer_files=files)


def asked_question() -> Question:
    question = read_card(ASKED).question
    assert question is not None
    return question


def arch_of(clip: Arch, words: int) -> Arch:
    decoder = DecoderConfig(
        width=64,
        layers=2,
        heads=4,
        kv_heads=4,
        head_dim=16,
        mlp_width=128,
        vocab_size=words,
        context_length=CONTEXT,
        rope_theta=100.0,
        norm_eps=1e-5,
        tied=True,
    )
    language = LanguageConfig(layer=-2, projector="gelu-mlp", decoder=decoder)
    return dataclasses.replace(clip, name="demo_llava", text=None, logit_bias=False, language=language)


def patches(clip: Model, data: Manifest, arch: Arch) -> np.ndarray:
    """The projector's inputs, float32 [M, P, T], computed once: the tower is frozen."""
    layer, preprocess = language_of(arch).layer, clip.card.preprocess
    parts = []
    for batch in batches(data, preprocess.recipe(rgb="first"), batch_size=min(BATCH, len(data))):
        images = normalize_host(batch["pixels"], preprocess.mean, preprocess.std)
        [maps] = clip.encode_dense(images, layers=(layer,))
        parts.append(np.asarray(maps).reshape(len(maps), -1, maps.shape[-1]))
    return np.concatenate(parts)[: len(data)]


def _card(clip: Card, arch: Arch, files: tuple[Path, ...], params: dict) -> Card:
    facts = {
        **{name: clip.facts[name] for name in ("train_source", "train_size_m", "licence")},
        "group": "demo_language",
        "params_m": sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6,
    }
    return Card(
        id=LLAVA,
        arch=arch,
        source=WeightsSource(library="clipjax", arch=arch.name, tag=clip.id),
        preprocess=clip.preprocess,
        tokenizer=None,
        logit_scale=None,
        logit_bias=None,
        facts=facts,
        chat=Chat(PROMPT, None, digest(files)),
    )
