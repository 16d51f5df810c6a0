"""How transports tell a peer that it is refused, or that its connection ends."""

from __future__ import annotations

import math
import time
from http import HTTPStatus
from typing import Final

from ..contracts import Gateway
from ..exceptions import HubError
from ..http import Headers, Response, error_response, text_response
from ..protocol import Timestamps, control_item

_TIMESTAMPS: Final = Timestamps()


def refusal_headers(error: HubError) -> Headers:
    """The headers that belong to the HTTP status of `error`."""
    if error.http_status == HTTPStatus.UNAUTHORIZED:
        return [("WWW-Authenticate", "Bearer")]
    if error.retry_after is not None:
        return [("Retry-After", str(max(1, math.ceil(error.retry_after))))]
    return []


def refusal_response(error: HubError) -> Response:
    """The HTTP answer to a request that is refused with `error`."""
    return error_response(error.http_status, error.http_code, error.public_message, refusal_headers(error))


def refusal_text(error: HubError) -> Response:
    """The HTTP answer to a WebSocket handshake that is refused with `error`: a line of text."""
    return text_response(error.http_status, error.public_message, refusal_headers(error))


def note_refusal(gateway: Gateway, error: HubError) -> None:
    """Count and log a refusal, unless the hub has done so."""
    if error.counter is not None:
        gateway.note(error.counter, "%s", error.log_message)


def close_item(code: int, reason: str) -> bytes:
    """The last item of a connection, where the transport has no close codes."""
    return control_item("$close", _TIMESTAMPS.format(time.time()), code=code, reason=reason)
