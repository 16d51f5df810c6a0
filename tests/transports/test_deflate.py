"""permessage-deflate: negotiation, and frames that are compressed once for all clients."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics_hub.protocol.formats import JSON, MSGPACK, Format
from analytics_hub.transports._websocket.deflate import Compression, Deflater, negotiate
from analytics_hub.transports._websocket.frames import FrameWire

from .deflating import inflate
from .peer import BINARY, TEXT

ANSWER = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"


# --- negotiation


@pytest.mark.parametrize(
    ("offers", "answer", "window"),
    [
        pytest.param("permessage-deflate", ANSWER, 15, id="alone"),
        pytest.param("permessage-deflate; client_max_window_bits", ANSWER, 15, id="Chromium"),
        pytest.param(
            "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12",
            f"{ANSWER}; server_max_window_bits=12",
            12,
            id="websockets",
        ),
        pytest.param('permessage-deflate; server_max_window_bits="10"', f"{ANSWER}; server_max_window_bits=10", 10),
        pytest.param(" permessage-deflate ;client_max_window_bits = 8 ", ANSWER, 15, id="blanks"),
        pytest.param(
            f"{ANSWER}; server_max_window_bits=15", f"{ANSWER}; server_max_window_bits=15", 15, id="all of it"
        ),
        pytest.param("x-webkit-deflate-frame, permessage-deflate", ANSWER, 15, id="the second of two"),
        pytest.param(
            "permessage-deflate; server_max_window_bits=8, permessage-deflate; server_max_window_bits=9",
            f"{ANSWER}; server_max_window_bits=9",
            9,
            id="the first cannot be met",
        ),
        pytest.param("permessage-deflate; colour=red, permessage-deflate", ANSWER, 15, id="the first is malformed"),
    ],
)
def test_accepted_offers(offers: str, answer: str, window: int) -> None:
    agreement = negotiate(offers)

    assert agreement is not None
    assert (agreement.answer, agreement.window) == (answer, window)


@pytest.mark.parametrize(
    "offers",
    [
        "",
        ";;;,,, =",
        "deflate",
        "permessage-bzip2",
        "Permessage-Deflate",
        "permessage-deflate; unknown",
        "permessage-deflate;",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=",
        "permessage-deflate; server_max_window_bits=abc",
        "permessage-deflate; server_max_window_bits=7",
        "permessage-deflate; server_max_window_bits=8",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=012",
        "permessage-deflate; server_max_window_bits=12.0",
        "permessage-deflate; server_max_window_bits=-9",
        'permessage-deflate; server_max_window_bits="12',
        'permessage-deflate; server_max_window_bits="1 2"',
        "permessage-deflate; server_max_window_bits=12; server_max_window_bits=12",
        "permessage-deflate; client_max_window_bits=16",
        'permessage-deflate; client_max_window_bits=""',
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
    ],
)
def test_declined_offers(offers: str) -> None:
    assert negotiate(offers) is None


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="level is 0; it must be between 1 and 9"):
        Compression(level=0)
    with pytest.raises(ValueError, match="threshold is -1"):
        Compression(threshold=-1)


# --- compression

VALUES = st.integers(-(2**53), 2**53) | st.text(max_size=20) | st.lists(st.text("ab", max_size=90), max_size=9)


@settings(max_examples=50)
@given(
    st.lists(st.lists(VALUES, max_size=20), min_size=1, max_size=5),
    st.sampled_from([JSON, MSGPACK]),
    st.sampled_from([9, 12, 15]),
    st.sampled_from([1, 6]),
    st.sampled_from([0, 100]),
)
def test_every_frame_can_be_inflated_on_its_own(
    batches: list[list[Any]], payload_format: Format, window: int, level: int, threshold: int
) -> None:
    wire = FrameWire(payload_format, Deflater(Compression(level=level, threshold=threshold), window))
    plain = FrameWire(payload_format)
    for batch in batches:
        items = [json.dumps(value).encode() for value in batch]

        opcode, is_compressed, payload = parse(wire.frame(items))

        expected = parse(plain.frame(items))
        assert opcode == expected[0] == (BINARY if payload_format.is_binary else TEXT)
        assert (inflate(payload, window) if is_compressed else payload) == expected[2] == payload_format.join(items)


def parse(sent: bytes) -> tuple[int, bool, bytes]:
    """Opcode, RSV1 and payload of one whole frame of the server."""
    length, start = sent[1], 2
    if length >= 126:
        start = 4 if length == 126 else 10
        length = int.from_bytes(sent[2:start], "big")
    assert len(sent) == start + length
    assert sent[0] & 0xB0 == 0x80
    return sent[0] & 0x0F, bool(sent[0] & 0x40), sent[start:]


def test_frames_that_would_not_shrink_are_not_compressed() -> None:
    wire = FrameWire(JSON, Deflater(Compression(), 15))
    noise = random.Random(1).randbytes(2000)

    assert wire.frame([]) == FrameWire(JSON).frame([])
    assert wire.frame([b'"%s"' % (b"x" * 500)]) == FrameWire(JSON).frame([b'"%s"' % (b"x" * 500)])
    assert len(wire.frame([b'"%s"' % (b"x" * 510)])) < 40
    assert parse(wire.frame([noise]))[1] is False


def test_each_format_and_window_has_a_wire_of_its_own() -> None:
    deflater = Deflater(Compression(), 12)
    names = {
        FrameWire(payload_format, agreed).name for payload_format in (JSON, MSGPACK) for agreed in (None, deflater)
    }

    assert names == {
        "websocket.json",
        "websocket.msgpack",
        "websocket.json.deflate12",
        "websocket.msgpack.deflate12",
    }
