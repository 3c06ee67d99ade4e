"""hf:// addresses against a hub on 127.0.0.1."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from _file_server import Content, FileServer, on_the_hub
from huggingface_hub import constants

from clipjax.downloads import transfer
from clipjax.errors import DataError
from tests.downloads.transfers._getting import DATA, NAME, OTHER, Getting, sha256

COMMIT, NEXT = "a" * 40, "b" * 40
PINNED = f"hf://datasets/org/name@{COMMIT}/data/{NAME}"
MAIN = f"hf://datasets/org/name/data/{NAME}"
TOKEN = "hf_planted"


@pytest.fixture
def getting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Getting:
    monkeypatch.setattr(transfer, "ATTEMPTS", 3)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return Getting(tmp_path / "downloads")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A hub that has the file at a commit, which is main's."""
    with FileServer({}) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
        )
        put(server, on_the_hub(DATA, COMMIT))
        yield server


def put(hub: FileServer, content: Content, *revisions: str) -> None:
    for revision in revisions or ("main", COMMIT):
        hub.files[f"/datasets/org/name/resolve/{revision}/data/{NAME}"] = content


def bytes_asked(hub: FileServer) -> list[tuple[str, str | None]]:
    """Revision and range of the requests for bytes."""
    found = [(each.path.split("/"), each) for each in hub.requests if each.method == "GET"]
    return [(path[5], each.headers["Range"]) for path, each in found if "resolve" in path]


@pytest.mark.parametrize("address", [PINNED, MAIN])
def test_the_commit_is_recorded(getting: Getting, hub: FileServer, address: str) -> None:
    found = getting.get(address, sha256=sha256(DATA))
    assert (found.address, found.revision) == (address, COMMIT)
    assert getting.target.read_bytes() == DATA
    assert bytes_asked(hub) == [(COMMIT, None)]


def test_main_moves_while_the_file_comes(getting: Getting, hub: FileServer) -> None:
    """All bytes are of the commit that main was at."""
    put(hub, on_the_hub(DATA, COMMIT, drops=[100_000]), COMMIT)
    put(hub, on_the_hub(OTHER, NEXT), NEXT)
    hub.files[f"/datasets/org/name/resolve/main/data/{NAME}"].later = on_the_hub(OTHER, NEXT)
    assert getting.get(MAIN).revision == COMMIT
    assert bytes_asked(hub) == [(COMMIT, None), (COMMIT, "bytes=100000-")]


def begin(getting: Getting, hub: FileServer, content: Content) -> None:
    content.drops = [100_000, 0, 0, 0]
    put(hub, content)
    with pytest.raises(DataError, match="3 times in a row"):
        getting.get(MAIN)
    assert getting.part == DATA[:100_000]
    hub.requests.clear()
    getting.told.clear()


@pytest.mark.parametrize("etag", ['"store"', '"another store"', None])
def test_a_later_run_goes_on_whatever_the_stores_etag(
    getting: Getting, hub: FileServer, etag: str | None
) -> None:
    """The hub's own SHA-256 identifies the bytes, also at another commit."""
    begin(getting, hub, on_the_hub(DATA, COMMIT, etag=etag and '"store"'))
    put(hub, on_the_hub(DATA, NEXT, etag=etag), "main", NEXT)
    assert getting.get(MAIN).revision == NEXT
    assert bytes_asked(hub) == [(NEXT, "bytes=100000-")]
    assert min(each for each in getting.told if isinstance(each, int)) > 0
    assert getting.target.read_bytes() == DATA


def test_a_later_run_starts_anew_where_main_has_another_file(getting: Getting, hub: FileServer) -> None:
    begin(getting, hub, on_the_hub(DATA, COMMIT))
    put(hub, on_the_hub(OTHER, NEXT), "main", NEXT)
    getting.get(MAIN)
    assert bytes_asked(hub) == [(NEXT, None)]
    assert getting.target.read_bytes() == OTHER


def test_a_small_file_has_no_sha256_on_the_hub(getting: Getting, hub: FileServer) -> None:
    put(hub, on_the_hub(b"a,b\n", COMMIT, large=False))
    getting.get(PINNED, kind="plain")
    assert getting.target.read_bytes() == b"a,b\n"


def test_bytes_that_are_not_the_hubs(getting: Getting, hub: FileServer) -> None:
    """The hub states one SHA-256 and sends other bytes of that length: its word is not trusted."""
    wrong = OTHER[: len(DATA)]
    content = on_the_hub(DATA, COMMIT)
    content.data = wrong
    put(hub, content)
    with pytest.raises(
        DataError, match=f"its SHA-256 is {sha256(wrong)}, not {sha256(DATA)} as the hub says"
    ):
        getting.get(PINNED)
    assert getting.left() == []


def test_the_card_decides_beside_the_hub(getting: Getting, hub: FileServer) -> None:
    with pytest.raises(DataError, match=f"not {sha256(OTHER)} as the card says"):
        getting.get(PINNED, sha256=sha256(OTHER))
    with pytest.raises(DataError, match="it has 300,000 bytes, not 5 as the card says"):
        getting.get(PINNED, bytes=5)
    assert getting.left() == []


def test_the_token_goes_to_the_hub_alone(getting: Getting, hub: FileServer) -> None:
    with FileServer({"/store": Content(DATA)}) as store:
        put(hub, on_the_hub(DATA, COMMIT, location=f"{store.url}/store?signature=x"))
        getting.get(PINNED)
    assert set(hub.asked("Authorization")) == {f"Bearer {TOKEN}"}
    assert store.asked("Authorization") == [None]
    assert TOKEN not in (" ".join(getting.notices))


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (403, "GatedRepo", "hub repository org/name asks for consent: accept its terms there and log in"),
        (401, "RepoNotFound", "hub repository org/name does not exist, or needs a login"),
        (404, "RevisionNotFound", f"hub repository org/name has no commit {COMMIT}: see the data card"),
        (404, "EntryNotFound", f"the repository has no file data/{NAME}"),
        (403, "", r"HTTP 403 \(Forbidden\)"),
        (500, "", r"HTTP 500 \(Internal Server Error\), 3 times in a row"),
        (429, "", r"HTTP 429 \(Too Many Requests\), 3 times in a row"),
    ],
)
def test_what_the_hub_refuses(
    getting: Getting, hub: FileServer, status: int, code: str, message: str
) -> None:
    put(hub, Content(statuses=[status] * 5, headers={"X-Error-Code": code}))
    with pytest.raises(DataError, match=rf"{PINNED}: {message}"):
        getting.get(PINNED)
    assert getting.left() == []


def test_the_hubs_limit_of_requests_is_waited_for(getting: Getting, hub: FileServer) -> None:
    """Of the question for the commit, and of the bytes."""
    for revision in ("main", COMMIT):
        content = on_the_hub(DATA, COMMIT, statuses=[429])
        content.headers = {**content.headers, "RateLimit": '"api";r=0;t=55'}
        put(hub, content, revision)
    getting.get(MAIN)
    assert [55 <= each <= 56 for each in getting.pauses.seconds] == [True, True]


def test_a_hub_that_is_not_there_and_one_that_may_not_be_asked(
    getting: Getting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DataError, match=r"the hub does not answer \(ConnectError\), 3 times in a row"):
        getting.get(PINNED)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"the hub is not asked \(HF_HUB_OFFLINE is set\)"):
        getting.get(PINNED)


def test_the_hub_comes_after_another_address(getting: Getting, hub: FileServer) -> None:
    found = getting.get((f"{hub.url}/absent.tar", MAIN), sha256=sha256(DATA))
    assert found.address == MAIN
