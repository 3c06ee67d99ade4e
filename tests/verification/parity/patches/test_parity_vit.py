"""Every kind of plain ViT on conditioned weights: stages equal to open_clip's and timm's; faults are seen.

CLIP's own, with its text tower, is in test_parity_clip.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import pytest
import torch
from _long import mostly_long
from _parity import Case, case_of, narrow_case, source_of

from clipjax.models.arch import arch_names, load_arch
from clipjax.models.families.patches import vit
from clipjax.models.modules import attention_pools
from clipjax.models.network import Network
from clipjax.verification import verify
from converters.engine import ConversionError, conversion_of, detect_table, export, flatten, nest
from converters.golden import build_model

B16, H14, DEIT, DINO = (
    "vit_base_patch16_clip_224",
    "vit_huge_patch14_clip_336",
    "deit3_large_patch16_384",
    "vit_large_patch14_dinov2",
)
SIGLIP, COCA = "ViT-SO400M-14-SigLIP-384", "coca_ViT-B-32"
# Every architecture of the family but those in test_parity_clip.py and test_parity_text.py.
LIBRARY = {
    **{name: "timm" for name in arch_names() if name.startswith(("vit_", "deit"))},
    **dict.fromkeys([SIGLIP, COCA, "coca_ViT-L-14"], "open_clip"),
}
LIBRARY = {name: of for name, of in LIBRARY.items() if isinstance(load_arch(name).vision, vit.ViTConfig)}
TABLE = {"timm": "timm_vit", SIGLIP: "open_clip_siglip", COCA: "open_clip_coca"}
# One of each kind: patch size and width of a head among the classifiers.
KINDS = [B16, "vit_base_patch32_clip_448", "vit_large_patch14_clip_224", H14, DEIT, DINO, SIGLIP, COCA]
KINDS += ["coca_ViT-L-14", "vit_base_patch8_224", "vit_tiny_patch16_224", "vit_small_patch32_224"]
KINDS += ["vit_base_patch14_reg4_dinov2", "vit_base_patch16_siglip_384"]
KINDS += ["deit_tiny_distilled_patch16_224"]  # its faults are in test_parity_distilled.py
SHOWN = [B16, DEIT, DINO, SIGLIP, COCA, "vit_base_patch14_reg4_dinov2", "deit_tiny_distilled_patch16_224"]
kinds = pytest.mark.parametrize(
    "name",
    mostly_long(KINDS, keep=SHOWN, guard="verification/parity/patches/test_parity_vit.py::test_every_stage"),
)
# An architecture that is changed is not the one of the parity record.
RECORD = "models/test_parity_record.py::test_the_committed_record_is_complete_and_of_this_forward_pass"


def case(name: str) -> Case:
    return narrow_case(name, LIBRARY[name])


# --------------------------------------------------------------------------------------- what is right


def assert_same(report: verify.VerificationReport, blocks: int) -> None:
    assert report.passed, report.to_json()
    errors = {stage.name: stage.error or 0 for stage in report.stages}
    assert sum(name.startswith("vision.blocks.") for name in errors) == blocks
    # Said again, so that nobody loosens them in one place.
    assert max(error for name, error in errors.items() if name != "logits") <= 5e-5
    assert errors.get("image_embedding", 0) <= 1e-5
    assert errors.get("logits", 0) <= 1e-3
    assert "image_embedding" in errors or "features" in errors


@kinds
def test_every_stage(name: str):
    report = case(name).compare()
    assert_same(report, blocks=2)
    vision = [stage.name for stage in report.stages if stage.name.startswith("vision.")]
    stages = ["patch_embed", "embed", "blocks.0", "blocks.1", "pooled"]
    stages += ["projected"] if load_arch(name).vision.projection else []
    assert vision == [f"vision.{stage}" for stage in stages]


def test_registers_are_not_forgotten():
    own = case("vit_base_patch14_reg4_dinov2")
    arch = dataclasses.replace(own.arch, vision=dataclasses.replace(own.arch.vision, registers=None))
    source = source_of(own.theirs)
    with pytest.raises(ConversionError, match="reg_token is in the checkpoint but has no place"):
        conversion_of(source, Network(arch).abstract_params(), detect_table(source))


def test_every_architecture_is_of_a_kind_shown():
    sizes = ("image_size", "width", "layers", "heads", "mlp_width", "embed_dim", "pool_heads")

    def kind(name: str) -> tuple[Any, ...]:
        config: Any = load_arch(name).vision
        flags = dataclasses.asdict(config)
        ratios = (config.width // config.heads, config.mlp_width / config.width)
        return (*ratios, *(value for key, value in flags.items() if key not in sizes))

    own = {name for name in arch_names() if isinstance(load_arch(name).vision, vit.ViTConfig)}
    own.remove("ViT-B-16-SigLIP")  # in test_parity_text.py, whole
    own -= {name for name in own if "-SigLIP2" in name}  # in numbers in the parity record: SigLIP's towers
    own -= {name for name in own if load_arch(name).language}  # in tests/checkpoints/test_prismatic.py
    plain = {name for name in own if load_arch(name).vision.pooling == "class"}
    clips = {name for name in plain if load_arch(name).vision.projection}  # in test_parity_clip.py
    assert own - clips == set(LIBRARY)
    assert {kind(name) for name in LIBRARY} == {kind(name) for name in KINDS}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "blocks"), [(B16, 12), (COCA, 12)])
def test_full_size(name: str, blocks: int):
    assert_same(case_of(load_arch(name), build_model(name, LIBRARY[name])).compare(), blocks)


@pytest.mark.parametrize("name", mostly_long(LIBRARY, keep=[B16, SIGLIP, COCA], guard=RECORD))
def test_full_size_tensors_map_one_to_one(name: str):
    with torch.device("meta"):
        source = source_of(build_model(name, LIBRARY[name]))
    table = detect_table(source)
    assert table.name == TABLE.get(LIBRARY[name]) or table.name == TABLE[name.replace("L-14", "B-32")]
    conversion = conversion_of(source, Network(load_arch(name)).abstract_params(), table)
    used = {piece.key for pieces in conversion.pieces.values() for piece in pieces}
    assert used | set(conversion.carried) == set(source)
    assert all(key.startswith("text_decoder.") for key in conversion.carried)
    assert bool(conversion.carried) == name.startswith("coca")


@pytest.mark.parametrize("name", [H14, DEIT, DINO, SIGLIP, COCA])
def test_export_is_the_state_dict_bit_for_bit(name: str):
    theirs = case(name).theirs
    source = source_of(theirs)
    table = detect_table(source)
    carried = {key: tensor.read() for key, tensor in source.items() if table.carries(key)}
    written = export(flatten(case(name).params), table, carried)
    state = theirs.state_dict()
    assert set(written) == set(state)
    for key, tensor in state.items():
        assert written[key].tobytes() == tensor.contiguous().numpy().tobytes(), key
        assert written[key].shape == tensor.shape, key


def test_a_checkpoint_of_another_kind_is_refused():
    source = source_of(case(DEIT).theirs)
    target = Network(case(DINO).arch).abstract_params()
    with pytest.raises(ConversionError, match=r"pos_embed .*|head\.weight"):
        conversion_of(source, target, detect_table(source))


# ------------------------------------------------------------------------- every tensor and eps counts


@torch.no_grad()
@pytest.mark.parametrize("name", mostly_long([B16, DEIT, DINO, SIGLIP, COCA], keep=[COCA]))
def test_every_tensor_moves_the_features(name: str):
    own = case(name)
    tensors = {key: x for key, x in own.tower.state_dict().items() if not key.startswith("head.")}
    moved = {}
    for key, tensor in tensors.items():
        kept = tensor.clone()
        tensor.copy_(kept.flip(-1))
        moved[key] = own.movement()
        tensor.copy_(kept)
    assert len(moved) >= 28
    assert {key: m for key, m in moved.items() if m < 1e-3} == {}
    assert own.movement() == 0


@pytest.mark.parametrize("name", mostly_long([B16, DEIT, DINO, SIGLIP, COCA], keep=[COCA]))
def test_every_eps_moves_the_features(name: str):
    own = case(name)
    moved = {}
    for part, module in own.tower.named_modules():
        if isinstance(module, torch.nn.LayerNorm):
            right = own.arch.vision.ln_eps
            assert module.eps == right
            module.eps = 1e-6 if right == 1e-5 else 1e-5
            moved[part] = own.movement()
            module.eps = right
    assert len(moved) == {B16: 6, DEIT: 5, DINO: 5, SIGLIP: 6, COCA: 8}[name]
    assert {part: m for part, m in moved.items() if m < 1e-4} == {}


# -------------------------------------------------------------------------------------- what is wrong


@kinds
def test_nothing_wrong_nothing_seen(name: str):
    assert case(name).difference_of(case(name).params) is None


@pytest.mark.parametrize(
    ("name", "change", "seen"),
    mostly_long(
        [
            (B16, {"activation": "gelu_tanh"}, "blocks.0"),
            (B16, {"activation": "quick_gelu"}, "blocks.0"),
            (DEIT, {"activation": "gelu_tanh"}, "blocks.0"),
            (DINO, {"activation": "gelu_tanh"}, "blocks.0"),
            (COCA, {"activation": "quick_gelu"}, "blocks.0"),
            (B16, {"ln_eps": 1e-6}, "embed"),
            (COCA, {"ln_eps": 1e-6}, "embed"),
            (DEIT, {"ln_eps": 1e-5}, "blocks.0"),
            (DINO, {"ln_eps": 1e-5}, "blocks.0"),
            (SIGLIP, {"ln_eps": 1e-5}, "blocks.0"),
            (H14, {"heads": 4}, "blocks.0"),
            (SIGLIP, {"pool_heads": 4}, "pooled"),
            (COCA, {"pool_heads": 4}, "pooled"),
        ],
        keep=[
            (B16, {"activation": "gelu_tanh"}, "blocks.0"),
            (B16, {"ln_eps": 1e-6}, "embed"),
            (DEIT, {"ln_eps": 1e-5}, "blocks.0"),
            (H14, {"heads": 4}, "blocks.0"),
            (COCA, {"pool_heads": 4}, "pooled"),
        ],
    ),
)
def test_another_flag_is_seen(name: str, change: dict[str, Any], seen: str):
    assert case(name).first_difference(until=seen, **change) == f"vision.{seen}"


@pytest.mark.long("verification/parity/patches/test_parity_vit.py::test_another_flag_is_seen")
def test_siglip_exact_gelu_not_tanh():
    """timm's SigLIP has the exact GELU; big_vision's own code takes Flax's default, the tanh form."""
    assert case(SIGLIP).first_difference(until="blocks.0", activation="gelu_tanh") == "vision.blocks.0"


def test_fine_tunes_use_exact_gelu():
    """Also those of OpenAI's weights, which were trained with QuickGELU."""
    timm_archs = [name for name, library in LIBRARY.items() if library == "timm"]
    assert {load_arch(name).vision.activation for name in timm_archs} == {"gelu"}
    assert case(B16).first_difference(until="blocks.0", activation="quick_gelu") == "vision.blocks.0"


def changed(params: Any, change: Callable[[dict[str, Any]], None]) -> Any:
    leaves = flatten(params)
    change(leaves)
    return nest(leaves)


def drop(part: str) -> Callable[[dict[str, Any]], None]:
    def change(leaves: dict[str, Any]) -> None:
        paths = [path for path in leaves if path.startswith(f"vision/{part}")]
        assert paths
        for path in paths:
            del leaves[path]

    return change


def replace(part: str, value: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    return lambda leaves: leaves.__setitem__(f"vision/{part}", value(leaves[f"vision/{part}"]))


OTHER_PARAMS = [
    (B16, drop("ln_pre"), {"pre_norm": False}, "embed"),
    (COCA, drop("ln_pre"), {"pre_norm": False}, "embed"),
    (DINO, drop("patch_embed/bias"), {"patch_bias": False}, "patch_embed"),
    (SIGLIP, drop("patch_embed/bias"), {"patch_bias": False}, "patch_embed"),
    (DEIT, drop("blocks/ls_"), {"layer_scale": False}, "blocks.0"),
    (DINO, drop("blocks/ls_"), {"layer_scale": False}, "blocks.0"),
    # A class token inside the position table that belongs outside it, and the other way round.
    (
        DEIT,
        replace("positional_embedding", lambda table: jnp.concatenate([table[:1], table])),
        {"positions": "all"},
        "embed",
    ),
    (DINO, replace("positional_embedding", lambda table: table[1:]), {"positions": "patches"}, "embed"),
    # CoCa's second query, SigLIP's MLP without its norm.
    (COCA, replace("pool/query", lambda query: jnp.roll(query, -1, 0)), {}, "pooled"),
    (SIGLIP, replace("pool/query", lambda query: 0 * query), {}, "pooled"),
    (SIGLIP, replace("pool/ln/bias", lambda bias: 0 * bias), {}, "pooled"),
    (SIGLIP, replace("pool/attn/k/kernel", lambda kernel: 0 * kernel), {}, "pooled"),
    (SIGLIP, replace("pool/attn/v/bias", lambda bias: 0 * bias), {}, "pooled"),
    (COCA, replace("pool/ln_k/bias", lambda bias: 0 * bias), {}, "pooled"),
    (COCA, replace("pool/ln_q/scale", lambda scale: 0 * scale + 1), {}, "pooled"),
    (B16, replace("ln_post/scale", lambda scale: 0 * scale + 1), {}, "pooled"),
    (COCA, replace("proj", lambda proj: proj.T), {}, "projected"),
]


@pytest.mark.parametrize(
    ("name", "change", "vision", "seen"),
    mostly_long(
        OTHER_PARAMS,
        # Each of the others compiles a program.
        keep=[OTHER_PARAMS[0], OTHER_PARAMS[4], *(each for each in OTHER_PARAMS if not each[2])],
    ),
)
def test_other_params_are_seen(name: str, change: Any, vision: dict[str, Any], seen: str):
    own = case(name)
    params = changed(own.params, change)
    found = own.first_difference(params, until=seen, **vision) if vision else own.difference_of(params)
    assert found == f"vision.{seen}"


def mean_of_patches(tower: Any, x: Any) -> Any:
    return tower.ln_post(x[:, 1:].mean(axis=1))


def norm_before_pool(tower: Any, x: Any) -> Any:
    """The paper's order; open_clip's CoCa normalises what was pooled."""
    width = x.shape[-1]
    centred = x - x.mean(-1, keepdims=True)
    return tower.pool(centred / jnp.sqrt(jnp.square(centred).sum(-1, keepdims=True) / width + 1e-5))


def pool_before_norm(tower: Any, x: Any) -> Any:
    return tower.ln_post(tower.pool(x))


def norm_last(tower: Any, x: Any) -> Any:
    return tower.ln_post(tower.ln_post(x[:, 0]))


POOLINGS = [
    (B16, mean_of_patches),
    (DINO, mean_of_patches),
    (B16, norm_last),
    (SIGLIP, pool_before_norm),
    (COCA, norm_before_pool),
]


@pytest.mark.parametrize(("name", "pooled"), mostly_long(POOLINGS, keep=[POOLINGS[1]]))
def test_another_pooling_is_seen(name: str, pooled: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(vit.VisionTransformer, "pooled", pooled)
    assert case(name).first_difference() == "vision.pooled"


@pytest.mark.long("verification/parity/patches/test_parity_vit.py::test_another_pooling_is_seen")
def test_norm_of_queries_left_out_is_seen(monkeypatch: pytest.MonkeyPatch):
    def read(pool: Any, tokens: Any) -> Any:
        query = jnp.broadcast_to(pool.query[:1], (len(tokens), 1, pool.query.shape[1]))
        return pool.attn(query, pool.ln_k(tokens))[:, 0]

    monkeypatch.setattr(attention_pools.CocaPool, "__call__", read)
    assert case(COCA).first_difference() == "vision.pooled"


@pytest.mark.long("verification/parity/patches/test_parity_vit.py::test_another_pooling_is_seen")
def test_residual_of_the_pool_left_out_is_seen(monkeypatch: pytest.MonkeyPatch):
    def read(pool: Any, tokens: Any) -> Any:
        query = jnp.broadcast_to(pool.query[...], (len(tokens), 1, tokens.shape[-1]))
        return pool.mlp(pool.ln(pool.attn(query, tokens)[:, 0]))

    monkeypatch.setattr(attention_pools.MapPool, "__call__", read)
    assert case(SIGLIP).first_difference() == "vision.pooled"
