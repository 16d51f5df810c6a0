"""Newline-delimited JSON, by example; `tests/fuzz` compares the decoder with a reference."""

from __future__ import annotations

import pytest

from analytics_hub.transports._sockets.decoder import Message, ProtocolFault
from analytics_hub.transports._tcp.lines import LINES, LineDecoder, LineWire

LIMIT = 50


def drain(decoder: LineDecoder) -> list[str | bytes]:
    found = [message.data for message in decoder.events()]
    while not decoder.needs_data:
        found += [message.data for message in decoder.events()]
    return found


def test_a_bounded_number_of_lines_is_decoded_at_a_time() -> None:
    decoder = LineDecoder(LIMIT)
    decoder.feed(b"\n" * (LINES + 1))

    assert len([*decoder.events()]) == LINES
    assert not decoder.needs_data
    assert len([*decoder.events()]) == 1
    assert decoder.needs_data


def test_the_end_of_the_stream_ends_a_line() -> None:
    decoder = LineDecoder(LIMIT)
    decoder.feed(b"1\n2")

    assert drain(decoder) == ["1"]
    assert [*decoder.finish()] == [Message("2")]
    assert [*decoder.finish()] == []


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        pytest.param(b"x" * (LIMIT + 1) + b"\n", 1009, id="one too many"),
        pytest.param(b"x" * (LIMIT + 1) + b"\r\n", 1009, id="one too many with CR"),
        pytest.param(b"x" * (LIMIT + 1), 1009, id="without an end"),
        pytest.param(b"\xff\n", 1007, id="no UTF-8"),
        pytest.param("é".encode()[:1] + b"\n", 1007, id="half a character"),
    ],
)
def test_invalid_lines(sent: bytes, code: int) -> None:
    decoder = LineDecoder(LIMIT)
    decoder.feed(b"good\n" + sent)
    events = decoder.events()

    assert next(events) == Message("good")
    with pytest.raises(ProtocolFault) as caught:
        next(events)
    assert caught.value.code == code


def test_the_line_end_is_not_part_of_the_limit() -> None:
    decoder = LineDecoder(LIMIT)
    decoder.feed(b"x" * LIMIT + b"\r\n" + b"y" * LIMIT + b"\r")

    assert drain(decoder) == ["x" * LIMIT]


def test_a_frame_is_a_line() -> None:
    wire = LineWire()

    assert wire.frame([]) == b"[]\n"
    assert wire.frame([b"1", b'"two"']) == b'[1,"two"]\n'
    assert wire.frame([b'{"a":\n\n1}']) == b'[{"a":  1}]\n'
