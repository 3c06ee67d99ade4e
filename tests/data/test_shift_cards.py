"""The natural shifts' published layouts in miniature are read in place, and wrong ones say what is wrong."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from _images import png, write_images
from PIL import Image

from clipjax.checkpoints.card import Preprocess
from clipjax.data.cards import Dataset, data_folder, dataset_names, load_dataset, read_card
from clipjax.data.labels import load_labels, load_projection
from clipjax.data.pixels.preprocess import PixelRecipe, to_pixels
from clipjax.errors import DataError

SYNSETS = load_labels("imagenet").ids
CORRUPTIONS = ("fog_3d", "near_focus", "far_focus", "flash", "xy_motion_blur", "z_motion_blur")
OTHERS = ("bit_error", "color_quant", "h265_abr", "h265_crf", "iso_noise", "low_light")
SELECTIONS = ("matched-frequency", "threshold0.7", "top-images")
OF_1000 = ("imagenet_val", "imagenet_sketch", "stylized_imagenet", "imagenet_3dcc:fog_3d:5")
SHIFTS = (
    *OF_1000,
    *(f"imagenet_v2:{selection}" for selection in SELECTIONS),
    *("imagenet_r", "imagenet_a", "objectnet", "imagenet_vid_robust", "imagenet_vid_robust_anchors"),
    *("imagenet_d:background", "imagenet_d:texture", "imagenet_d:material"),
)


def labelled(dataset: Dataset) -> dict[str, str]:
    """Image -> the id of its class."""
    manifest, space = dataset.manifest, dataset.label_space
    assert manifest.labels is not None
    assert space is not None
    return {name: space.ids[label] for name, label in zip(manifest.ids, manifest.labels)}


@pytest.fixture(scope="module")
def thousand(tmp_path_factory) -> Path:
    """One image in each of the 1,000 folders."""
    root = tmp_path_factory.mktemp("thousand")
    for synset in SYNSETS:
        (root / synset).mkdir()
        (root / synset / f"{synset}_1.JPEG").write_bytes(png(0))
    return root


@pytest.mark.parametrize("name", OF_1000)
def test_folders_of_synsets(thousand, name):
    found = labelled(load_dataset(name, thousand))
    assert found == {f"{synset}/{synset}_1.JPEG": synset for synset in SYNSETS}


def test_imagenet_v2_is_three_data_sets():
    names = [name for name in dataset_names() if name.startswith("imagenet_v2")]
    assert names == [f"imagenet_v2:{selection}" for selection in SELECTIONS]
    for name, selection in zip(names, SELECTIONS):
        card = read_card(name)
        assert card.place == f"imagenetv2-{selection}-format-val"
        assert (card.images, card.per_class) == (10_000, 10)
        assert ("V2-A" in card.title) == (selection == "threshold0.7")  # the data set's own first letter


def test_imagenet_v2_folders_are_numbers_and_not_texts(tmp_path):
    card = read_card("imagenet_v2:matched-frequency")
    assert card.place is not None
    root = write_images(tmp_path / card.place, [f"{k}/0a{k}.jpeg" for k in range(1000)])
    dataset = load_dataset(card, root)
    assert labelled(dataset) == {f"{k}/0a{k}.jpeg": SYNSETS[k] for k in range(1000)}  # 10 is not the third
    assert dataset.manifest.label_names == SYNSETS
    with pytest.raises(
        DataError, match=r"missing n01440764, .*; unexpected 0, 1, 10, 100.*; a folder has its class's id as"
    ):
        load_dataset("imagenet_val", root)
    (root / "999" / "0a999.jpeg").unlink()
    with pytest.raises(DataError, match=r"class folder .*/999 holds no images"):
        load_dataset(card, root)


def test_imagenet_v2_is_not_a_folder_of_synsets(thousand):
    with pytest.raises(DataError, match=r"missing 0, 1, 2, .*; unexpected n01440764"):
        load_dataset("imagenet_v2:matched-frequency", thousand)


@pytest.mark.parametrize("name", ["imagenet_r", "imagenet_a"])
def test_two_hundred_folders_and_a_readme(tmp_path, name):
    folders = load_labels(name).ids
    root = write_images(tmp_path / "data", [f"{folder}/art_0.jpg" for folder in folders])
    (root / "README.txt").write_text("200 classes")
    dataset = load_dataset(name, root)
    assert labelled(dataset) == {f"{folder}/art_0.jpg": folder for folder in folders}
    assert dataset.head_space == load_labels("imagenet")
    (root / folders[3] / "art_0.jpg").rename(root / "art_0.jpg")
    (root / folders[3]).rmdir()
    with pytest.raises(DataError, match=rf"wrong class folders: missing {folders[3]}$"):
        load_dataset(name, root)


def test_objectnet_leaves_other_folders_out_and_cuts_the_border(tmp_path):
    folders = load_labels("objectnet").ids
    paths = [f"{folder}/00ab.png" for folder in [*folders, "squeegee", "jam"]]
    root = write_images(tmp_path, paths)
    dataset = load_dataset("objectnet", root)
    assert labelled(dataset) == {f"{folder}/00ab.png": folder for folder in folders}
    head = dataset.head_space
    assert head is not None
    projection = load_projection(head, load_labels("objectnet"))
    assert projection is not None
    assert projection.kind == "max"
    framed = Image.new("RGB", (12, 12), (255, 0, 0))
    framed.paste((0, 0, 255), (2, 2, 10, 10))
    recipe = PixelRecipe(8, 8, rgb="first", **dataset.card.pixels)
    assert (to_pixels(framed, recipe) == (0, 0, 255)).all()
    for path in (root / "chair").iterdir():
        path.unlink()
    (root / "chair").rmdir()
    with pytest.raises(DataError, match=r"wrong class folders: missing chair$"):
        load_dataset("objectnet", root)
    with pytest.raises(DataError, match=r"class folders are in .*/images: give that folder"):
        load_dataset("objectnet", write_images(tmp_path / "nested", ["images/wok/0.png"]))


@pytest.mark.parametrize("nuisance", ["background", "texture", "material"])
def test_a_part_of_imagenet_d_lacks_categories(tmp_path, nuisance):
    root = write_images(tmp_path / "ImageNet-D", [f"{nuisance}/wok/a.png", f"{nuisance}/t_shirt/b.png"])
    (root / "questions").mkdir()
    card = read_card(f"imagenet_d:{nuisance}")
    dataset = load_dataset(card, root / nuisance)
    assert labelled(dataset) == {"wok/a.png": "wok", "t_shirt/b.png": "t_shirt"}
    assert dataset.manifest.labels is not None
    assert dataset.manifest.labels.tolist() == [89, 112]
    assert dataset.label_space == dataset.head_space == load_labels("imagenet_d")
    with pytest.raises(DataError, match=rf"unexpected .*; class folders are in .*/{nuisance}: give that"):
        load_dataset(card, root)
    write_images(root / nuisance, ["zebra/c.png"])
    with pytest.raises(DataError, match=r"wrong class folders: unexpected zebra$"):
        load_dataset(card, root / nuisance)
    with pytest.raises(DataError, match=r"missing alarm_clock, .*; unexpected dogs; a folder has"):
        load_dataset(card, write_images(tmp_path / "other", ["dogs/a.png"]))


def test_3dcc_is_sixty_data_sets_that_are_not_cropped_again():
    names = [name for name in dataset_names() if name.startswith("imagenet_3dcc:")]
    cards = [read_card(name) for name in names]
    assert len(names) == 60
    assert {card.variant["corruption"] for card in cards if card.in_paper} == set(CORRUPTIONS)
    assert {card.variant["corruption"] for card in cards if not card.in_paper} == set(OTHERS)
    card = read_card("imagenet_3dcc:near_focus:3")
    assert card.variant == {"corruption": "near_focus", "severity": 3}
    assert card.place == "ImageNet-3DCC/near_focus/3"
    assert card.title == "ImageNet-3DCC: near_focus, severity 3"
    assert [file.name for file in card.files] == ["near_focus.tar.gz"]
    preprocess = Preprocess(224, 256, "shortest", "bicubic", (0, 0, 0), (1, 1, 1))
    recipe = preprocess.recipe(rgb="first", **card.pixels)
    image = Image.effect_noise((224, 224), 80).convert("RGB")
    assert to_pixels(image, recipe).tobytes() == image.tobytes()


def test_the_folder_above_or_below_is_named(tmp_path, thousand):
    (tmp_path / "fog_3d").mkdir()
    (tmp_path / "fog_3d" / "5").symlink_to(thousand)
    with pytest.raises(DataError, match=r"class folders are in .*/fog_3d/5: give that folder$"):
        load_dataset("imagenet_3dcc:fog_3d:5", tmp_path / "fog_3d")
    with pytest.raises(DataError, match=r"n01440764 is a class itself: give its parent$"):
        load_dataset("imagenet_3dcc:fog_3d:5", thousand / "n01440764")


def video(root: Path) -> Path:
    """Two sets: an anchor with two neighbours, and one alone."""
    frames = {"a/000010": [4], "a/000008": [4, 8], "a/000013": [8], "b/000000": [29]}
    names = {f"val/{frame}.JPEG": labels for frame, labels in frames.items()}
    write_images(root, list(names))
    anchor, *near, alone = names
    (root / "metadata").mkdir()
    (root / "metadata" / "labels.json").write_text(json.dumps(names))
    (root / "metadata" / "pmsets.json").write_text(json.dumps({anchor: near, alone: []}))
    return root


def test_vid_robust(tmp_path):
    dataset = load_dataset("imagenet_vid_robust", video(tmp_path))
    assert labelled(dataset) == {
        "val/a/000008.JPEG": "bird",
        "val/a/000010.JPEG": "bird",
        "val/a/000013.JPEG": "dog",
        "val/b/000000.JPEG": "zebra",
    }
    anchors = ["val/a/000010.JPEG"] * 3 + ["val/b/000000.JPEG"]
    assert dataset.manifest.columns == {
        "accepted": [[4, 8], [4], [8], [29]],
        "anchor": anchors,
        "offset": [-2, 0, 3, 0],
        "set_size": [3, 3, 3, 1],
    }
    only = load_dataset("imagenet_vid_robust_anchors", tmp_path).manifest
    assert only.ids == ("val/a/000010.JPEG", "val/b/000000.JPEG")
    assert only.columns["accepted"] == [[4], [29]]


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "labels",
            lambda r: r.pop("val/a/000013.JPEG"),
            r"labels\.json: the frame val/a/000013\.JPEG has no",
        ),
        ("labels", lambda r: r["val/a/000010.JPEG"].append(30), r"000010\.JPEG: the class 30 is outside the"),
        (
            "labels",
            lambda r: r.update({"val/c/0.JPEG": [1]}),
            r"pmsets\.json: the frame val/c/0\.JPEG is in no",
        ),
        (
            "labels",
            lambda r: r.update({"val/a/000010.JPEG": 4}),
            r"the value of 'val/a/000010\.JPEG' is not a",
        ),
        (
            "labels",
            lambda r: r.update({"val/c/x.JPEG": [1]}),
            r"'val/c/x\.JPEG' is not a frame; expected val/<vid",
        ),
        (
            "pmsets",
            lambda r: r["val/b/000000.JPEG"].append("val/a/000008.JPEG"),
            r"000008\.JPEG is in two sets",
        ),
        ("pmsets", lambda r: r.clear(), r"pmsets\.json: expected one object"),
    ],
)
def test_damaged_video_metadata_name_file_and_frame(tmp_path, file, change, message):
    path = video(tmp_path) / "metadata" / f"{file}.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    with pytest.raises(DataError, match=message):
        load_dataset("imagenet_vid_robust", tmp_path)


def test_missing_videos_and_metadata(tmp_path):
    root = video(tmp_path / "data")
    (root / "val/a/000008.JPEG").unlink()
    with pytest.raises(
        DataError, match=r"1 of 4 frames are not below .*data, the first is val/a/000008\.JPEG"
    ):
        load_dataset("imagenet_vid_robust", root)
    assert len(load_dataset("imagenet_vid_robust_anchors", root).manifest) == 2
    (root / "metadata/pmsets.json").write_text("{")
    with pytest.raises(DataError, match=r"pmsets\.json is not JSON"):
        load_dataset("imagenet_vid_robust", root)
    with pytest.raises(DataError, match=r"labels\.json does not exist; give the folder imagenet-vid-robust"):
        load_dataset("imagenet_vid_robust", tmp_path)


@pytest.mark.parametrize("name", SHIFTS)
def test_shift_cards_say_where_they_lie_and_what_they_are_for(name):
    card = read_card(name)
    assert card.place
    assert card.licence
    assert card.source
    assert card.paper
    special = {"imagenet_vid_robust": "vid_robust", "imagenet_d": "imagenet_d"}
    assert card.tasks[0] == special.get(name.split(":")[0], "zeroshot")
    calibrated = "3dcc" not in name and "stylized" not in name and card.tasks[0] == "zeroshot"
    assert ("calibration" in card.tasks) == calibrated


def test_places_are_the_folders_that_the_archives_unpack_to():
    places = {name: read_card(name).place for name in SHIFTS}
    assert places.pop("imagenet_vid_robust_anchors") == places["imagenet_vid_robust"]
    assert len(set(places.values())) == len(places)
    assert places["imagenet_vid_robust"] == "imagenet_vid_ytbb_robust/imagenet-vid-robust"
    assert places["objectnet"] == "objectnet-1.0/images"
    assert places["imagenet_d:texture"] == "ImageNet-D/texture"


@pytest.mark.parametrize(
    ("name", "top"), [("wds_imagenet_v2", "wds_imagenetv2"), ("wds_imagenet_val", "wds_imagenet1k")]
)
def test_the_copies_of_clip_benchmark_number_their_labels(tmp_path, name, top):
    """`.cls` is the number of a class in ImageNet's order, whatever the shards' own names of classes are."""
    folder = tmp_path / top / "test"
    folder.mkdir(parents=True)
    (folder / "nshards.txt").write_text("2")
    (tmp_path / top / "classnames.txt").write_text("".join(f"word {i}\n" for i in range(1000)))
    for shard, label in enumerate((999, 1)):
        with tarfile.open(folder / f"{shard}.tar", "w") as archive:
            for ending, data in (("webp", webp()), ("cls", str(label).encode())):
                info = tarfile.TarInfo(f"s{shard:07}.{ending}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    card = read_card(name)
    assert data_folder(tmp_path, card) == folder
    assert labelled(load_dataset(card, folder)) == {
        "s0000000.webp": SYNSETS[999],
        "s0000001.webp": SYNSETS[1],
    }
    assert not card.tasks, "--data-root runs the original alone"
    assert "was not seen" in (card.note or "") or "not confirmed" in (card.note or "")


def webp() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "WEBP")
    return file.getvalue()
