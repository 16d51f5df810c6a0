"""C07, D18: neither one client that floods nor ten thousand readers delay the others."""

from __future__ import annotations

import json

import pytest
from anyio.lowlevel import checkpoint

from analytics_hub import Handshake, Identity, Tuning, anonymous
from analytics_hub.testing import ManualClock
from analytics_hub.transports import websocket

from ...hub.rig import FakeTransport, plug_in, running
from ...transports.peer import PING, PONG, TEXT, Peer, feed, frame, serving

pytestmark = pytest.mark.anyio

READER = anonymous(Handshake())
PORTION = 256
"""Members that are written to between two looks at the clock."""


async def test_c07_one_client_that_floods_delays_none_of_100() -> None:
    """It is refused, closed, and reconnects; and at every interval the others have all items."""
    clock = ManualClock()
    tuning = Tuning(interval=0.016, command_rate=100.0)
    flood = json.dumps([{"action": "subscribe", "channels": ["events", "latest"]}] * 100)
    async with running(clock=clock, wall_clock=clock.wall, tuning=tuning) as hub:
        clock.attach(hub)
        others = [FakeTransport() for _ in range(99)]
        for other in others:
            plug_in(hub, other, "events", identity=READER)
        floods = [FakeTransport()]
        session = plug_in(hub, floods[-1], "events", identity=Identity(id="flooding"))
        await hub.publish_confirmed("durable", None)
        for number in range(1, 51):
            if floods[-1].ended is not None:
                floods.append(FakeTransport())
                session = plug_in(hub, floods[-1], "events", identity=Identity(id="flooding"))
            for _ in range(11):
                hub.gateway.receive_data(session, flood)
            hub.publish("events", number)
            clock.advance(0.016)
            await hub.publish_confirmed("durable", None)
            await hub.publish_confirmed("durable", None)

            assert all(b'"seq":%d,' % number in other.writes[-1] for other in others)

        assert len(floods) > 10
        assert {flooding.ended for flooding in floods[:-1]} == {(4429, "too many commands")}
        # The answers to a subscription, the hello, and one write an interval.
        assert {len(other.writes) for other in others} == {len(others[0].writes)}
        assert len(others[0].writes) <= 52


async def test_c07_a_socket_that_floods_is_read_in_turn() -> None:
    """A neighbour is answered before the flood has been read."""
    limits = websocket.Limits(handshake_timeout=60.0)
    async with running() as hub, serving(hub, limits=limits) as port:
        async with await Peer.open(port) as flooding, await Peer.open(port) as neighbour:
            assert (await neighbour.read_frame()).opcode == TEXT
            chunk = frame(PING, b"x" * 100) * 100
            sent = 0
            try:
                while sent < 4_000_000:
                    feed(flooding, chunk)
                    sent += len(chunk)
            except BlockingIOError:
                pass
            for _ in range(10):
                await neighbour.send_frame(PING, b"only this")
                assert (await neighbour.read_frame()).opcode == PONG
                await checkpoint()

        assert sent > 0


@pytest.fixture
def number(request: pytest.FixtureRequest) -> int:
    """Only one event loop has 10,000, because the loops differ in the order of turns and not in the writes."""
    return 10_000 if request.node.callspec.id == "asyncio" else 6_000


async def test_d18_one_item_for_10000_readers_leaves_turns_to_other_tasks(number: int) -> None:
    """The event loop runs other tasks after 5 ms of writes, and every reader gets the item once."""
    now, turn = 1000.0, 0
    turns: dict[int, int] = {}
    cost = 0.000_02 if number == 10_000 else 0.000_5

    def write(frame: bytes) -> None:
        nonlocal now
        if b'"data":"to all"' in frame:
            now += cost
            turns[turn] = turns.get(turn, 0) + 1

    async with running(clock=lambda: now, tuning=Tuning(interval=0.016)) as hub:
        readers = [FakeTransport(write) for _ in range(number)]
        for reader in readers:
            plug_in(hub, reader, "events", identity=READER)
        await hub.publish_confirmed("durable", None)
        await hub.publish_confirmed("durable", None)
        hub.publish("events", "to all")
        while sum(turns.values()) < len(readers):
            turn += 1
            await checkpoint()
        await hub.publish_confirmed("durable", None)

        # Trio may run the hub twice between two turns of this task.
        assert max(turns.values()) <= 2 * (0.005 / cost + PORTION)
        assert len(turns) >= 10
        assert all(reader.text.count("to all") == 1 for reader in readers)
        await hub.shutdown(0.0)
