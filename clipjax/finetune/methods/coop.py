"""CoOp, context optimisation: only the words around the class name are learned.

Source: Zhou et al. 2022 (IJCV, arXiv 2109.01134); KaiyangZhou/CoOp ff61507, `trainers/coop.py`. The frozen
image tower's BatchNorm is in eval mode, as in the reference.

Options:
    n_ctx: the number of vectors if `init` is empty, drawn from N(0, 0.02^2) with the run's seed.
    position: of the class name; see `clipjax.heads.adapters.coop`.
    csc: each class has its own vectors.
    init: a text ("a photo of a") whose token embeddings are the initial vectors.

Differences: the reference counts the words of `init`, not its tokens, ignores csc with an `init`
(here every class starts from it), and computes in half precision. Dassl drops each epoch's incomplete batch;
here the next epoch fills it: a few steps more.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from clipjax.devices.platforms import platform_of
from clipjax.devices.sharding import DATA, batch_sharding
from clipjax.errors import UsageError
from clipjax.finetune import outcome
from clipjax.finetune.data.batches import feature_batches, image_batches, split_features
from clipjax.finetune.data.splits import Split
from clipjax.finetune.frozen_tower import FrozenTower, frozen_tower
from clipjax.finetune.linear_head import accuracy_on
from clipjax.finetune.method import Method, Outline, Problem, Setup, abstract, feature_batch, image_batch
from clipjax.finetune.training.losses import accuracy, cross_entropy, unit_norm
from clipjax.finetune.training.step import Aux, Loss
from clipjax.finetune.training.trees import Params
from clipjax.heads.adapters.coop import ContextPrompts, CoOp, by_length, class_features, class_prompts
from clipjax.models.input_checks import check_takes_vectors
from clipjax.storage.digests import sha256_json

OPTIONS = {"n_ctx": 16, "position": "end", "csc": False, "init": ""}
_STD = 0.02
LEAST_SAVED = 256  # tokens; see `by_length`


def prepare(setup: Setup) -> Problem:
    """CoOp's problem.

    Raises:
        UsageError: a text tower that cannot take vectors, an unknown position, no vector, or an `init`
            without tokens.
        DataError: a prompt longer than the tower's context.
    """
    check_takes_vectors(setup.model.network.arch)
    context = first_context(setup)
    cached = setup.recipe.augmentation is None
    features = functools.cache(functools.partial(split_features, setup))  # lazily, once per split

    def adapter(params: Params) -> CoOp:
        learned = np.asarray(params["context"], np.float32)
        return CoOp.trained(
            learned, setup.options["position"], setup.options["init"], setup.train.label_space
        )

    def accuracy_of(params: Params, split: Split) -> float:
        head = adapter(params).head(setup.model, split.label_space, precision=setup.recipe.precision)
        return accuracy_on(head, features(split), split)

    return Problem(
        params={**_read(setup), "context": context},
        trained=lambda path: path == "context",
        loss=coop_loss(setup, context.shape[-2]),
        batches=lambda: feature_batches(setup, features(setup.train)) if cached else image_batches(setup),
        steps=setup.steps,
        finish=lambda params: outcome.adapted(setup, adapter(params)),
        accuracy=accuracy_of,
        compiler_options=setup.model.network.compiler_options("text", setup.recipe.precision),
    )


def outline(setup: Setup) -> Outline:
    cached = setup.recipe.augmentation is None
    params = {**_read(setup), "context": abstract(*_shape(setup))}
    batch = feature_batch(setup) if cached else image_batch(setup)
    return Outline(params, lambda path: path == "context", coop_loss(setup, _shape(setup)[-2]), batch)


def _read(setup: Setup) -> Params:
    # Without augmentation, features are computed once and steps encode no images.
    tower = () if setup.recipe.augmentation is None else ("vision",)
    return {name: setup.model.params[name] for name in (*tower, "text", "logit_scale")}


def _shape(setup: Setup) -> tuple[int, ...]:
    """[M, D], or [K, M, D] with class-specific contexts."""
    options, text = setup.options, setup.model.network.arch.text
    if not options["init"] and options["n_ctx"] < 1:
        raise UsageError(f"options.n_ctx = {options['n_ctx']}: CoOp learns one vector or more")
    size = len(_init_ids(setup)) if options["init"] else options["n_ctx"]
    each = (len(setup.train.label_space),) if options["csc"] else ()
    assert text is not None
    return (*each, size, text.width)


def _init_ids(setup: Setup) -> np.ndarray:
    tokenizer, text = setup.model.tokenizer, setup.options["init"].replace("_", " ")
    tokens = tokenizer.encode([text])
    ids = tokens.ids[0, len(tokenizer.start) : tokens.lengths[0] - len(tokenizer.end)]
    if len(ids) == 0:
        raise UsageError(f"options.init = {text!r} has no tokens: give words, or leave it out")
    return ids


def first_context(setup: Setup) -> np.ndarray:
    """The initial context, float32, shaped as `_shape`."""
    shape = _shape(setup)
    if not setup.options["init"]:
        return np.asarray(_STD * jax.random.normal(jax.random.key(setup.seed), shape))
    table = np.asarray(setup.model.params["text"]["token_embedding"], np.float32)
    return np.broadcast_to(table[_init_ids(setup)], shape).copy()


@dataclass(frozen=True)
class CoOpLoss:
    """Cross-entropy of exp(logit_scale) * cosine on {"features" float32 [B,E], "label" int32 [B]}.

    Attributes:
        tower: makes the features from "pixels" uint8 [B,S,S,3] if the recipe augments.
        digest: of the prompts, which it compares by.
        groups: rows of prompts of similar length, encoded together.
    """

    tower: FrozenTower
    prompts: ContextPrompts = field(compare=False)
    digest: str
    groups: tuple[tuple[int, ...], ...]
    remat: bool

    def __call__(self, params: Params, batch: dict[str, Array], key: Array) -> tuple[Array, Aux]:
        images = self.tower.features(params, batch)
        cosines = jnp.matmul(unit_norm(images), unit_norm(self._texts(params)).T, precision="highest")
        logits = jnp.exp(params["logit_scale"]) * cosines
        value = cross_entropy(logits, batch["label"])
        return value, Aux({"accuracy": accuracy(logits, batch["label"])}, {})

    def _texts(self, params: Params) -> Array:
        order = np.argsort(np.concatenate(self.groups))
        return jnp.concatenate([self._texts_of(params, np.asarray(rows)) for rows in self.groups])[order]

    def _texts_of(self, params: Params, rows: np.ndarray) -> Array:
        mesh = self.tower.mesh
        # Repeat the last prompt until the devices can share them evenly: each encodes its part.
        padded = np.pad(rows, (0, -len(rows) % mesh.shape[DATA]), mode="edge")
        context = params["context"] if params["context"].ndim == 2 else params["context"][padded]
        features = class_features(
            self.tower.network,
            params,
            self.prompts.rows(padded),
            context,
            precision=self.tower.precision,
            remat=self.remat,
            platform=platform_of(mesh),
            put=lambda tokens: jax.lax.with_sharding_constraint(tokens, batch_sharding(mesh)),
        )
        return features[: len(rows)]


def coop_loss(setup: Setup, size: int) -> Loss:
    """The loss with `size` context vectors; of pixels where the recipe augments."""
    model, options = setup.model, setup.options
    names = setup.train.label_space.classes
    prompts = class_prompts(model, names, size, options["position"], csc=options["csc"])
    return CoOpLoss(
        tower=frozen_tower(setup),
        prompts=prompts,
        digest=sha256_json([np.asarray(part).tolist() for part in prompts]),
        groups=tuple(tuple(rows.tolist()) for rows in by_length(prompts, LEAST_SAVED)),
        remat=setup.recipe.remat,
    )


METHOD = Method(
    name="coop",
    title="CoOp",
    paper="Zhou et al. 2022 (arXiv 2109.01134)",
    options=OPTIONS,
    prepare=prepare,
    outline=outline,
)
