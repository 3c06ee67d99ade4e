"""Captions in each published layout, against CLIP_benchmark's and torchvision's own readers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from clipjax.data.cards import load_dataset, read_card
from clipjax.data.check import check_dataset
from clipjax.errors import DataError
from tests.data._images import write_images

NAMES = ["7.jpg", "1000.jpg", "30.jpg"]
TEXTS = [["A dog, running.", "Two dogs"], ["a cat"], ["x 1", " y, with spaces ", "z", "x 1"]]


def karpathy(names: Sequence[str], texts: Sequence[Sequence[str]], **more: Any) -> dict[str, Any]:
    """Karpathy's schema: the images given are the test split, one of the training split is put first."""
    images = [{"imgid": 0, "filename": "t.jpg", "split": "train", "sentences": [{"raw": "t"}], **more}]
    for i, (name, captions) in enumerate(zip(names, texts), 1):
        sentences = [{"raw": text, "tokens": text.split(), "imgid": i, "sentid": 0} for text in captions]
        images.append({"imgid": i, "filename": name, "split": "test", "sentences": sentences, **more})
    return {"dataset": "any", "images": images}


def coco(names: Sequence[str], texts: Sequence[Sequence[str]]) -> dict[str, Any]:
    """COCO's format, annotations in an order of their own."""
    images = [{"id": 50 - i, "file_name": name} for i, name in enumerate(names)]
    notes = [{"image_id": 50 - i, "caption": text} for i, captions in enumerate(texts) for text in captions]
    notes = [{"id": i, **note} for i, note in enumerate(notes[1::2] + notes[::2])]
    return {"images": images, "annotations": notes}


def write(path: Path, record: Any) -> Path:
    path.write_text(record if isinstance(record, str) else json.dumps(record))
    return path


def captions(manifest) -> dict[str, list[str]]:
    return dict(zip(manifest.ids, manifest.columns["captions"]))


def test_flickr_in_both_layouts(tmp_path):
    write_images(tmp_path, NAMES)
    write(tmp_path / "flickr30k_test_karpathy.txt", lines(NAMES, TEXTS))
    one = load_dataset("flickr30k", tmp_path)
    write(tmp_path / "dataset_flickr30k.json", karpathy(NAMES, TEXTS))
    other = load_dataset("flickr30k", tmp_path)
    assert captions(other.manifest) == dict(zip(NAMES, TEXTS))
    assert captions(one.manifest) == {
        name: [text.rstrip() for text in texts] for name, texts in captions(other.manifest).items()
    }
    assert other.manifest.labels is None
    assert other.label_space is None
    assert other.manifest.open(1) == (tmp_path / "1000.jpg").read_bytes()
    assert check_dataset(tmp_path, "flickr30k") == [
        f"{tmp_path} holds 3 images; Flickr30k (test, captions) has 1000"
    ]


def lines(names: Sequence[str], texts: Sequence[Sequence[str]]) -> str:
    rows = [f"{name},{text}\n" for name, captions in zip(names, texts) for text in captions]
    return "".join(["image,caption\n", *rows, "\n"])


def test_lines_are_read_as_clip_benchmark_reads_them(tmp_path):
    from clip_benchmark.datasets.flickr import Flickr

    write_images(tmp_path, NAMES)
    path = write(tmp_path / "flickr30k_test_karpathy.txt", lines(NAMES, TEXTS))
    theirs = Flickr(str(tmp_path), str(path))
    assert list(captions(load_dataset("flickr30k", tmp_path).manifest).items()) == theirs.data


def test_coco_is_ordered_as_torchvision_orders_it(tmp_path):
    torchvision = pytest.importorskip("torchvision")
    pytest.importorskip("pycocotools")
    write_images(tmp_path / "val2014", NAMES)
    path = write(tmp_path / "coco_test_karpathy.json", coco(NAMES, TEXTS))
    theirs = torchvision.datasets.CocoCaptions(str(tmp_path / "val2014"), str(path))
    ours = load_dataset("mscoco", tmp_path).manifest
    assert list(ours.columns["captions"]) == [theirs[i][1] for i in range(3)]
    assert ours.ids == tuple(f"val2014/{theirs.coco.imgs[i]['file_name']}" for i in theirs.ids)


def test_coco_in_both_layouts(tmp_path):
    write_images(tmp_path / "val2014", NAMES)
    write(tmp_path / "coco_test_karpathy.json", coco(NAMES, TEXTS))
    manifest = load_dataset("mscoco", tmp_path).manifest
    assert manifest.ids == ("val2014/30.jpg", "val2014/1000.jpg", "val2014/7.jpg")  # by image id
    assert {k: sorted(v) for k, v in captions(manifest).items()} == {
        f"val2014/{name}": sorted(texts) for name, texts in zip(NAMES, TEXTS)
    }
    write(tmp_path / "dataset_coco.json", karpathy(NAMES, TEXTS, filepath="val2014", cocoid=1))
    manifest = load_dataset("mscoco", tmp_path).manifest
    assert captions(manifest) == {f"val2014/{name}": texts for name, texts in zip(NAMES, TEXTS)}


def test_only_the_first_captions(tmp_path):
    write_images(tmp_path / "val2014", NAMES)
    texts = [[f"{i} {k}" for k in range(4 + i)] for i in range(3)]
    write(tmp_path / "dataset_coco.json", karpathy(NAMES, texts, filepath="val2014"))
    assert list(map(len, load_dataset("mscoco", tmp_path).manifest.columns["captions"])) == [4, 5, 6]
    five = load_dataset("mscoco_5captions", tmp_path).manifest
    assert list(five.columns["captions"]) == [row[:5] for row in texts]
    assert five.digest != load_dataset("mscoco", tmp_path).manifest.digest
    assert five.images_digest == load_dataset("mscoco", tmp_path).manifest.images_digest
    assert read_card("mscoco_5captions").tasks == ()


@pytest.fixture
def own(tmp_path):
    """A card of one's own with these options."""

    def load(options: str, record: Any, name: str = "a.json"):
        write(tmp_path / name, record)
        card = 'name = "own"\ntitle = "Own"\nreader = "karpathy"\n[options]\n'
        (tmp_path / "own.toml").write_text(f'{card}file = "{name}"\n{options}')
        return load_dataset(tmp_path / "own.toml", tmp_path).manifest

    return load


def test_where_images_lie(own, tmp_path):
    write_images(tmp_path / "all", NAMES)
    record = karpathy(NAMES, TEXTS, filepath="val2014")
    assert own('folder = "all/"\nfilepath = false\n', record).ids[0] == "all/7.jpg"
    with pytest.raises(DataError, match=r"3 of the 3 images of a\.json .* the first is val2014/7\.jpg"):
        own('folder = "all"\n', record)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("{", "a.json is not JSON"),
        ([], "is not a JSON object"),
        ({"images": [{"filename": "a"}]}, r"image 0 \(counted from 0\) has no 'split'"),
        ({"images": [{"split": "test", "filename": "7.jpg"}]}, "image 0 .* has no 'sentences'"),
        (
            {"images": [{"split": "test", "sentences": [{"raw": "a"}]}]},
            "image 0 .* has no 'filename'",
        ),
        (
            {"images": [{"split": "val", "sentences": []}]},
            r"no images of the split 'test'; it has val \(1\)",
        ),
        ({"images": []}, "no images of the split 'test'; it has none"),
        (karpathy(["7.jpg"], [[]]), "the image 7.jpg has no caption"),
        (karpathy(["7.jpg"], [["a", " \n"]]), "the image 7.jpg has a caption that is empty"),
        (karpathy(["7.jpg", "7.jpg"], [["a"], ["b"]]), "the image 7.jpg is listed twice"),
        (
            {"images": [{"id": 1, "file_name": "7.jpg"}], "annotations": [{"image_id": 2, "caption": "a"}]},
            "annotation 0 is of the image 2, which is not among `images`",
        ),
        ({"images": [{"id": 1, "file_name": "7.jpg"}], "annotations": []}, "the image 7.jpg has no caption"),
        ({"images": [], "annotations": []}, "a.json lists no images"),
    ],
)
def test_wrong_files_are_named(own, tmp_path, record, message):
    write_images(tmp_path, NAMES)
    with pytest.raises(DataError, match=message):
        own("", record)


def test_wrong_lines_are_named(own, tmp_path):
    write_images(tmp_path, NAMES)
    with pytest.raises(DataError, match=r"a\.txt:1: expected a header line"):
        own("", "7.jpg,a dog\n7.jpg,two dogs\n", "a.txt")
    with pytest.raises(DataError, match=r"a\.txt:3: expected `name.jpg,caption`, found 'nothing'"):
        own("", "image,caption\n7.jpg,a dog\nnothing\n", "a.txt")
    with pytest.raises(DataError, match="max_captions is 0"):
        own("max_captions = 0\n", karpathy(NAMES, TEXTS))
    with pytest.raises(DataError, match=r"holds no dataset_flickr30k\.json or flickr30k_test_karpathy\.txt"):
        load_dataset("flickr30k", tmp_path)
