"""TLS without a socket, and a connection that uses it over a fake socket."""

from __future__ import annotations

import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_hub.transports._sockets.connection import READ_SIZE, ROOM
from analytics_hub.transports._sockets.poller import READ, WRITE
from analytics_hub.transports._sockets.tls import MAX_HELLO, RECORD, TLS, NotTLS, is_hello_complete
from analytics_hub.transports.tls import refuse_renegotiation

from .certificates import write_certificate
from .forger import Forger, OldForger
from .test_stream import Recording

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The server's and the client's."""
    path = write_certificate(tmp_path_factory.mktemp("tls") / "localhost.pem")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(path)
    return server, ssl.create_default_context(cafile=str(path))


class Client:
    """The other side, in memory."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")

    def handshake(self, data: bytes = b"") -> bytes:
        self._incoming.write(data)
        with suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self._outgoing.read()

    def send(self, data: bytes) -> bytes:
        view = memoryview(data)
        while view:
            view = view[self.tls.write(view) :]
        return self._outgoing.read()

    def receive(self, data: bytes) -> bytes:
        self._incoming.write(data)
        received = b""
        with suppress(ssl.SSLWantReadError):
            while part := self.tls.read(65_536):
                received += part
        return received

    def end(self) -> bytes:
        with suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        return self._outgoing.read()


def connect(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> tuple[TLS, Client]:
    server, context = contexts
    context.maximum_version = version
    tls, client = TLS(server), Client(context)
    is_done, flight = False, client.handshake()
    while not is_done:
        is_done = tls.do_handshake(flight)
        flight = client.handshake(tls.take_answers())
    return tls, client


def read(tls: TLS, data: bytes) -> bytes:
    tls.feed(data)
    return tls.decrypt()


# --- the first record


def test_a_hello_is_complete_at_its_last_byte(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    hello = Client(contexts[1]).handshake()

    assert [is_hello_complete(hello[:size]) for size in range(len(hello))] == [False] * len(hello)
    assert is_hello_complete(hello)
    assert is_hello_complete(hello + b"more")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"GET / HTTP/1.1\r\n", id="HTTP"),
        pytest.param(b'{"action":"auth"}\n', id="a command"),
        pytest.param(b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00", id="SSL 2"),
        pytest.param(b"\x16\x03\x01\x02\x00\x02\x00\x01\xfc", id="another message"),
        pytest.param(b"\x16\x03\x01\x00\x01\x01\x16\x03\x01", id="tiny records"),
        pytest.param(b"\x16\x03\x01\x40\x01\x01\x00\x01\xfc", id="too long a record"),
        pytest.param(b"\x16\x03\x01\x40\x00\x01" + (MAX_HELLO + 1).to_bytes(3, "big"), id="much declared"),
    ],
)
def test_other_first_bytes_are_not_tls(data: bytes) -> None:
    with pytest.raises(NotTLS):
        is_hello_complete(data)


def test_an_invalid_handshake_is_answered_with_an_alert(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    tls = TLS(contexts[0])

    with pytest.raises(ssl.SSLError):
        tls.do_handshake(b"\x16\x03\x01\x00\x08\x01\x00\x00\x04\xff\xff\xff\xff")

    assert tls.take_answers()[0] == 0x15
    tls.shutdown()


# --- bytes in, bytes out


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("size", [0, 1, RECORD, RECORD + 1, 100_000])
def test_data_in_both_directions(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], version: ssl.TLSVersion, size: int
) -> None:
    tls, client = connect(contexts, version)
    data = bytes(range(256)) * (size // 256 + 1)

    assert client.receive(tls.encrypt(data[:size])) == data[:size]
    assert read(tls, client.send(data[:size])) == data[:size]
    assert not tls.is_fed


@pytest.mark.parametrize("version", VERSIONS)
def test_the_end_may_come_with_the_last_bytes(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], version: ssl.TLSVersion
) -> None:
    tls, client = connect(contexts, version)
    assert read(tls, client.send(b"last") + client.end()) == b"last"
    assert tls.has_ended

    tls, client = connect(contexts, version)
    tls.shutdown()
    assert client.receive(tls.take_answers()) == b""
    assert client.tls.read(1) == b""  # an end, and not just no data


def test_an_altered_record_is_an_error_and_an_alert(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    tls, client = connect(contexts)
    record = bytearray(client.send(b"data"))
    record[-1] ^= 1

    with pytest.raises(ssl.SSLError):
        read(tls, bytes(record))

    with pytest.raises(ssl.SSLError, match=r"(?i)bad record mac"):
        client.receive(tls.take_answers())


# --- a stream over it


def feed(stream: Recording, data: bytes) -> None:
    """Let it read `data`, until there is no more."""
    stream.fake.incoming += [data[at : at + READ_SIZE] for at in range(0, len(data), READ_SIZE)]
    while stream.fake.incoming:
        stream.connection.socket_ready(READ)
    stream.connection.socket_ready(READ)


def flush(stream: Recording) -> bytes:
    """The bytes sent since the last call, once there was room for all of them."""
    while stream.poller.events & WRITE:
        stream.connection.socket_ready(WRITE)
    sent, stream.fake.sent = stream.fake.sent, b""
    return sent


FRAMES = st.binary(min_size=1, max_size=40_000)


@given(st.lists(FRAMES, max_size=8), st.lists(st.integers(0, 30_000), max_size=40))
def test_all_bytes_arrive_in_order_however_many_the_kernel_takes(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], frames: list[bytes], script: list[int]
) -> None:
    tls, client = connect(contexts)
    stream = Recording([*script], tls)
    for frame in frames:
        was_taken = stream.connection.write(frame)

        assert was_taken == (stream.connection.buffered <= ROOM)
        assert bool(stream.poller.events & WRITE) == bool(stream.connection.buffered)
        if not was_taken:
            while stream.poller.events & WRITE:
                stream.connection.socket_ready(WRITE)
            assert stream.events.pop() == "drained, full"
    stream.connection.write_last(b"bye")
    stream.connection.finish(1.0)

    assert client.receive(flush(stream)) == b"".join(frames) + b"bye"
    assert client.tls.read(1) == b""
    assert stream.fake.is_shut


def test_records_may_be_split_anywhere(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    tls, client = connect(contexts)
    stream = Recording(tls=tls)
    data = bytes(range(256)) * 70
    records = client.send(data)

    stream.fake.incoming = [records[at : at + 999] for at in range(0, len(records), 999)]
    while stream.fake.incoming:
        stream.connection.socket_ready(READ)

    assert b"".join(cast("list[bytes]", stream.events)) == data
    assert b"" not in stream.events


def test_data_received_with_the_end_of_the_handshake_needs_no_readable_socket(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    tls, client = connect(contexts)
    tls.feed(client.send(b"at once"))

    stream = Recording(tls=tls)
    stream.turn()

    assert stream.events == [b"at once"]


def test_an_end_received_with_the_last_bytes_is_reported_after_a_pause(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    """Such as a request and a close_notify in one packet: its answer is still sent."""
    tls, client = connect(contexts)
    stream = Recording(tls=tls)
    stream.fake.incoming = [client.send(b"request") + client.end()]
    stream.connection.socket_ready(READ)
    stream.connection.pause_reading()
    stream.turn()

    assert stream.events == [b"request"]
    stream.connection.write(b"answer")
    assert client.receive(stream.fake.sent) == b"answer"
    stream.connection.resume_reading()
    stream.turn()
    assert stream.events == [b"request", "lost"]


def test_a_peer_that_closes_without_close_notify_is_lost(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    tls, client = connect(contexts)
    stream = Recording(tls=tls)
    stream.fake.incoming = [client.send(b"half a message")[:20], b""]

    stream.connection.socket_ready(READ)
    stream.connection.socket_ready(READ)

    assert stream.events == ["lost"]
    assert not stream.fake.was_reset


# --- reading that must write, writing that must read


@pytest.fixture
def forged(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], tmp_path: Path, certificate: Path
) -> tuple[TLS, Client, Forger]:
    context = ssl.create_default_context(cafile=str(certificate))
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate)
    forger = Forger(context, tmp_path / "keys")
    tls, client = connect((server, context))
    forger.learn()
    return tls, client, forger


def test_an_answer_that_the_kernel_does_not_take_is_buffered(forged: tuple[TLS, Client, Forger]) -> None:
    """Where `SSLSocket` would raise `SSLWantWriteError` in the middle of a read."""
    tls, client, forger = forged
    stream = Recording([0, 3, 0], tls)

    feed(stream, forger.key_update() + forger.record(b"before ") + forger.key_update() + forger.record(b"after"))

    assert stream.events == [b"before after"]
    assert stream.poller.events == READ | WRITE
    assert stream.connection.write(b"frame")
    assert client.receive(flush(stream)) == b"frame"
    assert stream.poller.events == READ


def test_an_answer_is_sent_in_order_with_unsent_frames(forged: tuple[TLS, Client, Forger]) -> None:
    tls, client, forger = forged
    stream = Recording([10, 0, 0, 0, 0], tls)
    assert not stream.connection.write(b"x" * 100_000)

    feed(stream, forger.key_update())
    feed(stream, forger.record(b"data"))
    stream.connection.write(b"y")

    assert stream.events == [b"data"]
    assert client.receive(flush(stream)) == b"x" * 100_000 + b"y"
    assert stream.events == [b"data", "drained, full"]


def test_an_answer_is_sent_after_the_last_write(forged: tuple[TLS, Client, Forger]) -> None:
    """Records are numbered: if one were left out, the peer could not decrypt the close_notify after it."""
    tls, client, forger = forged
    stream = Recording([10, 0, 0, 0, 0], tls)
    stream.connection.write_last(b"last write")

    feed(stream, forger.key_update())
    feed(stream, forger.record(b"bye"))
    stream.connection.finish(1.0)

    assert client.receive(flush(stream)) == b"last write"
    assert client.tls.read(1) == b""


def test_a_peer_that_requests_key_updates_and_never_reads_is_reset(forged: tuple[TLS, Client, Forger]) -> None:
    tls, _, forger = forged
    refusal: list[int | OSError] = [0]
    stream = Recording(refusal * 10_000, tls)
    requested = 0

    while not stream.fake.is_closed:
        stream.fake.incoming = [b"".join(forger.key_update() for _ in range(100))]
        stream.connection.socket_ready(READ)
        requested += 100

    assert requested <= 4000
    assert stream.fake.was_reset
    assert stream.events == ["lost"]


def test_one_turn_reads_once(forged: tuple[TLS, Client, Forger]) -> None:
    """However much the kernel has: an `SSLSocket` would read on for as long as there are records without data."""
    tls, _, forger = forged
    stream = Recording(tls=tls)
    stream.fake.incoming = [forger.key_update() for _ in range(10)]

    stream.connection.socket_ready(READ)

    assert len(stream.fake.incoming) == 9


def test_renegotiation_is_refused(certificate: Path, tmp_path: Path) -> None:
    context = ssl.create_default_context(cafile=str(certificate))
    forger = OldForger(context, tmp_path / "keys")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate)
    refuse_renegotiation(server)
    tls, client = TLS(server), Client(context)
    hello = client.handshake()
    tls.do_handshake(hello)
    answer = tls.take_answers()
    assert tls.do_handshake(client.handshake(answer))
    client.handshake(tls.take_answers())
    forger.learn(hello, answer)
    stream = Recording(tls=tls)

    feed(stream, forger.renegotiation())

    assert stream.events == []
    with pytest.raises(ssl.SSLError, match="NO_RENEGOTIATION"):
        client.receive(flush(stream))


class Renegotiating:
    """TLS of a peer that renegotiates, with a context that allows it: a write would have to read first."""

    is_fed = has_ended = False
    unsent = 0

    def encrypt(self, data: bytes) -> bytes:
        raise ssl.SSLWantReadError

    def shutdown(self) -> None: ...

    def take_answers(self) -> bytes:
        return b""


def test_a_renegotiating_peer_is_lost_without_spinning() -> None:
    scripts: list[list[int | OSError]] = [[], [2]]
    for script in scripts:
        stream = Recording(script)
        if script:
            assert stream.connection.write(b"in the clear")
        stream.connection._tls = cast("Any", Renegotiating())

        assert stream.connection.write(b"frame")
        assert stream.connection.write(b"more")
        assert stream.events == []
        stream.turn()

        assert stream.events == ["lost"]
        assert stream.poller.events == 0


def test_an_abort_sends_close_notify(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    tls, client = connect(contexts)
    stream = Recording(tls=tls)
    stream.connection.write_last(b"last write")
    stream.connection.abort()

    assert client.receive(stream.fake.sent) == b"last write"
    assert client.tls.read(1) == b""
    assert stream.events == ["lost"]
