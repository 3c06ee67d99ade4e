"""Training steps compiled for TPUs without one, as `clipjax.estimates.aot` does with towers.

A step is the one that fine-tuning runs, by a published recipe for ImageNet in `fast`: loss, gradients and
update. It is compiled for one chip, whose program has no collectives, and for the chip's smallest slice,
whose chips share the batch and sum the gradients.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import jax
from jax.extend.core import Jaxpr
from jax.sharding import Mesh

from clipjax.checkpoints.model import Model
from clipjax.devices.sharding import make_mesh
from clipjax.estimates import aot
from clipjax.estimates.aot import Chip, Executable, TowerRow
from clipjax.estimates.flops import product_flops
from clipjax.finetune.dry_run import abstract_model, abstract_setup, abstract_step
from clipjax.finetune.method import Setup
from clipjax.finetune.recipe import load_recipe
from clipjax.guards import known_name

# A row's tower -> the recipe.
STEPS = {"train:cross_entropy": "ce_imagenet", "train:flyp": "flyp_imagenet"}
BATCH = 64  # examples of a chip: the recipes' 512 on eight chips


def training_table(
    ids: Sequence[str], chips: Sequence[str], *, steps: Sequence[str] = tuple(STEPS), start: int = BATCH
) -> Iterator[TowerRow]:
    """Compile steps for chips and their smallest slices, a minute or two each. Errors as `aot_table`.

    Args:
        steps: keys of `STEPS`.
        start: the first batch tried, examples of a chip; each that does not fit is halved.
    """
    known = aot.load_chips()
    for name in chips:
        known_name("chip", name, known)
    models = [abstract_model(name) for name in ids]
    aot.use_tpu_compiler()
    for model in models:
        for step in steps:
            gflops = step_flops(model, step) / 1e9
            for chip in map(known.__getitem__, chips):
                for place in (chip.name, chip.topology):
                    row = TowerRow(model.card.id, step, "fast", place, gflops, None, start=min(start, BATCH))
                    yield _compiled(row, model, chip)


def _compiled(row: TowerRow, model: Model, chip: Chip) -> TowerRow:
    def compile_at(batch: int) -> Executable | None:
        return compile_step(model, row.tower, chip, row.chip, batch)

    try:
        executable = aot.largest(compile_at, row.start)
    except jax.errors.JaxRuntimeError as error:
        return dataclasses.replace(row, problem=str(error).splitlines()[0])
    problem = None if executable else f"not one example fits {chip.memory_gib} GiB"
    return dataclasses.replace(row, executable=executable, problem=problem)


def compile_step(model: Model, step: str, chip: Chip, place: str, batch: int) -> Executable | None:
    """Compile `batch` examples per chip; result and errors as `compile_forward`.

    place: the chip's name, for one chip, or a slice such as "v5e:2x2".
    """
    one = place == chip.name
    mesh = aot.slice_mesh(chip, chip.topology if one else place)
    mesh = make_mesh(mesh.devices.flat[:1].tolist()) if one else mesh
    jitted, arguments = abstract_step(setup_of(model, step, mesh, batch * mesh.size))
    return aot.compiled_within(chip, jitted.lower(*arguments), batch)


def step_flops(model: Model, step: str) -> float:
    """Operations of the products for one example: forward and backward, without what is computed twice.

    Counted in the program for a CPU, which keeps every product for the backward pass.
    """
    return product_flops(traced_step(model, step)) / BATCH


def traced_step(model: Model, step: str) -> Jaxpr:
    """The step of `BATCH` examples in the form for a CPU."""
    setup = setup_of(model, step, make_mesh(jax.devices("cpu")[:1]), BATCH)
    jitted, arguments = abstract_step(setup)
    return jax.make_jaxpr(jitted)(*arguments).jaxpr


def setup_of(model: Model, step: str, mesh: Mesh, batch: int) -> Setup:
    recipe = dataclasses.replace(load_recipe(STEPS[step]), precision="fast", batch_size=batch)
    return abstract_setup(model, recipe, mesh)
