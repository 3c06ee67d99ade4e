"""One request for a file over http(s): redirects, refusals, failures that may pass, and the file's bytes."""

from __future__ import annotations

import contextlib
import email.utils
import random
import re
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from urllib.parse import urljoin, urlsplit, urlunsplit

import requests
import urllib3

CONNECT_S = 15.0  # seconds that a server has to take a connection
SILENT_S = 60.0  # seconds without a byte
# A transfer is broken off where less than STALL_RATE bytes a second came in STALL_S seconds.
STALL_S, STALL_RATE = 60.0, 1024
LONGEST_WAIT = 300.0  # seconds that a server may ask us to wait
MOST_REDIRECTS = 10
PIECE = 2**20  # bytes that are handed on together
_HELD_S = 0.5  # seconds after which fewer are handed on
_PAGE = re.compile(rb"(\xef\xbb\xbf)?\s*(<!--.*?-->\s*)*<(!doctype\s+html|html|head|body)\b", re.I | re.S)


class Refused(Exception):
    """An address does not give the file; the message is a clause about the address.

    status: the HTTP status, 0 where it is not the reason.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class MayPass(Exception):
    """A failure after which another attempt may succeed.

    Attributes:
        wait: seconds after which the server wants the next attempt; None: it names none.
        stalled: the bytes came too slowly to count as progress.
        status: the HTTP status, 0 where it is not the reason.
    """

    def __init__(
        self, message: str, wait: float | None = None, *, stalled: bool = False, status: int = 0
    ) -> None:
        super().__init__(message)
        self.wait, self.stalled, self.status = wait, stalled, status


def pause_before(attempt: int, wait: float | None, first: float) -> float:
    """Seconds before attempt 2, 3, ...: doubled each time, with jitter; longer than a server asks for.

    Args:
        wait: `MayPass.wait` of the failure.
        first: the pause before attempt 2, in seconds, at most.
    """
    pause = first * 2 ** (attempt - 2) * random.uniform(0.5, 1)
    return pause if wait is None else wait + pause / 2


def shown(address: str) -> str:
    """An address without what may be secret in it: user, password, query and fragment."""
    parts = urlsplit(address)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def request(session: requests.Session, url: str, headers: Mapping[str, str]) -> requests.Response:
    """The answer to a GET request after all redirects; its bytes are still to be read.

    Raises:
        Refused: the server does not give the file, or redirects for ever or to an unsafe address.
        MayPass: the connection broke, or the server is busy.
    """
    headers = {"User-Agent": "clipjax", "Accept-Encoding": "identity", **headers}
    for _ in range(MOST_REDIRECTS + 1):
        try:
            response = session.get(
                url, headers=headers, stream=True, allow_redirects=False, timeout=(CONNECT_S, SILENT_S)
            )
            location = session.get_redirect_target(response)
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
            raise failure(error) from None
        if location is None:
            with contextlib.ExitStack() as refused:
                refused.callback(response.close)
                check_status(response.status_code, response.headers)
                refused.pop_all()
            return response
        response.close()
        before, url = url, redirected(url, location)
        if not _same_server(before, url):
            headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
    raise Refused(f"it redirects more than {MOST_REDIRECTS} times")


def redirected(url: str, location: str) -> str:
    """The address that a redirect leads to. User and password stay only on the same server.

    Raises Refused where the address is not http(s), or leads from https to http.
    """
    try:
        new, old = urlsplit(urljoin(url, location)), urlsplit(url)
        same = _same_server(url, new.geturl())
    except ValueError:
        raise Refused("it redirects to something that is not an address") from None
    if new.scheme not in ("http", "https"):
        raise Refused("it redirects to an address that is not http or https")
    if (old.scheme, new.scheme) == ("https", "http"):
        raise Refused("it redirects from https to http, which anybody on the way could change")
    netloc = old.netloc if same else new.netloc.rpartition("@")[2]
    return urlunsplit(new._replace(netloc=netloc))


def _same_server(a: str, b: str) -> bool:
    one, other = urlsplit(a), urlsplit(b)
    return (one.scheme, one.hostname, one.port) == (other.scheme, other.hostname, other.port)


def check_status(status: int, headers: Mapping[str, str]) -> None:
    """Raises Refused or MayPass but for 200, 206 and 416."""
    if status in (200, 206, 416):
        return
    known = status in HTTPStatus.__members__.values()
    said = f"HTTP {status} ({HTTPStatus(status).phrase})" if known else f"HTTP {status}"
    if status not in (408, 425, 429) and status < 500:
        raise Refused(said, status)
    wait = _wait(headers)
    if wait is not None and wait > LONGEST_WAIT:
        raise Refused(f"{said}, and the server asks to wait {duration(wait)}")
    raise MayPass(said, wait, status=status)


def _wait(headers: Mapping[str, str]) -> float | None:
    """Seconds that a busy server asks to wait; None where it does not.

    Retry-After has a number or an HTTP date. The Hugging Face hub sends RateLimit, a draft of the IETF:
    `"api";r=0;t=55` means that no request is left for 55 seconds.
    """
    text = headers.get("Retry-After", "")
    if not text and (limit := re.search(r"\br=0;.*\bt=(\d{1,9})\b", headers.get("RateLimit", ""), re.ASCII)):
        text = limit[1]
    try:
        if re.fullmatch(r"\d{1,9}", text.strip(), re.ASCII):
            return float(text)
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def duration(seconds: float) -> str:
    """ "45 seconds", "10 minutes", "5 hours"."""
    for unit, length in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def pieces(response: requests.Response) -> Iterator[bytes]:
    """The bytes of an answer as they are sent, about `PIECE` at a time; fewer where they come slowly.

    Raises MayPass where the connection breaks or stalls; what came before has been given out.
    """
    parts: list[bytes] = []
    held_s = stall_s = 0.0
    came = 0
    while True:
        start = time.monotonic()
        try:
            data = response.raw.read1(PIECE, decode_content=False) or b""
        except (urllib3.exceptions.HTTPError, OSError) as error:
            if parts:
                yield b"".join(parts)
            raise failure(error) from None
        # Only the time of reading counts: a slow disk is not the server's fault.
        seconds = time.monotonic() - start
        held_s, stall_s, came = held_s + seconds, stall_s + seconds, came + len(data)
        if data:
            parts.append(data)
        stalled = stall_s >= STALL_S and came < STALL_RATE * stall_s
        if parts and (not data or stalled or held_s >= _HELD_S or sum(map(len, parts)) >= PIECE):
            yield b"".join(parts)
            parts, held_s = [], 0.0
        if not data:
            return
        if stall_s >= STALL_S:
            if stalled:
                raise MayPass(f"only {came} bytes came in {stall_s:.0f} s", stalled=True)
            stall_s, came = 0.0, 0


def is_page(start: bytes) -> bool:
    """Whether the first bytes of a file are those of a web page."""
    return _PAGE.match(start) is not None


def failure(error: Exception, silent: float | None = None) -> Refused | MayPass:
    """What an error of requests or urllib3 means. Their own messages contain addresses with secrets.

    silent: the seconds without a byte that were waited; None: SILENT_S.
    """
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Refused(f"the server's certificate is not trusted ({cause.verify_message})")
    kinds = requests.exceptions
    if isinstance(error, kinds.ProxyError):
        return MayPass("the proxy of the environment does not let it through")
    if isinstance(error, kinds.ConnectTimeout):
        return MayPass(f"no connection within {CONNECT_S:g} s")
    if isinstance(error, kinds.ReadTimeout | urllib3.exceptions.ReadTimeoutError):
        return MayPass(f"nothing came for {SILENT_S if silent is None else silent:g} s")
    if isinstance(error, ValueError | urllib3.exceptions.LocationValueError):
        return Refused("it is not a valid address")
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return MayPass("its host was not found")
    why = next((cause.strerror for cause in causes if isinstance(cause, OSError) and cause.strerror), None)
    return MayPass(f"the connection broke ({why or 'closed by the server'})")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and those that it was made of."""
    todo, seen = [error], set[int]()
    while todo:
        cause = todo.pop(0)
        if id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            beside = (*cause.args, getattr(cause, "reason", None), cause.__cause__, cause.__context__)
            todo += [each for each in beside if isinstance(each, BaseException)]
