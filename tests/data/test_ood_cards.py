"""The OOD sets' published layouts, in miniature."""

from __future__ import annotations

import pytest
from _images import write_images
from PIL import Image

from clipjax.data.cards import load_dataset, read_card
from clipjax.data.check import check_dataset
from clipjax.data.pixels.preprocess import PixelRecipe, open_image, to_pixels
from clipjax.errors import DataError
from clipjax.tasks.task import find_task

CARDS = ("inaturalist", "sun", "places", "textures", "imagenet_o", "ninco")


@pytest.mark.parametrize("name", CARDS)
def test_cards_are_for_ood_detection_against_imagenet(name):
    card = read_card(name)
    assert (card.tasks, card.id) == (("ood",), "imagenet_val")
    assert "id" in find_task("ood").needs
    assert card.images
    assert card.place


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("inaturalist", ["images/0a1b.jpg"]),
        ("sun", ["images/sun_aaa.jpg"]),
        ("places", ["images/b_badlands_00000792.jpg"]),
        ("textures", ["banded/banded_0002.jpg", "dotted/dotted_0001.jpg"]),
    ],
)
def test_flat_sets_have_images_and_no_labels(tmp_path, name, paths):
    dataset = load_dataset(name, write_images(tmp_path, paths))
    assert dataset.manifest.ids == tuple(paths)
    assert dataset.manifest.labels is None
    assert dataset.label_space is None
    assert not dataset.manifest.columns


def test_ninco_has_spaces_many_endings_and_a_gif(tmp_path):
    names = ["door/door_000_a.png", "high heels/high heels_000_b.JPG", "high heels/high heels_001_c.jpeg"]
    write_images(tmp_path, names)
    frames = [Image.new("RGB", (4, 3), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "door" / "door_001_d.gif", save_all=True, append_images=frames[1:])
    manifest = load_dataset("ninco", tmp_path).manifest
    assert manifest.columns["ood_class"] == ["door", "door", "high heels", "high heels"]
    assert manifest.ids[1] == "door/door_001_d.gif"
    # The only complaint is that of the count: the GIF can be read.
    assert check_dataset(tmp_path, "ninco") == [
        f"{tmp_path} holds 4 images; NINCO (OOD classes) has 5879",
    ]


def test_a_gif_is_its_first_frame_in_rgb(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    (tmp_path / "door").mkdir()
    frames[0].save(tmp_path / "door" / "a.gif", save_all=True, append_images=frames[1:])
    data = load_dataset("ninco", tmp_path).manifest.open(0)
    pixels = to_pixels(open_image(data), PixelRecipe(8, 8, rgb="first"))
    assert pixels[..., 0].min() > 250
    assert pixels[..., 1:].max() < 5


def test_imagenet_o_keeps_what_its_images_are_taken_for(tmp_path):
    root = write_images(tmp_path, ["n01820546/reddish_orange_0.9996.JPEG", "n02219486/a_0.5.JPEG"])
    (root / "README.txt").write_text("not an image")
    manifest = load_dataset("imagenet_o", root).manifest
    assert manifest.columns["confused_with"] == ["n01820546", "n02219486"]


def test_an_image_beside_the_folders_is_named(tmp_path):
    write_images(tmp_path, ["stray.JPEG", "n02219486/a_0.5.JPEG"])
    with pytest.raises(DataError, match=r"stray\.JPEG: its name has no confused_with"):
        load_dataset("imagenet_o", tmp_path)
