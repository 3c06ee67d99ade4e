"""Hub repositories from the local cache's layout, without a network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from _checkpoints import FORMATS, state_dict

from clipjax.errors import DataError
from converters.hub import found_files, resolve_source
from converters.sources import open_source

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache that huggingface_hub looks at."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def snapshot(cache: Path, repo: str) -> Path:
    """The folder of a repository's files in the cache, as huggingface_hub lays it out."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    files = folder / "snapshots" / COMMIT
    files.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    return files


def test_a_repository_prefers_open_clips_safetensors(cache: Path) -> None:
    files = snapshot(cache, "laion/CLIP-tiny")
    state = state_dict()
    for name in ("open_clip_pytorch_model.bin", "model.safetensors", "open_clip_model.safetensors"):
        FORMATS["safetensors" if name.endswith("safetensors") else "torch zip"](state, files / name)
    (files / "open_clip_config.json").write_text("{}")
    found = resolve_source("laion/CLIP-tiny")
    assert found.path == files / "open_clip_model.safetensors"
    assert (found.repo, found.file, found.revision) == ("laion/CLIP-tiny", found.path.name, COMMIT)
    assert (found.folder / "open_clip_config.json").is_file()
    assert set(open_source(found.path)) == set(state)


def test_one_file_of_a_repository(cache: Path) -> None:
    files = snapshot(cache, "laion/scaling-laws-openclip")
    name = "Model-B-32_Data-80M_Samples-34B_lr-1e-3_bs-88k.pt"
    FORMATS["training"](state_dict(), files / name)
    found = resolve_source("laion/scaling-laws-openclip", name)
    assert (found.file, found.revision) == (name, COMMIT)
    assert set(open_source(found.path)) == set(state_dict())
    with pytest.raises(
        DataError, match=r"has no other\.pt in the local cache, and the hub is not asked \(off"
    ):
        resolve_source("laion/scaling-laws-openclip", "other.pt")


def test_a_sharded_repository(cache: Path) -> None:
    files = snapshot(cache, "org/sharded")
    FORMATS["sharded safetensors"](state_dict(), files / "model.safetensors.index.json")
    assert set(open_source(resolve_source("org/sharded").path)) == set(state_dict())
    (files / "b.safetensors").unlink()
    with pytest.raises(DataError, match=r"lacks b\.safetensors, a part of model\.safetensors\.index\.json"):
        resolve_source("org/sharded")
    (files / "model.safetensors.index.json").write_text(json.dumps({"weight": {}}))
    with pytest.raises(DataError, match="is not an index"):
        resolve_source("org/sharded")


def test_local_paths(tmp_path: Path) -> None:
    FORMATS["safetensors"](state_dict(), tmp_path / "w.safetensors")
    found = resolve_source(tmp_path / "w.safetensors")
    assert (found.path, found.folder, found.revision) == (tmp_path / "w.safetensors", tmp_path, None)
    assert resolve_source(tmp_path).path == tmp_path
    assert resolve_source(tmp_path, "w.safetensors").path == tmp_path / "w.safetensors"
    with pytest.raises(DataError, match=r"x\.pt does not exist"):
        resolve_source(tmp_path, "x.pt")


@pytest.mark.parametrize(
    ("src", "message"),
    [
        (
            "org/absent",
            "hub repository org/absent has no weights in the local cache, and the hub is not asked",
        ),
        ("no such thing", "neither a file or folder here nor a hub repository"),
        ("a/b/c.pt", "neither a file or folder here nor a hub repository"),
        (
            "hf-hub:timm/resnet26.bt_in1k",
            r"^a hub repository is written org/name: give timm/resnet26\.bt_in1k, without the prefix",
        ),
        ("https://example.org/w.pt", r"https://example\.org/w\.pt is an address: download the file"),
    ],
)
def test_nothing_there(src: str, message: str, cache: Path) -> None:
    with pytest.raises(DataError, match=message):
        resolve_source(src)


# --- one commit for all files of a model ---


def later(cache: Path, repo: str, commit: str, *names: str) -> Path:
    """Another commit's snapshot with these files, each of which says which commit it is of."""
    files = cache / f"models--{repo.replace('/', '--')}" / "snapshots" / commit
    files.mkdir(parents=True, exist_ok=True)
    for name in names:
        (files / name).write_text(commit)
    return files


def test_weights_and_configuration_are_of_one_commit(cache: Path) -> None:
    """The main branch has moved on, and of its commit the cache has the configuration alone."""
    snapshot(cache, "org/moved")
    later(cache, "org/moved", COMMIT, "open_clip_config.json")
    old = later(cache, "org/moved", "a" * 40, "model.safetensors", "open_clip_config.json")
    later(cache, "org/moved", "b" * 40, "model.safetensors")
    found = resolve_source("org/moved")
    assert (found.folder, found.revision) == (old, "a" * 40)
    later(cache, "org/moved", COMMIT, "model.safetensors")
    assert resolve_source("org/moved").revision == COMMIT
    assert resolve_source("org/moved", revision="b" * 40).revision == "b" * 40
    with pytest.raises(DataError, match="download the weights"):
        resolve_source("org/moved", revision="c" * 40)


def test_all_downloads_are_of_the_commit_that_the_weights_were_found_in(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The main branch moves between two downloads."""
    import huggingface_hub
    from huggingface_hub import constants, errors

    asked = []

    def download(repo: str, name: str, *, revision: str | None = None, local_files_only: bool = False) -> str:
        asked.append((name, revision))
        if name not in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"):
            raise errors.EntryNotFoundError(name)
        return str(later(cache, repo, revision or f"{len(asked):040d}", name) / name)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    found = resolve_source("org/moving")
    assert found.revision == f"{asked.index(('model.safetensors', None)) + 1:040d}"
    assert (found.folder / "config.json").is_file()
    assert {revision for name, revision in asked if name.endswith("config.json")} == {found.revision}
    names = [("tokenizer.json", "tokenizer_config.json")]
    of = {"org/moving": found.revision}
    [files] = found_files(["org/moving"], names, download=False, revisions=of)
    assert {file.parent for file in files} == {found.folder}
    [files] = found_files(["org/moving"], names, download=False)
    assert len({file.parent for file in files}) == 1


def test_a_path_in_the_cache_is_its_repositorys(cache: Path) -> None:
    files = snapshot(cache, "org/name")
    FORMATS["safetensors"](state_dict(), files / "w.safetensors")
    found = resolve_source(files / "w.safetensors")
    assert (found.repo, found.file, found.revision) == ("org/name", "w.safetensors", COMMIT)
    found = resolve_source(files)
    assert (found.repo, found.file, found.revision) == ("org/name", None, COMMIT)


def test_a_hub_that_cannot_be_reached_is_asked_once_and_quietly(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing listens at the port. A repository in the cache is still found."""
    import huggingface_hub
    from huggingface_hub import constants

    seen = []

    def download(repo: str, name: str, *, revision: str | None = None, local_files_only: bool = False) -> str:
        seen.append(local_files_only)
        return real(repo, name, revision=revision, local_files_only=local_files_only)

    real = huggingface_hub.hf_hub_download
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    sessions, session = [], huggingface_hub.utils.get_session
    monkeypatch.setattr(huggingface_hub.utils, "get_session", lambda: sessions.append(1) or session())
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DataError, match="no weights in the local cache, and the Hugging Face hub cannot be"):
        resolve_source("org/absent")
    later(cache, "org/cached", COMMIT, "model.safetensors", "config.json")
    assert resolve_source("org/cached").revision == COMMIT
    assert list(found_files(["org/absent"], [("tokenizer.json",)], download=True)) == []
    assert set(seen) == {True}
    assert len(sessions) == 1
    assert not caplog.records
