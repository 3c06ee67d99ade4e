"""Images with captions, in the published layouts of Flickr30k and COCO's Karpathy splits.

===================================================  =========================================================
annotation file                                      source
===================================================  =========================================================
dataset_flickr30k.json, dataset_coco.json            Karpathy & Fei-Fei 2015: all splits, captions by image
coco_test_karpathy.json ({images, annotations})      CLIP_benchmark: COCO's format, ordered by image id
flickr30k_test_karpathy.txt ("name.jpg,caption")     CLIP_benchmark: a line per caption below a header
===================================================  =========================================================

The ending .txt and the key `annotations` decide the layout. The column `captions` keeps the file's order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from etils import epath

from clipjax.data.manifest import FileOpener, Manifest, missing_files
from clipjax.data.readers.reader import Reader
from clipjax.errors import DataError
from clipjax.storage.reading import is_file, parse_json, read_text

_KINDS = {str: "not a text", int: "not a whole number", list: "not a list"}


class _Image(NamedTuple):
    """`folder` may be ""."""

    folder: str
    name: str
    captions: list[str]


def read_karpathy(
    root: epath.Path,
    label_names: Sequence[str] | None = None,
    *,
    file: str | Sequence[str],
    split: str = "test",
    folder: str = "",
    filepath: bool = True,
    max_captions: int | None = None,
) -> Manifest:
    """Images and their captions from one annotation file.

    Args:
        label_names: ignored.
        file: below `root`; of several names, the first that exists.
        folder: for images whose record names none.
        filepath: images are in their record's folder (COCO: train2014, val2014); False: all in `folder`.
        max_captions: COCO is often cut to five.

    Raises:
        DataError: an incomplete record, an unknown split, an image missing or listed twice, a missing or
            empty caption.
    """
    path = _annotation_file(root, file)
    if max_captions is not None and max_captions < 1:
        raise DataError(f"max_captions is {max_captions}; give 1 or more, or leave it out")
    ids, captions = [], []
    for image in _read(path, split):
        if not image.captions:
            raise _unusable(path, image, "has no caption")
        if not all(isinstance(text, str) and text.strip() for text in image.captions):
            raise _unusable(path, image, "has a caption that is empty or no text")
        parent = (image.folder if filepath else "") or folder
        ids.append(f"{parent.rstrip('/')}/{image.name}" if parent else image.name)
        captions.append(image.captions[:max_captions])
    if not ids:
        raise DataError(f"{path} lists no images")
    if len(set(ids)) != len(ids):
        raise DataError(f"{path}: the image {Counter(ids).most_common(1)[0][0]} is listed twice")
    if missing := missing_files(root, ids):
        raise DataError(
            f"{root}: {len(missing)} of the {len(ids)} images of {path.name} do not exist, the first is "
            f"{missing[0]}"
        )
    return Manifest(tuple(ids), FileOpener(str(root), tuple(ids)), columns={"captions": captions})


def _unusable(path: epath.Path, image: _Image, why: str) -> DataError:
    return DataError(f"{path}: the image {image.name} {why}; mend or leave out its record")


def _annotation_file(root: epath.Path, names: str | Sequence[str]) -> epath.Path:
    paths = [root / name for name in ([names] if isinstance(names, str) else names)]
    found = next((path for path in paths if is_file(path)), None)
    if found is None:
        wanted = " or ".join(path.name for path in paths)
        raise DataError(f"{root} holds no {wanted}; give the folder with the captions and the images")
    return found


def _read(path: epath.Path, split: str) -> Iterator[_Image]:
    text = read_text(path)
    if path.suffix == ".txt":
        return _from_lines(path, text)
    record = parse_json(text, path)
    for key in ("images", "annotations"):
        if not isinstance(record.get(key, []), list) or "images" not in record:
            raise DataError(f"{path}: expected one object with a list of `images` (COCO: and `annotations`)")
    return _from_coco(path, record) if "annotations" in record else _from_karpathy(path, record, split)


def _from_karpathy(path: epath.Path, record: dict[str, Any], split: str) -> Iterator[_Image]:
    splits = Counter(_value(image, "split", str, path, i) for i, image in enumerate(record["images"]))
    if split not in splits:
        known = ", ".join(f"{name} ({count})" for name, count in sorted(splits.items()))
        raise DataError(f"{path} has no images of the split {split!r}; it has {known or 'none at all'}")
    for i, image in enumerate(record["images"]):
        if image["split"] == split:
            sentences = _value(image, "sentences", list, path, i)
            captions = [_value(each, "raw", str, path, i) for each in sentences]
            folder = _value(image, "filepath", str, path, i) if image.get("filepath") else ""
            yield _Image(folder, _value(image, "filename", str, path, i), captions)


def _from_coco(path: epath.Path, record: dict[str, Any]) -> Iterator[_Image]:
    """Images by ascending id, as in torchvision's CocoCaptions (and so in CLIP_benchmark)."""
    names, captions = {}, {}
    for i, image in enumerate(record["images"]):
        key = _value(image, "id", int, path, i)
        names[key], captions[key] = _value(image, "file_name", str, path, i), []
    for i, annotation in enumerate(record["annotations"]):
        key = _value(annotation, "image_id", int, path, i, "annotation")
        if key not in captions:
            raise DataError(f"{path}: annotation {i} is of the image {key!r}, which is not among `images`")
        captions[key].append(_value(annotation, "caption", str, path, i, "annotation"))
    return (_Image("", names[key], captions[key]) for key in sorted(names))


def _from_lines(path: epath.Path, text: str) -> Iterator[_Image]:
    """`name.jpg,caption` below a header, cut at the first ".jpg,": captions contain commas."""
    captions: dict[str, list[str]] = {}
    header, *lines = text.split("\n")
    if ".jpg," in header:
        raise DataError(f"{path}:1: expected a header line, found a caption, which would be lost")
    for number, line in enumerate(lines, 2):
        if line := line.strip():
            name, comma, caption = line.partition(".jpg,")
            if not comma:
                raise DataError(f"{path}:{number}: expected `name.jpg,caption`, found {line[:40]!r}")
            captions.setdefault(f"{name}.jpg", []).append(caption)
    return (_Image("", name, texts) for name, texts in captions.items())


def _value(record: Any, key: str, kind: type, path: epath.Path, i: int, what: str = "image") -> Any:
    if not isinstance(record, dict) or key not in record:
        raise DataError(f"{path}: {what} {i} (counted from 0) has no {key!r}")
    if type(value := record[key]) is not kind:
        raise DataError(f"{path}: {what} {i} (counted from 0): {key!r} is {value!r:.60}, {_KINDS[kind]}")
    return value


READER = Reader(read_karpathy)
