"""Embed small data sets together: alone, one leaves most of a large step empty."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import jax

from clipjax.checkpoints.encoder import Encoder
from clipjax.data.pixels.preprocess import PixelRecipe
from clipjax.devices.agreement import assert_same_everywhere, on_all
from clipjax.embeddings.batch_size import IMAGE_BATCH
from clipjax.embeddings.compute import Compute, EmbedStats
from clipjax.embeddings.images import embed_many
from clipjax.evaluation.plans.ready import hash_images
from clipjax.evaluation.subject import ImageData, Subject
from clipjax.storage.digests import sha256_json

_log = logging.getLogger(__name__)

SMALL = 8  # steps of all devices: in a larger data set, less than an eighth is padding


def embed_ahead(
    model: Encoder, subjects: Sequence[Subject], precisions: Sequence[str], compute: Compute
) -> dict[str, EmbedStats]:
    """Embed the small data sets of a model's runs into the store; errors are left to each run.

    An unreadable image is left out; a run that may not skip it makes the shard anew, and stops there.

    Returns: statistics by data set.
    """
    if compute.store is None or model.card.fingerprint is None or not subjects:
        return {}
    skipping = replace(compute, on_error="skip")
    done: dict[str, EmbedStats] = {}
    for recipe, data_sets in _agreed(subjects, compute).items():
        try:
            _embed(model, recipe, data_sets, precisions, skipping, done)
        except Exception as error:  # e.g. the devices are out of memory
            _log.info("%d small data sets not embedded in one stream: %s", len(data_sets), error)
    return done


def _agreed(subjects: Sequence[Subject], compute: Compute) -> dict[PixelRecipe, dict[str, ImageData]]:
    """Empty if a process cannot read a data set, or the processes differ."""
    try:
        with on_all("read the small data sets"):
            small = _small(subjects, compute)
        names = [[recipe.key(), list(data_sets)] for recipe, data_sets in small.items()]
        assert_same_everywhere("what is embedded in one stream", sha256_json(names))
    except Exception as error:
        _log.info("no data sets embedded in one stream: %s", error)
        return {}
    return small


def _small(subjects: Sequence[Subject], compute: Compute) -> dict[PixelRecipe, dict[str, ImageData]]:
    size = compute.per_device_batch
    batch = size if isinstance(size, int) else IMAGE_BATCH
    by_recipe: dict[PixelRecipe, dict[str, ImageData]] = {}
    for data in itertools.chain.from_iterable(subject.embedded for subject in subjects):
        if len(data.manifest) < SMALL * jax.device_count() * batch:
            by_recipe.setdefault(data.pixels, {}).setdefault(data.name, data)
    small = {recipe: data_sets for recipe, data_sets in by_recipe.items() if len(data_sets) > 1}
    for data in itertools.chain.from_iterable(data_sets.values() for data_sets in small.values()):
        hash_images(data.manifest, compute.progress)
    return small


def _embed(
    model: Encoder,
    recipe: PixelRecipe,
    data_sets: Mapping[str, ImageData],
    precisions: Sequence[str],
    compute: Compute,
    done: dict[str, EmbedStats],
) -> None:
    manifests = [data.manifest for data in data_sets.values()]
    for precision in precisions:
        sets = embed_many(model, manifests, compute, precision=precision, recipe=recipe)
        for name, each in zip(data_sets, sets):
            done[name] = each.stats.plus(done[name]) if name in done else each.stats
