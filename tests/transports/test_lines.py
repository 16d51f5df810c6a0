"""Newline-delimited JSON, without sockets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_hub.transports._sockets.decoder import Message, ProtocolFault
from analytics_hub.transports._tcp.lines import LINES, LineDecoder, LineWire

LIMIT = 50


def drain(decoder: LineDecoder) -> list[str | bytes]:
    found = [message.data for message in decoder.events()]
    while not decoder.is_dry:
        found += [message.data for message in decoder.events()]
    return found


@given(st.lists(st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=12)), st.data())
def test_what_goes_in_comes_out_however_it_is_cut(lines: list[str], data: st.DataObject) -> None:
    ends = [data.draw(st.sampled_from(["\n", "\r\n"])) for _ in lines]
    sent = "".join(line + end for line, end in zip(lines, ends, strict=True)).encode()
    decoder, found = LineDecoder(LIMIT), []
    while sent:
        size = data.draw(st.integers(1, len(sent)))
        decoder.feed(sent[:size])
        sent = sent[size:]
        found += drain(decoder)

    assert found == lines
    assert decoder.is_idle


def test_a_client_that_floods_takes_turns() -> None:
    decoder = LineDecoder(LIMIT)
    decoder.feed(b"\n" * (LINES + 1))

    assert len([*decoder.events()]) == LINES
    assert not decoder.is_dry
    assert len([*decoder.events()]) == 1
    assert decoder.is_dry


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
def test_what_no_line_may_be(sent: bytes, code: int) -> None:
    decoder = LineDecoder(LIMIT)
    decoder.feed(b"good\n" + sent)
    events = decoder.events()

    assert next(events) == Message("good")
    with pytest.raises(ProtocolFault) as caught:
        next(events)
    assert caught.value.code == code


def test_the_end_of_a_line_does_not_count() -> None:
    decoder = LineDecoder(LIMIT)
    decoder.feed(b"x" * LIMIT + b"\r\n" + b"y" * LIMIT + b"\r")

    assert drain(decoder) == ["x" * LIMIT]


def test_a_frame_is_a_line() -> None:
    wire = LineWire()

    assert wire.frame([]) == b"[]\n"
    assert wire.frame([b"1", b'"two"']) == b'[1,"two"]\n'
    assert wire.frame([b'{"a":\n\n1}']) == b'[{"a":  1}]\n'
