"""A server of files on 127.0.0.1 that misbehaves where a test wants it to.

with FileServer({"/a.tar": Content(data, drops=[1000])}) as server:
    get(f"{server.url}/a.tar")          # the connection breaks after 1,000 bytes, the second time it does not
    [request.headers for request in server.requests]
"""

from __future__ import annotations

import hashlib
import re
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class Content:
    """What is at a path, and how it is sent.

    Attributes:
        data: the bytes.
        etag: of the bytes; None: not sent.
        modified: the header Last-Modified.
        headers: further ones, also beside an error.
        ranges: False: a range is ignored, all bytes are sent.
        shift: ranges start this many bytes before what was asked for.
        heeds_if_range: False: a range is sent although the file has changed.
        statuses: the first answers are these errors, without the bytes.
        location: the address of a redirect.
        length: the claimed number of bytes; None: no claim, the end of the connection is the end.
        chunked: the bytes are sent in chunks of HTTP, without a length.
        drops: after so many bytes the connection breaks, a number for each answer; then it holds.
        rate: bytes a second; 0: nothing comes.
        later: what is there after the first answer with bytes.
    """

    data: bytes = b""
    etag: str | None = '"first"'
    modified: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    ranges: bool = True
    shift: int = 0
    heeds_if_range: bool = True
    statuses: list[int] = field(default_factory=list)
    location: str | None = None
    length: int | None = -1
    chunked: bool = False
    drops: list[int] = field(default_factory=list)
    rate: float | None = None
    later: Content | None = None


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: Message


class FileServer:
    """Serves `files`, by path; `requests` are those that came. Both may be changed meanwhile.

    A request with a query is answered as one without.

    certificate: a file with key and certificate, for https.
    """

    def __init__(
        self, files: Mapping[str, Content], host: str = "127.0.0.1", certificate: Path | None = None
    ) -> None:
        self.files, self.requests = dict(files), list[Request]()
        self.ending = threading.Event()
        self._server = _Server((host, 0), _Handler)
        self._server.owner = self
        self.url = f"{'http' if certificate is None else 'https'}://{host}:{self._server.server_port}"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> FileServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        self._server.shutdown()
        self._server.server_close()

    def asked(self, header: str) -> list[str | None]:
        """This header of each request."""
        return [request.headers[header] for request in self.requests]


def on_the_hub(data: bytes, commit: str, *, large: bool = True, **how: Any) -> Content:
    """A file as the Hugging Face hub has it, below /datasets/ORG/NAME/resolve/REVISION/."""
    etag = hashlib.sha256(data).hexdigest() if large else hashlib.sha1(data).hexdigest()
    headers = {"X-Repo-Commit": commit, "X-Linked-ETag": f'"{etag}"', "X-Linked-Size": str(len(data))}
    return Content(data, headers=headers, **how)


class _Server(ThreadingHTTPServer):
    owner: FileServer
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that leave are what the tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def owner(self) -> FileServer:
        assert isinstance(self.server, _Server)
        return self.server.owner

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the tests look at `requests`."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.close_connection = True
        owner, path = self.owner, self.path.partition("?")[0]
        owner.requests.append(Request(self.command, self.path, self.headers))
        content = owner.files.get(path)
        if content is None:
            self._headers(404, {"Content-Length": "0"})
        elif content.statuses:
            self._headers(content.statuses.pop(0), {"Content-Length": "0", **content.headers})
        elif content.location is not None:
            length = {"Content-Length": "0"}
            self._headers(302, {"Location": content.location, **length, **content.headers})
        else:
            self._answer(content)
            if content.later is not None and self.command == "GET":
                owner.files[path] = content.later

    def _headers(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Connection": "close"} | dict(headers)).items():
            self.send_header(name, value)
        self.end_headers()

    def _answer(self, content: Content) -> None:
        start, size = self._start(content), len(content.data)
        about = {"ETag": content.etag, "Last-Modified": content.modified, **content.headers}
        headers = {name: value for name, value in about.items() if value is not None}
        if start is not None and start >= size:
            self._headers(416, {**headers, "Content-Length": "0", "Content-Range": f"bytes */{size}"})
            return
        last = (self.headers.get("Range") or "-").rpartition("-")[2]  # "": to the end
        data = content.data[start or 0 : int(last) + 1 if start is not None and last else None]
        if start is not None:
            headers["Content-Range"] = f"bytes {start}-{start + len(data) - 1}/{size}"
        if content.chunked:
            headers["Transfer-Encoding"] = "chunked"
        elif content.length is not None:
            headers["Content-Length"] = str(len(data) if content.length < 0 else content.length)
        self._headers(200 if start is None else 206, headers)
        if self.command == "GET":
            drop = content.drops.pop(0) if content.drops else None
            self._send(data[:drop], content)
            if content.chunked and drop is None:
                self.wfile.write(b"0\r\n\r\n")

    def _start(self, content: Content) -> int | None:
        """Where the answer starts; None: all is sent."""
        found = re.fullmatch(r"bytes=(\d+)-\d*", self.headers.get("Range", ""))
        if found is None or not content.ranges:
            return None
        condition = self.headers.get("If-Range")
        if content.heeds_if_range and condition not in (None, content.etag, content.modified):
            return None
        return int(found[1]) - content.shift

    def _send(self, data: bytes, content: Content) -> None:
        step = len(data) if content.rate is None else max(1, int(content.rate / 50))
        if content.rate == 0:
            self.owner.ending.wait()
            return
        begun = time.monotonic()
        for at in range(0, len(data), step or 1):
            piece = data[at : at + step]
            if content.chunked:
                piece = b"%x\r\n%b\r\n" % (len(piece), piece)
            self.wfile.write(piece)
            self.wfile.flush()
            if content.rate:
                due = begun + (at + step) / content.rate - time.monotonic()
                if due > 0 and self.owner.ending.wait(due):
                    return
