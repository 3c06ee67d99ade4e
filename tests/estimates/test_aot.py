"""Compiling ahead of time: what is counted and read, the kept table, a narrow model on the real compiler."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from benchmarks.models import aot_table, weak_scaling
from clipjax.checkpoints.card import Card
from clipjax.checkpoints.identity.registry import model_card
from clipjax.checkpoints.model import Model
from clipjax.devices.sharding import make_mesh
from clipjax.errors import UsageError
from clipjax.estimates import aot, aot_language, aot_training
from clipjax.estimates.aot import (
    Executable,
    TowerRow,
    largest,
    load_chips,
)
from clipjax.estimates.aot_tables import table_cells, table_titles
from clipjax.estimates.flops import forward_of, product_flops
from clipjax.estimates.hlo import CompiledProgram
from clipjax.models.arch import families, family_of, load_arch
from clipjax.models.network import Network

ROOT = Path(__file__).resolve().parents[2]
LAYERS, WIDTH, TOKENS = 3, 256, 1 + (64 // 32) ** 2


@pytest.fixture
def card() -> Card:
    """ViT-B-32 of three blocks and four heads, for images of 64 pixels."""
    arch: Any = load_arch("ViT-B-32")
    small = {"width": WIDTH, "mlp_width": 4 * WIDTH, "layers": LAYERS, "heads": 4, "embed_dim": 64}
    vision = dataclasses.replace(arch.vision, image_size=64, **small)
    text = dataclasses.replace(arch.text, vocab_size=100, **small)
    arch = dataclasses.replace(arch, vision=vision, text=text)
    card = model_card("vit_b_32-openai")
    preprocess = dataclasses.replace(card.preprocess, image_size=64)
    return dataclasses.replace(card, arch=arch, preprocess=preprocess, tokenizer=None)


def abstract(card: Card) -> Model:
    return Model(card, Network(card.arch).abstract_params())


# --- counting ---


def flops(function: Any, *args: Any) -> int:
    return product_flops(jax.make_jaxpr(function)(*args).jaxpr)


def flops_of_vit() -> int:
    block = TOKENS * (4 * WIDTH * WIDTH + 2 * WIDTH * 4 * WIDTH) + 2 * TOKENS * TOKENS * WIDTH
    patches = (TOKENS - 1) * 32 * 32 * 3 * WIDTH
    return 2 * (patches + LAYERS * block + WIDTH * 64)


def test_flops_of_a_vit_are_those_of_its_formula(card: Card) -> None:
    forward, wanted = forward_of(card, "vision", "parity"), flops_of_vit()
    assert flops(forward.function, forward.params, forward.batch(1)) == wanted
    assert flops(forward.function, forward.params, forward.batch(8)) == 8 * wanted


@pytest.mark.parametrize("tower", ["vision", "text"])
def test_a_scan_counts_as_often_as_it_runs(tower: str, card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    """XLA counts the body once; unrolled it counts everything, and what is not a product beside it."""
    forward = forward_of(card, tower, "parity")
    args = (forward.params, forward.batch(8))
    counted, once = flops(forward.function, *args), xla_flops(forward.function, *args)
    monkeypatch.setattr(jax.lax, "scan", functools.partial(jax.lax.scan, unroll=True))
    again = forward_of(card, tower, "parity")
    unrolled = xla_flops(lambda *args: again.function(*args), *args)
    assert counted < unrolled < 1.05 * counted
    assert once < 0.6 * counted


def xla_flops(function: Any, *args: Any) -> float:
    cost: Any = jax.jit(function).lower(*args).cost_analysis()
    return cost["flops"]


def test_flops_of_a_training_step_are_those_of_its_formula(card: Card) -> None:
    """Twice the forward for the gradients, but none of the pixels, and nothing that is computed again."""
    model, classes = abstract(card), 1000
    forward = flops_of_vit()
    patches, head = 2 * (TOKENS - 1) * 32 * 32 * 3 * WIDTH, 2 * 64 * classes
    assert aot_training.step_flops(model, "train:cross_entropy") == 3 * (forward + head) - patches


def test_flops_of_convolutions_branches_and_calls() -> None:
    x, kernel, depthwise = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 4, 6)), jnp.ones((3, 3, 1, 4))

    def conv(x: Any, kernel: Any, groups: int) -> Any:
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (2, 2), "SAME", dimension_numbers=numbers, feature_group_count=groups
        )

    assert flops(lambda x, k: conv(x, k, 1), x, kernel) == 2 * (2 * 4 * 4 * 6) * (3 * 3 * 4)
    assert flops(lambda x, k: conv(x, k, 4), x, depthwise) == 2 * (2 * 4 * 4 * 4) * (3 * 3)
    square = jnp.ones((5, 5))
    product = 2 * 5**3
    assert flops(lambda x: jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x), square) == (
        2 * product
    )
    padded = functools.partial(jax.lax.platform_dependent, default=lambda x: x @ x, tpu=lambda x: x @ x @ x)
    assert flops(padded, square) == product
    assert flops(jax.jit(jax.checkpoint(lambda x: x @ x)), square) == product
    with pytest.raises(ValueError, match="loop of unknown length"):
        flops(lambda x: jax.lax.while_loop(lambda x: x[0, 0] > 0, lambda x: x @ x, x), square)


# --- choosing a batch, reading, showing ---


@pytest.mark.parametrize(
    ("fits", "start", "found"),
    [(10**9, 4096, 4096), (4095, 4096, 2048), (700, 4096, 512), (1, 4096, 1), (0, 64, None), (700, 64, 64)],
)
def test_the_largest_batch_is_the_first_from_above_that_compiles(
    fits: int, start: int, found: int | None
) -> None:
    tried = []

    def compile_at(batch: int) -> Executable | None:
        tried.append(batch)
        return Executable(batch, 1, 1, {}, 1, 1, 0.1) if batch <= fits else None

    executable = largest(compile_at, start)
    assert (executable and executable.batch) == found
    assert tried == [start >> i for i in range(len(tried))]
    assert tried[-1] == (found or 1)


HLO = """
ENTRY %main (a: f32[8,8], b: f32[8,8]) -> f32[8,8] {
%c.1 = f32[8,8]{1,0} convolution(%a, %b), window={size=1}, operand_precision={highest,highest}, metadata={}
ROOT %d.1 = f32[8,8]{1,0} dot(%a, %b), lhs_contracting_dims={1}, operand_precision={highest,default}
%convolution_add_fusion = f32[8,8]{1,0} fusion(%c.1, %d.1), kind=kOutput, calls=%computation
%r = (f32[8]{0}, f32[8]{0}) all-reduce-start(%c.1), channel_id=1
%e = f32[8]{0} all-reduce-done(%r)
%g = f32[64]{0} all-gather(%c.1), channel_id=2
"""


def test_what_is_read_from_an_executable() -> None:
    sizes = {"argument": 5, "temp": 6, "output": 4, "alias": 3}
    memory = SimpleNamespace(**{f"{name}_size_in_bytes": size for name, size in sizes.items()})
    compiled: Any = SimpleNamespace(memory_analysis=lambda: memory)
    found = aot.read_executable(compiled, CompiledProgram(HLO), 8, 1.0)
    assert found == Executable(8, 5, 7, {"all-reduce": 1, "all-gather": 1}, 2, 1, 1.0)


def test_cells_say_why_a_program_does_not_compile() -> None:
    row = TowerRow("m", "vision", "fast", "v4", 1.25, None, "not one example fits 32 GiB")
    assert table_cells(row)[4] == "no: not one example fits 32 GiB"
    assert len(table_cells(row)) == len(table_titles())


def test_unknown_chips_and_missing_compilers_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"v4", "v5e", "v5p", "v6e"} <= set(load_chips())
    with pytest.raises(UsageError, match="v5e"):
        next(aot.aot_table(["vit_b_32-openai"], ["v5"]))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"no TPU compiler: make one of its own with `python -m venv"):
        next(aot.aot_table(["vit_b_32-openai"], ["v5e"]))


def test_the_programs_of_models() -> None:
    """Both towers of a CLIP, the one of a classifier, in both precisions."""
    found = aot.programs(["vit_b_32-openai", "tf_efficientnet_lite0-in1k"])
    assert [(card.arch.name, tower) for card, tower, precision in found if precision == "fast"] == [
        ("ViT-B-32-quickgelu", "vision"),
        ("ViT-B-32-quickgelu", "text"),
        ("tf_efficientnet_lite0", "vision"),
    ]
    assert len(found) == 6


# --- the kept table ---


def test_the_kept_table_is_that_of_its_record() -> None:
    records = json.loads((ROOT / "docs" / "hardware" / "tpu.json").read_text())
    assert (ROOT / "docs" / "hardware" / "tpu.md").read_text() == aot_table.page(records)
    assert aot_table.RATES.read_text() == aot_table.rates(records)
    seen = set()
    for row in map(aot_table.row_of, records):
        assert row.executable is not None, row
        if row.tower in aot_training.STEPS:
            continue
        assert row.executable.highest == (row.executable.products if row.precision == "parity" else 0), row
        if row.tower in aot_language.PROGRAMS:
            continue
        assert row.executable.collectives == {}, row
        seen.add(family_of(getattr(model_card(row.model).arch, row.tower)).name)
    missing = set(families()) - seen
    assert not missing, "benchmarks/models/aot_table.py compiles a member of the missing family"


def test_rows_of_the_small_batch_stand_beside_those_of_the_large(tmp_path: Path) -> None:
    """The first table and the rates have the large one, whichever came last; a row replaces its own kind."""
    records = json.loads((ROOT / "docs" / "hardware" / "tpu.json").read_text())
    large = next(each for each in records if each["start"] == 256 and each["executable"]["estimate"])
    slow = {**large["executable"]["estimate"], "cycles": 10**10}
    small = {**large, "start": 64, "executable": {**large["executable"], "batch": 64, "estimate": slow}}
    path = tmp_path / "tpu.json"
    for record in ({**large, "forward": 1}, small, large):
        aot_table.keep(path, record)
    kept = json.loads(path.read_text())
    assert kept == [large, small]
    name = large["model"]
    for order in (kept, kept[::-1]):
        assert aot_table.rates(order) == aot_table.rates([large])
        table, _, estimates = aot_table.page(order).partition("<!-- estimates: begin -->")
        assert table.count(f"| {name} |") == 1
        batches = [line.split(" | ")[4] for line in estimates.splitlines() if line.startswith(f"| {name} |")]
        assert batches[:2] == ["64", "256"]


def test_the_kept_programs_of_vision_language_models() -> None:
    """Both decoders and both image towers, on 4 and 8 chips; a layer sums twice and gathers nothing."""
    records = json.loads((ROOT / "docs" / "hardware" / "tpu.json").read_text())
    rows = [record for record in records if record["tower"] in aot_language.PROGRAMS]
    slices = {topology for chip in load_chips().values() for topology in chip.answers}
    assert {row["chip"] for row in rows} == slices >= {"v5e:2x2", "v5e:2x4", "v6e:2x2"}
    for name in aot_language.PROGRAMS:
        archs = [model_card(row["model"]).arch for row in rows if row["tower"] == name]
        assert {arch.vision.image_size for arch in archs} == {336, 384}
        assert {arch.language.decoder.kv_heads for arch in archs if arch.language} == {8, 32}
    for row in rows:
        found = row["executable"]
        # Beside a layer's two: the embedding, and the logits where they leave the program.
        assert found["collectives"].get("all-reduce", 0) in (3, 4), row
        assert sum(found["collectives"].values()) <= 5, row
        assert (
            found["argument_bytes"] + found["temporary_bytes"]
            <= load_chips()[row["chip"][:3]].memory_gib * 2**30
        )


def test_the_kept_training_steps() -> None:
    """A chip alone has no collectives; those of a slice sum gradients, and gather features of all pairs."""
    records = json.loads((ROOT / "docs" / "hardware" / "tpu.json").read_text())
    rows = [aot_table.row_of(record) for record in records if record["tower"] in aot_training.STEPS]
    assert {(row.tower, row.chip) for row in rows} >= {
        (step, chip) for step in aot_training.STEPS for chip in ("v5e", "v5e:2x2")
    }
    for row in rows:
        assert row.executable is not None, row
        shared = {"all-reduce"} | ({"all-gather"} if row.tower == "train:flyp" else set())
        assert set(row.executable.collectives) == (shared if ":" in row.chip else set()), row


def test_the_kept_slices_are_those_of_their_record() -> None:
    """A chip does what the traced program does, on 4 to 256 chips of every kind, and waits for none."""
    records = json.loads((ROOT / "docs" / "hardware" / "weak_scaling.json").read_text())
    assert (ROOT / "docs" / "hardware" / "tpu.md").read_text() == weak_scaling.page(records)
    weak_scaling.check(records)
    kept = {tuple(row[key] for key in (*weak_scaling.SAME, "batch", "flops")) for row in records}
    for model, tower, precision, batch, count in kept:
        forward = forward_of(model_card(model), tower, precision)
        assert count == flops(forward.function, forward.params, forward.batch(batch))
    for tower, sizes in (("vision", {4, 16, 64, 256}), ("text", {4, 256})):
        for chip in load_chips().values():
            found = {row["devices"] for row in records if (row["chip"], row["tower"]) == (chip.name, tower)}
            assert found == sizes, (chip.name, tower)
    for record, wrong in ((records[0], {"collectives": {"all-reduce": 1}}), (records[-1], {"flops": 1})):
        with pytest.raises(SystemExit, match=r"wait for each other|not constant"):
            weak_scaling.check([*records, {**record, **wrong}])


def test_a_step_is_of_one_chip_or_of_a_whole_slice(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(aot_training, "setup_of", lambda *given: seen.append((given[2].size, given[3])))
    monkeypatch.setattr(aot_training, "abstract_step", lambda _: (SimpleNamespace(lower=lambda: None), ()))
    monkeypatch.setattr(aot, "slice_mesh", lambda *_: make_mesh(jax.devices()[:4]))
    monkeypatch.setattr(aot, "compiled_within", lambda chip, lowered, batch: batch)
    chip = load_chips()["v5e"]
    for place in (chip.name, chip.topology):
        assert aot_training.compile_step(abstract(card), "train:cross_entropy", chip, place, 8) == 8
    assert seen == [(1, 8), (4, 32)]


# --- the real compiler ---

COMPILE = """
import dataclasses, json, sys
import jax
import jax.numpy as jnp
from clipjax.checkpoints.card import card_from_dict
from clipjax.checkpoints.model import Model
from clipjax.estimates.flops import forward_of
from clipjax.models.network import Network
from clipjax.estimates import aot, aot_training

card = card_from_dict(json.load(sys.stdin), "the test's card")
aot.use_tpu_compiler()
chip = aot.load_chips()["v5e"]

def facts(forward, batch):
    executable = aot.compile_forward(forward, chip, batch)
    return executable and dataclasses.asdict(executable)

if sys.argv[1:] == ["step"]:
    model = Model(card, Network(card.arch).abstract_params())
    step = aot_training.compile_step(model, "train:cross_entropy", chip, chip.name, 8)
    print("answer", json.dumps(dataclasses.asdict(step)))
    sys.exit()

parity, fast = (forward_of(card, "vision", precision) for precision in ("parity", "fast"))
if sys.argv[1:] == ["more"]:
    mixing = dataclasses.replace(
        fast, function=lambda params, x: (y := fast.function(params, x)) - y.mean(0, keepdims=True)
    )
    found = {"mixing": facts(mixing, 8), "too much": facts(fast, 2**21)}
    model = Model(card, Network(card.arch).abstract_params())
    shared = aot_training.compile_step(model, "train:cross_entropy", chip, chip.topology, 8)
    found["shared step"] = dataclasses.asdict(shared)
    print("answer", json.dumps(found))
    sys.exit()

found = {"parity": facts(parity, 8)}

# Seven products of 2048 x 2048 in a loop.
mesh = aot.slice_mesh(chip, chip.topology)
square = jax.ShapeDtypeStruct((2048, 2048), jnp.bfloat16, sharding=aot.replicated(mesh))
looped = jax.jit(lambda x, y: jax.lax.scan(lambda x, _: (x @ y, None), x, None, 7)[0]).lower(square, square)
found["looped"] = dataclasses.asdict(aot.compiled_within(chip, looped, 1))["estimate"]
print("answer", json.dumps(found))
"""


def tpu_python() -> str:
    """An interpreter with libtpu: of CLIPJAX_TPU_PYTHON, of `make tpu-env`, or this one."""
    candidates = [os.environ.get("CLIPJAX_TPU_PYTHON"), str(ROOT / ".venv-tpu" / "bin" / "python")]
    candidates = [python for python in candidates if python and Path(python).exists()]
    if not candidates and importlib.util.find_spec("libtpu"):
        return sys.executable
    if not candidates:
        pytest.skip("no TPU compiler: jax[tpu] is not installed here (`make tpu-env` installs it apart)")
    return candidates[0]


def compiled(card: Card, *arguments: str) -> Any:
    """What the real compiler makes of the card's model: the answer of COMPILE."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [tpu_python(), "-c", COMPILE, *arguments],
        input=json.dumps(card.to_dict()),
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.partition("answer ")[2])


@pytest.mark.long("estimates/test_aot.py::test_what_is_read_from_an_executable")
def test_a_narrow_model_compiles_for_a_tpu(card: Card) -> None:
    found = compiled(card)
    parity = found["parity"]
    assert parity["highest"] == parity["products"] >= 10
    assert parity["collectives"] == {}
    assert parity["argument_bytes"] > 4 * 3 * 12 * WIDTH * WIDTH
    # A v5e has four units of 128 x 128: fewer cycles are impossible, and twice as many would be wasteful.
    name, cycles = next(iter(found["looped"]["costliest"].items()))
    least = 7 * 2048**3 / (4 * 128 * 128)
    assert name == "fusion dot_general"
    assert least < cycles < 2 * least
    assert not found["looped"]["unknown"]


@pytest.mark.long("estimates/test_aot.py::test_what_is_read_from_an_executable")
def test_what_is_read_from_programs_that_mix_rows_or_do_not_fit(card: Card) -> None:
    found = compiled(card, "more")
    assert found["mixing"]["highest"] == 0  # in "fast"
    assert sum(found["mixing"]["collectives"].values()) > 0
    assert found["too much"] is None
    unknown = found["shared step"]["estimate"]["unknown"]
    assert {name.partition(" ")[0] for name in unknown} == {"all-reduce"}
    assert set(found["shared step"]["collectives"]) == {"all-reduce"}


@pytest.mark.long("estimates/test_aot.py::test_a_step_is_of_one_chip_or_of_a_whole_slice")
def test_a_training_step_of_one_chip_waits_for_no_other(card: Card) -> None:
    step = compiled(card, "step")
    assert not step["estimate"]["unknown"]
    assert step["collectives"] == {}
