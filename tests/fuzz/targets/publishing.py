"""Posted bodies: items to publish, and commands for an event stream. The hub behind them is a real one."""

from __future__ import annotations

import asyncio
import atexit
import json
from typing import Any, Final

import msgspec
from hypothesis import strategies as st

from analytics_hub.channels import Channel
from analytics_hub.contracts import Handshake, Peer
from analytics_hub.http import Request, Response
from analytics_hub.hub import Hub
from analytics_hub.identity import Identity
from analytics_hub.transports._http.commands import Gate
from analytics_hub.transports._http.endpoints import Endpoints
from analytics_hub.transports._http.sse import WIRE
from analytics_hub.tuning import Tuning

from ..strategies import DEEP, VALUE, alike, json_of
from ..target import Target

MAX_ITEM: Final = 1024
_MAX_ERROR_TEXT: Final = 1024
_STATUSES: Final = frozenset({200, 202, 204, 400, 401, 403, 404, 405, 409, 413, 429})


class Point(msgspec.Struct):
    x: int
    y: float = 0.0


_CHANNELS: Final = (
    Channel("events", publishers=frozenset({"writer"}), keep_items=5),
    Channel("table", mode="table", key="id", publishers=frozenset({"writer"}), max_keys=3),
    Channel("latest", mode="latest", publishers=frozenset({"writer"})),
    Channel("typed", schema=Point, publishers=frozenset({"writer"}), keep_items=5),
    Channel("durable", mode="durable", publishers=frozenset({"writer"}), keep_items=5),
    Channel("user:*", publishers=frozenset({"writer"})),
    Channel("closed"),
)
_TUNING: Final = Tuning(max_item_bytes=MAX_ITEM, max_members=3, interval=0.001)


def _authenticate(handshake: Handshake) -> Identity:
    return Identity(id="ann", roles=frozenset({"writer"}))


class Listener:
    """The transport of a client that reads events."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.events = b""

    def write(self, frame: bytes) -> bool:
        self.events += frame
        return True

    def check(self) -> None:
        """Each event is one line of JSON."""
        for line in self.events.splitlines():
            name, _, value = line.partition(b": ")
            assert name in (b"", b"id", b"event", b"data")
            if name == b"data":
                assert isinstance(json.loads(value), list)

    def close(self, code: int, reason: str) -> None:
        self.gate.open()

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        self.gate.open()

    def confirmed(self, frames: int) -> None:
        pass


async def _post(path: str, query: str, body: bytes) -> None:
    async with Hub(_CHANNELS, authenticate=_authenticate, tuning=_TUNING, grace=0.0) as hub:
        listener = Listener()
        session = hub.gateway.connect(listener, WIRE, Peer(Handshake(), Identity(id="ann")))
        hub.gateway.receive_data(session, '{"action":"subscribe","channels":["events","latest","typed","user:1"]}')
        endpoints = Endpoints(hub.gateway)
        answer = await endpoints.answer(Request("POST", path, query.replace("{session}", session.id), {}, body))
        assert isinstance(answer, Response)
        _check_answer(answer, path, body)
        for _ in range(3):
            await asyncio.sleep(0)
        _check_hub(hub)
    listener.check()


def _check_answer(answer: Response, path: str, body: bytes) -> None:
    assert answer.status in _STATUSES, answer
    content: Any = msgspec.json.decode(answer.body)
    outcomes = content if isinstance(content, list) else [content]
    assert len(outcomes) <= len(body) // 2 + 1
    for outcome in outcomes:
        if "error" in outcome:
            assert outcome["error"]["code"] != "internal-error", outcome
            assert 0 < len(outcome["error"]["message"]) <= _MAX_ERROR_TEXT, (
                f"{len(outcome['error']['message'])} characters"
            )
        elif path == "/publish":
            assert answer.status == 200
            assert outcome.keys() == {"epoch", "seq"}


def _check_hub(hub: Hub) -> None:
    statistics = hub.statistics()
    assert sum(name.startswith("user:") for name in statistics.channels) <= 3
    for log in hub._engine.registry.logs.values():
        assert not log.name.startswith("closed") or log.head == 0


_RUNNER: Final = asyncio.Runner(loop_factory=asyncio.new_event_loop)
atexit.register(_RUNNER.close)


def check_publish(data: bytes) -> None:
    _RUNNER.run(_post("/publish", "", data))


def check_posted_commands(data: bytes) -> None:
    """The first line is the query, in which `{session}` is replaced by the id of the open session."""
    query, _, body = data.partition(b"\n")
    _RUNNER.run(_post("/commands", query.decode("latin-1"), body))


_ITEMS: Final[tuple[Any, ...]] = (
    {"channel": "events", "data": {"a": 1.5, "b": [None, "é"]}, "type": "tick"},
    {"channel": "table", "data": {"id": "k1", "n": 1}},
    {"channel": "table", "key": "k1", "deleted": True},
    {"channel": "typed", "data": {"x": 1, "y": 2.5, "z": "dropped"}},
    {"channel": "durable", "data": "text"},
    {"channel": "user:1", "data": None},
    {"channel": "latest", "data": [1, 2, 3]},
    {"channel": "closed", "data": 1},
)
_BODIES: Final[tuple[Any, ...]] = (*_ITEMS, [*_ITEMS], [_ITEMS[0]] * 70, [])
_NAMES: Final = (
    *("channel", "data", "type", "key", "deleted", "id", "x", "y", "events", "table", "typed", "durable", "user:1"),
    *("user:2", "user:", "closed", "latest", "$gap", "k1", "nosuch"),
)
_ITEM: Final = alike(_ITEMS, _NAMES)
PUBLISH: Final = Target(
    "publish",
    check_publish,
    samples=tuple(map(msgspec.json.encode, _BODIES)),
    words=(
        *b'"channel":"events" "data": "deleted":true "key":"k1" "type":"$x" null [ ] ,'.split(),
        *(b'{"channel":"events","data":1},', b"\\ud800", b"x" * MAX_ITEM, b'"\xff"', b"\x1f", b"1e400", b" \t\r\n"),
    ),
    documents=json_of(st.lists(_ITEM, max_size=4) | _ITEM | VALUE) | DEEP,
    longest=6000,
)
POSTED: Final = Target(
    "posted-commands",
    check_posted_commands,
    samples=(
        b'session={session}\n{"action":"subscribe","channels":["events","user:2"],"id":1}',
        b'session=abc\n[{"action":"ping"},{"action":"unsubscribe","channels":["events"]}]',
        b'session={session}&session=x\n{"action":"auth","token":"x"}',
    ),
    words=(b"session=", b"{session}", b"&", b"\n", b'{"action":"ping"}', b'"channels":["events"]', b"\xff"),
)

TARGETS: Final = (PUBLISH, POSTED)
