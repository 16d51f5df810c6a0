"""permessage-deflate: messages of clients, inflated within bounds."""

from __future__ import annotations

import random
import tracemalloc
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_hub.transports._sockets.decoder import Message, ProtocolFault
from analytics_hub.transports._websocket.frames import Close, Decoder, Event, Ping

from .deflating import BOMB, RSV1, TAIL, deflate
from .peer import BINARY, CONTINUATION, PING, PONG, TEXT, frame

LIMIT = 1000


def decode(*portions: bytes, decoder: Decoder | None = None, limit: int = LIMIT) -> list[Event]:
    decoder = decoder or Decoder(limit, 40, inflates=True)
    events: list[Any] = []
    for portion in portions:
        decoder.feed(portion)
        events += decoder.events()
        while not decoder.needs_data:
            events += decoder.events()
    assert decoder.is_idle or any(isinstance(event, Close) for event in events)
    return events


def fault(*portions: bytes, limit: int = LIMIT) -> int:
    with pytest.raises(ProtocolFault) as caught:
        decode(*portions, limit=limit)
    return caught.value.code


def cut(data: st.DataObject, whole: bytes, most: int) -> list[bytes]:
    places = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=most)))
    return [whole[start:end] for start, end in zip([0, *places], [*places, len(whole)], strict=True)]


MESSAGES = st.lists(st.tuples(st.text(max_size=60) | st.binary(max_size=60), st.booleans()), max_size=6)


@given(MESSAGES, st.data())
def test_messages_may_be_split_anywhere(messages: list[tuple[str | bytes, bool]], data: st.DataObject) -> None:
    sent: list[bytes] = []
    expected: list[Event] = []
    for content, is_compressed in messages:
        payload = content.encode() if isinstance(content, str) else content
        level = data.draw(st.sampled_from([0, 1, 9]))
        opcode, rsv = (TEXT if isinstance(content, str) else BINARY), (RSV1 if is_compressed else 0)
        fragments = cut(data, deflate(payload, level) if is_compressed else payload, 4)
        for number, fragment in enumerate(fragments):
            sent.append(frame(opcode, fragment, rsv=rsv, fin=number == len(fragments) - 1))
            opcode, rsv = CONTINUATION, 0
            if number < len(fragments) - 1 and data.draw(st.booleans()):
                sent.append(frame(data.draw(st.sampled_from([PING, PONG])), b"between"))
                expected += [Ping(b"between")] if sent[-1][0] & 0x0F == PING else []
        expected.append(Message(content))

    assert decode(*cut(data, b"".join(sent), 12)) == expected


def test_a_ping_between_the_fragments_of_a_compressed_message() -> None:
    """wsproto's own extension forgets the message and closes with 1007."""
    packed = deflate(b"hello hello hello")
    sent = frame(TEXT, packed[:4], rsv=RSV1, fin=False) + frame(PING, b"?") + frame(CONTINUATION, packed[4:])

    assert decode(sent) == [Ping(b"?"), Message("hello hello hello")]
    assert decode(*(bytes([byte]) for byte in sent)) == [Ping(b"?"), Message("hello hello hello")]


@pytest.mark.parametrize(
    ("packed", "text"),
    [
        pytest.param("f248cdc9c90700", "Hello", id="7.2.3.1"),
        pytest.param("000500faff48656c6c6f00", "Hello", id="7.2.3.3 without compression"),
        pytest.param("f348cdc9c9070000", "Hello", id="7.2.3.4 with a final block"),
        pytest.param("f248050000" + "00ffffcac9c90700", "Hello", id="7.2.3.5 two blocks"),
        pytest.param("00", "", id="7.2.3.6 empty"),
        pytest.param("", "", id="no byte at all"),
    ],
)
def test_the_examples_of_rfc_7692(packed: str, text: str) -> None:
    assert decode(frame(TEXT, bytes.fromhex(packed), rsv=RSV1)) == [Message(text)]


def test_incompressible_messages_have_the_same_limit() -> None:
    noise = random.Random(2).randbytes(64 * 1024)
    packed = deflate(noise, level=1)

    assert len(packed) > len(noise)
    assert decode(frame(BINARY, packed, rsv=RSV1), limit=64 * 1024) == [Message(noise)]


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(frame(TEXT, BOMB, rsv=RSV1), id="whole"),
        pytest.param(
            frame(TEXT, BOMB[:20], rsv=RSV1, fin=False)
            + b"".join(frame(CONTINUATION, BOMB[at : at + 1000], fin=False) for at in range(20, len(BOMB), 1000)),
            id="in fragments",
        ),
        pytest.param(frame(TEXT, deflate(b"x" * (LIMIT + 1)), rsv=RSV1), id="one too many"),
        pytest.param(frame(TEXT, deflate(b"x" * LIMIT) + TAIL + deflate(b"y" * LIMIT), rsv=RSV1), id="two blocks"),
    ],
)
def test_a_decompression_bomb_is_refused_before_it_is_inflated(sent: bytes) -> None:
    decoder = Decoder(LIMIT, 1000, inflates=True)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        with pytest.raises(ProtocolFault) as caught:
            decode(sent, decoder=decoder)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert caught.value.code == 1009
    assert peak - before < 3 * len(sent) + 200_000


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        pytest.param(frame(TEXT, b"\xff\xff", rsv=RSV1), 1007, id="no deflate"),
        pytest.param(frame(TEXT, b"\x03\x00" * 400, rsv=RSV1), 1007, id="an ending after the other"),
        pytest.param(frame(TEXT, deflate(b"\xff"), rsv=RSV1), 1007, id="no UTF-8"),
        pytest.param(frame(TEXT, length=LIMIT * 2, rsv=RSV1), 1009, id="a length that cannot be"),
        pytest.param(frame(PING, b"", rsv=RSV1), 1002, id="a compressed ping"),
        pytest.param(frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"b", rsv=RSV1), 1002, id="a later fragment"),
        pytest.param(frame(TEXT, deflate(b"a"), rsv=RSV1 | 1), 1002, id="another bit"),
    ],
)
def test_invalid_compressed_messages(sent: bytes, code: int) -> None:
    assert fault(sent) == code


def test_a_reference_to_an_earlier_message_is_1007() -> None:
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -15)
    first, second = ((squeezer.compress(b"abcdefgh" * 9) + squeezer.flush(zlib.Z_SYNC_FLUSH))[:-4] for _ in range(2))

    assert decode(frame(TEXT, first, rsv=RSV1)) == [Message("abcdefgh" * 9)]
    assert fault(frame(TEXT, first, rsv=RSV1) + frame(TEXT, second, rsv=RSV1)) == 1007


def test_a_compressed_message_without_negotiation_is_1002() -> None:
    decoder = Decoder(LIMIT, 8)
    decoder.feed(frame(TEXT, deflate(b"a"), rsv=RSV1))

    with pytest.raises(ProtocolFault) as caught:
        list(decoder.events())
    assert caught.value.code == 1002
