"""Each published layout is read in place, and what is wrong with it is named."""

from __future__ import annotations

import json
import os

import pytest
import tensorflow_datasets as tfds
from etils import epath

from clipjax.data.readers.flat import read_flat
from clipjax.data.readers.folder import read_folder
from clipjax.data.readers.manifest_file import read_manifest_file
from clipjax.data.readers.reader import recognise
from clipjax.data.readers.tfds import read_tfds
from clipjax.errors import DataError
from tests.data._images import png, write_images


@pytest.fixture
def root(tmp_path):
    return epath.Path(write_images(tmp_path / "data", ["n02/x.JPEG", "n01/b.jpeg", "n01/deep/a.png"]))


def test_class_folders(root):
    (root / "README.txt").write_text("not an image")
    (root / "n01" / "notes.txt").write_text("not an image")
    (root / "n01" / "._b.jpeg").write_bytes(b"macOS resource fork")
    manifest = read_folder(root, ("n01", "n02"))
    assert manifest.ids == ("n01/b.jpeg", "n01/deep/a.png", "n02/x.JPEG")
    assert manifest.labels is not None
    assert manifest.labels.tolist() == [0, 0, 1]
    assert manifest.open(0) == png(1)
    assert manifest.left_out == ()


@pytest.mark.parametrize("read", [read_folder, read_flat])
def test_what_looks_like_an_image_and_is_not_read(root, read):
    (root / "n02" / "y.png").mkdir()
    (root / "n01" / "album.png").mkdir()
    write_images(root, ["n01/album.png/c.png", "n01/c.heic"])
    manifest = read(root)
    assert manifest.ids == ("n01/album.png/c.png", "n01/b.jpeg", "n01/deep/a.png", "n02/x.JPEG")
    assert manifest.left_out == ("n01/c.heic", "n02/y.png")
    assert manifest.sample(1).left_out == manifest.left_out


def test_labels_follow_the_given_order_and_not_the_alphabet(root):
    manifest = read_folder(root, ("n02", "n01"))
    assert manifest.labels is not None
    assert manifest.labels.tolist() == [1, 1, 0]


def test_wrong_class_folders_are_named(root):
    with pytest.raises(DataError, match=r"wrong class folders: missing n03; unexpected n02"):
        read_folder(root, ("n01", "n03"))
    (root / "n04").mkdir()
    with pytest.raises(DataError, match=r"class folder .*/n04 holds no images \(\.jpg, "):
        read_folder(root, ("n01", "n02", "n04"))


def test_many_missing_folders_are_counted(root):
    names = [f"n{i:02d}" for i in range(1, 21)]
    with pytest.raises(DataError, match=r"missing n03, .*, n10 and 10 more$"):
        read_folder(root, names)


def test_the_folder_that_holds_most_classes_is_named(tmp_path):
    root = epath.Path(tmp_path)
    images = ["a/n01/0.png", "b/n01/0.png", "b/n02/0.png", "c/n01/0.png", "c/n02/0.png", "c/n03/0.png"]
    write_images(tmp_path, images)
    with pytest.raises(DataError, match=r"class folders are in \S*/b: give that folder$"):
        read_folder(root, ("n01", "n02"))
    write_images(tmp_path, ["d/n01/0.png", "d/n02/0.png"])
    with pytest.raises(DataError, match=r"class folders are in \S*/b, \S*/d: give one of them$"):
        read_folder(root, ("n01", "n02"))


def test_an_unreadable_class_folder_is_named(root, monkeypatch):
    listing = os.scandir

    def scandir(folder):
        if os.path.basename(folder) == "n02":
            raise PermissionError(13, "Permission denied")
        return listing(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=r"/n02 cannot be read \(Permission denied\)"):
        read_folder(root)


def test_a_folder_in_place_of_a_list_is_named(tmp_path):
    with pytest.raises(DataError, match="is a folder, and a list of images is asked for"):
        read_manifest_file(epath.Path(tmp_path))


def test_a_listed_image_that_does_not_exist(tmp_path):
    for image, says in (
        ("0.png", rf"list\.csv:2: the image 0\.png does not exist in {tmp_path}, the list's folder"),
        (
            "/no/0.png",
            r"list\.csv:2: the image /no/0\.png does not exist: an absolute path is taken as it is",
        ),
    ):
        (tmp_path / "list.csv").write_text(f"path\n{image}\n")
        with pytest.raises(DataError, match=says):
            read_manifest_file(epath.Path(tmp_path / "list.csv"))


def test_missing_and_empty_roots(tmp_path):
    with pytest.raises(DataError, match=r"nowhere does not exist"):
        read_folder(epath.Path(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="holds no class folders"):
        read_folder(epath.Path(tmp_path))
    with pytest.raises(DataError, match="holds no images"):
        read_flat(epath.Path(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is a file, not a folder"):
        read_folder(epath.Path(tmp_path / "file"))


def test_numbered_folders_are_labels_if_the_option_says_so(tmp_path):
    root = epath.Path(write_images(tmp_path, [f"{i}/a.png" for i in range(12)]))
    as_names, as_labels = read_folder(root), read_folder(root, ["x"] * 12, folder_is_index=True)
    for manifest in (as_names, as_labels):  # 10 comes after 9, and not after 1
        assert manifest.labels is not None
        assert [f"{label}/a.png" for label in manifest.labels] == list(manifest.ids)
    with pytest.raises(DataError, match=r"unexpected 11$"):
        read_folder(root, ["x"] * 11, folder_is_index=True)
    with pytest.raises(DataError, match=r"missing 12$"):
        read_folder(root, ["x"] * 13, folder_is_index=True)


def test_columns_from_file_names(tmp_path):
    root = epath.Path(write_images(tmp_path, ["cat/cat1-dog2.png"]))
    assert read_folder(root, columns={"texture": r"-([a-z]+)\d*\."}).columns == {"texture": ["dog"]}
    write_images(tmp_path, ["cat/cat1.png"])
    with pytest.raises(DataError, match=r"cat/cat1\.png: its name has no texture"):
        read_folder(root, columns={"texture": r"-([a-z]+)\d*\."})


def test_flat_folder(root):
    manifest = read_flat(root)
    assert manifest.ids == ("n01/b.jpeg", "n01/deep/a.png", "n02/x.JPEG")
    assert manifest.labels is None


def write_rows(tmp_path, name: str, text: str):
    write_images(tmp_path, ["img/0.png", "img/1.png"])
    (tmp_path / name).write_text(text, encoding="utf-8")
    return epath.Path(tmp_path / name)


def test_a_single_image(root):
    photo = root / "n01" / "b.jpeg"
    assert recognise(photo) == "flat"
    assert recognise(root / "n01" / "list.csv") is None
    manifest = read_flat(photo)
    assert manifest.ids == ("b.jpeg",)
    assert manifest.open(0) == png(1)
    assert manifest.images_digest == read_flat(root / "n01").select([0]).images_digest


@pytest.mark.parametrize("separator", ["\t", ","])
def test_open_clips_list(tmp_path, separator):
    """The rows of one image become one: retrieval counts it once."""
    write_images(tmp_path, ["a.png", "b.png"])
    rows = [("filepath", "title"), ("b.png", "a bee"), ("a.png", "an ant"), ("b.png", "a bird")]
    (tmp_path / "pairs.csv").write_text("".join(f"{separator.join(row)}\n" for row in rows))
    manifest = read_manifest_file(epath.Path(tmp_path / "pairs.csv"))
    assert manifest.ids == ("b.png", "a.png")
    assert manifest.columns == {"captions": [["a bee", "a bird"], ["an ant"]]}
    (tmp_path / "pairs.csv").write_text(f"filepath{separator}title\na.png{separator}x\nc.png{separator}y\n")
    with pytest.raises(DataError, match=r"pairs\.csv:3: the image c\.png does not exist"):
        read_manifest_file(epath.Path(tmp_path / "pairs.csv"))
    labelled = [("filepath", "title", "label"), ("a.png", "x", "ant"), ("a.png", "y", "bee")]
    (tmp_path / "pairs.csv").write_text("".join(f"{separator.join(row)}\n" for row in labelled))
    with pytest.raises(DataError, match=r"pairs\.csv:3: a\.png has another 'label' than in line 2"):
        read_manifest_file(epath.Path(tmp_path / "pairs.csv"))


def test_csv_manifest(tmp_path):
    path = write_rows(
        tmp_path, "m.csv", 'path,label,caption\nimg/1.png,dog,"a dog, lying"\nimg/0.png,cat,a cat\n'
    )
    manifest = read_manifest_file(path)
    assert manifest.ids == ("img/1.png", "img/0.png")
    assert manifest.label_names == ("cat", "dog")
    assert manifest.labels is not None
    assert manifest.labels.tolist() == [1, 0]
    assert manifest.columns == {"caption": ["a dog, lying", "a cat"]}
    assert manifest.open(0) == png(1)
    assert read_manifest_file(epath.Path(tmp_path), file="m.csv").ids == manifest.ids


def test_jsonl_manifest_with_several_captions_and_own_ids(tmp_path):
    rows = [{"path": "img/0.png", "id": f"k{i}", "label": i, "caption": ["x", "y"]} for i in range(2)]
    path = write_rows(tmp_path, "m.jsonl", "\n".join(map(json.dumps, rows)) + "\n")
    manifest = read_manifest_file(path, ("cat", "dog"))
    assert manifest.ids == ("k0", "k1")
    assert manifest.labels is not None
    assert manifest.labels.tolist() == [0, 1]
    assert manifest.columns == {"caption": [["x", "y"], ["x", "y"]]}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m.csv", "path,label\nimg/0.png,0\nimg/1.png,2\n", r"m\.csv:3: the label '2' is outside the set"),
        (
            "m.csv",
            "path,label\nimg/0.png,cat\nimg/1.png,cow\n",
            r"m\.csv:3: the label 'cow' is outside the set",
        ),
        ("m.csv", "path,label\nimg/0.png,-1\n", r"m\.csv:2: the label '-1' is outside the set"),
        ("m.csv", "path,label\nimg/0.png,0\nimg/7.png,1\n", r"m\.csv:3: the image img/7\.png does not exist"),
        ("m.csv", "path,label\nimg/0.png\n", r"m\.csv:2: expected 2 cells"),
        ("m.csv", "file,label\nimg/0.png,0\n", r"m\.csv:2: there is no column 'path' .*'file', 'label'$"),
        ("m.csv", "path,label\n,0\n", r"m\.csv:2: no value for 'path'"),
        ("m.csv", "path,label\nimg/0.png,0\nimg/0.png,1\n", r"m\.csv:3: 'img/0\.png' is also in m\.csv:2"),
        ("m.csv", "path,label\n", r"m\.csv lists no images"),
        ("m.jsonl", '{"path": "img/0.png"}\n\n{"path": \n', r"m\.jsonl:3 is not JSON"),
        ("m.jsonl", '{"path": "img/0.png"}\n[1]\n', r"m\.jsonl:2 is not a JSON object"),
        ("m.jsonl", '{"path": "img/0.png", "label": true}\n', r"m\.jsonl:1: the label is True; it must be"),
        (
            "m.jsonl",
            '{"path": "img/0.png"}\n{"path": "img/1.png", "label": 1}\n',
            r"m\.jsonl:2: its columns differ",
        ),
        ("m.txt", "img/0.png\n", r"m\.txt: expected a \.csv, \.tsv or \.jsonl file"),
    ],
)
def test_manifest_errors_name_file_and_line(tmp_path, name, text, message):
    with pytest.raises(DataError, match=message):
        read_manifest_file(write_rows(tmp_path, name, text), ("cat", "dog"))


def test_labels_that_are_partly_numbers_are_refused_without_class_names(tmp_path):
    path = write_rows(tmp_path, "m.csv", "path,label\nimg/0.png,cat\nimg/1.png,0\n")
    with pytest.raises(DataError, match=r"m\.csv:3: this label is a number, others are class names"):
        read_manifest_file(path)


class TinyPictures(tfds.core.GeneratorBasedBuilder):
    """Six encoded images, prepared without TensorFlow."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=["cat", "dog"]),
                "file_name": tfds.features.Text(),
            }
        )
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        del dl_manager
        return {"test": self._generate_examples()}

    def _generate_examples(self):
        for i in range(6):
            yield i, {"image": png(i), "label": i % 2, "file_name": f"{i}.png"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    builder = TinyPictures(data_dir=str(tmp_path_factory.mktemp("tfds")), file_format="array_record")
    builder.download_and_prepare()
    return epath.Path(builder.data_path)


def test_tfds_gives_encoded_bytes_labels_and_names(prepared):
    manifest = read_tfds(prepared, ("cat", "dog"), split="test")
    assert sorted(manifest.ids) == [f"{i}.png" for i in range(6)]
    assert manifest.labels is not None
    for i, (name, label) in enumerate(zip(manifest.ids, manifest.labels)):
        row = int(name.removesuffix(".png"))
        assert manifest.open(i) == png(row)
        assert label == row % 2
    part = manifest.select([3])
    assert part.open(0) == manifest.open(3)
    assert part.digest == read_tfds(prepared, split="test").select([3]).digest
    assert read_tfds(prepared, split="test", key=None).ids[:2] == ("00000000", "00000001")


def test_tfds_errors(prepared, tmp_path):
    with pytest.raises(DataError, match=r"has no split 'train'; it has test"):
        read_tfds(prepared, split="train")
    with pytest.raises(DataError, match=r"has no feature 'picture'; it has file_name, image, label"):
        read_tfds(prepared, split="test", image="picture")
    with pytest.raises(DataError, match="class labels differ from the card's, first at 0"):
        read_tfds(prepared, ("dog", "cat"), split="test")
    with pytest.raises(DataError, match=r"no dataset_info\.json\); it holds tiny_pictures/1\.0\.0"):
        read_tfds(prepared.parent.parent, split="test")
    with pytest.raises(DataError, match="prepare it with tensorflow_datasets"):
        read_tfds(epath.Path(tmp_path), split="test")


def test_a_blank_label_is_refused_by_its_line(tmp_path) -> None:
    write_images(tmp_path, ["a.png", "b.png"])
    (tmp_path / "images.csv").write_text("path,label\na.png,cat\nb.png,\n")
    with pytest.raises(DataError, match=r"images.csv:3: the label is empty"):
        read_manifest_file(epath.Path(tmp_path / "images.csv"), None)


def test_a_wrong_pattern_is_one_error(tmp_path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"pattern '\(' of the column 'a'"):
        read_folder(epath.Path(tmp_path), None, columns={"a": "("})


def test_a_folder_of_splits_is_refused_with_the_folders_to_give(tmp_path):
    for name in ("train/cat/a.png", "train/dog/b.png", "val/cat/c.png", "val/dog/d.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    root = epath.Path(tmp_path)
    with pytest.raises(DataError, match=rf"holds splits \(train, val\) .* such as {tmp_path}/val, or set"):
        read_folder(root)
    assert read_folder(root / "val").label_names == ("cat", "dog")
    assert read_folder(root, splits_are_classes=True).label_names == ("train", "val")
    (tmp_path / "cat").mkdir()  # classes may have any names
    (tmp_path / "cat" / "e.png").write_bytes(b"")
    assert read_folder(root).label_names == ("cat", "train", "val")
