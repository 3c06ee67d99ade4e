"""benchmarks/gpu.py: a row of a narrow model, what is left out, and the tables of docs/hardware/gpu.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from _drawn import drawn

from benchmarks import gpu, gpu_cases, gpu_clipjax, gpu_table
from clipjax.models.modules import convolutions
from clipjax.models.modules.forms import FORMS, form
from clipjax.models.modules.layers import ActivationLayer
from clipjax.models.network import Network
from clipjax.models.training import Mode
from tests.models._modes import bound, mode_of

H100 = "NVIDIA H100 80GB HBM3"
ONLY = ["ViT-B-32 tower", "float32"]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """clipjax's side answers in this process, PyTorch's lacks a library."""

    class Here:
        def __init__(self, name: str, device: str):
            self.answer = gpu_clipjax.answer if name == "gpu_clipjax.py" else lacking

        def ask(self, request: str, limit: float) -> dict[str, Any]:
            return json.loads(json.dumps(gpu_cases.answered(self.answer, request)))

        def close(self) -> None:
            pass

    def lacking(request: Any) -> dict[str, Any]:
        raise ModuleNotFoundError("No module named 'open_clip'")

    monkeypatch.setattr(gpu, "Side", Here)
    monkeypatch.setattr(Network, "init_params", lambda network, key: drawn(network.abstract_params()))
    monkeypatch.setattr(gpu_cases, "ROUND_SECONDS", 0.01)


def test_a_row_is_kept_and_not_measured_again(
    here: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "gpu.jsonl"
    gpu.main(ONLY, out, device="cpu", smoke=True)
    [row] = map(json.loads, out.read_text().splitlines())
    assert (row["case"], row["precision"], row["side"]) == ("ViT-B-32 tower", "float32", "clipjax")
    assert row["work"] == row["batch"] == 2
    assert row["flops"] > 0
    assert len(row["seconds"]) == gpu_cases.ROUNDS
    printed = capsys.readouterr().out
    assert "left out: all of gpu_torch.py for tower: No module named 'open_clip'" in printed
    with pytest.raises(SystemExit, match="nothing could be measured"):
        gpu.main(ONLY, out, device="cpu", smoke=True)
    assert len(out.read_text().splitlines()) == 1


def test_a_row_without_time_is_left_out(
    here: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="nothing could be measured"):
        gpu.main([*ONLY, "clipjax"], tmp_path / "gpu.jsonl", minutes=0, device="cpu", smoke=True)
    assert "no time is left" in capsys.readouterr().out


def test_a_side_is_a_process_that_says_what_it_lacks(tmp_path: Path) -> None:
    side = gpu.Side("gpu_clipjax.py", "nothing")
    request = gpu_cases.Request(gpu_cases.CASES[0], "float32", "clipjax", "nothing", str(tmp_path), True)
    try:
        assert "JAX has no nothing device" in side.ask(request.dumps(), 120)["lacks"]
    finally:
        side.close()


def test_the_page_has_the_tables_of_its_record() -> None:
    assert gpu_table.page(json.loads(gpu_table.RECORD.read_text())) == gpu_table.PAGE.read_text()


def test_a_table_has_rates_shares_and_ratios() -> None:
    facts = {"device": H100, "case": "ViT-B-32 tower", "precision": "bfloat16", "batch": 512, "work": 512}
    ours = {"side": "clipjax", "seconds": [0.01] * 5, "first_seconds": 9.0, "flops": 4.945e12}
    theirs = {"side": "compiled", "seconds": [0.02] * 5, "first_seconds": 33.0}
    versions = {"jax": "0.10.2"}, {"torch": "2.13.0"}
    records = [facts | side | {"versions": each} for side, each in zip((ours, theirs), versions)]
    form = {"side": gpu_cases.GELU, "seconds": [0.008] * 5, "first_seconds": 9.0, "versions": versions[0]}
    records.append(facts | form)
    page = gpu_table.page(records)
    assert gpu_table.NOTHING not in page
    assert f"### {H100}\n\nWith jax 0.10.2, torch 2.13.0.\n" in page
    cells = ["51,200 (50%)", "-", "25,600 (25%)", "-", "2.00", "9 s", "33 s"]
    assert f"| ViT-B-32 tower | bfloat16 | 512 | {' | '.join(cells)} |" in page
    assert "| ViT-B-32 tower | GELU by tanh | 512 | 64,000 (62%) | 51,200 (50%) | 0.80 |" in page


def test_a_card_without_peaks_has_no_share() -> None:
    row = {"device": "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "seconds": [0.5], "work": 8, "flops": 1}
    assert gpu_table.rate(row, row) == "16"


def test_attention_is_measured_first_and_files_last() -> None:
    planned = [gpu.name_of(*each) for each in gpu.plan([], set())]
    sides = ("eager", "clipjax", gpu_cases.ATTENTION)
    assert planned[:7] == [
        *(f"ViT-L-14 tower, bfloat16, {side}" for side in (*sides, gpu_cases.GELU)),
        *(f"ViT-L-14 CE step, bfloat16, {side}" for side in sides),
    ]
    of_pass = [name for name in planned if "bfloat16" in name and "compiled" not in name]
    assert of_pass[-2:] == ["ViT-B-32 files, bfloat16, eager", "ViT-B-32 files, bfloat16, clipjax"]
    others = [name for name in planned if name.rpartition(", ")[2] in gpu_cases.OTHER_FORMS]
    assert not [name for name in others if "float32" in name or not name.startswith(("ViT", "ConvNeXt"))]
    of_convnext = [name for name in others if name.startswith("ConvNeXt")]
    assert of_convnext == [
        f"ConvNeXt-L tower, bfloat16, {side}" for side in (gpu_cases.DEPTHWISE, gpu_cases.GELU)
    ]
    assert not [name for name in others if "files" in name]
    assert not [name for name in others if "step" in name and gpu_cases.GELU in name]


@pytest.mark.parametrize(
    ("side", "layer", "other"),
    [
        (gpu_cases.ATTENTION, "attention", "divided_result"),
        (gpu_cases.DEPTHWISE, "depthwise", "frequencies"),
    ],
)
def test_an_other_form_is_none_that_a_gpu_takes(side: str, layer: str, other: str) -> None:
    mode, before = Mode(None, "gpu", "tokens", 1, 0.0, False), list(FORMS[layer].items())
    assert form(layer, mode, jnp.bfloat16) != other
    with gpu_clipjax.TAKING[side]():
        assert form(layer, mode, jnp.bfloat16) == other
        assert form(layer, mode, jnp.bfloat16, [name for name in FORMS[layer] if name != other]) != other
    assert list(FORMS[layer].items()) == before


def test_gelu_by_tanh_is_the_published_form() -> None:
    """XLA finds no other in the program."""
    layer, x = (
        bound(ActivationLayer("gelu"), mode_of(platform="gpu")),
        jnp.linspace(-4, 4, 99, dtype=jnp.bfloat16),
    )
    erf = layer(x)
    with gpu_clipjax.TAKING[gpu_cases.GELU]():
        assert (layer(x) == jax.nn.gelu(x, approximate=True)).all()
    assert (layer(x) == erf).all()
    assert set(gpu_clipjax.TAKING) == set(gpu_cases.OTHER_FORMS)


@pytest.mark.long("devices/test_gpu_benchmark.py::test_an_other_form_is_none_that_a_gpu_takes")
def test_convnext_runs_by_frequencies_in_its_other_form(
    here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    by_frequencies = convolutions.by_frequencies

    def noted(x: Any, kernel: Any) -> Any:
        sizes.append(len(kernel))
        return by_frequencies(x, kernel)

    monkeypatch.setattr(convolutions, "by_frequencies", noted)
    out = tmp_path / "gpu.jsonl"
    gpu.main(["ConvNeXt-L tower", gpu_cases.DEPTHWISE], out, device="cpu", smoke=True)
    [row] = map(json.loads, out.read_text().splitlines())
    assert (row["case"], row["side"], row["work"]) == ("ConvNeXt-L tower", gpu_cases.DEPTHWISE, 2)
    assert set(sizes) == {7}
