"""Every reader of a small file, times every way in which one is damaged: one sentence that names the file.

Each value of a JSON or TOML document is also replaced by values of other types. A reader may take one that
means something, but never raises anything but a DataError or a UsageError.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
from etils import epath

from clipjax.data.annotations import load_factors
from clipjax.data.cards import read_card
from clipjax.data.labels import load_labels, load_prompts
from clipjax.data.readers.karpathy import read_karpathy
from clipjax.data.readers.manifest_file import read_manifest_file
from clipjax.data.readers.packed import FORMAT
from clipjax.data.readers.packed import read_record as read_record_of_packed
from clipjax.data.readers.vid_robust import read_vid_robust
from clipjax.errors import ClipjaxError
from clipjax.models.parity_record import empty_record, read_record
from tests.data._images import write_images

FRAMES = ["val/v/000001.JPEG", "val/v/000002.JPEG"]
FACTOR = {"file_name": "a.JPEG", "class": 1, "pose": 1, "larger": 0}


class Reader(NamedTuple):
    """A file by its name, what it holds (text, or a JSON value), and what reads the folder that it is in."""

    file: str
    content: Any
    read: Callable[[Path], Any]
    beside: Mapping[str, Any] = MappingProxyType({})


def _text(file: str, content: Any) -> str:
    if isinstance(content, str):
        return content
    if file.endswith(".jsonl") and isinstance(content, list):  # real_labels.jsonl is one value
        return "".join(json.dumps(line) + "\n" for line in content)
    return json.dumps(content)


KARPATHY = {
    "images": [{"split": "test", "filename": "0.png", "filepath": "", "sentences": [{"raw": "a dog"}]}]
}
COCO = {
    "images": [{"id": 1, "file_name": "0.png"}, {"id": 2, "file_name": "1.png"}],
    "annotations": [{"image_id": 1, "caption": "a"}, {"image_id": 2, "caption": "b"}],
}
PACKED = {
    "format": FORMAT,
    "kind": "webdataset",
    "name": "x",
    "label_names": ["cat"],
    "shards": [{"file": "0.tar", "images": 2, "bytes": 10240}],
    "ids": ["a.png", "b.png"],
    "sha256": ["0", "1"],
    "labels": [0, 0],
    "columns": {"captions": ["a", "b"]},
}
READERS = {
    "packed": Reader("manifest.json", PACKED, read_record_of_packed),
    "manifest.csv": Reader(
        "m.csv", "path,label\n0.png,cat\n1.png,dog\n", lambda f: read_manifest_file(epath.Path(f / "m.csv"))
    ),
    "manifest.jsonl": Reader(
        "m.jsonl",
        [{"path": "0.png", "label": 0, "id": "a"}, {"path": "1.png", "label": 1, "id": 5}],
        lambda f: read_manifest_file(epath.Path(f / "m.jsonl")),
    ),
    "karpathy": Reader("k.json", KARPATHY, lambda f: read_karpathy(epath.Path(f), file="k.json")),
    "coco": Reader("k.json", COCO, lambda f: read_karpathy(epath.Path(f), file="k.json")),
    "karpathy.txt": Reader(
        "k.txt", "image,caption\n0.jpg,a dog\n", lambda f: read_karpathy(epath.Path(f), file="k.txt")
    ),
    "labels.json": Reader(
        "metadata/labels.json",
        {frame: [0, 1] for frame in FRAMES},
        lambda f: read_vid_robust(epath.Path(f), ["a", "b"]),
        {"metadata/pmsets.json": {FRAMES[0]: FRAMES[1:]}},
    ),
    "pmsets.json": Reader(
        "metadata/pmsets.json",
        {FRAMES[0]: FRAMES[1:]},
        lambda f: read_vid_robust(epath.Path(f), ["a", "b"]),
        {"metadata/labels.json": {frame: [0, 1] for frame in FRAMES}},
    ),
    "top factors": Reader("x_top_factor.jsonl", [FACTOR], load_factors, {"x_multi_factor.jsonl": [FACTOR]}),
    "all factors": Reader("x_multi_factor.jsonl", [FACTOR], load_factors, {"x_top_factor.jsonl": [FACTOR]}),
    "real labels": Reader(
        "x_real_labels.jsonl",
        {"a.JPEG": [1, 2]},
        load_factors,
        {"x_top_factor.jsonl": [FACTOR], "x_multi_factor.jsonl": [FACTOR]},
    ),
    "prompts.json": Reader("p.json", {"cat": ["a cat"]}, lambda f: load_prompts(f / "p.json")),
    "prompts.txt": Reader("p.txt", "a {}.\n", lambda f: load_prompts(f / "p.txt")),
    "labels.csv": Reader("l.csv", "id,name\na,cat\nb,dog\n", lambda f: load_labels(f / "l.csv")),
    "parity record": Reader("r.json", empty_record(), lambda f: read_record(f / "r.json")),
    "card": Reader(
        "c.toml",
        'name = "c"\ntitle = "C"\nreader = "folder"\nclasses = ["a", "b"]\nimages = 3\n',
        lambda f: read_card(f / "c.toml"),
    ),
}

TEXTS: dict[str, bytes] = {
    "not UTF-8": b"\xff\xfe{",
    "nested": b"[" * 100_000,
    "nested, within a key": b'{"a": ' * 50_000,
    "NaN": b'{"a": NaN}',
    "1e400": b'[{"a": 1e400}]',
    "half a surrogate pair": b'{"path": "\\ud800", "file_name": "\\ud800", "images": ["\\ud800"]}',
    "a quote without end": b'id,name,path\n"a,b\n',
    "NUL": b"\0\0\0\0",
    "a list of numbers": b"[1, 2, 3]",
    "a number": b"7",
    "null": b"null",
    "empty": b"",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_images(tmp_path, ["0.png", "1.png", "0.jpg", *FRAMES])


def _write(reader: Reader, folder: Path, text: str | bytes | None = None) -> Path:
    for name, content in {**reader.beside, reader.file: reader.content}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(_text(name, content))
    if text is not None:
        data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        (folder / reader.file).write_bytes(data)
    return folder / reader.file


@pytest.mark.parametrize("name", READERS)
def test_whole_files_are_read(name: str, folder: Path) -> None:
    reader = READERS[name]
    _write(reader, folder)
    assert reader.read(folder) is not None


@pytest.mark.parametrize("damage", TEXTS)
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_named(name: str, damage: str, folder: Path) -> None:
    reader = READERS[name]
    path = _write(reader, folder, TEXTS[damage])
    if path.suffix == ".txt" and damage in (
        "NaN",
        "1e400",
        "a number",
        "null",
        "NUL",
        "half a surrogate pair",
    ):
        pytest.skip("text like any other")
    with pytest.raises(ClipjaxError) as caught:
        reader.read(folder)
    message = str(caught.value)
    assert path.name in message or "holds no" in message
    assert "\n" not in message
    assert len(message) < 1000


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", ["fifo", "folder", "link to nothing"])
def test_what_is_no_file_is_refused_and_never_hangs(name: str, kind: str, folder: Path) -> None:
    if (name, kind) == ("parity record", "link to nothing"):
        pytest.skip("without a file the record is an empty one")
    reader = READERS[name]
    path = _write(reader, folder)
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        os.symlink("/nowhere", path)
    with pytest.raises(ClipjaxError):
        reader.read(folder)


@pytest.mark.parametrize("name", ["manifest.csv", "labels.csv", "parity record"])
def test_what_may_not_be_read_is_named(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = READERS[name]
    path = _write(reader, folder)

    def refuse(*_: object, **__: object) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    for kind in {Path, type(path), type(epath.Path(folder))}:
        monkeypatch.setattr(kind, "read_bytes", refuse)
    with pytest.raises(ClipjaxError, match=f"{path.name} cannot be read .Permission denied"):
        reader.read(folder)


OTHERS: list[Any] = [None, True, -1, 2**70, 0.5, "", "\0", "x" * 5000, [], {}, [[]], [None], {"a": {}}]


def _replaced(value: Any) -> Iterator[Any]:
    """The value with each of its parts replaced by each of OTHERS."""
    yield from OTHERS
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            for other in _replaced(value[key]):
                changed = copy.copy(value)
                changed[key] = other
                yield changed
    if isinstance(value, dict):
        for key in value:
            yield {k: v for k, v in value.items() if k != key}


@pytest.mark.parametrize("name", [n for n, reader in READERS.items() if not isinstance(reader.content, str)])
def test_values_of_other_types_are_refused_in_words(name: str, folder: Path) -> None:
    reader = READERS[name]
    path = _write(reader, folder)
    refused = 0
    for content in _replaced(reader.content):
        path.write_text(_text(reader.file, [content] if isinstance(content, str) else content))
        with contextlib.suppress(ClipjaxError):
            reader.read(folder)
            continue
        refused += 1
    assert refused > 20
