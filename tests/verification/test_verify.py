"""verify: it names the stage that differs, and it fails closed."""

from __future__ import annotations

import dataclasses
import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from _long import mostly_long
from safetensors.numpy import load_file, save_file

import clipjax
from clipjax.checkpoints.identity.registry import model_card
from clipjax.checkpoints.model import Model
from clipjax.errors import DataError, UsageError
from clipjax.models.arch import arch_from_dict, arch_to_dict, load_arch, narrow_arch
from clipjax.verification import verify
from clipjax.verification.verify import Golden, VerificationReport, compare
from converters.golden import build_model, run

GOLDEN = Path(__file__).parents[1] / "golden"


class Case:
    """A narrow CLIP: its folder, the loaded model, and the reference's golden in memory."""

    def __init__(self, name: str, folder: Path, activation: str | None = None):
        self.config = reference.narrow(name)
        if activation is not None:
            self.config["quick_gelu"] = activation == "quick_gelu"
        self.torch_model = reference.conditioned(self.config)
        self.folder = reference.save_folder(self.torch_model, self.config, folder)
        self.given = reference.inputs(self.config)
        self.golden = Golden(self.given, run(self.torch_model, **self.given), {})
        self.model = clipjax.load_model(self.folder)

    def report(self, model: Model | None = None) -> VerificationReport:
        return compare(model or self.model, "golden", self.golden)


@pytest.fixture(scope="module")
def gelu(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case("ViT-B-32", tmp_path_factory.mktemp("gelu"))


@pytest.fixture(scope="module")
def quick_gelu(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case("ViT-B-32-quickgelu", tmp_path_factory.mktemp("quick_gelu"))


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case("RN50", tmp_path_factory.mktemp("resnet"))


def with_arch(model: Model, tower: str, **changes: Any) -> Model:
    arch = model.card.arch
    changed = dataclasses.replace(arch, **{tower: dataclasses.replace(getattr(arch, tower), **changes)})
    return Model(dataclasses.replace(model.card, arch=changed), model.params)


def with_leaf(model: Model, path: str, change: Callable[[jax.Array], jax.Array]) -> Model:
    params = jax.tree.map(lambda leaf: leaf, model.params)
    *parents, name = path.split("/")
    node = params
    for parent in parents:
        node = node[parent]
    node[name] = change(node[name])
    return Model(model.card, params)


# ------------------------------------------------------------------------------------- the right stage


def test_the_unchanged_model_passes(gelu: Case, quick_gelu: Case, resnet: Case):
    for case in (gelu, quick_gelu, resnet):
        report = case.report()
        assert report.passed
        assert report.first_difference is None
        names = [stage.name for stage in report.stages]
        assert names == list(case.golden.stages)
        assert {"vision.projected", "text.projected", "image_embedding", "logits"} <= set(names)


@pytest.mark.parametrize(
    ("true", "wrong", "tower"),
    mostly_long(
        [
            (true, wrong, tower)
            for true, wrong in itertools.permutations(("gelu", "quick_gelu", "gelu_tanh"), 2)
            for tower in ("vision", "text")
            if true != "gelu_tanh"
        ],
        keep=[("gelu", "gelu_tanh", "vision"), ("quick_gelu", "gelu", "text")],
    ),
)
def test_a_wrong_activation_shows_in_the_first_block(true: str, wrong: str, tower: str, request: Any):
    case: Case = request.getfixturevalue(true)
    report = case.report(with_arch(case.model, tower, activation=wrong))
    assert not report.passed
    assert report.first_difference == f"{tower}.blocks.0"


@pytest.mark.long("verification/test_verify.py::test_a_wrong_activation_shows_in_the_first_block")
def test_a_wrong_eps_shows_where_it_first_counts(gelu: Case, resnet: Case):
    assert gelu.report(with_arch(gelu.model, "vision", ln_eps=1e-6)).first_difference == "vision.embed"
    assert gelu.report(with_arch(gelu.model, "text", ln_eps=1e-6)).first_difference == "text.blocks.0"
    assert resnet.report(with_arch(resnet.model, "vision", bn_eps=1e-6)).first_difference == "vision.stem"


@pytest.mark.parametrize(
    ("tower", "pool", "stage"), [("vision_cfg", "avg", "vision.pooled"), ("text_cfg", "last", "text.pooled")]
)
def test_another_pooling_shows_in_the_pooled_stage(gelu: Case, tower: str, pool: str, stage: str):
    swapped = build_model(gelu.config | {tower: gelu.config[tower] | {"pool_type": pool}})
    swapped.load_state_dict(gelu.torch_model.state_dict())
    report = compare(gelu.model, "golden", Golden(gelu.given, run(swapped, **gelu.given), {}))
    assert report.first_difference == stage


@pytest.mark.parametrize("tower", ["vision", "text"])
def test_another_pooling_is_refused_by_name(gelu: Case, tower: str):
    record = arch_to_dict(gelu.model.card.arch)
    record[tower] = record[tower] | {"pooling": "avg"}
    with pytest.raises(DataError, match=rf"\[{tower}\]: pooling = 'avg' is not one of"):
        arch_from_dict(record, "card")


@pytest.mark.parametrize("tower", ["vision", "text"])
@pytest.mark.parametrize("name", ["q", "k", "v", "out"])
def test_a_transposed_square_matrix_shows_in_its_block(gelu: Case, tower: str, name: str):
    def transpose_last(stacked: jax.Array) -> jax.Array:
        assert stacked.shape[1] == stacked.shape[2]
        return stacked.at[1].set(stacked[1].T)

    changed = with_leaf(gelu.model, f"{tower}/blocks/attn/{name}/kernel", transpose_last)
    assert gelu.report(changed).first_difference == f"{tower}.blocks.1"


@pytest.mark.parametrize(
    ("path", "stage"),
    [
        ("vision/class_embedding", "vision.embed"),
        ("vision/ln_pre/bias", "vision.embed"),
        ("vision/blocks/mlp/c_fc/bias", "vision.blocks.0"),
        ("vision/ln_post/scale", "vision.pooled"),
        ("vision/proj", "vision.projected"),
        ("text/positional_embedding", "text.embed"),
        ("text/ln_final/bias", "text.pooled"),
        ("text/text_projection", "text.projected"),
        ("logit_scale", "logit_scale"),
    ],
)
def test_a_wrong_tensor_shows_in_its_stage(gelu: Case, path: str, stage: str):
    changed = with_leaf(gelu.model, path, lambda leaf: leaf * jnp.float32(1.001))
    assert gelu.report(changed).first_difference == stage


def test_a_wrong_batch_norm_shows_in_its_block(resnet: Case):
    paths = {path for path, _ in _leaves(resnet.model.params) if path.startswith("vision/layer3/")}
    path = next(path for path in sorted(paths) if path.endswith("/var"))
    changed = with_leaf(resnet.model, path, lambda leaf: leaf * jnp.float32(1.01))
    assert str(resnet.report(changed).first_difference).startswith("vision.layer3.")


def _leaves(params: Any) -> list[tuple[str, Any]]:
    leaves = jax.tree.leaves_with_path(params)
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves]


# --------------------------------------------------------------------------- keys, refused by conversion


def _dropped(state: dict[str, Any]) -> str:
    del state["visual.transformer.resblocks.1.ln_2.bias"]
    return r"visual\.transformer\.resblocks\.1\.ln_2\.bias"


def _doubled(state: dict[str, Any]) -> str:
    state["visual.transformer.resblocks.2.ln_2.bias"] = state["visual.transformer.resblocks.1.ln_2.bias"]
    return r"visual\.transformer\.resblocks\.2\.ln_2\.bias"


def _misspelled(state: dict[str, Any]) -> str:
    state["visual.ln_prae.weight"] = state.pop("visual.ln_pre.weight")
    return r"(?s)(?=.*visual\.ln_pre\.weight)(?=.*visual\.ln_prae\.weight)"


def _misshapen(state: dict[str, Any]) -> str:
    state["visual.proj"] = np.ascontiguousarray(state["visual.proj"].T)
    return r"visual\.proj"


@pytest.mark.parametrize("mutate", [_dropped, _doubled, _misspelled, _misshapen])
def test_a_wrong_key_is_refused_by_name(gelu: Case, mutate: Callable[[dict[str, Any]], str], tmp_path: Path):
    state = load_file(gelu.folder / "open_clip_model.safetensors")
    named = mutate(state)
    save_file(state, tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_bytes((gelu.folder / "open_clip_config.json").read_bytes())
    with pytest.raises(DataError, match=named):
        clipjax.load_model(tmp_path)


# ------------------------------------------------------------------------------------------ fail closed


def test_not_a_number_is_a_difference_even_on_both_sides(gelu: Case):
    broken = with_leaf(gelu.model, "vision/proj", lambda leaf: leaf.at[0, 0].set(jnp.nan))
    assert gelu.report(broken).first_difference == "vision.projected"
    stages = dict(gelu.golden.stages)
    stages["vision.projected"] = np.full_like(stages["vision.projected"], np.nan)
    both = compare(broken, "golden", Golden(gelu.given, stages, {}))
    assert both.first_difference == "vision.projected"
    json.loads(both.to_json())


@pytest.mark.parametrize("missing", ["vision.blocks.1", "text.embed", "logits"])
def test_a_stage_that_one_side_lacks_is_a_difference(gelu: Case, missing: str):
    fewer = {name: x for name, x in gelu.golden.stages.items() if name != missing}
    report = compare(gelu.model, "golden", Golden(gelu.given, fewer, {}))
    assert report.first_difference == missing
    more = {**gelu.golden.stages, "vision.blocks.2": gelu.golden.stages["vision.blocks.1"]}
    report = compare(gelu.model, "golden", Golden(gelu.given, more, {}))
    assert report.first_difference == "vision.blocks.2"
    assert "only the reference has it" in report.to_json()


def test_no_stages_another_shape_or_other_inputs_fail(gelu: Case):
    assert not VerificationReport("m", "golden").passed
    stages = {**gelu.golden.stages, "logits": gelu.golden.stages["logits"][:1]}
    assert compare(gelu.model, "golden", Golden(gelu.given, stages, {})).first_difference == "logits"
    small = {**gelu.given, "images": gelu.given["images"][:, :32, :32]}
    report = compare(gelu.model, "golden", Golden(small, gelu.golden.stages, {}))
    assert not report.passed
    assert "images" in str(report.problem)
    report = compare(gelu.model, "golden", Golden({"images": gelu.given["images"]}, gelu.golden.stages, {}))
    assert "ids" in str(report.problem)


@pytest.mark.usefixtures("reference_here")
def test_a_reference_that_has_no_such_model_fails(gelu: Case):
    report = verify.verify(gelu.model, "open_clip", arch="ViT-B-33")
    assert not report.passed
    assert "ViT-B-33" in str(report.problem)


def test_a_reference_that_cannot_run_fails(gelu: Case, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho \"ModuleNotFoundError: No module named 'torch'\" >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(verify.sys, "executable", str(python))
    report = verify.verify(gelu.model, "open_clip")
    assert not report.passed
    assert "No module named 'torch'" in str(report.problem)
    assert json.loads(report.to_json())["passed"] is False


@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        (
            "Traceback (most recent call last):\n  File x\nRuntimeError: Error(s) in loading CLIP:\n"
            "\tsize mismatch for a.\n\tsize mismatch for b.\n",
            "RuntimeError: Error(s) in loading CLIP: size mismatch for a.",
        ),
        (
            "a warning\nModuleNotFoundError: No module named 'torch'\n\n",
            "ModuleNotFoundError: No module named 'torch'",
        ),
        ("open_clip has no model config named 'x'\n", "open_clip has no model config named 'x'"),
        ("", ""),
    ],
)
def test_the_reason_of_a_failed_reference(stderr: str, reason: str):
    assert verify.failure_reason(stderr) == reason


@pytest.mark.long("verification/test_verify.py::test_the_reason_of_a_failed_reference")
@pytest.mark.usefixtures("reference_here")
def test_a_reference_of_other_shapes_says_which(gelu: Case):
    report = verify.verify(gelu.model, "open_clip", arch="ViT-B-32")
    assert "RuntimeError: Error(s) in loading state_dict for CLIP: Missing key(s)" in str(report.problem)
    assert len(str(report.problem)) < 400


@pytest.mark.usefixtures("reference_here")
@pytest.mark.parametrize("name", mostly_long(["ViT-B-32", "coca_ViT-B-32"], keep=["ViT-B-32"]))
def test_a_resized_and_saved_model_against_open_clip(name: str, tmp_path: Path):
    """The reference is built by name, and so for other images than the name's."""
    arch = narrow_arch(load_arch(name))
    theirs = build_model(name, "open_clip", arch_to_dict(arch))
    path = reference.save(theirs, tmp_path / "w.safetensors")
    size = arch.vision.image_size
    card = model_card(
        "vit_b_32-laion2b_s34b_b79k" if name == "ViT-B-32" else "coca_vit_b_32-laion2b_s13b_b90k"
    )
    pixels = dataclasses.replace(card.preprocess, image_size=size, resize_size=size)
    card = dataclasses.replace(card, arch=arch, preprocess=pixels, tokenizer=None)
    resized = clipjax.load_model(path, card=card, image_size=size + 32)
    report = verify.verify(resized.save(tmp_path / "resized"))
    assert report.passed, report.to_json()
    assert report.reference["library"] == "open_clip"


def test_bad_arguments_and_files(gelu: Case, tmp_path: Path):
    with pytest.raises(UsageError, match="jax"):
        verify.verify(gelu.model, "jax")
    with pytest.raises(UsageError, match="golden"):
        verify.verify(gelu.model, "golden")
    with pytest.raises(DataError, match="does not exist"):
        verify.verify(gelu.model, "golden", golden=tmp_path / "none.npz")
    whole = (GOLDEN / "tiny_vit" / "golden.npz").read_bytes()
    for name, content in {"cut.npz": whole[:-3000], "text.npz": b"not a golden", "empty.npz": b""}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=name):
            verify.verify(gelu.model, "golden", golden=tmp_path / name)
    np.savez(tmp_path / "other.npz", images=np.zeros(3))
    with pytest.raises(DataError, match=r"other\.npz"):
        verify.verify(gelu.model, "golden", golden=tmp_path / "other.npz")


# -------------------------------------------------------------------------------- subprocess and goldens


@pytest.mark.long("verification/test_verify.py::test_a_configuration_beside_a_folder_of_ours_is_not_its")
def test_a_converted_folder_against_open_clip(gelu: Case, tmp_path: Path):
    """Only the converted folder is at hand: its weights go back to the reference's file."""
    gelu.model.save(tmp_path / "converted")
    report = verify.verify(tmp_path / "converted", "open_clip")
    assert report.passed, report.to_json()
    record = json.loads(report.to_json())
    assert record["reference"]["library"] == "open_clip"
    assert record["reference"]["version"].startswith("3.")
    assert [stage["stage"] if "stage" in stage else stage["name"] for stage in record["stages"]][
        -1
    ] == "logits"


@pytest.mark.usefixtures("reference_here")
def test_a_wrong_record_against_the_reference_of_the_config(gelu: Case):
    wrong = with_arch(gelu.model, "vision", activation="gelu_tanh")
    config = gelu.folder / "open_clip_config.json"
    report = verify.verify(
        wrong, "open_clip", arch=config, checkpoint=gelu.folder / "open_clip_model.safetensors"
    )
    assert report.first_difference == "vision.blocks.0"


def unnamed(folder: Path) -> tuple[dict[str, Any], Path]:
    """A configuration that open_clip has no name for, whose towers are not plain CLIP's, and its folder."""
    config = reference.narrow("ViT-B-32")
    config["vision_cfg"] |= {"pool_type": "avg", "final_ln_after_pool": True, "no_ln_pre": True}
    config["vision_cfg"] |= {"mlp_ratio": 3.0}
    config["text_cfg"] |= {"pool_type": "last", "no_causal_mask": True}
    config["init_logit_bias"] = -10
    return config, reference.save_folder(reference.conditioned(config), config, folder)


@pytest.mark.usefixtures("reference_here")
def test_an_architecture_without_a_name_is_built_from_its_configuration(tmp_path: Path):
    """A loaded model, as the command verifies it, and its folder."""
    config, folder = unnamed(tmp_path / "mine")
    model = clipjax.load_model(folder)
    assert model.card.source.arch is None
    for given in (model, folder):
        report = verify.verify(given)
        assert report.passed, report.to_json()
        assert report.reference["arch"] == "open_clip_config.json"
    other = config | {"text_cfg": {**config["text_cfg"], "no_causal_mask": False}}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": other}))
    assert verify.verify(model).first_difference == "text.blocks.0"  # the file decides, not our record


@pytest.mark.usefixtures("reference_here")
def test_a_configuration_beside_a_folder_of_ours_is_not_its(gelu: Case, tmp_path: Path):
    gelu.model.save(tmp_path / "converted")
    (tmp_path / "converted" / "open_clip_config.json").write_text("{}")
    assert verify.verify(clipjax.load_model(tmp_path / "converted")).passed


@pytest.mark.parametrize(
    "name",
    [
        "tiny_vit",
        pytest.param(
            "tiny_resnet",
            marks=pytest.mark.long("verification/test_verify.py::test_the_unchanged_model_passes"),
        ),
    ],
)
def test_goldens_pass_and_are_what_the_reference_says_today(name: str, tmp_path: Path):
    folder = GOLDEN / name
    report = verify.verify(folder, "golden", golden=folder / "golden.npz")
    assert report.passed, report.to_json()
    kept = verify.read_golden(folder / "golden.npz")
    now = run(_loaded(folder), **kept.inputs)
    assert list(now) == list(kept.stages)
    for stage, expected in kept.stages.items():
        np.testing.assert_allclose(now[stage], expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def _loaded(folder: Path) -> Any:
    from converters.golden import load_strict

    model = build_model(str(folder / "open_clip_config.json"))
    load_strict(model, folder / "open_clip_model.safetensors")
    return model


@pytest.mark.long("test_imports.py::test_the_whole_path_from_checkpoint_to_result_loads_without_torch")
def test_a_golden_needs_no_torch():
    folder = GOLDEN / "tiny_vit"
    code = f"""
import sys
from clipjax.verification.verify import verify
report = verify({str(folder)!r}, "golden", golden={str(folder / "golden.npz")!r})
assert report.passed, report.to_json()
assert not {{"torch", "open_clip", "timm"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
