"""One TCP client on a real socket: lines, limits, mistakes of its user, and TLS."""

from __future__ import annotations

import socket
import ssl
import sys

import anyio
import anyio.lowlevel
import pytest

from analytics_hub import Handshake, Identity
from analytics_hub.transports.tcp import Limits

from .fake_gateway import FakeGateway
from .line_peer import calling, is_served, read_close, read_frame, serving
from .peer import Clock, Peer, descriptors, feed

pytestmark = pytest.mark.anyio

SMALL_ROOM = 4096


# --- lines


@pytest.mark.parametrize(
    ("sent", "code", "message"),
    [
        pytest.param(b"x" * 65_537 + b"\n", 1009, "65536 bytes", id="a long line"),
        pytest.param(b"x" * 65_538, 1009, "65536 bytes", id="a line without end"),
        pytest.param(b"\xc3\n", 1007, "UTF-8", id="no UTF-8"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 1002, "does not use TLS", id="TLS"),
    ],
)
async def test_an_invalid_line_ends_that_connection_only(sent: bytes, code: int, message: str) -> None:
    gateway = FakeGateway()
    async with serving(gateway) as port, calling(gateway, port) as (peer, session):
        await peer.send(sent)
        ended, reason = await read_close(peer)

        assert ended == code
        assert message in reason
        assert session.received == []
        assert session.disconnected == 1
        assert gateway.counters["protocol-fault"] == 1
        assert await is_served(gateway, port)


async def test_an_http_request_is_answered_in_http_and_ignored() -> None:
    """A page can make a browser send one, with commands in its body."""
    gateway = FakeGateway()
    async with serving(gateway) as port, calling(gateway, port) as (peer, session):
        await peer.send(b'POST /ws HTTP/1.1\r\nHost: hub\r\n\r\n{"action":"auth","token":"x"}\n')
        answer = await peer.read_answer()

        assert answer.status == 400
        assert b"newline-delimited JSON, not HTTP" in answer.body
        assert session.received == []
        assert session.disconnected == 1


async def test_only_the_first_line_can_be_an_http_request() -> None:
    gateway = FakeGateway()
    async with serving(gateway) as port, calling(gateway, port) as (peer, session):
        await peer.send(b"1\nGET / HTTP/1.1\n")
        await gateway.until(lambda: len(session.received) == 2)

        assert not session.disconnected
        assert (session.handshake.transport, session.handshake.client) == ("tcp", "127.0.0.1")


# --- congestion


async def test_a_slow_reader_receives_everything_and_then_the_close() -> None:
    gateway = FakeGateway()
    async with serving(gateway) as port, calling(gateway, port, room=SMALL_ROOM) as (peer, session):
        count = 0
        while session.write(b'"%d%s"' % (count, b"x" * 4000)):
            count += 1
        session.transport.close(1012, "restart")
        session.transport.close(1000, "again")
        session.write(b"1")
        await peer.send(b"too late\n")
        assert await is_served(gateway, port)
        assert session.received == []

        for number in range(count + 1):
            assert (await read_frame(peer))[0].startswith(f"{number}x")
        assert await read_close(peer) == (1012, "restart")
        peer.close()
        await gateway.until(lambda: session.disconnected)


async def test_a_pause_holds_back_lines_and_then_the_peer() -> None:
    gateway = FakeGateway()
    gateway.on_data = lambda session, data: session.transport.pause_reading()
    async with serving(gateway) as port, calling(gateway, port) as (peer, session):
        await peer.send(b"1\n2\n3\n")
        for count in (1, 2, 3):
            await gateway.until(lambda count=count: len(session.received) == count)  # type: ignore[misc]
            assert await is_served(gateway, port)
            assert session.received == ["1", "2", "3"][:count]
            session.transport.resume_reading()
        session.transport.pause_reading()

        with pytest.raises(BlockingIOError):
            feed(peer, b"x" * 10_000_000)


# --- timeouts


async def test_a_client_that_sends_nothing_is_healthy() -> None:
    gateway, clock = FakeGateway(), Clock()
    async with serving(gateway, clock=clock) as port, calling(gateway, port) as (peer, session):
        for _ in range(5):
            clock.now += 3600.0
            assert await is_served(gateway, port)

        session.write(b"1")
        assert await read_frame(peer) == [1]


async def test_a_line_that_is_never_finished_ends_the_connection() -> None:
    gateway, clock = FakeGateway(), Clock()
    async with serving(gateway, clock=clock) as port, calling(gateway, port) as (peer, session):
        await peer.send(b"1\n2")
        await gateway.until(lambda: session.received)
        clock.now += 20.0
        assert await is_served(gateway, port)
        await peer.send(b"\n3")
        await gateway.until(lambda: len(session.received) == 2)
        clock.now += 20.0
        assert await is_served(gateway, port)
        assert not session.disconnected
        clock.now += 10.1

        assert await read_close(peer) == (4408, "a line was begun and not finished within 30 s")
        assert gateway.counters["closed-unfinished"] == 1


@pytest.mark.skipif(sys.platform != "linux", reason="the options of this kernel")
async def test_the_kernel_detects_machines_that_vanish() -> None:
    gateway = FakeGateway()
    async with serving(gateway, limits=Limits(silence_timeout=40)) as port, calling(gateway, port) as (_, session):
        sock = session.transport.sock  # type: ignore[attr-defined]

        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 40_000
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 20
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 5


# --- admission


async def test_a_client_over_max_clients_is_refused() -> None:
    gateway = FakeGateway()
    async with serving(gateway, limits=Limits(max_clients=1)) as port:
        async with calling(gateway, port), await Peer.connect(port) as peer:
            assert await read_close(peer) == (1013, "more than 1 connections")
        await gateway.until(lambda: not gateway.connected)
        assert await is_served(gateway, port)


async def test_a_check_that_takes_too_long_is_answered() -> None:
    gateway, clock = FakeGateway(), Clock()

    async def wait(handshake: Handshake) -> Identity | None:
        await anyio.sleep_forever()
        return None

    gateway.on_admit = wait
    async with serving(gateway, clock=clock, limits=Limits(max_checks=1)) as port:
        before = descriptors()
        async with await Peer.connect(port) as checked, await Peer.connect(port) as waiting:
            while descriptors() < before + 4:  # both ends of both
                await anyio.lowlevel.checkpoint()
            clock.now += 5.1
            ends = [await read_close(checked), await read_close(waiting)]

        assert ends == [(1011, "tokens cannot be checked now")] * 2
        assert (gateway.counters["check-timeout"], gateway.counters["handshake-timeout"]) == (1, 1)


# --- TLS


async def test_tls(server_side: ssl.SSLContext, client_side: ssl.SSLContext) -> None:
    gateway = FakeGateway()
    packet = b"".join(b"message %d\n" % number for number in range(800))
    async with serving(gateway, ssl_context=server_side) as port:
        async with calling(gateway, port, tls=client_side) as (peer, session):
            await peer.send(packet)
            await gateway.until(lambda: len(session.received) == 800)
            session.write(b"1")
            session.transport.close(1000, "enough")

            assert await read_frame(peer) == [1]
            assert await read_close(peer) == (1000, "enough")
        async with calling(gateway, port, tls=client_side) as (peer, session):
            peer.sock.shutdown(socket.SHUT_WR)
            await gateway.until(lambda: session.disconnected)
