"""Commands of clients, in JSON and in MessagePack, and what the engine does with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, cast, get_args

import msgspec
from hypothesis import strategies as st

from analytics_hub.channels import Channel
from analytics_hub.client.decoding import JSON_CODEC
from analytics_hub.contracts import Transport
from analytics_hub.core.engine import Engine
from analytics_hub.core.events import AskAuthorize, CheckToken, Close, Pause
from analytics_hub.exceptions import (
    AuthenticationError,
    AuthenticationUnavailable,
    HubError,
    Overloaded,
    PermissionDenied,
    TooManyRequests,
)
from analytics_hub.identity import Identity
from analytics_hub.protocol import (
    MAX_COMMANDS,
    MAX_SEQ,
    Command,
    ErrorCode,
    InvalidCommand,
    Parsed,
    Seen,
    Selection,
    Subscribe,
)
from analytics_hub.protocol.formats import JSON, MSGPACK, Format
from analytics_hub.tuning import Tuning

from ..strategies import DEEP, LEAF, TEXT, VALUE, alike, joined, json_of, msgpack_of, prefixed
from ..target import Target

MAX_ERROR_TEXT: Final = 1024
"""Characters of the answer to an invalid command, which must not repeat all of it."""
MAX_ID: Final = 4400
"""Bytes of an id in an answer: an integer may have as many digits as Python reads, 4300."""
_CODES: Final = get_args(ErrorCode)
_COMMANDS: Final = get_args(Command)


def check_json(data: bytes) -> None:
    """As text, because transports have checked that it is UTF-8."""
    _check_parsed(JSON.parse(data.decode("utf-8", "replace")))
    assert isinstance(JSON.parse(data)[0], InvalidCommand)


def check_msgpack(data: bytes) -> None:
    parsed = MSGPACK.parse(data)
    _check_parsed(parsed)
    if not any(isinstance(each, InvalidCommand) for each in parsed):
        assert _written(parsed) == _written(JSON.parse(_written(parsed).decode()))


def _written(parsed: list[Parsed]) -> bytes:
    return msgspec.json.encode(parsed)


def _check_parsed(parsed: list[Parsed]) -> None:
    assert 0 < len(parsed) <= MAX_COMMANDS
    for each in parsed:
        _check_id(each.id)
        if isinstance(each, InvalidCommand):
            assert each.code in _CODES
            assert len(each.message) <= MAX_ERROR_TEXT, f"an answer of {len(each.message)} characters"
            each.message.encode()
            continue
        assert isinstance(each, _COMMANDS)
        if isinstance(each, Seen):
            assert 0 <= each.frames <= MAX_SEQ
        if isinstance(each, Subscribe):
            assert each.channels
            for channel in each.channels:
                if isinstance(channel, Selection):
                    check_selection(channel)


def _check_id(id: object) -> None:
    assert id is None or isinstance(id, int | float | str)
    assert not isinstance(id, bool)
    assert not isinstance(id, str) or len(id) <= 128
    assert len(msgspec.json.encode(id)) <= MAX_ID


def check_selection(selection: Selection) -> None:
    assert selection.last is None or 0 <= selection.last <= MAX_SEQ
    assert selection.max_hz is None or 0 < selection.max_hz <= 1000
    assert selection.since is None or (len(selection.since.epoch) <= 128 and 0 <= selection.since.seq <= MAX_SEQ)


# --- all the way through the engine -----------------------------------------------------------------------------------

_CHANNELS: Final = (
    Channel("alerts", keep_items=5),
    Channel("table", mode="table", key="id"),
    Channel("latest", mode="latest"),
    Channel("durable", mode="durable", keep_items=5),
    Channel("secret", roles=frozenset({"admin"})),
    Channel("user:*"),
)
_TUNING: Final = Tuning(max_subscriptions=4, max_members=6, pending_bytes=1024, control_bytes=4096, command_rate=50)
_ERRORS: Final[dict[str, HubError]] = {
    "expired": AuthenticationError("expired"),
    "forbidden": PermissionDenied("no"),
    "unavailable": AuthenticationUnavailable(),
    "limited": TooManyRequests("too many", 1.0),
    "overloaded": Overloaded("too much"),
}
"""What the check of a token raises, by token; every other one but `good` is invalid."""
_IDENTITY: Final = Identity(id="ann", roles=frozenset({"trader"}))
_MESSAGES: Final = 60
_TRANSPORT: Final = cast("Transport", object())  # the engine calls none of its methods


class _Wire:
    """Parses one of the formats, and writes lines of JSON, which the check reads."""

    has_cursor = False

    def __init__(self, encoding: Format) -> None:
        self.name = encoding.name
        self.parse = encoding.parse

    def frame(self, items: Sequence[bytes]) -> bytes:
        return JSON.join(items) + b"\n"


class World:
    """An engine with one client. The check of a token is answered in the next turn, as in a hub."""

    def __init__(self, encoding: Format, identity: Identity | None) -> None:
        self.engine = Engine(_CHANNELS, _TUNING, nonce="n", node="node", asks_to_authorize=True)
        self.now = 100.0
        self.engine.tell_time(self.now, 1_700_000_000.0)
        self.session = self.engine.connect(_TRANSPORT, _Wire(encoding), identity, self.now, id="s")
        self.is_paused = False
        for channel in ("alerts", "latest", "user:1"):
            self.engine.publish(channel, b"1", self.now)

    def receive(self, message: str | bytes) -> None:
        self.now += 0.01
        if not self.is_paused:
            self.engine.receive_data(self.session, message, self.now)
        self.turn()

    def turn(self) -> None:
        """One turn of a driver."""
        engine = self.engine
        engine.handle_timer(self.now)
        for delivery in engine.data_to_send():
            for line in delivery.frame.splitlines():
                JSON_CODEC.decode_items(line.decode())
        for event in [*engine.events()]:
            if isinstance(event, CheckToken):
                error = _ERRORS.get(event.token, AuthenticationError("invalid"))
                engine.authenticated(event.session, _IDENTITY if event.token == "good" else error, self.now)
            elif isinstance(event, AskAuthorize):
                allowed = [name for name in event.channels if not name.endswith("2")]
                engine.authorized(event.session, allowed, self.now)
            elif isinstance(event, Pause):
                self.is_paused = event.paused
            elif isinstance(event, Close):
                assert event.session.is_closed

    def check_bounds(self) -> None:
        session = self.session
        assert len(session.subscriptions) <= _TUNING.max_subscriptions
        assert sum(name.startswith("user:") for name in self.engine.registry.logs) <= _TUNING.max_members
        assert session.is_closed or session.commands_bytes >= 0
        timer = self.engine.get_timer()
        assert timer is None or math.isfinite(timer)


def check_session(data: bytes) -> None:
    """The first byte selects the format, and whether a token must come first. NULs separate messages."""
    is_binary = bool(data[:1] and data[0] & 1)
    is_anonymous = bool(data[:1] and data[0] & 2)
    world = World(MSGPACK if is_binary else JSON, None if is_anonymous else _IDENTITY)
    for message in data[1:].split(b"\0\0" if is_binary else b"\0")[:_MESSAGES]:
        world.receive(message if is_binary else message.decode("utf-8", "replace"))
        world.check_bounds()
    world.engine.disconnect(world.session, world.now)
    world.now += 1000
    world.turn()
    assert not world.engine.sessions
    assert not world.session.commands or world.session.is_closed
    for log in world.engine.registry.logs.values():
        assert not log.watchers, f"{log.name} still has a watcher"


# --- samples ----------------------------------------------------------------------------------------------------------

_GOOD: Final[tuple[Any, ...]] = (
    {"action": "subscribe", "channels": ["alerts", "latest"], "id": 1},
    {"action": "subscribe", "channels": [{"channel": "table", "snapshot": True, "max_hz": 4.5}], "id": "a"},
    {"action": "subscribe", "channels": [{"channel": "alerts", "since": {"epoch": "n.1", "seq": 3}}, "user:1"]},
    {"action": "subscribe", "channels": [{"channel": "durable", "last": 10}, "secret", "nosuch", "user:2"], "id": 2.5},
    {"action": "unsubscribe", "channels": ["alerts", "user:1"], "id": 3},
    {"action": "auth", "token": "good", "id": 4},
    {"action": "auth", "token": "bad"},
    {"action": "ping", "id": None},
    {"action": "seen", "frames": 12},
    [{"action": "ping", "id": 1}, {"action": "seen", "frames": 2}, {"action": "nonsense", "id": "x"}],
    [],
)
_AS_JSON: Final = tuple(map(msgspec.json.encode, _GOOD))
_AS_MSGPACK: Final = tuple(map(msgspec.msgpack.encode, _GOOD))
_JSON_WORDS: Final = (
    *b'"action": "subscribe" "unsubscribe" "auth" "ping" "seen" "channels": "channel": "id": "token":"good"'.split(),
    *b'"frames": "since":{"epoch":"n.1","seq":1} "last": "max_hz": "snapshot":true null true [] {} , : -'.split(),
    *b'"user:9" {"action":"ping"}, "n.1" "latest" "alerts" \\n "\\u0000"'.split(),
    *(b'"' + b"x" * 2000 + b'"', b"[" * 600),
)
_MSGPACK_WORDS: Final = (
    *b"\xa6action \xa9subscribe \xabunsubscribe \xa4auth \xa4ping \xa4seen \xa8channels \xa7channel \xa2id".split(),
    *b"\xa5token \xa6frames \xa5since \xa5epoch \xa3seq \xa4last \xa6max_hz \xa8snapshot \xa6alerts".split(),
    *b"\xc0 \xc3 \x90 \x80 \x81 \x82 \x91 \x92 \xc1 \xa1\xff \xc4\x02ab \xc7\x0c\xff \xa5\xed\xa0\x80aa".split(),
    *(b"\xdd\xff\xff\xff\xff", b"\xdc\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xde\xff\xff", b"\xdb\xff\xff\xff\xff"),
    *(b"\xc6\xff\xff\xff\xff", b"\xcb\x7f\xf8" + bytes(6), b"\xcb\x7f\xf0" + bytes(6), b"\xcf" + b"\xff" * 8),
    *(b"\xd3\x80" + bytes(7), b"\xca\x7f\xc0\0\0", b"\xd6\xff\0\0\0\0", b"\x91" * 600, b"\xd9\xc8" + b"x" * 200),
    b"\xda\x07\xd0" + b"x" * 2000,
)
_NAMES: Final = (
    *("action", "subscribe", "unsubscribe", "auth", "ping", "seen", "channels", "channel", "id", "token", "good"),
    *("expired", "forbidden", "unavailable", "limited", "overloaded"),
    *("frames", "since", "epoch", "seq", "last", "max_hz", "snapshot", "n.1", "alerts", "latest", "user:3", "table"),
)
_UNKNOWN: Final = st.fixed_dictionaries({"action": TEXT}, optional={"id": LEAF, "extra": VALUE})
_COMMAND: Final = alike(_GOOD, _NAMES) | _UNKNOWN
_MESSAGE: Final = _COMMAND | st.lists(_COMMAND, max_size=5) | VALUE
COMMANDS_JSON: Final = Target(
    "commands-json", check_json, _AS_JSON, _JSON_WORDS, json_of(_MESSAGE) | DEEP, longest=4096
)
COMMANDS_MSGPACK: Final = Target(
    "commands-msgpack", check_msgpack, _AS_MSGPACK, _MSGPACK_WORDS, msgpack_of(_MESSAGE), longest=4096
)
SESSION: Final = Target(
    "session",
    check_session,
    samples=(
        b"\0" + b"\0".join(_AS_JSON),
        b"\0" + b"\0".join(_AS_JSON[:3]),
        b"\x02" + b"\0".join((_AS_JSON[5], *_AS_JSON)),
        b"\0" + _AS_JSON[3] + b"\0" + _AS_JSON[4],
        b"\x01" + b"\0\0".join(_AS_MSGPACK),
        b"\x01" + b"\0\0".join(_AS_MSGPACK[2:5]),
    ),
    words=(
        *(*_JSON_WORDS, *_MSGPACK_WORDS),
        *(b"\0" + each for each in _AS_JSON),
        *(b"\0\0" + each for each in _AS_MSGPACK),
    ),
    documents=prefixed(st.sampled_from([0, 2]), joined(json_of(_MESSAGE), b"\0"))
    | prefixed(st.sampled_from([1, 3]), joined(msgpack_of(_MESSAGE), b"\0\0")),
)
TARGETS: Final = (COMMANDS_JSON, COMMANDS_MSGPACK, SESSION)
