"""The same weights through PyTorch, with the library's own transform and tokenizer, and as Flax."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import numpy as np
import pytest
import reference
import test_crosscheck_libraries as libraries
import timm
from _crosscheck import write_images
from _vocabularies import PIECES, SPECIAL_IDS, pieces, small_rules
from timm.models._hub import save_config_for_hf

import clipjax
from clipjax.checkpoints.model import Model
from clipjax.data.text import vocabularies
from clipjax.data.text.tokenizers import load_tokenizer, tokenizer_spec
from clipjax.embeddings.compute import Compute
from clipjax.embeddings.images import embed_images
from clipjax.errors import DataError, UsageError
from clipjax.evaluation.data_set import dataset_of
from clipjax.evaluation.models import torch_process
from clipjax.evaluation.models.encoders import encoder
from clipjax.evaluation.request import Request
from converters.golden import serve
from converters.golden.condition import condition
from converters.golden.served import LIBRARIES
from tests.verification.parity import test_parity_hf as hf

pytestmark = pytest.mark.filterwarnings("ignore:.*texts were cut to (64|77) tokens")
LABELS = "labels.csv"


class Here:
    """The server's process as a thread of this one, which has imported the libraries."""

    def __init__(self, command: list[str], **_: Any) -> None:
        assert command == [sys.executable, "-m", "converters.golden", "serve"]
        (questions, asked), (answered, answers) = os.pipe(), os.pipe()
        self.stdin, self.stdout = os.fdopen(asked, "wb"), os.fdopen(answered, "rb")
        ends = os.fdopen(questions, "rb"), os.fdopen(answers, "wb")
        self._thread = threading.Thread(target=self._serve, args=ends, daemon=True)
        self._thread.start()

    def _serve(self, questions: BinaryIO, answers: BinaryIO) -> None:
        with questions, answers:
            serve.answer(questions, answers)

    def poll(self) -> None:
        """It runs."""

    def kill(self) -> None:
        self.stdin.close()

    def wait(self, timeout: float | None = None) -> None:
        self._thread.join(timeout)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A narrow model in each library's own layout, and images; one server runs all of them, in a thread."""
    root = tmp_path_factory.mktemp("torch")
    write_images(root / "images")
    config = reference.narrow("ViT-B-32")
    config["text_cfg"] |= {"vocab_size": 49408, "context_length": 77}
    reference.save_folder(reference.conditioned(config), config, root / "open_clip")
    model: Any = timm.create_model("vit_tiny_patch16_224", depth=2, img_size=48, num_classes=3)  # type: ignore[reportPrivateImportUsage]
    condition(model, 0)
    (root / "timm").mkdir()
    reference.save(model, root / "timm" / "model.safetensors")
    model.pretrained_cfg |= {
        "label_names": ["cat", "dog", "fox"],
        "num_classes": 3,
        "input_size": (3, 48, 48),
    }
    save_config_for_hf(
        model, str(root / "timm" / "config.json"), model_config={"model_args": {"depth": 2, "img_size": 48}}
    )
    (root / "transformers").mkdir()
    config = hf.config("clip")
    config["text_config"] |= {"vocab_size": 49408, "max_position_embeddings": 77}
    config["text_config"] |= {"bos_token_id": 49406, "eos_token_id": 49407}
    libraries.save_transformers(config, root / "transformers")
    libraries.write_clip_tokenizer(root / "transformers")
    popen = SimpleNamespace(Popen=Here, PIPE=subprocess.PIPE, TimeoutExpired=subprocess.TimeoutExpired)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_process, "subprocess", popen)
        yield root
        torch_process.PROCESS.close()


def request_of(world: Path, library: str) -> dict[str, Any]:
    given: dict[str, Any] = {"root": world / "images", "labels": world / "images" / LABELS}
    return given if library == "timm" else given | {"prompts": world / "images" / "prompts.txt"}


@pytest.fixture
def siglip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    """A narrow SigLIP of transformers in tmp_path / "transformers", with a small vocabulary of its kind."""
    small = small_rules(vocabularies.rules())
    monkeypatch.setattr(vocabularies, "rules", lambda: small)
    load_tokenizer.cache_clear()
    folder = tmp_path / "transformers"
    folder.mkdir()
    config = hf.config("siglip")
    config["text_config"] |= {"vocab_size": PIECES, "max_position_embeddings": 64}
    libraries.save_transformers(config, folder)
    (folder / "spiece.model").write_bytes(pieces(**SPECIAL_IDS["siglip"]))
    kind = {"tokenizer_class": "SiglipTokenizer", "pad_token": "</s>", "model_input_names": ["input_ids"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(kind))
    spec = tokenizer_spec("siglip", 64, "canonicalize_hf")
    return libraries.with_tokenizer(clipjax.load_model(folder), spec, folder / "spiece.model")


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_through_torch_and_as_flax(world: Path, library: str, tmp_path: Path) -> None:
    _same_rows(world, clipjax.load_model(world / library), library, world / library, tmp_path / "store")


@pytest.mark.long("verification/crosscheck/test_torch_models.py::test_the_transform_decides")
def test_in_a_process_of_its_own(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a user, whose process has not imported the libraries."""
    torch_process.PROCESS.close()
    monkeypatch.setattr(torch_process, "subprocess", subprocess)
    library = "open_clip"
    try:
        _same_rows(world, clipjax.load_model(world / library), library, world / library, tmp_path / "store")
    finally:
        torch_process.PROCESS.close()


@pytest.mark.long("verification/crosscheck/test_torch_models.py::test_through_torch_and_as_flax")
def test_siglip_of_transformers(world: Path, siglip: Model, tmp_path: Path) -> None:
    """Its text tower reads the padding: a mask of it would change the features."""
    _same_rows(world, siglip, "transformers", tmp_path / "transformers", tmp_path / "store")


def _same_rows(world: Path, model: Model, library: str, folder: Path, store: Path) -> None:
    names = (model, f"torch:{library}:{folder}")
    how: dict[str, Any] = {**request_of(world, library), "per_device_batch": 8, "progress": False}
    ours, theirs = (clipjax.evaluate(name, store=store, **how) for name in names)
    assert [row.get("framework") for row in (ours.rows[0], theirs.rows[0])] == ["jax", f"torch:{library}"]
    assert theirs.rows[0]["model"] == f"torch:{library}:{library}"
    assert "torch" in (theirs.rows[0]["versions"] or {})
    key = ("task", "dataset", "metric", "slice", "n", "convention", "aggregates")
    assert [[row[name] for name in key] for row in ours.rows] == [
        [row[name] for name in key] for row in theirs.rows
    ]
    values = [[row["value"] for row in result.rows] for result in (ours, theirs)]
    np.testing.assert_allclose(*np.array(values, np.float64), atol=1e-4)
    assert ours.images["prediction"] == theirs.images["prediction"]
    assert ours.rows[0]["recipe_hash"] != theirs.rows[0]["recipe_hash"]

    manifest = dataset_of(Request(root=world / "images")).manifest
    features = [
        embed_images(encoder(name), manifest, Compute(per_device_batch=8, progress=False)).array
        for name in names
    ]
    np.testing.assert_allclose(features[1], features[0], atol=2e-5 * float(np.abs(features[0]).max()))
    again = clipjax.evaluate(names[1], store=store, **how)
    assert again.stats.forward_passes == 0
    assert again.rows[0]["recipe_hash"] == theirs.rows[0]["recipe_hash"]


def test_the_transform_decides(world: Path) -> None:
    """Other mean and std are another recipe, and other features."""
    config = world / "open_clip" / "open_clip_config.json"
    text, how = config.read_text(), Compute(per_device_batch=8, progress=False)
    model = encoder(f"torch:open_clip:{world / 'open_clip'}")
    manifest = dataset_of(Request(root=world / "images")).manifest
    features = embed_images(model, manifest, how).array
    encoder(f"torch:timm:{world / 'timm'}")  # its process keeps one model
    try:
        config.write_text(text.replace("0.48145466", "0.5"))
        other = encoder(f"torch:open_clip:{world / 'open_clip'}")
        assert other.card.fingerprint != model.card.fingerprint
        assert np.abs(embed_images(other, manifest, how).array - features).max() > 1e-3
    finally:
        config.write_text(text)


def test_what_a_library_cannot_load_is_its_own_sentence(world: Path) -> None:
    (world / "empty").mkdir()
    (world / "empty" / "config.json").write_text("{}")
    with pytest.raises(DataError, match=r"torch:timm:.*empty: \w+Error: "):
        encoder(f"torch:timm:{world / 'empty'}")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("timm:resnet5.a1_in1k", "unknown architecture 'resnet5'; did you mean resnet50"),
        ("timm:resnet50.a1_in1", "unknown tag of resnet50 'a1_in1'; did you mean a1_in1k"),
        ("timm:org/name", "is not a folder; a hub repository is written hf-hub:org/name"),
        ("open_clip:ViT-B32/openai", "unknown architecture 'ViT-B32'; did you mean ViT-B-32"),
        ("open_clip:ViT-B-32/opnai", "unknown tag of ViT-B-32 'opnai'; did you mean openai"),
        ("open_clip:ViT-B-32", "names weights as ARCH/TAG; tags of ViT-B-32: openai, "),
    ],
)
def test_a_mistyped_name_has_near_ones(name: str, said: str) -> None:
    library, _, model = name.partition(":")
    with pytest.raises(UsageError) as error:
        LIBRARIES[library](model)
    assert said in str(error.value)


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize(
    "name", ["open_clip:ViT-B-32/openai", "timm:resnet18.a1_in1k", "transformers:org/name"]
)
def test_without_a_network_it_is_clipjaxs(name: str) -> None:
    with pytest.raises(
        DataError, match=f"torch:{name}: its files are not in the local cache, and the hub is"
    ):
        encoder(f"torch:{name}")
