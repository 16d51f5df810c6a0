"""Every way in which a TCP connection ends, and the half of an end that some clients announce."""

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
async def house() -> AsyncIterator[tuple[Hub, int]]:
    hub = Hub([Channel("routing")], authenticate=anonymous, grace=1.0)
    async with hub, serving(hub) as port:
        yield hub, port


@pytest.mark.parametrize("end", [b"\n", b""], ids=["with newline", "without"])
async def test_who_ends_its_own_side_is_served_what_it_subscribed_to(end: bytes) -> None:
    """`printf ... | nc -N hub 7998`."""
    async with house() as (hub, port), await Peer.connect(port) as peer:
        await peer.send(SUBSCRIBE + end)
        peer.sock.shutdown(socket.SHUT_WR)
        seen: list[str] = []
        while "$subscribed" not in seen:
            seen += [item["type"] for item in await read_frame(peer)]
        for number in range(3):
            hub.publish("routing", number)
            while not (frame := await read_frame(peer)):  # the heartbeat that asks whether it is still there
                pass
            assert [item["data"] for item in frame] == [number]
        await hub.shutdown(0.1)

        drain = await read_frame(peer)
        assert drain[0]["type"] == "$drain"
        assert (drain[1:] or await read_frame(peer))[0]["code"] == 1012
        assert await peer.read_end() == b""


async def test_who_ends_its_own_side_and_expects_nothing_is_let_go() -> None:
    async with house() as (_, port), await Peer.connect(port) as peer:
        await peer.send(b'{"action":"ping","id":1}')
        peer.sock.shutdown(socket.SHUT_WR)
        items = [json.loads(line) for line in (await peer.read_end()).splitlines()]

        flat = [item for frame in items for item in frame]
        assert [item["type"] for item in flat] == ["$hello", "$pong", "$close"]
        assert flat[-1]["code"] == 1000


@pytest.mark.parametrize("is_polite", [True, False])
async def test_who_has_gone_is_noticed_though_nothing_is_published(is_polite: bool) -> None:
    async with house() as (hub, port):
        peer = await Peer.connect(port)
        await peer.send(SUBSCRIBE + b"\n")
        while not any(item["type"] == "$subscribed" for item in await read_frame(peer)):
            pass
        peer.close() if is_polite else peer.reset()
        while hub.sessions:
            await anyio.lowlevel.checkpoint()


async def test_who_ends_its_own_side_is_there_as_long_as_it_takes_what_is_sent() -> None:
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


async def test_who_ends_its_own_side_may_be_paused_like_any_other() -> None:
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


async def test_who_does_not_hang_up_after_the_close_is_cut_off() -> None:
    gateway, clock = FakeGateway(), Clock()
    async with serving(gateway, clock=clock) as port, calling(gateway, port) as (peer, session):
        session.transport.close(1000, "enough")
        assert await read_close(peer) == (1000, "enough")
        clock.now += 5.1

        await peer.wait_hung_up()


async def test_a_server_that_is_cancelled_says_goodbye() -> None:
    gateway = FakeGateway()
    async with serving(gateway) as port:
        peer = await Peer.connect(port)
        await gateway.until(lambda: gateway.sessions)

    assert await read_close(peer) == (1001, "the server is going away")
    assert gateway.connected == 0
    peer.close()


async def test_a_hub_that_has_drained_ends_the_server() -> None:
    gateway = FakeGateway()
    async with serving(gateway, cancels=False) as port, calling(gateway, port) as (peer, session):
        gateway.is_draining = True
        session.transport.close(1012, "restart")

        assert await read_close(peer) == (1012, "restart")
        peer.close()
    with pytest.raises(ConnectionRefusedError):
        await Peer.connect(port)


async def test_who_floods_after_the_close_is_cut_off() -> None:
    gateway = FakeGateway()
    gateway.on_data = lambda session, data: session.transport.close(4429, "too many commands")
    async with serving(gateway) as port, calling(gateway, port) as (peer, session):
        await peer.send(b"x\n" * 1_000_000)
        await peer.wait_hung_up()

        assert session.received == ["x"]
        await gateway.until(lambda: session.disconnected)
