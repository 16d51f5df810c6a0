"""Every way in which a TCP connection ends, and clients that end only their own side."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio.lowlevel
import pytest

from analytics_hub import Channel, Hub, anonymous

from .fake_gateway import FakeGateway
from .line_peer import SUBSCRIBE, calling, is_served, read_close, read_frame, serving
from .peer import Clock, Peer

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def serving_hub() -> AsyncIterator[tuple[Hub, int]]:
    hub = Hub([Channel("routing")], authenticate=anonymous, grace=1.0)
    async with hub, serving(hub) as port:
        yield hub, port


@pytest.mark.parametrize("end", [b"\n", b""], ids=["with newline", "without"])
async def test_a_client_that_ends_its_side_is_served_its_subscriptions(end: bytes) -> None:
    """`printf ... | nc -N hub 7998`."""
    async with serving_hub() as (hub, port), await Peer.connect(port) as peer:
        await peer.send(SUBSCRIBE + end)
        peer.sock.shutdown(socket.SHUT_WR)
        seen: list[str] = []
        while "$subscribed" not in seen:
            seen += [item["type"] for item in await read_frame(peer)]
        for number in range(3):
            hub.publish("routing", number)
            while not (frame := await read_frame(peer)):  # the heartbeat that checks whether it is still connected
                pass
            assert [item["data"] for item in frame] == [number]
        await hub.shutdown(0.1)

        drain = await read_frame(peer)
        assert drain[0]["type"] == "$drain"
        assert (drain[1:] or await read_frame(peer))[0]["code"] == 1012
        assert await peer.read_end() == b""


async def test_a_client_that_ends_its_side_without_a_subscription_is_closed() -> None:
    async with serving_hub() as (_, port), await Peer.connect(port) as peer:
        await peer.send(b'{"action":"ping","id":1}')
        peer.sock.shutdown(socket.SHUT_WR)
        items = [json.loads(line) for line in (await peer.read_end()).splitlines()]

        flat = [item for frame in items for item in frame]
        assert [item["type"] for item in flat] == ["$hello", "$pong", "$close"]
        assert flat[-1]["code"] == 1000


@pytest.mark.parametrize("is_polite", [True, False])
async def test_a_client_that_has_gone_is_noticed_though_nothing_is_published(is_polite: bool) -> None:
    async with serving_hub() as (hub, port):
        peer = await Peer.connect(port)
        await peer.send(SUBSCRIBE + b"\n")
        while not any(item["type"] == "$subscribed" for item in await read_frame(peer)):
            pass
        peer.close() if is_polite else peer.reset()
        while hub.sessions:
            await anyio.lowlevel.checkpoint()


async def test_a_client_that_ends_its_side_stays_connected_while_it_reads() -> None:
    hub, clock = Hub([Channel("routing")], authenticate=anonymous), Clock()
    async with hub, serving(hub, clock=clock) as port, await Peer.connect(port) as peer:
        await peer.send(SUBSCRIBE)
        peer.sock.shutdown(socket.SHUT_WR)
        while await read_frame(peer):  # up to the heartbeat
            pass
        for number in range(5):
            clock.now += 5.1
            hub.publish("routing", number)
            while not any(item.get("data") == number for item in await read_frame(peer)):
                pass

        assert len(hub.sessions) == 1


async def test_a_client_that_ends_its_side_may_be_paused() -> None:
    gateway = FakeGateway()
    async with serving(gateway) as port, calling(gateway, port) as (peer, session):
        peer.sock.shutdown(socket.SHUT_WR)
        assert await read_frame(peer) == []
        session.transport.pause_reading()
        session.transport.resume_reading()
        assert await is_served(gateway, port)
        session.write(b"1")

        assert await read_frame(peer) == [1]


async def test_the_last_line_must_be_utf_8_too() -> None:
    gateway = FakeGateway()
    async with serving(gateway) as port, calling(gateway, port) as (peer, session):
        await peer.send(b"1\n\xff")
        peer.sock.shutdown(socket.SHUT_WR)

        assert (await read_close(peer))[0] == 1007
        assert session.received == ["1"]


async def test_a_client_that_does_not_hang_up_after_the_close_is_disconnected() -> None:
    gateway, clock = FakeGateway(), Clock()
    async with serving(gateway, clock=clock) as port, calling(gateway, port) as (peer, session):
        session.transport.close(1000, "enough")
        assert await read_close(peer) == (1000, "enough")
        clock.now += 5.1

        await peer.wait_closed()


async def test_a_flood_after_the_close_is_cut_off() -> None:
    gateway = FakeGateway()
    gateway.on_data = lambda session, data: session.transport.close(4429, "too many commands")
    async with serving(gateway) as port, calling(gateway, port) as (peer, session):
        await peer.send(b"x\n" * 1_000_000)
        await peer.wait_closed()

        assert session.received == ["x"]
        await gateway.until(lambda: session.disconnected)
