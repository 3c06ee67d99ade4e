"""Remembered file digests: right, and computed again when a file changes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from clipjax import digests
from clipjax.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_digest_is_sha256_and_follows_the_content(tmp_path: Path) -> None:
    files = [tmp_path / f"{i}.bin" for i in range(3)]
    for i, file in enumerate(files):
        file.write_bytes(bytes([i]) * 1000)
    expected = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    assert digests.sha256_files(files) == expected
    files[1].write_bytes(b"changed")
    expected[1] = hashlib.sha256(b"changed").hexdigest()
    assert digests.sha256_files(files) == expected


def test_an_unchanged_file_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"a")
    first = digests.sha256_files([file])
    monkeypatch.setattr(digests.hashlib, "file_digest", lambda *_: pytest.fail("read again"))
    assert digests.sha256_files([file]) == first


def test_a_broken_cache_only_costs_time(tmp_path: Path, cache: Path) -> None:
    cache.mkdir()
    (cache / "digests.sqlite").write_bytes(b"not a database" * 100)
    file = tmp_path / "a"
    file.write_bytes(b"a")
    assert digests.sha256_files([file]) == [hashlib.sha256(b"a").hexdigest()]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone"):
        digests.sha256_files([tmp_path / "gone"])


def test_canonical_json_has_one_form_and_no_nan() -> None:
    assert digests.canonical_json({"b": 1, "a": [1.5, None]}) == '{"a":[1.5,null],"b":1}'
    with pytest.raises(ValueError, match="Out of range"):
        digests.canonical_json(float("nan"))


def test_more_files_than_one_query_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "_ASKED", 2)
    files = [tmp_path / f"{i}.bin" for i in range(5)]
    for i, file in enumerate(files):
        file.write_bytes(bytes([i]))
    first = digests.sha256_files(iter(files))
    assert first == [hashlib.sha256(bytes([i])).hexdigest() for i in range(5)]
    monkeypatch.setattr(digests.hashlib, "file_digest", lambda *_: pytest.fail("read again"))
    assert digests.sha256_files(reversed(files)) == first[::-1]
