"""The meaning of other libraries' errors: whether they may pass, when, and what of them may be printed."""

from __future__ import annotations

import errno
from types import SimpleNamespace
from typing import Any

import pytest

from clipjax.storage.remote import buckets
from clipjax.storage.remote.failures import is_refusal, may_pass, reason_of, status_of, wait_of


class OfAiohttp(Exception):
    def __init__(self, status: int, headers: dict[str, str]) -> None:
        self.status, self.headers = status, headers


class OfTheHub(Exception):
    def __init__(self, status: int, headers: dict[str, str]) -> None:
        self.response = SimpleNamespace(status_code=status, headers=headers)


class OfBotocore(Exception):
    def __init__(self, status: int) -> None:
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}}


@pytest.mark.parametrize("kind", [OfAiohttp, OfTheHub])
@pytest.mark.parametrize(
    ("status", "passes", "refused"),
    [
        *((status, True, False) for status in (408, 429, 500, 503)),
        *((status, False, True) for status in (401, 403)),
        *((status, False, False) for status in (404, 416)),
    ],
)
def test_a_status_decides(kind: Any, status: int, passes: bool, refused: bool) -> None:
    error = kind(status, {})
    assert (status_of(error), may_pass(error), is_refusal(error)) == (status, passes, refused)


@pytest.mark.parametrize("kind", [OfAiohttp, OfTheHub])
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({"Retry-After": "7"}, 7), ({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, 0), ({}, 0)],
)
def test_the_server_says_when(kind: Any, headers: dict[str, str], seconds: float) -> None:
    assert wait_of(kind(429, headers)) == seconds


def test_errors_without_a_status() -> None:
    assert (status_of(OfBotocore(503)), wait_of(OfBotocore(503))) == (0, 0)
    assert may_pass(OSError(errno.ECONNRESET, "reset"))
    assert not may_pass(OSError(errno.ENOSPC, "full"))
    assert not may_pass(ValueError("no"))


def test_the_pause_is_as_long_as_the_server_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses, answers = (
        list[float](),
        [OfTheHub(429, {"Retry-After": "9"}), OfTheHub(503, {"Retry-After": "9999"})],
    )

    def ask(fs: Any, name: str) -> str:
        if answers:
            raise answers.pop(0)
        return "there"

    monkeypatch.setattr(buckets.time, "sleep", pauses.append)
    assert buckets.as_path("memory://bucket/name").ask(ask) == "there"  # type: ignore[attr-defined]
    assert pauses == [9, buckets.LONGEST_WAIT]


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        (
            "404 for url 'https://cdn.example.org/a.tar?Signature=planted&Expires=1'",
            "404 for url 'https://cdn.example.org/a.tar'",
        ),
        ("cannot reach https://me:planted@example.org/a.tar", "cannot reach https://example.org/a.tar"),
        ("exceeded with url: /a.tar?key=planted (Caused by x)", "exceeded with url: /a.tar (Caused by x)"),
        ("is it there? key=value", "is it there? key=value"),
        ("me@example.org is no user", "me@example.org is no user"),
    ],
)
def test_what_may_be_secret_is_not_printed(text: str, printed: str) -> None:
    assert reason_of(ValueError(text)) == printed
