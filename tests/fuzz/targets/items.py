"""Items of a hostile server, read by `HubClient`."""

from __future__ import annotations

import math
from typing import Any, Final

import msgspec

from analytics_hub.client.backoff import RetryDecision
from analytics_hub.client.decoding import JSON_CODEC, MSGPACK_CODEC, Codec
from analytics_hub.client.exceptions import ConnectionClosed, ConnectionLost, NotAHub
from analytics_hub.client.protocol import MAX_UNSUBSCRIBING, ClientProtocol
from analytics_hub.client.subscription_state import Options, SubscriptionState
from analytics_hub.client.values import Gap, Item
from analytics_hub.exceptions import HubError
from analytics_hub.protocol import MAX_SEQ, Position

from ..strategies import VALUE, alike, joined, json_of, msgpack_of
from ..target import Target

_ROOM: Final = 8


def check_items_json(data: bytes) -> None:
    """A NUL separates messages, because no JSON contains one."""
    _converse(JSON_CODEC, [message.decode("utf-8", "replace") for message in data.split(b"\0")])


def check_items_msgpack(data: bytes) -> None:
    _converse(MSGPACK_CODEC, data.split(b"\0\0\0"))


def _converse(codec: Codec, messages: list[Any]) -> None:
    protocol = ClientProtocol(jitter=lambda: 0.5)
    feeds = [
        protocol.subscribe("alerts", Options(since=Position("n.1", 3)), 0.0, capacity=_ROOM),
        protocol.subscribe("table", Options(snapshot=True), 0.0, capacity=_ROOM, type=dict[str, int]),
        protocol.subscribe("gone", Options(), 0.0, capacity=_ROOM),
    ]
    protocol.connection_made(0.0, codec=codec, token="t")
    protocol.refresh("u", 0.0, lambda error: None)
    protocol.unsubscribe(feeds.pop(), 0.0)
    now = 0.0
    try:
        for message in messages:
            now += 1.0
            protocol.receive_message(message, now)
            protocol.handle_timer(now)
            for event in protocol.events():
                assert len(repr(event)) <= len(repr(message)) + 200
            for command in protocol.data_to_send():
                assert isinstance(command, bytes) is codec.format.is_binary
            timer = protocol.get_timer()
            assert timer is not None
            assert math.isfinite(timer)
            for feed in feeds:
                check_feed(feed)
                assert len(protocol._connection.unsubscribing) <= MAX_UNSUBSCRIBING  # type: ignore[union-attr]
                while feed.has_values and now % 2:
                    _take(protocol, feed, now)
    except NotAHub as error:
        assert str(error).isprintable()
        assert len(str(error)) <= 1024
    except (ConnectionClosed, ConnectionLost) as error:
        check_ending(protocol.connection_closed(1006, str(error), now))
        return
    check_ending(protocol.connection_lost("over", now))


def _take(protocol: ClientProtocol, feed: SubscriptionState, now: float) -> None:
    try:
        value = protocol.next_value(feed, now)
    except HubError as error:
        assert len(str(error)) <= 4096
        return
    if isinstance(value, Gap):
        assert all(number is None or 0 <= number <= MAX_SEQ for number in (value.first, value.last))
    else:
        assert isinstance(value, Item)
        assert 0 <= value.seq <= MAX_SEQ


def check_feed(feed: SubscriptionState) -> None:
    assert len(feed._values) <= max(_ROOM, feed.capacity) + 1
    if feed.position is not None:
        assert 0 <= feed.position.seq <= MAX_SEQ


LONGEST_WAIT: Final = 86_400.0
"""Seconds for which a server may tell a client to wait."""


def check_ending(ending: RetryDecision) -> None:
    assert ending.message.isprintable()
    assert ending.error is not None or ending.delay is not None
    assert ending.delay is None or 0 <= ending.delay <= LONGEST_WAIT, ending.delay
    assert ending.error is None or str(ending.error).isprintable()


HELLO: Final = (
    b'[{"type":"$hello","timestamp":"2026-01-19T10:30:45.160Z","protocol":1,"node":"n","session":"s","heartbeat":20.0,'
    b'"limits":{},"reconnect":{"min":0.5,"max":30}}]'
)


_REFUSED: Final = {"channel": "alerts", "ok": False, "code": "bad-request"}
_STORY: Final[tuple[Any, ...]] = (
    msgspec.json.decode(HELLO),
    [
        {
            "type": "$subscribed",
            "id": 2,
            "channels": [
                {"channel": "alerts", "ok": True, "epoch": "n.1", "seq": 3, "recovered": True},
                {"channel": "table", "ok": True, "epoch": "n.2", "seq": 0},
            ],
        }
    ],
    [
        {"channel": "alerts", "seq": 4, "type": "alerts", "timestamp": "2026-01-19T10:30:45.160Z", "data": {"a": [1]}},
        {"channel": "table", "seq": 1, "key": "k", "type": "table", "timestamp": "", "data": {"n": 1}},
        {"channel": "table", "seq": 2, "key": "k", "type": "table", "timestamp": "", "data": None, "deleted": True},
        {"type": "$gap", "channel": "alerts", "from": 5, "to": 9, "count": 5, "reason": "rate"},
        {"type": "$gap", "channel": "table", "epoch": {"old": "n.2", "new": "m.2"}, "reason": "epoch"},
        {"channel": "gone", "seq": 1, "type": "gone", "timestamp": "", "data": 1},
    ],
    [{"type": "$error", "id": 2, "code": "rate-limited", "message": "slower", "retry": "later", "after": 0.5}],
    [{"type": "$subscribed", "id": 3, "channels": [{"channel": "alerts", "ok": False, "code": "bad-request"}]}],
    [{"type": "$authenticated", "id": 2}, {"type": "$expiring", "in": 60}, {"type": "$drain", "in": 2.5}],
    [{"type": "$unsubscribed", "id": 4, "channels": [{"channel": "gone"}]}],
    [{"channel": "alerts", "seq": seq, "type": "a", "data": seq} for seq in range(10, 10 + 2 * _ROOM)],
    [],
    [{"type": "$subscribed", "id": id, "channels": [_REFUSED]} for id in range(4, 9)],
    [{"type": "$error", "id": 3, "code": "unauthenticated", "message": "expired token", "retry": "never"}],
    [{"type": "$unsubscribed", "reason": "forbidden", "channels": [{"channel": "table"}]}],
    [],
)


def _as_json(messages: Any) -> bytes:
    return b"\0".join(map(msgspec.json.encode, messages))


def _as_msgpack(messages: Any) -> bytes:
    return b"\0\0\0".join(map(msgspec.msgpack.encode, messages))


_STORIES: Final = (
    [*_STORY],
    [*_STORY[:3]],
    [*_STORY[:2], *_STORY[7:11]],
    [_STORY[0], _STORY[3]],
    [_STORY[0], _STORY[1], _STORY[4], _STORY[2]],
)
_UNREQUESTED: Final = [
    {"type": "a", "channel": f"{number}", "seq": 1, "data": 1} for number in range(MAX_UNSUBSCRIBING + 9)
]
_NAMES: Final = (
    *("type", "channel", "channels", "seq", "data", "timestamp", "key", "deleted", "id", "ok", "epoch", "old", "new"),
    *("recovered", "code", "message", "from", "to", "count", "reason", "in", "after", "heartbeat", "reconnect", "min"),
    *("$hello", "$subscribed", "$unsubscribed", "$gap", "$error", "$authenticated", "$expiring", "$drain", "$pong"),
    *(
        "alerts",
        "table",
        "gone",
        "n.1",
        "unauthenticated",
        "rate-limited",
        "unknown-action",
        "bad-request",
        "forbidden",
    ),
)
_MESSAGES: Final = alike(_STORY, _NAMES) | VALUE

ITEMS_JSON: Final = Target(
    "items-json",
    check_items_json,
    samples=(*map(_as_json, _STORIES), _as_json([_STORY[0], _UNREQUESTED])),
    words=(
        *b'"type":"$gap", "type":"$hello" "seq": "channel":"alerts" "ok":true "data": "id":1 "id":2'.split(),
        *b"null [ ] { } ,".split(),
        *(b"\0", b"\\ud800", b"[" * 1000),
    ),
    documents=joined(json_of(_MESSAGES), b"\0"),
    longest=16_000,
)
ITEMS_MSGPACK: Final = Target(
    "items-msgpack",
    check_items_msgpack,
    samples=tuple(map(_as_msgpack, _STORIES)),
    words=(
        b"\0\0\0",
        b"\x90",
        b"\x91",
        b"\x81",
        b"\xc0",
        b"\xa4type",
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 1000,
    ),
    documents=joined(msgpack_of(_MESSAGES), b"\0\0\0"),
    longest=6000,
)
TARGETS: Final = (ITEMS_JSON, ITEMS_MSGPACK)
