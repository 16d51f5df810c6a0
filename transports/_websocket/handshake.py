"""The opening handshake: checks whether a request may become a WebSocket, and answers it. No I/O.

The checks of RFC 6455 §4.2.1 are made here, over headers that `http11` has already bounded, and wsproto only computes
the acceptance: given a whole handshake, wsproto accepts HTTP/1.0, two keys or a key of three characters, and raises
`ValueError` for an invalid extension offer. Offers are parsed in `deflate`, and only if compression is enabled.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from wsproto.utilities import generate_accept_token

from ...http import Request
from ...protocol.formats import SUBPROTOCOLS, Format, choose_format
from .deflate import Agreement, negotiate
from .http11 import Exchange, RequestError

VERSION: Final = "13"
_SUPPORTED: Final = (("Upgrade", "websocket"), ("Sec-WebSocket-Version", VERSION))


@dataclass(frozen=True, slots=True)
class Upgrade:
    """A valid request for a WebSocket."""

    key: str
    offered: tuple[str, ...]
    """All subprotocols that were offered, tokens among them: never to be logged or echoed."""
    format: Format
    deflate: Agreement | None

    @property
    def subprotocol(self) -> str | None:
        """The one in the answer; None if the client offered only tokens."""
        return self.format.subprotocol if self.format.subprotocol in self.offered else None

    @property
    def window(self) -> int | None:
        """The window of the compression; None without."""
        return None if self.deflate is None else self.deflate.window

    def __repr__(self) -> str:
        return f"Upgrade(subprotocol={self.subprotocol!r}, deflate={self.deflate!r})"


def check_upgrade(request: Request, http_version: str, *, compresses: bool) -> Upgrade:
    """The upgrade that `request` asks for; raises `RequestError` if it is invalid."""
    headers = request.headers
    is_upgrade = "websocket" in _tokens(headers, "upgrade") and "upgrade" in _tokens(headers, "connection")
    if request.method != "GET" and (is_upgrade or request.method != "HEAD"):
        message = "the method of a WebSocket handshake must be GET"
        raise RequestError(message, HTTPStatus.METHOD_NOT_ALLOWED, [("Allow", "GET")])
    if not is_upgrade:
        message = "this path serves WebSockets: connect with Upgrade: websocket"
        raise RequestError(message, HTTPStatus.UPGRADE_REQUIRED, _SUPPORTED)
    if http_version != "1.1":
        raise RequestError("a WebSocket handshake must be HTTP/1.1")
    if "transfer-encoding" in headers or headers.get("content-length", "0") != "0":
        raise RequestError("a WebSocket handshake must have no body")
    if (version := headers.get("sec-websocket-version")) != VERSION:
        status = HTTPStatus.BAD_REQUEST if version is None else HTTPStatus.UPGRADE_REQUIRED
        raise RequestError(f"Sec-WebSocket-Version must be {VERSION}", status, _SUPPORTED)
    key = headers.get("sec-websocket-key", "")
    if not _is_key(key):
        raise RequestError("Sec-WebSocket-Key must be 16 bytes in base64")
    offered = tuple(_split(headers.get("sec-websocket-protocol", "")))
    chosen = choose_format(offered)
    if chosen is None:
        supported = ", ".join(SUBPROTOCOLS)
        raise RequestError(f"none of the subprotocols is supported; offer {supported}, or none")
    offers = headers.get("sec-websocket-extensions", "")
    return Upgrade(key, offered, chosen, negotiate(offers) if compresses else None)


def accept(exchange: Exchange, upgrade: Upgrade) -> bytes:
    """The answer, after which frames follow."""
    headers = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", generate_accept_token(upgrade.key.encode()).decode()),
    ]
    if upgrade.subprotocol is not None:
        headers.append(("Sec-WebSocket-Protocol", upgrade.subprotocol))
    if upgrade.deflate is not None:
        headers.append(("Sec-WebSocket-Extensions", upgrade.deflate.answer))
    return exchange.switch_protocols(headers)


def _split(value: str) -> list[str]:
    return [part for part in map(str.strip, value.split(",")) if part]


def _tokens(headers: Mapping[str, str], name: str) -> list[str]:
    return [part.lower() for part in _split(headers.get(name, ""))]


def _is_key(key: str) -> bool:
    try:
        return len(key) == 24 and len(base64.b64decode(key, validate=True)) == 16
    except binascii.Error:
        return False
