"""The shipped prompt sets against their sources, the set of 30 against its rule, and CuPL."""

from __future__ import annotations

import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
from _colours import PREPROCESS

from clipjax.data.labels import LabelSpace, load_labels, load_prompts
from clipjax.data.text.tokenizers import load_tokenizer, tokenizer_spec
from clipjax.errors import DataError, UsageError
from clipjax.evaluation.own_model import encoder_of
from clipjax.heads.build import zeroshot_head


def test_the_set_of_30_follows_its_rule():
    """configs/prompts/README.md: the 30 of the 80 with the smallest SHA-256 of (seed 0, template)."""
    templates = load_prompts("openai_80").templates
    rank = {template: hashlib.sha256(f"0\n{template}".encode()).digest() for template in templates}
    chosen = sorted(templates, key=rank.__getitem__)[:30]
    assert load_prompts("openai_30_of_80").templates == tuple(t for t in templates if t in chosen)


def test_sets_inside_the_80():
    assert load_prompts("mcm_5").of_class("X") == (
        "a photo of a X.",
        "a blurry photo of a X.",
        "a photo of many X.",
        "a photo of the large X.",
        "a photo of the small X.",
    )
    everything = set(load_prompts("openai_80").templates)
    for name, size in (("single", 1), ("mcm_5", 5), ("openai_7", 7), ("openai_30_of_80", 30)):
        templates = load_prompts(name).templates
        assert len(set(templates)) == len(templates) == size
        assert set(templates) <= everything


@pytest.fixture
def cupl(tmp_path):
    path = tmp_path / "cupl.json"
    path.write_text(json.dumps({"missile": [" A missile flies.", "It flies."], "cat": ["A cat."]}))
    return path


def test_templates_and_sentences_together(cupl):
    both = load_prompts(f"single+{cupl}")
    assert both.name == "single+cupl"
    assert both.of_class("missile") == ("a photo of a missile.", " A missile flies.", "It flies.")
    assert len({both.digest, load_prompts(cupl).digest, load_prompts("single").digest}) == 3
    with pytest.raises(DataError, match=r"single\+cupl has no sentence for the class 'dog'"):
        both.of_class("dog")
    assert load_prompts("single+mcm_5").of_class("X").count("a photo of a X.") == 2


def test_a_wrong_part_is_named(cupl):
    with pytest.raises(UsageError, match="unknown prompt set 'openai_81'; did you mean openai_80"):
        load_prompts(f"openai_81+{cupl}")
    with pytest.raises(DataError, match="only one part may hold sentences"):
        load_prompts(f"{cupl}+{cupl}")


@pytest.mark.parametrize("name", ["single+", "+single", "single++openai_7", "+"])
def test_a_plus_without_a_name_beside_it(name):
    with pytest.raises(UsageError, match="lacks a name beside"):
        load_prompts(name)


def test_a_plus_in_a_files_name_is_no_sum(cupl):
    path = cupl.rename(cupl.with_name("a+b.json"))
    assert load_prompts(path).name == "a+b"


class Letters:
    """A text tower that counts letters, so that every sentence has a direction of its own."""

    card = SimpleNamespace(id="letters", kind="zero_shot", preprocess=PREPROCESS, logit_scale=1.0)

    @staticmethod
    def encode_text(texts: list[str]) -> np.ndarray:
        counts = np.array([[text.count(letter) for letter in " aegimst."] for text in texts], np.float32)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def test_both_is_the_mean_over_all_prompts(cupl):
    """CuPL: templates and sentences are concatenated, then averaged; twins of one name share their column."""
    space = LabelSpace("three", ("missile", "cat", "missile"), ("1", "2", "3"))
    kernel = np.asarray(zeroshot_head(encoder_of(Letters()), space, load_prompts(f"single+{cupl}")).kernel)
    sentences = ["a photo of a missile.", " A missile flies.", "It flies."]
    mean = Letters.encode_text(sentences).mean(axis=0)
    np.testing.assert_allclose(kernel[:, 0], mean / np.linalg.norm(mean), rtol=1e-6)
    assert kernel[:, 0].tobytes() == kernel[:, 2].tobytes()


def test_the_real_cupl_file_is_taken_as_it_stands(test_data):
    path = test_data / "cupl" / "imagenet_prompts_base.json"
    prompts, names = load_prompts(path), load_labels("imagenet").classes
    raw = json.loads(path.read_text())
    assert all(list(prompts.of_class(name)) == raw[name] for name in names)
    sentences = [sentence for name in names for sentence in prompts.of_class(name)]
    assert sum(sentence.startswith(" ") for sentence in sentences) == 585 + sum(
        sentence.startswith(" ") for name in ("missile", "sunglasses") for sentence in raw[name]
    )
    both = load_prompts(f"openai_80+{path}")
    assert {len(both.of_class(name)) for name in names} == {110}


def test_how_many_sentences_are_cut(test_data):
    """None of them at CLIP's 77 tokens; the longest has 58."""
    prompts = load_prompts(test_data / "cupl" / "imagenet_prompts_base.json")
    assert prompts.sentences is not None
    sentences = sorted({sentence for some in prompts.sentences.values() for sentence in some})
    tokens = load_tokenizer(tokenizer_spec("openai_bpe", 77)).encode(sentences)
    assert (len(sentences), int(tokens.truncated.sum()), int(tokens.lengths.max())) == (28234, 0, 58)
    cut = load_tokenizer(tokenizer_spec("openai_bpe", 40)).encode(sentences).truncated
    assert int(cut.sum()) == int((tokens.lengths > 40).sum()) > 0
