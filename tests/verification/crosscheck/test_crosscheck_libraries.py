"""crosscheck against every library: its own settings where it has some, and the card's where it has none."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import jax.numpy as jnp
import numpy as np
import pytest
import reference
import torch
from _crosscheck import in_process, subject_of, write_images
from _vocabularies import PIECES, small_rules, write_folders
from transformers import CLIPTokenizer

import clipjax
from clipjax.checkpoints.identity.registry import model_card
from clipjax.checkpoints.load import load_model
from clipjax.checkpoints.model import Model
from clipjax.data.labels import LabelSpace, Projection, PromptSet
from clipjax.data.text import vocabularies
from clipjax.data.text.tokenizers import load_tokenizer, tokenizer_spec
from clipjax.errors import UsageError
from clipjax.evaluation.request import Request
from clipjax.heads.head import Head, score_blocks
from clipjax.models.arch import arch_to_dict, load_arch, narrow_arch
from clipjax.verification.crosscheck import both_sides as run_module
from clipjax.verification.crosscheck import crosscheck
from clipjax.verification.crosscheck.reference import make_job
from converters.golden import build_model
from converters.golden.condition import condition
from converters.golden.crosscheck import crosscheck as golden_crosscheck
from converters.golden.crosscheck import project
from converters.golden.pipelines import CARD
from tests.verification.parity import test_parity_hf as hf

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*texts were cut to"),
    pytest.mark.usefixtures("one_device"),
]
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def siglip_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small vocabulary of SigLIP's kind."""
    root = tmp_path_factory.mktemp("vocabularies")
    write_folders(root)
    return root / "siglip" / "model"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow CLIP of transformers, without a tokenizer; tests copy it."""
    folder = tmp_path_factory.mktemp("clip")
    config = hf.config("clip")
    config["text_config"] |= {"vocab_size": 49408, "max_position_embeddings": 77}
    config["text_config"] |= {"bos_token_id": 49406, "eos_token_id": 49407}
    save_transformers(config, folder)
    return folder


@pytest.fixture(scope="module")
def open_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow CLIP in a folder of open_clip's, which no test changes."""
    config = reference.narrow("ViT-B-32")
    config["text_cfg"] |= {"vocab_size": 49408, "context_length": 77}
    return reference.save_folder(
        reference.conditioned(config), config, tmp_path_factory.mktemp("open_clip") / "theirs_own"
    )


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped rules with the size of that vocabulary."""
    small = small_rules(vocabularies.rules())
    monkeypatch.setattr(vocabularies, "rules", lambda: small)
    load_tokenizer.cache_clear()


# ----------------------------------------------------------------------------------------- transformers


@pytest.mark.long(
    "verification/crosscheck/test_crosscheck_libraries.py::test_transformers_siglip_with_its_bias"
)
def test_transformers_clip_from_its_own_folder(clip: Path, images: Path, tmp_path: Path) -> None:
    """Its tokenizer pads with the end of a text and not with 0, which no tower reads."""
    folder = shutil.copytree(clip, tmp_path / "clip")
    write_clip_tokenizer(folder)
    found = in_process(subject_of(clipjax.load_model(folder), images), "transformers", tmp_path)
    assert found.passed, found.to_dict()
    facts = found.about["reference"]
    assert facts["preprocessing"] == "preprocessor_config.json"
    assert (facts["transform"], facts["tokenizer"]) == ("CLIPImageProcessorPil", "CLIPTokenizer")


@pytest.mark.usefixtures("_small")
def test_transformers_siglip_with_its_bias(siglip_files: Path, images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "siglip"
    folder.mkdir()
    config = hf.config("siglip")
    config["text_config"] |= {"vocab_size": PIECES, "max_position_embeddings": 64}
    save_transformers(config, folder)
    shutil.copy(siglip_files / "spiece.model", folder)
    kind = {"tokenizer_class": "SiglipTokenizer", "pad_token": "</s>", "model_input_names": ["input_ids"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(kind))
    loaded = clipjax.load_model(folder)
    spec = tokenizer_spec("siglip", 64, "canonicalize_hf")
    model = with_tokenizer(loaded, spec, folder / "spiece.model")
    assert model.card.logit_bias == -12
    found = in_process(subject_of(model, images), "transformers", tmp_path, config=str(folder))
    assert found.passed, found.to_dict()
    facts = found.about["reference"]
    assert (facts["preprocessing"], facts["transform"]) == (
        "preprocessor_config.json",
        "SiglipImageProcessorPil",
    )
    without = model.with_card(dataclasses.replace(model.card, logit_bias=None))
    again = in_process(subject_of(without, images), "transformers", tmp_path / "again")
    assert again.first_difference == "logits"
    assert again.about["reference"]["preprocessing"] == CARD


@pytest.mark.long(
    "verification/crosscheck/test_crosscheck_libraries.py::test_transformers_siglip_with_its_bias"
)
@pytest.mark.usefixtures("_small")
def test_transformers_siglip_without_a_tokenizers_configuration(
    siglip_files: Path, images: Path, tmp_path: Path
) -> None:
    """transformers' own SigLIP tokenizer, which cleans the texts; the tower gets no mask of the padding."""
    config = hf.config("siglip")
    config["text_config"] |= {"vocab_size": PIECES, "max_position_embeddings": 64}
    save_transformers(config, tmp_path)
    file = Path(shutil.copy(siglip_files.parent / "json" / "tokenizer.json", tmp_path))
    spec = tokenizer_spec("siglip", 64, "canonicalize_hf")
    model = with_tokenizer(clipjax.load_model(tmp_path), spec, file)
    subject = subject_of(model, images, PromptSet("words", ("A photo, of a (small) {}!", "the {}")))
    with pytest.raises(UsageError, match=r"no tokenizer for .*: put spiece\.model of a repository"):
        make_job(subject, "transformers", tmp_path)
    shutil.copy(siglip_files / "spiece.model", tmp_path)
    found = in_process(subject, "transformers", tmp_path)
    assert found.passed, found.to_dict()
    assert found.about["reference"]["tokenizer"] == "SiglipTokenizer"


@pytest.mark.long("verification/crosscheck/test_crosscheck_libraries.py::test_a_model_for_larger_images")
def test_transformers_clip_for_larger_images(clip: Path, images: Path, tmp_path: Path) -> None:
    """The folder's configuration and processor, both with the size of the resized model."""
    folder = shutil.copytree(clip, tmp_path / "clip")
    write_clip_tokenizer(folder)
    model = clipjax.load_model(folder, image_size=44)
    found = in_process(subject_of(model, images), "transformers", tmp_path)
    assert found.passed, found.to_dict()
    assert found.about["reference"]["preprocessing"] == "preprocessor_config.json"


def test_transformers_clip_with_a_vocabulary_alone(clip: Path, images: Path, tmp_path: Path) -> None:
    """Said before anything runs where there is none; a folder that we wrote takes it as well."""
    model = clipjax.load_model(clipjax.load_model(clip).save(tmp_path / "ours_own"))
    words = "put tokenizer.json or vocab.json and merges.txt of a repository of transformers beside"
    with (
        mock.patch.object(run_module, "our_side", side_effect=AssertionError("it ran")),
        pytest.raises(UsageError, match=words),
    ):
        crosscheck(model, Request(root=images, labels=images / "labels.csv"), "transformers", progress=False)
    write_clip_tokenizer(tmp_path / "ours_own")
    (tmp_path / "ours_own" / "tokenizer_config.json").unlink()
    found = in_process(subject_of(model, images), "transformers", tmp_path)
    assert found.passed, found.to_dict()
    facts = found.about["reference"]
    assert (facts["preprocessing"], facts["tokenizer"]) == (CARD, "CLIPTokenizer")


def save_transformers(config: dict[str, Any], folder: Path) -> None:
    model: Any = build_model(config, "transformers")
    condition(model, 0)
    if hasattr(model, "logit_bias"):
        torch.nn.init.constant_(model.logit_bias, -12.0)
    hf.save(model, config, folder)


def write_clip_tokenizer(folder: Path) -> None:
    """OpenAI's merges in the files that transformers reads."""
    from clipjax.data.text.tokenizers import _read_merges

    merges, ids = _read_merges()
    named = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {named.get(token, token): number for token, number in ids.items()}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, merges), ""]))
    files = {"vocab": str(folder / "vocab.json"), "merges": str(folder / "merges.txt")}
    CLIPTokenizer(**files).save_pretrained(folder)


def with_tokenizer(model: Model, spec: Any, file: Path) -> Model:
    card = dataclasses.replace(model.card, tokenizer=spec)
    return Model(card, model.params, model.origin, tokenizer_files=(file,))


# -------------------------------------------------------------------------------------------- open_clip


@pytest.mark.usefixtures("_small")
def test_open_clips_siglip_by_name(siglip_files: Path, images: Path, tmp_path: Path) -> None:
    """Pixels squashed as open_clip's own settings of the name say, and its HFTokenizer.

    The tokenizer's file lies alone, as it does in a folder that we converted.
    """
    arch = narrow_arch(load_arch("ViT-SO400M-14-SigLIP-384"))
    arch = dataclasses.replace(arch, text=dataclasses.replace(arch.text, vocab_size=PIECES))  # type: ignore[reportArgumentType]
    theirs = build_model("ViT-SO400M-14-SigLIP-384", "open_clip", arch_to_dict(arch))
    condition(theirs, 0)
    card, size = model_card("vit_so400m_14_siglip_384-webli"), arch.vision.image_size
    pixels = dataclasses.replace(card.preprocess, image_size=size, resize_size=size)
    spec = tokenizer_spec("siglip", arch.text.context_length)  # type: ignore[reportOptionalMemberAccess]
    card = dataclasses.replace(card, arch=arch, preprocess=pixels, tokenizer=spec)
    loaded = load_model(reference.save(theirs, tmp_path / "w.safetensors"), card=card)
    file = Path(shutil.copy(siglip_files.parent / "json" / "tokenizer.json", tmp_path))
    model = with_tokenizer(loaded, spec, file)
    found = in_process(subject_of(model, images), "open_clip", tmp_path, sizes=arch_to_dict(arch))
    assert found.passed, found.to_dict()
    facts = found.about["reference"]
    assert facts["preprocessing"] == "open_clip's ViT-SO400M-14-SigLIP-384, webli"
    assert facts["tokenizer"] == "the files beside the weights"
    assert f"Resize(size=({size}, {size})" in facts["transform"]


def test_a_model_of_our_own_lends_the_reference_its_card(
    open_clip: Path, images: Path, tmp_path: Path
) -> None:
    """A converted folder of an architecture without a name: weights go back, settings come from the card."""
    model = clipjax.load_model(clipjax.load_model(open_clip).save(tmp_path / "ours_own"))
    found = in_process(subject_of(model, images), "open_clip", tmp_path)
    assert found.passed, found.to_dict()
    facts = found.about["reference"]
    assert (facts["preprocessing"], facts["tokenizer"]) == (CARD, "open_clip's SimpleTokenizer")


@pytest.mark.long(
    "verification/test_verify.py::test_an_architecture_without_a_name_is_built_from_its_configuration"
)
def test_an_architecture_that_open_clip_does_not_name(images: Path, tmp_path: Path) -> None:
    """Towers that are not plain CLIP's: only the file beside the weights says how to build them."""
    config = reference.narrow("ViT-B-32")
    config["vision_cfg"] |= {"pool_type": "avg", "final_ln_after_pool": True, "no_ln_pre": True}
    config["text_cfg"] |= {"vocab_size": 49408, "context_length": 77, "no_causal_mask": True}
    model = clipjax.load_model(
        reference.save_folder(reference.conditioned(config), config, tmp_path / "mine")
    )
    assert model.card.source.arch is None
    found = in_process(subject_of(model, images), "open_clip", tmp_path)
    assert found.passed, found.to_dict()
    assert found.about["reference"]["preprocessing"] == "open_clip_config.json"


def test_a_model_for_larger_images(open_clip: Path, images: Path, tmp_path: Path) -> None:
    """The resampled position table goes back, and the library's transform takes the size of its model."""
    model = clipjax.load_model(open_clip, image_size=128)
    found = in_process(subject_of(model, images), "open_clip", tmp_path)
    assert found.passed, found.to_dict()
    assert "CenterCrop(size=(128, 128))" in found.about["reference"]["transform"]
    assert found.about["reference"]["preprocessing"] == "open_clip_config.json"


def test_the_border_of_a_data_set_is_cut_on_both_sides(open_clip: Path, images: Path, tmp_path: Path) -> None:
    subject = subject_of(clipjax.load_model(open_clip), images)
    pixels = dataclasses.replace(subject.data.pixels, pre_crop=2)
    bordered = dataclasses.replace(subject, data=dataclasses.replace(subject.data, pixels=pixels))
    assert in_process(bordered, "open_clip", tmp_path / "cut").passed
    again = in_process(bordered, "open_clip", tmp_path / "whole", pre_crop=0)
    assert again.first_difference == "pixels"


def test_an_image_that_only_the_reference_cannot_read_is_named(
    open_clip: Path, images: Path, tmp_path: Path
) -> None:
    subject = subject_of(clipjax.load_model(open_clip), images)
    job = make_job(subject, "open_clip", tmp_path)
    with pytest.raises(SystemExit, match=r"cat/0\.jpg: "):
        golden_crosscheck({**job, "lengths": [10] * 12}, tmp_path, lambda *_: None)


# ------------------------------------------------------------------------------------------ projections


@pytest.mark.parametrize("kind", ["select", "max", "mean_prob"])
def test_the_references_projection_is_ours(kind: Any) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(9, 7)).astype(np.float32)
    groups = ((3,), (0,), (6,)) if kind == "select" else ((3, 5), (0,), (6, 1, 2))
    names = tuple("abcdefg")
    head = Head(jnp.eye(7), None, 1.0, False, LabelSpace("seven", names, names))
    [(_, ours)] = score_blocks(head, features, Projection("seven", "three", kind, groups))
    theirs = project(torch.from_numpy(features), {"kind": kind, "groups": [list(group) for group in groups]})
    np.testing.assert_allclose(np.asarray(ours.values), theirs.numpy(), rtol=1e-6)
