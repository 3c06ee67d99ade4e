"""SigLIP's, SigLIP 2's, RoBERTa's and XLM-RoBERTa's ids against open_clip's own wrappers over transformers.

None of the real vocabularies can be shipped: small ones are trained in the same formats, so what is proved is
everything around them: cleaning, normalisation, splitting, special ids, truncation, end, padding.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from _long import mostly_long
from _texts import HAND_WRITTEN, fuzz
from _vocabularies import CONFIGS, small_rules, write_folders
from open_clip import IMAGENET_CLASSNAMES, get_model_config
from open_clip.tokenizer import HFTokenizer, SigLipTokenizer
from tokenizers import normalizers
from transformers import AutoTokenizer, SiglipTokenizer, T5Tokenizer

from clipjax.data.text import tokenizers, vocabularies
from clipjax.data.text.tokenizers import Tokenizer, load_tokenizer, tokenizer_spec
from clipjax.errors import DataError, UsageError

REAL = vocabularies.rules()
SPECIALS = [
    *("</s> <mask> <pad> <unk> <s>", "x<mask>y </s></s> z", "a  <mask> b", "</s>", "<s>", "<S> <Mask>"),
    *("﹤/s﹥ ﹤unk﹥ ＜mask＞", "▁a ▁ ▁▁b", "a \u200b b\u200bc", "ﬁne ½ Ⅷ ㎏", "<extra_id_0>"),
]
FORMATS = [
    *(("siglip", "model"), ("siglip", "json"), ("xlm_roberta", "model"), ("xlm_roberta", "json")),
    *(("roberta", "files"), ("roberta", "json"), ("gemma", "json")),
]
CONTEXTS = {"siglip": 64, "xlm_roberta": 77, "roberta": 77, "gemma": 64}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("vocabularies")
    write_folders(root)
    return root


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped rules with the sizes of the trained vocabularies."""
    small = small_rules(REAL)
    monkeypatch.setattr(vocabularies, "rules", lambda: small)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    prompts = [f"A photo of the {name}." for name in IMAGENET_CLASSNAMES]
    return [*HAND_WRITTEN, *SPECIALS, *prompts, *fuzz(1200, seed=1)]


def ours(folders: Path, name: str, kind: str, context: int | None = None) -> Tokenizer:
    folder = folders / name / kind
    files = next(filter(None, (vocabularies.files_in(folder, names) for names in REAL[name].files)))
    return load_tokenizer(tokenizer_spec(name, context or CONTEXTS[name]), files)


def open_clips(folders: Path, name: str, kind: str, context: int | None = None) -> HFTokenizer:
    clean = {"siglip": "canonicalize", "gemma": "canonicalize"}.get(name, "whitespace")
    return HFTokenizer(
        str(folders / name / kind),
        context_length=context or CONTEXTS[name],
        clean=clean,
        local_files_only=True,
    )


@pytest.fixture(scope="module")
def reference(folders: Path, texts: list[str]) -> dict[str, np.ndarray]:
    """open_clip's ids of the texts, by tokenizer."""
    return {name: open_clips(folders, name, "json")(texts).numpy() for name in CONTEXTS}


@pytest.mark.parametrize(("name", "kind"), FORMATS)
def test_ids_equal_open_clip(
    name: str, kind: str, folders: Path, texts: list[str], reference: dict[str, np.ndarray]
) -> None:
    expected = reference[name] if kind == "json" else open_clips(folders, name, kind)(texts).numpy()
    mine = ours(folders, name, kind).encode(texts)
    assert len(texts) > 2000
    assert mine.ids.dtype == np.int32
    wrong = np.flatnonzero((mine.ids != expected).any(axis=1))
    assert not len(wrong), [texts[i] for i in wrong[:5]]
    assert mine.truncated.sum() > 5


@pytest.mark.parametrize("context", [2, 3, 16])
@pytest.mark.parametrize("name", CONTEXTS)
def test_short_contexts_equal_open_clip(name: str, context: int, folders: Path, texts: list[str]) -> None:
    some = [*texts[:200], *texts[-200:]]
    expected = open_clips(folders, name, "json", context)(some).numpy()
    np.testing.assert_array_equal(ours(folders, name, "json", context).encode(some).ids, expected)


def test_siglip_equals_the_wrapper_that_open_clip_imports_vocabularies_with(
    folders: Path, texts: list[str]
) -> None:
    """SigLipTokenizer's constructor wants an older transformers: its other steps are run as they are."""
    wrapper = object.__new__(SigLipTokenizer)
    wrapper.tokenizer = T5Tokenizer.from_pretrained(
        folders / "siglip" / "model", extra_ids=0, legacy=False, local_files_only=True
    )
    wrapper.tokenizer.pad_token_id = wrapper.tokenizer.eos_token_id = 1
    wrapper.context_length = 64
    mine = ours(folders, "siglip", "model").encode(texts).ids
    np.testing.assert_array_equal(mine, wrapper(texts).numpy())


def test_siglip_cleaned_as_transformers_does_it_equals_transformers(
    folders: Path, texts: list[str], tmp_path: Path
) -> None:
    """Its tokenizer runs on sentencepiece itself, which keeps some marks that `tokenizers` swallows when it
    normalises the letter before them, and finds special tokens before it cleans: such texts are left out."""
    file = tmp_path / "spiece.model"
    file.write_bytes((folders / "siglip" / "model" / "spiece.model").read_bytes())
    theirs = SiglipTokenizer(str(file))
    model = sentencepiece.SentencePieceProcessor(model_file=str(file))
    mine = load_tokenizer(tokenizer_spec("siglip", 64, "canonicalize_hf"), (file,))
    clean = tokenizers._CLEANINGS["canonicalize_hf"]
    whole = [text for text in texts if text == text.encode(errors="replace").decode()]
    cleaned = [clean(text) for text in whole if "</s>" not in text and "<unk>" not in text]
    kept = [
        t for t, body in zip(cleaned, mine._bodies(cleaned), strict=True) if model.encode(t) == list(body)
    ]
    assert len(kept) > 0.98 * len(whole) > 2000
    chosen = [
        text for text in whole if clean(text) in set(kept) and "</s>" not in text and "<unk>" not in text
    ]
    expected = theirs(chosen, padding="max_length", max_length=64, truncation=True)["input_ids"]
    np.testing.assert_array_equal(mine.encode(chosen).ids, expected)
    other = load_tokenizer(tokenizer_spec("siglip", 64), (file,)).encode(chosen).ids
    assert (other != expected).any(axis=1).sum() > 100  # what open_clip's cleaning would give


@pytest.mark.parametrize("name", ["siglip", "xlm_roberta"])
def test_ordinary_texts_have_the_pieces_of_sentencepiece_itself(name: str, folders: Path) -> None:
    """The library that the models were trained with; fairseq's ids are one higher than its own."""
    file = folders / name / "model" / REAL[name].files[1][0]
    model = sentencepiece.SentencePieceProcessor(model_file=str(file))
    prompts = [f"A photo of the {name}, the 2nd: Größe, cœur, 世界!" for name in IMAGENET_CLASSNAMES]
    clean = tokenizers._CLEANINGS[REAL[name].clean]
    shift = 1 if name == "xlm_roberta" else 0
    unknown = (model.unk_id(), REAL[name].special["<unk>"])
    tokens = ours(folders, name, "model").encode(prompts)
    for prompt, row, length in zip(prompts, tokens.ids, tokens.lengths, strict=True):
        pieces = [unknown[1] if i == unknown[0] else i + shift for i in model.encode(clean(prompt))]
        assert list(row[shift : length - 1]) == pieces


# Framing


@pytest.mark.parametrize(
    ("name", "start", "end", "pad"),
    [("siglip", (), 1, 1), ("roberta", (0,), 2, 1), ("xlm_roberta", (0,), 2, 1)],
)
def test_special_ids(name: str, start: tuple[int, ...], end: int, pad: int, folders: Path) -> None:
    tokenizer = ours(folders, name, "json")
    assert (tokenizer.start, tokenizer.end, tokenizer.pad_id) == (start, (end,), pad)
    tokens = tokenizer.encode(["", "a cat", "cat " * 200])
    np.testing.assert_array_equal(tokens.ids[0], [*start, end, *[pad] * (CONTEXTS[name] - len(start) - 1)])
    assert tokens.lengths[0] == len(start) + 1
    assert (tokens.ids[1, tokens.lengths[1] :] == pad).all()
    assert list(tokens.truncated) == [False, False, True]
    assert tokens.ids[2, -1] == end
    assert tokens.lengths[2] == CONTEXTS[name]
    whole = AutoTokenizer.from_pretrained(folders / name / "json", local_files_only=True)
    assert (whole.pad_token_id, whole.eos_token_id) == (pad, end)


def test_siglip_pads_with_id_1_which_is_also_its_end(folders: Path) -> None:
    assert ours(folders, "siglip", "json").encode(["", "a cat"]).ids[:, -1].tolist() == [1, 1]
    assert REAL["siglip"].special[REAL_PAD["siglip"]] == 1


REAL_PAD = {
    name: next(token for token, i in own.special.items() if i == own.pad) for name, own in REAL.items()
}


def text_config(arch: str) -> dict[str, Any]:
    config = get_model_config(arch)
    assert config is not None
    return config["text_cfg"]


@pytest.mark.parametrize(
    ("arch", "context"),
    [("ViT-SO400M-14-SigLIP-384", 64), ("ViT-SO400M-14-SigLIP", 16), ("ViT-B-16-SigLIP-384", 64)],
)
def test_siglip_context_is_64_but_16_for_so400m_at_224(arch: str, context: int, folders: Path) -> None:
    text = text_config(arch)
    assert text["context_length"] == context
    assert text["tokenizer_kwargs"] == {"clean": REAL["siglip"].clean}
    assert text["hf_tokenizer_name"] in REAL["siglip"].repos
    assert text["vocab_size"] == REAL["siglip"].vocab_size
    ids = ours(folders, "siglip", "json", context)("a photo of a cat")
    assert ids.shape == (1, context)


@pytest.mark.parametrize(
    ("arch", "name"), [("roberta-ViT-B-32", "roberta"), ("xlm-roberta-base-ViT-B-32", "xlm_roberta")]
)
def test_roberta_texts_keep_their_case(arch: str, name: str, folders: Path) -> None:
    text = text_config(arch)
    assert text["hf_tokenizer_name"] in REAL[name].repos
    assert "tokenizer_kwargs" not in text  # so HFTokenizer's default: white space only
    assert REAL[name].clean == "whitespace"
    lower, upper = ours(folders, name, "json").encode(["a photo", "A Photo"]).ids
    assert (lower != upper).any()


def test_siglip_case_and_punctuation_do_not_change_the_ids(folders: Path) -> None:
    same = ["A photo of a Cat.", "a photo_of a cat", "a photo -of- a (CAT)!", "  a\tphoto of a cat\n"]
    ids = ours(folders, "siglip", "json").encode(same).ids
    assert (ids == ids[0]).all()


def test_shipped_sizes_are_those_of_the_real_vocabularies() -> None:
    assert {name: own.vocab_size for name, own in REAL.items()} == {
        "siglip": 32_000,
        "roberta": 50_265,
        "xlm_roberta": 250_002,
        "xlm_v": 901_629,
        "gemma": 256_000,
    }
    assert REAL["roberta"].special["<mask>"] == 50_264
    assert REAL["xlm_roberta"].special["<mask>"] == 250_001


# What the comparison must see


def mistakes(folders: Path, name: str, texts: list[str], reference: dict[str, np.ndarray]) -> int:
    """How many of the hand-written texts and every fourth other have other ids, on a tokenizer made anew."""
    by_hand = len(HAND_WRITTEN) + len(SPECIALS)
    rows = [*range(by_hand), *range(by_hand, len(texts), 4)]
    good = ours(folders, name, "json")
    ids = Tokenizer(good.spec, good.files).encode([texts[row] for row in rows]).ids
    return int((ids != reference[name][rows]).any(axis=1).sum())


@pytest.mark.parametrize(
    ("name", "changes"),
    mostly_long(
        [
            ("siglip", {"pad": 0}),
            ("siglip", {"end": ()}),
            ("siglip", {"end": (2,)}),
            ("roberta", {"pad": 0}),
            ("roberta", {"start": ()}),
            ("xlm_roberta", {"end": (1,)}),
            ("xlm_roberta", {"special": {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 0, "<mask>": 1201}}),
        ],
        keep=["roberta"],
    ),
)
def test_wrong_special_ids_are_seen(name, changes, folders, texts, reference, monkeypatch):
    assert mistakes(folders, name, texts, reference) == 0
    wrong = {**vocabularies.rules(), name: dataclasses.replace(vocabularies.rules()[name], **changes)}
    monkeypatch.setattr(vocabularies, "rules", lambda: wrong)
    monkeypatch.setattr(vocabularies, "_check", lambda *_: None)
    assert mistakes(folders, name, texts, reference) > 5


WRONG_CLEANING = [
    ("siglip", "canonicalize", tokenizers._lower),
    (
        "siglip",
        "canonicalize",
        lambda text: tokenizers._keep_case(text).translate(tokenizers._NO_PUNCTUATION),
    ),
    ("siglip", "canonicalize", lambda text: tokenizers._canonicalize(text.replace("_", ""))),
    ("siglip", "canonicalize", lambda text: tokenizers._canonicalize(text.replace("&", "& "))),
    ("roberta", "whitespace", tokenizers._lower),
    ("roberta", "whitespace", tokenizers._repair),
    ("xlm_roberta", "whitespace", tokenizers._canonicalize),
    ("xlm_roberta", "whitespace", lambda text: " ".join(text.encode(errors="replace").decode().split())),
]


@pytest.mark.parametrize(
    ("name", "clean", "mutant"),
    mostly_long(WRONG_CLEANING, keep=[WRONG_CLEANING[0], WRONG_CLEANING[4]]),
    ids=[
        *(
            "no canonicalize",
            "no lower case",
            "underscore dropped",
            "no entities",
            "lower case",
            "white space kept",
        ),
        *("punctuation dropped", "no repair"),
    ],
)
def test_wrong_cleaning_is_seen(name, clean, mutant, folders, texts, reference, monkeypatch):
    monkeypatch.setitem(tokenizers._CLEANINGS, clean, mutant)
    assert mistakes(folders, name, texts, reference) > 0


@pytest.mark.long("data/text/test_tokenizers_hf.py::test_wrong_special_ids_are_seen")
def test_wrong_steps_around_the_vocabulary_are_seen(folders, texts, reference, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(vocabularies, "_characters", lambda _: b"")
        assert mistakes(folders, "siglip", texts, reference) > 100
    with monkeypatch.context() as patch:
        patch.setattr(vocabularies.normalizers, "Precompiled", lambda _: normalizers.NFKC())
        assert mistakes(folders, "xlm_roberta", texts, reference) > 0
    with monkeypatch.context() as patch:
        patch.setattr(vocabularies, "_with_added", lambda own, tokenizer, added: tokenizer)
        assert mistakes(folders, "roberta", texts, reference) > 0
    with monkeypatch.context() as patch:
        added = vocabularies._with_added
        patch.setattr(vocabularies, "_with_added", lambda own, tokenizer, _: added(own, tokenizer, {}))
        assert mistakes(folders, "roberta", texts, reference) > 0  # <mask> takes the space before it
    with monkeypatch.context() as patch:
        bpe = vocabularies.BPE
        patch.setattr(vocabularies, "BPE", lambda **steps: bpe(**{**steps, "byte_fallback": False}))
        assert mistakes(folders, "gemma", texts, reference) > 0


def test_end_lost_on_truncation_is_seen(folders, texts, reference):
    tokens = ours(folders, "siglip", "json").encode(texts)
    body = ours(folders, "siglip", "json", 65).encode(texts).ids[:, :64]
    without_end = np.where(tokens.truncated[:, None], body, tokens.ids)
    assert (without_end != reference["siglip"]).any(axis=1).sum() == tokens.truncated.sum() > 5


def test_missing_fairseq_offset_is_seen(folders, texts, monkeypatch):
    monkeypatch.setattr(vocabularies, "_OWN_SPECIALS", 4)
    monkeypatch.setattr(vocabularies, "_check", lambda *_: None)
    good = ours(folders, "xlm_roberta", "model")
    with pytest.raises(DataError, match="does not begin with"):
        Tokenizer(good.spec, good.files)


# Specs and bad input


def test_spec_learns_the_digest_from_the_files(folders: Path) -> None:
    spec = tokenizer_spec("siglip", 64)
    assert dataclasses.asdict(spec) == {
        "name": "siglip",
        "context_length": 64,
        "clean": "canonicalize",
        "sha256": None,
    }
    tokenizer = ours(folders, "siglip", "json")
    assert tokenizer.sha256 == tokenizer.spec.sha256 == vocabularies.digest(tokenizer.files)
    assert tokenizer.spec == dataclasses.replace(spec, sha256=tokenizer.sha256)
    assert load_tokenizer(tokenizer.spec, tokenizer.files).encode(["a cat"]).ids.shape == (1, 64)
    with pytest.raises(
        DataError, match=r"tokenizer\.json is not the file that the model card names \(sha256 00"
    ):
        load_tokenizer(dataclasses.replace(spec, sha256="0" * 64), tokenizer.files)


@pytest.mark.parametrize("name", CONTEXTS)
def test_missing_files_are_named_with_where_to_put_them(name: str) -> None:
    wanted = {
        "siglip": r"tokenizer\.json or spiece\.model into .* timm/ViT-B-16-SigLIP into",
        "roberta": r"tokenizer\.json or vocab\.json and merges\.txt into",
        "xlm_roberta": r"tokenizer\.json or sentencepiece\.bpe\.model into",
        "gemma": r"tokenizer\.json into",
    }[name]
    with pytest.raises(DataError, match=f"tokenizer {name} are not here: put {wanted}"):
        load_tokenizer(tokenizer_spec(name, 77))


@pytest.mark.parametrize("name", CONTEXTS)
def test_another_models_vocabulary_is_refused(
    name: str, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabularies, "rules", lambda: REAL)
    load_tokenizer.cache_clear()
    with pytest.raises(
        DataError, match=rf"holds \d+ ids, tokenizer {name} has {REAL[name].vocab_size}: another"
    ):
        ours(folders, name, "json")


def test_moved_special_ids_are_refused(folders: Path, tmp_path: Path) -> None:
    record = json.loads((folders / "siglip" / "json" / "tokenizer.json").read_text())
    vocabulary = record["model"]["vocab"]
    vocabulary[0], vocabulary[1] = vocabulary[1], vocabulary[0]
    (tmp_path / "tokenizer.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match=r"tokenizer\.json: <pad> has the id 1, in tokenizer siglip it has 0"):
        load_tokenizer(tokenizer_spec("siglip", 64), (tmp_path / "tokenizer.json",))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("tokenizer.json", b"{"),
        ("tokenizer.json", b'{"model": {"vocab": [["a", 0.0]]}}'),
        ("tokenizer.json", b"[]"),
        ("spiece.model", b"\x0a\x09\x0a\x05"),
        ("spiece.model", b"version https://git-lfs.github.com/spec/v1\n"),
        ("spiece.model", b""),
    ],
)
def test_damaged_files_are_refused(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=name):
        load_tokenizer(tokenizer_spec("siglip", 64), (tmp_path / name,))


def test_vocabulary_of_the_other_sentencepiece_model_is_refused(folders: Path) -> None:
    with pytest.raises(DataError, match=r"a vocabulary of siglip does not begin with <s>"):
        load_tokenizer(
            tokenizer_spec("siglip", 64), (folders / "xlm_roberta" / "model" / "sentencepiece.bpe.model",)
        )


def test_context_needs_room_for_start_and_end() -> None:
    with pytest.raises(UsageError, match="context_length is 1"):
        tokenizer_spec("roberta", 1)


def test_texts_must_be_strings(folders: Path) -> None:
    with pytest.raises(DataError, match="text 1 is None"):
        ours(folders, "siglip", "json").encode(["a", None])  # type: ignore[list-item]


def test_works_without_torch_transformers_and_sentencepiece(folders: Path) -> None:
    code = f"""
import sys
for name in ("torch", "transformers", "sentencepiece", "open_clip", "jax"):
    sys.modules[name] = None
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from clipjax.data.text import vocabularies
from clipjax.data.text.tokenizers import load_tokenizer, tokenizer_spec
import dataclasses
own = vocabularies.rules()["siglip"]
vocabularies.rules = lambda: {{"siglip": dataclasses.replace(own, vocab_size=1200)}}
path = Path({str(folders)!r}) / "siglip" / "model" / "spiece.model"
print(load_tokenizer(tokenizer_spec("siglip", 8), (path,))("a photo").tolist())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ours(folders, "siglip", "model", 8)("a photo").tolist()


def test_every_shipped_tokenizer_is_tested_here() -> None:
    assert set(REAL) - {"xlm_v"} == set(CONTEXTS) == set(CONFIGS)
    own, other = REAL["xlm_v"], REAL["xlm_roberta"]  # the same steps around a larger vocabulary
    assert own.special == {**other.special, "<mask>": own.vocab_size - 1}
    steps = ("model", "clean", "start", "end", "pad", "files")
    assert [getattr(own, step) for step in steps] == [getattr(other, step) for step in steps]
