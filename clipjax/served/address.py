"""The address of a server and the name of its model, as a user writes them. Imports nothing that connects."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

from clipjax.errors import UsageError, visible

KEY = "CLIPJAX_SERVER_KEY"
"""The environment variable with a server's key."""
TIMEOUT = "CLIPJAX_SERVER_TIMEOUT"
"""The environment variable with the seconds that an answer may take."""
FORM = "name a server's model by address and name: server:http://127.0.0.1:8000/v1#MODEL"


class ServerAddress(NamedTuple):
    """`model`: "" stands for the only one that the server has."""

    url: str
    model: str

    def __str__(self) -> str:
        return f"{self.url}#{self.model}" if self.model else self.url


def server_address(text: str) -> ServerAddress:
    """Read "http://HOST:PORT/v1#MODEL".

    Raises UsageError for something else, or with a user, a password or a query. The message does not quote
    it: a part of it may be secret.
    """
    url, _, model = text.partition("#")
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise UsageError(FORM) from None
    if not is_address or visible(text) != text or any(char.isspace() for char in url):
        raise UsageError(FORM)
    if "@" in parts.netloc or "?" in text:
        raise UsageError(
            "the address after server: has a user, a password or a query, which may be secret: leave that "
            f"out, and put the server's key into the environment variable {KEY}"
        )
    return ServerAddress(url.rstrip("/"), model)
