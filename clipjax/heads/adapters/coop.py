"""CoOp: class prompts with learned vectors in place of the words around the class name.

Source: Zhou et al. 2022 (IJCV, arXiv 2109.01134); KaiyangZhou/CoOp ff61507, `trainers/coop.py`. A prompt is
[start] [V_1] ... [V_M] [class name] "." [end]. `position` "middle" puts the name after half of the vectors,
"front" before all.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Float32, Int, Int32

from clipjax.checkpoints.encoder import Encoder
from clipjax.data.labels import LabelSpace
from clipjax.embeddings.texts import CHUNK, stored, text_key
from clipjax.errors import DataError, UsageError
from clipjax.guards import known_name
from clipjax.heads.adapters.base import adapter_digest
from clipjax.heads.build import logit_scale
from clipjax.heads.head import Head
from clipjax.models.input_checks import check_takes_vectors
from clipjax.models.network import Network
from clipjax.models.precision import Precision, known_precision
from clipjax.models.unit_norm import unit_norm
from clipjax.progress import progress_bar

Position = Literal["end", "middle", "front"]


class ContextPrompts(NamedTuple):
    """Class prompts with room for a context.

    Attributes:
        ids: token ids; 0 for a context vector.
        slots: the number of the context vector there; -1 for a token.
        positions: where the tower reads a prompt out.
        shared: the number of leading columns, before every position, that all prompts share.

    With two vectors and `position` "end":
        text     start  V_1  V_2  cat  .   end
        slots    -1     0    1    -1   -1  -1
    """

    ids: Int32[np.ndarray | Array, "K L"]
    slots: Int32[np.ndarray | Array, "K L"]
    positions: Int32[np.ndarray | Array, " K"]
    shared: int

    def rows(self, rows: Int[np.ndarray, " R"]) -> ContextPrompts:
        """The prompts of some classes, cut after the longest."""
        length = self.positions[rows].max() + 1
        return ContextPrompts(
            self.ids[rows, :length], self.slots[rows, :length], self.positions[rows], self.shared
        )


def class_prompts(
    model: Encoder, names: Sequence[str], size: int, position: str, *, csc: bool
) -> ContextPrompts:
    """Prompts around a context of `size` vectors; with `csc` each class has its own context.

    An underscore in a name becomes a space.

    Raises:
        UsageError: an unknown position, or a text tower that takes no vectors.
        DataError: a prompt longer than the tower's context; names the class.
    """
    known_name("position", position, get_args(Position))
    network = _network(model)
    check_takes_vectors(network.arch)
    tokenizer, tower = model.tokenizer, network.arch.text
    assert tower is not None
    start, end, context = len(tokenizer.start), len(tokenizer.end), tower.context_length
    names = [name.replace("_", " ") for name in names]
    texts, alone = tokenizer.encode([name + "." for name in names]), tokenizer.encode(names)
    ids = np.full((len(names), context), tokenizer.pad_id, np.int32)
    slots = np.full((len(names), context), -1, np.int32)
    for k, name in enumerate(names):
        length = texts.lengths[k] + size
        if texts.truncated[k] or length > context:
            raise DataError(
                f"the prompt of class {name!r} does not fit into the {context} tokens of "
                f"{model.card.id}: shorten the name or n_ctx = {size}"
            )
        body = texts.ids[k, start : texts.lengths[k] - end]
        order = _arrange(len(body), int(alone.lengths[k]) - start - end, size, position)
        ids[k, :length] = [
            *tokenizer.start,
            *(0 if vector >= 0 else body[token] for vector, token in order),
            *tokenizer.end,
        ]
        slots[k, start : length - end] = [vector for vector, _ in order]
    return _cut(ids, slots, tower, csc)


def _arrange(tokens: int, name: int, size: int, position: str) -> list[tuple[int, int]]:
    """The entries between start and end: (vector number, -1) or (-1, token number).

    The first `name` tokens are the class name's.
    """
    before = {"end": size, "middle": size // 2, "front": 0}[position]
    vectors, body = [(i, -1) for i in range(size)], [(-1, i) for i in range(tokens)]
    if position == "end":
        return vectors + body
    return vectors[:before] + body[:name] + vectors[before:] + body[name:]


def _cut(
    ids: Int32[np.ndarray, "K L"], slots: Int32[np.ndarray, "K L"], tower: Any, csc: bool
) -> ContextPrompts:
    reach = tower.reach(ids)
    ids, slots = ids[:, : reach.max()], slots[:, : reach.max()]
    if tower.min_length > 1:  # all tokens see each other
        return ContextPrompts(ids, slots, reach - 1, 0)
    # Leading columns that all prompts share run once.
    same = (ids == ids[0]).all(axis=0) & (slots == slots[0]).all(axis=0)
    if csc:
        same &= (slots < 0).all(axis=0)
    shared = int(np.argmin(np.append(same, False)))
    return ContextPrompts(ids, slots, reach - 1, min(shared, int(reach.min()) - 1))


def by_length(prompts: ContextPrompts, least: int) -> list[Int[np.ndarray, " R"]]:
    """Rows of prompts in one to three groups of similar length; a further group must save `least` tokens.

    A group is as long as its longest prompt: ImageNet keeps a third of the tokens. Each is one more pass to
    compile.
    """
    lengths = prompts.positions + 1 - prompts.shared
    *shorter, longest = np.unique(lengths).tolist()
    # Lengths 4, 4, 5 and 20 in groups up to 5 and 20: three prompts of 5 tokens and one of 20, 35 tokens
    # where one group has 80.

    def tokens(ends: tuple[int, ...]) -> int:
        return int(np.asarray(ends)[np.searchsorted(ends, lengths)].sum())

    choices = [(*cuts, longest) for more in range(3) for cuts in itertools.combinations(shorter, more)]
    ends = np.array(min(choices, key=lambda ends: tokens(ends) + least * len(ends)))
    group = np.searchsorted(ends, lengths)
    return [np.flatnonzero(group == k) for k in range(len(ends))]


def class_features(
    network: Network,
    params: Mapping[str, Any],
    prompts: ContextPrompts,
    context: Float32[Array, "*C M D"],
    *,
    precision: Precision,
    remat: bool = False,
    platform: str | None = None,
    put: Callable[[Array], Array] = lambda tokens: tokens,
) -> Float32[Array, "K E"]:
    """Text features, not of unit norm, around a context [M, D] or (class-specific) [K, M, D].

    put: puts tokens [K, L, D] on devices, inside a jit.
    """
    table, shared = params["text"]["token_embedding"], prompts.shared
    first = _vectors(table, prompts.ids[:1, :shared], prompts.slots[:1, :shared], context)[0]
    tokens = _vectors(table, prompts.ids[:, shared:], prompts.slots[:, shared:], context)
    return network.encode_embedded(
        dict(params),
        put(tokens),
        jnp.asarray(prompts.positions),
        precision=precision,
        beginning=first,
        remat=remat,
        platform=platform,
    )


def _vectors(
    table: Float[Array | np.ndarray, "V D"],
    ids: Int32[Array | np.ndarray, "K L"],
    slots: Int32[Array | np.ndarray, "K L"],
    context: Float32[Array, "*C M D"],
) -> Float32[Array, "K L D"]:
    words = jnp.take(jnp.asarray(table, jnp.float32), ids, axis=0, mode="clip")
    if isinstance(slots, np.ndarray) and (slots < 0).all():
        return words  # known while JAX traces: no gradient to the context
    index = jnp.maximum(slots, 0)
    if context.ndim == 2:
        vectors = jnp.take(context, index, axis=0, mode="clip")
    else:
        vectors = jnp.take_along_axis(context[: len(ids)], index[..., None], axis=1, mode="clip")
    return jnp.where((jnp.asarray(slots) >= 0)[..., None], vectors, words)


@dataclass(frozen=True, eq=False)
class CoOp:
    """A learned context.

    Attributes:
        context: float32 [M, D], or [K, M, D] with class-specific contexts.
        init: the text that the vectors started from, "" for random ones.
        classes: {"name", "digest"} of the training label space; with class-specific contexts also "ids" and
            "names", [K] each.
    """

    context: np.ndarray
    position: Position
    init: str
    classes: Mapping[str, Any]

    kind = "coop"

    @classmethod
    def trained(
        cls, context: Float32[np.ndarray, "*C M D"], position: Position, init: str, labels: LabelSpace
    ) -> CoOp:
        own = {"ids": list(labels.ids), "names": list(labels.classes)} if context.ndim == 3 else {}
        return cls(context, position, init, {"name": labels.name, "digest": labels.digest, **own})

    @property
    def tensors(self) -> Mapping[str, np.ndarray]:
        return {"context": self.context}

    @property
    def facts(self) -> Mapping[str, Any]:
        return {"position": self.position, "csc": self.csc, "init": self.init, "classes": dict(self.classes)}

    @property
    def csc(self) -> bool:
        return self.context.ndim == 3

    @property
    def labels(self) -> LabelSpace | None:
        if not self.csc:
            return None
        return LabelSpace(self.classes["name"], tuple(self.classes["names"]), tuple(self.classes["ids"]))

    @property
    def prompts(self) -> str:
        position = "" if self.position == "end" else f", name in the {self.position}"
        return f"CoOp, {self.context.shape[-2]} vectors{' a class' if self.csc else ''}{position}"

    @classmethod
    def from_parts(cls, tensors: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> CoOp:
        if set(tensors) != {"context"} or set(facts) != {"position", "csc", "init", "classes"}:
            raise DataError(
                "a CoOp adapter is the tensor context and the facts position, csc, init and classes, not "
                f"{', '.join(sorted([*tensors, *facts])) or 'nothing'}"
            )
        context = np.asarray(tensors["context"])
        if problem := _problem(context, facts):
            raise DataError(f"a CoOp adapter with {problem}: save the model again")
        return cls(context, facts["position"], facts["init"], facts["classes"])

    def head(
        self,
        model: Encoder,
        labels: LabelSpace,
        *,
        precision: str = "parity",
        store: Any = None,
        progress: bool = False,
    ) -> Head:
        """The head over any label space; class-specific contexts take only (some of) their own classes.

        Raises:
            UsageError: another class, a tower of another width, or as `class_prompts`.
            DataError: a prompt is too long, or its features have no direction; names the class.
        """
        tower = _network(model).arch.text
        width = None if tower is None else tower.width
        if width != self.context.shape[-1]:
            raise UsageError(
                f"these CoOp vectors have {self.context.shape[-1]} numbers, and the text tower of "
                f"{model.card.id} takes {width}: use the model that they were trained with"
            )
        context = self._context_of(labels)
        scale = logit_scale(model.card)
        key = text_key(model, "coop_head", precision, context=adapter_digest(self), classes=labels.digest)
        about = {"model": str(model.card.id), "data": f"{self.prompts}, of {labels.name}", "selection": ""}

        def compute() -> np.ndarray:
            prompts = class_prompts(model, labels.classes, context.shape[-2], self.position, csc=self.csc)
            return _embed(model, prompts, context, known_precision(precision), labels, progress)

        kernel = jnp.asarray(stored(store, key, about, labels.ids, compute).T)
        bias = (
            None
            if model.card.logit_bias is None
            else jnp.full(len(labels), model.card.logit_bias, jnp.float32)
        )
        return Head(kernel, bias, scale, normalize=True, label_space=labels)

    def _context_of(self, labels: LabelSpace) -> Float32[np.ndarray, "*C M D"]:
        if not self.csc:
            return self.context
        row = {name: k for k, name in enumerate(self.classes["ids"])}
        if missing := [name for name, item in zip(labels.classes, labels.ids) if item not in row]:
            raise UsageError(
                f"{missing[0]!r} of {labels.name} is none of the {len(row)} classes that class-specific "
                f"contexts were trained on ({self.classes['name']}): train CoOp with csc = false"
            )
        return self.context[[row[item] for item in labels.ids]]


def _problem(context: np.ndarray, facts: Mapping[str, Any]) -> str | None:
    csc, position, shape = facts["csc"], facts["position"], context.shape
    if context.dtype != np.float32 or len(shape) != (3 if csc else 2) or 0 in shape:
        return f"csc = {csc} has a context of {context.dtype} {list(shape)}"
    if not np.isfinite(context).all():
        return "a context that is not finite"
    if position not in get_args(Position):
        return f"position {position!r}, which is not one of {', '.join(get_args(Position))}"
    lists = [facts["classes"].get(key, ()) for key in ("ids", "names")] if csc else []
    if any(len(each) != shape[0] for each in lists):
        return f"{shape[0]} contexts and {len(lists[0])} classes"
    return None


def _embed(
    model: Encoder,
    prompts: ContextPrompts,
    context: Float32[np.ndarray, "*C M D"],
    precision: Precision,
    labels: LabelSpace,
    progress: bool,
) -> Float32[np.ndarray, "K E"]:
    """Features of unit norm."""
    count = len(prompts.ids)
    size = min(CHUNK, count)
    encode = _encoder(_network(model), precision, prompts.shared)
    parts = []
    with progress_bar(count, "learned prompts", "prompt", shown=progress) as bar:
        for start in range(0, count, size):
            # Repeat the last class to fill the last chunk: all chunks have one shape.
            rows = np.minimum(np.arange(start, start + size), count - 1)
            own = context if context.ndim == 2 else context[rows]
            parts.append(np.asarray(encode(model.params, own, *(part[rows] for part in prompts[:3]))))
            bar.update(min(size, count - start))
    features = np.concatenate(parts)[:count]
    usable = np.isfinite(features).all(axis=1) & (np.abs(features).max(axis=1) > 0)
    if not usable.all():
        name = labels.classes[int(np.argmin(usable))]
        raise DataError(
            f"class {name!r}: the features of its learned prompt have no direction (zero, or not finite)"
        )
    return features


def _network(model: Encoder) -> Network:
    assert model.network is not None  # only a user's own model has none, and takes no adapter
    return model.network


@functools.lru_cache(maxsize=16)
def _encoder(network: Network, precision: Precision, shared: int) -> Callable[..., Array]:
    def encode(
        params: Any,
        context: Float32[Array, "*C M D"],
        ids: Int32[Array, "K L"],
        slots: Int32[Array, "K L"],
        positions: Int32[Array, " K"],
    ) -> Float32[Array, "K E"]:
        prompts = ContextPrompts(ids, slots, positions, shared)
        return unit_norm(class_features(network, params, prompts, context, precision=precision))

    return jax.jit(encode, compiler_options=network.compiler_options("text", precision))


ADAPTER = CoOp
