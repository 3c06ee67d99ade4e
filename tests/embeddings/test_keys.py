"""The keys of stored rows, field by field: a changed one loses what users have stored."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
from _embed_tools import TinyModel

from clipjax.data.pixels.preprocess import PixelRecipe
from clipjax.embeddings.answers import answer_key
from clipjax.embeddings.keys import image_key
from clipjax.embeddings.pair_maps import maps_key
from clipjax.embeddings.pairs import pair_key
from clipjax.embeddings.texts import text_key
from clipjax.models.dense import DenseRecipe
from clipjax.models.version import forward_version, in_each_form

MANIFEST: Any = SimpleNamespace(images_digest="images", pairs=SimpleNamespace(digest="pairs"))
PROMPTS: Any = SimpleNamespace(digest="prompts")
MATCHER: Any = SimpleNamespace(key=lambda: {"keep": 20})
PIXELS = PixelRecipe(16, 16, "shortest", "bicubic", "first")
MAPS = DenseRecipe("last", "tokens", "library")


@dataclasses.dataclass
class Spec:
    context_length: int = 12


@pytest.mark.parametrize("precision", ["parity", "fast"])
@pytest.mark.parametrize("placement", ["replicated", "sharded"])
def test_each_kind_has_its_own_fields(precision: str, placement: str) -> None:
    model: Any = TinyModel()
    model.tokenizer = SimpleNamespace(spec=Spec())
    card, how = model.card, (precision, placement)
    common = {"model": "tiny-1", "forward": forward_version(precision), "precision": precision}
    cut = {**common, **({"params": "sharded"} if placement == "sharded" else {})}
    images = {"pixels": PIXELS.key(), "data": "images"}
    assert image_key(card, MANIFEST, PIXELS, precision, "embedding", placement) == {
        **cut,
        **images,
        "output": "embedding",
    }
    classifier = TinyModel(kind="classifier").card
    raw = image_key(classifier, MANIFEST, PIXELS, precision, "embedding", placement)
    assert raw == {**cut, **images, "output": "features"}, "a classifier's are never normalised"
    assert answer_key(card, MANIFEST, PIXELS, PROMPTS, 5, *how) == {
        **cut,
        **images,
        "output": "answers",
        "prompts": "prompts",
        "steps": 5,
    }
    pairs = {**cut, "data": "images", "pairs": "pairs", "maps": dataclasses.asdict(MAPS)}
    assert maps_key(card, MANIFEST, MAPS, *how) == {**pairs, "output": "maps"}
    matches = {**pairs, "output": "matches", "matching": {"keep": 20}}
    assert pair_key(card, MANIFEST, MATCHER, MAPS, *how) == matches
    texts = {"output": "texts", "texts": "abc", "tokenizer": {"context_length": 12}}
    assert text_key(model, "texts", precision, texts="abc") == {**common, **texts}


def test_hosts_of_two_forms_of_fast_never_fill_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    card = TinyModel().card

    def key(precision: str, host: bool) -> dict[str, Any]:
        monkeypatch.setattr("clipjax.models.precision.this_cpu_multiplies_bfloat16", lambda: host)
        return image_key(card, MANIFEST, PIXELS, precision, "embedding")

    assert key("parity", True) == key("parity", False)
    assert key("fast", True) == {**key("fast", False), "form": "float32_products"}
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    assert "form" not in key("fast", True), "the CPU beside a GPU does not matter"


@pytest.mark.parametrize("precision", ["fast", "fast against parity"])
def test_a_run_is_done_in_either_form(precision: str) -> None:
    without = {"task": "zeroshot", "precision": precision}
    made = {**without, "form": "float32_products"}
    assert in_each_form(without) == [without, made]
    assert in_each_form(made) == [made, without], "a host's own form comes first"
    for other in ("parity", None):
        recipe = {"precision": other}
        assert in_each_form(recipe) == [recipe]
