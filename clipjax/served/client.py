"""Requests to a server of OpenAI's protocol: JSON there and back, or why not.

    client = Client("http://127.0.0.1:8000/v1")
    client.get("models")

No message has the key or the user's address. The key is read from the environment, and .netrc is not.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from typing import Any

import requests
import urllib3
from requests.auth import AuthBase

from clipjax.errors import UsageError, cut
from clipjax.served.address import KEY, TIMEOUT
from clipjax.storage.remote.web import CONNECT_S, MayPass, Refused, check_status, failure

ANSWER_S = 300.0  # seconds that an answer may take
MOST_BYTES = 2**25  # the largest answer that is read
TIME_OUT = 408  # HTTP's status for a request that took too long; ours for an answer that did not come in time
_PIECE = 2**16


class _Bearer(AuthBase):
    """The key, or none: requests would otherwise take a password from .netrc."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request


class Client:
    """A server's address; any thread may ask.

    Attributes:
        address: without user, password and query (`server_address` refuses those).

    Raises UsageError for a key or a time in the environment that cannot be one.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self._key, self._seconds = _key(), _seconds()
        self._idle: list[requests.Session] = []

    @property
    def root(self) -> str:
        """The address without the last part /v1: what a server says of itself is there."""
        return self.address.removesuffix("/v1")

    def get(self, path: str) -> Any:
        """The JSON at a path below the address, or below the root where it begins with "/".

        Returns None if the server has nothing at this path (404, 405, 501). Raises Refused or MayPass.
        """
        try:
            return self._json("GET", path, None, {})
        except Refused as refusal:
            if refusal.status in (404, 405, 501):
                return None
            raise

    def post(self, path: str, body: Any, request_id: str | None = None) -> Any:
        """The JSON that answers a body of JSON.

        Args:
            request_id: sent as X-Request-Id. A server may send it back, and then must send the same one.

        Raises:
            Refused: the server does not answer this.
            MayPass: it did not answer, or not with JSON, or to another request.
        """
        return self._json("POST", path, body, {} if request_id is None else {"X-Request-Id": request_id})

    def _json(self, verb: str, path: str, body: Any, headers: Mapping[str, str]) -> Any:
        where = self.root + path if path.startswith("/") else f"{self.address}/{path}"
        try:
            session = self._idle.pop()
        except IndexError:  # other threads use them all
            session = requests.Session()
        response, data = self._sent(session, verb, where, body, headers)
        self._idle.append(session)
        try:
            check_status(response.status_code, response.headers)
        except Refused as refusal:
            raise Refused(f"{refusal}{self._why(refusal.status, data)}", refusal.status) from None
        except MayPass as error:
            why = self._why(error.status, data)
            raise MayPass(f"{error}{why}", error.wait, status=error.status) from None
        sent = headers.get("X-Request-Id")
        if sent is not None and response.headers.get("X-Request-Id", sent) != sent:
            raise MayPass("the answer is one to another request")
        try:
            return json.loads(data)
        except ValueError:
            raise MayPass("the answer is not JSON") from None

    def _sent(
        self, session: requests.Session, verb: str, where: str, body: Any, headers: Mapping[str, str]
    ) -> tuple[requests.Response, bytes]:
        ends = time.monotonic() + self._seconds
        data = None if body is None else json.dumps(body).encode()
        headers = {"User-Agent": "clipjax", "Content-Type": "application/json", **headers}
        how: dict[str, Any] = {"timeout": (CONNECT_S, self._seconds), "auth": _Bearer(self._key)}
        came = bytearray()
        try:
            with session.request(
                verb, where, data=data, headers=headers, stream=True, allow_redirects=False, **how
            ) as response:
                for piece in response.iter_content(_PIECE):
                    came += piece
                    if len(came) > MOST_BYTES:
                        raise Refused("the answer is larger than 32 MB")
                    if time.monotonic() > ends:
                        raise MayPass(f"the answer was not whole after {self._seconds:g} s", status=TIME_OUT)
                return response, bytes(came)
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
            if time.monotonic() >= ends:
                raise MayPass(f"no answer came within {self._seconds:g} s", status=TIME_OUT) from None
            raise failure(error, self._seconds) from None

    def _why(self, status: int, data: bytes) -> str:
        """The server's own words for a refusal, without the key."""
        if status in (401, 403):
            return f": the server wants {'another key in' if self._key else 'a key: set'} {KEY}"
        try:
            said = json.loads(data)
        except ValueError:
            return ""
        for name in ("error", "message", "detail"):
            if isinstance(said, Mapping) and name in said:
                said = said[name]
        if not isinstance(said, str):
            return ""
        return f": {cut(said.replace(self._key, 'KEY') if self._key else said)}"


def _key() -> str:
    key = os.environ.get(KEY, "")
    if re.fullmatch(r"[!-~]*", key) is None:
        raise UsageError(f"{KEY} has a space or another character that no key has: set it to the key alone")
    return key


def _seconds() -> float:
    text = os.environ.get(TIMEOUT, "")
    if not text:
        return ANSWER_S
    if re.fullmatch(r"\d{1,6}(\.\d+)?", text, re.ASCII) is None or float(text) == 0:
        raise UsageError(f"{TIMEOUT} is {cut(text)!r}, should be a number of seconds above 0")
    return float(text)
