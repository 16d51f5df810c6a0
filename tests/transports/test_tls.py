"""TLS without a socket: what it makes of bytes, and what a stream does with it whatever the kernel takes."""

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

    def shake_hands(self, data: bytes = b"") -> bytes:
        self._incoming.write(data)
        with suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self._outgoing.read()

    def say(self, data: bytes) -> bytes:
        view = memoryview(data)
        while view:
            view = view[self.tls.write(view) :]
        return self._outgoing.read()

    def hear(self, data: bytes) -> bytes:
        self._incoming.write(data)
        heard = b""
        with suppress(ssl.SSLWantReadError):
            while part := self.tls.read(65_536):
                heard += part
        return heard

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
    is_done, flight = False, client.shake_hands()
    while not is_done:
        is_done = tls.do_handshake(flight)
        flight = client.shake_hands(tls.take_answers())
    return tls, client


def read(tls: TLS, data: bytes) -> bytes:
    tls.feed(data)
    return tls.decrypt()


# --- the first record -----------------------------------------------------------------------------------------------


def test_a_hello_is_whole_at_its_last_byte(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    hello = Client(contexts[1]).shake_hands()

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
        pytest.param(b"\x16\x03\x01\x00\x01\x01\x16\x03\x01", id="crumbs"),
        pytest.param(b"\x16\x03\x01\x40\x01\x01\x00\x01\xfc", id="too long a record"),
        pytest.param(b"\x16\x03\x01\x40\x00\x01" + (MAX_HELLO + 1).to_bytes(3, "big"), id="much declared"),
    ],
)
def test_what_no_client_says_is_no_hello(data: bytes) -> None:
    with pytest.raises(NotTLS):
        is_hello_complete(data)


def test_other_bytes_in_a_handshake_are_answered_with_an_alert(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    tls = TLS(contexts[0])

    with pytest.raises(ssl.SSLError):
        tls.do_handshake(b"\x16\x03\x01\x00\x08\x01\x00\x00\x04\xff\xff\xff\xff")

    assert tls.take_answers()[0] == 0x15
    tls.shutdown()


# --- bytes in, bytes out --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("size", [0, 1, RECORD, RECORD + 1, 100_000])
def test_what_one_side_says_the_other_hears(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], version: ssl.TLSVersion, size: int
) -> None:
    tls, client = connect(contexts, version)
    data = bytes(range(256)) * (size // 256 + 1)

    assert client.hear(tls.encrypt(data[:size])) == data[:size]
    assert read(tls, client.say(data[:size])) == data[:size]
    assert not tls.is_fed


@pytest.mark.parametrize("version", VERSIONS)
def test_the_end_may_come_with_the_last_bytes(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], version: ssl.TLSVersion
) -> None:
    tls, client = connect(contexts, version)
    assert read(tls, client.say(b"last") + client.end()) == b"last"
    assert tls.has_ended

    tls, client = connect(contexts, version)
    tls.shutdown()
    assert client.hear(tls.take_answers()) == b""
    assert client.tls.read(1) == b""  # an end, and not just nothing more


def test_an_altered_record_is_an_error_and_an_alert(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    tls, client = connect(contexts)
    record = bytearray(client.say(b"data"))
    record[-1] ^= 1

    with pytest.raises(ssl.SSLError):
        read(tls, bytes(record))

    with pytest.raises(ssl.SSLError, match=r"(?i)bad record mac"):
        client.hear(tls.take_answers())


# --- a stream over it -----------------------------------------------------------------------------------------------


def fed(stream: Recording, data: bytes) -> None:
    """Let it read `data`, and then find that there is no more."""
    stream.fake.incoming += [data[at : at + READ_SIZE] for at in range(0, len(data), READ_SIZE)]
    while stream.fake.incoming:
        stream.connection.ready(READ)
    stream.connection.ready(READ)


def flushed(stream: Recording) -> bytes:
    """What has gone out since, once there was room for all of it."""
    while stream.poller.events & WRITE:
        stream.connection.ready(WRITE)
    sent, stream.fake.sent = stream.fake.sent, b""
    return sent


FRAMES = st.binary(min_size=1, max_size=40_000)


@given(st.lists(FRAMES, max_size=8), st.lists(st.integers(0, 30_000), max_size=40))
def test_whatever_the_kernel_takes_everything_arrives_in_order(
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
                stream.connection.ready(WRITE)
            assert stream.events.pop() == "drained, full"
    stream.connection.write_last(b"bye")
    stream.connection.finish(1.0)

    assert client.hear(flushed(stream)) == b"".join(frames) + b"bye"
    assert client.tls.read(1) == b""
    assert stream.fake.is_shut


def test_records_are_heard_however_they_are_cut(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    tls, client = connect(contexts)
    stream = Recording(tls=tls)
    data = bytes(range(256)) * 70
    records = client.say(data)

    stream.fake.incoming = [records[at : at + 999] for at in range(0, len(records), 999)]
    while stream.fake.incoming:
        stream.connection.ready(READ)

    assert b"".join(cast("list[bytes]", stream.events)) == data
    assert b"" not in stream.events


def test_what_came_with_the_end_of_the_handshake_needs_no_readable_socket(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    tls, client = connect(contexts)
    tls.feed(client.say(b"at once"))

    stream = Recording(tls=tls)
    stream.turn()

    assert stream.events == [b"at once"]


def test_an_end_that_came_with_the_last_bytes_is_told_after_a_pause(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    """Such as a request and a goodbye in one packet: the answer to it is still sent."""
    tls, client = connect(contexts)
    stream = Recording(tls=tls)
    stream.fake.incoming = [client.say(b"request") + client.end()]
    stream.connection.ready(READ)
    stream.connection.pause_reading()
    stream.turn()

    assert stream.events == [b"request"]
    stream.connection.write(b"answer")
    assert client.hear(stream.fake.sent) == b"answer"
    stream.connection.resume_reading()
    stream.turn()
    assert stream.events == [b"request", "lost"]


def test_a_peer_that_goes_without_a_goodbye_has_gone(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    tls, client = connect(contexts)
    stream = Recording(tls=tls)
    stream.fake.incoming = [client.say(b"half a message")[:20], b""]

    stream.connection.ready(READ)
    stream.connection.ready(READ)

    assert stream.events == ["lost"]
    assert not stream.fake.was_reset


# --- reading that must write, writing that must read ---------------------------------------------------------------


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


def test_an_answer_that_the_kernel_refuses_while_reading_waits_its_turn(forged: tuple[TLS, Client, Forger]) -> None:
    """What `SSLSocket` calls `SSLWantWriteError` in the middle of a read."""
    tls, client, forger = forged
    stream = Recording([0, 3, 0], tls)

    fed(stream, forger.key_update() + forger.record(b"before ") + forger.key_update() + forger.record(b"after"))

    assert stream.events == [b"before after"]
    assert stream.poller.events == READ | WRITE
    assert stream.connection.write(b"frame")
    assert client.hear(flushed(stream)) == b"frame"
    assert stream.poller.events == READ


def test_an_answer_goes_between_the_frames_that_wait(forged: tuple[TLS, Client, Forger]) -> None:
    tls, client, forger = forged
    stream = Recording([10, 0, 0, 0, 0], tls)
    assert not stream.connection.write(b"x" * 100_000)

    fed(stream, forger.key_update())
    fed(stream, forger.record(b"data"))
    stream.connection.write(b"y")

    assert stream.events == [b"data"]
    assert client.hear(flushed(stream)) == b"x" * 100_000 + b"y"
    assert stream.events == [b"data", "drained, full"]


def test_an_answer_goes_out_after_the_last_words(forged: tuple[TLS, Client, Forger]) -> None:
    """One that was left out would be missed in the count of records, and the goodbye after it not be understood."""
    tls, client, forger = forged
    stream = Recording([10, 0, 0, 0, 0], tls)
    stream.connection.write_last(b"last words")

    fed(stream, forger.key_update())
    fed(stream, forger.record(b"bye"))
    stream.connection.finish(1.0)

    assert client.hear(flushed(stream)) == b"last words"
    assert client.tls.read(1) == b""


def test_a_peer_that_asks_for_keys_and_never_reads_is_cut_off(forged: tuple[TLS, Client, Forger]) -> None:
    tls, _, forger = forged
    refusal: list[int | OSError] = [0]
    stream = Recording(refusal * 10_000, tls)
    asked = 0

    while not stream.fake.is_closed:
        stream.fake.incoming = [b"".join(forger.key_update() for _ in range(100))]
        stream.connection.ready(READ)
        asked += 100

    assert asked <= 4000
    assert stream.fake.was_reset
    assert stream.events == ["lost"]


def test_one_turn_hears_no_more_than_one_read_has_brought(forged: tuple[TLS, Client, Forger]) -> None:
    """However much the kernel has: an `SSLSocket` would go on for as long as there are records without data."""
    tls, _, forger = forged
    stream = Recording(tls=tls)
    stream.fake.incoming = [forger.key_update() for _ in range(10)]

    stream.connection.ready(READ)

    assert len(stream.fake.incoming) == 9


def test_renegotiation_is_refused(certificate: Path, tmp_path: Path) -> None:
    context = ssl.create_default_context(cafile=str(certificate))
    forger = OldForger(context, tmp_path / "keys")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate)
    refuse_renegotiation(server)
    tls, client = TLS(server), Client(context)
    hello = client.shake_hands()
    tls.do_handshake(hello)
    answer = tls.take_answers()
    assert tls.do_handshake(client.shake_hands(answer))
    client.shake_hands(tls.take_answers())
    forger.learn(hello, answer)
    stream = Recording(tls=tls)

    fed(stream, forger.renegotiation())

    assert stream.events == []
    with pytest.raises(ssl.SSLError, match="NO_RENEGOTIATION"):
        client.hear(flushed(stream))


class Renegotiating:
    """TLS of a peer that wants to shake hands again, and whose context allows it: writing would have to read first."""

    is_fed = has_ended = False
    unsent = 0

    def encrypt(self, data: bytes) -> bytes:
        raise ssl.SSLWantReadError

    def shutdown(self) -> None: ...

    def take_answers(self) -> bytes:
        return b""


def test_who_would_renegotiate_is_lost_and_nobody_spins() -> None:
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


def test_the_end_of_the_server_is_said_in_tls(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    tls, client = connect(contexts)
    stream = Recording(tls=tls)
    stream.connection.write_last(b"last words")
    stream.connection.abort()

    assert client.hear(stream.fake.sent) == b"last words"
    assert client.tls.read(1) == b""
    assert stream.events == ["lost"]
