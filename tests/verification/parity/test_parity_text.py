"""SigLIP's, CoCa's and RoBERTa's text towers on conditioned weights, and whole checkpoints of their models.

Every stage is equal to the reference's; what is wrong is seen. CLIP's own is in test_parity_clip.py, and
RoBERTa against transformers' own in models/families/test_roberta.py.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import open_clip.transformer
import pytest
import torch
from _long import mostly_long
from _parity import Case, Tensor, case_of, narrow_case, source_of
from safetensors.torch import load_file, save_file

from clipjax.checkpoints.export import export_model
from clipjax.checkpoints.identity.registry import model_card
from clipjax.checkpoints.load import load_model
from clipjax.embeddings import texts
from clipjax.finetune import contrastive
from clipjax.models.arch import Arch, arch_to_dict, load_arch
from clipjax.models.families.texts import roberta
from clipjax.models.modules import layers
from clipjax.models.network import Network
from clipjax.verification import verify
from converters.engine import ConversionError, conversion_of, convert, detect_table, flatten, nest
from converters.golden import build_model, load_strict

SIGLIP, COCA, COCA_L = "ViT-SO400M-14-SigLIP-384", "coca_ViT-B-32", "coca_ViT-L-14"
SIGLIP_B = "ViT-B-16-SigLIP"  # no row of the study: what benchmarks/models/towers.py runs
ROBERTA, XLM = "roberta-ViT-B-32", "xlm-roberta-base-ViT-B-32"
XLM_L = "xlm-roberta-large-ViT-H-14"
LAYOUTS = {
    SIGLIP: "open_clip_siglip",
    SIGLIP_B: "open_clip_siglip",
    COCA: "open_clip_coca",
    COCA_L: "open_clip_coca",
    ROBERTA: "open_clip_roberta",
    XLM: "open_clip_roberta",
    XLM_L: "open_clip_roberta",
}
REGISTERED = {
    SIGLIP: "vit_so400m_14_siglip_384-webli",
    COCA: "coca_vit_b_32-laion2b_s13b_b90k",
    ROBERTA: "roberta_vit_b_32-laion2b_s12b_b32k",
}
KINDS = list(REGISTERED)
# An architecture that is changed is not the one of the parity record.
RECORD = "models/test_parity_record.py::test_the_committed_record_is_complete_and_of_this_forward_pass"


def case(name: str) -> Case:
    return narrow_case(name, "open_clip")


def program(arch: Arch) -> Any:
    """(params, ids) -> features and stages of the text tower, compiled once."""
    return jax.jit(functools.partial(Network(arch).encode_text, precision="parity", capture=True))


shared_program = functools.cache(program)


def first_difference(
    case: Case,
    params: Any = None,
    golden: dict[str, np.ndarray] | None = None,
    encode: Any = None,
    **text: Any,
) -> str | None:
    """The first stage of the text tower that differs, with other params, fields of its config, or golden.

    All calls with the same config share one program, unless `encode` is another.
    """
    config: Any = case.arch.text
    arch = dataclasses.replace(case.arch, text=dataclasses.replace(config, **text))
    given = {"text": (params or case.params)["text"]}
    _, stages = (encode or shared_program(arch))(given, case.golden.inputs["ids"])
    for name, theirs in (golden or case.golden.stages).items():
        ours = stages.get(name.removeprefix("text."))
        if name.startswith("text.") and not verify.compare_stage(name, np.asarray(ours), theirs).passed:
            return name
    return None


def movement(case: Case) -> float:
    return float(np.abs(case.rerun()["text_embedding"] - case.golden.stages["text_embedding"]).max())


# --------------------------------------------------------------------------------------- what is right


def assert_same(report: verify.VerificationReport, blocks: int) -> None:
    assert report.passed, report.to_json()
    errors = {stage.name: stage.error or 0 for stage in report.stages}
    assert sum(name.startswith("text.blocks.") for name in errors) == blocks
    # Said again, so that nobody loosens them in one place.
    assert max(error for name, error in errors.items() if name != "logits") <= 5e-5
    assert max(errors["image_embedding"], errors["text_embedding"]) <= 1e-5
    assert errors["logits"] <= 1e-3


@pytest.mark.parametrize("name", mostly_long([*KINDS, XLM, SIGLIP_B], keep=KINDS))
def test_every_stage(name: str):
    report = case(name).compare()
    assert_same(report, blocks=2)
    stages = [stage.name for stage in report.stages if stage.name.startswith("text.")]
    assert stages == [f"text.{name}" for name in ("embed", "blocks.0", "blocks.1", "pooled", "projected")]
    assert ("logit_bias" in {stage.name for stage in report.stages}) == (name in (SIGLIP, SIGLIP_B))


def test_every_architecture_is_of_a_kind_shown():
    """Other sizes are not another kind; RoBERTa and XLM-RoBERTa differ in their vocabulary alone."""
    sizes = {
        "context_length",
        "vocab_size",
        "positions",
        "width",
        "layers",
        "heads",
        "mlp_width",
        "embed_dim",
    }

    def kind(name: str) -> tuple[Any, ...]:
        config: Any = load_arch(name).text
        flags = {key: value for key, value in dataclasses.asdict(config).items() if key not in sizes}
        return (type(config), config.width // config.heads, config.mlp_width / config.width, *flags.items())

    assert {kind(name) for name in LAYOUTS} == {kind(name) for name in [*KINDS, SIGLIP_B]}


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_full_size(name: str):
    """All of it, but for SigLIP: its text tower of 27 blocks, below an image tower of two."""
    arch: Any = load_arch(name)
    if name == SIGLIP:
        arch = dataclasses.replace(arch, vision=dataclasses.replace(arch.vision, layers=2, image_size=48))
    assert_same(case_of(arch, build_model(name, sizes=arch_to_dict(arch))).compare(), arch.text.layers)


@pytest.mark.parametrize("name", mostly_long(LAYOUTS, keep=[COCA, ROBERTA], guard=RECORD))
def test_full_size_tensors_map_one_to_one(name: str):
    with torch.device("meta"):
        source = source_of(build_model(name))
    table = detect_table(source)
    assert table.name == LAYOUTS[name]
    conversion = conversion_of(source, Network(load_arch(name)).abstract_params(), table)
    used = [piece.key for pieces in conversion.pieces.values() for piece in pieces if piece.op.part == 0]
    assert sorted([*used, *conversion.carried]) == sorted(source)
    assert all(key.startswith("text_decoder.") for key in conversion.carried)
    assert bool(conversion.carried) == (table.name == "open_clip_coca")


# ------------------------------------------------------------------------------------------- the file


@pytest.mark.parametrize("name", KINDS)
def test_export_is_the_file_bit_for_bit(name: str, tmp_path: Path):
    """CoCa's decoder is kept on the host and written back, also by way of our own checkpoint."""
    theirs, arch = case(name).theirs, case(name).arch
    state = {key: tensor.contiguous() for key, tensor in theirs.state_dict().items()}
    if name == ROBERTA:  # as files older than transformers 4.31 have it
        state["text.transformer.embeddings.position_ids"] = torch.arange(20)[None]
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    card = dataclasses.replace(model_card(REGISTERED[name]), arch=arch, tokenizer=None)
    model = load_model(tmp_path / "model.safetensors", card=card)
    decoder = {key for key in model.carried if key.startswith("text_decoder.")}
    assert (len(decoder) > 10) == (name == COCA)
    assert all(isinstance(array, np.ndarray) for array in model.carried.values())
    for again in (model, load_model(model.save(tmp_path / "own"))):
        written = load_file(export_model(again, tmp_path / "out.safetensors"))
        assert set(written) == set(state)
        for key, tensor in state.items():
            assert written[key].dtype == tensor.dtype, key
            # Bytes: open_clip leaves the decoder's projection uninitialised, where memory may hold NaN.
            assert written[key].numpy().tobytes() == tensor.numpy().tobytes(), key
    load_strict(theirs, tmp_path / "out.safetensors")


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_logit_bias_is_a_scalar_or_a_vector_of_one(shape: tuple[int, ...]):
    siglip = case(SIGLIP)
    source = source_of(siglip.theirs) | {
        name: Tensor(torch.full(shape, value))
        for name, value in (("logit_scale", 4.7), ("logit_bias", -16.5))
    }
    leaves = convert(source, Network(siglip.arch).abstract_params(), detect_table(source))
    assert (float(leaves["logit_scale"]), float(leaves["logit_bias"])) == pytest.approx((4.7, -16.5))
    assert leaves["logit_bias"].shape == ()


@pytest.mark.parametrize(("checkpoint", "arch"), [(COCA, SIGLIP), (ROBERTA, COCA), (SIGLIP, ROBERTA)])
def test_a_checkpoint_of_another_kind_is_refused(checkpoint: str, arch: str):
    source = source_of(case(checkpoint).theirs)
    with pytest.raises(ConversionError, match="does not fit the architecture"):
        conversion_of(source, Network(case(arch).arch).abstract_params(), detect_table(source))


# ---------------------------------------------------------------------------- texts are cut, or are not


class Words:
    """A tokenizer of one id a word, for any text tower."""

    def __init__(self, text: Any) -> None:
        self.frame = text.frame
        self.spec = SimpleNamespace(context_length=text.context_length)
        self.pad_id = self.frame.pad

    def encode(self, texts: list[str]) -> SimpleNamespace:
        ids = np.full((len(texts), self.spec.context_length), self.pad_id, np.int32)
        for row, text in zip(ids, texts):
            framed = [*self.frame.start, *(10 + len(word) for word in text.split()), *self.frame.end]
            row[: len(framed)] = framed
        return SimpleNamespace(ids=ids, truncated=np.zeros(len(texts), bool))


@pytest.mark.parametrize("name", [*KINDS, "ViT-B-32"])
def test_heads_embed_short_texts_as_at_full_length(name: str):
    """CLIP and RoBERTa texts are cut, SigLIP's and CoCa's are not; their embeddings are the same."""
    model: Any = SimpleNamespace(network=Network(case(name).arch), params=case(name).params)
    words: Any = Words(model.network.arch.text)
    model.tokenizer = words
    prompts = ["a", "some longer words here", "a b", "of the"]
    rows, found = next(texts.encode_texts(model, prompts, "parity", chunk=8))
    ids = model.tokenizer.encode(prompts).ids[rows]
    whole = np.asarray(shared_program(model.network.arch)({"text": model.params["text"]}, ids)[0])
    np.testing.assert_allclose(found, whole / np.linalg.norm(whole, axis=1, keepdims=True), atol=1e-6)
    given = texts._Tokens.of(words, model.network.arch.text, prompts).rows(np.arange(4))
    assert given.shape[1] == (16 if name in (SIGLIP, COCA) else 8)


@pytest.mark.parametrize("name", [*KINDS, "ViT-B-32"])
def test_training_cuts_captions_as_far_as_the_tower_reads(name: str):
    tower: Any = case(name).arch.text
    words = Words(tower)
    manifest: Any = SimpleNamespace(columns={"caption": ["a", ["of the", "b"]]})
    tokenize = contrastive._cut(tower, lambda texts: words.encode(texts).ids, manifest, "caption")
    assert tokenize is not None
    assert tokenize(["a"]).shape == (1, 16 if name in (SIGLIP, COCA) else 4)


# ------------------------------------------------------------------------- every tensor and eps counts


@pytest.fixture(
    params=mostly_long(
        KINDS,
        keep=[ROBERTA],
        guard="verification/parity/test_parity_text.py::test_every_tensor_moves_the_embedding",
    )
)
def each(request: pytest.FixtureRequest) -> Case:
    return case(request.param)


@torch.no_grad()
def test_every_tensor_moves_the_embedding(each: Case):
    # A bias of the keys adds the same number to every logit of a query, which softmax takes away again.
    state = {key: x for key, x in each.theirs.text.state_dict().items() if not key.endswith("key.bias")}
    moved = {}
    for key, tensor in state.items():
        kept = tensor.clone()
        tensor.copy_(kept.flip(-1))
        moved[key] = movement(each)
        tensor.copy_(kept)
    assert len(moved) >= 29
    assert {key: m for key, m in moved.items() if m < 1e-3} == {}
    assert movement(each) == 0


def test_every_eps_moves_the_embedding(each: Case):
    moved, config = {}, each.arch.text
    for name, module in each.theirs.text.named_modules():
        if isinstance(module, torch.nn.LayerNorm):
            kept = module.eps
            assert kept == config.ln_eps  # pyright: ignore[reportOptionalMemberAccess]
            module.eps = 1e-5 if kept == 1e-6 else 1e-6
            moved[name] = movement(each)
            module.eps = kept
    assert len(moved) == 5
    assert {name: m for name, m in moved.items() if m < 1e-4} == {}


# -------------------------------------------------------------------------------------- what is wrong


def test_nothing_wrong_nothing_seen(each: Case):
    assert first_difference(each) is None


@pytest.mark.parametrize(
    ("name", "change", "seen"),
    mostly_long(
        [
            (SIGLIP, {"causal": True}, "text.blocks.0"),
            (SIGLIP, {"pooling": "argmax"}, "text.pooled"),
            (SIGLIP, {"activation": "gelu_tanh"}, "text.blocks.0"),  # big_vision's and transformers'
            (SIGLIP, {"activation": "quick_gelu"}, "text.blocks.0"),
            (SIGLIP, {"ln_eps": 1e-5}, "text.blocks.0"),
            (SIGLIP, {"heads": 4}, "text.blocks.0"),
            (COCA, {"shifted_mask": False}, "text.blocks.0"),
            (COCA, {"pad_id": 5}, "text.blocks.0"),
            (COCA, {"activation": "quick_gelu"}, "text.blocks.0"),
            (COCA, {"ln_eps": 1e-6}, "text.blocks.0"),
            (ROBERTA, {"pad_id": 0}, "text.embed"),
            (ROBERTA, {"ln_eps": 1e-6}, "text.embed"),
            (ROBERTA, {"ln_eps": 1e-12}, "text.embed"),
            (ROBERTA, {"activation": "gelu_tanh"}, "text.blocks.0"),
            (ROBERTA, {"activation": "quick_gelu"}, "text.blocks.0"),
        ],
        keep=[
            (SIGLIP, {"causal": True}, "text.blocks.0"),
            (SIGLIP, {"pooling": "argmax"}, "text.pooled"),
            (COCA, {"shifted_mask": False}, "text.blocks.0"),
            (COCA, {"ln_eps": 1e-6}, "text.blocks.0"),
            (ROBERTA, {"pad_id": 0}, "text.embed"),
            (ROBERTA, {"activation": "gelu_tanh"}, "text.blocks.0"),
        ],
    ),
)
def test_another_flag_is_seen(name: str, change: dict[str, Any], seen: str):
    assert first_difference(case(name), **change) == seen


def changed(case: Case, path: str, change: Any) -> Any:
    """The params with one leaf changed, or without it."""
    leaves = flatten(case.params)
    leaf = change(leaves.pop(path))
    return nest(leaves if leaf is None else {**leaves, path: leaf})


@pytest.mark.parametrize(
    ("name", "path", "change", "seen"),
    [
        (COCA, "text/cls_embedding", jnp.zeros_like, "text.embed"),
        (COCA, "text/positional_embedding", lambda x: x.at[-1].set(x[0]), "text.embed"),
        (COCA, "text/ln_final/scale", jnp.ones_like, "text.pooled"),
        (SIGLIP, "text/ln_final/bias", jnp.zeros_like, "text.pooled"),
        (SIGLIP, "text/text_projection", lambda x: x.T, "text.projected"),
        (ROBERTA, "text/positional_embedding", lambda x: jnp.roll(x, 1, axis=0), "text.embed"),
        (ROBERTA, "text/positional_embedding", lambda x: jnp.roll(x, -2, axis=0), "text.embed"),
        (ROBERTA, "text/token_type_embedding", jnp.zeros_like, "text.embed"),
        (ROBERTA, "text/ln_embed/bias", jnp.zeros_like, "text.embed"),
        (ROBERTA, "text/blocks/attn/q/kernel", lambda x: x.swapaxes(1, 2), "text.blocks.0"),
    ],
)
def test_another_leaf_is_seen(name: str, path: str, change: Any, seen: str):
    assert first_difference(case(name), changed(case(name), path, change)) == seen


def test_a_dropped_projection_bias_is_seen():
    siglip = case(SIGLIP)
    params = changed(siglip, "text/text_projection_bias", lambda leaf: None)
    assert first_difference(siglip, params, projection_bias=False) == "text.projected"


def test_another_pooling_position_of_coca_is_seen(monkeypatch: pytest.MonkeyPatch):
    """The last token of the text in place of the one behind it."""
    monkeypatch.setattr(open_clip.transformer, "text_global_pool", lambda x, pool_type: x[:, -2])
    coca = case(COCA)
    assert first_difference(coca, golden=coca.rerun()) == "text.pooled"


def pre_norm(self: Any, x: Any, visible: Any) -> Any:
    x = x + self.attn(self.ln_1(x), visible)
    return x + self.mlp(self.ln_2(x))


def projected_by(activation: str) -> Any:
    """The projection with another activation."""
    return lambda self, x: self.c_proj(layers.ACTIVATIONS[activation](self.c_fc(x)))


def blind_to_padding(self: Any, x: Any, visible: Any, right: Any = roberta.PostNormBlock.__call__) -> Any:
    return right(self, x, jnp.ones_like(visible))


OTHER_ROBERTAS = [
    (roberta.PostNormBlock, "__call__", pre_norm, "text.blocks.0"),
    (roberta.PostNormBlock, "__call__", blind_to_padding, "text.blocks.0"),
    (roberta, "masked_mean", lambda x, real: x.mean(axis=1), "text.pooled"),
    (
        roberta,
        "masked_mean",
        lambda x, real: x[:, 0],
        "text.pooled",
    ),  # transformers' own: the first token
    (roberta.Projection, "__call__", projected_by("gelu_tanh"), "text.projected"),
    (roberta.Projection, "__call__", projected_by("quick_gelu"), "text.projected"),
]


@pytest.mark.parametrize(
    ("where", "name", "wrong", "seen"),
    mostly_long(OTHER_ROBERTAS, keep=[OTHER_ROBERTAS[1]]),
    ids=["pre-norm", "padding attended", "padding pooled", "first token", "tanh GELU", "QuickGELU"],
)
def test_another_roberta_is_seen(
    where: Any, name: str, wrong: Any, seen: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(where, name, wrong)
    changed_program = program(case(ROBERTA).arch)
    assert first_difference(case(ROBERTA), encode=changed_program) == seen
