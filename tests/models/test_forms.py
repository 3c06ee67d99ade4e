"""The forms of layers: which one each layer of each family takes, and that none is taken by default."""

from __future__ import annotations

import ast
import re
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from _drawn import drawn
from _long import mostly_long
from flax import nnx

from clipjax.models import network as networks
from clipjax.models import param_tree
from clipjax.models.arch import FAMILIES, family_of, load_arch, narrow_arch
from clipjax.models.modules import forms, layers
from clipjax.models.modules.binding import bind
from clipjax.models.network import Network
from clipjax.models.unit_norm import unit_norm
from tests.models import _forms
from tests.models._modes import bound, mode_of

FILES = Path(networks.__file__).parent
RECORDED = _forms.recorded_rows()


@pytest.mark.parametrize(
    "name",
    mostly_long(
        _forms.ARCHS,
        keep=[
            "ViT-B-32",
            "EVA02-B-16",
            "beit_base_patch16_224",
            "vgg16_bn",
            "prism-clip_l14_336-llama2_7b",
        ],
    ),
)
def test_every_layer_takes_the_form_of_the_record(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a change is meant: `.venv/bin/python tests/records.py forms`, and `_FAST` in models/version.py."""
    assert _forms.rows(name, monkeypatch) == RECORDED[name]


def test_the_record_has_every_family() -> None:
    archs = [load_arch(name) for name in _forms.ARCHS]
    towers = [tower for arch in archs for tower in (arch.vision, arch.text) if tower is not None]
    assert {family_of(tower).name for tower in towers} == set(FAMILIES.own())
    assert any(arch.language is not None for arch in archs)


def test_every_form_is_taken_somewhere() -> None:
    """But those of shapes that no narrow architecture has."""
    found = {
        (row[3], form)
        for rows in RECORDED.values()
        for row in rows
        for cell in row[4:]
        for form in re.findall(r"[a-z][a-z0-9_]*(?= or | \d)", cell)
    }
    known = {(kind, form) for kind, of_kind in forms.FORMS.items() for form in of_kind}
    assert known - found == {("attention", "few_heads"), ("few_queries", "repeated")}
    assert found <= known


def test_a_layer_of_another_mode_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms bound to another pass, as if a family made its own."""

    def some(tower: nnx.Module, mode: object) -> nnx.Module:
        bind(tower, mode)  # pyright: ignore[reportArgumentType]
        for _, each in nnx.iter_modules(tower):
            if isinstance(each, layers.LayerNorm):
                bind(each, mode_of())
        return tower

    monkeypatch.setattr(param_tree, "bind", some)
    monkeypatch.setattr(networks, "bound_graph", param_tree.bound_graph.__wrapped__)
    name = "beit_base_patch16_224"
    assert _forms.rows(name, monkeypatch) != RECORDED[name]


def test_an_unbound_tower_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(narrow_arch(load_arch("ViT-B-32")))
    cases = list(_forms.passes(network, "cpu", "parity"))

    def unbound(arch: Any, tower: str, _mode: Any) -> Any:
        return param_tree.abstract_tree(arch, tower)[0]

    monkeypatch.setattr(networks, "bound_graph", unbound)
    for _, run, arguments in cases:
        with pytest.raises(TypeError, match="is not bound to a mode: call "):
            jax.eval_shape(lambda *inputs, run=run: run(*inputs), *arguments)  # traced anew


def test_parity_has_no_form_for_a_tpu() -> None:
    mode = mode_of(None, "tpu")
    for kind in forms.FORMS:
        assert forms.form(kind, mode, jnp.float32) == forms.form(kind, mode_of(None, "gpu"), jnp.float32)


@pytest.mark.parametrize("platform", [None, "cpu"])
def test_products_have_float32_results_where_the_cpu_multiplies_bfloat16(platform: str | None) -> None:
    """The program for a CPU. Its operands stay bfloat16; one for a GPU, and for another CPU, is as ever."""
    linear = layers.Linear(8, 4, rngs=nnx.Rngs(0))

    def program(host: bool, dtype: Any = jnp.bfloat16, target: str = "cpu") -> str:
        own = bound(linear, mode_of(None, platform, float32_products=host))
        own.kernel.set_value(own.kernel[...].astype(dtype))
        own.bias = None
        lowered = jax.jit(own).trace(jnp.ones((2, 8), dtype)).lower(lowering_platforms=(target,))
        return lowered.as_text()

    operands = "(tensor<2x8xbf16>, tensor<8x4xbf16>)"
    assert f"{operands} -> tensor<2x4xf32>" in program(True)
    assert f"{operands} -> tensor<2x4xbf16>" in program(False)
    if platform == "cpu":  # otherwise the compiler drops the other form
        assert f"{operands} -> tensor<2x4xbf16>" not in program(True)
        assert program(True, jnp.float32) == program(False, jnp.float32)
    else:
        assert f"{operands} -> tensor<2x4xbf16>" in program(True, target="cuda")


def test_fast_agrees_with_parity_in_both_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(narrow_arch(load_arch("ViT-B-32")))
    params, side = drawn(network.abstract_params()), network.arch.vision.image_size
    images = jax.random.normal(jax.random.key(1), (4, side, side, 3))

    def encode(precision: Any, host: bool) -> Any:
        monkeypatch.setattr("clipjax.models.precision.this_cpu_multiplies_bfloat16", lambda: host)
        run = jax.jit(lambda params, images: network.encode_image(params, images, precision=precision))
        return run.lower(params, images)

    programs = [encode("parity", host).as_text() for host in (False, True)]
    assert programs[0] == programs[1]
    parity = unit_norm(encode("parity", False).compile()(params, images))
    both = (encode("fast", host).compile()(params, images) for host in (False, True))
    for fast in map(unit_norm, both):
        assert float((fast * parity).sum(axis=-1).min()) > 0.999


def test_many_examples_read_products_with_a_norm_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(narrow_arch(load_arch("ViT-B-32")))
    side, folded = network.arch.vision.image_size, ("Block", "normed_products", "folded")
    keys = iter(jax.random.split(jax.random.key(0), 99))

    def uneven(path: Any, leaf: jax.Array) -> jax.Array:
        norm = "ln_" in jax.tree_util.keystr(path)
        return leaf + 0.5 * jax.random.normal(next(keys), leaf.shape) if norm else leaf

    params = {"vision": jax.tree.map_with_path(uneven, drawn(network.abstract_params())["vision"])}
    images = jax.random.normal(next(keys), (32, side, side, 3))

    def run(params: Any, images: jax.Array, precision: Any = "fast", devices: int = 1) -> jax.Array:
        return network.encode_image(params, images, precision=precision, platform="tpu", devices=devices)

    def taken(run: Any, examples: int) -> int:
        return _forms.taken(run, (params, images[:examples]), monkeypatch)[folded]

    assert [taken(run, 31), taken(run, 32)] == [0, 2]
    assert taken(partial(run, devices=2), 32) == 0
    assert taken(partial(run, precision="parity"), 32) == 0
    ours, exact = (
        unit_norm(jax.jit(partial(run, precision=each))(params, images)) for each in ("fast", "parity")
    )
    assert float((ours * exact).sum(axis=-1).min()) > 0.999


def test_cpu_options_are_for_products_of_float32(
    with_bfloat16: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Network(narrow_arch(load_arch("ViT-B-32")))
    monkeypatch.setattr(networks, "_accepted", lambda options: True)
    assert network.compiler_options("vision", "parity") == layers.CPU_OPTIONS
    assert network.compiler_options("vision", "fast") is None
    monkeypatch.setattr("clipjax.models.precision.this_cpu_multiplies_bfloat16", lambda: False)
    assert network.compiler_options("vision", "fast") == layers.CPU_OPTIONS


def test_the_compiler_chooses_only_where_no_platform_is_stated() -> None:
    x = jnp.ones((1, 4, 4, 2), jnp.bfloat16)
    ways = {"windows": lambda x: x + 1, "reshaped": lambda x: x + 2}

    def program(platform: str | None, dtype: Any = jnp.bfloat16) -> str:
        run = lambda x: forms.in_form("average_pool", ways, x, mode=mode_of(None, platform))  # noqa: E731
        return str(jax.make_jaxpr(run)(x.astype(dtype)))

    assert program(None).count(" add ") == 2
    assert [program(name).count(" add ") for name in ("cpu", "tpu")] == [1, 1]
    assert program(None, jnp.float32).count(" add ") == 1


def test_families_name_no_platform_and_no_mode() -> None:
    """Which form runs where stands in modules/forms.py alone."""
    for path in sorted(FILES.glob("families/**/*.py")):
        named = set(names_of(path.read_text(encoding="utf-8")))
        assert not named & {"mode", "Mode", "platform", "by_platform", "platform_dependent"}, path
        assert not named & {"tpu", "cpu", "gpu", "cuda", "form", "in_form", "forms"}, path
        assert not named & {"in_chunks", "any_cut", "by_frequencies"}, path


def test_a_platform_in_a_family_is_found() -> None:
    assert "mode" in names_of("def dense(tower, x, mode):\n    return tower(x)\n")
    assert "tpu" in names_of('x = {"tpu": 1}')
    assert "in_form" in names_of("from clipjax.models.modules.forms import in_form\n")


def names_of(code: str) -> list[str]:
    """Names, attributes, arguments, imports and texts of one word in a file."""
    found: list[str] = []
    for node in ast.walk(ast.parse(code)):
        fields = [getattr(node, name, None) for name in ("id", "attr", "arg", "name", "value")]
        found += [each for each in fields if isinstance(each, str)]
    return found


def test_a_familys_own_layers_are_bound() -> None:
    class Own(layers.Layer):
        def __init__(self) -> None:
            self.inner = layers.ActivationLayer("gelu")

    own = bound(Own(), mode_of(None, "tpu"))
    assert own.mode == own.inner.mode == mode_of(None, "tpu")
