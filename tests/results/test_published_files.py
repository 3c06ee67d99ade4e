"""The tables that others publish: their files are those that were read, and one command imports them."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
from _file_server import Content, FileServer
from typer.testing import CliRunner

from clipjax.cli import app
from clipjax.data.card_files import CardFile
from clipjax.errors import DataError, UsageError
from clipjax.results.published import references
from clipjax.results.published.numbers import read_numbers, readable_sources
from clipjax.results.published.references import files_of
from clipjax.results.store import ResultStore

FOLDERS = {
    "open_clip": "published/openclip",
    "timm": "published/timm",
    "testbed": "published/testbed",
    "imagenet_x": "published/imagenet_x",
    "model_vs_human": "cue_conflict_human",
}


@pytest.mark.parametrize("source", FOLDERS)
def test_every_file_is_the_one_that_was_read(source: str, test_data: Path) -> None:
    files = files_of(source)
    for file in files:
        data = (test_data / FOLDERS[source] / file.name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file.bytes, file.sha256), file.name
        [address] = file.addresses
        assert address.startswith("https://raw.githubusercontent.com/")
        assert len(address.split("/")[5]) == 40, "a commit: a branch would change"
    if source == "imagenet_x":
        assert all(file.ask for file in files), "CC BY-NC"


def test_all_tables_that_can_be_imported_have_files() -> None:
    assert {*readable_sources(), "model_vs_human"} == {*FOLDERS}
    with pytest.raises(UsageError, match="unknown source 'timmm'; did you mean timm"):
        files_of("timmm")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, test_data: Path) -> Iterator[FileServer]:
    """The published tables at local addresses, and an empty cache."""
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with FileServer({}) as found:

        def local(source: str) -> tuple[CardFile, ...]:
            files = files_of(source)
            for file in files:
                data = (test_data / FOLDERS[source] / file.name).read_bytes()
                found.files.setdefault(f"/{file.name}", Content(data))
            return tuple(dataclasses.replace(file, addresses=(f"{found.url}/{file.name}",)) for file in files)

        monkeypatch.setattr(references, "files_of", local)
        yield found


def invoke(tmp_path: Path, *arguments: str) -> tuple[str, BaseException | None]:
    done = CliRunner().invoke(app, ["results", "import", *arguments, "--out", str(tmp_path / "results")])
    return done.output, done.exception


def test_one_command_downloads_and_imports(server: FileServer, tmp_path: Path, test_data: Path) -> None:
    expected = read_numbers("open_clip", test_data / FOLDERS["open_clip"], registered=True)
    for _ in range(2):
        text, error = invoke(tmp_path, "--source", "open_clip", "--registered")
        assert error is None, text
        assert f": {len(expected)} numbers of " in text
        rows = ResultStore(tmp_path / "results").rows()
        assert {row["value"] for row in rows} == {number.score.value for number in expected}
        assert len(rows) == len(expected)
        assert len(server.requests) == len(files_of("open_clip")), "the second time they are in the cache"


def test_terms_are_accepted_first(server: FileServer, tmp_path: Path) -> None:
    _, error = invoke(tmp_path, "--source", "imagenet_x")
    assert isinstance(error, UsageError)
    assert "the tables of imagenet_x have terms: CC BY-NC 4.0" in str(error)
    assert not server.requests
    text, error = invoke(tmp_path, "--source", "imagenet_x", "--registered", "--accept")
    assert error is None, text
    assert len(server.requests) == 6
    _, error = invoke(tmp_path, str(tmp_path), "--source", "timm", "--accept")
    assert "PATH and --accept do not go together" in str(error)


def test_a_changed_table_is_not_imported(server: FileServer, tmp_path: Path) -> None:
    server.files["/robustness_top1s.csv"] = Content(b"model,val\n")
    _, error = invoke(tmp_path, "--source", "testbed")
    assert isinstance(error, DataError)
    assert "robustness_top1s.csv could not be downloaded" in str(error)
    assert "not 869,425 as the card says" in str(error)
    assert not (tmp_path / "results").exists()


def test_real_labels_come_with_the_annotations_of_imagenet_x() -> None:
    """The package's file is Google's real.json, whose SHA-256 TensorFlow Datasets has."""
    folders = {}
    for package in ("imagenet_x", "tensorflow_datasets"):
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        folders[package] = Path(spec.origin).parent
    labels = (folders["imagenet_x"] / "annotations" / "imagenet_real_labels.jsonl").read_bytes()
    table = folders["tensorflow_datasets"] / "datasets" / "imagenet2012_real" / "checksums.tsv"
    assert f"{len(labels)}\t{hashlib.sha256(labels).hexdigest()}" in table.read_text(encoding="utf-8")
