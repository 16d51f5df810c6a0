"""The traps of this stack: what naive servers on wsproto, h11 and anyio fall into. One test each, by number."""

from __future__ import annotations

import struct

import anyio
import anyio.lowlevel
import pytest

from analytics_hub.contracts import anonymous
from analytics_hub.hub import Hub
from analytics_hub.transports._websocket.http11 import MAX_HEAD, MAX_HEADERS

from .fake_gateway import FakeGateway, FakeSession
from .peer import (
    BINARY,
    CLOSE,
    CONTINUATION,
    KEY,
    PING,
    PONG,
    TEXT,
    Clock,
    Peer,
    Received,
    frame,
    is_served,
    serving,
    upgrade,
)

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "offer",
    [
        "permessage-deflate; server_max_window_bits=abc",
        'permessage-deflate; client_max_window_bits="10"',
        "permessage-deflate; server_max_window_bits=",
        ";;;,,, =",
    ],
)
async def test_trap_1_a_malformed_extension_offer_ends_nobody(offer: str) -> None:
    """wsproto raises `ValueError` out of the accept: one request used to end a server."""
    gateway = FakeGateway()
    async with serving(gateway) as port:
        async with await Peer.connect(port) as peer:
            await peer.send(upgrade(f"Sec-WebSocket-Extensions: {offer}"))
            answer = await peer.read_head()

            assert answer.status == 101
            assert "sec-websocket-extensions" not in answer.headers
        assert await is_served(port)


@pytest.mark.parametrize("name", ["Host", "Connection", "Sec-WebSocket-Protocol", "Upgrade", "X-Anything"])
async def test_trap_2_a_header_that_is_not_ascii_is_a_bad_request(name: str) -> None:
    """wsproto raises `UnicodeDecodeError`, before any token is looked at."""
    gateway = FakeGateway()
    async with serving(gateway) as port:
        async with await Peer.connect(port) as peer:
            await peer.send(upgrade(f"{name}: \xe9\xff", drop=(name,)))

            assert (await peer.read_answer()).status == 400
        assert await is_served(port)


async def test_trap_3_after_a_parse_error_nothing_more_is_taken() -> None:
    """wsproto stops decoding for good and stores what comes: 64 MiB were taken and the connection stayed."""
    gateway = FakeGateway()
    clock = Clock()
    async with serving(gateway, clock=clock) as port, await Peer.open(port) as peer:
        await peer.send_frame(0x3)

        close = await peer.read_frame()
        assert close.code == 1002
        await peer.send(b"\0" * 64 * 1024 * 1024)  # returns only because the server has hung up meanwhile
        assert gateway.session.disconnected == 1
        assert gateway.session.received == []


async def test_trap_3_a_silent_peer_is_hung_up_on_after_a_parse_error() -> None:
    gateway = FakeGateway()
    clock = Clock()
    async with serving(gateway, clock=clock) as port, await Peer.open(port) as peer:
        await peer.send_frame(0x3)
        assert (await peer.read_frame()).code == 1002
        assert await peer.read_end() == b""

        clock.now += 1.5

        await peer.wait_hung_up()


async def test_traps_4_and_8_compression_is_declined_and_compressed_frames_are_refused() -> None:
    """There is no inflating without a bound, because nothing is inflated."""
    gateway = FakeGateway()
    async with serving(gateway) as port:
        for offer in ("permessage-deflate", "permessage-deflate; unknown=1", "x-webkit-deflate-frame"):
            async with await Peer.connect(port) as peer:
                await peer.send(upgrade(f"Sec-WebSocket-Extensions: {offer}"))
                assert "sec-websocket-extensions" not in (await peer.read_head()).headers

                await peer.send_frame(TEXT, b"\xaa\x56\x4a\x04\x00", rsv=0b100)

                assert (await peer.read_frame()).code == 1002


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(frame(TEXT, length=2**62), id="declared 2^62 bytes"),
        pytest.param(frame(BINARY, length=65_537), id="declared one too many"),
        pytest.param(frame(TEXT, b"x" * 65_537), id="sent one too many"),
        pytest.param(frame(TEXT, b"x", fin=False) + frame(CONTINUATION, length=65_536), id="in fragments"),
        pytest.param(frame(TEXT, b"x", fin=False) + frame(CONTINUATION, b"x", fin=False) * 1024, id="fragments"),
        pytest.param(frame(TEXT, fin=False) + frame(CONTINUATION, fin=False) * 1024, id="empty fragments"),
    ],
)
async def test_trap_5_a_message_over_the_limits_is_refused_by_its_headers(sent: bytes) -> None:
    gateway = FakeGateway()
    async with serving(gateway) as port, await Peer.open(port) as peer:
        await peer.send(sent)

        assert (await peer.read_frame()).code == 1009
        assert gateway.session.received == []
        assert await is_served(port)


async def test_trap_5_a_message_at_the_limit_is_taken() -> None:
    gateway = FakeGateway()
    async with serving(gateway) as port, await Peer.open(port) as peer:
        await peer.send_frame(TEXT, b"x" * 65_536)
        await peer.send(frame(TEXT, b"y", fin=False) + frame(CONTINUATION, fin=False) * 1022 + frame(CONTINUATION))
        await gateway.until(lambda: len(gateway.session.received) == 2)

        assert gateway.session.received == ["x" * 65_536, "y"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param([f"X-{number}: y" for number in range(5000)], 431, id="5000 headers in one portion"),
        pytest.param([f"X-{number}: y" for number in range(MAX_HEADERS)], 431, id="a few too many"),
        pytest.param([f"X-Long: {'y' * 8190}"], 431, id="a long line"),
        pytest.param([f"X-{number}: {'y' * 6000}" for number in range(3)], 431, id="long in all"),
    ],
)
async def test_trap_6_a_head_is_bounded_even_when_it_comes_at_once(headers: list[str], status: int) -> None:
    """h11 bounds only a head that is incomplete: 5000 headers in 64 KiB were accepted."""
    gateway = FakeGateway()
    async with serving(gateway) as port, await Peer.connect(port) as peer:
        await peer.send(upgrade(*headers))

        assert (await peer.read_answer()).status == status
        assert gateway.sessions == []


async def test_trap_6_a_request_line_without_end_is_refused() -> None:
    async with serving(FakeGateway()) as port, await Peer.connect(port) as peer:
        await peer.send(b"GET /" + b"a" * (MAX_HEAD + 1))

        assert (await peer.read_answer()).status == 414


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(upgrade(version="HTTP/1.0"), id="HTTP/1.0"),
        pytest.param(upgrade(f"Sec-WebSocket-Key: {KEY}"), id="two keys"),
        pytest.param(upgrade("Sec-WebSocket-Key: abc", drop=("Sec-WebSocket-Key",)), id="a key of three characters"),
        pytest.param(upgrade("Content-Length: 5", "Transfer-Encoding: chunked"), id="two lengths"),
    ],
)
async def test_trap_7_what_wsproto_takes_for_a_handshake_is_refused(head: bytes) -> None:
    gateway = FakeGateway()
    async with serving(gateway) as port, await Peer.connect(port) as peer:
        await peer.send(head)

        assert (await peer.read_answer()).status == 400
        assert gateway.sessions == []


async def test_trap_9_frames_in_the_packet_of_the_handshake_are_served() -> None:
    """wsproto decodes them only when more bytes come, and a client that waits for an answer sends none."""
    gateway = FakeGateway()
    async with serving(gateway) as port:
        async with await Peer.open(port, then=frame(TEXT, b"one") + frame(TEXT, b"two") + frame(PING, b"?")) as peer:
            assert await peer.read_frame() == Received(PONG, b"?")
        assert gateway.session.received == ["one", "two"]


async def test_trap_11_a_reset_while_the_server_writes_ends_that_client_only() -> None:
    gateway = FakeGateway()
    async with serving(gateway) as port:
        peer = await Peer.open(port)
        session = gateway.session
        peer.reset()
        while not session.disconnected:
            session.write(b"1")
            await anyio.lowlevel.checkpoint()

        assert session.disconnected == 1
        assert session.write(b"1")
        assert await is_served(port)


@pytest.mark.parametrize("sent", [b"", b"G", b"GET / HTTP/1.1\r\nHost: x\r\n"])
async def test_trap_12_a_slow_handshake_is_ended(sent: bytes) -> None:
    gateway = FakeGateway()
    clock = Clock()
    async with serving(gateway, clock=clock) as port, await Peer.connect(port) as peer:
        await peer.send(sent)
        assert await is_served(port)  # so it has been accepted

        clock.now += 5.1

        answer = await peer.read_end()
        assert answer == b"" or answer.startswith(b"HTTP/1.1 408 ")
        assert gateway.counters["handshake-timeout"] == 1


async def test_trap_12_a_close_that_is_never_answered_ends() -> None:
    gateway = FakeGateway()
    clock = Clock()
    async with serving(gateway, clock=clock) as port, await Peer.open(port) as peer:
        gateway.session.transport.close(1012, "restart")
        close = await peer.read_frame()
        assert (close.code, close.reason) == (1012, "restart")

        clock.now += 5.1

        assert await peer.read_end() == b""
        assert gateway.session.disconnected == 1


async def test_trap_12_silence_is_ended_after_pings() -> None:
    gateway = FakeGateway()
    clock = Clock()
    async with serving(gateway, clock=clock) as port, await Peer.open(port) as peer:
        for _ in range(2):
            clock.now += 20.1
            assert (await peer.read_frame()).opcode == PING
        clock.now += 20.1

        assert (await peer.read_close()).code == 4408
        assert gateway.counters["closed-silent"] == 1


async def test_trap_13_a_hub_that_drains_says_so_and_closes_with_1012() -> None:
    async with (
        Hub([], authenticate=anonymous) as hub,
        serving(hub, cancels=False) as port,
        await Peer.open(port) as peer,
        anyio.create_task_group() as group,
    ):
        assert b"$hello" in (await peer.read_frame()).payload

        group.start_soon(hub.shutdown, 0.1)

        assert b"$drain" in (await peer.read_frame()).payload
        close = await peer.read_frame()
        assert (close.opcode, close.code) == (CLOSE, 1012)
        await peer.send_frame(CLOSE, struct.pack("!H", 1012))
        assert await peer.read_end() == b""


async def test_an_exception_in_the_hub_ends_the_connection_that_caused_it() -> None:
    gateway = FakeGateway()

    def explode(session: FakeSession, data: str | bytes) -> None:
        raise RuntimeError(data)

    gateway.on_data = explode
    async with serving(gateway) as port:
        async with await Peer.open(port) as peer:
            await peer.send_frame(TEXT, b"boom")

            assert (await peer.read_frame()).code == 1011
        assert gateway.counters["connection-fault"] == 1
        assert await is_served(port)
