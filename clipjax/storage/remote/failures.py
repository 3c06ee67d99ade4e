"""The meaning of an error that a request to a bucket, to the hub or to a web server raised."""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from typing import Any

_TRANSIENT = {
    getattr(errno, name, errno.EIO)
    for name in ("EIO", "EREMOTEIO", "EBUSY", "EAGAIN", "ETIMEDOUT", "ECONNRESET", "ECONNREFUSED", "EPIPE")
}
# Names that httpx, aiohttp, requests, botocore, google-auth and gcsfs give to a broken connection.
_BROKEN = {
    *("ClientConnectionError", "ClientPayloadError", "ConnectionError", "Timeout", "HTTPClientError"),
    *("TransportError", "ChecksumError", "ChunkedEncodingError", "MayPass"),
}
_REFUSED = {"NoCredentialsError", "PartialCredentialsError", "GoogleAuthError"}
# Addresses in other libraries' messages: a user and password, and a query, may be secret.
_SECRET = re.compile(r"(?<=://)[^\s/@'\"]+@|(?<=[\w/])\?[^\s'\"]*=[^\s'\"]*")


def status_of(error: BaseException) -> int:
    """The HTTP status, or 0."""
    response = getattr(error, "response", None)  # a mapping in botocore
    of_response = None if isinstance(response, Mapping) else getattr(response, "status_code", None)
    text = str(getattr(error, "code", None) or getattr(error, "status", None) or of_response)
    return int(text) if text.isdecimal() else 0


def is_refusal(error: BaseException) -> bool:
    """Whether the server wants other credentials."""
    said = isinstance(error, OSError) and str(error).startswith("Forbidden")  # gcsfs, of 403
    named = _is(error, _REFUSED) and not _is(error, _BROKEN)
    return isinstance(error, PermissionError) or said or named or status_of(error) in (401, 403)


def may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed later."""
    if isinstance(error, TimeoutError | ConnectionError) or _is(error, _BROKEN):
        return True
    broken = isinstance(error, OSError) and error.errno in _TRANSIENT
    return broken or status_of(error) in (408, 425, 429) or 500 <= status_of(error) < 600


def wait_of(error: BaseException) -> float:
    """The seconds after which the server wants the next request; 0 where it names none."""
    headers: Any = getattr(error, "headers", None) or getattr(getattr(error, "response", None), "headers", {})
    stated = getattr(error, "wait", None)
    if stated is None:
        text = str(headers.get("Retry-After", "")) if isinstance(headers, Mapping) else ""
        stated = int(text) if re.fullmatch(r"\d{1,9}", text.strip(), re.ASCII) else 0
    return float(stated)


def reason_of(error: BaseException) -> str:
    """The error's message in one short line, without what may be secret in addresses."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(_SECRET.sub("", text).split())[:200].rstrip(".")


def _is(error: BaseException, names: set[str]) -> bool:
    return any(cls.__name__ in names for cls in type(error).__mro__)
