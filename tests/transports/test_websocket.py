"""One WebSocket client on a real socket: messages, congestion, pings, and every way to end."""

from __future__ import annotations

import struct

import anyio
import anyio.lowlevel
import pytest

from analytics_hub.transports.websocket import Limits

from .fake_gateway import FakeGateway, FakeSession
from .peer import (
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Clock,
    Peer,
    Received,
    descriptors,
    feed,
    frame,
    is_served,
    serving,
    upgrade,
)

pytestmark = pytest.mark.anyio

SMALL_ROOM = 4096


def fill(session: FakeSession, size: int = 4000) -> list[bytes]:
    """Write numbered items until `write` returns False; returns all of them, as the last one was taken too."""
    items: list[bytes] = []
    while True:
        items.append(b'"%06d%s"' % (len(items), b"x" * size))
        if not session.write(items[-1]):
            return items


# --- messages


async def test_a_message_may_come_byte_by_byte() -> None:
    gateway = FakeGateway()
    async with serving(gateway) as port, await Peer.open(port) as peer:
        for byte in frame(TEXT, b"he", fin=False) + frame(PING, b"!") + frame(CONTINUATION, b"llo"):
            await peer.send(bytes([byte]))
            await anyio.lowlevel.checkpoint()

        assert await peer.read_frame() == Received(PONG, b"!")
        await gateway.until(lambda: gateway.session.received)
        assert gateway.session.received == ["hello"]


async def test_frames_in_the_packet_of_the_handshake_are_served_in_order() -> None:
    gateway = FakeGateway()
    messages = [f"message {number}" for number in range(300)]
    async with serving(gateway) as port:
        async with await Peer.open(port, then=b"".join(frame(TEXT, text.encode()) for text in messages)):
            await gateway.until(lambda: len(gateway.session.received) == 300)

        assert gateway.session.received == messages


# --- congestion


async def test_a_peer_that_resumes_reading_receives_everything() -> None:
    gateway = FakeGateway()
    async with serving(gateway) as port, await Peer.open(port, room=SMALL_ROOM) as peer:
        session = gateway.session

        items = fill(session)

        assert session.resumed == 0
        assert not session.write(b'"behind the tail"')
        for item in [*items, b'"behind the tail"']:
            assert await peer.read_frame() == Received(TEXT, b"[" + item + b"]")
        await gateway.until(lambda: session.resumed)
        assert session.write(b"1")
        assert await peer.read_frame() == Received(TEXT, b"[1]")
        assert session.resumed == 1


async def test_the_kernel_buffers_little_of_what_a_peer_does_not_read() -> None:
    """By default it takes 3.8 MB, seconds of stale frames on a slow link."""
    gateway = FakeGateway()
    async with serving(gateway) as port, await Peer.open(port, room=SMALL_ROOM):
        assert len(fill(gateway.session)) * 4000 < 1024 * 1024


async def test_a_hub_may_write_as_soon_as_it_is_resumed() -> None:
    gateway = FakeGateway()
    written = 0

    def write_more(session: FakeSession) -> None:
        nonlocal written
        while written < 2000:
            written += 1
            if not session.write(b"%d" % written, b'"%s"' % (b"x" * 4000)):
                return

    gateway.on_resumed = write_more
    async with serving(gateway) as port, await Peer.open(port, room=SMALL_ROOM) as peer:
        write_more(gateway.session)
        for number in range(1, 2001):
            assert (await peer.read_frame()).payload.startswith(b"[%d," % number)


async def test_a_peer_that_does_not_read_is_reset_after_the_close_timeout() -> None:
    gateway = FakeGateway()
    clock = Clock()
    async with serving(gateway, clock=clock) as port, await Peer.open(port, room=SMALL_ROOM) as peer:
        fill(gateway.session)
        gateway.session.transport.close(4503, "unwritable for too long")
        assert gateway.session.write(b"1")  # which is ignored
        assert await is_served(port)
        assert not gateway.sessions[0].disconnected

        clock.now += 5.1
        await gateway.until(lambda: gateway.sessions[0].disconnected)

        await peer.read_end()
        assert peer.was_reset


async def test_a_close_frame_is_sent_after_everything_written_before() -> None:
    gateway = FakeGateway()
    async with serving(gateway) as port, await Peer.open(port, room=SMALL_ROOM) as peer:
        items = fill(gateway.session)
        gateway.session.transport.close(1012, "restart")
        gateway.session.transport.close(1000, "again")

        for item in items:
            assert (await peer.read_frame()).payload == b"[" + item + b"]"
        close = await peer.read_frame()
        assert (close.code, close.reason) == (1012, "restart")
        await peer.send_frame(CLOSE, struct.pack("!H", 1012))
        assert await peer.read_end() == b""
        assert not peer.was_reset
        await gateway.until(lambda: gateway.session.disconnected)


async def test_a_pause_holds_back_the_rest_of_a_packet() -> None:
    gateway = FakeGateway()

    def pause(session: FakeSession, data: str | bytes) -> None:
        if data == "stop":
            session.transport.pause_reading()

    gateway.on_data = pause
    async with serving(gateway) as port, await Peer.open(port) as peer:
        last = frame(TEXT, b"3")
        await peer.send(frame(TEXT, b"1") + frame(TEXT, b"stop") + frame(TEXT, b"2") + last[:5])
        await gateway.until(lambda: len(gateway.session.received) == 2)
        await peer.send(last[5:])
        assert await is_served(port)
        session = gateway.sessions[0]
        assert session.received == ["1", "stop"]

        session.transport.resume_reading()
        await gateway.until(lambda: len(session.received) == 4)

        assert session.received == ["1", "stop", "2", "3"]


async def test_a_paused_peer_cannot_send_without_end() -> None:
    """Unread bytes fill the buffers of the kernel, and then the peer's `send` blocks."""
    gateway = FakeGateway()
    async with serving(gateway) as port, await Peer.open(port) as peer:
        gateway.session.transport.pause_reading()
        gateway.session.transport.pause_reading()
        with pytest.raises(BlockingIOError):
            feed(peer, frame(TEXT, b"x" * 4000) * 10_000)

        assert await is_served(port)
        assert gateway.sessions[0].received == []


# --- pings


async def test_each_of_several_pings_is_answered_in_order() -> None:
    """One pong for the last ping would be enough (RFC 6455 §5.5.3), but a client may time each of its pings."""
    async with serving(FakeGateway()) as port, await Peer.open(port) as peer:
        await peer.send(b"".join(frame(PING, b"%d" % number) for number in range(100)))

        for number in range(100):
            assert await peer.read_frame() == Received(PONG, b"%d" % number)


async def test_a_ping_within_a_message_is_answered_before_the_message() -> None:
    def echo(session: FakeSession, data: str | bytes) -> None:
        session.write(str(data).encode())

    gateway = FakeGateway()
    gateway.on_data = echo
    async with serving(gateway) as port, await Peer.open(port) as peer:
        await peer.send(frame(TEXT, b"1", fin=False) + frame(PING, b"?") + frame(CONTINUATION, b"2"))

        assert await peer.read_frame() == Received(PONG, b"?")
        assert await peer.read_frame() == Received(TEXT, b"[12]")


async def test_a_ping_before_a_close_is_answered_before_it() -> None:
    async with serving(FakeGateway()) as port, await Peer.open(port) as peer:
        await peer.send(frame(PING, b"?") + frame(CLOSE, struct.pack("!H", 1000)))

        assert await peer.read_frame() == Received(PONG, b"?")
        assert (await peer.read_frame()).code == 1000


async def test_a_flood_of_pings_of_a_peer_that_does_not_read_is_answered_with_few_pongs() -> None:
    """Only the last one has to be answered (RFC 6455 §5.5.3); a pong for each would fill memory."""
    gateway = FakeGateway()
    limits = Limits(max_control_frames=100_000)
    async with serving(gateway, limits=limits) as port, await Peer.open(port, room=SMALL_ROOM) as peer:
        await peer.send(b"".join(frame(PING, b"%125d" % number) for number in range(20_000)) + frame(TEXT, b"done"))
        await gateway.until(lambda: gateway.session.received)

        pongs = 0
        while int((received := await peer.read_frame()).payload) != 19_999:
            assert received.opcode == PONG
            pongs += 1
        assert pongs < 10_000


@pytest.mark.parametrize("opcode", [PING, PONG])
async def test_too_many_control_frames_end_the_connection(opcode: int) -> None:
    gateway = FakeGateway()
    clock = Clock()
    limits = Limits(max_control_frames=10, ping_interval=20.0)
    async with serving(gateway, clock=clock, limits=limits) as port, await Peer.open(port) as peer:
        for _ in range(3):  # the maximum, in each interval
            await peer.send(frame(opcode, b"?") * 10 + frame(TEXT, b"so far"))
            await gateway.until(lambda: gateway.session.received)
            gateway.session.received.clear()
            clock.now += 20.1
            while (await peer.read_frame()).opcode != PING:
                pass

        await peer.send(frame(opcode, b"?") * 11)

        while (received := await peer.read_frame()).opcode != CLOSE:
            pass
        assert received.code == 4429
        assert gateway.counters["protocol-fault"] == 1


async def test_a_pong_is_sent_after_unsent_frames() -> None:
    gateway = FakeGateway()
    async with serving(gateway) as port, await Peer.open(port, room=SMALL_ROOM) as peer:
        items = fill(gateway.session)
        await peer.send(frame(PING, b"1") + frame(PING, b"2"))
        assert await is_served(port)

        for _ in items:
            assert (await peer.read_frame()).opcode == TEXT
        assert await peer.read_frame() == Received(PONG, b"2")
        await gateway.until(lambda: gateway.sessions[0].resumed == 1)


async def test_any_byte_is_a_sign_of_life() -> None:
    gateway = FakeGateway()
    clock = Clock()
    async with serving(gateway, clock=clock) as port, await Peer.open(port) as peer:
        for _ in range(6):
            clock.now += 20.1
            assert (await peer.read_frame()).opcode == PING
            await peer.send(frame(PONG)[:1])  # half a pong
            assert await is_served(port)
            await peer.send(frame(PONG)[1:2] + b"mask")

        assert not gateway.sessions[0].disconnected


async def test_a_paused_client_is_not_silent() -> None:
    gateway = FakeGateway()
    clock = Clock()
    async with serving(gateway, clock=clock) as port, await Peer.open(port) as peer:
        gateway.session.transport.pause_reading()
        for _ in range(5):
            clock.now += 20.1
            assert (await peer.read_frame()).opcode == PING

        assert not gateway.session.disconnected


async def test_a_message_that_is_never_finished_ends_the_connection() -> None:
    gateway = FakeGateway()
    clock = Clock()
    async with serving(gateway, clock=clock) as port, await Peer.open(port) as peer:
        await peer.send(frame(TEXT, b"x", fin=False))
        for _ in range(2):
            assert await is_served(port)
            clock.now += 20.1
            assert (await peer.read_frame()).opcode in (PING, CLOSE)
            await peer.send_frame(PONG)

        assert gateway.counters["closed-unfinished"] == 1


@pytest.mark.parametrize("opcode", [PING, PONG])
async def test_control_frames_split_between_packets_are_no_unfinished_message(opcode: int) -> None:
    """Every packet ends with half of a frame, but the other half comes in time."""
    gateway = FakeGateway()
    clock = Clock()
    whole = frame(opcode, b"x")
    half, other = whole[:4], whole[4:]
    async with serving(gateway, clock=clock) as port, await Peer.open(port) as peer:
        await peer.send(half)
        for _ in range(4):
            assert await is_served(port)
            clock.now += 20.1
            while (received := await peer.read_frame()).opcode == PONG:
                pass
            assert received.opcode == PING
            await peer.send(other + whole + half)

        assert not gateway.sessions[0].disconnected


@pytest.mark.parametrize("opcode", [PING, PONG])
async def test_control_frames_do_not_extend_the_timeout_of_a_message(opcode: int) -> None:
    gateway = FakeGateway()
    clock = Clock()
    async with serving(gateway, clock=clock) as port, await Peer.open(port) as peer:
        await peer.send(frame(TEXT, b"whole") + frame(TEXT, b"x", fin=False))
        assert await is_served(port)
        clock.now += 20.1
        assert (await peer.read_frame()).opcode == PING
        await peer.send(frame(opcode, b"x") * 3)
        assert await is_served(port)
        clock.now += 20.1

        assert (await peer.read_close()).code == 4408
        assert gateway.counters["closed-unfinished"] == 1


# --- ends


@pytest.mark.parametrize("code", [None, 1000, 1001, 3000, 4999])
async def test_a_close_is_answered_with_the_same_code(code: int | None) -> None:
    gateway = FakeGateway()
    async with serving(gateway) as port, await Peer.open(port) as peer:
        await peer.send(frame(CLOSE, b"" if code is None else struct.pack("!H", code) + b"bye") + frame(TEXT, b"late"))

        assert (await peer.read_frame()).code == code
        assert await peer.read_end() == b""
        assert gateway.session.disconnected == 1
        assert gateway.session.received == []


async def test_nothing_is_read_after_a_protocol_error() -> None:
    """wsproto stops decoding for good and stores what it receives: 64 MiB were taken and the connection stayed open."""
    gateway = FakeGateway()
    async with serving(gateway, clock=Clock()) as port, await Peer.open(port) as peer:
        await peer.send_frame(0x3)
        assert (await peer.read_frame()).code == 1002

        await peer.send(b"\0" * 64 * 1024 * 1024)  # returns because the server has closed the connection meanwhile

        assert gateway.session.disconnected == 1
        assert gateway.session.received == []


async def test_a_silent_peer_is_disconnected_after_a_protocol_error() -> None:
    gateway, clock = FakeGateway(), Clock()
    async with serving(gateway, clock=clock) as port, await Peer.open(port) as peer:
        await peer.send_frame(0x3)
        assert (await peer.read_frame()).code == 1002
        assert await peer.read_end() == b""
        clock.now += 1.5

        await peer.wait_closed()


async def test_a_close_frame_that_is_never_answered_is_awaited_for_the_close_timeout() -> None:
    gateway, clock = FakeGateway(), Clock()
    async with serving(gateway, clock=clock) as port, await Peer.open(port) as peer:
        gateway.session.transport.close(1012, "restart")
        close = await peer.read_frame()
        assert (close.code, close.reason) == (1012, "restart")
        clock.now += 5.1

        assert await peer.read_end() == b""
        assert gateway.session.disconnected == 1


async def test_a_silent_peer_is_closed_after_two_pings() -> None:
    gateway, clock = FakeGateway(), Clock()
    async with serving(gateway, clock=clock) as port, await Peer.open(port) as peer:
        for _ in range(2):
            clock.now += 20.1
            assert (await peer.read_frame()).opcode == PING
        clock.now += 20.1

        assert (await peer.read_close()).code == 4408
        assert gateway.counters["closed-silent"] == 1


async def test_a_peer_that_closes_and_does_not_hang_up_is_disconnected() -> None:
    gateway = FakeGateway()
    clock = Clock()
    async with serving(gateway, clock=clock) as port, await Peer.open(port) as peer:
        await peer.send_frame(CLOSE)
        assert (await peer.read_frame()).code is None
        assert gateway.session.disconnected == 1
        clock.now += 5.1

        await peer.wait_closed()


async def test_nothing_is_delivered_after_the_hub_closed() -> None:
    gateway = FakeGateway()
    gateway.on_data = lambda session, data: session.transport.close(4400, "no more")
    async with serving(gateway) as port, await Peer.open(port) as peer:
        await peer.send(frame(TEXT, b"1") + frame(TEXT, b"2") + frame(PING) + frame(TEXT, b"3"))
        assert (await peer.read_frame()).code == 4400
        await peer.send(frame(TEXT, b"4") + frame(CLOSE, struct.pack("!H", 4400)))

        assert await peer.read_end() == b""
        assert gateway.session.received == ["1"]


async def test_a_flood_after_the_hub_closed_is_cut_off() -> None:
    gateway, clock = FakeGateway(), Clock()
    gateway.on_data = lambda session, data: session.transport.close(4429, "too many commands")
    async with serving(gateway, clock=clock) as port, await Peer.open(port) as peer:
        await peer.send(frame(TEXT, b"x") * 100_000)
        await peer.wait_closed()

        assert gateway.session.received == ["x"]
        assert gateway.session.disconnected == 1


@pytest.mark.parametrize("is_polite", [True, False])
async def test_a_peer_that_vanishes_is_noticed(is_polite: bool) -> None:
    gateway = FakeGateway()
    async with serving(gateway) as port:
        peer = await Peer.open(port)
        await peer.send(frame(TEXT, b"half")[:-1])
        peer.close() if is_polite else peer.reset()
        await gateway.until(lambda: gateway.session.disconnected)

        assert gateway.session.disconnected == 1
        assert gateway.session.write(b"1")
        gateway.session.transport.close(1000, "")
        gateway.session.transport.pause_reading()
        gateway.session.transport.resume_reading()
        assert await is_served(port)


async def test_a_peer_that_vanishes_while_reading_is_paused_is_noticed_by_a_write() -> None:
    gateway = FakeGateway()
    async with serving(gateway) as port:
        peer = await Peer.open(port)
        gateway.session.transport.pause_reading()
        peer.reset()
        while not gateway.session.disconnected:
            gateway.session.write(b"1")
            await anyio.lowlevel.checkpoint()

        assert gateway.session.disconnected == 1


async def test_a_peer_that_vanishes_with_a_tail_is_noticed() -> None:
    gateway = FakeGateway()
    async with serving(gateway) as port:
        peer = await Peer.open(port, room=SMALL_ROOM)
        fill(gateway.session)
        peer.reset()
        await gateway.until(lambda: gateway.session.disconnected)

        assert gateway.session.resumed == 0
        assert gateway.session.write(b"1")


async def test_a_congested_peer_gets_no_pings_and_is_closed_when_it_is_silent() -> None:
    gateway, clock = FakeGateway(), Clock()
    async with serving(gateway, clock=clock) as port, await Peer.open(port, room=SMALL_ROOM) as peer:
        items = fill(gateway.session)
        for _ in range(2):
            clock.now += 20.1
            assert await is_served(port)
        clock.now += 20.1
        await gateway.until(lambda: gateway.sessions[0].disconnected)

        for _ in items:
            assert (await peer.read_frame()).opcode == TEXT
        assert (await peer.read_frame()).code == 4408


async def test_no_socket_is_lost_if_the_gateway_raises_on_disconnect(caplog: pytest.LogCaptureFixture) -> None:
    gateway = FakeGateway()

    def fail(session: FakeSession) -> None:
        raise RuntimeError

    async with serving(gateway) as port, await Peer.open(port) as peer:
        gateway.disconnect = fail  # type: ignore[assignment, method-assign]
        await peer.send_frame(0x3)
        await peer.read_end()
        del gateway.disconnect

        assert await is_served(port)


async def test_nothing_is_left_of_peers_that_vanished() -> None:
    gateway = FakeGateway()
    async with serving(gateway) as port:
        assert await is_served(port)
        await gateway.until(lambda: not gateway.connected)
        before = descriptors()
        for number in range(150):
            peer = await (Peer.open(port) if number % 3 else Peer.connect(port))
            await peer.send(upgrade()[:50] if number % 3 == 0 else frame(TEXT, b"x" * 70_000)[:40_000])
            peer.reset()
        assert await is_served(port)
        await gateway.until(lambda: not gateway.connected)

        assert descriptors() <= before


async def test_a_cancelled_server_sends_close_frames_and_closes_everything() -> None:
    gateway = FakeGateway()
    before = descriptors()
    async with serving(gateway) as port:
        peer = await Peer.open(port)
        pending = await Peer.connect(port)
        await pending.send(b"GET")
        assert await is_served(port)
    close = await peer.read_frame()

    assert close.code == 1001
    assert await peer.read_end() == b""
    assert await pending.read_end() == b""
    assert gateway.connected == 0
    peer.close()
    pending.close()
    assert descriptors() <= before


async def test_a_drained_hub_ends_the_server() -> None:
    gateway = FakeGateway()
    async with serving(gateway, cancels=False) as port, await Peer.open(port) as peer:
        gateway.is_draining = True
        gateway.session.transport.close(1012, "restart")
        assert (await peer.read_close()).code == 1012
        await peer.send_frame(CLOSE, struct.pack("!H", 1012))

        assert await peer.read_end() == b""
    assert gateway.session.disconnected
    with pytest.raises(ConnectionRefusedError):
        await Peer.connect(port)


async def test_limits_are_checked() -> None:
    with pytest.raises(ValueError, match="max_message is 0; it must be greater than 0"):
        Limits(max_message=0)
    with pytest.raises(ValueError, match="ping_interval is nan"):
        Limits(ping_interval=float("nan"))
