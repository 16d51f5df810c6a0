"""A request for a stream of events: the channels of its query, the position of its cursor, and its refusal.

A browser's `EventSource` can send nothing but a URL, so channels and their options stand there:
`/events?channels=alerts,exposure-updates&channel=routing-metrics;last=10&channel=lp-performance;max_hz=4`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qsl

import msgspec

from ...channels import clip, shorten
from ...contracts import Gateway, Peer, Transport
from ...core.session import Session
from ...exceptions import HubError
from ...http import NO_SNIFF, Headers, Request, Response, error_response
from ...protocol import Position, Selection
from .commands import MAX_COMMANDS
from .cursor import decode_cursor
from .sse import CONTENT_TYPE, WIRE, greet, say_goodbye

UNREADABLE: Final = Position("unknown", 0)
"""The position for an invalid cursor: no channel has this epoch, so each reports a gap that cannot be counted."""
_TEMPORARY: Final = frozenset({HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS})
_HEADERS: Final = (
    ("Cache-Control", "no-store, no-transform"),  # a proxy that compresses would keep events back until they are many
    NO_SNIFF,
    ("X-Accel-Buffering", "no"),  # nginx would keep batches back
)


class InvalidQuery(ValueError):
    """The query of a stream breaks the rules of `docs/protocol.md` §13."""


@dataclass(frozen=True, slots=True)
class EventStream:
    """Answer 200 with these headers and no length, write `greet(gateway)`, then `connect`."""

    peer: Peer
    selections: Sequence[Selection]
    """The channels that the client has selected by its URL and its cursor."""
    headers: Headers = _HEADERS
    content_type: str = CONTENT_TYPE

    def connect(self, gateway: Gateway, transport: Transport) -> Session:
        """Start a session with these subscriptions. Raises `HubClosed`."""
        session = gateway.connect(transport, WIRE, self.peer, max_message=MAX_COMMANDS)
        try:
            gateway.subscribe(session, self.selections)
        except Exception:
            gateway.disconnect(session)  # a bug; the caller has no session yet that it could disconnect
            raise
        return session


def open_stream(request: Request, peer: Peer) -> EventStream | Response:
    """The stream that `request` asks for, or the answer to an invalid query."""
    try:
        selections, cursor = parse_query(request.query)
    except InvalidQuery as error:
        return error_response(HTTPStatus.BAD_REQUEST, "bad-request", str(error))
    # The header comes from a reconnect, and a browser repeats its first URL then: the header is newer.
    return EventStream(peer, resume(selections, request.headers.get("last-event-id", "").strip() or cursor))


def parse_query(query: str) -> tuple[list[Selection], str]:
    """The selections of a query, and its cursor or an empty text; raises `InvalidQuery`."""
    selections: dict[str, Selection] = {}
    cursor = ""
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name == "channels":
            found = [Selection(channel) for channel in value.split(",") if channel]
        elif name == "channel":
            found = [_parse_channel(value)]
        elif name == "cursor":
            cursor = value
            continue
        elif name == "token":
            continue
        else:
            raise InvalidQuery(f"unknown parameter {shorten(name)}; it must be channels, channel, cursor or token")
        for selection in found:
            if selection.channel in selections:
                raise InvalidQuery(f"channel {shorten(selection.channel)} is selected twice")
            selections[selection.channel] = selection
    return [*selections.values()], cursor


def _parse_channel(text: str) -> Selection:
    """A channel with its options: `routing-metrics;last=10;max_hz=4`."""
    name, *options = text.split(";")
    fields: dict[str, object] = {"channel": name}
    for option in options:
        key, has_value, value = option.partition("=")
        if key in fields:
            raise InvalidQuery(f"channel {shorten(text)} has the option {shorten(key)} twice")
        fields[key] = value if has_value else "true"
        if key == "since":
            epoch, colon, seq = value.rpartition(":")
            if not colon:
                raise InvalidQuery(f"channel {shorten(text)}: since must be an epoch, a colon and a number")
            fields[key] = {"epoch": epoch, "seq": seq}
    try:
        return msgspec.convert(fields, Selection, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidQuery(f"channel {shorten(text)}: {clip(str(error))}") from None


def resume(selections: Sequence[Selection], cursor: str) -> list[Selection]:
    """`selections` from the positions in `cursor`, and the other channels that are in it.

    A channel that is not in the cursor starts as selected. An invalid cursor must not end the stream, as browsers give
    up for ever after a refusal: each channel then reports a gap that cannot be counted.
    """
    if not cursor:
        return [*selections]
    positions = decode_cursor(cursor)
    if positions is None:
        return [_from(selection, UNREADABLE) for selection in selections]
    resumed = [
        _from(selection, position) if (position := positions.pop(selection.channel, None)) else selection
        for selection in selections
    ]
    return resumed + [Selection(name, since=position) for name, position in positions.items()]


def _from(selection: Selection, position: Position) -> Selection:
    return Selection(selection.channel, since=position, max_hz=selection.max_hz)


def refuse_stream(gateway: Gateway, request: Request, error: HubError) -> Response | None:
    """The answer to an `EventSource` if its stream cannot begin now; None if it should be answered with a status.

    After any status but 200 an `EventSource` never tries again; after a stream that ends it does. Each one sends this
    `Accept`.
    """
    is_event_source = "text/event-stream" in request.headers.get("accept", "").lower()
    if error.http_status not in _TEMPORARY or not is_event_source:
        return None
    body = greet(gateway) + say_goodbye(gateway, error.close_code, error.public_message)
    return Response(HTTPStatus.OK, body, CONTENT_TYPE, _HEADERS)
