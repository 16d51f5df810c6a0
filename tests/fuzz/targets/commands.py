"""What a client commands, in JSON and in MessagePack, and how the engine takes it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, get_args

import msgspec

from analytics_hub.channels import Channel
from analytics_hub.client.decoding import JSON_CODEC
from analytics_hub.core.commands import Refusal
from analytics_hub.core.engine import Engine
from analytics_hub.core.events import AskAuthorize, CheckToken, Close, Pause
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

from ..target import Target, Trees

MAX_SENTENCE: Final = 1024
"""Characters of an answer to nonsense: it must not send all of it back."""
MAX_ID: Final = 4400
"""Bytes of an id as it is sent back: an integer may have as many digits as Python reads, 4300."""
_CODES: Final = get_args(ErrorCode)
_COMMANDS: Final = get_args(Command)


def check_json(data: bytes) -> None:
    """Text, as the transports hand it over: they have checked that it is UTF-8."""
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
            assert len(each.message) <= MAX_SENTENCE, f"an answer of {len(each.message)} characters"
            each.message.encode()
            continue
        assert isinstance(each, _COMMANDS)
        if isinstance(each, Seen):
            assert 0 <= each.frames <= MAX_SEQ
        if isinstance(each, Subscribe):
            assert each.channels
            for channel in each.channels:
                if isinstance(channel, Selection):
                    _check_selection(channel)


def _check_id(id: object) -> None:
    assert id is None or isinstance(id, int | float | str)
    assert not isinstance(id, bool)
    assert not isinstance(id, str) or len(id) <= 128
    assert len(msgspec.json.encode(id)) <= MAX_ID


def _check_selection(selection: Selection) -> None:
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
_REFUSALS: Final = get_args(Refusal)
_IDENTITY: Final = Identity(id="ann", roles=frozenset({"trader"}))
_MESSAGES: Final = 60


class _Wire:
    """Understands one of the formats; what it writes is JSON in lines, so that it can be read here."""

    has_cursor = False

    def __init__(self, spoken: Format) -> None:
        self.name = spoken.name
        self.parse = spoken.parse

    def frame(self, items: Sequence[bytes]) -> bytes:
        return JSON.join(items) + b"\n"


class Room:
    """An engine and one client of it. Commands wait while a token is checked, as they do in a hub."""

    def __init__(self, spoken: Format, identity: Identity | None) -> None:
        self.engine = Engine(_CHANNELS, _TUNING, nonce="n", node="node", asks_to_authorize=True)
        self.now = 100.0
        self.engine.tell_time(self.now, 1_700_000_000.0)
        self.session = self.engine.connect(_Wire(spoken), identity, self.now, id="s")
        self.is_paused = False
        for channel in ("alerts", "latest", "user:1"):
            self.engine.publish(channel, b"1", self.now)

    def receive(self, message: str | bytes) -> None:
        self.now += 0.01
        if not self.is_paused:
            self.engine.receive_data(self.session, message, self.now)
        self.turn()

    def turn(self) -> None:
        """What a driver does."""
        engine = self.engine
        engine.handle_timer(self.now)
        for delivery in engine.data_to_send():
            for line in delivery.frame.splitlines():
                JSON_CODEC.read(line.decode())
        for event in [*engine.events()]:
            if isinstance(event, CheckToken):
                refusal: Any = event.token if event.token in _REFUSALS else "invalid"
                engine.authenticated(event.session, _IDENTITY if event.token == "good" else refusal, self.now)
            elif isinstance(event, AskAuthorize):
                allowed = [name for name in event.channels if not name.endswith("2")]
                engine.authorized(event.session, allowed, self.now)
            elif isinstance(event, Pause):
                self.is_paused = event.paused
            elif isinstance(event, Close):
                assert event.session.is_closed

    def check(self) -> None:
        session = self.session
        assert len(session.subscriptions) <= _TUNING.max_subscriptions
        assert sum(name.startswith("user:") for name in self.engine.registry.logs) <= _TUNING.max_members
        assert session.is_closed or session.commands_bytes >= 0
        timer = self.engine.get_timer()
        assert timer is None or math.isfinite(timer)


def check_session(data: bytes) -> None:
    """The first byte: which format, and whether a token must come first. Messages are parted by NULs."""
    is_binary = bool(data[:1] and data[0] & 1)
    is_stranger = bool(data[:1] and data[0] & 2)
    room = Room(MSGPACK if is_binary else JSON, None if is_stranger else _IDENTITY)
    for message in data[1:].split(b"\0\0" if is_binary else b"\0")[:_MESSAGES]:
        room.receive(message if is_binary else message.decode("utf-8", "replace"))
        room.check()
    room.engine.disconnect(room.session, room.now)
    room.now += 1000
    room.turn()
    assert not room.engine.sessions
    assert not room.session.commands or room.session.is_closed
    for log in room.engine.registry.logs.values():
        assert not log.watchers, f"somebody still watches {log.name}"


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
    *(b'"action":', b'"subscribe"', b'"unsubscribe"', b'"auth"', b'"ping"', b'"seen"', b'"channels":', b'"channel":'),
    *(b'"id":', b'"token":"good"', b'"frames":', b'"since":{"epoch":"n.1","seq":1}', b'"last":', b'"max_hz":'),
    *(
        b'"snapshot":true',
        b"null",
        b"true",
        b"[]",
        b"{}",
        b",",
        b":",
        b'"' + b"x" * 300 + b'"',
        b"[" * 600,
        b'"user:9"',
    ),
    *(b'{"action":"ping"},', b'"n.1"', b'"latest"', b'"alerts"', b"\\n", b"-", b'"\\u0000"'),
)
_MSGPACK_WORDS: Final = (
    *(b"\xa6action", b"\xa9subscribe", b"\xabunsubscribe", b"\xa4auth", b"\xa4ping", b"\xa4seen", b"\xa8channels"),
    *(b"\xa7channel", b"\xa2id", b"\xa5token", b"\xa6frames", b"\xa5since", b"\xa5epoch", b"\xa3seq", b"\xa4last"),
    *(
        b"\xa6max_hz",
        b"\xa8snapshot",
        b"\xc0",
        b"\xc3",
        b"\x90",
        b"\x80",
        b"\x81",
        b"\x82",
        b"\x91",
        b"\x92",
        b"\xa6alerts",
    ),
    *(b"\xdd\xff\xff\xff\xff", b"\xdc\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xde\xff\xff", b"\xdb\xff\xff\xff\xff"),
    *(b"\xc6\xff\xff\xff\xff", b"\xcb\x7f\xf8" + bytes(6), b"\xcb\x7f\xf0" + bytes(6), b"\xcf" + b"\xff" * 8),
    *(
        b"\xd3\x80" + bytes(7),
        b"\xca\x7f\xc0\0\0",
        b"\xc1",
        b"\xc4\x02ab",
        b"\xd6\xff\0\0\0\0",
        b"\xc7\x0c\xff",
        b"\xa1\xff",
    ),
    *(b"\x91" * 600, b"\xd9\xc8" + b"x" * 200, b"\xa5\xed\xa0\x80aa"),
)

_NAMES: Final = (
    *("action", "subscribe", "unsubscribe", "auth", "ping", "seen", "channels", "channel", "id", "token", "good"),
    *("expired", "forbidden", "unavailable", "limited", "overloaded"),
    *("frames", "since", "epoch", "seq", "last", "max_hz", "snapshot", "n.1", "alerts", "latest", "user:3", "table"),
)
COMMANDS_JSON: Final = Target(
    "commands-json",
    check_json,
    _AS_JSON,
    _JSON_WORDS,
    Trees(_GOOD, _NAMES, msgspec.json.encode),
    4096,
    share=40,
)
COMMANDS_MSGPACK: Final = Target(
    "commands-msgpack",
    check_msgpack,
    _AS_MSGPACK,
    _MSGPACK_WORDS,
    Trees(_GOOD, _NAMES, msgspec.msgpack.encode),
    4096,
    share=40,
)


def _pack_story(messages: Any) -> bytes:
    return b"\0" + b"\0".join(map(msgspec.json.encode, messages))


_STORIES: Final = ([*_GOOD], [*_GOOD[:4], _GOOD[0], _GOOD[4]], [_GOOD[9]] * 5, [_GOOD[3], _GOOD[5], _GOOD[2]])
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
    trees=Trees(_STORIES, _NAMES, _pack_story),
    words=(
        *_JSON_WORDS,
        *_MSGPACK_WORDS,
        *(b"\0" + each for each in _AS_JSON),
        *(b"\0\0" + each for each in _AS_MSGPACK),
    ),
    share=5,
)
TARGETS: Final = (COMMANDS_JSON, COMMANDS_MSGPACK, SESSION)
