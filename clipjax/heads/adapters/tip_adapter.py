"""Tip-Adapter: a cache of training images beside the zero-shot head.

Source: Zhang et al. 2022 (ECCV, arXiv 2207.09519); gaopengcuhk/Tip-Adapter d0e2d6f, `main_imagenet.py`.
Logits: `clipjax.heads.head.CacheModel`.
alpha is the paper's residual ratio, beta its sharpness (the reference's first release swapped the names:
its issue 4). An alpha has meaning only beside its scale: the model's own, mostly 100, which the reference
always takes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Int32

from clipjax.checkpoints.encoder import Encoder
from clipjax.data.labels import LabelSpace, PromptSet, load_prompts
from clipjax.errors import DataError, UsageError
from clipjax.guards import is_number
from clipjax.heads.build import zeroshot_head
from clipjax.heads.head import CacheModel, Head

_FACTS = {"alpha", "beta", "trained", "prompts", "classes"}


@dataclass(frozen=True, eq=False)
class TipAdapter:
    """A cache of training images (`clipjax.heads.head.CacheModel`).

    Attributes:
        keys: float32 [D, N], of unit norm unless `trained`.
        values: int32 [N], each key's class, an index into `labels`.
        prompt_set: {"name", "digest"} of the zero-shot head's prompts.
    """

    keys: np.ndarray
    values: np.ndarray
    alpha: float
    beta: float
    trained: bool
    prompt_set: Mapping[str, str]
    labels: LabelSpace

    kind = "tip_adapter"

    @property
    def tensors(self) -> Mapping[str, np.ndarray]:
        return {"keys": self.keys, "values": self.values}

    @property
    def facts(self) -> Mapping[str, Any]:
        labels = self.labels
        classes = {"name": labels.name, "ids": list(labels.ids), "names": list(labels.classes)}
        return {
            "alpha": self.alpha,
            "beta": self.beta,
            "trained": self.trained,
            "prompts": dict(self.prompt_set),
            "classes": {**classes, "digest": labels.digest},
        }

    @property
    def title(self) -> str:
        return "Tip-Adapter-F" if self.trained else "Tip-Adapter"

    @property
    def prompts(self) -> str:
        return f"{self.title}, {len(self.values)} keys, {self.prompt_set['name']}"

    @classmethod
    def from_parts(cls, tensors: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> TipAdapter:
        if set(tensors) != {"keys", "values"} or set(facts) != _FACTS:
            raise DataError(
                f"a Tip-Adapter is the tensors keys and values and the facts {', '.join(sorted(_FACTS))}, "
                "not "
                f"{', '.join(sorted([*tensors, *facts])) or 'nothing'}"
            )
        classes, prompts = facts["classes"], facts["prompts"]
        try:
            labels = LabelSpace(classes["name"], tuple(classes["names"]), tuple(classes["ids"]))
            same = len(labels.classes) == len(labels.ids) and labels.digest == classes["digest"]
            prompt_set = {key: str(prompts[key]) for key in ("name", "digest")}
        except (KeyError, TypeError) as error:
            raise DataError(f"a Tip-Adapter without {error} among its facts: save the model again") from None
        if not same:
            raise DataError("a Tip-Adapter whose classes are not those of their digest: save the model again")
        keys, values = np.asarray(tensors["keys"]), np.asarray(tensors["values"])
        if problem := _problem(keys, values, facts, len(labels)):
            raise DataError(f"a Tip-Adapter with {problem}: save the model again")
        return cls(keys, values, facts["alpha"], facts["beta"], facts["trained"], prompt_set, labels)

    def head(
        self,
        model: Encoder,
        labels: LabelSpace,
        *,
        precision: str = "parity",
        store: Any = None,
        progress: bool = False,
    ) -> Head:
        """The zero-shot head of its prompts, with the cache.

        Raises:
            UsageError: other classes, or a model with features of another width.
            DataError: the prompt set has changed since.
        """
        if labels.digest != self.labels.digest:
            raise UsageError(
                f"this {self.title} has images of the {len(self.labels)} classes of {self.labels.name!r} "
                f"and cannot build a head over {labels.name!r} ({len(labels)} classes): use its own classes "
                "and a projection, or train one on the others"
            )
        head = zeroshot_head(
            model, labels, self._read_prompts(), precision=precision, store=store, progress=progress
        )
        if head.kernel.shape[0] != len(self.keys):
            raise UsageError(
                f"the keys of this {self.title} have {len(self.keys)} numbers, and features of "
                f"{model.card.id} {head.kernel.shape[0]}: use the model that it was made with"
            )
        return with_cache(head, self.keys, self.values, self.alpha, self.beta)

    def _read_prompts(self) -> PromptSet:
        prompts = load_prompts(self.prompt_set["name"])
        if prompts.digest != self.prompt_set["digest"]:
            raise DataError(
                f"the prompt set {self.prompt_set['name']} has changed since this {self.title} was made: "
                "bring back the prompts of that time, or train again"
            )
        return prompts


def _problem(keys: np.ndarray, values: np.ndarray, facts: Mapping[str, Any], classes: int) -> str | None:
    if keys.dtype != np.float32 or keys.ndim != 2 or values.shape != keys.shape[1:]:
        return f"keys {keys.dtype} {list(keys.shape)} and values {list(values.shape)}"
    if values.dtype != np.int32 or len(values) == 0 or not 0 <= values.min() <= values.max() < classes:
        return f"values that are not indices into its {classes} classes"
    if not np.isfinite(keys).all() or not all(map(is_number, (facts["alpha"], facts["beta"]))):
        return "keys, alpha or beta that are not finite numbers"
    if not isinstance(facts["trained"], bool):
        return f"trained = {facts['trained']!r}"
    return None


def with_cache(
    head: Head,
    keys: Float32[jax.Array | np.ndarray, "D N"],
    values: Int32[np.ndarray, " N"],
    alpha: float,
    beta: float,
) -> Head:
    cache = CacheModel(
        jnp.asarray(keys, jnp.float32), jnp.asarray(values, jnp.int32), float(alpha), float(beta)
    )
    return dataclasses.replace(head, cache=cache)


ADAPTER = TipAdapter
