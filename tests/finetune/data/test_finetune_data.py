"""What methods train on: batches of images and of features in one order, views, features of a split."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import PIL.Image
import pytest
from _drawn import drawn
from tensorflow_datasets import core as tfds_core
from tensorflow_datasets import features as tfds_features

from clipjax.checkpoints.card import Preprocess
from clipjax.data.cards import load_dataset, read_card
from clipjax.data.labels import load_labels
from clipjax.data.manifest import Manifest
from clipjax.data.pixels.augment import Augmentation, augmented_pixels, image_generator
from clipjax.data.pixels.decoders import Decoders
from clipjax.data.pixels.preprocess import open_image, to_pixels
from clipjax.devices.sharding import make_mesh
from clipjax.errors import DataError, UsageError
from clipjax.finetune.data import batches as data
from clipjax.finetune.data.batches import feature_batches, image_batches, split_features, view_batches
from clipjax.finetune.data.splits import TrainSplit, train_split
from clipjax.finetune.method import Settings, Setup
from clipjax.finetune.recipe import recipe_from_dict
from clipjax.models.network import Network
from clipjax.models.unit_norm import unit_norm
from clipjax.storage.store import Store

VIEW = {"scale": [0.5, 1.0], "flip": 0.5}
BATCH = 8


@pytest.fixture(scope="module")
def split(manifest: Manifest) -> TrainSplit:
    assert manifest.labels is not None
    return TrainSplit("demo_train", manifest, manifest.labels, load_labels("demo_shapes"))


@pytest.fixture(scope="module")
def model(network: Network) -> Any:
    """What data needs of a `clipjax.Model`."""
    third = (0.5, 0.5, 0.5)
    card = SimpleNamespace(
        preprocess=Preprocess(16, 16, "shortest", "bicubic", third, third),
        id="tiny",
        kind="zero_shot",
        fingerprint="tiny-1",
    )
    return SimpleNamespace(
        card=card, network=network, params=drawn(network.abstract_params()), adapter=None, outside=None
    )


@pytest.fixture
def setup(model: Any, split: TrainSplit) -> Setup:
    record = {"title": "", "method": "x", "batch_size": BATCH, "epochs": 1, "augmentation": VIEW}
    recipe = recipe_from_dict({"name": "tiny", **record}, "tests")
    settings = Settings(make_mesh(jax.devices()[:1]), progress=False)
    return Setup(model, split, None, recipe, 3, {}, settings)


def rows_of(iterator, steps: int) -> np.ndarray:
    return np.concatenate([next(iterator)["row"] for _ in range(steps)])


def view_of(setup: Setup, epoch: int, row: int) -> np.ndarray:
    manifest = setup.train.manifest
    rng = image_generator(setup.seed, epoch, manifest.ids[row], "pixels")
    return augmented_pixels(open_image(manifest.open(row)), Augmentation((0.5, 1.0), flip=0.5), 16, rng)


def test_image_batches_are_labelled_views_without_end(setup):
    iterator, images = image_batches(setup), len(setup.train)
    assert images % BATCH == 0
    epochs = [[next(iterator) for _ in range(images // BATCH)] for _ in range(2)]
    iterator.close()
    for epoch, batches in enumerate(epochs):
        rows = np.concatenate([batch["row"] for batch in batches])
        assert sorted(rows) == list(range(images))
        for batch in batches:
            assert {name: (x.dtype, x.shape) for name, x in batch.items()} == {
                "pixels": (np.uint8, (BATCH, 16, 16, 3)),
                "label": (np.int32, (BATCH,)),
                "row": (np.int32, (BATCH,)),
            }
            np.testing.assert_array_equal(batch["label"], setup.train.labels[batch["row"]])
            np.testing.assert_array_equal(batch["pixels"][3], view_of(setup, epoch, batch["row"][3]))
    assert [b["row"].tolist() for b in epochs[0]] != [b["row"].tolist() for b in epochs[1]]


def test_without_an_augmentation_pixels_are_the_models_own(setup):
    setup = dataclasses.replace(setup, recipe=dataclasses.replace(setup.recipe, augmentation=None))
    iterator = image_batches(setup)
    batch = next(iterator)
    iterator.close()
    image = open_image(setup.train.manifest.open(batch["row"][0]))
    own = to_pixels(image, setup.model.card.preprocess.recipe(rgb="first"))
    np.testing.assert_array_equal(batch["pixels"][0], own)
    with view_batches(setup, 4) as source:
        np.testing.assert_array_equal(
            next(source)["pixels"][0],
            to_pixels(
                open_image(setup.train.manifest.open(0)), setup.model.card.preprocess.recipe(rgb="first")
            ),
        )


def test_one_of_the_captions_of_a_class_is_drawn_for_each_image_and_epoch(setup):
    classes = len(setup.train.label_space)
    captions = np.arange(classes * 5 * 2, dtype=np.int32).reshape(classes, 5, 2)
    iterator, plain = image_batches(setup, captions=captions), image_batches(setup)
    epochs, drawn = 12, np.zeros(5, int)
    first: dict[int, set[int]] = {}
    for _ in range(epochs * len(setup.train) // BATCH):
        batch = next(iterator)
        assert batch["tokens"].dtype == np.int32
        choice = batch["tokens"][:, 0] // 2 - batch["label"] * 5
        np.testing.assert_array_equal(batch["tokens"], captions[batch["label"], choice])
        drawn += np.bincount(choice, minlength=5)
        for row, which in zip(batch["row"].tolist(), choice.tolist()):
            first.setdefault(row, set()).add(which)
    np.testing.assert_array_equal(
        next(plain)["pixels"], next(image_batches(setup, captions=captions))["pixels"]
    )
    iterator.close()
    plain.close()
    assert np.all(np.abs(drawn / drawn.sum() - 0.2) < 0.06)
    assert all(len(choices) > 1 for choices in first.values())


def test_feature_batches_follow_the_order_of_image_batches_and_resume(setup):
    features = np.random.default_rng(0).standard_normal((len(setup.train), 6), np.float32)
    iterator, images = feature_batches(setup, features), image_batches(setup)
    for _ in range(2 * len(setup.train) // BATCH):
        batch, other = next(iterator), next(images)
        np.testing.assert_array_equal(batch["row"], other["row"])
        np.testing.assert_array_equal(batch["label"], other["label"])
        np.testing.assert_array_equal(batch["features"], features[batch["row"]])
        assert batch["features"].dtype == np.float32
    state = iterator.get_state()
    expected = rows_of(iterator, 3)
    fresh = feature_batches(setup, features)
    fresh.set_state(state)
    np.testing.assert_array_equal(rows_of(fresh, 3), expected)
    for each in (iterator, images, fresh):
        each.close()
    with pytest.raises(ValueError, match="closed"):
        next(iterator)


def test_processes_share_a_batch(setup, monkeypatch):
    features = np.zeros((len(setup.train), 1), np.float32)
    whole = rows_of(feature_batches(setup, features), 4).reshape(4, BATCH)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    parts = []
    for index in range(2):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        parts.append(rows_of(feature_batches(setup, features), 4).reshape(4, BATCH // 2))
        image_rows = rows_of(batches := image_batches(setup), 4).reshape(4, BATCH // 2)
        batches.close()
        np.testing.assert_array_equal(image_rows, parts[-1])
    np.testing.assert_array_equal(np.stack(parts, axis=2).reshape(4, BATCH), whole)
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    for make in (image_batches, lambda setup: feature_batches(setup, features)):
        with pytest.raises(UsageError, match="a batch of 8 does not divide over 3 processes"):
            make(setup)


def test_decoding_as_measured_gives_the_same_batches(setup, monkeypatch):
    """`auto` asks once for each use, with as many images as will be decoded."""
    asked = []

    def chosen(manifest, recipe, rows, *, progress):
        asked.append((manifest.digest, recipe, len(rows), set(rows.tolist())))
        return Decoders(0, 2)

    monkeypatch.setattr(data, "choose", chosen)
    auto = dataclasses.replace(setup, settings=dataclasses.replace(setup.settings, workers="auto"))
    for ours, plain in (
        (image_batches(auto), image_batches(setup)),
        (view_batches(auto, 1), view_batches(setup, 1)),
    ):
        with contextlib.closing(ours), contextlib.closing(plain):
            for a, b in itertools.islice(zip(ours, plain, strict=True), 3):
                assert all(np.array_equal(a[name], b[name]) for name in a.keys() | b.keys())
    manifest, images = setup.train.manifest, len(setup.train)
    recipe = setup.model.card.preprocess.recipe(rgb="first")
    assert asked == [(manifest.digest, recipe, images, set(range(images)))] * 2


def test_view_batches_are_one_pass_in_order(setup):
    setup = dataclasses.replace(setup, train=setup.train.select(range(13)))
    views = []
    for view in range(2):
        with view_batches(setup, view) as source:
            batches = list(source)
        assert np.concatenate([b["row"] for b in batches]).tolist() == [*range(13), -1, -1, -1]
        assert all(set(batch) == {"pixels", "row"} for batch in batches)
        views.append(np.concatenate([batch["pixels"] for batch in batches])[:13])
        np.testing.assert_array_equal(views[view][10], view_of(setup, view, 10))
    assert np.any(views[0] != views[1])


def test_split_features_are_what_the_model_gives_and_are_kept(setup, tmp_path):
    part = setup.train.select([3, 1, 7])
    features = split_features(setup, part)
    recipe = setup.model.card.preprocess.recipe(rgb="first")
    pixels = np.stack([to_pixels(open_image(setup.train.manifest.open(i)), recipe) for i in (3, 1, 7)])
    images = (pixels.astype(np.float32) / 255 - 0.5) / 0.5
    network, params = setup.model.network, setup.model.params
    forward = jax.jit(lambda images: unit_norm(network.encode_image(params, images, precision="parity")))
    expected = forward(images)
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-6)
    store = Store(tmp_path)
    setup = dataclasses.replace(setup, settings=dataclasses.replace(setup.settings, store=store))
    np.testing.assert_array_equal(split_features(setup, part), features)
    assert any(tmp_path.rglob("key.json"))
    broken = dataclasses.replace(
        setup, model=SimpleNamespace(card=setup.model.card, adapter=None, outside=None)
    )
    np.testing.assert_array_equal(split_features(broken, part), features)


class TinyImagenet(tfds_core.GeneratorBasedBuilder):
    """ImageNet's training split as TensorFlow Datasets prepares it: an image of each class."""

    VERSION = tfds_core.Version("5.1.0")

    def _info(self):
        return tfds_core.DatasetInfo(
            builder=self,
            features=tfds_features.FeaturesDict(
                {
                    "image": tfds_features.Image(encoding_format="jpeg"),
                    "label": tfds_features.ClassLabel(names=list(load_labels("imagenet").ids)),
                    "file_name": tfds_features.Text(),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        file = io.BytesIO()
        PIL.Image.new("RGB", (24, 20), "red").save(file, "JPEG")
        for label, name in enumerate(load_labels("imagenet").ids):
            yield label, {"image": file.getvalue(), "label": label, "file_name": f"{name}_{label}.JPEG"}


def test_imagenet_train_is_read_from_tensorflow_datasets_too(setup, tmp_path):
    builder = TinyImagenet(data_dir=str(tmp_path), file_format="array_record")
    builder.download_and_prepare()
    dataset = load_dataset("imagenet_train_tfds", str(builder.data_path))
    train = train_split(dataset)
    assert sorted(train.labels) == list(range(1000))
    row = int(np.flatnonzero(train.labels == 7)[0])
    assert train.manifest.ids[row] == "n01514668_7.JPEG"
    iterator = image_batches(dataclasses.replace(setup, train=train.select([row, *range(8)])))
    assert next(iterator)["pixels"].shape == (BATCH, 16, 16, 3)
    iterator.close()
    card = read_card("imagenet_train")
    assert (card.split, card.tasks, card.images) == ("train", (), dataset.card.images)
    with pytest.raises(DataError, match="holds no class folders"):
        load_dataset("imagenet_train", str(builder.data_path))
