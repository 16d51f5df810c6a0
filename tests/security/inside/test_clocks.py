"""C06: the time of day may jump, and time may stand still. Only the expiry of tokens and timestamps follow.

That they do: `tests/conformance/test_authentication.py`.
"""

from __future__ import annotations

import pytest
from anyio.lowlevel import checkpoint

from analytics_hub import Handshake, Hub, Tuning, anonymous
from analytics_hub.testing import ManualClock
from analytics_hub.transports import websocket

from ...hub.rig import FakeTransport, plug_in, running
from ...transports.peer import PING, PONG, TEXT, Peer, Received, serving

pytestmark = pytest.mark.anyio

HOUR = 3600.0
READER = anonymous(Handshake())


async def turns(hub: Hub) -> None:
    """Do what is due now."""
    for _ in range(2):
        await hub.publish_confirmed("durable", None)


async def test_c06_the_pace_does_not_follow_the_time_of_day() -> None:
    """One write an interval, as many items and commands as the rates allow, and no heartbeat, however it jumps."""
    clock = ManualClock()
    tuning = Tuning(interval=1.0, rate=3.0, command_rate=2.0, heartbeat=20.0)
    async with running(clock=clock, wall_clock=clock.wall, tuning=tuning) as hub:
        clock.attach(hub)
        transport = FakeTransport()
        session = plug_in(hub, transport, "events", identity=READER)
        await turns(hub)
        hub.publish("events", 1)
        await turns(hub)
        assert '"seq":1,' in transport.text
        written = len(transport.writes)

        for shift in (HOUR, -HOUR, -HOUR, HOUR):
            hub.publish("events", "waits")
            clock.shift_wall(shift)
            await turns(hub)
        assert len(transport.writes) == written
        clock.advance(1.0)
        await turns(hub)
        assert '"seq":4,' in transport.text
        assert '"seq":5,' not in transport.text

        hub.gateway.receive_data(session, '{"action":"ping"}')
        clock.shift_wall(HOUR)
        hub.gateway.receive_data(session, '{"action":"ping"}')
        await turns(hub)
        assert transport.text.count("$pong") == 2
        hub.gateway.receive_data(session, '[{"action":"ping"},{"action":"ping"},{"action":"ping"}]')
        clock.shift_wall(-HOUR)
        await turns(hub)
        assert "rate-limited" in transport.text
        assert b"[]" not in b"".join(transport.writes)
        assert transport.ended is None
        await hub.shutdown(0.0)


async def test_c06_nothing_happens_while_time_stands_still() -> None:
    """As on a suspended machine: no limit and no timeout is reached."""
    clock = ManualClock()
    async with running(clock=clock, wall_clock=clock.wall, tuning=Tuning(interval=1.0)) as hub:
        clock.attach(hub)
        transport = FakeTransport()
        plug_in(hub, transport, "events", identity=READER)
        hub.publish("events", "at once")
        await turns(hub)
        written = len(transport.writes)
        for number in range(100):
            hub.publish("events", number)
            hub.wake()
            await checkpoint()
        assert len(transport.writes) == written
        clock.advance(1.0)
        await turns(hub)

        assert '"seq":101,' in transport.text
        assert hub.statistics().channels["events"].ledger.dropped == 0


async def test_c06_the_keepalive_of_a_socket_does_not_follow_the_time_of_day() -> None:
    """Pings and their timeout use the clock of the transport."""
    clock = ManualClock()
    limits = websocket.Limits(ping_interval=20.0, silence_timeout=60.0)
    async with running(clock=clock, wall_clock=clock.wall, tuning=Tuning(heartbeat=HOUR)) as hub:
        clock.attach(hub)
        async with serving(hub, clock=clock, limits=limits) as port, await Peer.open(port) as peer:
            assert (await peer.read_frame()).opcode == TEXT
            for shift in (HOUR, -2 * HOUR, HOUR):
                clock.shift_wall(shift)
                await peer.send_frame(PING, b"still there?")
                assert await peer.read_frame() == Received(PONG, b"still there?")
            clock.advance(20.1)

            assert (await peer.read_frame()).opcode == PING
            clock.advance(60.1)
            assert (await peer.read_close()).code == 4408
