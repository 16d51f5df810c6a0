"""Who is let in, whatever the transport: the check of a token, and the words of a refusal."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, TypeVar

from ..contracts import Handshake
from ..exceptions import AuthenticationError, HubError, Overloaded, PermissionDenied, TooManyRequests
from ..http import RETRY_SOON
from ..hub import Hub
from ..identity import Identity
from ..protocol import CloseCode, Timestamps, control_item

_STAMPS: Final = Timestamps()
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a well-formed request is not let in, in the words of HTTP and of WebSocket."""

    status: int
    code: int
    sentence: str
    headers: Sequence[tuple[str, str]] = ()
    counter: str | None = None
    """None if the hub has counted it."""


FOREIGN_ORIGIN: Final = Refusal(
    HTTPStatus.FORBIDDEN, CloseCode.FORBIDDEN, "this origin is not allowed", counter="refused-origin"
)
DRAINING: Final = Refusal(
    HTTPStatus.SERVICE_UNAVAILABLE,
    CloseCode.SERVICE_RESTART,
    "the hub is shutting down",
    (RETRY_SOON,),
    "refused-draining",
)
UNCHECKED: Final = Refusal(
    HTTPStatus.SERVICE_UNAVAILABLE, CloseCode.INTERNAL_ERROR, "the token could not be checked", (RETRY_SOON,)
)
_FORBIDDEN: Final = Refusal(HTTPStatus.FORBIDDEN, CloseCode.FORBIDDEN, "not allowed")
_CHALLENGE: Final = (("WWW-Authenticate", "Bearer"),)


def full(max_clients: int) -> Refusal:
    """There are as many clients as there may be."""
    sentence = f"more than {max_clients} connections"
    return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, CloseCode.TRY_AGAIN_LATER, sentence, (RETRY_SOON,), "refused-full")


def too_many(error: TooManyRequests) -> Refusal:
    """A limit for one address or identity is reached."""
    after = max(1, math.ceil(error.after))
    sentence = f"{error}; try again in {after} s"
    return Refusal(HTTPStatus.TOO_MANY_REQUESTS, CloseCode.TOO_MANY_COMMANDS, sentence, (("Retry-After", str(after)),))


async def admit(hub: Hub, handshake: Handshake) -> Identity | Refusal | None:
    """Who wants to connect, or why it is not let in; None if it may send a token as its first message.

    Raises only what is a bug.
    """
    return await _outcome(hub.admit(handshake))


async def identify(hub: Hub, handshake: Handshake) -> Identity | Refusal:
    """Who asks, without a connection that stays, or why it gets no answer. Raises only what is a bug."""
    return await _outcome(hub.check(handshake))


async def _outcome(check: Awaitable[T]) -> T | Refusal:
    try:
        return await check
    except AuthenticationError as error:
        return Refusal(HTTPStatus.UNAUTHORIZED, CloseCode.UNAUTHENTICATED, f"{error.fault} token", _CHALLENGE)
    except PermissionDenied:
        return _FORBIDDEN
    except TooManyRequests as error:
        return too_many(error)
    except Overloaded as error:
        return overloaded(error)
    except HubError:
        return UNCHECKED


def overloaded(error: Overloaded) -> Refusal:
    """More waits in memory than may."""
    return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, CloseCode.TRY_AGAIN_LATER, str(error), (RETRY_SOON,))


def note(hub: Hub, refusal: Refusal) -> None:
    """Count and log it, unless that has been done."""
    if refusal.counter is not None:
        hub.note(refusal.counter, "somebody was sent away: %s", refusal.sentence)


def close_item(code: int, reason: str) -> bytes:
    """The last item of a connection, where the transport has no close codes."""
    return control_item("$close", _STAMPS.format(time.time()), code=code, reason=reason)
