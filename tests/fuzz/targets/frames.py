"""Frames of a WebSocket client, with and without compression, compared with a simple reference."""

from __future__ import annotations

import zlib
from typing import Final

from hypothesis import strategies as st

from analytics_hub.transports._sockets.decoder import Message, ProtocolFault
from analytics_hub.transports._websocket.frames import FRAMES, MAX_ENDINGS, PARTS, SLACK, Close, Decoder, Ping

from ..reference import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Event, Reading, Reference
from ..strategies import joined, prefixed
from ..target import Target, cut

MAX_MESSAGE: Final = 300
MAX_FRAGMENTS: Final = 8
REFRAMED: Final = 0x80
"""In the first byte: the rest describes frames (see `reframe`), so that an edited payload keeps a correct length."""
INFLATES: Final = 0x40


def check_frames(data: bytes) -> None:
    """The first byte selects whether messages may be compressed, whether the rest is framed, and how it is cut."""
    if not data:
        return
    inflates = bool(data[0] & INFLATES)
    stream = reframe(data[1:], inflates=inflates) if data[0] & REFRAMED else data[1:]
    expected = Reference(MAX_MESSAGE, MAX_FRAGMENTS, SLACK, MAX_ENDINGS, inflates=inflates).read(stream)
    decoder = Decoder(MAX_MESSAGE, MAX_FRAGMENTS, inflates=inflates)
    events: list[Event] = []
    code = 0
    try:
        for portion in cut(data[0] & 0x3F, stream):
            decoder.feed(portion)
            _drain(decoder, events)
            _check_bounds(decoder)
    except ProtocolFault as fault:
        code = fault.code
    _compare(expected, events, code, decoder)


def _drain(decoder: Decoder, events: list[Event]) -> None:
    while not decoder.needs_data:
        before = len(events)
        for event in decoder.events():
            match event:
                case Message(data):
                    assert len(data if isinstance(data, bytes) else data.encode()) <= MAX_MESSAGE
                    events.append(("message", data))
                case Ping(payload):
                    assert len(payload) <= 125
                    events.append(("ping", payload))
                case Close(code):
                    events.append(("close", code))
        assert len(events) - before <= FRAMES


def _check_bounds(decoder: Decoder) -> None:
    room = MAX_MESSAGE + MAX_MESSAGE // 16 + SLACK
    kept = sum(map(len, decoder._parts))
    assert kept <= MAX_MESSAGE, f"{kept} bytes of a message are kept"
    assert len(decoder._parts) < PARTS
    assert decoder._inflated <= MAX_MESSAGE
    assert decoder._declared <= room
    assert decoder._fragments <= MAX_FRAGMENTS
    assert decoder._partial >= 0
    assert decoder.is_idle or decoder._partial or decoder._parts or not decoder._is_idle


def _compare(expected: Reading, events: list[Event], code: int, decoder: Decoder) -> None:
    assert events == expected.events, f"decoded {events}, expected {expected.events}"
    if expected.may_fail and code:
        assert code in (1002, 1009)
        return
    assert (code != 0) == bool(expected.codes), f"refused with {code}, expected {expected.codes}"
    assert not code or code in expected.codes, f"refused with {code}, expected {expected.codes}"
    if not code:
        assert decoder.is_idle == (expected.is_whole and not expected.is_closed)


def reframe(description: bytes, *, inflates: bool) -> bytes:
    """Frames from descriptions: for each its first byte, a length and the payload, which RSV1 compresses."""
    stream = bytearray()
    at = 0
    while at + 2 <= len(description):
        first, length = description[at], description[at + 1]
        payload = description[at + 2 : at + 2 + length]
        at += 2 + length
        if inflates and first & 0x40:
            payload = _deflate(payload)
        stream += frame(first, payload)
    return bytes(stream)


def frame(first: int, payload: bytes) -> bytes:
    """A frame with this first byte and a mask of zeros, so that a changed byte of the frame is one of its payload."""
    size = len(payload)
    if size < 126:
        head = bytes([first, 0x80 | size])
    elif size < 65_536:
        head = bytes([first, 0xFE]) + size.to_bytes(2, "big")
    else:
        head = bytes([first, 0xFF]) + size.to_bytes(8, "big")
    return head + bytes(4) + payload


def _deflate(payload: bytes) -> bytes:
    squeezer = zlib.compressobj(1, zlib.DEFLATED, -9, 1)
    return (squeezer.compress(payload) + squeezer.flush(zlib.Z_SYNC_FLUSH))[:-4]


_FIN: Final = 0x80
_RSV1: Final = 0x40
_COMMAND: Final = b'{"action":"subscribe","channels":["alerts"]}'
_STORIES: Final[tuple[tuple[tuple[int, bytes], ...], ...]] = (
    ((_FIN | TEXT, _COMMAND),),
    ((_FIN | BINARY, b"\x81\xa6action\xa4ping"), (_FIN | PING, b"?"), (_FIN | PONG, b"")),
    ((TEXT, "añ€".encode()), (_FIN | PING, b"p" * 125), (CONTINUATION, b""), (_FIN | CONTINUATION, "😀".encode())),
    ((_FIN | TEXT, b"x" * 250), (_FIN | CLOSE, b"\x03\xe8bye")),
    ((_FIN | BINARY, b"y" * MAX_MESSAGE), (_FIN | CLOSE, b"")),
    (*([(TEXT, b"1")] + [(CONTINUATION, b"")] * 6), (_FIN | CONTINUATION, b"2")),
    ((_FIN | _RSV1 | TEXT, _COMMAND), (_FIN | TEXT, b"[]")),
    ((_RSV1 | TEXT, b"z" * 90), (_FIN | CONTINUATION, b""), (_FIN | _RSV1 | BINARY, bytes(200))),
    ((_FIN | CLOSE, b"\x0f\xa0"), (_FIN | TEXT, b"late")),
)


def _samples() -> tuple[bytes, ...]:
    described = [b"".join(bytes([first, len(body) & 0xFF]) + body for first, body in story) for story in _STORIES]
    plain = [b"".join(frame(first, body) for first, body in story) for story in _STORIES]
    packed = [
        b"".join(frame(first, _deflate(body) if first & _RSV1 else body) for first, body in story) for story in _STORIES
    ]
    final = zlib.compressobj(9, zlib.DEFLATED, -15)
    ended = final.compress(b"block") + final.flush()
    packed += [
        frame(_FIN | _RSV1 | TEXT, ended + ended + ended),
        frame(_FIN | _RSV1 | BINARY, _deflate(bytes(MAX_MESSAGE + 1))),
        *(frame(_FIN | _RSV1 | BINARY, b"\x03\x00" * number) for number in (MAX_ENDINGS, MAX_ENDINGS + 1)),
    ]
    hows = (0, 1, 0x0B)
    return (
        *(bytes([REFRAMED | flag | how]) + each for each in described for how in hows for flag in (0, INFLATES)),
        *(bytes([how]) + each for each in plain for how in hows),
        *(bytes([INFLATES | how]) + each for each in packed for how in hows),
    )


_OPCODES: Final = (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG)
_OPCODE: Final = st.sampled_from([TEXT, BINARY, CONTINUATION, PING, PONG, CLOSE]) | st.integers(0, 15)
_FIRST: Final = st.builds(
    lambda fin, rsv, opcode: fin << 7 | rsv << 4 | opcode, st.booleans(), st.sampled_from([0, 0, 0, 4, 2, 1]), _OPCODE
)
_PAYLOAD: Final = (
    st.binary(max_size=200)
    | st.text("aé€😀", max_size=70).map(str.encode)
    | st.sampled_from([b"x" * 300, b"\x03\xe8", b"\x03\xe8bye", b"\x0f\xa0"])
)


def _mask(whole: bytes, key: int) -> bytes:
    """The frame with another mask than zeros."""
    head = 2 + {126: 2, 127: 8}.get(whole[1] & 0x7F, 0)
    mask = key.to_bytes(4, "big")
    return whole[:head] + mask + bytes(byte ^ mask[at & 3] for at, byte in enumerate(whole[head + 4 :]))


_FRAME: Final = st.builds(_mask, st.builds(frame, _FIRST, _PAYLOAD), st.integers(0, 2**32 - 1))
_DESCRIPTION: Final = st.builds(
    lambda first, payload: bytes([first, len(payload[:255])]) + payload[:255], _FIRST, _PAYLOAD
)
_HOW: Final = st.builds(int.__or__, st.integers(0, 0x3F), st.sampled_from([0, INFLATES]))
FRAMES_TARGET: Final = Target(
    "frames",
    check_frames,
    samples=_samples(),
    words=(
        *(frame(_FIN | opcode, b"") for opcode in _OPCODES),
        *(frame(opcode, b"x") for opcode in (TEXT, BINARY, CONTINUATION)),
        *(bytes([_FIN | opcode, 0]) for opcode in _OPCODES),
        *(bytes([opcode, 1, 0x78]) for opcode in (TEXT, BINARY, CONTINUATION)),
        *(b"\xfe\x00\x7e", b"\xfe\x01\x2c", b"\xfe\x01\x2d", b"\xff" + bytes(5) + b"\x01\0\0", b"\xff\x80" + bytes(7)),
        *(b"\x03\xe8", b"\x03\xed", b"\x03\xf7", b"\x0b\xb8", b"\x13\x88", b"\x03\x00", b"\x00\x00\x00\xff\xff"),
        *(b"\xc1\x80" + bytes(4), b"\xa1\x80", b"\x91\x80", b"\x83\x80", b"\x8b\x80", b"\x01\x00"),
        _deflate(b"x" * 400),
    ),
    documents=prefixed(_HOW, joined(_FRAME)) | prefixed(_HOW.map(lambda how: REFRAMED | how), joined(_DESCRIPTION)),
    longest=1500,
)
TARGETS: Final = (FRAMES_TARGET,)
