"""How many images a card states, and how they are named."""

from __future__ import annotations

import pytest

from clipjax.data.card_images import CardIds, missing_of
from clipjax.data.cards import DatasetCard, dataset_names, read_card, shipped_count
from clipjax.errors import DataError

TEN = CardIds(r"val_(\d{2})", 1, 10)


def card(images: int | None = 10, ids: CardIds | None = TEN) -> DatasetCard:
    return DatasetCard("ten", "Ten", "folder", images=images, ids=ids)


def named(numbers: range) -> list[str]:
    return [f"class/val_{k:02}.JPEG" for k in numbers]


def test_all_images_whatever_their_folders():
    assert missing_of(card(), named(range(1, 11))) is None
    assert missing_of(card(), [f"{k}" for k in range(10)]) is None  # renamed: the names tell nothing
    assert missing_of(card(), named(range(1, 6)), more=5) is None


@pytest.mark.parametrize(
    ("ids", "part"),
    [
        (named(range(1, 4)), {"images": 3, "of": 10}),
        (["a", "b"], {"images": 2, "of": 10}),
        (named(range(2, 12)), {"images": 10, "of": 10, "foreign": 1}),
        ([*named(range(1, 10)), "other.png"], {"images": 10, "of": 10, "foreign": 1}),
        ([*named(range(1, 10)), "again/val_03.png"], {"images": 10, "of": 10, "foreign": 1}),
        (["a"] * 12, {"images": 12, "of": 10}),
    ],
)
def test_other_images_than_the_cards(ids, part):
    assert missing_of(card(), ids) == part


def test_what_no_card_states_is_not_told():
    assert missing_of(None, ["a"]) is None
    assert missing_of(card(images=None), named(range(3))) is None
    assert (shipped_count("imagenet_val"), shipped_count("imagenet_3dcc:fog_3d:1")) == (50000, 50000)
    assert (shipped_count("my_photos"), shipped_count("imagenet_sketch")) == (None, None)


def test_imagenets_names_are_those_of_its_archive():
    ids = read_card("imagenet_val").ids
    assert ids is not None
    assert ids == read_card("imagenet_x").ids
    names = [f"n01440764/ILSVRC2012_val_{k:08}.JPEG" for k in (1, 50000)]
    assert (ids.foreign(names), ids.foreign([*names, "ILSVRC2012_val_00050001.JPEG"])) == (0, 1)
    assert all(read_card(name).images for name in dataset_names() if read_card(name).ids)


@pytest.mark.parametrize(
    ("ids", "problem"),
    [
        ("3", "ids = 3 must be a table"),
        ('{ pattern = "a", first = 1, last = 2 }', "one group"),
        ('{ pattern = "(a", first = 1, last = 2 }', "not a regular expression"),
        ('{ pattern = "(a)", first = 3, last = 2 }', "first <= last"),
        ('{ pattern = "(a)", first = "1", last = 2 }', "first = '1' must be a whole number"),
    ],
)
def test_a_pattern_that_names_no_images_is_refused(tmp_path, ids, problem):
    path = tmp_path / "mine.toml"
    path.write_text(f'name = "mine"\ntitle = "Mine"\nreader = "folder"\nids = {ids}\n')
    with pytest.raises(DataError, match=problem):
        read_card(path)
