"""Data set cards are parsed strictly, and say what is wrong with a folder before anything is computed."""

from __future__ import annotations

import re

import pytest
from _images import write_images

from clipjax.data.cards import dataset_names, load_dataset, own_prompts, read_card
from clipjax.errors import DataError, UsageError
from clipjax.evaluation.data_folder import id_card

CARD = 'name = "pets"\ntitle = "Pets"\nreader = "folder"\n'


@pytest.fixture
def card(tmp_path):
    def write(extra: str, base: str = CARD):
        path = tmp_path / "pets.toml"
        path.write_text(base + extra)
        return path

    return write


@pytest.mark.parametrize("name", dataset_names())
def test_shipped_cards_parse_and_are_named_as_their_file(name):
    assert read_card(name).name == name


def test_imagenet_card_knows_the_thousand_folders(tmp_path):
    write_images(tmp_path, ["n01440764/a.JPEG", "n99999999/b.JPEG"])
    with pytest.raises(DataError, match=r"missing n01443537, .* and 991 more; unexpected n99999999"):
        load_dataset("imagenet_val", tmp_path)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("image = 3\n", r"pets\.toml: unknown key 'image'"),
        ('images = "3"\n', r"pets\.toml: images = '3' must be a whole number"),
        ("images = -5\n", r"pets\.toml: images = -5 must be at least 1"),
        (f"images = {10**20}\n", r"pets\.toml: images = 1\d* must be at least 1 and below"),
        ("per_class = 0\n", r"pets\.toml: per_class = 0 must be at least 1"),
        ('classes = ["cat", "cat"]\n', r"pets\.toml: classes: .*'cat' occurs twice"),
        ("classes = [1, 2]\n", r"pets\.toml: 'classes' must be a list of names"),
        ('classes = ["cat", "cat"]\n', r"'cat' occurs twice"),
        ('classes = "nowhere.txt"\n', r"nowhere\.txt does not exist"),
        ('classes = ["a"]\nlabel_space = "imagenet"\n', r"'label_space' or 'classes', not both"),
        ("[options]\nfolder_is_indx = true\n", r"reader 'folder' has no option 'folder_is_indx'"),
    ],
)
def test_wrong_cards_name_file_and_key(card, tmp_path, extra, message):
    with pytest.raises(DataError, match=message):
        load_dataset(card(extra), write_images(tmp_path / "data", ["cat/0.png"]))


def test_missing_and_unknown_names(card):
    with pytest.raises(UsageError, match="unknown data set 'imagenet_vall'; did you mean imagenet_val"):
        read_card("imagenet_vall")
    with pytest.raises(DataError, match=r"the key 'title' is missing"):
        read_card(card("", base='name = "pets"\nreader = "folder"\n'))
    with pytest.raises(DataError, match="unknown reader 'fodler'"):
        read_card(card("", base=CARD.replace('"folder"', '"fodler"')))
    with pytest.raises(DataError, match="reader 'tfds' needs the option 'split'"):
        read_card(card("", base=CARD.replace('"folder"', '"tfds"')))


@pytest.mark.parametrize("name", ["", "../pets", "a/b", "pets\\nbell", "pets\\n", "p" * 101])
def test_a_name_that_no_row_can_have_is_refused(card, name):
    with pytest.raises(DataError, match=r"pets\.toml: name = .* must be 1 to 100 characters without slashes"):
        read_card(card("", base=CARD.replace('"pets"', f'"{name}"')))


@pytest.mark.parametrize("key", ["prompts", "head_space"])
def test_what_a_card_names_is_told_with_its_file_and_key(card, tmp_path, key):
    root = write_images(tmp_path / "data", ["cat/0.png"])
    with pytest.raises(UsageError, match=rf"pets\.toml: {key}: unknown .*'nosuch'"):
        own_prompts(load_dataset(card(f'{key} = "nosuch"\n'), root).card)


@pytest.mark.parametrize("given", ["list", "text file", "label space"])
def test_classes_inline_or_beside_the_card(card, tmp_path, given):
    root = write_images(tmp_path / "data", ["cat/0.png", "dog/0.png"])
    (tmp_path / "names.txt").write_text("dog\ncat\n")
    (tmp_path / "names.csv").write_text("id,name\ndog,a dog\ncat,a cat\n")
    lines = {
        "list": 'classes = ["dog", "cat"]\n',
        "text file": 'classes = "names.txt"\n',
        "label space": 'label_space = "names.csv"\n',
    }
    data = load_dataset(card(lines[given]), root)
    assert data.manifest.labels is not None
    assert data.manifest.labels.tolist() == [1, 0]
    assert data.label_space is not None
    assert data.label_space.ids == ("dog", "cat")
    assert data.label_space.classes == (("a dog", "a cat") if given == "label space" else ("dog", "cat"))
    assert data.manifest.name == "pets"


def test_prompts_beside_the_card_and_its_own_name_as_id(card, tmp_path):
    (tmp_path / "mine.txt").write_text("my {}\n")
    for given in ("mine", "mine.txt", "my {}"):
        mine = read_card(card(f'prompts = "{given}"\nid = "pets"\n'))
        prompts = own_prompts(mine)
        assert prompts is not None
        assert prompts.of_class("cat") == ("my cat",)
        assert id_card(mine) is mine
    assert own_prompts(read_card(card(""))) is None


def test_a_plain_folder_needs_no_card(tmp_path):
    data = load_dataset("folder", write_images(tmp_path, ["cat/0.png", "dog/0.png"]))
    assert data.label_space is not None
    assert data.label_space.classes == ("cat", "dog")


def test_cue_conflict_textures_follow_the_reference_rule(test_data):
    """rgeirhos/texture-vs-shape: after the last "_", before the first ".", after the last "-", no digits."""
    data = load_dataset("cue_conflict", test_data / "cue_conflict")
    manifest, space = data.manifest, data.label_space
    assert len(manifest) == 373
    assert space is not None
    assert manifest.labels is not None
    for name, label, texture in zip(manifest.ids, manifest.labels, manifest.columns["texture"]):
        folder, file = name.split("/")
        assert space.ids[label] == folder
        expected = re.sub(r"\d", "", file.split("_")[-1].split(".")[0].split("-")[-1])
        assert texture == expected


FAMILY = """name = "pets"
title = "Pets: {kind}, {size}"
reader = "folder"
place = "pets/{kind}/{size}"
note = "{kind} {other}"

[variants.kind]
cats = { images = 3, title = "Cats of size {size}" }
dogs = {}

[variants]
size = [1, 2]
"""


def test_a_family_is_one_card_a_combination(card):
    path = card("", base=FAMILY)
    cats, dogs = read_card(f"{path}:cats:2"), read_card(f"{path}:dogs:1")
    assert (cats.name, cats.title, cats.images) == ("pets:cats:2", "Cats of size 2", 3)
    assert (dogs.name, dogs.title, dogs.images) == ("pets:dogs:1", "Pets: dogs, 1", None)
    assert (cats.place, cats.note) == ("pets/cats/2", "cats {other}")
    assert cats.variant == {"kind": "cats", "size": 2}
    assert read_card("imagenet_val").variant == {}


def test_a_member_that_does_not_exist_names_the_nearest(card):
    path = card("", base=FAMILY)
    with pytest.raises(
        UsageError, match=r"pets\.toml stands for 4 data sets: name one, .*pets\.toml:cats:1, "
    ):
        read_card(path)
    with pytest.raises(UsageError, match=r"unknown data set 'pets:cats:3'; did you mean pets:cats:"):
        read_card(f"{path}:cats:3")
    with pytest.raises(UsageError, match=r"'imagenet_3dcc:fog3d:5'; did you mean imagenet_3dcc:fog_3d:5"):
        read_card("imagenet_3dcc:fog3d:5")
    with pytest.raises(
        UsageError, match=r"imagenet_v2 stands for 3 data sets: name one, imagenet_v2:matched"
    ):
        read_card("imagenet_v2")
    with pytest.raises(UsageError, match=r"unknown data set 'imagenet_val:2'; did you mean imagenet_val"):
        read_card("imagenet_val:2")


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ("variants = [1]", r"pets\.toml: 'variants' must be a table"),
        ("variants = {size = []}", r"variants\.size must be a list or a table of values, not \[\]"),
        ("variants = {size = 3}", r"variants\.size must be a list or a table of values, not 3"),
        ("variants = {size = [1.5]}", r"variants\.size holds 1\.5: give texts, whole numbers or tables"),
        ("variants = {size = {a = 1}}", r"variants\.size holds 'a': give texts, whole numbers or tables"),
        ("variants = {size = {a = {imges = 1}}}", r"pets\.toml: unknown key 'imges'"),
    ],
)
def test_wrong_variants_name_file_and_axis(card, variants, message):
    with pytest.raises(DataError, match=message):
        read_card(f"{card(variants)}:a")
