"""Where a tokenizer's files come from, what the card says of them, and what a model does without them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _drawn import drawn
from _vocabularies import PIECES, small_rules, write_folders

from clipjax.checkpoints.card import card_from_dict
from clipjax.checkpoints.identity.registry import model_card
from clipjax.checkpoints.load import load_model
from clipjax.checkpoints.model import Model
from clipjax.checkpoints.tokenizer_files import find_tokenizer_files
from clipjax.config import config_dir
from clipjax.data.labels import LabelSpace, PromptSet
from clipjax.data.text import vocabularies
from clipjax.data.text.tokenizers import load_tokenizer, tokenizer_spec
from clipjax.errors import DataError, UsageError
from clipjax.heads.build import zeroshot_head
from clipjax.models.arch import arch_from_dict, arch_to_dict, load_arch
from clipjax.models.network import Network

REAL = vocabularies.rules()
SMALL = small_rules(REAL)
COMMIT = "0123456789abcdef0123456789abcdef01234567"
PROMPTS = ["a photo of a cat", "a photo of a very small dog in the garden", "fish"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("vocabularies")
    write_folders(root)
    return root


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """The rules of the small vocabularies."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocabularies, "rules", lambda: SMALL)
        yield


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    load_tokenizer.cache_clear()
    return tmp_path / "hub"


def snapshot(cache: Path, repo: str, *files: Path) -> Path:
    """The files in the hub's cache, as huggingface_hub lays it out."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    inside = folder / "snapshots" / COMMIT
    inside.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    for file in files:
        shutil.copy(file, inside)
    return inside


@pytest.fixture(scope="module")
def made() -> Model:
    """A very small dual encoder with a text tower like SigLIP's, never given a tokenizer's files."""
    record = arch_to_dict(load_arch("ViT-B-32-quickgelu"))
    size = {"width": 32, "heads": 2, "layers": 1, "mlp_width": 64, "embed_dim": 16}
    record["vision"] |= size | {"image_size": 32}
    siglip = {"causal": False, "pooling": "last", "projection_bias": True}
    record["text"] |= size | siglip | {"context_length": 64, "vocab_size": PIECES}
    base = model_card("vit_b_32-openai")
    card = dataclasses.replace(
        base,
        source=dataclasses.replace(base.source, tag=None),  # of other weights than the tag's
        id="small",
        arch=arch_from_dict(record, "here"),
        preprocess=dataclasses.replace(base.preprocess, image_size=32, resize_size=32),
        tokenizer=tokenizer_spec("siglip", 64),
        logit_scale=10.0,
        unknown={**base.unknown, "tokenizer.sha256": "its files have not been seen"},
    )
    params = drawn(Network(card.arch).abstract_params())
    return Model(card, params)


@pytest.fixture
def model(made: Model) -> Model:
    return Model(made.card, made.params)


def test_model_without_tokenizer_files_takes_images_and_ids(model: Model, tmp_path: Path) -> None:
    loaded = load_model(model.save(tmp_path / "saved"))
    assert loaded.encode_image(np.zeros((1, 32, 32, 3), np.float32)).shape == (1, 16)
    assert loaded.encode_text(np.ones((1, 64), np.int32)).shape == (1, 16)
    assert loaded.card.tokenizer == tokenizer_spec("siglip", 64)
    assert loaded.card.unknown["tokenizer.sha256"] == "its files have not been seen"
    for texts in (["a cat"], ["a cat", "a dog"]):
        with pytest.raises(
            DataError, match=r"put tokenizer\.json or spiece\.model into the folder of the model"
        ):
            loaded.encode_text(texts)


@pytest.mark.parametrize(("kind", "name"), [("json", "tokenizer.json"), ("model", "spiece.model")])
def test_files_beside_the_weights_are_found_and_saved_with_them(
    kind: str, name: str, model: Model, folders: Path, tmp_path: Path
) -> None:
    saved = model.save(tmp_path / "saved")
    shutil.copy(folders / "siglip" / kind / name, saved)
    loaded = load_model(saved)
    sha256 = vocabularies.digest([saved / name])
    assert loaded.card.tokenizer == dataclasses.replace(tokenizer_spec("siglip", 64), sha256=sha256)
    assert "tokenizer.sha256" not in loaded.card.unknown
    np.testing.assert_array_equal(
        loaded.encode_text(PROMPTS), loaded.encode_text(loaded.tokenizer.encode(PROMPTS).ids)
    )
    again = load_model(loaded.save(tmp_path / "again"))
    assert (tmp_path / "again" / name).read_bytes() == (saved / name).read_bytes()
    assert json.loads((tmp_path / "again" / "card.json").read_text())["tokenizer"]["sha256"] == sha256
    assert again.card == loaded.card
    np.testing.assert_array_equal(again.encode_text(PROMPTS), loaded.encode_text(PROMPTS))


def test_saving_over_itself_keeps_the_files(model: Model, folders: Path, tmp_path: Path) -> None:
    saved = model.save(tmp_path / "saved")
    shutil.copy(folders / "siglip" / "json" / "tokenizer.json", saved)
    load_model(saved).save(saved)
    assert load_model(saved).tokenizer.files == (saved / "tokenizer.json",)


def test_card_keeps_the_digest_through_json(model: Model) -> None:
    for card in (model.card, model.card.with_tokenizer_files("ab" * 32)):
        assert card_from_dict(json.loads(json.dumps(card.to_dict())), "here") == card


def test_exchanged_file_is_refused(model: Model, folders: Path, tmp_path: Path) -> None:
    saved = model.save(tmp_path / "saved")
    shutil.copy(folders / "siglip" / "json" / "tokenizer.json", saved)
    load_model(saved).save(saved)
    record = json.loads((saved / "tokenizer.json").read_text())
    record["model"]["vocab"][5][1] -= 1.0
    (saved / "tokenizer.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match=r"saved/tokenizer\.json is not the file that the model card names"):
        load_model(saved).encode_text(PROMPTS)


def test_a_folder_that_lost_its_files_says_so(model: Model, folders: Path, tmp_path: Path) -> None:
    saved = model.save(tmp_path / "saved")
    shutil.copy(folders / "siglip" / "json" / "tokenizer.json", saved)
    load_model(saved).save(saved)
    (saved / "tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"lost the files of its tokenizer siglip .*put tokenizer\.json or"):
        load_model(saved).encode_text(PROMPTS)


@pytest.mark.parametrize(
    ("name", "other", "message"),
    [
        ("siglip", {}, "it has no object 'model'"),
        ("siglip", [], "it has no object 'model'"),
        ("siglip", {"model": {"type": "Unigram"}}, "it lacks 'vocab'"),
        ("siglip", "roberta", "its model is BPE, not Unigram: bring the tokenizer.json of timm/"),
        ("roberta", "siglip", "its model is Unigram, not BPE: bring the tokenizer.json of"),
        ("roberta", {"model": {"type": "WordPiece", "vocab": {}}}, "its model is WordPiece, not BPE"),
    ],
)
def test_another_tokenizers_file(name: str, other: Any, message: str, folders: Path, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    if isinstance(other, str):
        shutil.copy(folders / other / "json" / "tokenizer.json", path)
    else:
        path.write_text(json.dumps(other))
    with pytest.raises(
        DataError, match=rf"tokenizer\.json is damaged, or no vocabulary of {name}: {message}"
    ):
        load_tokenizer(tokenizer_spec(name, 64), (path,))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("name", "openai_bpe", r"tokenizer openai_bpe has 49408 ids and arch\.text\.vocab_size is 1200"),
        ("name", "siglop", r"tokenizer\.name: unknown tokenizer 'siglop'; did you mean siglip"),
        ("context_length", 77, r"tokenizer\.context_length is 77 and arch\.text\.context_length is 64"),
    ],
)
def test_a_card_whose_tokenizer_does_not_fit(
    key: str, value: Any, message: str, model: Model, tmp_path: Path
) -> None:
    saved = model.save(tmp_path / "saved")
    record = json.loads((saved / "card.json").read_text())
    record["tokenizer"][key] = value
    (saved / "card.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match=rf"card\.json: card small: {message}"):
        load_model(saved)


def test_files_in_the_hubs_cache_are_found(model: Model, folders: Path, cache: Path, tmp_path: Path) -> None:
    saved = model.save(tmp_path / "saved")
    inside = snapshot(cache, "timm/ViT-B-16-SigLIP", folders / "siglip" / "json" / "tokenizer.json")
    loaded = load_model(saved)
    assert loaded.tokenizer.files == (inside / "tokenizer.json",)
    assert loaded.card.tokenizer is not None
    assert loaded.card.tokenizer.sha256 == vocabularies.digest(loaded.tokenizer.files)


def test_files_that_turn_up_later_are_found_when_a_text_comes(
    model: Model, folders: Path, cache: Path
) -> None:
    assert model.card.tokenizer is not None
    assert model.card.tokenizer.sha256 is None
    snapshot(cache, "timm/ViT-B-16-SigLIP", folders / "siglip" / "model" / "spiece.model")
    assert model.encode_text(["a cat"]).shape == (1, 16)
    assert model.with_tokenizer().tokenizer is model.tokenizer  # parsed once
    card = model.with_tokenizer().card
    assert card.tokenizer is not None
    assert card.tokenizer.sha256 == model.tokenizer.sha256
    assert "tokenizer.sha256" not in card.unknown
    for derived in (model.with_params(model.params), model.with_card(model.card)):
        assert derived.card.tokenizer == card.tokenizer
        assert derived.tokenizer_files


def test_pairs_of_files_are_found_whole_or_not(folders: Path, cache: Path, tmp_path: Path) -> None:
    spec = tokenizer_spec("roberta", 77)
    files = [folders / "roberta" / "files" / name for name in ("vocab.json", "merges.txt")]
    inside = snapshot(cache, "roberta-base", files[0])
    shutil.copy(files[0], tmp_path)
    assert find_tokenizer_files(spec, tmp_path, download=True) == ()
    shutil.copy(files[1], inside)
    assert find_tokenizer_files(spec, tmp_path) == (inside / "vocab.json", inside / "merges.txt")
    shutil.copy(files[1], tmp_path)
    assert find_tokenizer_files(spec, tmp_path) == (tmp_path / "vocab.json", tmp_path / "merges.txt")


def test_weights_own_repository_is_asked_first(folders: Path, cache: Path) -> None:
    file = folders / "siglip" / "json" / "tokenizer.json"
    snapshot(cache, "timm/ViT-B-16-SigLIP", file)
    own = snapshot(cache, "someone/siglip", file)
    assert find_tokenizer_files(tokenizer_spec("siglip", 64), repo="someone/siglip") == (
        own / "tokenizer.json",
    )


def test_files_of_the_cards_digest_are_preferred(folders: Path, cache: Path, tmp_path: Path) -> None:
    wanted = folders / "siglip" / "model" / "spiece.model"
    inside = snapshot(cache, "timm/ViT-B-16-SigLIP", wanted)
    shutil.copy(folders / "siglip" / "json" / "tokenizer.json", tmp_path)
    spec = tokenizer_spec("siglip", 64)
    assert find_tokenizer_files(spec, tmp_path) == (tmp_path / "tokenizer.json",)
    spec = dataclasses.replace(spec, sha256=vocabularies.digest([wanted]))
    assert find_tokenizer_files(spec, tmp_path) == (inside / "spiece.model",)
    assert find_tokenizer_files(tokenizer_spec("openai_bpe", 77), tmp_path) == ()


def test_registered_card_without_digest_names_the_same_model(
    model: Model, folders: Path, tmp_path: Path
) -> None:
    unseen = model.card
    saved = model.save(tmp_path / "saved")
    shutil.copy(folders / "siglip" / "json" / "tokenizer.json", saved)
    load_model(saved).save(saved)
    assert load_model(saved, card=unseen).tokenizer.sha256
    other = dataclasses.replace(unseen, tokenizer=tokenizer_spec("siglip", 64, clean="canonicalize_hf"))
    with pytest.raises(UsageError, match="has another tokenizer"):
        load_model(saved, card=other)


def test_model_without_a_known_tokenizer_says_why(model: Model) -> None:
    unknown = {**model.card.unknown, "tokenizer": "its vocabulary is 300 ids of nobody's"}
    nameless = Model(dataclasses.replace(model.card, tokenizer=None, unknown=unknown), model.params)
    assert nameless.encode_text(np.ones((1, 64), np.int32)).shape == (1, 16)
    with pytest.raises(
        UsageError,
        match=r"no known tokenizer .its vocabulary is 300 ids of nobody's.: name it in .*card\.json",
    ):
        nameless.encode_text(["a cat"])


def test_heads_read_siglip_texts_with_all_of_their_padding(model: Model, folders: Path, cache: Path) -> None:
    """Its tower sees the padding and reads out at the last id: cut, or padded with 0, it is another text."""
    snapshot(cache, "timm/ViT-B-16-SigLIP", folders / "siglip" / "json" / "tokenizer.json")
    names = ("cat", "dog", "fish")
    prompts = PromptSet(
        "here", sentences={name: (prompt,) for name, prompt in zip(names, PROMPTS, strict=True)}
    )
    head = zeroshot_head(model, LabelSpace("some", names, names), prompts)
    np.testing.assert_allclose(np.asarray(head.kernel).T, model.encode_text(PROMPTS), atol=1e-6)
    ids = model.tokenizer.encode(PROMPTS).ids
    wrong = model.encode_text(np.where(ids == 1, 0, ids))
    assert np.abs(np.asarray(head.kernel).T - wrong).max() > 1e-3


def test_rules_and_registry_agree() -> None:
    """A tokenizer named by the registry has its rules, and the ids that its text tower embeds."""
    for path in sorted((config_dir() / "tokenizers").glob("*.toml")):
        own = REAL[path.stem]
        assert set(own.special.values()) <= set(range(own.vocab_size))
        assert {*own.start, *own.end, own.pad} <= set(own.special.values())
    for model_id in (
        *("vit_so400m_14_siglip_384-webli", "roberta_vit_b_32-laion2b_s12b_b32k"),
        *("vit_b_16_siglip2-webli", "vit_h_14_worldwide-metaclip2_worldwide"),
    ):
        card = model_card(model_id)
        assert card.tokenizer is not None
        assert card.arch.text is not None
        own, frame = REAL[card.tokenizer.name], card.arch.text.frame
        assert card.tokenizer.clean == own.clean
        assert card.arch.text.vocab_size == own.vocab_size
        assert card.tokenizer.context_length == card.arch.text.context_length
        assert (frame.start, frame.end, frame.pad) == (own.start, own.end, own.pad)
        assert card.tokenizer.sha256 is None
        assert "tokenizer.sha256" in card.unknown
