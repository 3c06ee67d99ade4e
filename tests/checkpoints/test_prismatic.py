"""Prismatic's folders against transformers' towers and decoders: patches, tokens, logits, answers, files."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import shutil
from pathlib import Path
from typing import Any

import _llava
import jax
import numpy as np
import PIL.Image
import pytest
import sentencepiece
import torch
from _bucket import URL, FakeBucket
from _long import mostly_long

import clipjax
from clipjax.checkpoints.export import export_model
from clipjax.checkpoints.identity.registry import model_card
from clipjax.checkpoints.load import convert_model
from clipjax.checkpoints.model import Model
from clipjax.checkpoints.vision_language import LanguageSetup, answer_ids, padded
from clipjax.data.text.image_prompts import image_prompt
from clipjax.data.text.language_tokenizers import load_language_tokenizer
from clipjax.errors import ClipjaxError, DataError, UsageError
from clipjax.models.arch import arch_from_dict, arch_to_dict, load_arch, narrow_arch
from clipjax.models.language.decoder import Decoder
from clipjax.models.language.vision_language import image_tokens
from clipjax.storage.remote.bucket_files import BucketFiles
from clipjax.storage.remote.buckets import as_path
from converters.foreign import prismatic
from converters.foreign.prismatic import arch_record
from converters.golden import build_model

VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the user's questions. USER: {} ASSISTANT:"
)
MISTRAL = "[INST] {} [/INST]"
STEPS = 6


def narrow_record(tower: Any, language: Any) -> dict[str, Any]:
    return arch_to_dict(_llava.narrowed(arch_from_dict(arch_record(tower, language), "here")))


@pytest.fixture(autouse=True, scope="module")
def narrow() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prismatic, "arch_record", narrow_record)
        yield


@dataclasses.dataclass(frozen=True)
class Case:
    reference: _llava.Prismatic
    model: Model
    images: list[PIL.Image.Image]
    text: str

    @property
    def pixels(self) -> np.ndarray:
        return np.stack([self.model.preprocess(image) for image in self.images])

    @property
    def ids(self) -> list[int]:
        """The finished prompt with BOS, from sentencepiece itself."""
        return [1, *self.reference.tokens.encode(self.text.format(_llava.QUESTION))]


CASES = {
    "clip": ("clip", "vicuna-v15-7b", VICUNA),
    "siglip": ("siglip", "mistral-v0.2-7b-instruct", MISTRAL),
}


@pytest.fixture(scope="module", params=mostly_long(CASES, keep=["clip"]))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, narrow: None) -> Case:
    tower, language, text = CASES[request.param]
    reference = _llava.prismatic(tmp_path_factory.mktemp(request.param), tower, language)
    rng = np.random.default_rng(0)
    images = [
        PIL.Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)) for size in ((40, 61), (50, 50))
    ]
    model = clipjax.load_model(reference.folder, vision=reference.vision)
    return Case(reference, model, images, text)


def error(ours: Any, theirs: torch.Tensor) -> float:
    return float(np.abs(np.asarray(ours) - theirs.numpy()).max() / np.abs(theirs.numpy()).max())


def test_patches_and_tokens_are_the_libraries(case: Case) -> None:
    language = case.model.card.arch.language
    assert language is not None
    [ours] = case.model.encode_dense(case.pixels, layers=(language.layer,))
    patches = case.reference.patches(case.pixels)
    assert error(ours.reshape(patches.shape), patches) < 1e-5
    network = case.model.network
    tokens = jax.jit(lambda params, pixels: image_tokens(network, params, pixels, "parity"))(
        case.model.params, case.pixels
    )
    assert error(tokens, case.reference.projected(patches)) < 1e-5
    assert error(tokens, case.reference.projected(patches, approximate="tanh")) > 1e-4


def first_logits(case: Case) -> tuple[Any, Any]:
    """(logits of the first id, ids) of all images at once."""
    language = case.model.language
    assert language is not None
    prompts = padded(language, [language.prompt(_llava.QUESTION)] * len(case.images), STEPS)
    rows = (prompts.ids, prompts.image_at, prompts.valid)
    options: Any = {"steps": STEPS, "stop": language.stop, "precision": "parity"}
    answers = answer_ids(case.model.network, case.model.params, case.pixels, *rows, **options)
    return answers.first, answers.ids


def test_the_prompt_and_the_answer_are_the_libraries(case: Case) -> None:
    language = case.model.language
    assert language is not None
    assert language.prompt(f" {_llava.QUESTION}<image>\n") == (case.ids, 1)
    first, ids = first_logits(case)
    tokens = case.reference.projected(case.reference.patches(case.pixels))
    answers = []
    for row, own in enumerate(tokens):
        assert error(first[row], case.reference.logits(own, case.ids)) < 1e-4
        greedy = case.reference.greedy(own, case.ids, STEPS)
        assert [i for i in ids[row].tolist() if i >= 0] == greedy
        answers.append(language.tokenizer.decode(greedy).strip())
    assert case.model.answer(case.images, _llava.QUESTION, steps=STEPS) == answers


WRONG = [
    ({"layer": -1}, 1e-2),
    ({"class_token": True}, 1e-2),
    ({"bos": False}, 1e-2),
    ({"at": 0}, 1e-2),
    ({"at": 5}, 1e-2),
]


@pytest.mark.parametrize(
    ("wrong", "least"),
    mostly_long(WRONG, keep=[WRONG[0], WRONG[2]]),
    ids=str,
)
def test_what_is_wrong_is_seen(case: Case, wrong: dict[str, Any], least: float) -> None:
    if "class_token" in wrong and not case.model.card.arch.vision.class_token:
        pytest.skip("the tower has no class token")
    reads = {name: wrong[name] for name in ("layer", "class_token") if name in wrong}
    patches = case.reference.patches(case.pixels, **reads)
    tokens = case.reference.projected(patches)[0]
    bos = wrong.get("bos", True)
    ids = case.ids if bos else case.ids[1:]
    first, _ = first_logits(case)
    assert error(first[0], case.reference.logits(tokens, ids, at=wrong.get("at", int(bos)))) > least


# --- files ---


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory, narrow: None) -> _llava.Prismatic:
    root = tmp_path_factory.mktemp("files")
    return _llava.prismatic(root, "clip", "llama2-7b-chat", "resize-naive", torch.bfloat16)


@pytest.fixture
def copied(clip: _llava.Prismatic, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clip.folder, tmp_path / "mine+7b"))


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    record = json.loads(path.read_text())
    record["model"] |= changes
    path.write_text(json.dumps(record))


def test_the_card_holds_all_parts(clip: _llava.Prismatic, copied: Path) -> None:
    model = clipjax.load_model(copied, vision=clip.vision)
    card = model.card
    assert (card.id, card.kind, card.facts_origin) == ("mine+7b", "vision_language", "unknown")
    assert (card.source.library, card.source.arch) == ("prismatic", "clip-vit-l-336px+llama2-7b-chat")
    assert card.source.format == "torch zip"
    assert (card.parts["vision"].library, card.parts["vision"].tag) == ("open_clip", "openai")
    assert card.preprocess.resize_mode == "squash"
    assert card.chat is not None
    assert (card.chat.template, len(card.chat.sha256 or "")) == ("llama2_chat", 64)
    assert card.chat.prompt.startswith("[INST] <<SYS>\nYou are a helpful language and vision assistant.")
    assert {*model.params} == {"vision", "projector", "decoder"}
    language = model.language
    assert language is not None
    assert (language.image_tokens, language.stop) == (9, (2,))
    stamped = card.stamped()
    assert stamped.source.sha256 != stamped.parts["vision"].sha256


def test_the_fingerprint_covers_the_tower(clip: _llava.Prismatic, copied: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(clip.vision, tmp_path / "vision"))
    file = other / "open_clip_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    first, second = (clipjax.load_model(copied, vision=folder).card for folder in (clip.vision, other))
    assert first.fingerprint != second.fingerprint
    file.touch()
    assert second.weights is not None
    with pytest.raises(DataError, match="has changed since it was opened"):
        second.weights.refuse_changed()


def test_saved_and_converted_it_is_the_same(clip: _llava.Prismatic, copied: Path, tmp_path: Path) -> None:
    model = clipjax.load_model(copied, vision=clip.vision)
    folder, card = convert_model(copied, tmp_path / "converted", vision=clip.vision, name="mine")
    assert (card.id, card.parts["vision"].sha256 is None) == ("mine", False)
    image = PIL.Image.new("RGB", (30, 20), (200, 10, 60))
    answer = model.answer([image], "What is this?", steps=4)
    for each in (folder, model.save(tmp_path / "saved")):
        again = clipjax.load_model(each)
        assert again.card.chat == model.card.chat
        assert again.card.parts == model.card.stamped().parts
        same = jax.tree.map(
            lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), model.params, again.params
        )
        assert all(jax.tree.leaves(same))
        assert again.origin.dtypes["decoder/embedding"] == "bfloat16"  # type: ignore[index]
        assert again.answer([image], "What is this?", steps=4) == answer
    file = export_model(again, copied / "checkpoints" / "exported.pt")
    written = torch.load(file, weights_only=True)["model"]
    theirs = torch.load(copied / "checkpoints" / "latest-checkpoint.pt", weights_only=True)["model"]
    assert {part: state.keys() for part, state in written.items()} == {
        part: state.keys() for part, state in theirs.items()
    }
    for part, state in theirs.items():
        for key, tensor in state.items():
            assert written[part][key].dtype == tensor.dtype
            assert torch.equal(written[part][key], tensor), key
    with pytest.raises(UsageError, match=r"model\.safetensors must end in \.pt: .* is of Prismatic"):
        export_model(again, tmp_path / "model.safetensors")
    (folder / "tokenizer.model").unlink()
    without = clipjax.load_model(folder)
    assert without.encode_image(np.zeros((1, 42, 42, 3))).shape == (1, 128)
    with pytest.raises(
        DataError, match=r"mine has no tokenizer .*: convert it again with --tokenizer FOLDER"
    ):
        without.answer([image], "What is this?")
    other = tmp_path / "other"
    other.mkdir()
    (other / "tokenizer.model").write_bytes(_llava.sentencepiece_model(user_defined_symbols=["<image>"]))
    with pytest.raises(DataError, match="is not the tokenizer that the model card names"):
        _ = clipjax.load_model(folder, tokenizer=other).language
    again = clipjax.load_model(folder, tokenizer=copied / "tokenizer.model")
    assert again.answer([image], "What is this?", steps=4) == answer


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"image_resize_strategy": "resize-wild"}, "'resize-wild'; clipjax knows letterbox, resize-naive"),
        ({"arch_specifier": "no-align+moe"}, r"arch_specifier is 'no-align\+moe'; clipjax knows projectors"),
        ({"arch_specifier": "linear"}, "does not fit the projector and decoder of"),
        ({"arch_specifier": "no-align+fused-gelu-mlp"}, "does not fit the projector and decoder of"),
        ({"vision_backbone_id": "dinov2-vit-l"}, "'dinov2-vit-l'; clipjax knows clip-vit-l-336px"),
        ({"llm_backbone_id": "phi-2-3b"}, "'phi-2-3b'; clipjax knows vicuna-v15-7b"),
        ({"llm_backbone_id": "mistral-v0.2-7b-instruct"}, "does not fit the projector and decoder of"),
    ],
    ids=str,
)
def test_a_folder_that_does_not_fit_is_refused(
    changes: dict[str, Any], says: str, clip: _llava.Prismatic, copied: Path
) -> None:
    edit(copied, **changes)
    with pytest.raises(ClipjaxError, match=says) as refused:
        clipjax.load_model(copied, vision=clip.vision)
    assert "\n" not in str(refused.value)


def test_a_tower_of_another_size_is_refused(clip: _llava.Prismatic, copied: Path, tmp_path: Path) -> None:
    tower = narrow_arch(load_arch("ViT-L-14-336-quickgelu"))
    sizes = arch_to_dict(dataclasses.replace(tower, vision=dataclasses.replace(tower.vision, image_size=56)))
    model = build_model("ViT-L-14-336-quickgelu", "open_clip", sizes)
    _llava.save(model, tmp_path / "open_clip_model.safetensors")
    says = r"does not fit the vision of .* 1 problem: visual.positional_embedding has shape \(17, 128\)"
    with pytest.raises(DataError, match=says):
        clipjax.load_model(copied, vision=tmp_path)


def test_a_tokenizer_that_does_not_fit_the_embedding(clip: _llava.Prismatic, copied: Path) -> None:
    (copied / "tokenizer.model").write_bytes(_llava.sentencepiece_model(size := 460))
    model = clipjax.load_model(copied, vision=clip.vision)
    rows = _llava.PIECES + 12
    with pytest.raises(
        DataError, match=rf"tokenizer\.model: the tokenizer has {size} ids and the embedding {rows} rows"
    ):
        _ = model.language


def test_what_a_model_of_two_kinds_cannot_do(clip: _llava.Prismatic, copied: Path, tmp_path: Path) -> None:
    model = clipjax.load_model(copied, vision=clip.vision)
    image = PIL.Image.new("RGB", (30, 20))
    with pytest.raises(UsageError, match=r"mine\+7b is a vision-language model: it has no text tower, ask"):
        model.encode_text(["a cat"])
    with pytest.raises(UsageError, match="2 questions for 1 images"):
        model.answer([image], ["What?", "Why?"])
    with pytest.raises(DataError, match=r"its answer take \d+ positions, and the decoder's context has 512"):
        model.answer([image], "Why? " * 400)
    with pytest.raises(DataError, match=r"context has 512"):
        model.answer([image], "Why?", steps=500)
    with pytest.raises(UsageError, match="its decoder was trained on that many patches"):
        clipjax.load_model(copied, vision=clip.vision, image_size=56)
    assert model.answer([], "What?") == []
    own = model.save(tmp_path / "own")
    with pytest.raises(UsageError, match="has its image tower in its own file"):
        clipjax.load_model(own, vision=clip.vision)
    classifier = clipjax.load_model(clip.vision, card=clip_card(), name="tower")
    with pytest.raises(UsageError, match="tower has no language model: it answers no questions"):
        classifier.answer([image], "What?")
    assert classifier.language is None
    with pytest.raises(UsageError, match=r"has no language model: leave tokenizer \(--tokenizer\) out"):
        clipjax.load_model(clip.vision, card=clip_card(), tokenizer=copied)


def clip_card() -> Any:
    card = model_card("vit_l_14_336-openai")
    return dataclasses.replace(card, arch=narrow_arch(load_arch("ViT-L-14-336-quickgelu")), tokenizer=None)


def test_letters_begin_a_word(clip: _llava.Prismatic, copied: Path) -> None:
    model = clipjax.load_model(copied, vision=clip.vision)
    language = model.language
    assert language is not None
    assert language.letters(4) == [clip.tokens.piece_to_id(f"▁{letter}") for letter in "ABCD"]
    inside = [clip.tokens.piece_to_id(letter) for letter in "ABCD"]
    assert not {*language.letters(4)} & {*inside}
    with pytest.raises(UsageError, match="27 options have no letters: give 1 to 26"):
        language.letters(27)
    with pytest.raises(
        DataError, match=r"tokenizer\.model has no single token for an answer that begins with"
    ):
        language.letters(26)


def test_the_prompt_of_mistrals_own_tokenizer(tmp_path: Path) -> None:
    """Ids as Prismatic takes them: the letters begin a word, and are others than those after a new line."""
    found = importlib.util.find_spec("mistral_common")
    if found is None or not found.submodule_search_locations:
        pytest.skip("mistral-common, which has the tokenizer, is not installed: see the Makefile")
    file = Path(found.submodule_search_locations[0]) / "data" / "tokenizer.model.v1"
    shutil.copy(file, tmp_path / "tokenizer.model")
    arch = load_arch("prism-clip_l14_336-mistral_7b_v02")
    assert arch.language is not None
    tokenizer = load_language_tokenizer(tmp_path)
    language = LanguageSetup(tokenizer, image_prompt("mistral_instruct"), Decoder(arch.language.decoder), 576)
    ids, at = language.prompt(_llava.QUESTION)
    assert (len(ids), ids[0], at) == (55, 1, 1)
    assert language.letters(4) == [330, 365, 334, 384]
    after_line = [28741, 28760, 28743, 28757]
    assert [i for i in ids if i in after_line] == after_line
    own = sentencepiece.SentencePieceProcessor(model_file=str(file))
    assert ids[1:] == own.encode(MISTRAL.format(_llava.QUESTION))
    assert language.stop == (2,)


@pytest.mark.long("checkpoints/test_prismatic.py::test_the_prompt_and_the_answer_are_the_libraries")
def test_the_example_of_the_documents_runs() -> None:
    if importlib.util.find_spec("mistral_common") is None:
        pytest.skip("mistral-common, which has the tokenizer, is not installed: see the Makefile")
    text = (Path(__file__).parents[2] / "docs" / "reference" / "vision_language.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(blocks[-1], names)
    model = names["model"]
    assert model.language.letters(4) == [330, 365, 334, 384]
    [answer] = model.answer([PIL.Image.new("RGB", (60, 40))], "What is this?", steps=4)
    assert isinstance(answer, str)


# --- the hub ---

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "hub"


def snapshot(hub: Path, repo: str, folder: Path, inside: str = "") -> None:
    files = hub / f"models--{repo.replace('/', '--')}"
    shutil.copytree(folder, files / "snapshots" / COMMIT / inside)
    (files / "refs").mkdir()
    (files / "refs" / "main").write_text(COMMIT)


def test_a_folder_of_a_hub_repository(clip: _llava.Prismatic, hub: Path, copied: Path) -> None:
    """Facts are the row's only if projector, decoder and tower are its files."""
    (copied / "tokenizer.model").unlink()
    snapshot(hub, "TRI-ML/prismatic-vlms", copied, "one-stage+7b")
    edit(copied, llm_backbone_id="vicuna-v15-7b")
    config = hub / "models--TRI-ML--prismatic-vlms" / "snapshots" / COMMIT / "one-stage+7b" / "config.json"
    config.write_text((copied / "config.json").read_text())
    place = "TRI-ML/prismatic-vlms/one-stage+7b"
    with pytest.raises(
        DataError, match=r"needs the image tower of vit_l_14_336-openai, .* as vision \(--vision\)"
    ):
        clipjax.load_model(place, card=narrow_card())
    snapshot(hub, "timm/vit_large_patch14_clip_336.openai", clip.vision)
    snapshot(hub, "lmsys/vicuna-7b-v1.5", clip.folder)
    card = clipjax.load_model(place, card=narrow_card()).card
    assert (card.id, card.facts_origin) == ("prism-clip_l14_336-vicuna_v15_7b", "registry")
    assert (card.source.repo, card.source.revision) == ("TRI-ML/prismatic-vlms", COMMIT)
    assert card.source.file == "one-stage+7b/checkpoints/latest-checkpoint.pt"
    assert card.parts["vision"].repo == "timm/vit_large_patch14_clip_336.openai"
    assert card.preprocess.resize_mode == "squash"  # of its config.json; the row assumes letterbox
    assert card.chat is not None
    assert (card.chat.template, card.chat.sha256 is None) == ("vicuna_v15", False)
    other = clipjax.load_model(place, card=narrow_card(), vision=clip.vision).card
    assert other.facts_origin == "registry"  # the same file, known by its digest since its download


def test_a_folder_on_a_bucket(
    clip: _llava.Prismatic, copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its tower and tokenizer there, too. Of the checkpoints the latest is fetched."""
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "cache"))
    FakeBucket.made(monkeypatch)
    (copied / "checkpoints" / "step-1.pt").write_bytes(b"not fetched")
    (copied / "tokenizer.model").rename(tmp_path / "tokenizer.model")
    files = {f"model/{path.relative_to(copied)}": path for path in copied.rglob("*") if path.is_file()}
    files |= {f"vision/{path.name}": path for path in clip.vision.iterdir()}
    for name, path in {**files, "words/tokenizer.model": tmp_path / "tokenizer.model"}.items():
        BucketFiles().create(as_path(f"{URL}/{name}"), path.read_bytes())
    model = clipjax.load_model(f"{URL}/model", vision=f"{URL}/vision", tokenizer=f"{URL}/words")
    expected = clipjax.load_model(clip.folder, vision=clip.vision)
    assert model.card.fingerprint == expected.card.fingerprint is not None
    assert (model.card.id, model.card.chat) == ("model", expected.card.chat)
    assert not list((tmp_path / "cache").rglob("step-1.pt"))
    assert model.location is not None
    assert (model.location.source, model.location.vision) == (f"{URL}/model", f"{URL}/vision")
    with pytest.raises(DataError, match="fake://bucket/nowhere does not exist; give the file of"):
        clipjax.load_model(f"{URL}/model", vision=f"{URL}/nowhere")


def narrow_card() -> Any:
    card = model_card("prism-clip_l14_336-vicuna_v15_7b")
    return dataclasses.replace(card, arch=_llava.narrowed(card.arch))
