"""Compiling for GPUs ahead of time: descriptions, what is read, the kept table, the real compiler."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import pytest
from jax._src.cudnn import fused_attention_stablehlo as asked
from typer.testing import CliRunner

from benchmarks.models import aot_table
from clipjax.checkpoints.card import Card
from clipjax.checkpoints.identity.registry import model_card
from clipjax.cli import app
from clipjax.devices.sharding import make_mesh
from clipjax.errors import UsageError
from clipjax.estimates import aot_gpu, aot_language, aot_targets, aot_training, gpu_targets
from clipjax.estimates.aot import Executable, TowerRow
from clipjax.estimates.aot_gpu import GpuExecutable
from clipjax.estimates.aot_tables import gpu_cells, gpu_titles
from clipjax.models.arch import narrow_arch
from clipjax.models.language.vision_language import image_positions

ROOT = Path(__file__).resolve().parents[2]
H100 = gpu_targets.load_gpus()["h100"]


def narrow_card(name: str) -> Card:
    card = model_card(name)
    arch = narrow_arch(card.arch)
    if arch.language is not None:  # whose context ends after a question and its answer
        decoder = dataclasses.replace(arch.language.decoder, context_length=512)
        arch = dataclasses.replace(arch, language=dataclasses.replace(arch.language, decoder=decoder))
    preprocess = dataclasses.replace(card.preprocess, image_size=arch.vision.image_size)
    return dataclasses.replace(card, arch=arch, preprocess=preprocess, tokenizer=None)


# --- cards ---


def test_the_descriptions() -> None:
    assert (H100.capability, H100.cudnn, H100.memory_bytes) == ((9, 0), 91000, 84_942_979_072)
    for gpu in gpu_targets.load_gpus().values():
        assert "device_description_str" in gpu.description, gpu.name
        assert gpu.memory_bytes > 10e9, gpu.name


def test_jax_asks_the_target_inside_and_nobody_else_outside() -> None:
    names = ("check_cudnn_version", "check_compute_capability", "is_cuda_compute_capability_equal")
    own = [getattr(asked, name) for name in names]
    older = dataclasses.replace(H100, capability=(8, 0))
    with gpu_targets.answers_of(older):
        assert asked.check_cudnn_version() == 91000
        assert [asked.check_compute_capability(least) for least in ("8.0", "9.0")] == [True, False]
        assert [asked.is_cuda_compute_capability_equal(other) for other in ("8.0", "9.0")] == [True, False]
    assert [getattr(asked, name) for name in names] == own
    with pytest.raises(ZeroDivisionError), gpu_targets.answers_of(H100):
        _ = 1 / 0
    assert [getattr(asked, name) for name in names] == own


def test_what_cannot_be_compiled_here_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="unknown chip 'h10'; did you mean h100"):
        aot_targets.by_kind(["v5e", "h10"])
    with pytest.raises(UsageError, match="unknown GPU 'v5e'"):
        next(aot_gpu.gpu_table(["vit_b_32-openai"], ["v5e"]))
    with pytest.raises(UsageError, match="unknown model"):
        next(aot_gpu.gpu_table(["vit_b_32"], ["h100"]))
    assert aot_targets.by_kind(["v5e", "v4"]) == (["v5e", "v4"], [])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"no compiler for GPUs: .*`make gpu-aot-env`"):
        next(aot_gpu.gpu_table(["vit_b_32-openai"], ["h100"]))
    with pytest.raises(UsageError, match=r"venv-tpu/bin/clipjax models --aot v5e .* --aot h100"):
        aot_targets.by_kind(["h100", "v5e"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert aot_targets.by_kind(["h100", "v5e"]) == (["v5e"], ["h100"])


# --- reading ---


@pytest.mark.parametrize(
    ("name", "tower", "shapes"),
    [
        ("vit_b_32-openai", "vision", {(2, 10, 10)}),
        ("vit_b_32-openai", "text", {(2, 16, 16)}),
        ("rn50-openai", "vision", set()),  # one query pools
        ("convnext_base_w-laion2b_s13b_b82k", "vision", set()),
    ],
)
def test_shapes_of_scores(name: str, tower: str, shapes: set[aot_gpu.Scores]) -> None:
    program = aot_gpu.tower_program(narrow_card(name), tower, "parity")
    assert aot_gpu.score_shapes(program) == shapes


def test_programs_of_a_vision_language_model() -> None:
    """One GPU holds the decoder; prompts have scores, single ids a row of them for each head."""
    card = narrow_card(PRISM)
    assert card.arch.language is not None
    config = card.arch.language.decoder
    prefill, decode = (aot_gpu.answer_program(card, name, "fast") for name in ("prefill", "decode"))
    tokens, shared = image_positions(card.arch) + aot_language.QUESTION, config.heads // config.kv_heads
    assert (config.kv_heads, shared * tokens, tokens) in aot_gpu.score_shapes(prefill)
    kept = tokens + aot_language.ANSWER
    assert aot_gpu.score_shapes(decode) == {(config.kv_heads, shared, kept)}
    assert prefill.facts == (PRISM, "prefill", "fast")
    lowered = decode.lower(make_mesh(jax.devices()[:1]), 2)
    assert f"2x{config.kv_heads}x{kept}x" in lowered.as_text()
    assert aot_targets.count([PRISM, "vit_b_32-openai"], [], ["h100"]) == 2 * 2 + 2 * 2


def test_scores_are_told_from_maps_and_masks() -> None:
    def are(*shape: int) -> bool:
        return aot_gpu._are_scores(shape, 256, {(16, 64, 64), (8, 77, 50)})

    assert are(256, 16, 64, 64)
    assert are(4096, 64, 64)
    assert are(24, 256, 16, 64, 64)  # kept for the backward pass
    assert are(256, 8, 50, 77)  # transposed
    assert not are(256, 64, 64, 64)  # a map of 64 channels
    assert not are(256, 1, 77, 50)  # a mask
    assert not are(64, 64)


HLO = """
%gemm (p: f32[6,5,8], q: f32[6,8,5]) -> f32[6,5,5] {
  %p = f32[6,5,8]{2,1,0} parameter(0)
  %q = f32[6,8,5]{2,1,0} parameter(1)
  ROOT %d = f32[6,5,5]{2,1,0} dot(%p, %q), lhs_contracting_dims={2}, PRECISION
}
ENTRY %main (a: f32[6,5,8], b: f32[6,8,5], c: f32[2,3,5,5]) -> f32[6,5,5] {
  %a = f32[6,5,8]{2,1,0} parameter(0)
  %b = f32[6,8,5]{2,1,0} parameter(1)
  %c = f32[2,3,5,5]{3,2,1,0} parameter(2)
  %conv = (f32[6,5,8]{2,1,0}, u8[0]{0}) custom-call(%a, %b), PRECISION, custom_call_target="__cudnn$conv"
  %y = f32[6,5,8]{2,1,0} get-tuple-element(%conv), index=0
  %z = (f32[6,8,5]{2,1,0}, s8[9]{0}) custom-call(%y, %b), custom_call_target="__cublas$lt$matmul", CONFIG
  %w = f32[6,8,5]{2,1,0} get-tuple-element(%z), index=0
  ROOT %scores = f32[6,5,5]{2,1,0} fusion(%y, %w), kind=kCustom, calls=%gemm
}
"""
EXACT = ("operand_precision={highest,highest}", '"operand_precision":["HIGHEST","HIGHEST"]')
WITH_BIAS = ("operand_precision={highest,highest,default}", EXACT[1])
TF32 = ("operand_precision={default,highest}", '"operand_precision":["DEFAULT","HIGHEST"]')


@pytest.mark.parametrize(
    ("precisions", "highest"), [(EXACT, 3), (WITH_BIAS, 3), (TF32, 0), ((EXACT[0], TF32[1]), 2)]
)
def test_what_is_read_from_an_executable(precisions: tuple[str, str], highest: int) -> None:
    sizes = {"argument": 5, "temp": 6, "output": 4, "alias": 3}
    memory = SimpleNamespace(**{f"{name}_size_in_bytes": size for name, size in sizes.items()})
    text = HLO.replace("PRECISION", precisions[0]).replace("CONFIG", f"backend_config={{{precisions[1]}}}")
    compiled: Any = SimpleNamespace(memory_analysis=lambda: memory, as_text=lambda: text)
    found = aot_gpu.read_executable(compiled, 2, 1.0, {(3, 5, 5)})
    product = 4 * 6 * (5 * 8 + 8 * 5)
    assert found == GpuExecutable(
        batch=2,
        argument_bytes=5,
        temporary_bytes=7,
        collectives={},
        products=3,
        highest=highest,
        seconds=1.0,
        moved_bytes=product + 4 * 6 * 5 * 8 + product + 4 * 6 * 5 * 8 + 9 + product + 4 * 6 * 5 * 5,
        custom_calls={"__cudnn$conv": 1, "__cublas$lt$matmul": 1},
        scores_bytes=4 * 6 * 5 * 5,
        passes_bytes=0,
    )
    assert aot_gpu.read_executable(compiled, 2, 1.0, {(3, 7, 7)}).scores_bytes == 0


def test_products_that_triton_cannot_tile_are_those_of_cublas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where the compiler gives this reason."""
    asked: list[Any] = []

    class Lowered:
        def __init__(self, message: str):
            self.message = message

        def compile(self, compiler_options: dict[str, Any]) -> Any:
            asked.append(compiler_options)
            if compiler_options.get("xla_gpu_enable_triton_gemm", True):
                raise jax.errors.JaxRuntimeError(self.message)
            return "compiled"

    facts = GpuExecutable(
        2, 1, 1, {}, 2, 2, 1.0, moved_bytes=1, custom_calls={}, scores_bytes=0, passes_bytes=0
    )
    monkeypatch.setattr(aot_gpu, "gpu_mesh", lambda gpu: None)
    monkeypatch.setattr(aot_gpu, "read_executable", lambda *_: facts)

    def compiled(message: str) -> GpuExecutable | None:
        lowered: Any = Lowered(message)
        return aot_gpu.compile_for(H100, lambda mesh, batch: lowered, 2, set())

    assert compiled("INTERNAL: Couldn't find output tile sizes that satisfy hlo") == facts
    assert [options["xla_gpu_autotune_level"] for options in asked] == ["0", "0"]
    assert compiled("RESOURCE_EXHAUSTED: too much") is None
    with pytest.raises(jax.errors.JaxRuntimeError, match="another reason"):
        compiled("INTERNAL: another reason")
    assert len(asked) == 4


def test_cells_say_what_is_not_there() -> None:
    row = TowerRow("m", "vision", "fast", "h100", 1.25, None, "not one example fits 79 GiB")
    assert gpu_cells(row)[4] == "no: not one example fits 79 GiB"
    facts = {"moved_bytes": 10**9, "custom_calls": {}, "scores_bytes": 0, "passes_bytes": 5 * 10**8}
    whole = gpu_cells(dataclasses.replace(row, executable=GpuExecutable(2, 1, 1, {}, 2, 2, 1.0, **facts)))
    assert whole[-5:] == ("1.0", "0.5", "none", "0", "2 of 2")
    assert len(gpu_cells(row)) == len(whole) == len(gpu_titles())


def test_the_command_prints_a_table_of_each_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    def rows_of(program: Executable) -> Any:
        return lambda ids, chips, **_: (
            TowerRow(name, "vision", "fast", chip, 1.25, program) for name in ids for chip in chips
        )

    facts: dict[str, Any] = {"collectives": {}, "products": 2, "highest": 0, "seconds": 1.0}
    tpu = Executable(64, 1, 1, **facts)
    gpu = GpuExecutable(
        32, 1, 1, moved_bytes=3 * 10**9, custom_calls={}, scores_bytes=0, passes_bytes=0, **facts
    )
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr("clipjax.estimates.aot_language.table_of", rows_of(tpu))
    monkeypatch.setattr("clipjax.estimates.aot_gpu.gpu_table", rows_of(gpu))
    command = ["models", "vit_b_32-openai", "--aot"]
    shown = CliRunner().invoke(app, [*command, "h100,v5e"]).stdout.splitlines()
    titles = [line for line in shown if line.startswith("model ")]
    assert ["largest batch" in titles[0], "time (ms)" in titles[1], "moved (GB)" in titles[2]] == [True] * 3
    assert ["  v5e  " in line for line in shown].count(True) == 1
    assert "3.0" in shown[-1]
    alone = CliRunner().invoke(app, [*command, "h100"]).stdout
    assert ("moved (GB)" in alone, "largest batch" in alone) == (True, False)
    lines = CliRunner().invoke(app, [*command, "h100,v5e", "--json"]).stdout.splitlines()
    assert [json.loads(line)["chip"] for line in lines] == ["v5e", "h100"]


# --- the kept table ---


def kept() -> list[dict[str, Any]]:
    return json.loads(aot_table.GPU_RECORD.read_text())


def test_the_kept_programs_are_those_of_todays_code() -> None:
    again = "`make gpu-aot-env`, then `tests/records.py gpu_aot` compiles them"
    assert not aot_table.older(kept()), again
    assert len(aot_table.older([{**kept()[0], "forward": "1"}])) == 1


def test_the_kept_gpu_table_is_that_of_its_record() -> None:
    assert aot_table.GPU_PAGE.read_text() == aot_table.gpu_page(kept())
    rows = list(map(aot_table.row_of, kept()))
    assert {row.tower for row in rows} == set(aot_gpu.PARTS)
    for row in rows:
        program = row.executable
        assert isinstance(program, GpuExecutable), row
        assert program.collectives == {}, row
        if row.tower not in aot_training.STEPS:
            assert program.highest == (program.products if row.precision == "parity" else 0), row
        # A program reads its arguments once at least.
        assert program.moved_bytes > program.argument_bytes, row
        assert program.moved_bytes > program.passes_bytes, row
        assert program.argument_bytes + program.temporary_bytes < H100.memory_bytes, row


# --- the real compiler ---

COMPILE = """
import dataclasses, json, sys
import jax
import jax.numpy as jnp
from clipjax.checkpoints.card import card_from_dict
from clipjax.checkpoints.model import Model
from clipjax.devices.sharding import batch_sharding
from clipjax.estimates import aot_gpu, gpu_targets
from clipjax.models.network import Network

gpu_targets.use_gpu_compiler()
gpu = gpu_targets.load_gpus()["h100"]
found = {}

def facts(program, batch=8):
    shapes = aot_gpu.score_shapes(program)
    return dataclasses.asdict(aot_gpu.compile_for(gpu, program.lower, batch, shapes))

for name, record in json.load(sys.stdin).items():
    card = card_from_dict(record, name)
    if card.arch.language is not None:
        for part in ("prefill", "decode"):
            found[part] = facts(aot_gpu.answer_program(card, part, "fast"))
        continue
    for precision in ("parity", "fast"):
        found[f"{name} {precision}"] = facts(aot_gpu.tower_program(card, "vision", precision))
    if name == "vit":
        model = Model(card, Network(card.arch).abstract_params())
        found["step"] = facts(aot_gpu.step_program(model, "train:cross_entropy"))

def attention(implementation):
    def lower(mesh, batch):
        x = jax.ShapeDtypeStruct((batch, 257, 16, 64), jnp.bfloat16, sharding=batch_sharding(mesh))
        def attend(q, k, v):
            return jax.nn.dot_product_attention(q, k, v, implementation=implementation)
        return jax.jit(attend).lower(x, x, x)
    return lower

for implementation in ("xla", "cudnn"):
    program = aot_gpu.compile_for(gpu, attention(implementation), 8, {(16, 257, 257)})
    found[implementation] = dataclasses.asdict(program)
print("answer", json.dumps(found))
"""
NARROW = {
    "vit": "vit_b_32-openai",
    "resnet": "rn50-openai",
    "convnext": "convnext_base_w-laion2b_s13b_b82k",
}
PRISM = "prism-clip_l14_336-mistral_instruct_v02_7b"


def gpu_python() -> str:
    """An interpreter with the compiler: of CLIPJAX_GPU_AOT_PYTHON, of `make gpu-aot-env`, or this one."""
    candidates = [os.environ.get("CLIPJAX_GPU_AOT_PYTHON"), str(ROOT / ".venv-gpu-aot" / "bin" / "python")]
    candidates = [python for python in candidates if python and Path(python).exists()]
    if not candidates and gpu_targets.has_gpu_compiler():
        return sys.executable
    if not candidates:
        pytest.skip("no compiler for GPUs: `make gpu-aot-env` installs it apart")
    return candidates[0]


@pytest.mark.slow
def test_narrow_models_compile_for_a_gpu() -> None:
    cards = {name: narrow_card(model).to_dict() for name, model in [*NARROW.items(), ("prism", PRISM)]}
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [gpu_python(), "-c", COMPILE],
        input=json.dumps(cards),
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.partition("answer ")[2])
    for name in NARROW:
        parity, fast = found[f"{name} parity"], found[f"{name} fast"]
        assert parity["highest"] == parity["products"] >= 5, name
        assert fast["highest"] == 0 < fast["products"], name
        assert fast["moved_bytes"] < parity["moved_bytes"], name
    assert "__cudnn$convForward" in found["resnet parity"]["custom_calls"]
    assert found["vit parity"]["scores_bytes"] > 0
    assert found["step"]["products"] > found["vit fast"]["products"]
    assert found["prefill"]["products"] > found["decode"]["products"]
    # The cache is an argument of a decode step, and its result in the same place.
    assert found["decode"]["temporary_bytes"] < found["decode"]["argument_bytes"]
    for name, program in found.items():
        assert program["passes_bytes"] < program["moved_bytes"], name
    # Attention's scores are in memory unless cuDNN keeps them on the chip.
    assert found["xla"]["scores_bytes"] >= 2 * 8 * 16 * 257 * 257
    assert found["cudnn"]["custom_calls"] == {"__cudnn$fmhaSoftmax": 1}
    assert found["cudnn"]["scores_bytes"] == 0
    assert found["cudnn"]["temporary_bytes"] < found["xla"]["temporary_bytes"] / 3
