"""A conditioned reference model and ours of its weights, compared stage by stage: for the parity tests."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch

from clipjax.checkpoints.identity.registry import model_card
from clipjax.checkpoints.model import Model
from clipjax.models.arch import Arch, arch_to_dict, load_arch, narrow_arch
from clipjax.models.families.convolutions.mbconv import MBConvConfig
from clipjax.models.families.patches.swin import SwinConfig
from clipjax.models.network import Network
from clipjax.verification import verify
from converters.engine import convert, detect_table, flatten, nest
from converters.golden import build_model, run
from converters.golden.condition import condition

torch.set_num_threads(1)  # on a shared machine more of them wait for each other


def forced(config: Any, **changes: Any) -> Any:
    """A tower's config with other fields, also with values that its annotations exclude."""
    config = copy.copy(config)
    for name, value in changes.items():
        object.__setattr__(config, name, value)
    return config


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A torch tensor as the converter takes it."""

    value: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape)

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(str(self.value.dtype).removeprefix("torch."))

    def rows(self, start: int, stop: int) -> Tensor:
        return Tensor(self.value[start:stop])

    def read(self, out: np.ndarray | None = None) -> np.ndarray:
        array = self.value.numpy()
        return array.copy() if out is None else np.copyto(out, array) or out


def source_of(model: Any) -> dict[str, Tensor]:
    return {key: Tensor(tensor) for key, tensor in model.state_dict().items()}


@dataclasses.dataclass(frozen=True)
class Case:
    """The reference, our record and params of it, and what the reference computes."""

    arch: Arch
    theirs: Any
    params: dict[str, Any]
    golden: verify.Golden

    @property
    def tower(self) -> Any:
        """The reference's image tower."""
        return getattr(self.theirs, "visual", self.theirs)

    def compare(self, params: Any = None, **vision: Any) -> verify.VerificationReport:
        """Our side against the reference, with other params or other fields of the vision config."""
        arch = dataclasses.replace(self.arch, vision=forced(self.arch.vision, **vision))
        card = dataclasses.replace(model_card("vit_b_32-openai"), arch=arch, tokenizer=None)
        return verify.compare(Model(card, params or self.params), "golden", self.golden)

    def first_difference(self, params: Any = None, *, until: str | None = None, **vision: Any) -> str | None:
        """The first stage of the image tower that differs, with other params or fields of its config.

        Stages after `until` are not compiled: a test that expects a difference there needs none of them.
        """
        arch = dataclasses.replace(self.arch, vision=forced(self.arch.vision, **vision))
        return self._first_difference(program(arch, until), params or self.params)

    def difference_of(self, params: Any) -> str | None:
        """`first_difference` with other params alone: all calls share one program, that of `compare`."""
        return self._first_difference(
            functools.partial(verify._capture, Network(self.arch), "vision"), params
        )

    def _first_difference(self, encode: Any, params: Any) -> str | None:
        _, stages = encode(params, self.golden.inputs["images"])
        for name, theirs in self.golden.stages.items():
            ours = stages.get(name.removeprefix("vision."))
            if ours is not None and not verify.compare_stage(name, np.asarray(ours), theirs).passed:
                return name
        return None

    def rerun(self) -> dict[str, np.ndarray]:
        """What the reference computes, changed as it may be by now."""
        return run(self.theirs, self.golden.inputs["images"], self.golden.inputs.get("ids"))

    def movement(self) -> float:
        """How far the reference's image features are, changed as it may be by now, from what they were."""
        before, after = (features_of(stages) for stages in (self.golden.stages, self.rerun()))
        return float(np.abs(after - before).max() / np.abs(before).max())


def program(arch: Arch, until: str | None = None) -> Any:
    """(params, images) -> features and stages, compiled once; of `until` and the stages before it alone."""
    encode = functools.partial(Network(arch).encode_image, precision="parity", capture=True)

    def beginning(params: Any, images: Any) -> tuple[None, dict[str, Any]]:
        _, stages = encode(params, images)
        names = list(stages)
        return None, {name: stages[name] for name in names[: names.index(last) + 1]}

    last = (until or "").removeprefix("vision.")
    return jax.jit(beginning if last else encode)


def edited(params: Any, part: str, edit: Callable[[np.ndarray], np.ndarray]) -> Any:
    """Params with `edit` applied to every leaf of the image tower whose path ends in `part`."""
    leaves = {path: np.asarray(leaf) for path, leaf in flatten(params).items()}
    named = [path for path in leaves if path.startswith("vision/") and path.endswith(part)]
    changed = {path: edit(leaves[path]) for path in named}
    assert named
    assert not any(np.array_equal(leaves[path], leaf) for path, leaf in changed.items())
    return nest(leaves | changed)


def features_of(stages: dict[str, Any]) -> np.ndarray:
    return np.asarray(stages["image_embedding" if "image_embedding" in stages else "features"])


def case_of(arch: Arch, theirs: Any) -> Case:
    condition(theirs, 0)
    inputs = verify.random_inputs(arch, 3, 0)
    source = source_of(theirs)
    leaves = convert(source, Network(arch).abstract_params(), detect_table(source))
    golden = verify.Golden(inputs, run(theirs, inputs["images"], inputs.get("ids")), {})
    # jnp.asarray compiles a program for each shape.
    return Case(arch, theirs, jax.device_put(nest(leaves)), golden)


@functools.cache
def narrow_case(name: str, library: str, theirs: str | None = None) -> Case:
    """`name` is ours and, unless `theirs` is given, the library's."""
    arch = narrow_arch(load_arch(name))
    return case_of(arch, build_model(theirs or name, library, arch_to_dict(arch)))


def shallow(arch: Arch) -> Arch:
    """An EfficientNet or Swin with as few blocks as have every kind of layer, a residual and a loop."""
    vision: Any = arch.vision
    if isinstance(vision, MBConvConfig):
        looped = next(number for number, stage in enumerate(vision.stages) if stage.depth > 2)
        depths = [3 if number == looped else 1 for number in range(len(vision.stages))]
        stages = [dataclasses.replace(stage, depth=depth) for stage, depth in zip(vision.stages, depths)]
        vision = dataclasses.replace(vision, stages=tuple(stages))
    if isinstance(vision, SwinConfig):  # of two blocks the second shifts its windows; pairs are a loop
        depths = [4 if number == 2 else 2 for number in range(len(vision.depths))]
        vision = dataclasses.replace(vision, depths=tuple(depths))
    return dataclasses.replace(arch, vision=vision)


@functools.cache
def shallow_case(name: str, library: str) -> Case:
    arch = shallow(narrow_arch(load_arch(name)))
    return case_of(arch, build_model(name, library, arch_to_dict(arch)))
