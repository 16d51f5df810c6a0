"""The encoder and the decoder of frames, by example; `tests/fuzz` compares the decoder with a reference."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import TextMessage
from wsproto.frame_protocol import FrameProtocol

from analytics_hub.protocol.formats import JSON
from analytics_hub.transports._sockets.decoder import Message, ProtocolFault
from analytics_hub.transports._websocket.frames import (
    FRAMES,
    Close,
    Decoder,
    Event,
    FrameWire,
    Ping,
    encode_close,
    make_header,
)

from .peer import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame

LIMIT = 1000


def drain(decoder: Decoder) -> list[Event]:
    events = [*decoder.events()]
    while not decoder.needs_data:
        events += decoder.events()
    return events


def decode(*portions: bytes) -> list[Event]:
    decoder = Decoder(LIMIT, 8)
    events: list[Event] = []
    for portion in portions:
        decoder.feed(portion)
        events += drain(decoder)
    return events


def fault(*portions: bytes) -> ProtocolFault:
    with pytest.raises(ProtocolFault) as caught:
        decode(*portions)
    return caught.value


# --- encoding


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65_535, 65_536, 262_144])
def test_a_header_is_that_of_wsproto(length: int) -> None:
    payload = "x" * length

    sent = FrameProtocol(client=False, extensions=[]).send_data(payload)

    assert make_header(length, False, False) + payload.encode() == sent


@given(
    st.lists(st.binary(max_size=40), max_size=9).map(
        lambda items: [b'"' + item.hex().encode() + b'"' for item in items]
    )
)
def test_a_frame_is_one_text_message_with_an_array(items: list[bytes]) -> None:
    client = Connection(ConnectionType.CLIENT)

    client.receive_data(FrameWire(JSON).frame(items))

    (message,) = client.events()
    assert isinstance(message, TextMessage)
    assert message.message_finished
    assert message.data.encode() == b"[" + b",".join(items) + b"]"


def test_several_frames_in_one_write() -> None:
    client = Connection(ConnectionType.CLIENT)
    wire = FrameWire(JSON)

    client.receive_data(wire.frame([b"1"]) + wire.frame([]) + wire.frame(["é".encode()]))

    assert [event.data for event in client.events() if isinstance(event, TextMessage)] == ["[1]", "[]", "[é]"]


def test_a_close_reason_is_cut_at_a_character() -> None:
    sent = encode_close(1002, "é" * 100)

    assert len(sent) <= 2 + 125
    assert sent[4:].decode() == "é" * 61


# --- decoding


def test_messages_fragments_and_control_frames_between_them() -> None:
    sent = [
        frame(TEXT, b"one"),
        frame(TEXT, b"t", fin=False),
        frame(PING, b"?"),
        frame(CONTINUATION, b"w", fin=False),
        frame(PONG),
        frame(CONTINUATION, b"o"),
        frame(BINARY, b"\xff\x00"),
        frame(BINARY, b"\xff", fin=False),
        frame(CONTINUATION, b"\xfe"),
        frame(TEXT, b""),
        frame(TEXT, b"", fin=False),
        frame(CONTINUATION, b""),
        frame(CLOSE, struct.pack("!H", 1001) + b"bye"),
    ]
    expected = [
        Message("one"),
        Ping(b"?"),
        Message("two"),
        Message(b"\xff\x00"),
        Message(b"\xff\xfe"),
        Message(""),
        Message(""),
        Close(1001),
    ]

    assert decode(b"".join(sent)) == expected
    assert decode(*(bytes([byte]) for byte in b"".join(sent))) == expected


def test_a_fragment_may_end_within_a_character() -> None:
    euro = "€".encode()

    assert decode(frame(TEXT, euro[:1], fin=False), frame(CONTINUATION, euro[1:])) == [Message("€")]


@pytest.mark.parametrize(
    ("payload", "code"), [(b"", None), (struct.pack("!H", 1000), 1000), (struct.pack("!H", 4999), 4999)]
)
def test_close_frames_may_have_a_code(payload: bytes, code: int | None) -> None:
    assert decode(frame(CLOSE, payload)) == [Close(code)]


BAD_CODES = [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 9999, 65_535]


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(frame(TEXT, b"x", masked=False), id="unmasked"),
        pytest.param(frame(PING, masked=False), id="unmasked ping"),
        pytest.param(frame(CLOSE, masked=False), id="unmasked close"),
        *(pytest.param(frame(TEXT, b"x", rsv=bits), id=f"reserved bits {bits}") for bits in range(1, 8)),
        *(pytest.param(frame(PING, rsv=bits), id=f"reserved bits {bits} of a ping") for bits in (1, 2, 4)),
        *(pytest.param(frame(opcode), id=f"opcode {opcode}") for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)),
        pytest.param(frame(CONTINUATION, b"x"), id="nothing to continue"),
        pytest.param(frame(TEXT, b"x", fin=False) + frame(TEXT, b"x"), id="a message in a message"),
        pytest.param(frame(TEXT, b"x", fin=False) + frame(BINARY, b"x"), id="another in a message"),
        *(pytest.param(frame(opcode, fin=False), id=f"control {opcode} in parts") for opcode in (CLOSE, PING, PONG)),
        *(pytest.param(frame(opcode, length=126)[:2], id=f"long control {opcode}") for opcode in (CLOSE, PING, PONG)),
        pytest.param(b"\x81\xfe\x00\x01", id="a short length in two bytes"),
        pytest.param(b"\x81\xff" + struct.pack("!Q", 126), id="a short length in eight bytes"),
        pytest.param(b"\x81\xff" + struct.pack("!Q", 1 << 63), id="a negative length"),
        pytest.param(frame(CLOSE, b"\x03"), id="half a code"),
        *(pytest.param(frame(CLOSE, struct.pack("!H", code)), id=f"code {code}") for code in BAD_CODES),
    ],
)
def test_protocol_violations_are_1002(sent: bytes) -> None:
    assert fault(sent).code == 1002


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(frame(TEXT, b"\xff"), id="no UTF-8"),
        pytest.param(frame(TEXT, b"\xed\xa0\x80"), id="a surrogate"),
        pytest.param(frame(TEXT, b"\xc0\xaf"), id="overlong"),
        pytest.param(frame(TEXT, b"\xe2\x82"), id="cut"),
        pytest.param(frame(TEXT, b"\xe2\x82", fin=False) + frame(CONTINUATION, b"x"), id="in pieces"),
        pytest.param(frame(TEXT, b"ok\xff" + b"x" * 100)[:9], id="at the first bad byte"),
        pytest.param(frame(CLOSE, struct.pack("!H", 1000) + b"\xff"), id="in a reason"),
    ],
)
def test_invalid_utf_8_is_1007(sent: bytes) -> None:
    assert fault(sent).code == 1007


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(frame(TEXT, length=LIMIT + 1)[:4] + b"mask", id="declared"),
        *(pytest.param(frame(BINARY, length=length), id=f"declared {length}") for length in (2**31, 2**32, 2**63 - 1)),
        pytest.param(frame(TEXT, b"x" * 600, fin=False) + frame(CONTINUATION, length=401), id="in fragments"),
        pytest.param(frame(TEXT, fin=False) + frame(CONTINUATION, fin=False) * 8, id="empty fragments"),
    ],
)
def test_messages_over_the_limits_are_1009(sent: bytes) -> None:
    error = fault(sent)

    assert error.code == 1009
    assert "1000 bytes in 8 fragments" in str(error)


def test_the_limits_apply_to_each_message() -> None:
    fragments = frame(TEXT, b"x" * 500, fin=False) + frame(CONTINUATION, b"x" * 500)

    assert (
        decode(fragments * 5 + frame(BINARY, b"x" * LIMIT) * 5)
        == [Message("x" * 1000)] * 5 + [Message(b"x" * 1000)] * 5
    )


def test_a_decoder_is_not_idle_after_a_close_frame() -> None:
    decoder = Decoder(LIMIT, 8)
    decoder.feed(frame(CLOSE))

    assert [*decoder.events()] == [Close(None)]
    assert not decoder.is_idle


def test_decoding_continues_where_it_was_left() -> None:
    decoder = Decoder(LIMIT, 8)
    decoder.feed(frame(TEXT, b"1") + frame(TEXT, b"2"))
    for event in decoder.events():
        assert event == Message("1")
        break

    assert not decoder.is_idle
    assert not decoder.needs_data
    assert [*decoder.events()] == [Message("2")]
    assert decoder.is_idle
    assert decoder.needs_data


@pytest.mark.parametrize("opcode", [TEXT, PING, PONG])
def test_a_bounded_number_of_frames_is_decoded_at_a_time(opcode: int) -> None:
    decoder = Decoder(LIMIT, 8)
    decoder.feed(frame(opcode) * (FRAMES * 2 + 1))
    rounds = 0
    while not decoder.needs_data:
        assert len([*decoder.events()]) <= FRAMES
        rounds += 1

    assert rounds == 3
    assert decoder.is_idle
