"""Another temperature: the zero-shot head of the base with a learned logit scale."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from clipjax.data.labels import LabelSpace, load_prompts
from clipjax.errors import DataError
from clipjax.heads.build import zeroshot_head
from clipjax.heads.head import Head


@dataclasses.dataclass(frozen=True, eq=False)
class Tempered:
    """The head of `template` with this scale."""

    scale: float
    template: str
    kind = "tempered"
    labels = None

    @property
    def tensors(self) -> Mapping[str, np.ndarray]:
        return {"scale": np.array([self.scale], np.float32)}

    @property
    def facts(self) -> Mapping[str, Any]:
        return {"template": self.template}

    @property
    def prompts(self) -> str:
        return f"{self.template}, tempered"

    @classmethod
    def from_parts(cls, tensors: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> Tempered:
        if tensors.keys() != {"scale"} or facts.keys() != {"template"}:
            raise DataError(f"a tempered head has a scale and a template, not {sorted([*tensors, *facts])}")
        return cls(float(tensors["scale"][0]), facts["template"])

    def head(self, model: Any, labels: LabelSpace, **how: Any) -> Head:
        return dataclasses.replace(
            zeroshot_head(model, labels, load_prompts(self.template), **how), scale=self.scale
        )


ADAPTER = Tempered
