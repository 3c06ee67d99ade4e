"""A server of a vision-language model on 127.0.0.1 that misbehaves where a test wants it to.

with FakeServer("vllm", faults=[Fault(429, retry_after="0.1"), None, DROP]) as server:
    server.name                             # server:http://127.0.0.1:PORT/v1#narrow-vl
    server.chats[0].image, server.chats[0].headers["Authorization"], server.most_at_once
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from _fake_model import KINDS, Chat, FakeModel, Served, chat_of, prompt_of

CHATS, LIST = "/v1/chat/completions", "/v1/models"
MESSAGES = {429: "Rate limit reached for requests", 500: "Internal server error", 503: "Loading model"}


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one answer.

    Attributes:
        status: an error or a redirect, with a message of the server's.
        retry_after: that header.
        location: that header.
        delay: seconds before the answer.
        drop: after so many bytes of the answer the connection breaks; 0: before the status.
        body: in place of the answer's.
        change: what it makes of the answer's JSON.
        of_last: the answer to the chat that was answered before.
        request_id: sent back as X-Request-Id.
    """

    status: int = 200
    retry_after: str | None = None
    location: str | None = None
    delay: float = 0.0
    drop: int | None = None
    body: bytes | None = None
    change: Callable[[dict[str, Any]], Any] | None = None
    of_last: bool = False
    request_id: str | None = None


DROP = Fault(drop=0)
CUT = Fault(drop=150)
BROKEN = Fault(body=b'{"id": "chatcmpl-1", "choices": [{"index": 0, "mess')
NO_CHOICES = Fault(change=lambda answer: answer | {"choices": []})
PAGE = Fault(502, body=b"<html><h1>502 Bad Gateway</h1></html>")


class FakeServer:
    """Answers chats in threads of this process.

    Args:
        faults: one for each chat in the order of arrival, None for none; after them `always`.
        spoils: a chat -> its fault, or None; it goes before the others.
        capacity: chats at once; more than these get `busy`.
        later: number of a chat -> what is served from then on.
        listing: for each request for the list of models the fault of its answer, None for none.
        key: requests without "Authorization: Bearer KEY" get 401, with the wrong key in the message.
        delay: seconds before each answer.

    Attributes:
        served: what it serves now; may be replaced at any time.
        chats: what was asked, in the order of arrival.
        answered: the numbers of chats with a good answer, in the order of answers.
        others: the paths of the other requests.
        headers: of all requests.
        most_at_once: the most chats that were in hand at one time.
    """

    def __init__(
        self,
        kind: str = "vllm",
        served: Served | None = None,
        *,
        faults: Iterable[Fault | None] = (),
        always: Fault | None = None,
        spoils: Callable[[Chat], Fault | None] = lambda chat: None,
        capacity: int | None = None,
        busy: Fault | None = None,
        later: Mapping[int, Served] | None = None,
        listing: Iterable[Fault | None] = (),
        key: str | None = None,
        delay: float = 0.0,
    ) -> None:
        assert kind in KINDS, kind
        self.kind, self.served, self.later = kind, served or Served(), dict(later or {})
        self.faults, self.always, self.spoils = list(faults), always, spoils
        self.capacity, self.busy = capacity, busy or Fault(429)
        self.listing, self.key, self.delay = list(listing), key, delay
        self.chats: list[Chat] = []
        self.answered: list[int] = []
        self.others: list[str] = []
        self.headers: list[Message] = []
        self.most_at_once = self._now = 0
        self.ending, self._go_on, self._lock = threading.Event(), threading.Event(), threading.Lock()
        self._go_on.set()
        self._last: dict[str, Any] | None = None
        self._seen: set[str] = set()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        self.root = f"http://127.0.0.1:{self._server.server_port}"
        self.url = f"{self.root}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def name(self) -> str:
        """As --model takes it."""
        return f"server:{self.url}#{self.served.id}"

    @property
    def model(self) -> FakeModel:
        return FakeModel(self.kind, self.served)

    def __enter__(self) -> FakeServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        self._go_on.set()
        self._server.shutdown()
        self._server.server_close()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Chats that come meanwhile are answered at the end."""
        self._go_on.clear()
        try:
            yield
        finally:
            self._go_on.set()

    @contextmanager
    def arrived(self, headers: Message, body: Mapping[str, Any]) -> Iterator[tuple[Chat, Fault]]:
        """Count a chat and choose its fault."""
        with self._lock:
            chat = chat_of(len(self.chats), headers, body)
            self.chats.append(chat)
            self.served = self.later.get(chat.at, self.served)
            fault = self.spoils(chat) or (self.faults.pop(0) if self.faults else self.always) or Fault()
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            if self.capacity is not None and self._now > self.capacity:
                fault = self.busy
        try:
            self.ending.wait(self.delay + fault.delay)
            self._go_on.wait()
            yield chat, fault
        finally:
            with self._lock:
                self._now -= 1

    def answer(self, chat: Chat, fault: Fault) -> Any:
        """The JSON of an answer, good or spoilt."""
        prompt = prompt_of(chat.body)
        with self._lock:
            answer = self.model.answer(chat, prompt in self._seen)
            last, self._last = self._last, answer
            self._seen.add(prompt)
            if fault == Fault(delay=fault.delay):
                self.answered.append(chat.at)
        answer = last if fault.of_last and last is not None else answer
        return fault.change(answer) if fault.change else answer


class _Server(ThreadingHTTPServer):
    owner: FakeServer
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that leave are what the tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    @property
    def owner(self) -> FakeServer:
        assert isinstance(self.server, _Server)
        return self.server.owner

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the tests look at `chats`."""

    def do_GET(self) -> None:
        self._answer(self.path.partition("?")[0], None)

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(self.path.partition("?")[0], data)

    def _answer(self, path: str, data: bytes | None) -> None:
        owner = self.owner
        owner.headers.append(self.headers)
        key = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if owner.key not in (None, key):
            self._error(401, f"Incorrect API key provided: {key}.")  # as OpenAI's own message
        elif path == CHATS and data is not None:
            self._chat(data)
        else:
            owner.others.append(path)
            about = owner.model.about(path)
            fault = owner.listing.pop(0) if path == LIST and owner.listing else None
            if fault is not None:
                self._error(fault.status, MESSAGES[fault.status], {"Retry-After": fault.retry_after})
            elif about is None:
                self._error(404, "Not Found")
            else:
                self._send(200, json.dumps(about).encode())

    def _chat(self, data: bytes) -> None:
        try:
            with self.owner.arrived(self.headers, json.loads(data)) as (chat, fault):
                self._with(chat, fault)
        except (ValueError, KeyError, TypeError) as error:
            self._error(400, f"{type(error).__name__}: {error}")

    def _with(self, chat: Chat, fault: Fault) -> None:
        refusal = self.owner.model.refusal(chat)
        if fault.drop == 0:
            self.close_connection = True
        elif fault.status != 200:
            headers = {"Retry-After": fault.retry_after, "Location": fault.location}
            self._error(fault.status, MESSAGES.get(fault.status, "Error"), headers, fault.body)
        elif refusal is not None:
            self._error(*refusal)
        else:
            answer = self.owner.answer(chat, fault)
            headers = {"X-Request-Id": fault.request_id}
            self._send(200, fault.body or json.dumps(answer).encode(), headers, cut=fault.drop)

    def _error(
        self,
        status: int,
        message: str,
        headers: Mapping[str, str | None] | None = None,
        body: bytes | None = None,
    ) -> None:
        error = {"error": {"code": status, "message": message, "type": "server_error"}}
        self._send(status, body or json.dumps(error).encode(), headers)

    def _send(
        self,
        status: int,
        data: bytes,
        headers: Mapping[str, str | None] | None = None,
        cut: int | None = None,
    ) -> None:
        self.send_response(status)
        every = {"Content-Type": "application/json", "Content-Length": str(len(data))} | dict(headers or {})
        for name, value in every.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data[:cut])
        self.wfile.flush()
        if cut is not None:
            self.close_connection = True
