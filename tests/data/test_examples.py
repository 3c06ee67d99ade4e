"""Eight images of a data set for a picture: which, with which labels, and never without their border."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipjax.analysis.figures.examples import examples_figure
from clipjax.data.cards import Dataset, DatasetCard, load_dataset
from clipjax.data.examples import SIDE, Example, examples_of
from clipjax.data.labels import LabelSpace
from clipjax.errors import UsageError

CARD = DatasetCard("pets", "Pets", "folder")
RED = (255, 0, 0)


def data_set(folder: Path, card: DatasetCard = CARD, images: int = 6) -> Dataset:
    """Grey cats and white dogs of 12 x 8 pixels."""
    for name, value in (("cat", 90), ("dog", 255)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(images):
            Image.new("RGB", (12, 8), (value,) * 3).save(folder / name / f"{i}.png")
    return load_dataset(card, folder)


def test_the_images_are_those_of_a_sample_with_their_classes(tmp_path: Path) -> None:
    dataset = data_set(tmp_path)
    named = dataclasses.replace(dataset, label_space=LabelSpace("pets", ("a cat", "a dog"), ("cat", "dog")))
    examples = examples_of(named)
    assert [each.name for each in examples] == list(dataset.manifest.sample(8).ids)
    assert [each.label for each in examples] == [f"a {each.name[:3]}" for each in examples]
    assert {each.images[0].max() for each in examples if "dog" in each.label} == {255}
    assert {each.images[0].max() for each in examples if "cat" in each.label} == {90}
    assert {each.images[0].shape for each in examples} == {(8, 12, 3)}, "no small image grows"


def test_few_images_are_all_shown(tmp_path: Path) -> None:
    assert len(examples_of(data_set(tmp_path, images=2))) == 4


@pytest.mark.parametrize("size", [(900, 700), (223, 1500), (60, 40)])
def test_a_border_of_one_pixel_is_kept_whole(tmp_path: Path, size: tuple[int, int]) -> None:
    """ObjectNet's licence wants it seen; shrinking by four would leave a quarter of its colour."""
    (tmp_path / "cat").mkdir()
    image = Image.new("RGB", size, RED)
    image.paste((0, 0, 255), (1, 1, size[0] - 1, size[1] - 1))
    image.save(tmp_path / "cat" / "0.png")
    [example] = examples_of(load_dataset(CARD, tmp_path))
    [pixels] = example.images
    assert max(pixels.shape) == min(SIDE, max(size))
    border = [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
    assert all((edge == RED).all() for edge in border)
    assert (pixels[4:-4, 4:-4] == (0, 0, 255)).all()


def test_captions_come_before_classes(tmp_path: Path) -> None:
    dataset = data_set(tmp_path, images=1)
    captions = [["a cat sleeps", "grey"], ["a dog"]]
    manifest = dataclasses.replace(dataset.manifest, columns={"captions": captions})
    examples = examples_of(dataclasses.replace(dataset, manifest=manifest))
    assert [each.label for each in examples] == ["a cat sleeps", "a dog"]


@dataclasses.dataclass(frozen=True)
class Pairs:
    """As much of a `PairSet` as a picture needs: each image and the next."""

    names: tuple[tuple[str, str], ...]

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple("-".join(pair) for pair in self.names)

    def __len__(self) -> int:
        return len(self.names)

    def image_ids(self, i: int) -> tuple[str, str]:
        return self.names[i]

    def select(self, rows: Sequence[int]) -> Pairs:
        return Pairs(tuple(self.names[row] for row in rows))


def test_four_pairs_are_shown_with_both_images(tmp_path: Path) -> None:
    dataset = data_set(tmp_path)
    ids = dataset.manifest.ids
    pairs: Any = Pairs(tuple(zip(ids, ids[::-1])))
    manifest = dataclasses.replace(dataset.manifest, pairs=pairs)
    examples = examples_of(dataclasses.replace(dataset, manifest=manifest))
    assert [each.name for each in examples] == list(manifest.sample(4).pairs.ids)  # type: ignore[union-attr]
    for each in examples:
        values = [90 if "cat" in name else 255 for name in each.name.split("-")]
        assert [int(np.max(image)) for image in each.images] == values


def test_what_a_licence_hides_is_not_shown(tmp_path: Path) -> None:
    card = dataclasses.replace(CARD, hidden="the hospital's licence")
    with pytest.raises(UsageError, match=r"the images of pets may not be shown: the hospital's licence$"):
        examples_of(data_set(tmp_path, card))


def test_a_long_name_is_shown_by_its_end(tmp_path: Path) -> None:
    example = Example((np.zeros((4, 4, 3), np.uint8),), "", f"folder/{'ab' * 20}.jpg")
    drawn = examples_figure([example], "One", None, tmp_path / "one.svg").read_text()
    assert f"...{('ab' * 20)[-27:]}.jpg" in drawn
