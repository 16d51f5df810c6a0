"""A request for a stream of events: what its query asks for, where its cursor goes on, and how it is turned away.

A browser's `EventSource` can send nothing but a URL, so channels and their options stand there:
`/events?channels=alerts,exposure-updates&channel=routing-metrics;last=10&channel=lp-performance;max_hz=4`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qsl

import msgspec

from ...channels import clip, shorten
from ...contracts import Handshake, Transport
from ...core.session import Session
from ...http import NO_SNIFF, NO_STORE, Headers, Request, Response, error_response
from ...hub import Hub
from ...identity import Identity
from ...protocol import Position, Selection, encode
from .._refusal import Refusal
from .commands import MAX_COMMANDS
from .cursor import decode_cursor
from .sse import CONTENT_TYPE, WIRE, greet, say_goodbye

UNREADABLE: Final = Position("unknown", 0)
"""For a cursor that nobody can read: no channel has this epoch, so each says that it cannot tell what is missing."""
_PASSING: Final = frozenset({HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS})
_HEADERS: Final = (NO_STORE, NO_SNIFF, ("X-Accel-Buffering", "no"))  # or nginx would keep batches back


class BadQuery(ValueError):
    """The query of a stream is not as `docs/protocol.md` §13 has it."""


@dataclass(frozen=True, slots=True)
class EventStream:
    """Answer 200 with these headers and no length, write `greet(hub)`, then `connect`."""

    identity: Identity
    handshake: Handshake
    command: str = field(repr=False)
    """What the client has subscribed to by its URL, as it would have sent it; empty for nothing."""
    headers: Headers = _HEADERS
    content_type: str = CONTENT_TYPE

    def connect(self, hub: Hub, transport: Transport) -> Session:
        """Tell the hub of the client and of what it wants. Raises `HubClosed`."""
        session = hub.connect(transport, WIRE, self.identity, self.handshake, max_message=MAX_COMMANDS)
        try:
            if self.command:
                hub.receive_data(session, self.command)
        except Exception:
            hub.disconnect(session)  # a bug; nobody else knows of it yet
            raise
        return session


def open_stream(hub: Hub, request: Request, identity: Identity, handshake: Handshake) -> EventStream | Response:
    """The stream that `request` asks for, or why it gets none."""
    try:
        selections, cursor = parse_query(request.query)
    except BadQuery as error:
        return error_response(HTTPStatus.BAD_REQUEST, "bad-request", str(error))
    # The header comes from a reconnect, and a browser repeats its first URL then: the header is newer.
    selections = resume(selections, request.headers.get("last-event-id", "").strip() or cursor)
    return EventStream(identity, handshake, _command(selections, hub))


def parse_query(query: str) -> tuple[list[Selection], str]:
    """What a query selects, and its cursor or an empty text; raises `BadQuery`."""
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
            raise BadQuery(f"unknown parameter {shorten(name)}; there are channels, channel, cursor and token")
        for selection in found:
            if selection.channel in selections:
                raise BadQuery(f"channel {shorten(selection.channel)} is there twice")
            selections[selection.channel] = selection
    return [*selections.values()], cursor


def _parse_channel(text: str) -> Selection:
    """A channel with its options: `routing-metrics;last=10;max_hz=4`."""
    name, *options = text.split(";")
    fields: dict[str, object] = {"channel": name}
    for option in options:
        key, has_value, value = option.partition("=")
        if key in fields:
            raise BadQuery(f"channel {shorten(text)} has {shorten(key)} twice")
        fields[key] = value if has_value else "true"
        if key == "since":
            epoch, colon, seq = value.rpartition(":")
            if not colon:
                raise BadQuery(f"channel {shorten(text)}: since is an epoch, a colon and a number")
            fields[key] = {"epoch": epoch, "seq": seq}
    try:
        return msgspec.convert(fields, Selection, strict=False)
    except msgspec.ValidationError as error:
        raise BadQuery(f"channel {shorten(text)}: {clip(str(error))}") from None


def resume(selections: Sequence[Selection], cursor: str) -> list[Selection]:
    """`selections` from where `cursor` says that they stood, and what else it knows of.

    What a cursor does not know begins as selected. One that nobody can read must not end the stream, as browsers give
    up for ever after a refusal: each channel then tells of a gap that cannot be counted.
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


def _command(selections: Sequence[Selection], hub: Hub) -> str:
    """One command, so that all channels stand in one answer; several only where one may not name so many."""
    most = hub.tuning.max_subscriptions
    commands = [
        {"action": "subscribe", "channels": selections[at : at + most]} for at in range(0, len(selections), most)
    ]
    return encode(commands).decode() if commands else ""


def wants_events(request: Request) -> bool:
    """Whether the client says that it reads events, as each `EventSource` does."""
    return "text/event-stream" in request.headers.get("accept", "").lower()


def turn_away(hub: Hub, request: Request, refusal: Refusal) -> Response | None:
    """The answer to a stream that cannot begin now, for a client that would take a status for the last word.

    After any status but 200 an `EventSource` never tries again; after a stream that ends it does. None for others.
    """
    if refusal.status not in _PASSING or not wants_events(request):
        return None
    words = greet(hub) + say_goodbye(hub, refusal.code, refusal.sentence)
    return Response(HTTPStatus.OK, words, CONTENT_TYPE, _HEADERS)
