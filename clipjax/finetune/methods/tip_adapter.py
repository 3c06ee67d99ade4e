"""Tip-Adapter: features of the training images beside the zero-shot classifier; nothing is trained.

Source: Zhang et al. 2022 (ECCV, arXiv 2207.09519); gaopengcuhk/Tip-Adapter d0e2d6f, `main_imagenet.py` and
`utils.py`. A key is the mean of the unnormalised features of an image's augmented views, brought to unit
norm. Logits: `clipjax.heads.head.CacheModel`.

Options:
    views: augmented passes over the training images; 0, or no augmentation: one unaugmented pass.
    alpha: used without a search, and to train Tip-Adapter-F.
    beta: used without a search, and to train Tip-Adapter-F.
    search: choose the most accurate pair on the validation split; the first of ties, alpha within beta.
    search_scale, search_step: for [beta, alpha], the grid's exclusive end (it starts at 0.1) and its steps.

Differences: the reference searches on the test images, computes in half precision, and takes 100 for the
logit scale.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

from clipjax.data.labels import load_prompts
from clipjax.data.pixels.normalize import normalize
from clipjax.devices.sharding import batch_sharding, make_mesh, replicated
from clipjax.embeddings.texts import stored
from clipjax.errors import DataError
from clipjax.finetune import outcome
from clipjax.finetune.data.batches import split_features, view_batches
from clipjax.finetune.data.splits import Split, ValidationSplit
from clipjax.finetune.method import Method, Outcome, Outline, Problem, Setup, abstract, abstract_head
from clipjax.finetune.search import validation_split
from clipjax.heads.adapters.tip_adapter import TipAdapter
from clipjax.heads.build import zeroshot_head
from clipjax.heads.head import Head, score_blocks
from clipjax.metrics.cache import count_correct
from clipjax.models.precision import forward_fields
from clipjax.progress import progress_bar
from clipjax.storage.digests import sha256_json

OPTIONS = {
    "views": 10,
    "alpha": 1.17,
    "beta": 1.0,
    "search": True,
    "search_scale": [7.0, 3.0],
    "search_step": [200, 20],
}
WHAT = "alpha and beta"


class Grid(NamedTuple):
    """The betas and alphas of a search, float64."""

    betas: np.ndarray
    alphas: np.ndarray


def prepare(setup: Setup) -> Problem:
    """The method's problem, which has no steps: `finish` does everything.

    Raises:
        UsageError: a search without a validation split, or no text tower.
        DataError: options out of range.
    """
    check(setup)
    head = text_head(setup)

    def finish(params: Mapping[str, Any]) -> Outcome:
        return outcome_of(setup, head, build_keys(setup), functools.partial(split_features, setup))

    return Problem(
        params={},
        trained=lambda path: False,
        loss=_no_loss,
        batches=_no_batches,
        steps=0,
        finish=finish,
    )


def outline(setup: Setup) -> Outline:
    """Errors as `check`."""
    check(setup)
    head = abstract_head(setup)
    params = {"cache": {"keys": abstract(head["kernel"].shape[0], len(setup.train))}, "head": head}
    return Outline({**params, "vision": setup.model.params["vision"]}, lambda path: False, None, {})


def check(setup: Setup) -> None:
    """Refuse impossible options; errors as `prepare`."""
    where, options = f"recipe {setup.recipe.name}: options", setup.options
    if options["views"] < 0:
        raise DataError(f"{where}.views = {options['views']} must be at least 0")
    grid_of(options, where)
    if options["search"]:
        validation_split(setup.validation, WHAT)


def grid_of(options: Mapping[str, Any], where: str = "options") -> Grid:
    """The grid of the options, spaced as in the reference.

        scale 7, step 200: 0.1 + i * (7 - 0.1) / 200 for i = 0 ... 199

    Raises DataError.
    """
    scale, step = options["search_scale"], options["search_step"]
    for name, values, kinds in (("search_scale", scale, (int, float)), ("search_step", step, (int,))):
        if len(values) != 2 or not all(type(value) in kinds and value > 0 for value in values):
            raise DataError(f"{where}.{name} = {values} must be two positive numbers, of beta and of alpha")

    def spaced(end: float, count: int) -> np.ndarray:
        # The reference's formula; np.linspace rounds in another way.
        return np.array([i * (end - 0.1) / count + 0.1 for i in range(count)])

    return Grid(spaced(scale[0], step[0]), spaced(scale[1], step[1]))


def text_head(setup: Setup) -> Head:
    recipe, settings = setup.recipe, setup.settings
    return zeroshot_head(
        setup.model,
        setup.train.label_space,
        load_prompts(recipe.prompts),
        precision=recipe.precision,
        store=settings.store,
        progress=settings.progress,
    )


def values_of(setup: Setup) -> np.ndarray:
    """int32 [N], the class of each key; keys are in class order."""
    return np.sort(setup.train.labels).astype(np.int32)


def build_keys(setup: Setup) -> np.ndarray:
    """The keys, float32 [D, N] of unit norm, ordered as `values_of`; kept in the store.

    Raises:
        DataError: an image is unreadable, or its features have no direction; names it.
    """
    order = np.argsort(setup.train.labels, kind="stable")
    if setup.options["views"] == 0 or setup.recipe.augmentation is None:
        return np.ascontiguousarray(split_features(setup, setup.train)[order].T)
    ids = setup.train.manifest.ids
    about = {"model": str(setup.model.card.id), "data": f"views of {setup.train.name}", "selection": ""}
    mean = stored(setup.settings.store, _key(setup), about, ids, lambda: _mean_features(setup))
    norm = np.linalg.norm(mean, axis=1, keepdims=True)
    if not (usable := np.isfinite(norm[:, 0]) & (norm[:, 0] > 0)).all():
        name = ids[int(np.argmin(usable))]
        raise DataError(f"{name}: the mean of its features has no direction (zero, or not finite)")
    return np.ascontiguousarray((mean / norm)[order].T)


def _key(setup: Setup) -> dict[str, Any] | None:
    """The store key of the mean features; None: they must not be stored."""
    card, recipe = setup.model.card, setup.recipe
    if card.fingerprint is None:
        return None
    assert recipe.augmentation is not None
    return {
        "output": "mean_of_views",
        "model": card.fingerprint,
        **forward_fields(recipe.precision),
        "pixels": card.preprocess.recipe(rgb="first").key(),
        "data": setup.train.manifest.images_digest,
        "precision": recipe.precision,
        "views": setup.options["views"],
        "augmentation": sha256_json(recipe.to_dict()["augmentation"]),
        "seed": setup.seed,
    }


def _mean_features(setup: Setup) -> np.ndarray:
    """float32 [N, D], averaged over views, in manifest order."""
    views, images = setup.options["views"], len(setup.train)
    encode, total = _encoder(setup), None
    with progress_bar(views * images, "views", "image", shown=setup.settings.progress) as bar:
        for view in range(views):
            with view_batches(setup, view) as batches:
                for batch in batches:
                    rows = batch["row"]
                    features = encode(batch["pixels"])[: len(rows)][rows >= 0]
                    total = np.zeros((images, features.shape[1])) if total is None else total
                    total[rows[rows >= 0]] += features
                    bar.update(len(features))
    assert total is not None
    return (total / views).astype(np.float32)


def _encoder(setup: Setup) -> Callable[[np.ndarray], np.ndarray]:
    """Pixels uint8 [B,S,S,3] -> features float64 [>= B, D], not normalised."""
    network, card, precision = setup.model.network, setup.model.card, setup.recipe.precision
    mean, std = card.preprocess.mean, card.preprocess.std
    mesh = _own_devices(setup.settings.mesh)

    def forward(params: Any, pixels: Array) -> Array:
        return network.encode_image(params, normalize(pixels, mean, std), precision=precision)

    step = jax.jit(
        forward,
        in_shardings=(replicated(mesh), batch_sharding(mesh)),
        compiler_options=network.compiler_options("vision", precision),
    )
    params = jax.device_put({"vision": setup.model.params["vision"]}, replicated(mesh))

    def encode(pixels: np.ndarray) -> np.ndarray:
        padded = np.pad(pixels, ((0, -len(pixels) % mesh.size), *((0, 0),) * 3))
        return np.asarray(step(params, jax.device_put(padded, batch_sharding(mesh))), np.float64)

    return encode


def _own_devices(mesh: Mesh) -> Mesh:
    return make_mesh([each for each in mesh.devices.flat if each.process_index == jax.process_index()])


def outcome_of(
    setup: Setup,
    head: Head,
    keys: np.ndarray,
    features: Callable[[ValidationSplit], np.ndarray],
    *,
    trained: bool = False,
) -> Outcome:
    """The model with a cache of these keys, after any search.

    Args:
        keys: float32 [D, N], ordered as `values_of`.
        features: of a split, float32 [M, D] of unit norm.
    """
    options, values = setup.options, values_of(setup)
    chosen: dict[str, Any] = {"alpha": float(options["alpha"]), "beta": float(options["beta"])}
    if options["search"]:
        chosen = search(setup.validation, head, keys, values, grid_of(options), features)
    adapter = TipAdapter(
        np.asarray(keys, np.float32),
        values,
        chosen["alpha"],
        chosen["beta"],
        trained,
        {"name": str(setup.recipe.prompts), "digest": load_prompts(setup.recipe.prompts).digest},
        setup.train.label_space,
    )
    return outcome.adapted(setup, adapter, chosen if options["search"] else {})


def search(
    split: Split | None,
    head: Head,
    keys: np.ndarray,
    values: np.ndarray,
    grid: Grid,
    features: Callable[[ValidationSplit], np.ndarray],
) -> dict[str, Any]:
    """The most accurate pair on a validation split; errors as `validation_split`.

    Returns: {"alpha", "beta", "validation_accuracy", "validation_images", "pairs"}.
    """
    held_out = validation_split(split, WHAT)
    blocks = _blocks(head, features(held_out), held_out.labels)
    counts = count_correct(blocks, keys, values, grid.betas, grid.alphas)
    i, j = np.unravel_index(int(np.argmax(counts)), counts.shape)  # the first of ties, alpha within beta
    return {
        "alpha": float(grid.alphas[j]),
        "beta": float(grid.betas[i]),
        "validation_accuracy": float(counts[i, j] / len(held_out)),
        "validation_images": len(held_out),
        "pairs": int(counts.size),
    }


def _blocks(
    head: Head, features: np.ndarray, labels: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    for rows, scores in score_blocks(head, features):
        yield features[rows], np.asarray(scores.values), labels[rows]


def _no_loss(params: Any, batch: Any, key: Any) -> Any:
    raise NotImplementedError("Tip-Adapter trains nothing")


def _no_batches() -> Any:
    raise NotImplementedError("Tip-Adapter trains nothing")


METHOD = Method(
    name="tip_adapter",
    title="Tip-Adapter",
    paper="Zhang et al. 2022 (arXiv 2207.09519)",
    options=OPTIONS,
    prepare=prepare,
    outline=outline,
    searches=lambda options: options["search"],
)
