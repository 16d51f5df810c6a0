"""WebSocket and HTTP over TLS."""

from __future__ import annotations

import ssl

import pytest

from analytics_hub.http import Request, Response

from .fake_gateway import FakeGateway
from .peer import PING, PONG, TEXT, Clock, Peer, Received, frame, serving

pytestmark = pytest.mark.anyio


async def test_messages_in_both_directions(server_side: ssl.SSLContext, client_side: ssl.SSLContext) -> None:
    gateway = FakeGateway()
    async with (
        serving(gateway, ssl_context=server_side) as port,
        await Peer.open(port, "Origin: https://127.0.0.1", tls=client_side) as peer,
    ):
        await peer.send_frame(TEXT, b"hello")
        await gateway.until(lambda: gateway.session.received)
        gateway.session.write(b"1")

        assert await peer.read_frame() == Received(TEXT, b"[1]")
        gateway.session.transport.close(1000, "enough")
        assert (await peer.read_frame()).code == 1000


async def test_everything_in_one_record_is_served(server_side: ssl.SSLContext, client_side: ssl.SSLContext) -> None:
    """After the first read, the rest of a record is in no socket that could become readable."""
    gateway = FakeGateway()
    messages = [f"message {number}" for number in range(800)]
    packet = b"".join(frame(TEXT, text.encode()) for text in messages)
    assert 12_000 < len(packet) < 16_384
    async with serving(gateway, ssl_context=server_side) as port:
        async with await Peer.open(port, tls=client_side, then=packet) as peer:
            await gateway.until(lambda: len(gateway.session.received) == 800)
            await peer.send(packet)
            await gateway.until(lambda: len(gateway.session.received) == 1600)

        assert gateway.session.received == messages * 2


async def test_a_pause_keeps_decrypted_data(server_side: ssl.SSLContext, client_side: ssl.SSLContext) -> None:
    gateway = FakeGateway()
    gateway.on_data = lambda session, data: session.transport.pause_reading()
    async with serving(gateway, ssl_context=server_side) as port, await Peer.open(port, tls=client_side) as peer:
        await peer.send(b"".join(frame(TEXT, b"%d" % number + b"x" * 1500) for number in range(10)))
        for count in range(1, 11):
            await gateway.until(lambda count=count: len(gateway.session.received) == count)  # type: ignore[misc]
            gateway.session.transport.resume_reading()

        assert [str(data)[0] for data in gateway.session.received] == [*"0123456789"]


async def test_a_slow_reader_receives_everything(server_side: ssl.SSLContext, client_side: ssl.SSLContext) -> None:
    gateway = FakeGateway()
    async with (
        serving(gateway, ssl_context=server_side) as port,
        await Peer.open(port, tls=client_side, room=4096) as peer,
    ):
        written = 0
        while gateway.session.write(b'"%d%s"' % (written, b"x" * 100_000)):
            written += 1
        await peer.send_frame(PING, b"?")
        for number in range(written + 1):
            assert (await peer.read_frame()).payload.startswith(b'["%dx' % number)

        assert await peer.read_frame() == Received(PONG, b"?")
        await gateway.until(lambda: gateway.session.resumed == 1)


async def test_an_http_answer_over_tls_ends_with_close_notify(
    server_side: ssl.SSLContext, client_side: ssl.SSLContext
) -> None:
    def respond(request: Request) -> Response:
        return Response(200, b"x" * 1_000_000)

    async with (
        # With a clock that stands still, because so small a buffer makes it slow.
        serving(FakeGateway(), ssl_context=server_side, respond=respond, clock=Clock()) as port,
        await Peer.connect(port, tls=client_side, room=4096) as peer,
    ):
        await peer.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")

        assert len((await peer.read_answer()).body) == 1_000_000
