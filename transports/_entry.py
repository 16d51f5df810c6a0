"""Who is let in, whatever the transport: the origin of a page, the check of a token, and the words of a refusal."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from ..contracts import Handshake
from ..exceptions import AuthenticationError, HubError, PermissionDenied
from ..hub import Hub
from ..identity import Identity
from ..protocol import CloseCode, Timestamps, control

_STAMPS: Final = Timestamps()
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a well-formed request is not let in, in the words of HTTP and of WebSocket."""

    status: int
    code: int
    sentence: str
    headers: Sequence[tuple[str, str]] = ()


FOREIGN_ORIGIN: Final = Refusal(HTTPStatus.FORBIDDEN, CloseCode.FORBIDDEN, "this origin is not allowed")
DRAINING: Final = Refusal(HTTPStatus.SERVICE_UNAVAILABLE, CloseCode.SERVICE_RESTART, "the hub is shutting down")
FULL: Final = Refusal(HTTPStatus.SERVICE_UNAVAILABLE, CloseCode.TRY_AGAIN_LATER, "too many connections")
UNCHECKED: Final = Refusal(HTTPStatus.SERVICE_UNAVAILABLE, CloseCode.INTERNAL_ERROR, "the token could not be checked")
_FORBIDDEN: Final = Refusal(HTTPStatus.FORBIDDEN, CloseCode.FORBIDDEN, "not allowed")


async def admit(hub: Hub, handshake: Handshake) -> Identity | Refusal | None:
    """Who the peer is, or why it is not let in; None if it may send a token as its first message.

    Raises only what is a bug.
    """
    try:
        return await hub.admit(handshake)
    except AuthenticationError as error:
        challenge = [("WWW-Authenticate", "Bearer")]
        return Refusal(HTTPStatus.UNAUTHORIZED, CloseCode.UNAUTHENTICATED, f"{error.fault} token", challenge)
    except PermissionDenied:
        return _FORBIDDEN
    except HubError:
        return UNCHECKED  # the hub has counted why


def close_item(code: int, reason: str) -> bytes:
    """The last item of a connection, where the transport has no close codes."""
    return control("$close", _STAMPS.format(time.time()), code=code, reason=reason)


def is_origin_allowed(headers: Mapping[str, str], allowed: Collection[str], *, is_secure: bool) -> bool:
    """Whether the page that connects may: it is one of ours, one of `allowed`, or no page at all.

    Browsers send `Origin` and scripts cannot change it, so it tells apart what a token does not: a page of another
    site, in the browser of somebody who is logged in. Ours is a page at the host and port of the `Host` header.
    """
    origin = headers.get("origin")
    if origin is None or origin in allowed:
        return True
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        return False
    # Where TLS ends in front of us, both schemes are plausible; where it ends here, only one is.
    if parts.scheme not in (("https",) if is_secure else ("http", "https")) or parts.hostname is None:
        return False
    if parts.path or parts.query or parts.fragment or parts.username is not None or parts.password is not None:
        return False
    default = _DEFAULT_PORTS[parts.scheme]
    try:
        host = urlsplit(f"//{headers.get('host', '')}")
        return (host.hostname, host.port or default) == (parts.hostname, port or default)
    except ValueError:
        return False
