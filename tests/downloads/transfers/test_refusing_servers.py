"""Servers that refuse, ask to wait, redirect or are slow; secrets, proxies, https, and mixtures of faults."""

from __future__ import annotations

import email.utils
import hashlib
import json
import random
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from _file_server import Content, FileServer

from clipjax.errors import DataError
from clipjax.storage.remote import web
from clipjax.storage.remote.web import Refused, redirected
from tests.downloads.transfers._getting import (
    DATA,
    NAME,
    OTHER,
    PART,
    Getting,
    address,
    begin,
    sha256,
)


@pytest.mark.parametrize("status", [401, 403, 404, 410, 451])
def test_a_refusal_goes_on_to_the_next_address(getting: Getting, server: FileServer, status: int) -> None:
    server.files["/mirror.tar"] = Content(DATA)
    where, mirror = address(server, Content(statuses=[status])), f"{server.url}/mirror.tar"
    assert getting.get((where, mirror)).address == mirror
    assert getting.pauses.seconds == []
    [notice] = getting.notices
    assert notice.startswith(f"{NAME}: {where}: HTTP {status} (")


def test_every_address_and_its_reason_is_named(getting: Getting, server: FileServer) -> None:
    one, two = f"{server.url}/one.tar", address(server, Content(DATA))
    with pytest.raises(DataError) as caught:
        getting.get((one, two), md5="0" * 32)
    md5 = hashlib.md5(DATA).hexdigest()
    assert str(caught.value) == (
        f"{NAME} could not be downloaded ({one}: HTTP 404 (Not Found); {two}: its MD5 is {md5}, not "
        f"{'0' * 32} as the card says; what came was removed): try again later, or get it in another way and "
        f"put it at {getting.target}"
    )
    assert getting.left() == []


def test_a_wrong_checksum_goes_on_to_the_next_address(getting: Getting, server: FileServer) -> None:
    server.files["/mirror.tar"] = Content(DATA)
    where, mirror = address(server, Content(OTHER)), f"{server.url}/mirror.tar"
    assert getting.get((where, mirror), sha256=sha256(DATA)).address == mirror
    assert -len(OTHER) in getting.told


def test_the_address_of_a_part_comes_first(getting: Getting, server: FileServer) -> None:
    content = Content(DATA)
    mirror = begin(getting, server, content, 100_000)
    server.files["/first.tar"] = Content(DATA)
    assert getting.get((f"{server.url}/first.tar", mirror)).address == mirror
    assert server.asked("Range") == ["bytes=100000-"]


def test_another_address_starts_anew(getting: Getting, server: FileServer) -> None:
    """Nothing says that two addresses have the same bytes."""
    content = Content(DATA)
    where = begin(getting, server, content, 100_000)
    server.files[f"/{NAME}"] = Content(statuses=[404])
    server.files["/mirror.tar"] = Content(OTHER)
    getting.get((f"{server.url}/mirror.tar", where))
    assert getting.target.read_bytes() == OTHER
    assert server.asked("Range") == ["bytes=100000-", None]


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("header", [("Retry-After", "30"), ("RateLimit", '"resolvers";r=0;t=30')])
def test_the_server_says_when_to_come_again(
    getting: Getting, server: FileServer, status: int, header: tuple[str, str]
) -> None:
    where = address(server, Content(DATA, statuses=[status], headers=dict([header])))
    getting.get(where)
    [seconds] = getting.pauses.seconds
    assert 30 < seconds <= 31
    assert "the next attempt is in 3" in getting.notices[0]


def test_the_server_says_the_date_when_to_come_again(getting: Getting, server: FileServer) -> None:
    date = email.utils.formatdate(time.time() + 40, usegmt=True)
    getting.get(address(server, Content(DATA, statuses=[429], headers={"Retry-After": date})))
    [seconds] = getting.pauses.seconds
    assert 30 < seconds < 42


@pytest.mark.parametrize(
    ("after", "text"),
    [
        (lambda: "86400", "24 hours"),
        (lambda: "900", "15 minutes"),
        # Made when the test runs: in its name, the two workers' lists of tests would differ by a second.
        (lambda: email.utils.formatdate(time.time() + 7 * 86400, usegmt=True), "168 hours"),
    ],
    ids=["a day", "a quarter of an hour", "a date"],
)
def test_the_server_asks_to_wait_for_long(
    getting: Getting, server: FileServer, after: Callable[[], str], text: str
) -> None:
    where = address(server, Content(statuses=[429], headers={"Retry-After": after()}))
    with pytest.raises(
        DataError, match=rf"HTTP 429 \(Too Many Requests\), and the server asks to wait {text}"
    ):
        getting.get(where)
    assert getting.pauses.seconds == []


@pytest.mark.parametrize("after", ["soon", "-5", "9" * 30, "", "Mon, 99 Foo 2026 00:00:00 GMT"])
def test_a_time_that_is_none_is_ignored(getting: Getting, server: FileServer, after: str) -> None:
    headers = {"Retry-After": after, "RateLimit": '"api";r=5;t=55'}
    getting.get(address(server, Content(DATA, statuses=[429], headers=headers)))
    assert getting.pauses.seconds[0] <= 1


def test_a_redirect_to_another_host_gets_no_credentials(getting: Getting, server: FileServer) -> None:
    with FileServer({"/moved.tar": Content(DATA)}) as other:
        where = address(server, Content(location=f"{other.url}/moved.tar?key=signed"))
        found = getting.get(where.replace("http://", "http://name:secret@"))
    assert getting.target.read_bytes() == DATA
    assert found.address == where
    assert server.asked("Authorization") == ["Basic bmFtZTpzZWNyZXQ="]
    assert other.asked("Authorization") == [None]
    assert other.requests[0].path == "/moved.tar?key=signed"


def test_a_redirect_on_the_same_host_keeps_them(getting: Getting, server: FileServer) -> None:
    server.files["/moved.tar"] = Content(DATA)
    where = address(server, Content(location="/moved.tar"))
    getting.get(where.replace("http://", "http://name:secret@"))
    assert server.asked("Authorization") == ["Basic bmFtZTpzZWNyZXQ="] * 2


def test_redirects_for_ever(getting: Getting, server: FileServer) -> None:
    with pytest.raises(DataError, match="it redirects more than 10 times"):
        getting.get(address(server, Content(location=f"/{NAME}")))
    assert len(server.requests) == 11


@pytest.mark.parametrize(
    ("url", "location", "message"),
    [
        ("https://a.org/x", "http://a.org/x", "from https to http"),
        ("http://a.org/x", "ftp://a.org/x", "not http or https"),
        ("http://a.org/x", "file:///etc/passwd", "not http or https"),
        ("http://a.org/x", "http://[::1/x", "not an address"),
        ("http://a.org/x", "http://a.org:port/x", "not an address"),
    ],
)
def test_redirects_to_elsewhere(url: str, location: str, message: str) -> None:
    with pytest.raises(Refused, match=message):
        redirected(url, location)


def test_redirects_that_may_be() -> None:
    assert redirected("https://a.org/x", "https://b.org/y?k=v") == "https://b.org/y?k=v"
    assert redirected("http://a.org/x", "https://a.org/x") == "https://a.org/x"
    assert redirected("https://me:pw@a.org/x", "https://you:pw@b.org/y") == "https://b.org/y"
    assert redirected("https://me:pw@a.org/x/y", "z") == "https://me:pw@a.org/x/z"


def test_a_few_bytes_a_second(getting: Getting, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes that came are kept, but are no reason to go on for ever."""
    monkeypatch.setattr(web, "STALL_S", 0.1)
    where = address(server, Content(DATA, rate=50))
    with pytest.raises(DataError, match=r"only \d bytes came in 0 s, 3 times in a row"):
        getting.get(where)
    assert getting.left() == PART
    server.files[f"/{NAME}"] = Content(DATA)
    getting.told.clear()
    getting.get(where)
    assert getting.target.read_bytes() == DATA


def test_a_server_that_falls_silent(
    getting: Getting, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "SILENT_S", 0.05)
    with pytest.raises(DataError, match=r"nothing came for 0\.05 s, 3 times in a row"):
        getting.get(address(server, Content(DATA, rate=0)))
    assert getting.left() == []


def test_secrets_are_in_no_sentence_and_no_file(getting: Getting, server: FileServer) -> None:
    where = address(server, Content(DATA, drops=[1000, 0, 0, 0]))
    secret = where.replace("http://", "http://name:hunter2@") + "?token=hunter2#hunter2"
    with pytest.raises(DataError) as caught:
        getting.get((secret, f"http://name:hunter2@127.0.0.1:9/{NAME}?token=hunter2"))
    kept = (getting.folder / f"{NAME}.part.json").read_text()
    assert json.loads(kept)["address"] == where
    for text in (str(caught.value), kept, *getting.notices):
        assert "hunter2" not in text
    assert where in str(caught.value)
    getting.told.clear()
    assert getting.get(secret).address == where
    assert server.asked("Range")[-1] == "bytes=1000-"


def test_the_proxy_of_the_environment_is_used(
    getting: Getting, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("HTTP_PROXY", server.url)
    monkeypatch.setenv("http_proxy", server.url)
    server.files["http://data.invalid/set.tar"] = Content(DATA)
    getting.get("http://data.invalid/set.tar")
    assert getting.target.read_bytes() == DATA


def misbehaving(rng: random.Random, data: bytes, version: int) -> Content:
    """A file from a server with faults that are drawn."""
    tag = [f'"{version}"', f'W/"{version}"', None][rng.randrange(3)]
    return Content(
        data,
        etag=tag,
        modified=f"Mon, 30 Nov 2026 08:00:0{version} GMT" if rng.random() < 0.5 else None,
        ranges=rng.random() < 0.8,
        heeds_if_range=(tag == f'"{version}"' and rng.random() < 0.5) or rng.random() < 0.8,
        shift=rng.choice([0, 0, 0, 7]),
        statuses=rng.choices([429, 500, 503, 404], [3, 3, 3, 1], k=rng.randrange(3)),
        length=rng.choice([-1, -1, -1, len(data) + 9, None]),
        chunked=rng.random() < 0.2,
        drops=[rng.randrange(len(data)) for _ in range(rng.randrange(6))],
    )


@pytest.mark.parametrize("seed", range(30))
def test_any_mixture_of_faults(getting: Getting, server: FileServer, seed: int) -> None:
    """Runs follow until one succeeds. What then has the name is one version of the file, never a mixture."""
    rng = random.Random(seed)
    where = address(server, misbehaving(rng, DATA, 1))
    if rng.random() < 0.5:
        server.files[f"/{NAME}"].later = misbehaving(rng, OTHER, 2)
    sizes = {"bytes": len(DATA)} if server.files[f"/{NAME}"].later is None and rng.random() < 0.5 else {}
    for _ in range(20):
        try:
            getting.told.clear()
            getting.get(where, **sizes)
            break
        except DataError:
            assert set(getting.left()) <= set(PART)
            server.files[f"/{NAME}"].length = -1
    found = getting.target.read_bytes()
    assert found in (DATA, OTHER)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and certificate of 127.0.0.1, which nobody trusts."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes certificates, is not installed")
    path = tmp_path_factory.mktemp("https") / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    about = ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", path, "-out"]
    cert = path.with_name("only.pem")
    subprocess.run([*command.split(), *about, cert], check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + cert.read_bytes())
    return path


def test_https(getting: Getting, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate that is not trusted is refused at once; one that the user trusts is not."""
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
    with FileServer({f"/{NAME}": Content(DATA, drops=[100_000])}, certificate=certificate) as server:
        where = f"{server.url}/{NAME}"
        monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
        with pytest.raises(DataError, match=r"the server's certificate is not trusted \(self[- ]signed cert"):
            getting.get(where)
        assert (getting.left(), getting.pauses.seconds, server.requests) == ([], [], [])
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        getting.get(where)
        assert server.asked("Range") == [None, "bytes=100000-"]
    assert getting.target.read_bytes() == DATA


def test_a_redirect_from_https_to_http(
    getting: Getting, server: FileServer, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    plain = address(server, Content(DATA))
    with (
        FileServer({"/moved": Content(location=plain)}, certificate=certificate) as safe,
        pytest.raises(DataError, match="it redirects from https to http, which anybody on the way could"),
    ):
        getting.get(f"{safe.url}/moved")
    assert server.requests == []


def test_a_file_without_an_address(getting: Getting) -> None:
    with pytest.raises(DataError, match="its card has no address"):
        getting.get((), needs="account", how="Log in.")
