"""`check_dataset` says exactly what is wrong with a folder."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from pathlib import Path

import pytest
from _images import write_images
from PIL import Image

from clipjax.data.cards import read_card
from clipjax.data.check import check_dataset
from clipjax.data.labels import load_labels, load_projection

CARD = 'name = "pets"\ntitle = "Pets"\nreader = "folder"\n'


@pytest.fixture
def card(tmp_path):
    def write(extra: str, base: str = CARD) -> Path:
        path = tmp_path / "pets.toml"
        path.write_text(base + extra)
        return path

    return write


def touch(root: Path, names: list[str]) -> Path:
    """Files that are not looked into."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_check_dataset_lists_every_problem(card, tmp_path):
    root = write_images(tmp_path / "data", ["cat/0.png", "cat/1.png", "dog/0.png"])
    path = card("images = 4\nper_class = 2\n")
    (root / "cat/1.png").write_bytes((root / "cat/1.png").read_bytes()[:50])
    seen: list[int] = []
    problems = check_dataset(root, path, seen.append)
    assert problems[0].endswith("holds 3 images; Pets has 4")
    assert problems[1] == "class dog has 1 image; Pets has 2"
    assert problems[2].startswith("cat/1.png: damaged or unreadable image")
    assert len(problems) == 3
    assert len(seen) == 3

    shutil.copy(root / "cat/0.png", root / "cat/1.png")
    shutil.copy(root / "dog/0.png", root / "dog/1.png")
    assert check_dataset(root, path) == []
    shutil.rmtree(root)
    assert check_dataset(root, path) == [f"{root} does not exist; give the folder that holds the data set"]


def test_the_folder_to_give_is_named(card, tmp_path):
    """Archives unpack into folders of their own, and a class folder is not the data set."""
    path = card('classes = ["cat", "dog"]\nimages = 2\nplace = "deep/pets"\n')
    root = write_images(tmp_path / "data" / "deep" / "pets", ["cat/0.png", "dog/0.png"])
    assert check_dataset(root, path) == []
    for given in (tmp_path / "data", root.parent):
        [problem] = check_dataset(given, path)
        assert str(root) in problem
        assert "give" in problem
    [problem] = check_dataset(root / "cat", path)
    assert problem.endswith("cat is a class itself: give its parent")
    (root / "cat" / "deeper").mkdir()
    [problem] = check_dataset(root / "cat" / "deeper", path)
    assert problem.endswith(f"this folder is too deep, give {root}")


def test_imagenet_val_one_level_up(tmp_path):
    names = load_labels("imagenet").ids
    touch(tmp_path / "imagenet" / "val", [f"{name}/a.JPEG" for name in names])
    [problem] = check_dataset(tmp_path / "imagenet", "imagenet_val", decode=False)
    assert f"{tmp_path / 'imagenet' / 'val'}: give that folder" in problem
    problems = check_dataset(tmp_path / "imagenet" / "val", "imagenet_val", decode=False)
    assert problems[0].endswith("holds 1000 images; ImageNet (validation) has 50000")
    assert problems[1] == "class n01440764 has 1 image; ImageNet (validation) has 50"
    assert problems[-1] == "992 more classes do not have 50 images"
    assert len(problems) == 10


def test_archives_that_were_not_unpacked(card, tmp_path):
    path = card('classes = ["cat", "dog"]\n')
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "pets.tar.gz").touch()
    [problem] = check_dataset(tmp_path / "data", path)
    assert problem.endswith("the archive pets.tar.gz is in it: unpack it")
    (tmp_path / "data" / "cats.tar").touch()
    [problem] = check_dataset(tmp_path / "data", path)
    assert problem.endswith("holds 2 archives (cats.tar, ...): unpack each")
    [problem] = check_dataset(tmp_path / "data" / "pets", path)
    assert problem.endswith(f"the archive {tmp_path / 'data' / 'cats.tar'} is beside it: unpack it")
    write_images(tmp_path / "data" / "pets", ["cat/0.png", "dog/0.png"])
    assert check_dataset(tmp_path / "data" / "pets", path) == [], "an archive beside the data does no harm"


def test_an_archive_beside_a_manifest_file_is_no_hint(tmp_path):
    (tmp_path / "list.toml").write_text('name = "list"\ntitle = "List"\nreader = "manifest_file"\n')
    (tmp_path / "list.csv").write_text("path\ngone.png\n")
    (tmp_path / "more.zip").touch()
    [problem] = check_dataset(tmp_path / "list.csv", tmp_path / "list.toml")
    assert problem.endswith(f"list.csv:2: the image gone.png does not exist in {tmp_path}, the list's folder")


def test_images_without_class_folders(card, tmp_path):
    """ImageNet's own tar of the validation images is flat."""
    root = write_images(tmp_path / "data", ["val_1.JPEG", "val_2.JPEG"])
    [problem] = check_dataset(root, card('classes = ["cat", "dog"]\n'))
    assert problem.endswith("its 2 images are there without class folders: sort into one folder per class")


def test_v2_folders_are_numbers_by_value(tmp_path):
    root = touch(tmp_path / "v2", [f"{k}/a.jpeg" for k in range(1000)])
    problems = check_dataset(root, "imagenet_v2:matched-frequency", decode=False)
    assert problems[0].endswith("holds 1000 images; ImageNet-V2 (matched frequency) has 10000")
    assert not any("order" in problem for problem in problems)
    touch(tmp_path / "wrong", [f"{name}/a.jpeg" for name in load_labels("imagenet").ids])
    [problem] = check_dataset(tmp_path / "wrong", "imagenet_v2:matched-frequency", decode=False)
    assert "wrong class folders: missing 0, 1, 2" in problem
    assert "its folders are synsets, where the published ones are class numbers" in problem


def test_numbers_in_the_order_of_texts(card, tmp_path):
    root = write_images(tmp_path / "data", [f"{k}/a.png" for k in range(12)])
    texts = ", ".join(f'"{k}"' for k in sorted(map(str, range(12))))
    [problem] = check_dataset(root, card(f"classes = [{texts}]\n"))
    assert problem.startswith("the classes are numbers in the order of texts (0, 1, 10, 11, ...): list them")
    assert check_dataset(root, card("")) == [], "without a list, folders of numbers go by their value"


def test_files_beside_the_class_folders_of_a_and_r_do_not_matter(tmp_path):
    ids = load_labels("imagenet_a").ids
    root = touch(tmp_path / "imagenet-a", [f"{name}/a.jpg" for name in ids])
    (root / "README.txt").write_text("not an image")
    [problem] = check_dataset(root, "imagenet_a", decode=False)
    assert problem.startswith(f"{root} holds 200 images")
    (root / "__MACOSX").mkdir()
    (root / "__MACOSX" / "._x.jpg").touch()
    [problem] = check_dataset(root, "imagenet_a", decode=False)
    assert "unexpected __MACOSX" in problem
    assert problem.endswith("__MACOSX, which a Mac's archiver leaves")


def test_ninco_given_with_its_unit_tests(tmp_path):
    """Five OOD images stand for the 5,879; beside them lie other sets, which a flat reader would take in."""
    root = tmp_path / "NINCO"
    inside = write_images(
        root / "NINCO_OOD_classes", [f"high heels/high heels_{i:03d}_x.JPG" for i in range(4)]
    )
    Image.new("P", (4, 4)).save(inside / "high heels" / "high heels_004_y.gif")
    write_images(root / "NINCO_OOD_unit_tests", ["noise/noise_000.png"])
    card = dataclasses.replace(read_card("ninco"), images=5)
    assert check_dataset(inside, card) == []
    assert check_dataset(root, card) == [
        f"{root} holds 6 images; NINCO (OOD classes) has 5; {inside} holds 5: give that folder"
    ]


def test_images_whose_ending_is_not_read(card, tmp_path):
    root = write_images(tmp_path / "data", ["cat/0.png", "cat/1.gif", "cat/2.GIF"])
    assert check_dataset(root, card("")) == [
        "2 images are left out, cat/1.gif, cat/2.GIF: of a format that is not read, or a folder; convert or "
        "remove"
    ]


def test_prompts_and_projections_of_the_card(card, tmp_path):
    root = write_images(tmp_path / "data", ["cat/0.png"])
    [problem] = check_dataset(root, card('prompts = "openai_81"\n'))
    assert problem.startswith(f"{tmp_path / 'pets.toml'}: prompts: unknown prompt set 'openai_81'")
    [problem] = check_dataset(root, card('classes = ["cat"]\nhead_space = "imagenet"\n'))
    told = "head_space: a head over the classes of 'imagenet' cannot be scored on 'pets'"
    assert problem.startswith(f"{tmp_path / 'pets.toml'}: {told}")


@pytest.fixture
def objectnet(tmp_path):
    """The layout of objectnet-1.0, one image per folder, its mappings made from our own projection."""
    names, space = load_labels("imagenet"), load_labels("objectnet")
    projection = load_projection(names, space)
    assert projection is not None
    root = tmp_path / "objectnet-1.0"
    touch(root / "images", [f"{name}/a.png" for name in [*space.ids, "squeegee"]])
    (root / "mappings").mkdir()
    lines = [f"imagenet {k}" for k in reversed(range(1000))]  # another order than ImageNet's
    files = {
        "folder_to_objectnet_label.json": {name: name.upper() for name in [*space.ids, "squeegee"]},
        "objectnet_to_imagenet_1k.json": {
            name.upper(): "; ".join(f"imagenet {k}" for k in group)
            for name, group in zip(space.ids, projection.groups)
        },
        "pytorch_to_imagenet_2012_id.json": {str(k): 999 - k for k in range(1000)},
    }
    for name, record in files.items():
        (root / "mappings" / name).write_text(json.dumps(record))
    (root / "mappings" / "imagenet_to_label_2012_v2").write_text("\n".join(lines))
    return root


def test_objectnets_own_mappings_are_compared_with_ours(objectnet):
    card = dataclasses.replace(read_card("objectnet"), images=113)
    check = functools.partial(check_dataset, objectnet / "images", card, decode=False)
    assert check() == []
    file = objectnet / "mappings" / "objectnet_to_imagenet_1k.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps(record | {"MUG": "imagenet 1"}))
    assert check() == [
        f"{objectnet / 'mappings'} maps mug to other ImageNet classes than configs/labels does"
    ]
    file.write_text(json.dumps(record | {"MUG": "no such class"}))
    [problem] = check()
    assert "its mappings are damaged (KeyError: 'no such class')" in problem
    file.unlink()
    [problem] = check()
    assert problem.endswith("mappings lacks objectnet_to_imagenet_1k.json; unpack the archive again")
