"""Peers of both transports that misuse TLS, or do not use it; another client is served meanwhile."""

from __future__ import annotations

import logging
import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import anyio.lowlevel
import pytest

from analytics_hub.transports import tcp, websocket
from analytics_hub.transports.tls import Certificate

from .fake_gateway import FakeGateway
from .forger import Forger, old_hello
from .line_peer import read_close
from .peer import PING, PONG, Clock, Peer, Received, descriptors, frame, serving, upgrade

pytestmark = pytest.mark.anyio


class Served:
    """A gateway behind one of the transports."""

    def __init__(self, serve: Callable[..., Awaitable[None]]) -> None:
        self.gateway = FakeGateway()
        self.counters = self.gateway.counters
        self.is_websocket = serve is websocket.serve
        self._serve = serve

    def serving(self, **options: Any) -> AbstractAsyncContextManager[int]:
        return serving(self.gateway, serve=self._serve, **options)

    async def open(self, port: int, tls: ssl.SSLContext) -> Peer:
        """An admitted client."""
        before = len(self.gateway.sessions)
        peer = await (Peer.open(port, tls=tls) if self.is_websocket else Peer.connect(port, tls=tls))
        await self.gateway.until(lambda: len(self.gateway.sessions) > before)
        return peer

    async def is_served(self, port: int, tls: ssl.SSLContext) -> bool:
        async with await self.open(port, tls) as other:
            self.gateway.sessions[-1].write(b'"here"')
            frame = b'["here"]\n' if not self.is_websocket else b'\x81\x08["here"]'
            return await other.read(len(frame)) == frame


@pytest.fixture(params=[pytest.param(websocket.serve, id="websocket"), pytest.param(tcp.serve, id="tcp")])
def served(request: pytest.FixtureRequest) -> Served:
    return Served(request.param)


@pytest.fixture
def own(certificate: Path) -> Certificate:
    return Certificate(certificate)


async def test_plain_text_on_a_port_with_tls_is_answered_in_plain_text(
    served: Served, own: Certificate, client_side: ssl.SSLContext
) -> None:
    async with served.serving(ssl_context=own) as port:
        async with await Peer.connect(port) as peer:
            if served.is_websocket:
                await peer.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
                answer = await peer.read_answer()
                assert answer.status == 400
                assert answer.body == b"this port requires TLS: the URL begins with https or wss\n"
            else:
                await peer.send(b'{"action":"auth","token":"t"}\n')
                assert await read_close(peer) == (1002, "this port requires TLS")
        async with await Peer.connect(port) as peer:
            await peer.send(b"\0\1\2\3")
            assert await peer.read_end() == b""

        assert served.counters["tls-refused"] == 2
        assert not served.gateway.handshakes
        assert await served.is_served(port, client_side)


async def test_tls_on_a_port_without_tls_is_closed(served: Served, client_side: ssl.SSLContext) -> None:
    async with served.serving() as port:
        with pytest.raises(ssl.SSLError):
            await Peer.connect(port, tls=client_side)


async def test_old_versions_are_refused_with_an_alert(
    served: Served, own: Certificate, client_side: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with served.serving(ssl_context=own) as port:
        async with await Peer.connect(port) as peer:
            await peer.send(old_hello(0x0302))
            alert = await peer.read_end()

        assert (alert[:1], alert[5:]) == (b"\x15", b"\x02\x46")  # fatal: protocol_version
        assert served.counters["tls-refused"] == 1
        assert await served.is_served(port, client_side)
    assert "Traceback" not in caplog.text


async def test_a_client_that_rejects_the_certificate_is_counted(served: Served, own: Certificate) -> None:
    async with served.serving(ssl_context=own) as port:
        with pytest.raises(ssl.SSLCertVerificationError):
            await Peer.connect(port, tls=ssl.create_default_context())

        await served.gateway.until(lambda: served.counters["tls-refused"] == 1)


async def test_unfinished_handshakes_leave_nothing_behind(
    served: Served, own: Certificate, client_side: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    """300, with no hello, half a hello and half a handshake; closed by the peer, by a reset and by a timeout."""
    clock = Clock()
    hello = first_flight(client_side)
    async with served.serving(ssl_context=own, clock=clock) as port:
        await served.is_served(port, client_side)
        before = descriptors()
        for number in range(300):
            peer = await Peer.connect(port)
            await peer.send([b"", hello[:100], hello][number % 3])
            if number % 2:
                peer.reset()
            else:
                peer.close()
        async with await Peer.connect(port) as silent, await Peer.connect(port) as halted:
            await halted.send(hello)
            assert (await halted.read(1)) == b"\x16"
            assert await served.is_served(port, client_side)  # so all have been accepted
            clock.now += 5.1
            await silent.read_end()
            await halted.read_end()

        assert served.counters["handshake-timeout"] == 2
        while descriptors() > before:  # until the server has seen all the ends
            await anyio.lowlevel.checkpoint()
    assert "Traceback" not in caplog.text


def first_flight(context: ssl.SSLContext) -> bytes:
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


async def test_a_client_that_closes_without_close_notify_is_disconnected(
    served: Served, own: Certificate, client_side: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with served.serving(ssl_context=own) as port:
        for last in (b"", b"\x17\x03\x03\x40\x00half a record", b"\x17\x03\x03\x00\x20" + bytes(32)):
            peer = await served.open(port, client_side)
            with socket.socket(fileno=peer.sock.detach()) as raw:
                raw.send(last)
            await served.gateway.until(lambda: served.gateway.connected == 0)

        assert await served.is_served(port, client_side)
    assert "Traceback" not in caplog.text


async def test_a_flood_of_key_updates_does_not_delay_others(
    own: Certificate, client_side: ssl.SSLContext, tmp_path: Path
) -> None:
    """Each 4 KiB of them costs a turn, like all data, and they are answered."""
    gateway = FakeGateway()
    context = ssl.create_default_context(cafile=own.certfile)
    forger = Forger(context, tmp_path / "keys")
    async with serving(gateway, ssl_context=own) as port, await Peer.connect(port, tls=context) as peer:
        forger.learn()
        async with Peer(socket.socket(fileno=os.dup(peer.sock.fileno()))) as line:
            await line.send(forger.record(upgrade()))
            await line.send(b"".join(forger.key_update() for _ in range(2000)) + forger.record(frame(PING, b"?")))
            async with await Peer.open(port, tls=client_side) as other:
                await other.send_frame(PING)
                assert await other.read_frame() == Received(PONG, b"")

            assert (await peer.read_head()).status == 101
            assert await peer.read_frame() == Received(PONG, b"?")
