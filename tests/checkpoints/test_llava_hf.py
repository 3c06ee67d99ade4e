"""Folders of transformers' LlavaForConditionalGeneration, of LLaVA-1.5's kind, against the library itself."""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import _llava
import jax
import numpy as np
import PIL.Image
import pytest
import torch
from _long import mostly_long
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    SiglipImageProcessor,
    SiglipVisionConfig,
)

import clipjax
from clipjax.checkpoints.export import export_model
from clipjax.checkpoints.language_parts import own_chat
from clipjax.checkpoints.model import Model
from clipjax.checkpoints.vision_language import answer_ids, padded
from clipjax.data.text.image_prompts import ImagePrompt
from clipjax.devices.sharding import make_mesh
from clipjax.errors import DataError, UsageError
from clipjax.models.language.padding import BUCKET
from converters.engine import flatten
from converters.golden.llava import condition_decoder, condition_projector
from converters.golden.weights import set_by_class
from converters.sources import open_source

SIZE, PATCHES, STEPS = 28, 4, 5
TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\\n' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ part['text'] + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


@torch.no_grad()
def condition(model: Any) -> None:
    torch.manual_seed(0)
    for module in model.modules():
        set_by_class(module)
    projector = model.model.multi_modal_projector
    condition_projector({0: projector.linear_1, 2: projector.linear_2})
    condition_decoder(SimpleNamespace(model=model.model.language_model))


def llava(tower: str) -> Any:
    sizes: Any = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": SIZE,
        "patch_size": 14,
    }
    vision = CLIPVisionConfig(**sizes, projection_dim=48) if tower == "clip" else SiglipVisionConfig(**sizes)
    text = LlamaConfig(
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=_llava.PIECES + 28,
        max_position_embeddings=256,
        rms_norm_eps=1e-5,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=3,
        image_seq_length=PATCHES,
        vision_feature_select_strategy="default" if tower == "clip" else "full",
    )
    config._attn_implementation = "eager"
    model: Any = LlavaForConditionalGeneration(config).eval()
    condition(model)
    return model


@dataclass(frozen=True)
class Case:
    torch_model: Any
    folder: Path
    model: Model


def made(root: Path, tower: str) -> Case:
    folder = root / "narrow-llava"
    model = llava(tower)
    model.save_pretrained(folder)
    if tower == "clip":
        CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size=SIZE).save_pretrained(folder)  # type: ignore[reportCallIssue]
    else:
        SiglipImageProcessor(size={"height": SIZE, "width": SIZE}).save_pretrained(folder)  # type: ignore[reportCallIssue]
    pieces = _llava.sentencepiece_model(user_defined_symbols=["<image>"])
    (folder / "tokenizer.model").write_bytes(pieces)
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    return Case(model, folder, clipjax.load_model(folder))


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return made(tmp_path_factory.mktemp("clip"), "clip")


@pytest.fixture(scope="module", params=mostly_long(["clip", "siglip"], keep=["clip"]))
def either(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, case: Case) -> Case:
    return case if request.param == "clip" else made(tmp_path_factory.mktemp("siglip"), "siglip")


@torch.no_grad()
def reference_logits(case: Case, pixels: np.ndarray, ids: list[int], at: int) -> torch.Tensor:
    marked = [*ids[:at], *[3] * PATCHES, *ids[at:]]
    images = torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2)
    rows = torch.tensor([marked] * len(pixels))
    return case.torch_model(input_ids=rows, pixel_values=images, attention_mask=torch.ones_like(rows)).logits


def image() -> PIL.Image.Image:
    return PIL.Image.fromarray(np.random.default_rng(1).integers(0, 255, (50, 41, 3), dtype=np.uint8))


def test_the_prompt_is_the_checkpoints_own(case: Case) -> None:
    chat, language = case.model.card.chat, case.model.language
    assert chat is not None
    assert language is not None
    assert (chat.prompt, chat.template) == ("USER: {image}\n{question} ASSISTANT:", None)
    ids, at = language.prompt("What is this?")
    whole = language.tokenizer.encode("USER: <image>\nWhat is this? ASSISTANT:")
    assert whole.count(3) == 1
    assert ids == [1, *(i for i in whole if i != 3)]
    assert at == 1 + whole.index(3) > 1


def test_a_prompt_may_end_with_a_line(case: Case, tmp_path: Path) -> None:
    """As ChatML's and Llama 3's do; what follows it begins no word."""
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE.replace("'ASSISTANT:'", "'ASSISTANT:\\n'"))
    chat, own = own_chat(tmp_path), case.model.language
    assert chat.prompt == "USER: {image}\n{question} ASSISTANT:\n"
    assert own is not None
    language = dataclasses.replace(own, form=ImagePrompt(chat.prompt))
    longer, prompt = language.prompt("Why?")[0], own.prompt("Why?")[0]
    [line] = longer[len(prompt) :]
    assert (longer[:-1], line) == (prompt, own.tokenizer.encode("a\n")[-1])
    assert language.letters(2) == [own.tokenizer.encode(f"\n{letter}")[-1] for letter in "AB"]
    assert own.letters(2) == [own.tokenizer.encode(letter)[0] for letter in "AB"] != language.letters(2)
    assert own.continuation("teapot") == own.tokenizer.encode("teapot")
    assert (
        language.continuation("teapot")
        == own.tokenizer.encode("\nteapot")[-len(language.continuation("teapot")) :]
    )


def test_a_prompt_that_fits_is_answered(case: Case) -> None:
    """Padding ends where the context does."""
    language = case.model.language
    assert language is not None
    own, at = language.prompt("Why?")
    room = language.decoder.config.context_length - PATCHES - len(own)
    rows = padded(language, [(own, at)], room - 1)
    assert (rows.ids.shape[1], rows.image_at.tolist()) == (len(own) + 1, [at + 1])
    assert padded(language, [(own, at)], STEPS).ids.shape == (1, BUCKET)


def test_logits_and_answers_are_transformers(either: Case) -> None:
    language = either.model.language
    assert language is not None
    pixels = either.model.preprocess(image())[None]
    prompt = language.prompt("What is this?")
    rows = padded(language, [prompt], STEPS)
    given = (either.model.network, either.model.params, pixels, rows.ids, rows.image_at, rows.valid)
    answers = answer_ids(*given, steps=STEPS, stop=language.stop, precision="parity")
    theirs = reference_logits(either, pixels, *prompt)[:, -1].numpy()
    assert np.abs(answers.first - theirs).max() < 1e-4 * np.abs(theirs).max()
    # The image in Prismatic's place is seen.
    elsewhere = reference_logits(either, pixels, prompt[0], 1)[:, -1].numpy()
    assert np.abs(answers.first - elsewhere).max() > 1e-2 * np.abs(theirs).max()
    ids = [int(i) for i in np.asarray(answers.ids)[0] if i >= 0]
    for step in range(len(ids)):
        after = reference_logits(either, pixels, [*prompt[0], *ids[:step]], prompt[1])
        assert int(after[0, -1].argmax()) == ids[step]
    answer = language.tokenizer.decode(ids).strip()
    assert either.model.answer([image()], "What is this?", steps=STEPS) == [answer]


def test_the_file_comes_back(either: Case, tmp_path: Path) -> None:
    """In the layout of LLaVA-1.5's own files and of transformers 5, which is the case's."""
    again = export_model(
        clipjax.load_model(either.model.save(tmp_path / "own")), tmp_path / "model.safetensors"
    )
    written, theirs = open_source(again), open_source(either.folder / "model.safetensors")
    assert {*written} == {*theirs}
    assert all(np.array_equal(written[key].read(), theirs[key].read()) for key in theirs)
    older = Path(shutil.copytree(either.folder, tmp_path / "older"))
    _llava.renamed(older, lambda key: key.replace("vision_tower.", "vision_tower.vision_model."))
    loaded = clipjax.load_model(older)
    assert f"{loaded.origin.layout}_5" == either.model.origin.layout
    assert loaded.answer([image()], "Why?", steps=STEPS) == either.model.answer(
        [image()], "Why?", steps=STEPS
    )


def test_a_file_without_defaults_is_read(case: Case, tmp_path: Path) -> None:
    """Fields as in the config.json of llava-hf/llava-1.5-7b-hf, without the defaults."""
    folder = Path(shutil.copytree(case.folder, tmp_path / "llava-1.5"))
    record = json.loads((folder / "config.json").read_text())
    for name in ("hidden_act", "layer_norm_eps", "num_channels"):
        del record["vision_config"][name]
    for name in ("vision_feature_layer", "vision_feature_select_strategy", "projector_hidden_act"):
        del record[name]
    for name in ("hidden_act", "attention_bias", "mlp_bias", "rope_parameters", "tie_word_embeddings"):
        del record["text_config"][name]
    record |= {"ignore_index": -100, "vocab_size": _llava.PIECES + 28, "torch_dtype": "float16"}
    (folder / "config.json").write_text(json.dumps(record))
    (folder / "chat_template.json").unlink()
    model = clipjax.load_model(folder)
    assert model.card.arch == case.model.card.arch or model.card.arch.name == "llava-1.5"
    assert model.card.chat is not None
    assert (model.card.chat.template, model.card.chat.prompt) == (
        "llava_v15",
        "USER: {image}\n{question} ASSISTANT:",
    )


@pytest.mark.parametrize(
    ("section", "name", "value", "says"),
    [
        ("", "vision_feature_select_strategy", "full", "'full'; clipjax knows default"),
        ("", "projector_hidden_act", "gelu_new", "'gelu_new'; clipjax knows gelu"),
        ("", "vision_feature_layer", [-2, -5], "clipjax reads one layer, counted from the end"),
        ("", "vision_feature_layer", -9, r"layer = -9 is counted from the end: -1 to -3"),
        ("", "multimodal_projector_bias", False, "False; clipjax knows True"),
        ("", "architectures", ["Other"], r"architectures is \['Other'\], not"),
        ("", "something", 1, "the field 'something', which clipjax does not know"),
        ("vision_config", "model_type", "dinov2", "clipjax knows clip_vision_model, siglip_vision_model"),
        ("vision_config", "model_type", "siglip_vision_model", "'default'; clipjax knows full"),
        ("text_config", "model_type", "qwen2", "clipjax has decoders of llama, mistral"),
    ],
)
def test_another_kind_is_refused(
    section: str, name: str, value: Any, says: str, case: Case, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(case.folder, tmp_path / "other"))
    record = json.loads((folder / "config.json").read_text())
    (record[section] if section else record)[name] = value
    (folder / "config.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match=says):
        clipjax.load_model(folder)


def test_a_template_without_a_place_for_the_image_is_refused(case: Case, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(case.folder, tmp_path / "other"))
    template = "{% for message in messages %}{{ message['content'][1]['text'] }}{% endfor %}"
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(
        DataError, match="the chat template does not write the question and <image> once each"
    ):
        clipjax.load_model(folder)


def test_a_hub_repository(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    commit, files = "0123456789abcdef0123456789abcdef01234567", tmp_path / "hub" / "models--org--narrow-llava"
    shutil.copytree(case.folder, files / "snapshots" / commit)
    (files / "refs").mkdir()
    (files / "refs" / "main").write_text(commit)
    model = clipjax.load_model("org/narrow-llava")
    assert (model.card.id, model.card.source.revision) == ("narrow-llava", commit)
    assert model.card.chat == case.model.card.chat


def test_a_mesh_of_devices_answers_the_same(case: Case) -> None:
    model = clipjax.load_model(case.folder, mesh=make_mesh())
    assert model.answer([image()], "Why?", steps=STEPS) == case.model.answer([image()], "Why?", steps=STEPS)


def test_a_decoder_in_bfloat16_takes_half_the_memory(case: Case, tmp_path: Path) -> None:
    """Against parity: 1.3 % of the largest logit, 0.6 % of it from rounding the weights (8 bits, 0.4 %)."""
    half = clipjax.load_model(case.folder, dtype="bfloat16")
    for path, leaf in flatten(half.params).items():
        wide, of_decoder = flatten(case.model.params)[path], path.startswith("decoder/")
        assert leaf.nbytes == leaf.size * (2 if of_decoder else 4)
        np.testing.assert_array_equal(leaf, wide.astype(leaf.dtype))
    language = case.model.language
    assert language is not None
    pixels, question = case.model.preprocess(image())[None], "What is this?"
    rows = padded(language, [language.prompt(question)], STEPS)

    def answered(params: Any, precision: Any) -> Any:
        given = (case.model.network, params, pixels, rows.ids, rows.image_at, rows.valid)
        return answer_ids(*given, steps=STEPS, stop=language.stop, precision=precision)

    rounded = jax.tree.map(lambda leaf: leaf.astype("float32"), half.params)
    exact, in_file, fast = (
        answered(params, precision)
        for params, precision in (
            (case.model.params, "parity"),
            (rounded, "parity"),
            (half.params, "fast"),
        )
    )
    largest = np.abs(exact.first).max()
    assert 3e-3 < np.abs(in_file.first - exact.first).max() / largest < 1e-2
    assert 3e-3 < np.abs(fast.first - exact.first).max() / largest < 3e-2
    ids = [i for i in np.asarray(fast.ids)[0].tolist() if i >= 0]
    assert half.answer([image()], question, steps=STEPS) == [language.tokenizer.decode(ids).strip()]
    with pytest.raises(UsageError, match=r"precision 'fast' \(--precision fast\), or load it again without"):
        half.answer([image()], question, precision="parity")
    with pytest.raises(UsageError, match="and its file has float32: load it again without dtype to write it"):
        half.save(tmp_path / "half")
    with pytest.raises(UsageError, match="unknown dtype 'float16'"):
        clipjax.load_model(case.folder, dtype="float16")  # type: ignore[arg-type]
