"""Few-shot lists and splits: drawn once, refused when changed; no choice is made on a test set."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from clipjax.data.cards import Dataset, dataset_names, load_dataset, read_card
from clipjax.data.labels import LabelSpace
from clipjax.data.manifest import FileOpener, Manifest
from clipjax.errors import DataError, UsageError
from clipjax.finetune.data import splits
from clipjax.finetune.data.shots import draw_shots, hold_out, read_shots, write_shots
from clipjax.finetune.data.splits import (
    TestSplit,
    TrainSplit,
    ValidationSplit,
    class_counts,
    refuse_overlap,
    train_split,
    validation_split_of,
)
from clipjax.finetune.search import validation_split

CLASSES = ("cat", "dog", "newt")
COUNTS = {"cat": 9, "dog": 20, "newt": 13}


def paint(root: Path, counts: dict[str, int], shade: int = 0) -> Path:
    """Class folders of images that all differ; another shade, other images."""
    for k, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for i in range(count):
            PIL.Image.new("RGB", (2, 2), (k, i, shade)).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint(tmp_path_factory.mktemp("pets"), COUNTS)


@pytest.fixture(scope="module")
def split(root: Path) -> TrainSplit:
    return train_split(load_dataset("folder", root))


def ids(split: splits.Split) -> set[str]:
    return set(split.manifest.ids)


def test_a_list_has_as_many_images_of_each_class_and_a_smaller_one_lies_in_it(split):
    drawn = [draw_shots(split, n, seed=1) for n in (1, 4, 9)]
    for n, shots in zip((1, 4, 9), drawn):
        chosen = shots.of(split)
        assert type(chosen) is TrainSplit
        assert class_counts(chosen).tolist() == [n, n, n]
        assert chosen.manifest.ids == shots.ids == tuple(sorted(shots.ids))
        assert [CLASSES[k] for k in chosen.labels] == [name.split("/")[0] for name in shots.ids]
        assert chosen.manifest.open(0) == split.manifest.open(split.manifest.ids.index(shots.ids[0]))
        assert chosen.manifest.selection == f"{n} shots a class, seed 1"
    assert set(drawn[0].ids) < set(drawn[1].ids) < set(drawn[2].ids)
    others = [draw_shots(split, 4, seed).ids for seed in (1, 2, 3)]
    assert len(set(others)) == 3
    # Pinned: a seed stands for the same images in every version.
    assert drawn[0].ids == ("cat/3.png", "dog/18.png", "newt/8.png")


def test_the_order_of_the_data_does_not_matter(split):
    mixed = split.select(np.random.default_rng(0).permutation(len(split)))
    assert set(draw_shots(mixed, 4, seed=2).ids) == set(draw_shots(split, 4, seed=2).ids)


def test_all_images_are_drawn_equally_often(split):
    times = dict.fromkeys(split.manifest.ids, 0)
    for seed in range(400):
        for name in draw_shots_ids(split, seed):
            times[name] += 1
    for name, count in times.items():
        share = 2 / COUNTS[name.split("/")[0]]
        assert abs(count / 400 - share) < 4 * np.sqrt(share * (1 - share) / 400), name


def draw_shots_ids(split: TrainSplit, seed: int) -> tuple[str, ...]:
    return draw_shots(dataclasses.replace(split, manifest=without_files(split.manifest)), 2, seed).ids


def without_files(manifest: Manifest) -> Manifest:
    """The same ids; nothing is read to hash contents."""
    return dataclasses.replace(manifest, opener=Unread(manifest.opener))


@dataclasses.dataclass(frozen=True)
class Unread(FileOpener):
    def __init__(self, opener):
        super().__init__(opener.root, opener.paths)

    def select(self, rows):
        return Unread(super().select(rows))

    def content_digests(self, progress=None):
        return list(self.paths)


def test_a_list_is_read_back_as_it_was_written(split, tmp_path):
    shots = draw_shots(split, 4, seed=3)
    file = tmp_path / "lists" / "shots.json"
    write_shots(shots, file)
    assert read_shots(file) == shots
    record = json.loads(file.read_text())
    assert record["sha256"] == shots.sha256 == read_shots(file).sha256
    assert (record["dataset"], record["seed"], record["per_class"]) == ("folder", 3, 4)
    assert record["drawn_from"] == split.manifest.order_digest
    before = file.read_bytes()
    write_shots(draw_shots(split, 4, seed=3), file)
    assert file.read_bytes() == before


@pytest.mark.parametrize("key", ["dataset", "drawn_from", "content", "seed", "per_class", "ids", "sha256"])
def test_a_changed_list_is_refused(split, tmp_path, key):
    file = tmp_path / "shots.json"
    write_shots(draw_shots(split, 4, seed=3), file)
    record = json.loads(file.read_text())
    old = record[key]
    record[key] = old + 1 if isinstance(old, int) else old[::-1]
    file.write_text(json.dumps(record))
    with pytest.raises(DataError, match=r"shots\.json: the list of shots was changed after .*: remove it"):
        read_shots(file)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"sha256": "", "version": 1, "ids": [], "more": 0}'])
def test_what_is_no_list_is_refused_by_its_name(tmp_path, text):
    (tmp_path / "shots.json").write_text(text)
    with pytest.raises(DataError, match=r"shots\.json is not a list of shots: remove it"):
        read_shots(tmp_path / "shots.json")
    with pytest.raises(DataError, match=r"gone\.json does not exist"):
        read_shots(tmp_path / "gone.json")


def test_too_few_images_name_class_and_count(split):
    with pytest.raises(
        DataError, match=r"folder: 10 shots per class are asked for, and the class 'cat' has 9 im"
    ):
        draw_shots(split, 10, seed=1)
    with pytest.raises(DataError, match=r"'cat' has 9 images \(2 classes have too few\)"):
        draw_shots(split, 14, seed=1)
    few = split.select(np.flatnonzero(split.labels != 1))
    with pytest.raises(
        DataError, match=r"1 shots per class are asked for, and the class 'dog' has no images"
    ):
        draw_shots(few, 1, seed=1)
    for call in (draw_shots, hold_out):
        with pytest.raises(UsageError, match="at least 1 image per class"):
            call(split, 0, 1)


def test_a_list_of_other_images_is_refused(split, tmp_path):
    shots = draw_shots(split, 4, seed=1)
    other = dataclasses.replace(split, name="pets")
    with pytest.raises(DataError, match="was drawn from folder, and not from pets"):
        shots.of(other)
    with pytest.raises(
        DataError, match=r"1 of 12 images in the list of shots \(cat/.*not among the 41 training"
    ):
        shots.of(split.select([i for i, name in enumerate(split.manifest.ids) if name != shots.ids[0]]))
    repainted = train_split(load_dataset("folder", paint(tmp_path / "other", COUNTS, shade=1)))
    with pytest.raises(DataError, match="images or labels of folder have changed since"):
        shots.of(repainted)
    relabelled = dataclasses.replace(split, labels=2 - split.labels)
    with pytest.raises(DataError, match="images or labels of folder have changed since"):
        shots.of(relabelled)


def test_what_is_held_out_is_in_neither_the_rest_nor_its_shots(split):
    rest, held = hold_out(split, 3, seed=0)
    assert (type(rest), type(held)) == (TrainSplit, ValidationSplit)
    assert class_counts(held).tolist() == [3, 3, 3]
    assert class_counts(rest).tolist() == [6, 17, 10]
    assert ids(rest) | ids(held) == ids(split)
    assert not ids(rest) & ids(held)
    assert ids(hold_out(split, 3, seed=0)[1]) == ids(held) != ids(hold_out(split, 3, seed=1)[1])
    assert ids(hold_out(split, 2, seed=0)[1]) < ids(held)
    shots = draw_shots(rest, 6, seed=0)
    assert not set(shots.ids) & ids(held)
    assert shots.of(rest).manifest.ids == shots.of(split).manifest.ids, "with and without a hold-out"
    assert shots.ids == draw_shots(split, 6, seed=0).ids, "the other end of the same ranking"
    with pytest.raises(DataError, match=r"or they are held out for validation"):
        draw_shots(split, 9, seed=1).of(rest)
    with pytest.raises(DataError, match=r"9 held out and 1 left to train on .* class 'cat' has 9 images"):
        hold_out(split, 9, seed=0)
    refuse_overlap(held, rest)


def test_a_sample_is_of_the_same_kind(split):
    part = split.sample(10, seed=4)
    assert type(part) is TrainSplit
    assert part.manifest.ids == split.manifest.sample(10, 4).ids
    assert [CLASSES[k] for k in part.labels] == [name.split("/")[0] for name in part.manifest.ids]
    assert len(split.sample(1000)) == len(split)


def dataset(images: TrainSplit, /, **card) -> Dataset:
    return Dataset(
        dataclasses.replace(read_card("folder"), **{"name": "pets", **card}),
        dataclasses.replace(images.manifest, name="pets", labels=images.labels),
        images.label_space,
    )


def test_only_a_card_that_says_so_can_be_trained_or_chosen_on(split):
    assert type(train_split(dataset(split, split="train"))) is TrainSplit
    for kind in ("train", "validation"):
        validation = validation_split_of(dataset(split, split=kind))
        assert type(validation) is ValidationSplit
        assert validation_split(validation, "alpha") is validation
    folder = dataset(split, name="folder")
    assert (type(train_split(folder)), type(validation_split_of(folder))) == (TrainSplit, ValidationSplit)
    with pytest.raises(UsageError, match="pets cannot be training data: results are reported on it"):
        train_split(dataset(split))
    with pytest.raises(UsageError, match=r"pets cannot be training data: its card says split = 'validation'"):
        train_split(dataset(split, split="validation"))
    with pytest.raises(UsageError, match=r"pets cannot be a validation split: results are reported on it"):
        validation_split_of(dataset(split))
    with pytest.raises(UsageError, match=r"its card changes pixels \(pre_crop\)"):
        train_split(dataset(split, split="train", pixels={"pre_crop": 2}))
    test = splits.test_split_of(dataset(split))
    assert type(test) is TestSplit
    with pytest.raises(UsageError, match="alpha cannot be chosen on the test split pets"):
        validation_split(test, "alpha")


def test_no_shipped_test_set_can_be_trained_or_chosen_on(split):
    allowed = {name for name in dataset_names() if read_card(name).split is not None}
    assert allowed == {"imagenet_train", "imagenet_train_tfds", "demo_train"}
    for name in ("imagenet_val", "imagenet_r", "objectnet", "demo_val"):
        card = read_card(name)
        for make in (train_split, validation_split_of):
            with pytest.raises(UsageError, match=f"the data set {name} cannot be "):
                make(dataset(split, **{f.name: getattr(card, f.name) for f in dataclasses.fields(card)}))


def test_a_cards_split_is_one_of_two(tmp_path):
    (tmp_path / "pets.toml").write_text('name = "pets"\ntitle = "Pets"\nreader = "folder"\nsplit = "test"\n')
    with pytest.raises(
        DataError, match=r"pets\.toml: 'split' must be train or validation, not 'test'; leave it"
    ):
        read_card(tmp_path / "pets.toml")


def test_labels_and_images_of_every_class_are_needed(split):
    unlabelled = dataclasses.replace(dataset(split, split="train"), label_space=None)
    with pytest.raises(DataError, match="pets has no class names"):
        train_split(unlabelled)
    manifest = dataclasses.replace(split.manifest, labels=None)
    with pytest.raises(DataError, match="pets has no labels"):
        train_split(dataclasses.replace(dataset(split, split="train"), manifest=manifest))
    few = split.select(np.flatnonzero(split.labels == 1))
    with pytest.raises(DataError, match=r"pets: the class 'cat' \(and 1 more classes\) has no images"):
        train_split(dataset(few, split="train"))
    assert len(validation_split_of(dataset(few, split="validation"), split)) == 20


def test_a_validation_split_of_other_classes_is_refused(split):
    two = dataclasses.replace(
        dataset(split, split="train"), label_space=LabelSpace("x", ("a", "b"), CLASSES[:2])
    )
    with pytest.raises(DataError, match=r"pets and the training split folder have different classes: 'newt'"):
        validation_split_of(two, split)
    turned = dataclasses.replace(two, label_space=LabelSpace("x", CLASSES[::-1], CLASSES[::-1]))
    with pytest.raises(DataError, match="they stand in another order"):
        validation_split_of(turned, split)


def test_images_that_two_splits_share_are_refused_whatever_their_names(split, tmp_path):
    rest, held = hold_out(split, 3, seed=0)
    test = load_dataset("folder", paint(tmp_path / "test", COUNTS, shade=9)).manifest
    assert refuse_overlap(held, test) == refuse_overlap(rest, test) == []
    copy = test.opener.root / Path("newt/renamed.png")  # type: ignore[attr-defined]
    copy.write_bytes(held.manifest.open(0))
    leaky = load_dataset("folder", tmp_path / "test").manifest
    with pytest.raises(
        DataError, match=r"validation split folder holds 1 image of the test split folder \(newt/ren"
    ):
        refuse_overlap(held, leaky)
    assert refuse_overlap(rest, leaky) == []
    with pytest.raises(
        DataError, match=r"the training split folder holds 3\d images of the test split folder \("
    ):
        refuse_overlap(rest, split.manifest)
    with pytest.raises(
        DataError, match="validation split folder holds 9 images of the training split folder"
    ):
        refuse_overlap(held, split)


def test_a_few_copies_in_training_data_are_reported_and_not_refused(split):
    """Published sets hold copies of their own images: one in a thousand is told, and more are refused."""
    contents = split.manifest.opener.content_digests()
    names = tuple(f"{i}.png" for i in range(2000))

    @dataclasses.dataclass(frozen=True)
    class Test(FileOpener):
        copies: int = 0

        def content_digests(self, progress=None):
            return [*contents[: self.copies], *self.paths[self.copies :]]

    def test(copies: int) -> Manifest:
        return Manifest(names, Test("", names, copies), name="test")

    assert refuse_overlap(split, test(2)) == ["0.png", "1.png"]
    with pytest.raises(DataError, match="holds 3 images of the test split test"):
        refuse_overlap(split, test(3))
