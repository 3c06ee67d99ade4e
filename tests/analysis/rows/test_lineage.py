"""Which models are one training run, and which runs one architecture family."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipjax.analysis.rows import lineage
from clipjax.analysis.rows.lineage import UNITS, family_of, run_of, unit_of
from clipjax.checkpoints.identity.registry_rows import registry
from clipjax.errors import DataError


@pytest.mark.parametrize(
    "models",
    [
        ("vit_b_32-laion400m_e31", "vit_b_32-laion400m_e32"),
        ("vit_l_14-openai", "vit_l_14_336-openai", "vit_large_patch14_clip_336.openai_ft_in12k_in1k"),
        (
            "convnext_large_d-laion2b_s26b_b102k_augreg",
            "convnext_large_mlp.clip_laion2b_soup_ft_in12k_in1k_384",  # of a soup of fine-tunings
        ),
        ("convnext_xxlarge-laion2b_s34b_b82k_augreg", "convnext_xxlarge-laion2b_s34b_b82k_augreg_soup"),
        ("eva02_e_14-laion2b_s4b_b115k", "eva02_e_14_plus-laion2b_s9b_b144k"),  # one masked pre-training
        ("resnet50.a1_in1k", "timm:resnet50.a1_in1k@288px"),
        ("convnext_tiny.fb_in22k_ft_in1k", "timm:convnext_tiny.fb_in22k_ft_in1k@288px"),
        ("vit_base_patch16_224.augreg_in21k_ft_in1k", "vit_base_patch16_384.augreg_in21k_ft_in1k"),
        ("timm:volo_d5_224.sail_in1k@224px", "timm:volo_d5_512.sail_in1k@512px"),
        ("testbed:resnet18_50k_7_epochs", "testbed:resnet18_50k_93_epochs"),
        ("open_clip:ViT-H-14-CLIPA:datacomp1b", "open_clip:ViT-H-14-CLIPA-336:datacomp1b"),
        ("vit_b_32-openai", "vit_b_32-openai@336px"),
    ],
)
def test_one_run(models: tuple[str, ...]) -> None:
    assert len(set(map(run_of, models))) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("vit_b_32-laion2b_e16", "vit_b_32-laion2b_s34b_b79k"),
        ("vit_b_32-laion400m_e32", "vit_b_16-laion400m_e32"),
        ("convnext_base_w-laion2b_s13b_b82k", "convnext_base_w-laion2b_s13b_b82k_augreg"),
        ("timm:regnety_160.sw_in12k_ft_in1k@288px", "timm:regnety_320.sw_in12k_ft_in1k@288px"),
        ("timm:levit_256.fb_dist_in1k@224px", "timm:levit_384.fb_dist_in1k@224px"),  # widths
        ("mine_1", "mine_2"),
    ],
)
def test_two_runs(one: str, other: str) -> None:
    assert run_of(one) != run_of(other)


def test_the_studys_laion_models() -> None:
    """10 models of LAION-400M are 6 runs; the 21 registered ones of LAION-2B are 16."""
    clips = {m: row for m, row in registry().items() if row["group"] == "clip" and row["fine_tune"] == "none"}
    for source, models, runs in (("LAION-400M", 10, 6), ("LAION-2B", 21, 16), ("WIT", 9, 8)):
        own = [model for model, row in clips.items() if row["train_source"] == source]
        assert (len(own), len(set(map(run_of, own)))) == (models, runs)


def test_all_parents_of_an_average_are_of_one_run() -> None:
    for model, row in registry().items():
        if " + " in row["parent"]:
            assert {run_of(parent) for parent in row["parent"].split(" + ")} == {run_of(model)}


def test_facts_of_an_own_model() -> None:
    """Those of its rows count before the registry's; a model without any is its own run and family."""
    tuned = {"parent": "vit_b_32-laion400m_e32", "arch": "ViT-B-32"}
    assert run_of("mine", tuned) == run_of("vit_b_32-laion400m_e31")
    assert family_of("mine", tuned) == "vit_b_32"
    assert run_of("mine", {"parent": "none", "arch": "ViT-B-32"}) == "mine"
    assert family_of("mine", {"parent": "none", "arch": "ViT-B-32"}) == "vit_b_32"
    assert family_of("resnet_of_mine") == "resnet_of_mine"
    assert run_of("a", {"parent": "a"}) == "a"  # no end of it


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("rn50x4-openai", "rn50x4"),
        ("vit_b_16_plus_240-laion400m_e31", "vit_b_16"),
        ("vit_base_patch16_clip_384.openai_ft_in1k", "vit_b_16"),
        ("open_clip:ViT-B-32-quickgelu:metaclip_400m", "vit_b_32"),
        ("convnext_base_w_320-laion_aesthetic_s13b_b82k", "convnext_base_w"),
        ("convnext_xxlarge-laion2b_s34b_b82k_augreg_rewind", "convnext_xxlarge"),
        ("eva02_e_14-laion2b_s4b_b115k", "eva02_e"),
        ("coca_vit_l_14-laion2b_s13b_b90k", "coca_vit_l_14"),
        ("timm:tf_efficientnet_b0.ns_jft_in1k@224px", "efficientnet"),
        ("regnety_016.pycls_in1k", "regnety"),
        ("convnext_base.fb_in1k", "convnext"),
        ("imagenet_x:imagenet_testbed:resnet101_3_epochs", "resnet"),
        ("vit_base_patch16_224.augreg_in1k", "vit"),
        ("testbed:vit_b_32_clip_zeroshot", "vit_b_32"),
        ("imagenet_x:imagenet_testbed:vit_b_32_clip_zeroshot", "vit_b_32"),
        ("timm:tiny_vit_5m_224.in1k@224px", "tiny_vit"),
        ("timm:gc_efficientnetv2_rw_t.agc_in1k@224px", "gc_efficientnetv"),
        ("wide_resnet50_2.tv_in1k", "wide_resnet"),
        ("testbed:wide_resnet50_2", "wide_resnet"),
    ],
)
def test_families(model: str, family: str) -> None:
    assert family_of(model) == family


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("measured = ['[']", r"lineage\.toml: measured: '\[' is not a regular expression \(.+\)"),
        ("same = ['a', '_e(']", r"lineage\.toml: same: '_e\(' is not a regular expression"),
        ("family = ['^[a-z]+']", r"lineage\.toml: family: '\^\[a-z\]\+' lacks a group"),
        (
            "family = ['^(?:(b)|vit)']",
            r"lineage\.toml: family: .* matches 'vit_b_32-laion400m' without its group",
        ),
    ],
)
def test_a_mistake_in_the_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, says: str
) -> None:
    lines = {"measured": "measured = []", "same": "same = ['_e[0-9]+$']", "family": "family = ['^([a-z]+)']"}
    lines[line.split(" ")[0]] = line
    (tmp_path / "lineage.toml").write_text("\n".join(lines.values()) + "\n", encoding="utf-8")
    monkeypatch.setattr(lineage, "config_dir", lambda: tmp_path)
    monkeypatch.setattr(lineage, "_names", lineage._names.__wrapped__)
    with pytest.raises(DataError, match=says):
        family_of("vit_b_32-laion400m_e31")


def test_units() -> None:
    model = "vit_b_32-laion400m_e31"
    assert [unit_of(unit, model) for unit in UNITS] == ["vit_b_32-laion400m", "vit_b_32", model]
